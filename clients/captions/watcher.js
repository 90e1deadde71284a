/**
 * Someone watches a room: the daemon's account of it into a transcript, across speakers that come and go and across
 * this viewer's own losses. Knows nothing of what is shown.
 *
 * @typedef {"waiting"|"live"|"away"|"reconnecting"|"trouble"} Name
 * @typedef {{name: Name, text: string, retryMs?: number}} Status  retryMs: until the next try
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
    /** Seconds of the transcript's clock where the room's begins. */
    this._moved = 0;
    /** Where the sound of the last stream ended. */
    this._ended = 0;
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

  /** Do not wait for the next try. */
  retry() {
    this._link.retry();
  }

  /** @param {import("./socket.js").Message} message */
  _hear(message) {
    switch (message.type) {
      case "room":
        if (this._transcript.empty) this.leftOut = message.left_out ?? 0;
        this._live = message.live;
        return;
      case "live":
        this._began(message.session_id, message.at_seconds, message.away_seconds);
        this._live = true;
        break;
      case "away":
        this._left(message.session_id, message.audio_seconds);
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

  /**
   * The transcript's clock is the room's, moved where a room was forgotten while we watched it and began anew.
   *
   * @param {string} session
   * @param {number} at seconds of the room's clock
   * @param {number|null} away seconds that nobody heard before, null for a room's first stream
   */
  _began(session, at, away) {
    const known = this._transcript.offsetOf(session);
    const offset = known ?? Math.max(this._moved + at, this._ended);
    this._moved = offset - at;
    if (known === null && away !== null && !this._transcript.empty) {
      this._transcript.openGap(offset - away);
      this._transcript.closeGap(offset);
    }
    this._transcript.begin(session, offset);
  }

  /** @param {string} session @param {number} seconds of sound that the stream had */
  _left(session, seconds) {
    this._ended = Math.max(this._transcript.end, (this._transcript.offsetOf(session) ?? 0) + seconds);
    this._transcript.cut(session);
  }

  /** @param {import("./link.js").Change} change */
  _changed({ state, reason, end }) {
    const why = because(reason, end?.error?.message);
    if (state.name === "live") this._say();
    else if (state.name === "waiting")
      this._told({ name: "reconnecting", text: `${why} Trying again…`, retryMs: state.delayMs });
    else if (state.name === "failed") this._told({ name: "trouble", text: why });
  }

  _say() {
    if (this._live) this._told({ name: "live", text: "Live" });
    else if (this._transcript.empty) this._told({ name: "waiting", text: "Nobody is speaking yet" });
    else this._told({ name: "away", text: "The speaker is away" });
  }
}
