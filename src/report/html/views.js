// The views: kinds of leaks, single events, destinations, processes.
const cellText = text => el("bdi", { title: text }, text);

const kindsGrid = grid("Leaks by kind", [
  { title: "Class", width: "132px", narrow: "58px", cell: row => badge(kind(row.shape)), value: row => kind(row.shape) },
  { title: "Times", width: "82px", narrow: "74px", number: true, cell: row => number(row.count), value: row => row.count },
  { title: "Call and destination", width: "minmax(0, 1.5fr)", narrow: "minmax(0, 1fr)", cell: row => cellText(headline(row.shape)), value: row => headline(row.shape) },
  { title: "Program", width: "minmax(0, 0.7fr)", cell: row => cellText(row.shape.program), value: row => row.shape.program },
  { title: "Blamed code", width: "minmax(0, 1.1fr)",
    cell: row => row.shape.blamed ? el("bdi", { title: place(row.shape.blamed) }, el("b", {}, row.shape.blamed.name),
      el("span", { class: "dim" }, `  ${shortPlace(row.shape.blamed)}`)) : el("span", { class: "dim" }, "no stack"),
    value: row => row.shape.blamed ? row.shape.blamed.name : "" },
], row => showKind(row));

const eventsGrid = grid("Events", [
  { title: "Time", width: "136px", narrow: "112px", cell: index => el("span", { title: clock(E.time[index]) }, offset(E.time[index])), value: index => E.time[index] },
  { title: "Class", width: "132px", narrow: "58px", cell: index => badge(kind(shapes[E.shape[index]])), value: index => kind(shapes[E.shape[index]]) },
  { title: "Call and destination", width: "minmax(0, 1.5fr)", narrow: "minmax(0, 1fr)", cell: index => cellText(headline(shapes[E.shape[index]])), value: index => headline(shapes[E.shape[index]]) },
  { title: "Process", width: "minmax(0, 0.8fr)", cell: index => cellText(who(threads[E.thread[index]])), value: index => threads[E.thread[index]].pid },
  { title: "Outcome", width: "minmax(0, 0.7fr)", cell: index => cellText(done(shapes[E.shape[index]])), value: index => done(shapes[E.shape[index]]) },
], index => showEvent(index));

const destinationsGrid = grid("Destinations", [
  { title: "Destination", width: "minmax(0, 1.2fr)", narrow: "minmax(0, 1fr)", cell: row => row.name ? cellText(row.name) : el("span", { class: "dim" }, "no address"), value: row => row.name },
  { title: "Times", width: "90px", narrow: "74px", number: true, cell: row => number(row.count), value: row => row.count },
  { title: "Share", width: "minmax(60px, 0.5fr)", cell: row => share(row.count), value: row => row.count },
  { title: "Classes", width: "minmax(0, 0.8fr)", cell: row => cellText([...row.classes].join(", ")), value: row => [...row.classes].join() },
  { title: "Programs", width: "minmax(0, 0.8fr)", cell: row => cellText([...row.programs].join(", ")), value: row => [...row.programs].join() },
], row => showDestination(row));

function who(thread) {
  const other = thread.tid !== thread.pid ? `/${thread.tid}` : "";
  return `${thread.name || base(thread.exe) || "?"}[${thread.pid}${other}]`;
}
function share(count) {
  const bar = el("span", { class: "bar", "aria-hidden": "true" });
  bar.style.width = `${count / Math.max(shown.length, 1) * 100}%`;
  return bar;
}
function destinations() {
  const byName = new Map();
  for (const group of groups()) {
    const name = group.shape.destination;
    let row = byName.get(name);
    if (!row) byName.set(name, row = { name, count: 0, classes: new Set(), programs: new Set(), kinds: [] });
    row.count += group.count;
    row.classes.add(kind(group.shape));
    row.programs.add(group.shape.program);
    row.kinds.push(group);
  }
  return [...byName.values()];
}

// Processes: who started whom, as far as the events tell.
const processes = { nodes: new Map(), closed: new Set(), chosen: null, root: el("div", { class: "tree", role: "tree", tabindex: 0, "aria-label": "Processes" }) };
const MOST_NODES = 3000;
for (const thread of threads) {
  let node = processes.nodes.get(thread.pid);
  if (!node) processes.nodes.set(thread.pid, node = { pid: thread.pid, parent: thread.ppid, name: "", exe: "", ends: "", children: [] });
  if (thread.tid === thread.pid || !node.name) node.name = thread.name;
  node.exe = thread.exe || node.exe;
  node.parent ??= thread.ppid;
}
for (const [pid, ppid, name, exe, end] of raw.processes) {
  let node = processes.nodes.get(pid);
  if (!node) processes.nodes.set(pid, node = { pid, parent: ppid, name: S[name], exe: S[exe], ends: "", children: [] });
  node.ends = S[end] || node.ends;
  node.parent ??= ppid;
  node.exe ||= S[exe];
}
for (const node of [...processes.nodes.values()]) {
  // A parent of which nothing else is known still shows who belongs together.
  if (node.parent && node.parent !== node.pid && !processes.nodes.has(node.parent)) {
    processes.nodes.set(node.parent, { pid: node.parent, parent: null, name: "", exe: "", ends: "", children: [], unknown: true });
  }
}
for (const node of processes.nodes.values()) {
  const parent = processes.nodes.get(node.parent);
  if (parent && parent !== node) parent.children.push(node);
  else node.parent = null;
}
// Whoever reaches no root stands in a circle of reused process ids.
const isBelow = new Set();
const walk = node => { if (isBelow.has(node)) return; isBelow.add(node); node.children.forEach(walk); };
for (const node of processes.nodes.values()) if (node.parent === null) walk(node);
for (const node of processes.nodes.values()) if (!isBelow.has(node)) { node.parent = null; walk(node); }

