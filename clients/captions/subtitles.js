/**
 * Cues as subtitlers cut them, and the files they are written to: TXT, SRT, WebVTT, JSON. Pure: entries of a transcript
 * in, text out.
 *
 * @typedef {import("./transcript.js").Entry} Entry
 * @typedef {import("./transcript.js").Word} Word
 * @typedef {{start: number, end: number, lines: string[]}} Cue  seconds
 */
import { textOf } from "./transcript.js";

export const LINE_CHARACTERS = 42;
export const LINES = 2;
export const SHORTEST_S = 1;
export const LONGEST_S = 7;
/** Reading speed: characters a second. A cue stays longer than its words were spoken where there is room. */
export const SPEED = 17;
const PAUSE_S = 0.4;
/** What cuts cost: every cue, one too short (for each second), and a break where a phrase goes on. */
const CUE_COST = 3;
const HURRY_COST = 8;
const PHRASE_COST = 10;
/** A line is better begun than ended with one of these (English; other languages break at pauses and marks). */
const OPENERS = new Set(
  (
    "a an the my your his her its our their and but or nor so because although though while when where who whom" +
    " whose which that if unless until since as than" +
    " of in on at to from with by for into over under after before between through during against about"
  ).split(" "),
);

/** The formats: what a download is called, and what writes it. */
export const FORMATS = {
  txt: { type: "text/plain", write: txt },
  srt: { type: "application/x-subrip", write: srt },
  vtt: { type: "text/vtt", write: vtt },
  json: { type: "application/json", write: json },
};

/** @param {Entry[]} entries @returns {Cue[]} in order, none overlapping the next */
export function cues(entries) {
  /** @type {Cue[]} */
  const made = [];
  for (const entry of entries) {
    if (entry.kind === "gap") {
      const end = Math.min(entry.end ?? entry.start, entry.start + LONGEST_S);
      made.push({ start: entry.start, end, lines: [`[${textOf(entry)}]`] });
    } else {
      for (const words of grouped(fitting(entry.words))) {
        made.push({ start: words[0].start, end: words[words.length - 1].end, lines: lines(words) });
      }
    }
  }
  return timed(made);
}

/**
 * Cues start with their first word; they stay long enough to be read, but never into the next one.
 *
 * @param {Cue[]} made
 * @returns {Cue[]}
 */
function timed(made) {
  let before = 0;
  made.forEach((cue, i) => {
    cue.start = Math.max(cue.start, before);
    const characters = cue.lines.join(" ").length;
    const wanted = cue.start + Math.min(LONGEST_S, Math.max(SHORTEST_S, characters / SPEED));
    const until = i + 1 < made.length ? Math.max(made[i + 1].start, cue.start + 0.001) : Infinity;
    cue.end = Math.min(Math.max(cue.end, wanted), until);
    before = cue.end;
  });
  return made;
}

/**
 * The words of a segment in groups, each a cue: the cuts that cost least, found from the end backwards.
 *
 * @param {Word[]} words
 * @returns {Word[][]}
 */
function grouped(words) {
  const best = new Array(words.length + 1).fill(Infinity);
  const until = new Array(words.length + 1).fill(0);
  best[words.length] = 0;
  for (let from = words.length - 1; from >= 0; from--) {
    for (let to = from + 1; to <= words.length; to++) {
      const group = words.slice(from, to);
      if (to > from + 1 && (split(group) === null || group[group.length - 1].end - group[0].start > LONGEST_S)) break;
      const last = to === words.length;
      const short = Math.max(0, SHORTEST_S - ((last ? Infinity : words[to].start) - group[0].start));
      const cost = best[to] + CUE_COST + (last ? 0 : breakCost(words, to)) + HURRY_COST * short;
      if (cost < best[from]) [best[from], until[from]] = [cost, to];
    }
  }
  const groups = [];
  for (let at = 0; at < words.length; at = until[at]) groups.push(words.slice(at, until[at]));
  return groups;
}

/** @param {Word[]} words of one cue @returns {string[]} */
function lines(words) {
  const at = split(words);
  const parts = at === null || at === 0 ? [words] : [words.slice(0, at), words.slice(at)];
  return parts.map(joined);
}

/**
 * Where the second line begins: 0 for one line, null where two do not hold the words.
 *
 * @param {Word[]} words
 * @returns {number|null}
 */
