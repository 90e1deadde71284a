/**
 * A sound file as a source of pieces: decoded whole, then given out at the pace of speech or as fast as they are taken.
 * Waits while nobody takes them, and can go back. Knows nothing of where the pieces go.
 *
 * @typedef {import("./capture.js").Told} Told
 * @typedef {import("./capture.js").Source} Source
 */

/** The rate of the models: the browser's own resampler does the work. */
const RATE = 16000;
const PIECE = RATE / 20;
const TICK_MS = 40;
/** At the pace of speech: a tab that slept catches up by so much at once, no more. */
const CATCH_UP_S = 5;
/** As fast as it goes: so many seconds in one go, then the page breathes. */
const BURST_S = 2;

/**
 * @param {Blob & {name?: string}} file
 * @param {{pace: "speech"|"fast", room: () => boolean}} how room: whether a piece would be taken now
 * @param {Told} told `ended` after the last piece
 * @returns {Promise<Source & {length: number, seek: (seconds: number) => void}>} throws where it is no sound
 */
export async function play(file, { pace, room }, told) {
  const decoded = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
  const pcm = mixed(decoded);
  let at = 0;
  let credit = 0; // samples that may go now
  let before = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    credit += Math.round(((now - before) / 1000) * RATE);
    before = now;
    if (!room()) credit = 0;
    credit = pace === "fast" ? BURST_S * RATE : Math.min(credit, CATCH_UP_S * RATE);
    while (at < pcm.length && credit >= PIECE && room()) {
      const piece = pcm.slice(at, at + PIECE);
      at += piece.length;
      credit -= PIECE;
      const peak = piece.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / 32768;
      told.piece({ pcm: piece.buffer, seconds: piece.length / RATE, peak });
    }
    if (at < pcm.length) return;
    clearInterval(timer);
    told.ended();
  }, TICK_MS);
  return {
    rate: RATE,
    length: pcm.length / RATE,
    label: file.name ?? "file",
    held: () => false,
    seek: (seconds) => void (at = Math.min(pcm.length, Math.max(0, Math.round(seconds * RATE)))),
    stop: async () => clearInterval(timer),
  };
}

/** @param {AudioBuffer} sound @returns {Int16Array} its channels as one */
function mixed(sound) {
  const channels = Array.from({ length: sound.numberOfChannels }, (_, i) => sound.getChannelData(i));
  return Int16Array.from({ length: sound.length }, (_, i) => {
    let sum = 0;
    for (const channel of channels) sum += channel[i];
    return Math.round(Math.max(-1, Math.min(1, sum / channels.length)) * 32767);
  });
}
