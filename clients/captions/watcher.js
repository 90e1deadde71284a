/**
 * Someone watches a room: the daemon's account of it into a transcript, across speakers that come and go and across
 * this viewer's own losses. Knows nothing of what is shown.
 *
 * @typedef {"waiting"|"live"|"away"|"reconnecting"|"trouble"} Name
 * @typedef {{name: Name, text: string}} Status
 */
import { Link } from "./link.js";
import { because } from "./messages.js";
import { address } from "./server.js";

export class Watcher {
  /**
   * @param {string} room
   * @param {import("./transcript.js").Transcript} transcript
   * @param {(status: Status) => void} told
   */
  constructor(room, transcript, told) {
    this._transcript = transcript;
    this._told = told;
    /** Finals that were said before the ones we were given. */
    this.leftOut = 0;
    /** @type {Set<string>} sessions that are over */
    this._over = new Set();
    this._live = false;
    const path = `/v1/watch/${encodeURIComponent(room)}`;
    this._link = new Link({
      path,
      url: () => address(path),
      ready: "room",
      change: (change) => this._changed(change),
      message: (message) => this._hear(message),
    });
  }

  start() {
    this._link.start();
  }

  stop() {
    this._link.stop();
  }

  /** @param {import("./socket.js").Message} message */
  _hear(message) {
    switch (message.type) {
      case "room":
        if (this._transcript.empty) this.leftOut = message.left_out ?? 0;
        this._live = message.live;
        return;
      case "live":
        this._began(message.session_id, message.away_seconds ?? 0);
        this._live = true;
        break;
      case "away":
        this._left(message.session_id);
        this._live = false;
        break;
      case "partial":
      case "final":
        this._transcript.hear(/** @type {any} */ (message));
        return;
      default:
        return;
    }
    this._say();
  }

  /** @param {string} session @param {number} away seconds since the stream before it ended */
  _began(session, away) {
    const offset = this._transcript.empty ? 0 : this._transcript.end + away;
    if (!this._transcript.knows(session)) this._transcript.closeGap(offset);
    this._transcript.begin(session, offset);
  }

  /** @param {string} session */
  _left(session) {
    if (this._over.has(session)) return;
    this._over.add(session);
    this._transcript.cut(session);
    if (!this._transcript.empty) this._transcript.openGap(this._transcript.end, "away");
  }

  /** @param {import("./link.js").Change} change */
  _changed({ state, reason, end }) {
    const why = because(reason, end?.error?.message);
    if (state.name === "live") this._say();
    else if (state.name === "waiting") this._told({ name: "reconnecting", text: `${why} Trying again…` });
    else if (state.name === "failed") this._told({ name: "trouble", text: why });
  }

  _say() {
    if (this._live) this._told({ name: "live", text: "Live" });
    else if (this._transcript.empty) this._told({ name: "waiting", text: "Nobody is speaking yet" });
    else this._told({ name: "away", text: "The speaker is away" });
  }
}
