/**
 * Captions in large type: a paragraph for each segment, an element for each word. Words are only ever appended after
 * the stable ones, and a stable word's element is never touched again, so that nothing that was read moves. Knows
 * nothing of where the words come from.
 *
 * @typedef {import("./transcript.js").Entry} Entry
 * @typedef {import("./transcript.js").Segment} Segment
 * @typedef {import("./transcript.js").Word} Word
 */
import { make } from "./elements.js";
import { textOf } from "./transcript.js";

/** Confidence below which a word is marked. */
const DOUBTFUL = 0.45;
const UNSURE = 0.65;
/** Paragraphs on the page: the whole transcript is a panel of its own. */
export const KEPT = 200;

export class Captions {
  /**
   * @param {HTMLElement} flow what the paragraphs are put into
   * @param {{kept?: number}} [options]
   */
  constructor(flow, { kept = KEPT } = {}) {
    this._flow = flow;
    this._kept = kept;
    /** @type {Map<number, {paragraph: HTMLElement, frozen: number}>} */
    this._shown = new Map();
    /** @type {WeakMap<Element, Word>} */
    this._words = new WeakMap();
  }

  /** @param {Entry} entry new or changed @param {boolean} gone */
  show(entry, gone) {
    let own = this._shown.get(entry.id);
    if (gone) {
      own?.paragraph.remove();
      this._shown.delete(entry.id);
      return;
    }
    if (own === undefined) {
      own = { paragraph: make("p", { class: entry.kind === "gap" ? "gap" : "segment" }), frozen: 0 };
      this._shown.set(entry.id, own);
      this._flow.append(own.paragraph);
      this._forget();
    }
    if (entry.kind === "gap") {
      own.paragraph.textContent = textOf(entry);
      own.paragraph.classList.toggle("lasting", entry.end === null);
    } else {
      this._spell(own, entry);
    }
  }

  /** @param {Entry} entry whether it has a paragraph */
  shows(entry) {
    return this._shown.has(entry.id);
  }

  /** @param {Element|null} element @returns {Word|undefined} the word that an element shows */
  wordOf(element) {
    return element ? this._words.get(element) : undefined;
  }

  /** @param {{paragraph: HTMLElement, frozen: number}} own @param {Segment} segment */
  _spell(own, segment) {
    const { paragraph } = own;
    paragraph.dataset.start = label(segment.start);
    const stable = segment.settled ? segment.words.length : segment.stable;
    for (let i = own.frozen; i < segment.words.length; i++) {
      const word = segment.words[i];
      let element = /** @type {HTMLElement|undefined} */ (paragraph.children[i]);
      if (element === undefined) {
        element = make("span");
        if (i > 0) paragraph.append(" ");
        paragraph.append(element);
      }
      if (element.textContent !== word.word) element.textContent = word.word;
      element.className = `word ${sureness(word)}${i < stable ? "" : " tentative"}`;
      element.dataset.start = label(word.start);
      this._words.set(element, word);
    }
    own.frozen = stable;
    while (paragraph.children.length > segment.words.length) {
      paragraph.lastChild?.remove();
      if (paragraph.lastChild?.nodeType === Node.TEXT_NODE) paragraph.lastChild.remove();
    }
    paragraph.classList.toggle("settled", segment.settled);
    if (segment.cut) paragraph.append(" ", make("span", { class: "cut" }, "cut off"));
  }

  _forget() {
    for (const [id, { paragraph }] of this._shown) {
      if (this._shown.size <= this._kept) return;
      paragraph.remove();
      this._shown.delete(id);
    }
  }
}

/** @param {Word} word */
function sureness({ confidence }) {
  if (confidence < DOUBTFUL) return "doubtful";
  return confidence < UNSURE ? "unsure" : "sure";
}

/** @param {number} seconds @returns {string} 1:02.48 */
export function label(seconds) {
  const hundredths = Math.round(seconds * 100);
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  return `${Math.floor(hundredths / 6000)}:${two(Math.floor(hundredths / 100) % 60)}.${two(hundredths % 100)}`;
}
