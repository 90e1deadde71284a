/**
 * The panels at the side: settings of the look, the whole transcript with its files, the keys. Native dialogs, so that
 * focus, Escape and what lies behind them are the browser's affair. Know nothing of sound or connections.
 *
 * @typedef {import("./settings.js").Store} Store
 * @typedef {import("./transcript.js").Entry} Entry
 */
import { icon, make } from "./elements.js";
import { minutes } from "./messages.js";
import { SIZES } from "./settings.js";
import { FORMATS, txt } from "./subtitles.js";
import { textOf } from "./transcript.js";

/**
 * @param {string} id
 * @param {string} title
 * @param {...(Node|string)} content
 * @returns {HTMLDialogElement}
 */
export function panel(id, title, ...content) {
  const close = make(
    "button",
    { class: "quiet round", "aria-label": "Close", onclick: () => dialog.close() },
    icon("close"),
  );
  const dialog = make(
    "dialog",
    { id, class: "panel", "aria-labelledby": `${id}-title` },
    make("header", {}, make("h2", { id: `${id}-title` }, title), close),
    make("div", { class: "content" }, ...content),
  );
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  return dialog;
}

/** @param {Store} store @returns {HTMLElement} theme, size, contrast, confidence, times */
export function lookFields(store) {
  const size = range("Text size", SIZES.least, SIZES.most, SIZES.step, (value) => store.set({ size: value }));
  const themes = { system: "System", light: "Light", dark: "Dark" };
  const theme = choice("Colours", "theme", themes, (value) => store.set({ theme: value }));
  const contrast = tick("High contrast", (on) => store.set({ contrast: on ? "high" : "normal" }));
  const confidence = tick("Underline doubtful words", (confidence) => store.set({ confidence }));
  const times = tick("Show word times", (times) => store.set({ times }));
  store.listen((now) => {
    size.show(now.size, `${now.size} %`);
    theme.show(now.theme);
    contrast.show(now.contrast === "high");
    confidence.show(now.confidence);
    times.show(now.times);
  });
  const fields = [theme, size, contrast, confidence, times].map(({ element }) => element);
  return make("section", {}, make("h3", {}, "Look"), ...fields);
}

/** @param {import("./transcript.js").Transcript} transcript @returns {HTMLDialogElement} */
export function transcriptPanel(transcript) {
  const list = make("ol", { class: "transcript", tabindex: "0", "aria-label": "Transcript" });
  const nothing = make("p", { class: "hint" }, "Nothing has been said yet.");
  const said = make("p", { class: "hint", role: "status" });
  const copy = make("button", { onclick: () => void copied(txt(transcript.settled), said) }, "Copy text");
  const files = Object.entries(FORMATS).map(([ending, format]) => {
    const button = make(
      "button",
      { "aria-label": `Download ${ending.toUpperCase()}` },
      icon("down"),
      ending.toUpperCase(),
    );
    button.addEventListener("click", () =>
      download(`captions.${ending}`, format.type, format.write(transcript.settled)),
    );
    return button;
  });
  const clear = make("button", { class: "quiet" }, "Clear");
  clear.addEventListener("click", () => confirm("Clear the whole transcript?") && transcript.clear());
  const bar = make("div", { class: "row" }, copy, ...files, clear);
  const dialog = panel("transcript", "Transcript", bar, said, nothing, list);
  /** @type {Map<Entry, HTMLElement|null>} what has settled, and its row once somebody has looked */
  const rows = new Map();
  const write = () => {
    for (const [entry, made] of rows) {
      if (made !== null) continue;
      rows.set(entry, row(entry));
      list.append(/** @type {HTMLElement} */ (rows.get(entry)));
    }
  };
  const offer = () => {
    nothing.hidden = rows.size > 0;
    list.hidden = !nothing.hidden;
    for (const button of [copy, ...files, clear]) button.disabled = list.hidden;
  };
  transcript.listen((entry, gone) => {
    const settled = entry.kind === "segment" ? entry.settled : entry.end !== null;
    const before = rows.size;
    if (gone) {
      rows.get(entry)?.remove();
      rows.delete(entry);
    } else if (settled && !rows.has(entry)) {
      rows.set(entry, null);
      if (dialog.open) write();
    }
    if ((before === 0) !== (rows.size === 0)) offer();
  });
  offer();
  new MutationObserver(() => dialog.open && write()).observe(dialog, { attributeFilter: ["open"] });
  return dialog;
}

/**
 * @param {[keys: string, what: string][]} keys
 * @param {Store} store
 * @returns {HTMLDialogElement}
 */
export function keysPanel(keys, store) {
  const rows = keys.map(([key, what]) => make("div", {}, make("dt", {}, make("kbd", {}, key)), make("dd", {}, what)));
  const on = tick("Single keys do these things", (keys) => store.set({ keys }));
  store.listen((now) => on.show(now.keys));
  return panel("keys", "Keyboard", make("dl", { class: "keys" }, ...rows), on.element);
}

/** @param {string} text @param {(on: boolean) => void} chosen */
export function tick(text, chosen) {
  const input = make("input", { type: "checkbox" });
  input.addEventListener("change", () => chosen(input.checked));
  const element = make("label", { class: "tick" }, input, make("span", {}, text));
  return { element, show: (/** @type {boolean} */ on) => void (input.checked = on) };
}

/**
 * @param {string} text
 * @param {string} name
 * @param {Record<string, string>} values what is chosen -> what is read
 * @param {(value: any) => void} chosen
 */
export function choice(text, name, values, chosen) {
  const inputs = Object.keys(values).map((value) =>
    make("input", { type: "radio", name, value, onchange: () => chosen(value) }),
  );
  const labels = inputs.map((input) => make("label", {}, input, make("span", {}, values[input.value])));
  const element = make("fieldset", { class: "choice" }, make("legend", {}, text), make("div", {}, ...labels));
  const show = (/** @type {string} */ value) => {
    for (const input of inputs) input.checked = input.value === value;
  };
  return { element, show };
}

/**
 * @param {string} text
 * @param {number} least
 * @param {number} most
 * @param {number} step
 * @param {(value: number) => void} chosen
 */
export function range(text, least, most, step, chosen) {
  const id = text.toLowerCase().replaceAll(" ", "-");
  const input = make("input", { type: "range", id, min: String(least), max: String(most), step: String(step) });
  const output = make("output", { for: id });
  input.addEventListener("input", () => chosen(+input.value));
  // A label around all of it would name the output, which comes first.
  const element = make("div", { class: "range" }, make("label", { for: id }, text), output, input);
  const show = (/** @type {number} */ value, /** @type {string} */ words) => {
    input.value = String(value);
    input.setAttribute("aria-valuetext", words);
    output.textContent = words;
  };
  return { element, input, show };
}

/** @param {Entry} entry */
function row(entry) {
  const time = make("time", {}, minutes(entry.start));
  return make(
    "li",
    { class: entry.kind === "gap" ? "missed" : "said" },
    time,
    make("span", {}, textOf(entry), entry.kind === "segment" && entry.cut ? " (cut off)" : ""),
  );
}

/** @param {string} text @param {HTMLElement} said */
export async function copied(text, said) {
  try {
    await navigator.clipboard.writeText(text);
    said.textContent = "Copied.";
  } catch {
    said.textContent = "The browser did not allow copying.";
  }
}

/** @param {string} name @param {string} type @param {string} text */
function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
