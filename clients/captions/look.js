/** How the page looks: the settings of theme, contrast and size on the document. Knows nothing of its contents. */
import { SIZES } from "./settings.js";

/**
 * @param {import("./settings.js").Store} store
 * @param {string} [system] the theme that stands for the system's; "" asks the system
 */
export function look(store, system = "") {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paint = () => {
    const { theme } = store.now;
    root.dataset.theme = theme === "system" ? system || (dark.matches ? "dark" : "light") : theme;
  };
  dark.addEventListener("change", paint);
  store.listen((now) => {
    paint();
    root.dataset.contrast = now.contrast;
    root.classList.toggle("show-confidence", now.confidence);
    root.classList.toggle("show-times", now.times);
    root.style.setProperty("--size", String(now.size / 100));
    root.style.setProperty("--lines", String(now.lines));
  });
}

/** @param {import("./settings.js").Store} store @param {number} steps */
export function resize(store, steps) {
  const size = store.now.size + steps * SIZES.step;
  store.set({ size: Math.max(SIZES.least, Math.min(SIZES.most, size)) });
}

/** @param {import("./settings.js").Store} store from what is seen now to the other */
export function flipTheme(store) {
  store.set({ theme: document.documentElement.dataset.theme === "dark" ? "light" : "dark" });
}

/** Captions alone on the whole screen, and back. */
export function fullScreen() {
  if (document.fullscreenElement) void document.exitFullscreen();
  else void document.documentElement.requestFullscreen?.().catch(() => {});
}
