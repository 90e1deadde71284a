/**
 * What a person chose, kept in the page's address so that a link or a bookmark brings it back. Only what differs from
 * the defaults is written; what cannot be understood is passed over. The key is never part of it.
 *
 * @typedef {{source: "microphone"|"tab"|"file", mic: string, clean: boolean, pace: "speech"|"fast",
 *   latency: number, language: string, room: string, theme: "system"|"light"|"dark", contrast: "normal"|"high",
 *   size: number, lines: number, confidence: boolean, times: boolean, keys: boolean, start: boolean}} Settings
 *   mic: part of a device's name; latency: milliseconds, 0 for the server's; size: percent
 */

export const SIZES = { least: 50, most: 250, step: 10 };
export const ROOM = /^[A-Za-z0-9_-]{1,64}$/;

/** @type {Readonly<Settings>} */
export const DEFAULTS = Object.freeze({
  source: "microphone",
  mic: "",
  clean: false,
  pace: "speech",
  latency: 0,
  language: "",
  room: "",
  theme: "system",
  contrast: "normal",
  size: 100,
  lines: 2,
  confidence: false,
  times: false,
  keys: true,
  start: false,
});

const WORDS = {
  source: ["microphone", "tab", "file"],
  pace: ["speech", "fast"],
  theme: ["system", "light", "dark"],
  contrast: ["normal", "high"],
};
const SWITCHES = new Map(Object.entries({ 1: true, true: true, 0: false, false: false }));
/** @type {Record<string, [number, number]>} */
const NUMBERS = { latency: [0, 60000], size: [SIZES.least, SIZES.most], lines: [1, 6] };

/** @param {string} query as in location.search @returns {Settings} */
export function read(query) {
  /** @type {Record<string, string|number|boolean>} */
  const settings = { ...DEFAULTS };
  for (const [name, text] of new URLSearchParams(query)) {
    const value = understood(name, text);
    if (value !== undefined) settings[name] = value;
  }
  return /** @type {Settings} */ (/** @type {unknown} */ (settings));
}

/** @param {Settings} settings @returns {string} a query without its question mark */
export function write(settings) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(settings)) {
    if (value === DEFAULTS[/** @type {keyof Settings} */ (name)]) continue;
    query.set(name, typeof value === "boolean" ? (value ? "1" : "0") : String(value));
  }
  return query.toString();
}

/**
 * @param {string} name
 * @param {string} text
 * @returns {string|number|boolean|undefined} undefined: passed over
 */
function understood(name, text) {
  if (Object.hasOwn(WORDS, name))
    return WORDS[/** @type {keyof typeof WORDS} */ (name)].includes(text) ? text : undefined;
  if (Object.hasOwn(NUMBERS, name)) {
    const [least, most] = NUMBERS[name];
    return /^\d{1,5}$/.test(text) && +text >= least && +text <= most ? +text : undefined;
  }
  if (name === "room") return text === "" || ROOM.test(text) ? text : undefined;
  if (name === "mic" || name === "language") return text.slice(0, 100);
  if (Object.hasOwn(DEFAULTS, name)) return SWITCHES.get(text);
  return undefined;
}

/**
 * @param {Settings} settings
 * @param {{latencies_ms: number[], languages: string[]}} offer of the daemon
 * @returns {Partial<Settings>} what must change, as the daemon does not have it: then its own choice holds
 */
export function repaired(settings, offer) {
  return {
    ...(offer.latencies_ms.includes(settings.latency) ? {} : { latency: 0 }),
    ...(offer.languages.includes(settings.language) ? {} : { language: "" }),
  };
}

/** The settings of this page; a change is written into the address and told to who listens. */
export class Store {
  constructor() {
    this.now = read(location.search);
    /** @type {((now: Settings, changed: Set<string>) => void)[]} */
    this._listeners = [];
  }

  /** @param {(now: Settings, changed: Set<string>) => void} listener called at once with everything as changed */
  listen(listener) {
    this._listeners.push(listener);
    listener(this.now, new Set(Object.keys(this.now)));
  }

  /** @param {Partial<Settings>} change */
  set(change) {
    const before = this.now;
    this.now = { ...before, ...change };
    const changed = new Set(
      Object.keys(change).filter(
        (name) => before[/** @type {keyof Settings} */ (name)] !== change[/** @type {keyof Settings} */ (name)],
      ),
    );
    if (changed.size === 0) return;
    const query = write(this.now);
    history.replaceState(null, "", location.pathname + (query && `?${query}`));
    for (const listener of this._listeners) listener(this.now, changed);
  }
}
