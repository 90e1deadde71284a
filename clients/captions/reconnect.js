/**
 * The life of a connection that comes back by itself: states, what leads from one to the next, and how long to wait.
 * Pure: no socket, no timer, no clock.
 *
 * @typedef {"idle"|"opening"|"live"|"renewing"|"waiting"|"closing"|"failed"} Name
 * @typedef {"start"|"ready"|"lost"|"refused"|"renew"|"retry"|"stop"} Event
 * @typedef {{name: Name, tries: number, delayMs: number}} State  tries: failed ones since the last good connection
 */

/** @type {Record<Name, Partial<Record<Event, Name>>>} */
export const TRANSITIONS = {
  idle: { start: "opening" },
  opening: { ready: "live", lost: "waiting", refused: "failed", stop: "closing" },
  live: { lost: "waiting", refused: "failed", renew: "renewing", stop: "closing" },
  renewing: { lost: "opening", refused: "failed", stop: "closing" },
  waiting: { retry: "opening", stop: "idle" },
  closing: { lost: "idle", refused: "idle", stop: "idle" },
  failed: { start: "opening", stop: "idle" },
};

export const FIRST_DELAY_MS = 500;
/** At first somebody is speaking: what is said while we wait is lost. */
export const SHORT_DELAY_MS = 3000;
export const SHORT_FOR_MS = 60000;
export const LONGEST_DELAY_MS = 15000;
/** A connection that lived so long was a good one: the next loss waits the shortest time again. */
export const GOOD_MS = 10000;

/** @type {State} */
export const START = Object.freeze({ name: "idle", tries: 0, delayMs: 0 });

/**
 * The state after `event`; the very same state where the event means nothing in it.
 *
 * @param {State} state
 * @param {Event} event
 * @param {{livedMs?: number, downMs?: number, random?: number}} [facts]
 *   livedMs: how long the connection was live before this event; downMs: how long there has been none; random: 0 to 1,
 *   spreads the clients of a server that restarts
 * @returns {State}
 */
export function next(state, event, { livedMs = 0, downMs = 0, random = 0.5 } = {}) {
  const name = TRANSITIONS[state.name][event];
  if (name === undefined) return state;
  if (name !== "waiting") return { name, tries: event === "start" || event === "renew" ? 0 : state.tries, delayMs: 0 };
  const tries = livedMs >= GOOD_MS ? 1 : state.tries + 1;
  return { name, tries, delayMs: delay(tries, random, downMs) };
}

/**
 * Milliseconds to wait before the next try: doubled each time, up to a bound (low at first), half of it by chance.
 *
 * @param {number} tries 1 after the first loss
 * @param {number} random 0 to 1
 * @param {number} downMs
 */
function delay(tries, random, downMs) {
  const longest = downMs < SHORT_FOR_MS ? SHORT_DELAY_MS : LONGEST_DELAY_MS;
  const whole = Math.min(longest, FIRST_DELAY_MS * 2 ** Math.min(tries - 1, 20));
  return Math.round(whole * (0.5 + random / 2));
}
