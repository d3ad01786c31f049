// The data, decoded: one entry of every column for each event. Texts were made harmless by the writer
// (no control characters), and reach the page as text nodes only.
const raw = JSON.parse(document.getElementById("data").textContent);
const S = raw.strings;
const CLASSES = ["outbound", "inbound", "disclosure", "proxy"];
const MARKS = { outbound: "↗", inbound: "↙", disclosure: "◉", proxy: "⇄", allowed: "✓" };
const frames = raw.frames.map(([name, module, file, line, own, inlined, doubt, excerpt]) => ({
  name: S[name], module: S[module] || "", file: S[file] || "", line, own: own === 1, inlined: inlined === 1, doubt: S[doubt],
  excerpt: excerpt ? { first: excerpt[0], lines: excerpt[1] } : null,
}));
const stacks = raw.stacks.map(([blamed, ...list]) => ({ blamed, frames: list }));
const NO_STACK = { blamed: -1, frames: [] };
const shapes = raw.shapes.map(([leak, cls, call, destination, program, exe, action, errno, reason, rule, doubts, stack], index) => ({
  index, leak: leak === 1, cls: S[cls], call: S[call], destination: S[destination], program: S[program], exe: S[exe],
  action: S[action], errno: S[errno], reason: S[reason], rule: S[rule], doubts: S[doubts], stack: stack < 0 ? NO_STACK : stacks[stack],
}));
const threads = raw.threads.map(([pid, tid, ppid, name, exe]) => ({ pid, tid, ppid, name: S[name], exe: S[exe] }));
const COUNT = raw.events.shape.length;
const E = {
  shape: Uint32Array.from(raw.events.shape),
  thread: Uint32Array.from(raw.events.thread),
  // Microseconds after the first event.
  time: Float64Array.from(raw.events.time),
};
for (let i = 1; i < COUNT; i++) E.time[i] += E.time[i - 1];
let EARLIEST = 0, LATEST = 0;
for (let i = 0; i < COUNT; i++) {
  if (E.time[i] < EARLIEST) EARLIEST = E.time[i];
  if (E.time[i] > LATEST) LATEST = E.time[i];
}
const SPAN = Math.max(LATEST - EARLIEST, 1);

for (const shape of shapes) {
  shape.blamed = shape.stack.blamed < 0 ? null : frames[shape.stack.frames[shape.stack.blamed]];
  shape.text = [shape.cls, shape.call, shape.destination, shape.program, shape.exe, shape.reason, shape.rule, shape.errno,
    ...shape.stack.frames.map(index => `${frames[index].name} ${frames[index].file} ${frames[index].module}`)].join("\n").toLowerCase();
}
for (const thread of threads) thread.text = `${thread.name}[${thread.pid}/${thread.tid}]`.toLowerCase();

const base = path => path.slice(path.lastIndexOf("/") + 1);
const place = frame => frame.file ? (frame.line ? `${frame.file}:${frame.line}` : frame.file) : frame.module;
const shortPlace = frame => frame.file ? (frame.line ? `${base(frame.file)}:${frame.line}` : base(frame.file)) : base(frame.module);
const kind = shape => shape.leak ? shape.cls : "allowed";
const tone = name => CLASSES.includes(name) || name === "allowed" ? name : "other";
const number = value => value.toLocaleString("en-US");
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : noun.endsWith("s") ? "es" : "s"}`;
const headline = shape => `${shape.call}${shape.destination ? " " + shape.destination : ""}`;
const DONE = { continue: "let go", block: "blocked", redirect: "redirected to the proxy", kill: "process killed",
  "kill-tree": "tree killed", core: "process ended with SIGABRT", "": "not known" };
const done = shape => (DONE[shape.action] ?? shape.action) + (shape.errno ? ` (${shape.errno})` : "");

function offset(micros) {
  const value = micros / 1e6;
  return `+${value < 100 ? value.toFixed(6) : value.toFixed(3)} s`;
}
function clock(micros) {
  if (raw.start === null) return offset(micros);
  return new Date(raw.start + micros / 1000).toISOString().replace("T", " ").replace("Z", " UTC");
}
