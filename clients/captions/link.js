/**
 * A connection that comes back by itself: carries events between the table in reconnect.js, one socket at a time, the
 * timers, and a watch for connections that are dead though nobody closed them. Knows nothing of audio or words.
 *
 * @typedef {import("./reconnect.js").State} State
 * @typedef {import("./socket.js").Message} Message
 * @typedef {import("./socket.js").End} End
 * @typedef {{state: State, before: State, reason: string, end: End|null}} Change  reason: a code of messages.js
 */
import { START, next } from "./reconnect.js";
import { answers, diagnose, key } from "./server.js";
import { Socket } from "./socket.js";

/** Refusals that another try would only meet again. */
const FINAL = new Set(["bad_request", "bad_audio", "bad_message", "bad_state", "unauthorized", "too_many_errors"]);
/** A daemon is silent while nobody speaks: only after so much silence is it asked whether it is there. */
const SILENCE_MS = 8000;
const ANSWER_MS = 5000;
/** While somebody speaks it should say something: it is asked sooner, and has less time. */
const SPOKEN_SILENCE_MS = 3000;
const SPOKEN_ANSWER_MS = 2000;
const LOOK_MS = 1000;
/** After our close: so long without a word means that none will come. */
const LAST_WORDS_MS = 10000;

export class Link {
  /**
   * @param {{path: string, url: () => string, ready: string, change: (change: Change) => void,
   *   message: (message: Message) => void, closing?: (link: Link) => void, spoken?: () => boolean}} options
   *   ready: type of the message after which the connection is good; closing: say goodbye (default: just hang up);
   *   spoken: whether something is sent that the daemon should answer soon
   */
  constructor(options) {
    this._options = options;
    this.state = START;
    /** @type {Socket|null} */
    this._socket = null;
    this._liveAt = 0;
    this._wasLive = false;
    this._downSince = 0;
    this._retry = 0;
    this._look = 0;
    this._asking = false;
    this._suspect = () => void this._ask();
    this._online = () => this._step("retry");
  }

  start() {
    if (next(this.state, "start") === this.state) return;
    this._wasLive = false;
    addEventListener("offline", this._suspect);
    addEventListener("online", this._online);
    this._look = setInterval(() => this._watch(), LOOK_MS);
    this._step("start");
  }

  /** Finish: what was sent is still heard. A second time: hang up. */
  stop() {
    if (this.state.name === "closing") this._socket?.abandon();
    else this._step("stop");
  }

  /** End this stream properly and begin another at once (with other options, say). */
  renew() {
    this._step("renew");
  }

  /** Try again now instead of later. */
  retry() {
    this._step("retry");
  }

  /** @param {ArrayBuffer|Message} what */
  send(what) {
    this._socket?.send(what);
  }

  /** Bytes that wait to be sent. */
  get waiting() {
    return this._socket?.waiting ?? 0;
  }

  /** @param {import("./reconnect.js").Event} event @param {string} [reason] @param {End|null} [end] */
  _step(event, reason = "", end = null) {
    const before = this.state;
    const now = performance.now();
    if (before.name !== "opening" && before.name !== "waiting") this._downSince = now;
    const facts = { livedMs: this._liveAt ? now - this._liveAt : 0, downMs: now - this._downSince };
    this.state = next(before, event, { ...facts, random: Math.random() });
    if (this.state === before) return;
    clearTimeout(this._retry);
    const { name, delayMs } = this.state;
    this._liveAt = name === "live" ? performance.now() : 0;
    if (name === "live") this._wasLive = true;
    if (name === "idle" || name === "failed") this._leave();
    this._options.change({ state: this.state, before, reason, end });
    if (name === "waiting") this._retry = setTimeout(() => this._step("retry"), delayMs);
    if (name === "opening") this._open();
    if (name === "renewing" || (name === "closing" && before.name === "live")) this._goodbye();
  }

  _open() {
    const socket = new Socket(this._options.url(), key(), {
      message: (message) => {
        this._options.message(message);
        if (message.type === this._options.ready) this._ready();
      },
      end: (end) => void this._ended(socket, end),
    });
    this._socket = socket;
  }

  _ready() {
    if (this.state.name === "opening") this._step("ready");
    else if (this.state.name === "closing") this._goodbye(); // stopped before the connection stood
  }

  _goodbye() {
    if (this._options.closing) this._options.closing(this);
    else this._socket?.abandon();
  }

  /** @param {Socket} socket @param {End} end */
  async _ended(socket, end) {
    if (socket !== this._socket) return;
    this._socket = null;
    const code = end.error?.code ?? "";
    let reason = code || (end.code === 1001 ? "shutdown" : "lost");
    let final = FINAL.has(code) || (code === "room_taken" && !this._wasLive);
    if (!end.opened && this.state.name === "opening") {
      reason = await diagnose(this._options.path);
      final = reason === "key" || reason === "origin";
    }
    this._step(final ? "refused" : "lost", reason, end);
  }

  _leave() {
    clearInterval(this._look);
    removeEventListener("offline", this._suspect);
    removeEventListener("online", this._online);
    this._socket = null;
  }

  _watch() {
    const silence = this._socket ? performance.now() - this._socket.lastHeardAt : 0;
    if (this.state.name === "closing" && silence > LAST_WORDS_MS) this._socket?.abandon();
    const longest = this._options.spoken?.() ? SPOKEN_SILENCE_MS : SILENCE_MS;
    if (this.state.name === "live" && silence > longest) void this._ask();
  }

  /** Is the daemon there? A socket over a dead network stays open for minutes, a question does not. */
  async _ask() {
    const socket = this._socket;
    if (socket === null || this._asking) return;
    this._asking = true;
    const withinMs = this._options.spoken?.() ? SPOKEN_ANSWER_MS : ANSWER_MS;
    const there = (await answers(withinMs)) || (await answers(withinMs));
    this._asking = false;
    if (there) socket.lastHeardAt = performance.now();
    else if (socket === this._socket) socket.abandon();
  }
}