function split(words) {
  if (joined(words).length <= LINE_CHARACTERS) return 0;
  let [found, least] = [/** @type {number|null} */ (null), Infinity];
  for (let at = 1; at < words.length; at++) {
    const [first, second] = [joined(words.slice(0, at)).length, joined(words.slice(at)).length];
    if (first > LINE_CHARACTERS || second > LINE_CHARACTERS) continue;
    const cost = breakCost(words, at) + Math.abs(first - second) / 5;
    if (cost < least) [found, least] = [at, cost];
  }
  return found;
}

/**
 * How bad a break before words[at] is: 0 after a sentence, most after a word that begins something.
 *
 * @param {Word[]} words
 * @param {number} at
 */
function breakCost(words, at) {
  const [left, right] = [words[at - 1], words[at]];
  if (/[.!?…]["')\]]?$/.test(left.word)) return 0;
  if (/[,;:–—]$/.test(left.word)) return 1;
  if (OPENERS.has(left.word.toLowerCase())) return PHRASE_COST + 4;
  const pause = right.start - left.end;
  const opens = OPENERS.has(right.word.toLowerCase());
  return PHRASE_COST - 6 * Math.min(1, Math.max(0, pause) / PAUSE_S) - (opens ? 3 : 0);
}

/**
 * A word longer than a line in pieces that fit, its time shared out by characters.
 *
 * @param {Word[]} words
 * @returns {Word[]}
 */
function fitting(words) {
  return words.flatMap((word) => {
    const characters = [...word.word];
    if (characters.length <= LINE_CHARACTERS) return [word];
    const pieces = [];
    for (let at = 0; at < characters.length; at += LINE_CHARACTERS) {
      const when = (/** @type {number} */ n) => word.start + ((word.end - word.start) * n) / characters.length;
      const end = Math.min(at + LINE_CHARACTERS, characters.length);
      pieces.push({ ...word, word: characters.slice(at, end).join(""), start: when(at), end: when(end) });
    }
    return pieces;
  });
}

/** @param {Word[]} words */
function joined(words) {
  return words.map((word) => word.word).join(" ");
}

/** @param {Entry[]} entries @returns {string} a paragraph for each segment */
export function txt(entries) {
  return entries.map((entry) => (entry.kind === "gap" ? `[${textOf(entry)}]` : textOf(entry))).join("\n") + "\n";
}

/** @param {Entry[]} entries @returns {string} */
export function srt(entries) {
  const blocks = cues(entries).map(
    (cue, i) => `${i + 1}\n${clock(cue.start, ",")} --> ${clock(cue.end, ",")}\n${cue.lines.map(plain).join("\n")}\n`,
  );
  return blocks.join("\n");
}

/** @param {Entry[]} entries @returns {string} */
export function vtt(entries) {
  const blocks = cues(entries).map(
    (cue) => `${clock(cue.start, ".")} --> ${clock(cue.end, ".")}\n${cue.lines.map(escaped).join("\n")}\n`,
  );
  return ["WEBVTT\n", ...blocks].join("\n");
}

/** @param {Entry[]} entries @returns {string} every word with its times and confidence */
export function json(entries) {
  const told = entries.map((entry) =>
    entry.kind === "gap"
      ? { type: "gap", start: entry.start, end: entry.end }
      : {
          type: "segment",
          start: entry.start,
          end: entry.end,
          text: textOf(entry),
          cut: entry.cut,
          words: entry.words,
        },
  );
  return JSON.stringify({ entries: told }, null, 2) + "\n";
}

/** @param {number} seconds @param {string} point between seconds and milliseconds @returns {string} 00:01:02,003 */
export function clock(seconds, point) {
  const ms = Math.round(seconds * 1000);
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(ms / 3600000), Math.floor(ms / 60000) % 60, Math.floor(ms / 1000) % 60];
  return `${two(h)}:${two(m)}:${two(s)}${point}${String(ms % 1000).padStart(3, "0")}`;
}

/** @param {string} line SRT cannot escape: what players take for an arrow or a tag is written a little differently */
function plain(line) {
  return line
    .replaceAll("-->", "->")
    .replaceAll(/<(\/?[a-z][^<>]*)>/gi, "‹$1›")
    .replaceAll(/\{(\\[^{}]*)\}/g, "($1)");
}

/** @param {string} line WebVTT has marks of its own */
function escaped(line) {
  return line.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
