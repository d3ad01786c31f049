// A table of which only the rows in sight exist: a hundred thousand rows scroll like ten.
const ROW = 34;
// columns: { title, width, narrow (on narrow screens; none: not shown there), number, cell(row) -> node,
// value(row) -> sort key }; choose(row) is called when one is opened.
function grid(label, columns, choose) {
  const body = el("div", { class: "grid-body", tabindex: 0, role: "grid", "aria-label": label,
    "aria-colcount": columns.length });
  const filler = el("div", { role: "presentation" });
  body.append(filler);
  const id = `grid-${label.replaceAll(" ", "-")}`;
  const looks = column => `${column.number ? "number" : ""} ${column.narrow ? "" : "narrow-no"}`.trim() || null;
  const heads = columns.map((column, index) => el("div", { class: looks(column) },
    button(column.title, () => sort(index), { title: `Sort by ${column.title}` })));
  const root = el("div", { class: "grid" }, el("div", { class: "grid-head" }, heads), body);
  root.style.setProperty("--columns", columns.map(column => column.width).join(" "));
  root.style.setProperty("--narrow-columns", columns.map(column => column.narrow).filter(width => width).join(" "));
  const state = { rows: [], chosen: -1, sorted: null, ascending: false };

  function sort(index, ascending) {
    const column = columns[index];
    if (!column.value) return;
    state.ascending = ascending ?? (state.sorted === index ? !state.ascending : !column.number);
    state.sorted = index;
    arrange();
    draw();
  }
  function arrange() {
    heads.forEach((head, index) => {
      const way = state.sorted === index ? (state.ascending ? " ▲" : " ▼") : "";
      head.firstChild.textContent = columns[index].title + way;
      head.firstChild.setAttribute("aria-label",
        `${columns[index].title}, ${way ? (state.ascending ? "sorted upwards" : "sorted downwards") : "not sorted"}`);
    });
    if (state.sorted === null) return;
    const kept = state.rows[state.chosen];
    const keys = new Map(Array.from(state.rows, row => [row, columns[state.sorted].value(row)]));
    const sign = state.ascending ? 1 : -1;
    state.rows = Array.from(state.rows).sort((a, b) => {
      const [x, y] = [keys.get(a), keys.get(b)];
      return (x < y ? -1 : x > y ? 1 : 0) * sign;
    });
    state.chosen = kept === undefined ? -1 : state.rows.indexOf(kept);
  }
  function draw() {
    const count = state.rows.length;
    body.setAttribute("aria-rowcount", count);
    filler.style.height = `${Math.max(count * ROW, 1)}px`;
    const first = Math.max(0, Math.floor(body.scrollTop / ROW) - 6);
    const last = Math.min(count, first + Math.ceil((body.clientHeight || 600) / ROW) + 12);
    const rows = [];
    for (let i = first; i < last; i++) {
      const row = el("div", { class: "grid-row", role: "row", id: `${id}-${i}`, "aria-rowindex": i + 1,
        "aria-selected": String(i === state.chosen), onclick: () => { pick(i); open(); } },
      columns.map(column => el("div", { role: "gridcell", class: looks(column) }, column.cell(state.rows[i]))));
      row.style.top = `${i * ROW}px`;
      rows.push(row);
    }
    filler.replaceChildren(...rows);
    if (!count) filler.replaceChildren(el("p", { class: "empty" }, "Nothing matches."));
    filler.style.minHeight = count ? "" : "90px";
    if (state.chosen >= 0) body.setAttribute("aria-activedescendant", `${id}-${state.chosen}`);
    else body.removeAttribute("aria-activedescendant");
  }
  function pick(index) {
    state.chosen = Math.max(0, Math.min(state.rows.length - 1, index));
    const top = state.chosen * ROW;
    if (top < body.scrollTop) body.scrollTop = top;
    else if (top + ROW > body.scrollTop + body.clientHeight) body.scrollTop = top + ROW - body.clientHeight;
    draw();
  }
  function open() {
    if (state.chosen >= 0 && state.chosen < state.rows.length) choose(state.rows[state.chosen]);
  }
  body.addEventListener("scroll", draw, { passive: true });
  body.addEventListener("keydown", event => {
    const page = Math.max(1, Math.floor(body.clientHeight / ROW) - 1);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -1e9, End: 1e9 };
    if (event.key in moves) {
      if (state.rows.length) pick(state.chosen < 0 && moves[event.key] > 0 && moves[event.key] < 1e9 ? 0 : state.chosen + moves[event.key]);
      open();
    } else if (event.key === "Enter" || event.key === " ") {
      open();
      $("details").focus();
    } else return;
    event.preventDefault();
  });
  return {
    root, body,
    show(rows) {
      state.rows = rows;
      state.chosen = -1;
      arrange();
      body.scrollTop = 0;
      draw();
    },
    draw, sort,
    rows: () => state.rows,
  };
}
