// What is shown: filters over the events, and what changes when they do.
const filter = { words: [], classes: new Set(), allowed: false, pid: null, program: null, destination: null, frame: null, from: null, to: null };
let shown = new Uint32Array(0);
const listeners = [];
const onShown = listener => listeners.push(listener);

function matches(index) {
  const shape = shapes[E.shape[index]];
  if (!shape.leak && !filter.allowed) return false;
  if (filter.classes.size && !filter.classes.has(kind(shape))) return false;
  if (filter.program !== null && shape.program !== filter.program) return false;
  if (filter.destination !== null && shape.destination !== filter.destination) return false;
  if (filter.pid !== null && !filter.pid.has(threads[E.thread[index]].pid)) return false;
  const time = E.time[index];
  return !(filter.from !== null && (time < filter.from || time > filter.to));
}

function update() {
  // Words are looked for in each kind of event and each thread once, not in each event.
  const ofShapes = filter.words.map(word => shapes.map(shape => shape.text.includes(word)));
  const ofThreads = filter.words.map(word => threads.map(thread => thread.text.includes(word)));
  const through = filter.frame === null ? null
    : shapes.map(shape => shape.stack.frames.some(index => frames[index].name === filter.frame));
  const list = new Uint32Array(COUNT);
  let length = 0;
  for (let i = 0; i < COUNT; i++) {
    if (!matches(i)) continue;
    if (through && !through[E.shape[i]]) continue;
    if (!filter.words.every((_, word) => ofShapes[word][E.shape[i]] || ofThreads[word][E.thread[i]])) continue;
    list[length++] = i;
  }
  shown = list.subarray(0, length);
  chips();
  for (const listener of listeners) listener();
}

function chips() {
  const list = [];
  const chip = (text, clear) => list.push(button(`${text}  ✕`, () => { clear(); update(); $("search").focus(); },
    { class: "chip", "aria-label": `Remove the filter ${text}` }));
  for (const name of filter.classes) chip(`class ${name}`, () => { filter.classes.delete(name); });
  if (filter.program !== null) chip(`program ${filter.program}`, () => { filter.program = null; });
  if (filter.pid !== null) chip(`process ${filter.pid.label}`, () => { filter.pid = null; });
  if (filter.destination !== null) chip(`to ${filter.destination || "no address"}`, () => { filter.destination = null; });
  if (filter.frame !== null) chip(`through ${filter.frame}`, () => { filter.frame = null; });
  if (filter.from !== null) chip(`from ${offset(filter.from)} to ${offset(filter.to)}`, () => { filter.from = filter.to = null; });
  $("chips").replaceChildren(...list);
}

function clearFilters() {
  Object.assign(filter, { words: [], pid: null, program: null, destination: null, frame: null, from: null, to: null });
  filter.classes.clear();
  $("search").value = "";
  update();
}

// The kinds of events shown, with how often, when, and by whom.
function groups() {
  const byShape = new Map();
  for (const index of shown) {
    const shape = E.shape[index];
    let group = byShape.get(shape);
    if (!group) byShape.set(shape, group = { shape: shapes[shape], count: 0, first: index, last: index, pids: new Set() });
    group.count++;
    group.last = index;
    if (group.pids.size < 1000) group.pids.add(threads[E.thread[index]].pid);
  }
  return [...byShape.values()];
}

function numbers() {
  let leaks = 0;
  for (const index of shown) if (shapes[E.shape[index]].leak) leaks++;
  const kinds = new Set();
  for (const index of shown) kinds.add(E.shape[index]);
  const others = shown.length - leaks;
  const calls = others ? ` and ${plural(others, "allowed call")}` : "";
  $("count").textContent = `${plural(leaks, "leak")}${calls} of ${plural(kinds.size, "kind")} shown`;
}
onShown(numbers);