function family(node, pids = new Set()) {
  if (pids.has(node.pid)) return pids;
  pids.add(node.pid);
  node.children.forEach(child => family(child, pids));
  return pids;
}
function treeRows() {
  const own = new Map();
  for (const index of shown) {
    const pid = threads[E.thread[index]].pid;
    own.set(pid, (own.get(pid) ?? 0) + 1);
  }
  const rows = [], seen = new Set();
  const sum = node => {
    if (seen.has(node)) return 0;
    seen.add(node);
    node.own = own.get(node.pid) ?? 0;
    node.all = node.own + node.children.reduce((all, child) => all + sum(child), 0);
    return node.all;
  };
  const roots = [...processes.nodes.values()].filter(node => node.parent === null);
  roots.forEach(sum);
  const listed = new Set();
  const list = (node, level) => {
    if (rows.length >= MOST_NODES || listed.has(node)) return;
    listed.add(node);
    if (!node.all && level === 1 && filter.pid === null && !node.ends && !node.children.length) return;
    rows.push([node, level]);
    if (!processes.closed.has(node.pid)) node.children.slice().sort((a, b) => b.all - a.all || a.pid - b.pid).forEach(child => list(child, level + 1));
  };
  roots.sort((a, b) => b.all - a.all || a.pid - b.pid).forEach(node => list(node, 1));
  return rows;
}
function drawTree() {
  const rows = processes.rows = treeRows();
  const item = ([node, level], index) => {
    const open = node.children.length ? String(!processes.closed.has(node.pid)) : null;
    const title = node.unknown ? `process ${node.pid}` : `${node.name || base(node.exe) || "?"}[${node.pid}]`;
    const row = el("div", { class: "tree-row", role: "treeitem", id: `process-${index}`, "aria-level": level,
      "aria-expanded": open, "aria-selected": String(processes.chosen === node.pid),
      onclick: event => { if (event.target.classList.contains("twist")) fold(node); chooseProcess(node); } },
    el("span", { class: "twist", "aria-hidden": "true" }, open === null ? "" : open === "true" ? "▾" : "▸"),
    el("span", {}, bdi(title)), node.ends ? el("span", { class: "tag" }, node.ends) : null,
    node.unknown ? el("span", { class: "path" }, "made no judged call itself") : el("span", { class: "path narrow-no" }, bdi(node.exe)),
    el("span", { class: "leaks" }, node.children.length ? `${number(node.own)} own, ${number(node.all)} in all` : number(node.own)));
    row.style.paddingLeft = `${8 + (level - 1) * 22}px`;
    return row;
  };
  processes.root.replaceChildren(...rows.map(item));
  if (!rows.length) processes.root.append(el("p", { class: "empty" }, "Nothing matches."));
  if (rows.length >= MOST_NODES) processes.root.append(el("p", { class: "note" }, `Only ${number(MOST_NODES)} processes are shown: use the search.`));
  const chosen = rows.findIndex(([node]) => node.pid === processes.chosen);
  if (chosen >= 0) processes.root.setAttribute("aria-activedescendant", `process-${chosen}`);
  else processes.root.removeAttribute("aria-activedescendant");
}
function fold(node) {
  if (!processes.closed.delete(node.pid)) processes.closed.add(node.pid);
}
function chooseProcess(node) {
  processes.chosen = node.pid;
  drawTree();
  showProcess(node);
}
processes.root.addEventListener("keydown", event => {
  const rows = processes.rows ?? [];
  const at = rows.findIndex(([node]) => node.pid === processes.chosen);
  const node = rows[at]?.[0];
  const go = index => { if (rows[index]) { chooseProcess(rows[index][0]); $(`process-${index}`)?.scrollIntoView({ block: "nearest" }); } };
  switch (event.key) {
    case "ArrowDown": go(at + 1); break;
    case "ArrowUp": go(Math.max(0, at - 1)); break;
    case "Home": go(0); break;
    case "End": go(rows.length - 1); break;
    case "ArrowRight": if (node && processes.closed.has(node.pid)) { fold(node); drawTree(); } else go(at + 1); break;
    case "ArrowLeft":
      if (node && node.children.length && !processes.closed.has(node.pid)) { fold(node); drawTree(); }
      else if (node) go(rows.findIndex(([other]) => other.pid === node.parent));
      break;
    case "Enter": case " ": if (node) $("details").focus(); break;
    default: return;
  }
  event.preventDefault();
});
