// Putting it together: numbers, tabs, filters, theme, paper.
const TABS = [
  { id: "kinds", title: "Leaks by kind", root: kindsGrid.root, draw: () => { kindsGrid.show(groups()); } },
  { id: "events", title: "Events", root: eventsGrid.root, draw: () => { eventsGrid.show(shown); } },
  { id: "destinations", title: "Destinations", root: destinationsGrid.root, draw: () => { destinationsGrid.show(destinations()); } },
  { id: "processes", title: "Processes", root: processes.root, draw: drawTree },
  { id: "stacks", title: "Stacks", root: icicle.root, draw: () => { buildIcicle(); drawIcicle(); },
    note: "Bold boxes are the program's own code, the last box is the call. Enter or a click zooms in, Escape zooms out, arrow keys move." },
];
let current = "kinds";

function openTab(id, focus) {
  current = id;
  for (const tab of TABS) {
    const chosen = tab.id === id;
    tab.button.setAttribute("aria-selected", String(chosen));
    tab.button.tabIndex = chosen ? 0 : -1;
    tab.panel.hidden = !chosen;
    if (chosen) tab.draw();
    if (chosen && focus) tab.button.focus();
  }
}
function makeTabs() {
  for (const tab of TABS) {
    tab.button = button(tab.title, () => openTab(tab.id), { role: "tab", id: `tab-${tab.id}`, "aria-controls": `panel-${tab.id}` });
    tab.panel = el("div", { role: "tabpanel", id: `panel-${tab.id}`, "aria-labelledby": `tab-${tab.id}`, hidden: true },
      tab.root, tab.note ? el("p", { class: "note" }, tab.note) : null);
    $("tabs").append(tab.button);
    $("panels").append(tab.panel);
  }
  $("tabs").addEventListener("keydown", event => {
    const at = TABS.findIndex(tab => tab.id === current);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: TABS.length - 1 }[event.key];
    if (to === undefined) return;
    openTab(TABS[(to + TABS.length) % TABS.length].id, true);
    event.preventDefault();
  });
}
function makeTiles() {
  const totals = raw.totals;
  const tile = (count, name, more) => el("div", { class: "tile" }, el("b", {}, number(count)), el("span", { class: "name" }, name), el("small", {}, more));
  const kinds = new Set();
  const places = new Set();
  for (let i = 0; i < COUNT; i++) {
    const shape = shapes[E.shape[i]];
    if (!shape.leak) continue;
    kinds.add(shape.index);
    places.add(shape.destination);
  }
  const list = [
    tile(totals.leaks, totals.leaks === 1 ? "leak" : "leaks", `${plural(kinds.size, "kind")}, ${plural(places.size, "destination")}`),
    tile(totals.calls, totals.calls === 1 ? "call judged" : "calls judged", `in ${plural(totals.processes, "process")}`),
  ];
  const names = [...CLASSES.filter(name => totals.classes[name]), ...Object.keys(totals.classes).filter(name => !CLASSES.includes(name))];
  const MEANING = { outbound: "traffic past the proxy", inbound: "reachable from outside", disclosure: "the host's network shows itself", proxy: "the proxy is misused" };
  for (const name of names) {
    const toggle = button("", () => { if (!filter.classes.delete(name)) filter.classes.add(name); update(); },
      { class: `tile ${tone(name)}`, "aria-pressed": "false" });
    toggle.append(el("b", {}, number(totals.classes[name])), el("span", { class: "name" }, `${MARKS[name] ?? "•"} ${name}`), el("small", {}, MEANING[name] ?? "a class of its own"));
    onShown(() => toggle.setAttribute("aria-pressed", String(filter.classes.has(name))));
    list.push(toggle);
  }
  $("tiles").replaceChildren(...list);
}
function makeHead() {
  if (raw.start !== null) {
    const exit = raw.totals.exit === null ? "" : ` · exit status ${raw.totals.exit}`;
    $("when").textContent = `${clock(0)} · ${(SPAN / 1e6).toFixed(3)} s${exit}`;
  }
  const doubts = [...raw.warnings];
  if (raw.omitted.leaks) doubts.push(`${plural(raw.omitted.leaks, "leak")} more are counted, but not in this file: it would be too large.`);
  if (raw.omitted.allowed) doubts.push(`${plural(raw.omitted.allowed, "allowed call")} more are counted, but not in this file.`);
  $("warnings").replaceChildren(...doubts.map(text => el("li", {}, bdi(text))));
  $("warnings").hidden = !doubts.length;
}
function makeFilters() {
  const search = $("search");
  let timer = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      filter.words = search.value.toLowerCase().split(/\s+/).filter(word => word);
      update();
    }, COUNT > 20000 ? 120 : 0);
  });
  $("filters").addEventListener("submit", event => event.preventDefault());
  $("clear").addEventListener("click", clearFilters);
  $("allowed-label").hidden = shapes.every(shape => shape.leak);
  $("allowed").addEventListener("change", event => { filter.allowed = event.target.checked; update(); });
  document.addEventListener("keydown", event => {
    const typing = event.target.matches("input, textarea");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      search.focus();
      event.preventDefault();
    } else if (event.key === "Escape" && $("details").contains(event.target)) {
      TABS.find(tab => tab.id === current).panel.querySelector("[tabindex='0']")?.focus();
    }
  });
}
function makeTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const themes = ["auto", "light", "dark"];
  let at = 0;
  const apply = () => {
    const theme = themes[at];
    document.documentElement.dataset.theme = theme === "auto" ? (system.matches ? "dark" : "light") : theme;
    $("theme").textContent = { auto: "◐ System", light: "☀ Light", dark: "☾ Dark" }[theme];
  };
  system.addEventListener("change", apply);
  $("theme").addEventListener("click", () => { at = (at + 1) % themes.length; apply(); });
  apply();
}
function makePaper() {
  const MOST = 500;
  const print = () => {
    const list = groups().sort((a, b) => b.count - a.count);
    const article = group => el("article", {}, el("h3", {}, badge(kind(group.shape)), `  ${number(group.count)} × `, bdi(headline(group.shape)), ` by ${group.shape.program}`),
      el("p", {}, `${done(group.shape)}. `, bdi(group.shape.reason)), group.shape.stack.frames.length ? stackList(group.shape.stack) : null);
    $("paper").replaceChildren(...list.slice(0, MOST).map(article));
    if (list.length > MOST) $("paper").append(el("p", {}, `and ${number(list.length - MOST)} kinds more`));
  };
  addEventListener("beforeprint", print);
  addEventListener("afterprint", () => $("paper").replaceChildren());
  $("paper-button").addEventListener("click", () => window.print());
}

makeTheme();
makeHead();
makeTiles();
makeTabs();
makeFilters();
makePaper();
timelineEvents();
$("app").hidden = false;
if (!shapes.some(shape => shape.leak)) { filter.allowed = true; $("allowed").checked = true; }
kindsGrid.sort(1, false);
onShown(() => openTab(current));
update();
show(el("p", { class: "dim" }, COUNT ? "Choose a line to see everything about it: its stack, the source, who did it." : "There is nothing to see: no event was recorded."));
let resized = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(resized);
  resized = requestAnimationFrame(() => {
    drawTimeline();
    if (current === "stacks") drawIcicle();
    else if (current !== "processes") ({ kinds: kindsGrid, events: eventsGrid, destinations: destinationsGrid })[current].draw();
  });
});
