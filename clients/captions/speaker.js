/**
 * Someone speaks into this page: a source of sound, a connection that comes back, and the transcript's clock, which
 * counts the sound that was taken, heard or not. Knows nothing of what is shown.
 *
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {import("./capture.js").Source & {seek?: (seconds: number) => void, length?: number}} Source
 * @typedef {"idle"|"starting"|"listening"|"held"|"finishing"|"reconnecting"|"trouble"} Name
 * @typedef {{name: Name, text: string, retryMs?: number}} Status  retryMs: until the next try
 */
import { listenTo, openMicrophone, openTab } from "./capture.js";
import { Link } from "./link.js";
import { because, trouble } from "./messages.js";
import { play } from "./recording.js";
import { address } from "./server.js";

const PATH = "/v1/stream";
/** Sound that waits for a connection that is just being made; what is older is not heard. */
const LONGEST_PENDING_S = 10;
const MOST_WAITING_BYTES = 1 << 18;
/** Sound that has not begun by then is held back by the browser. */
const HELD_MS = 1500;
/** A peak (0 to 1) that may be speech, and for how long after it the daemon should have something to say. */
const LOUD = 0.05;
const SPOKEN_MS = 3000;

export class Speaker {
  /**
   * @param {() => Settings} settings
   * @param {import("./transcript.js").Transcript} transcript
   * @param {{status: (status: Status) => void, level: (peak: number) => void}} told
   */
  constructor(settings, transcript, told) {
    this._settings = settings;
    this._transcript = transcript;
    this._told = told;
    /** @type {Source|null} */
    this.source = null;
    /** Seconds of sound so far. */
    this.clock = 0;
    this.status = /** @type {Status} */ ({ name: "idle", text: "" });
    this._began = 0; // the clock when the source was opened
    this._offset = 0; // the clock at the first sample of this stream
    this._rate = 0;
    /** @type {import("./capture.js").Piece[]} */
    this._pending = [];
    this._last = ""; // why the source ended by itself
    this._stopping = false;
    this._loudAt = -Infinity;
    this._link = new Link({
      path: PATH,
      url: () => address(PATH, this._query()),
      ready: "ready",
      change: (change) => this._changed(change),
      message: (message) => this._hear(message),
      closing: (link) => link.send({ type: "close" }),
      spoken: () => performance.now() - this._loudAt < SPOKEN_MS,
    });
  }

  /** Of a file: how much of it was taken, 0 to 1; null where there is no end. */
  get progress() {
    return this.source?.length ? Math.min(1, (this.clock - this._began) / this.source.length) : null;
  }

  get running() {
    return this.status.name !== "idle" && this.status.name !== "trouble";
  }

  /** @param {File} [file] what to play where the source is a file */
  async start(file) {
    if (this.running) return;
    this._say("starting", this._settings().source === "file" ? "Decoding the file…" : "Getting ready…");
    this._stopping = false;
    this._last = "";
    const { entries, end } = this._transcript;
    this._began = this._offset = this.clock = entries.length > 0 ? Math.max(this.clock, end) : 0;
    this._pending = [];
    const { source } = this._settings();
    try {
      this.source = await this._open(source, file);
    } catch (error) {
      this._say("trouble", trouble(error, source));
      return;
    }
    if (this._stopping) return void this._left();
    this._rate = this.source.rate;
    this._link.start();
    setTimeout(() => this._state(), HELD_MS);
  }

  /** Finish: everything that was taken is still heard. A second time: hang up. */
  async stop() {
    if (!this.running) return;
    if (this._stopping) return this._link.stop();
    this._stopping = true;
    this._say("finishing", "Finishing…");
    if (this.source === null) return; // still asking for it: `start` sees that it is not wanted
    await this.source.stop();
    this.source = null;
    if (this._link.state.name === "idle") this._left();
    else this._link.stop();
  }

  /** Do not wait for the next try. */
  retry() {
    this._link.retry();
  }

  /** The options of the stream have changed: end it properly, go on with another; no sound is lost. */
  renew() {
    if (!this._stopping) this._link.renew();
  }

  /** @param {Settings["source"]} source @param {File} [file] @returns {Promise<Source>} */
  async _open(source, file) {
    const told = {
      piece: (/** @type {import("./capture.js").Piece} */ piece) => this._take(piece),
      ended: () => void this._ended(source),
    };
    if (source === "file") {
      if (file === undefined) throw new Error("no file");
      const room = () => this._link.state.name === "live" && this._link.waiting < MOST_WAITING_BYTES;
      return play(file, { pace: this._settings().pace, room }, told);
    }
    const stream = source === "tab" ? await openTab() : await openMicrophone(this._settings());
    return listenTo(stream, told);
  }

