// The icicle: the stacks of what is shown, outermost function on top, as wide as it is often.
const icicle = { root: el("div", { class: "icicle", role: "tree", "aria-label": "Stacks of leaks, outermost function first" }), top: null, zoom: null, focus: null };
const LEVEL = 23, NARROWEST = 2, MOST_BOXES = 4000;

function buildIcicle() {
  const node = (name, parent, frame, style) => ({ name, parent, frame, style, count: 0, children: new Map(), level: parent ? parent.level + 1 : 0 });
  const top = node("all", null, null, "root");
  for (const group of groups()) {
    const { shape, count } = group;
    const path = [[shape.program, null, "root"]];
    for (const index of [...shape.stack.frames].reverse()) path.push([frames[index].name, frames[index], frames[index].own ? "own" : "library"]);
    path.push([headline(shape), null, `end ${tone(kind(shape))}`]);
    let at = top;
    at.count += count;
    for (const [name, frame, style] of path) {
      const key = `${style} ${name}`;
      if (!at.children.has(key)) at.children.set(key, node(name, at, frame, style));
      at = at.children.get(key);
      at.count += count;
    }
    at.shape = shape;
  }
  icicle.top = icicle.zoom = top;
}
function drawIcicle() {
  const width = Math.max(icicle.root.clientWidth - 4, 200);
  const boxes = [];
  let deepest = 0;
  const put = (node, x, wide, level) => {
    if (wide < NARROWEST || boxes.length >= MOST_BOXES) return;
    deepest = Math.max(deepest, level);
    const share = (node.count / icicle.top.count * 100).toFixed(1);
    const where = node.frame ? ` ${place(node.frame)}` : "";
    const box = el("div", { class: node.style, role: "treeitem", tabindex: -1, "aria-level": level + 1,
      title: `${node.name}${where}\n${number(node.count)} (${share} %)`,
      "aria-label": `${node.name},${where} ${number(node.count)}, ${share} percent`,
      onclick: () => zoom(node), onkeydown: event => keys(event, node) }, bdi(node.name));
    box.style.left = `${x + 2}px`;
    box.style.width = `${wide - 0.5}px`;
    box.style.top = `${level * LEVEL + 2}px`;
    node.box = box;
    boxes.push(box);
    let from = x;
    for (const child of sorted(node)) {
      const part = wide * child.count / node.count;
      put(child, from, part, level + 1);
      from += part;
    }
  };
  if (!icicle.top.count) {
    icicle.root.replaceChildren(el("p", { class: "empty" }, "Nothing matches."));
    icicle.root.style.height = "auto";
    return;
  }
  let level = 0;
  const above = [];
  for (let node = icicle.zoom.parent; node; node = node.parent) above.unshift(node);
  for (const node of above) {
    const children = node.children;
    node.children = new Map();
    put(node, 0, width, level++);
    node.children = children;
  }
  put(icicle.zoom, 0, width, level);
  icicle.root.replaceChildren(...boxes);
  icicle.root.style.height = `${(deepest + 1) * LEVEL + 6}px`;
  icicle.zoom.box.tabIndex = 0;
}
const sorted = node => [...node.children.values()].sort((a, b) => b.count - a.count);
function zoom(node) {
  icicle.zoom = node;
  drawIcicle();
  node.box.focus({ preventScroll: true });
  if (node.shape && !node.children.size) showKind(groups().find(group => group.shape === node.shape));
  else showFrame(node);
}
function keys(event, node) {
  const focus = other => { if (other?.box?.isConnected) other.box.focus(); };
  const beside = step => {
    const all = node.parent ? sorted(node.parent) : [node];
    return all[all.indexOf(node) + step];
  };
  switch (event.key) {
    case "ArrowDown": focus(sorted(node)[0]); break;
    case "ArrowUp": focus(node.parent); break;
    case "ArrowRight": focus(beside(1)); break;
    case "ArrowLeft": focus(beside(-1)); break;
    case "Enter": case " ": zoom(node); break;
    case "Escape": zoom(icicle.zoom.parent ?? icicle.top); break;
    default: return;
  }
  event.preventDefault();
}
