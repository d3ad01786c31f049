// The pane beside the views: everything known about what was chosen.
function show(...children) {
  $("details").replaceChildren(...children.flat(Infinity).filter(child => child));
  $("details").scrollTop = 0;
}
const fact = (name, value) => value === "" || value === null || value === undefined ? [] : [el("dt", {}, name), el("dd", {}, value instanceof Node ? value : bdi(String(value)))];
const only = (text, change) => button(text, () => { change(); update(); });

function excerpt(frame) {
  if (!frame.excerpt) return null;
  const lines = frame.excerpt.lines.map((line, index) => {
    const at = frame.excerpt.first + index;
    return el("div", { class: at === frame.line ? "here" : null, "aria-current": at === frame.line ? "true" : null },
      el("i", {}, String(at)), line || " ");
  });
  return el("pre", { class: "excerpt", tabindex: 0, "aria-label": `Source of ${place(frame)}` }, lines);
}
function stackList(stack) {
  return el("ol", { class: "stack", "aria-label": "Stack, innermost function first" }, stack.frames.map((index, at) => {
    const frame = frames[index];
    const blamed = at === stack.blamed;
    const source = excerpt(frame);
    return el("li", { class: frame.own ? "own" : "library" },
      el("span", { class: "function" }, bdi(frame.name)), frame.inlined ? el("span", { class: "tag" }, "inlined") : null,
      blamed ? el("span", { class: "tag blame" }, "blamed") : null,
      frame.doubt ? el("span", { class: "tag" }, frame.doubt === "guess" ? "a guess" : `by ${frame.doubt}`) : null,
      frame.own || !frame.module ? null : el("span", { class: "tag" }, "library"),
      el("div", { class: "place" }, bdi(place(frame) || "nothing more is known")),
      blamed ? source : source && el("details", {}, el("summary", { class: "place" }, "source"), source));
  }));
}
function about(shape) {
  return [
    badge(kind(shape)),
    el("h2", {}, bdi(headline(shape))),
    shape.reason ? el("p", {}, bdi(shape.reason)) : null,
  ];
}
function facts(shape) {
  return [fact("Outcome", done(shape)), fact("Rule", shape.rule), fact("Program", shape.exe || shape.program)];
}
function stackPart(shape) {
  const doubts = shape.doubts ? el("p", { class: "note" }, bdi(shape.doubts)) : null;
  if (!shape.stack.frames.length) return doubts ?? el("p", { class: "note" }, "No stack was recorded (--stack auto records those of leaks).");
  return [el("h3", {}, "Stack"), stackList(shape.stack), doubts];
}
function showKind(group) {
  if (!group) return;
  const { shape } = group;
  const pids = [...group.pids];
  const some = pids.slice(0, 12).join(", ") + (pids.length > 12 ? ` and ${pids.length - 12} more` : "");
  show(about(shape),
    el("dl", {}, fact("Times", number(group.count)), facts(shape), fact(pids.length === 1 ? "Process" : "Processes", some),
      fact("First", `${clock(E.time[group.first])} (${offset(E.time[group.first])})`),
      group.count > 1 ? fact("Last", `${clock(E.time[group.last])} (${offset(E.time[group.last])})`) : null),
    el("div", { class: "actions" },
      only("Only this destination", () => { filter.destination = shape.destination; }),
      only(`Only ${shape.program}`, () => { filter.program = shape.program; }),
      button("Its events", () => { filter.destination = shape.destination; filter.program = shape.program; update(); openTab("events", true); })),
    stackPart(shape));
}
function showEvent(index) {
  const shape = shapes[E.shape[index]], thread = threads[E.thread[index]];
  show(about(shape),
    el("dl", {}, fact("When", `${clock(E.time[index])} (${offset(E.time[index])})`), facts(shape), fact("Process", thread.pid),
      fact("Parent", thread.ppid), fact("Thread", thread.tid !== thread.pid ? `${thread.tid} (${thread.name})` : thread.name)),
    el("div", { class: "actions" },
      only("Only this process", () => { filter.pid = labelled(new Set([thread.pid]), thread.pid); }),
      only("Only this destination", () => { filter.destination = shape.destination; })),
    stackPart(shape));
}
const labelled = (set, label) => Object.assign(set, { label: String(label) });
function kindList(list) {
  return el("ol", { class: "stack" }, list.slice(0, 50).map(group => el("li", {},
    badge(kind(group.shape)), `  ${number(group.count)} × `, bdi(headline(group.shape)),
    el("div", { class: "place" }, bdi(group.shape.blamed ? `${group.shape.blamed.name}  ${place(group.shape.blamed)}` : group.shape.program)),
    el("div", { class: "actions" }, button("Details", () => { showKind(group); $("details").focus(); })))));
}
function showDestination(row) {
  show(el("p", { class: "dim" }, "Destination"), el("h2", {}, bdi(row.name || "no address")),
    el("dl", {}, fact("Times", number(row.count)), fact("Classes", [...row.classes].join(", ")), fact("Programs", [...row.programs].join(", "))),
    el("div", { class: "actions" }, only("Only this destination", () => { filter.destination = row.name; })),
    el("h3", {}, "What goes there"), kindList(row.kinds.sort((a, b) => b.count - a.count)));
}
function showProcess(node) {
  const pids = family(node);
  const mine = new Map();
  for (const index of shown) {
    if (threads[E.thread[index]].pid !== node.pid) continue;
    mine.set(E.shape[index], (mine.get(E.shape[index]) ?? 0) + 1);
  }
  const known = new Map(groups().map(group => [group.shape.index, group]));
  const list = [...mine].map(([shape, count]) => ({ ...known.get(shape), count })).sort((a, b) => b.count - a.count);
  show(el("p", { class: "dim" }, "Process"), el("h2", {}, bdi(`${node.name || base(node.exe) || "process"} [${node.pid}]`)),
    el("dl", {}, fact("Program", node.exe), fact("Parent", node.parent ?? ""), fact("Ended", node.ends), fact("Descendants", pids.size > 1 ? pids.size - 1 : "")),
    el("div", { class: "actions" },
      only("Only this process", () => { filter.pid = labelled(new Set([node.pid]), node.pid); }),
      pids.size > 1 ? only("With its descendants", () => { filter.pid = labelled(pids, `${node.pid} and below`); }) : null),
    list.length ? [el("h3", {}, "What it did"), kindList(list)] : el("p", { class: "note" }, "Nothing of it is shown."));
}
function showFrame(node) {
  const share = (node.count / Math.max(icicle.top.count, 1) * 100).toFixed(1);
  show(el("p", { class: "dim" }, node.frame ? "Function" : "Stacks"), el("h2", {}, bdi(node.name)),
    el("dl", {}, fact("Times", `${number(node.count)} (${share} %)`), node.frame ? [fact("Where", place(node.frame)), fact("Module", node.frame.module)] : null),
    node.frame ? el("div", { class: "actions" }, only("Only through this function", () => { filter.frame = node.name; })) : null,
    node.frame ? excerpt(node.frame) : null);
}
