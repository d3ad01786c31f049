// The timeline: events over time, in as many bins as fit, classes stacked and told apart by pattern too.
const timeline = { bins: 120, width: 0, anchor: null, cursor: 0 };
const ORDER = [...CLASSES, "other", "allowed"];
// With an id prefix, as the legend has its own.
function patterns(prefix) {
  const shapes = {
    outbound: [], inbound: [svg("path", { d: "M0 6L6 0", stroke: "var(--card)", "stroke-width": 1.6 })],
    disclosure: [svg("circle", { cx: 3, cy: 3, r: 1.4, fill: "var(--card)" })],
    proxy: [svg("path", { d: "M0 3H6", stroke: "var(--card)", "stroke-width": 1.6 })],
    other: [svg("path", { d: "M3 0V6", stroke: "var(--card)", "stroke-width": 1.6 })],
    allowed: [svg("path", { d: "M0 0L6 6M6 0L0 6", stroke: "var(--card)", "stroke-width": 1.2 })],
  };
  return svg("defs", {}, Object.entries(shapes).map(([name, marks]) =>
    svg("pattern", { id: prefix + name, width: 6, height: 6, patternUnits: "userSpaceOnUse" },
      svg("rect", { width: 6, height: 6, fill: name === "other" ? "var(--dim)" : `var(--${name})` }), marks)));
}
const timeAt = bin => EARLIEST + bin / timeline.bins * SPAN;

function drawTimeline() {
  const box = $("timeline");
  const width = Math.max(box.clientWidth, 200), height = 112, floor = height - 18;
  timeline.bins = Math.max(20, Math.min(240, Math.floor(width / 8)));
  timeline.width = width;
  const counts = ORDER.map(() => new Uint32Array(timeline.bins));
  const total = new Uint32Array(timeline.bins);
  for (const index of shown) {
    const bin = Math.min(timeline.bins - 1, Math.floor((E.time[index] - EARLIEST) / SPAN * timeline.bins));
    const row = ORDER.indexOf(tone(kind(shapes[E.shape[index]])));
    counts[row][bin]++;
    total[bin]++;
  }
  let highest = 1;
  for (const value of total) if (value > highest) highest = value;
  const step = width / timeline.bins;
  const bars = [];
  for (let bin = 0; bin < timeline.bins; bin++) {
    let y = floor;
    if (!total[bin]) continue;
    // One leak among thousands must still be seen.
    const whole = Math.max(3, total[bin] / highest * (floor - 16));
    const said = [];
    const group = svg("g");
    ORDER.forEach((name, row) => {
      const count = counts[row][bin];
      if (!count) return;
      const part = Math.max(1.5, count / total[bin] * whole);
      y -= part;
      said.push(`${count} ${name}`);
      group.append(svg("rect", { x: bin * step + 0.5, y, width: Math.max(step - 1, 1.5), height: part, fill: `url(#t-${name})` }));
    });
    group.append(svg("title", {}, `${offset(timeAt(bin))}: ${said.join(", ")}`));
    bars.push(group);
  }
  const labels = (width < 560 ? [0, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1]).map(part => svg("text", { x: part * width, y: height - 4,
    "text-anchor": part === 0 ? "start" : part === 1 ? "end" : "middle" }, offset(part * SPAN)));
  const brush = filter.from === null ? null : svg("rect", { class: "brush",
    x: (filter.from - EARLIEST) / SPAN * width, y: 0, height: floor,
    width: Math.max((filter.to - filter.from) / SPAN * width, 2) });
  box.replaceChildren(svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, patterns("t-"),
    svg("text", { x: 0, y: 10 }, `most at once: ${number(highest)}`),
    svg("line", { class: "axis", x1: 0, x2: width, y1: floor + 0.5, y2: floor + 0.5 }), bars, labels, brush));
  box.setAttribute("aria-label", `Timeline of ${plural(shown.length, "event")} over ${(SPAN / 1e6).toFixed(3)} seconds`);
  const present = ORDER.filter((_, row) => counts[row].some(count => count > 0));
  $("legend").replaceChildren(...present.map(name => el("span", {},
    svg("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, patterns("l-"),
      svg("rect", { width: 14, height: 14, fill: `url(#l-${name})` })), name)));
}

function chooseTime(first, last) {
  const [low, high] = [Math.min(first, last), Math.max(first, last)];
  filter.from = timeAt(Math.max(0, low));
  filter.to = timeAt(Math.min(timeline.bins, high + 1));
  $("timeline-said").textContent = `from ${offset(filter.from)} to ${offset(filter.to)}`;
  update();
}

function timelineEvents() {
  const box = $("timeline");
  const binOf = event => {
    const area = box.getBoundingClientRect();
    const part = (event.clientX - area.left) / area.width;
    return Math.max(0, Math.min(timeline.bins - 1, Math.floor(part * timeline.bins)));
  };
  box.addEventListener("pointerdown", event => {
    timeline.anchor = timeline.cursor = binOf(event);
    box.setPointerCapture(event.pointerId);
  });
  box.addEventListener("pointermove", event => {
    if (timeline.anchor === null || !box.hasPointerCapture(event.pointerId)) return;
    const bin = binOf(event);
    if (bin === timeline.cursor) return;
    timeline.cursor = bin;
    chooseTime(timeline.anchor, bin);
  });
  box.addEventListener("pointerup", event => {
    // A click without a drag takes the choice back.
    if (timeline.anchor === binOf(event) && timeline.cursor === timeline.anchor && filter.from !== null) {
      filter.from = filter.to = null;
      update();
    }
  });
  box.addEventListener("keydown", event => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move) {
      timeline.cursor = Math.max(0, Math.min(timeline.bins - 1, filter.from === null ? 0 : timeline.cursor + move));
      if (!event.shiftKey || filter.from === null) timeline.anchor = timeline.cursor;
      chooseTime(timeline.anchor, timeline.cursor);
    } else if (event.key === "Escape" && filter.from !== null) {
      filter.from = filter.to = null;
      $("timeline-said").textContent = "the whole time";
      update();
    } else return;
    event.preventDefault();
  });
}
onShown(drawTimeline);
