// Elements. Nothing here takes markup: text stays text.
const SVG = "http://www.w3.org/2000/svg";
const $ = id => document.getElementById(id);
function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const button = (text, onclick, attributes) => el("button", { type: "button", onclick, ...attributes }, text);
const badge = name => el("span", { class: `badge ${tone(name)}` },
  el("span", { "aria-hidden": "true" }, (MARKS[name] ?? "•") + " "), el("span", { class: "badge-name" }, name));
const bdi = text => el("bdi", {}, text);
