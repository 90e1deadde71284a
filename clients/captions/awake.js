/** Keeps the screen on while captions run, where the browser can. Knows nothing of captions. */

/** @type {WakeLockSentinel|null} */
let held = null;
let wanted = false;

/** @param {boolean} on */
export function stayAwake(on) {
  if (wanted === on) return;
  wanted = on;
  void hold();
}

// A page that was out of sight has lost its hold.
document.addEventListener("visibilitychange", () => void hold());

async function hold() {
  await held?.release();
  held = null;
  if (!wanted || document.visibilityState !== "visible") return;
  try {
    held = (await navigator.wakeLock?.request("screen")) ?? null;
  } catch {
    // A battery that runs low may say no.
  }
}
