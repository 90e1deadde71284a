/** The speaker's settings that are no matter of the look: sound and language, the room. Know nothing of connections. */
import { make } from "./elements.js";
import { choice, copied, tick } from "./panels.js";
import { ROOM } from "./settings.js";

/** @typedef {import("./settings.js").Store} Store */
/** @typedef {import("./server.js").Info} Info */

/** @param {Store} store */
export function soundFields(store) {
  const language = make("select", { onchange: () => store.set({ language: language.value }) });
  const languages = make("label", { class: "field", hidden: true }, make("span", {}, "Language"), language);
  const clean = tick("Even out the microphone (noise, echo, loudness)", (clean) => store.set({ clean }));
  const paces = { speech: "As they were spoken", fast: "As fast as heard" };
  const pace = choice("Read files", "pace", paces, (value) => store.set({ pace: value }));
  const element = make("section", {}, make("h3", {}, "Sound"), languages, clean.element, pace.element);
  store.listen((now) => {
    clean.show(now.clean);
    pace.show(now.pace);
    language.value = now.language;
  });
  /** @param {Info} info */
  const offer = (info) => {
    languages.hidden = info.languages.length < 2;
    const options = info.languages.map((name) => new Option(name, name));
    language.replaceChildren(
      new Option(info.language ? `As the server (${info.language})` : "As the server", ""),
      ...options,
    );
    language.value = store.now.language;
  };
  return { element, offer };
}

/** @param {Store} store */
export function roomFields(store) {
  const input = make("input", {
    type: "text",
    id: "room",
    maxlength: "64",
    spellcheck: "false",
    autocomplete: "off",
    placeholder: "none",
    "aria-describedby": "room-hint",
  });
  const hint = make("p", { class: "hint", id: "room-hint" });
  const links = make("div", { class: "links" });
  const said = make("p", { class: "hint", role: "status" });
  const element = make(
    "section",
    {},
    make("h3", {}, "Room"),
    make("label", { class: "field" }, make("span", {}, "Name"), input),
    hint,
    links,
    said,
  );
  let needsKey = false;
  input.addEventListener("change", () => {
    const name = input.value.trim().replaceAll(" ", "-");
    const good = name === "" || ROOM.test(name);
    input.setAttribute("aria-invalid", String(!good));
    hint.textContent = good ? "" : "Letters, digits, - and _ only, at most 64.";
    if (good) store.set({ room: name });
  });
  const show = () => {
    const { room } = store.now;
    input.value = room;
    hint.textContent = room ? `${readers(needsKey)}${needsKey ? OBS_KEY : ""}` : "Give your captions a room, and others can read along.";
    const rows = room
      ? [
          ["To read along", `/watch/${room}`],
          ["For OBS", `/overlay?room=${room}`],
        ]
      : [];
    links.replaceChildren(
      ...rows.map(([what, path]) => {
        const { href } = new URL(path, location.href);
        const copy = make(
          "button",
          { "aria-label": `Copy the link: ${what}`, onclick: () => void copied(href, said) },
          "Copy",
        );
        return make(
          "p",
          {},
          make("span", {}, what),
          make("a", { href, target: "_blank", rel: "noopener" }, href),
          copy,
        );
      }),
    );
  };
  store.listen(show);
  /** @param {Info} info */
  const offer = (info) => {
    needsKey = info.key_required && (info.rooms?.watch_needs_key ?? true);
    show();
  };
  return { element, offer };
}

const OBS_KEY = " OBS cannot ask for the key: add #key=… to its link.";

/** @param {boolean} needsKey @returns {string} who can read along */
function readers(needsKey) {
  if (/^(localhost|127\..*|\[::1\])$/.test(location.hostname))
    return `Only this computer can open these links: others need the server's own name, not ${location.hostname}.`;
  return needsKey ? "Who has the link and the key can read along." : "Who has the link can read along.";
}
