/** What is said to people, in plain words: states, refusals, devices. Knows nothing of where it is shown. */

/** Where it is entered depends on the page, which says so. */
export const WRONG_KEY = "The key is missing or wrong.";

/** @type {Record<string, string>} a reason of link.js or a code of the protocol -> a sentence */
const REASONS = {
  lost: "The connection was lost.",
  shutdown: "The server is restarting.",
  unreachable: "The server cannot be reached.",
  refused: "The server answers, but no live connection could be made. Is there a proxy in between?",
  origin: "The server does not accept this page. Open it at the server's own address.",
  key: WRONG_KEY,
  unauthorized: WRONG_KEY,
  at_capacity: "The server is full.",
  room_taken: "Somebody else is speaking in this room. Choose another room, or wait until they stop.",
  idle_timeout: "The server heard nothing for a long time and hung up.",
  session_limit: "The longest session the server allows is over.",
  internal: "The server had a fault.",
  bad_audio: "The server could not understand the sound that was sent.",
};

/**
 * @param {string} reason
 * @param {string} [detail] the daemon's own sentence
 * @returns {string}
 */
export function because(reason, detail = "") {
  return REASONS[reason] ?? (detail ? `The server refused: ${detail}` : REASONS.lost);
}

/**
 * Why no sound could be had.
 *
 * @param {unknown} error what the browser threw
 * @param {"microphone"|"tab"|"file"} source
 */
export function trouble(error, source) {
  const name = error instanceof Error ? error.name : "";
  if (name === "AwayError") return REASONS.unreachable;
  if (source === "file") return "This file could not be read as sound. Try WAV, MP3, M4A, FLAC, Ogg or WebM.";
  if (source === "tab") {
    if (name === "NoSoundError") return "The tab was shared without its sound. Share it again with its sound ticked.";
    if (name === "NotAllowedError") return "No tab was shared.";
    return "This browser cannot share a tab's sound. Try Chrome or Edge on a computer.";
  }
  if (name === "NotAllowedError") return "The microphone is blocked. Allow it in the address bar, then start again.";
  if (name === "NotFoundError" || name === "OverconstrainedError")
    return "No microphone was found. Plug one in, then start again.";
  if (name === "NotReadableError") return "The microphone is in use by another program.";
  if (!globalThis.isSecureContext)
    return "Browsers give the microphone to secure pages only: open this page with https.";
  return "The microphone could not be opened.";
}

/** The browser shared no sound. */
export class NoSoundError extends Error {
  name = "NoSoundError";
}

/** Something of the page itself could not be loaded. */
export class AwayError extends Error {
  name = "AwayError";
}

/** @param {number} seconds @returns {string} 1:02:03, or 2:03 */
export function minutes(seconds) {
  const whole = Math.floor(seconds);
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}
