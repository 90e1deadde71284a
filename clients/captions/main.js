/** The captions page: someone speaks, and reads along. Wires its parts together. */
import { stayAwake } from "./awake.js";
import { microphones } from "./capture.js";
import { byId } from "./elements.js";
import { roomFields, soundFields } from "./fields.js";
import { look } from "./look.js";
import { minutes } from "./messages.js";
import { info, key, patiently, takeKey } from "./server.js";
import { Store, repaired } from "./settings.js";
import { Speaker } from "./speaker.js";
import { Stage } from "./stage.js";
import { keyFields, notice, showStatus, tools } from "./tools.js";
import { Transcript } from "./transcript.js";

takeKey();
const store = new Store();
look(store);
const transcript = new Transcript();
new Stage(transcript);
/** @type {File|undefined} */
let file;
/** @type {import("./server.js").Info|null} */
let offer = null;

const speaker = new Speaker(() => store.now, transcript, {
  status(status) {
    showStatus(status, "Not listening");
    byId("start-text").textContent = !speaker.running ? "Start" : status.name === "finishing" ? "Finishing" : "Stop";
    document.body.classList.toggle("running", speaker.running);
    stayAwake(speaker.running);
    byId("sources").disabled = byId("device").disabled = byId("file").disabled = speaker.running;
    if (status.name === "listening") void listDevices();
  },
  level(peak) {
    byId("meter").firstElementChild.style.transform = `scaleX(${Math.sqrt(peak)})`;
    const { clock, progress } = speaker;
    byId("clock").textContent = minutes(clock) + (progress === null ? "" : ` (${Math.floor(100 * progress)} %)`);
  },
});

function toggle() {
  if (speaker.running) return void speaker.stop();
  if (offer === null) void learn().catch(() => {});
  if (offer?.key_required && !key()) return askForKey("This server asks for a key.");
  if (store.now.source === "file" && file === undefined) return byId("file").click();
  return void speaker.start(file);
}

const sound = soundFields(store);
const room = roomFields(store);
const { settings: openSettings } = tools(store, transcript, {
  sections: [keyFields(() => notice(""), () => speaker.running || toggle()), sound.element, room.element],
  keys: [["S", "Start or stop", toggle]],
});
byId("start").addEventListener("click", toggle);
byId("retry").addEventListener("click", () => speaker.retry());

/** @param {string} why */
function askForKey(why) {
  notice(why);
  openSettings();
  byId("key").focus();
}

/** @param {File|undefined} chosen */
function take(chosen) {
  if (chosen === undefined) return;
  if (speaker.running) return notice("Stop first, then drop the file again.");
  file = chosen;
  byId("file-text").textContent = chosen.name;
  store.set({ source: "file" });
  toggle();
}

byId("file").addEventListener("change", () => {
  take(byId("file").files[0]);
  byId("file").value = ""; // the same file again is a change again
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  take(event.dataTransfer?.files[0]);
});

byId("sources").addEventListener("change", (/** @type {Event} */ event) => {
  store.set({ source: /** @type {any} */ (/** @type {HTMLInputElement} */ (event.target).value) });
});
byId("device").addEventListener("change", () => store.set({ mic: byId("device").value }));
byId("latency").addEventListener("input", () => {
  const chosen = latencies()[+byId("latency").value];
  store.set({ latency: chosen === offer?.latency_ms ? 0 : chosen });
});

store.listen((now, changed) => {
  byId("sources").querySelector(`[value=${now.source}]`).checked = true;
  byId("device-field").hidden = now.source !== "microphone";
  byId("file-field").hidden = now.source !== "file";
  byId("tab-field").hidden = now.source !== "tab";
  showLatency();
  byId("captions").lang = now.language || offer?.language || "";
  if (speaker.running && ["latency", "language", "room"].some((name) => changed.has(name))) speaker.renew();
});

function latencies() {
  return [...(offer?.latencies_ms ?? [])].sort((a, b) => a - b);
}

function showLatency() {
  const all = latencies();
  const now = store.now.latency || offer?.latency_ms || 0;
  byId("latency-field").hidden = all.length < 2;
  byId("latency").max = String(all.length - 1);
  byId("latency").value = String(Math.max(0, all.indexOf(now)));
  byId("latency").setAttribute("aria-valuetext", `${now} milliseconds`);
  byId("latency-text").textContent = now < 1000 ? `${now} ms` : `${now / 1000} s`;
}

async function listDevices() {
  const select = byId("device");
  const labels = new Set((await microphones()).map(({ label }) => label).filter((label) => label !== ""));
  if (store.now.mic) labels.add(store.now.mic);
  const options = [...labels].map((label) => new Option(label, label));
  select.replaceChildren(new Option("Default microphone", ""), ...options);
  select.value = store.now.mic;
}

async function learn() {
  offer = await info();
  byId("about").textContent = offer.model;
  byId("key-section").hidden = !offer.key_required;
  store.set(repaired(store.now, offer));
  sound.offer(offer);
  room.offer(offer);
  showLatency();
  byId("captions").lang = store.now.language || offer.language || "";
}

navigator.mediaDevices?.addEventListener("devicechange", () => void listDevices());
addEventListener("beforeunload", (event) => speaker.running && event.preventDefault());
void listDevices();
await patiently(learn);
if (store.now.start && store.now.source === "microphone") {
  // A link may come from anybody: it must not make a microphone heard, nor its words read, without a click.
  if (store.now.room) invite(`This link starts the microphone; the room ${store.now.room} reads along.`);
  else if (elsewhere()) invite("This link starts the microphone.");
  else toggle();
}

/** @param {string} what */
function invite(what) {
  notice(`${what} Press Start if you want that.`);
  byId("start").focus();
}

function elsewhere() {
  return document.referrer !== "" && new URL(document.referrer).origin !== location.origin;
}
