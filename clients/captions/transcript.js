/**
 * What was said, on one clock: the daemon's events in, segments and gaps out. A transcript outlives its streams: each
 * stream's times are moved by where it began. Pure: knows nothing of sockets or of the page.
 *
 * @typedef {{word: string, start: number, end: number, confidence: number}} Word  seconds of the transcript's clock
 * @typedef {{kind: "segment", id: number, start: number, end: number, words: Word[], stable: number,
 *   settled: boolean, cut: boolean}} Segment  cut: the connection was lost before the segment's final
 * @typedef {{kind: "gap", id: number, start: number, end: number|null}} Gap  nothing was heard; end null: it lasts
 * @typedef {Segment|Gap} Entry
 * @typedef {{session: string, offset: number, open: Map<string, Segment>, done: Set<string>}} Stretch  one stream
 */

/** Gaps shorter than this are no news. */
const SHORTEST_GAP_S = 0.1;

export class Transcript {
  constructor() {
    /** @type {Entry[]} in the order in which they were opened */
    this.entries = [];
    /** @type {Map<string, Stretch>} */
    this._stretches = new Map();
    /** @type {Stretch|null} */
    this._now = null;
    /** @type {((entry: Entry, gone: boolean) => void)[]} */
    this._listeners = [];
    this._ids = 0;
  }

  /** @param {(entry: Entry, gone: boolean) => void} listener hears of every entry that is new, changed or gone */
  listen(listener) {
    this._listeners.push(listener);
  }

  /** Seconds up to which something is known: the end of the last entry. */
  get end() {
    return this.entries.reduce((end, entry) => Math.max(end, entry.end ?? entry.start), 0);
  }

  get empty() {
    return !this.entries.some((entry) => entry.kind === "segment");
  }

  /** Segments that will not change any more, and gaps that are over. */
  get settled() {
    return this.entries.filter((entry) => (entry.kind === "segment" ? entry.settled : entry.end !== null));
  }

  /** @param {string} session @returns {number|null} where the stream of this id began; null: it never did */
  offsetOf(session) {
    return this._stretches.get(session)?.offset ?? null;
  }

  /**
   * A stream begins, or (in a room, for who comes back) is told again.
   *
   * @param {string} session the stream's id
   * @param {number} offset seconds of the transcript's clock at the stream's first sample
   */
  begin(session, offset) {
    let stretch = this._stretches.get(session);
    if (stretch === undefined) {
      stretch = { session, offset: milli(offset), open: new Map(), done: new Set() };
      this._stretches.set(session, stretch);
    }
    this._now = stretch;
  }

  /**
   * A partial or a final of the stream that was begun last. What was heard of a segment already is not heard twice.
   *
   * @param {{type: string, channel?: number, segment: number, start: number, end?: number, words: Word[],
   *   stable_words?: number}} event
   */
  hear(event) {
    const stretch = this._now;
    if (stretch === null) return;
    const key = `${event.channel ?? 0}/${event.segment}`;
    if (stretch.done.has(key)) return;
    const words = event.words.map((word) => moved(word, stretch.offset));
    let segment = stretch.open.get(key);
    const final = event.type === "final";
    if (final) {
      stretch.done.add(key);
      stretch.open.delete(key);
    }
    if (segment === undefined) {
      if (words.length === 0) return;
      segment = {
        kind: "segment",
        id: ++this._ids,
        start: 0,
        end: 0,
        words: [],
        stable: 0,
        settled: false,
        cut: false,
      };
      this.entries.push(segment);
      if (!final) stretch.open.set(key, segment);
    }
    segment.words = [...segment.words.slice(0, segment.stable), ...words.slice(segment.stable)];
    segment.stable = final ? words.length : Math.max(segment.stable, event.stable_words ?? 0);
    segment.start = words.length ? words[0].start : segment.start;
    segment.end = words.length ? words[words.length - 1].end : segment.end;
    segment.settled = final;
    if (segment.words.length === 0) this._remove(segment);
    else this._tell(segment);
  }

  /**
   * A stream is gone: what its open segments said so far stays, marked as cut off.
   *
   * @param {string} [session] the stream's id; the one that was begun last
   */
  cut(session = this._now?.session) {
    const stretch = this._stretches.get(session ?? "");
    for (const [key, segment] of stretch?.open ?? []) {
      stretch?.open.delete(key);
      stretch?.done.add(key);
      segment.settled = segment.cut = true;
      segment.stable = segment.words.length;
      this._tell(segment);
    }
    if (stretch === this._now) this._now = null;
  }

  /**
   * From here on nothing is heard, until `closeGap`.
   *
   * @param {number} start seconds
   */
  openGap(start) {
    if (this._gap() !== undefined) return;
    /** @type {Gap} */
    const gap = { kind: "gap", id: ++this._ids, start: milli(Math.max(start, this.end)), end: null };
    this.entries.push(gap);
    this._tell(gap);
  }

  /** @param {number} end seconds; a gap too short to matter is forgotten */
  closeGap(end) {
    const gap = this._gap();
    if (gap === undefined) return;
    gap.end = milli(Math.max(end, gap.start));
    if (gap.end - gap.start < SHORTEST_GAP_S) this._remove(gap);
    else this._tell(gap);
  }

  /** Forget what was said; streams go on, the one that speaks begins its segment again. */
  clear() {
    for (const { open } of this._stretches.values()) open.clear();
    for (const entry of this.entries.splice(0)) this._tell(entry, true);
  }

  /** @returns {Gap|undefined} */
  _gap() {
    const last = this.entries[this.entries.length - 1];
    return last?.kind === "gap" && last.end === null ? last : undefined;
  }

  /** @param {Entry} entry */
  _remove(entry) {
    this.entries.splice(this.entries.lastIndexOf(entry), 1);
    this._tell(entry, true);
  }

  /** @param {Entry} entry @param {boolean} [gone] */
  _tell(entry, gone = false) {
    for (const listener of this._listeners) listener(entry, gone);
  }
}

/** @param {Entry} entry @returns {string} the words with one blank between two, or what a gap says */
export function textOf(entry) {
  if (entry.kind === "segment") return entry.words.map((word) => word.word).join(" ");
  return entry.end === null ? "not heard" : `${(entry.end - entry.start).toFixed(1)} s not heard`;
}

/** @param {Word} word @param {number} offset seconds @returns {Word} */
function moved({ word, start, end, confidence }, offset) {
  return { word, start: milli(start + offset), end: milli(end + offset), confidence };
}

/** @param {number} seconds to three decimals, as the daemon's are */
function milli(seconds) {
  return Math.round(seconds * 1000) / 1000;
}
