/** The viewer's page: the captions of a room, to read only. Wires its parts together. */
import { stayAwake } from "./awake.js";
import { byId } from "./elements.js";
import { look } from "./look.js";
import { info, key, patiently, takeKey } from "./server.js";
import { Store } from "./settings.js";
import { Stage } from "./stage.js";
import { keyFields, notice, showStatus, tools } from "./tools.js";
import { Transcript } from "./transcript.js";
import { Watcher } from "./watcher.js";

takeKey();
const store = new Store();
look(store);
const transcript = new Transcript();
new Stage(transcript);
const room = decodeURIComponent(location.pathname.split("/").pop() ?? "");
document.title = `${room} – live captions`;
byId("room").textContent = room;

const watcher = new Watcher(room, transcript, (status) => {
  showStatus(status, "");
  stayAwake(status.name === "live");
  const { leftOut } = watcher;
  byId("left-out").hidden = leftOut === 0;
  byId("left-out").textContent = `${leftOut} earlier captions are not shown.`;
});
const { settings } = tools(store, transcript, { sections: [keyFields(() => watcher.start())], keys: [] });

byId("retry").addEventListener("click", () => watcher.retry());

let learnt = false;

async function learn() {
  const offer = await info();
  learnt = true;
  byId("about").textContent = offer.model;
  const asks = offer.key_required && (offer.rooms?.watch_needs_key ?? true);
  byId("key-section").hidden = !asks;
  if (asks && !key()) {
    notice("This room asks for a key.");
    settings();
    byId("key").focus();
  } else {
    watcher.start();
  }
}

await patiently(learn);
if (!learnt) watcher.start(); // it says what is wrong, and comes back
