/**
 * The overlay: a few lines over whatever lies behind, for OBS and video calls. Shows a room (`?room=NAME`), or what
 * this machine's microphone hears. Wires its parts together.
 */
import { Captions } from "./captions.js";
import { byId, make } from "./elements.js";
import { look } from "./look.js";
import { WRONG_KEY } from "./messages.js";
import { info, patiently, takeKey } from "./server.js";
import { Store, repaired } from "./settings.js";
import { Speaker } from "./speaker.js";
import { Transcript, textOf } from "./transcript.js";
import { Watcher } from "./watcher.js";

/** After so long without a new word the lines leave the picture. */
const QUIET_MS = 10000;
const KEPT = 8;

takeKey();
const store = new Store();
look(store, "dark"); // light letters over a picture, whatever the system likes
const transcript = new Transcript();
const captions = new Captions(byId("captions"), { kept: KEPT });
let quiet = 0;

transcript.listen((entry, gone) => {
  if (entry.kind === "gap" && entry.end === null && !gone) return; // the status says so while it lasts
  captions.show(entry, gone);
  if (entry.kind === "gap" || entry.settled) byId("log").replaceChildren(make("p", {}, textOf(entry)));
  byId("lines").classList.remove("quiet");
  clearTimeout(quiet);
  quiet = setTimeout(() => byId("lines").classList.add("quiet"), QUIET_MS);
});

/** @param {{name: string, text: string}} status what went wrong is shown, what goes well is not */
function show({ name, text }) {
  const element = byId("status");
  element.hidden = !["trouble", "reconnecting", "held"].includes(name);
  element.textContent = text + (text === WRONG_KEY ? " Add #key=… to the end of this page's address." : "");
}

// A key that is added to the address of an open page changes nothing but this.
addEventListener("hashchange", () => location.reload());
const asked = new URLSearchParams(location.search).get("room") ?? "";

if (store.now.room) {
  new Watcher(store.now.room, transcript, show).start();
} else if (asked) {
  show({ name: "trouble", text: `room=${asked}: a room's name has letters, digits, - and _ only, at most 64.` });
} else {
  const start = byId("start");
  const speaker = new Speaker(() => ({ ...store.now, source: "microphone", room: "" }), transcript, {
    level: () => {},
    status(status) {
      show(status);
      start.hidden = speaker.running;
    },
  });
  start.hidden = false;
  start.addEventListener("click", () => void speaker.start());
  const learn = async () => store.set(repaired(store.now, await info()));
  await patiently(learn);
  if (store.now.start) void speaker.start();
}
