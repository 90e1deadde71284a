/**
 * What the speaker's page and the viewer's page have in common: their panels, the buttons that open them, and the keys.
 * Knows nothing of sound or connections.
 */
import { byId, make } from "./elements.js";
import { listenForKeys } from "./keyboard.js";
import { flipTheme, fullScreen, resize } from "./look.js";
import { WRONG_KEY } from "./messages.js";
import { keysPanel, lookFields, panel, transcriptPanel } from "./panels.js";
import { keepKey, key } from "./server.js";

/**
 * @param {import("./settings.js").Store} store
 * @param {import("./transcript.js").Transcript} transcript
 * @param {{sections: Node[], keys: [key: string, what: string, action: () => void][]}} own of this page
 */
export function tools(store, transcript, { sections, keys }) {
  const open = (/** @type {HTMLDialogElement} */ dialog) => () => dialog.showModal();
  const written = open(transcriptPanel(transcript));
  const settings = open(panel("settings", "Settings", ...sections, lookFields(store)));
  /** @type {[key: string, what: string, action: () => void][]} */
  const all = [
    ...keys,
    ["T", "Transcript and downloads", written],
    ["O", "Settings", settings],
    ["F", "Full screen, captions only", fullScreen],
    ["+", "Larger text", () => resize(store, 1)],
    ["-", "Smaller text", () => resize(store, -1)],
    ["D", "Dark or light", () => flipTheme(store)],
    ["H", "High contrast", () => store.set({ contrast: store.now.contrast === "high" ? "normal" : "high" })],
    ["C", "Underline doubtful words", () => store.set({ confidence: !store.now.confidence })],
    ["W", "Word times", () => store.set({ times: !store.now.times })],
    ["?", "This help", () => help()],
  ];
  /** @type {[string, string][]} */
  const told = [
    ...all.map(([key, what]) => /** @type {[string, string]} */ ([key, what])),
    ["← →", "In the captions: word by word"],
  ];
  const help = open(keysPanel(told, store));
  listenForKeys(Object.fromEntries(all.map(([key, , action]) => [key.toLowerCase(), action])), () => store.now.keys);
  byId("open-transcript").addEventListener("click", written);
  byId("open-settings").addEventListener("click", settings);
  byId("open-keys").addEventListener("click", help);
  byId("full").addEventListener("click", fullScreen);
  return { settings };
}

/**
 * Where the key is typed; hidden until the daemon asks for one.
 *
 * @param {() => void} entered
 * @param {() => void} done it was entered with Enter, and the panel is closed: what waited for it may go on
 * @returns {HTMLElement}
 */
export function keyFields(entered, done = () => {}) {
  const input = make("input", { type: "password", id: "key", autocomplete: "off", value: key() });
  input.addEventListener("change", () => {
    keepKey(input.value.trim());
    entered();
  });
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || input.value.trim() === "") return;
    event.preventDefault();
    keepKey(input.value.trim());
    entered();
    input.closest("dialog")?.close();
    done();
  });
  const hint = make("p", { class: "hint" }, "Kept in this tab only, until it is closed.");
  return make(
    "section",
    { id: "key-section", hidden: true },
    make("h3", {}, "Key"),
    make("label", { class: "field" }, make("span", {}, "Key of the server"), input),
    hint,
  );
}

/** @param {string} text "" hides it */
export function notice(text) {
  const element = byId("notice");
  element.hidden = text === "";
  const said = byId("notice-text");
  if (said.textContent !== text) said.textContent = text;
}

let counting = 0;

/** @param {number|undefined} ms until the next try of the connection; undefined: there is none */
function countDown(ms) {
  clearInterval(counting);
  byId("countdown").hidden = byId("retry").hidden = ms === undefined;
  if (ms === undefined) return;
  const end = performance.now() + ms;
  const show = () => {
    const left = Math.ceil((end - performance.now()) / 1000);
    byId("countdown").textContent = left > 0 ? `in ${left} s` : "now";
  };
  show();
  counting = setInterval(show, 250);
}

/**
 * @param {{name: string, text: string, retryMs?: number}} status
 * @param {string} idle what is shown where there is nothing to say
 */
export function showStatus({ name, text, retryMs }, idle) {
  byId("status").dataset.name = name;
  const short = { trouble: "Stopped", reconnecting: "Reconnecting…", held: "Waiting" }[name];
  byId("status-text").textContent = short ?? (text || idle);
  notice(short ? text + (text === WRONG_KEY ? " Enter it under Settings." : "") : "");
  countDown(retryMs);
}
