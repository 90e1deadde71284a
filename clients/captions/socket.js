/**
 * One WebSocket to the daemon: JSON messages in, how it ended as one value, told once. Knows nothing of what the
 * messages mean, nor of coming back.
 *
 * @typedef {{type: string, [field: string]: any}} Message
 * @typedef {{code: number, opened: boolean, error: {code: string, message: string}|null, heard: number|null,
 *   silentMs: number}} End
 *   code: the close code; opened: whether it ever opened; error: the last one the daemon sent; heard: seconds of audio
 *   that the daemon heard, where it said so; silentMs: for how long it had given no sign of life when we gave it up
 */

const CONNECT_MS = 10000;
const ABNORMAL = 1006;

export class Socket {
  /**
   * @param {string} url
   * @param {string} key "" for none
   * @param {{message: (message: Message) => void, end: (end: End) => void}} told
   */
  constructor(url, key, told) {
    this._told = told;
    this._opened = false;
    this._over = false;
    /** @type {End["error"]} */
    this._error = null;
    /** @type {number|null} */
    this._heard = null;
    this.lastHeardAt = performance.now();
    this._timer = setTimeout(() => this.abandon(), CONNECT_MS);
    try {
      this._ws = new WebSocket(url, key ? ["bearer", key] : []);
    } catch {
      // A key that no subprotocol can carry. What follows is what follows a wrong one.
      queueMicrotask(() => this._end(ABNORMAL));
      return;
    }
    this._ws.binaryType = "arraybuffer";
    this._ws.onopen = () => {
      this._opened = true;
      clearTimeout(this._timer);
    };
    this._ws.onmessage = ({ data }) => this._receive(data);
    this._ws.onclose = ({ code }) => this._end(code);
  }

  /** Bytes that wait to be sent. */
  get waiting() {
    return this._ws?.bufferedAmount ?? 0;
  }

  /** @param {ArrayBuffer|Message} what binary as it is, anything else as JSON */
  send(what) {
    if (this._ws?.readyState !== WebSocket.OPEN) return;
    this._ws.send(what instanceof ArrayBuffer ? what : JSON.stringify(what));
  }

  /** Give the connection up now: the end is told at once, whatever the network still does. */
  abandon() {
    this._ws?.close();
    this._end(ABNORMAL, performance.now() - this.lastHeardAt);
  }

  /** @param {unknown} data */
  _receive(data) {
    if (this._over || typeof data !== "string") return;
    this.lastHeardAt = performance.now();
    const message = /** @type {Message} */ (JSON.parse(data));
    if (message.type === "error") this._error = { code: message.code, message: message.message };
    if (message.type === "closed") this._heard = message.audio_seconds;
    this._told.message(message);
  }

  /** @param {number} code @param {number} [silentMs] */
  _end(code, silentMs = 0) {
    if (this._over) return;
    this._over = true;
    clearTimeout(this._timer);
    this._told.end({ code, opened: this._opened, error: this._error, heard: this._heard, silentMs });
  }
}
