/** Elements of the page, made without markup in strings. Knows nothing of captions. */

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, string|boolean|EventListener>} [attributes] `on...` are listeners; false leaves one out
 * @param {(Node|string)[]} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/**
 * @param {string} id
 * @returns {any} the element; a page without it is broken, and says so at once
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`#${id}: got no element, expected one`);
  return element;
}

/** @param {string} name of a symbol in icons.svg @returns {SVGElement} */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `/captions/icons.svg#${name}`);
  svg.append(use);
  return svg;
}
