/** Single keys that do things, everywhere but where text is typed or a panel is open. Knows nothing of what they do. */

const TYPED =
  "input:not([type=checkbox], [type=radio], [type=range], [type=file]), select, textarea, [contenteditable]";

/**
 * @param {Record<string, () => void>} actions by KeyboardEvent.key in lower case
 * @param {() => boolean} on whether they are wanted now
 */
export function listenForKeys(actions, on) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.defaultPrevented) return;
    const { target } = event;
    if (target instanceof Element && target.closest(TYPED)) return;
    if (document.querySelector("dialog[open]") !== null) return;
    const action = actions[event.key.toLowerCase()];
    // The help stays reachable: there the others are turned on again.
    if (action === undefined || !(on() || event.key === "?")) return;
    event.preventDefault();
    action();
  });
}