  /** @param {Settings["source"]} source it ended by itself */
  _ended(source) {
    this._last = { microphone: "The microphone was disconnected.", tab: "The tab is no longer shared.", file: "" }[
      source
    ];
    return this.stop();
  }

  /** @param {import("./capture.js").Piece} piece */
  _take(piece) {
    const { name } = this._link.state;
    if (name === "live") this._link.send(piece.pcm);
    else if (name !== "waiting") this._pending.push(piece);
    if (piece.peak > LOUD) this._loudAt = performance.now();
    this.clock += piece.seconds;
    while (this._waitingSeconds() > LONGEST_PENDING_S) this._pending.shift();
    this._told.level(piece.peak);
    if (this.status.name === "held") this._state();
  }

  _waitingSeconds() {
    return this._pending.reduce((sum, { seconds }) => sum + seconds, 0);
  }

  /** @param {import("./socket.js").Message} message */
  _hear(message) {
    if (message.type === "ready") {
      this._offset = this.clock - this._waitingSeconds();
      this._transcript.closeGap(this._offset);
      this._transcript.begin(message.session_id, this._offset);
      for (const { pcm } of this._pending.splice(0)) this._link.send(pcm);
    } else if (message.type === "partial" || message.type === "final") {
      this._transcript.hear(/** @type {any} */ (message));
    }
  }

  /** @param {import("./link.js").Change} change */
  _changed({ state, before, reason, end }) {
    const detail = end?.error?.message;
    if (before.name === "live" && state.name !== "renewing" && state.name !== "closing") this._lost(end);
    if (before.name === "opening" && state.name === "waiting") this._unheard(this.clock - this._waitingSeconds());
    if (state.name === "opening" && before.name === "waiting") this._pending = [];
    if (before.name === "renewing") this._transcript.cut(); // nothing is open if the stream ended properly
    if (before.name === "closing" && end?.heard === null)
      this._last = `${because(reason, detail)} The last words may be missing.`;
    if (state.name === "live") this._state();
    else if (state.name === "waiting")
      this._say("reconnecting", `${because(reason, detail)} Trying again…`, state.delayMs);
    else if (state.name === "failed") this._fail(because(reason, detail));
    else if (state.name === "idle") this._left();
  }

  /** Say what goes on while the connection stands. */
  _state() {
    if (this._link.state.name !== "live" || this.source === null || this._stopping) return;
    const { source, pace } = this._settings();
    const how = pace === "fast" ? "as fast as it is heard" : "at the pace of speech";
    if (this.source.held()) this._say("held", "The browser holds the sound back. Click or press a key.");
    else if (source === "file") this._say("listening", `Reading ${this.source.label} ${how}`);
    else this._say("listening", source === "tab" ? "Listening to the tab" : "Listening");
  }

  /** @param {import("./socket.js").End|null} end the stream broke; what is taken from here on is not heard */
  _lost(end) {
    this._transcript.cut();
    if (this.source?.seek) {
      // A file waits: it goes on after the last word that was heard.
      this.clock = Math.max(this._began, this._transcript.end);
      this.source.seek(this.clock - this._began);
      return;
    }
    const heard = end?.heard ?? null;
    this._unheard(heard === null ? this.clock - (end?.silentMs ?? 0) / 1000 : this._offset + heard);
  }

  /** @param {number} since seconds; a file is not heard later, it waits */
  _unheard(since) {
    if (!this.source?.seek) this._transcript.openGap(since);
  }

  /** @param {string} text */
  _fail(text) {
    void this.source?.stop();
    this.source = null;
    this._end();
    this._say("trouble", text);
  }

  _left() {
    void this.source?.stop();
    this.source = null;
    this._end();
    this._say(this._last ? "trouble" : "idle", this._last);
  }

  _end() {
    this._transcript.cut();
    this._transcript.closeGap(this.clock);
    this._pending = [];
    this._told.level(0);
  }

  _query() {
    const { latency, language, room } = this._settings();
    /** @type {Record<string, string>} */
    const query = { sample_rate: String(this._rate) };
    if (latency) query.latency = String(latency);
    if (language) query.language = language;
    if (room) query.room = room;
    return query;
  }

  /** @param {Name} name @param {string} text @param {number} [retryMs] */
  _say(name, text, retryMs) {
    this.status = { name, text, retryMs };
    this._told.status(this.status);
  }
}
