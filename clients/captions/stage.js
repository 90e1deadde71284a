/**
 * The stage that captions are read on: shows what has changed once a frame, however much it is, follows what is new
 * while the reader is at its end, shows a word's times under the pointer or the arrow keys, and reads settled text out
 * to screen readers. Knows nothing of where the words come from.
 *
 * @typedef {import("./transcript.js").Entry} Entry
 */
import { Captions, KEPT, label } from "./captions.js";
import { byId, make } from "./elements.js";
import { textOf } from "./transcript.js";

/** Within so much of the end the reader is at the end. */
const NEAR_PX = 80;
/** Lines that are free below the text after it was moved up: it moves seldom, and then by so much. */
const FREE_LINES = 2;
const READ_OUT = 5;

export class Stage {
  /** @param {import("./transcript.js").Transcript} transcript */
  constructor(transcript) {
    this._scroller = byId("stage");
    this._flow = byId("captions");
    this._latest = byId("latest");
    this._tip = byId("tip");
    this._log = byId("log");
    this._captions = new Captions(this._flow);
    this._following = true;
    /** @type {number|null} where the text is being moved to, until it is there or the reader moves it */
    this._target = null;
    /** @type {HTMLElement|null} */
    this._here = null;
    /** @type {Map<Entry, boolean>} what has changed since the last frame, and whether it is gone */
    this._changed = new Map();
    /** @type {WeakSet<Entry>} */
    this._read = new WeakSet();
    transcript.listen((entry, gone) => this._note(entry, gone));
    this._scroller.addEventListener("scroll", () => this._scrolled(), { passive: true });
    for (const hand of ["wheel", "pointerdown", "touchstart", "keydown"]) {
      this._scroller.addEventListener(hand, () => void (this._target = null), { passive: true });
    }
    this._scroller.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this._key(event));
    this._scroller.addEventListener("blur", () => this._point(null));
    this._flow.addEventListener("pointerover", (/** @type {PointerEvent} */ event) => {
      if (event.pointerType === "mouse") this._point(wordAt(event.target));
    });
    this._flow.addEventListener("pointerleave", () => this._point(null));
    this._flow.addEventListener("click", (/** @type {MouseEvent} */ event) => this._point(wordAt(event.target)));
    this._latest.addEventListener("click", () => {
      this._following = true;
      this._follow(true);
      this._scroller.focus({ preventScroll: true });
    });
    new ResizeObserver(() => this._follow(true)).observe(this._scroller);
  }

  /** @param {Entry} entry @param {boolean} gone */
  _note(entry, gone) {
    if (this._changed.size === 0) requestAnimationFrame(() => this._show());
    this._changed.set(entry, gone);
  }

  /** Who comes late is told thousands of segments at once: only those that stay on the page are made. */
  _show() {
    const changed = [...this._changed];
    this._changed.clear();
    const fresh = changed.filter(([entry, gone]) => !gone && !this._captions.shows(entry)).slice(-KEPT);
    const wanted = new Set(fresh.map(([entry]) => entry));
    for (const [entry, gone] of changed) {
      if (gone || wanted.has(entry) || this._captions.shows(entry)) this._captions.show(entry, gone);
      if (!gone) this._readOut(entry);
    }
    document.body.classList.toggle("spoken", this._flow.childElementCount > 0);
    this._follow(false);
  }

  /** @param {Entry} entry settled text only: what may still change is never read out */
  _readOut(entry) {
    const settled = entry.kind === "segment" ? entry.settled : entry.end !== null;
    if (!settled || this._read.has(entry)) return;
    this._read.add(entry);
    this._log.append(make("p", {}, textOf(entry)));
    while (this._log.childElementCount > READ_OUT) this._log.firstElementChild.remove();
  }

  /** @param {boolean} exactly whether the text is moved even where all of it can be seen */
  _follow(exactly) {
    if (!this._following) return;
    const { scrollHeight, clientHeight, scrollTop } = this._scroller;
    const line = parseFloat(getComputedStyle(this._flow).lineHeight);
    const bottom = this._flow.offsetTop + this._flow.offsetHeight;
    if (!exactly && bottom <= scrollTop + clientHeight - line / 4) return;
    const wanted = Math.min(scrollHeight - clientHeight, bottom + FREE_LINES * line - clientHeight);
    const top = Math.max(0, Math.round(wanted));
    if (Math.abs(top - scrollTop) < 1) return;
    this._target = top;
    this._scroller.scrollTo({ top, behavior: exactly ? "instant" : "auto" });
  }

  _scrolled() {
    const { scrollTop, clientHeight } = this._scroller;
    if (this._target !== null) {
      if (Math.abs(scrollTop - this._target) > 1) return;
      this._target = null;
    }
    const bottom = this._flow.offsetTop + this._flow.offsetHeight;
    this._following = scrollTop + clientHeight >= bottom - NEAR_PX;
    this._latest.hidden = this._following;
  }

  /** @param {KeyboardEvent} event */
  _key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") this._point(null);
    if (step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const words = [...this._flow.querySelectorAll(".word")];
    const at = this._here ? words.indexOf(this._here) + step : words.length - 1;
    const word = words[Math.max(0, Math.min(words.length - 1, at))];
    if (word === undefined) return;
    word.scrollIntoView({ block: "nearest" });
    this._point(/** @type {HTMLElement} */ (word));
  }

  /** @param {HTMLElement|null} element the word whose times are shown */
  _point(element) {
    const word = this._captions.wordOf(element);
    this._here?.classList.remove("here");
    this._here = word ? element : null;
    this._tip.hidden = word === undefined;
    if (word === undefined || element === null) return;
    element.classList.add("here");
    const sure = `${Math.round(word.confidence * 100)} % sure`;
    this._tip.replaceChildren(make("b", {}, word.word), ` ${label(word.start)} to ${label(word.end)}, ${sure}`);
    const at = element.getBoundingClientRect();
    const half = this._tip.offsetWidth / 2;
    const left = Math.max(half + 8, Math.min(innerWidth - half - 8, at.left + at.width / 2));
    this._tip.style.left = `${left}px`;
    this._tip.style.top = `${at.top > 60 ? at.top - this._tip.offsetHeight - 6 : at.bottom + 6}px`;
  }
}

/** @param {EventTarget|null} target @returns {HTMLElement|null} */
function wordAt(target) {
  return target instanceof Element ? target.closest(".word") : null;
}
