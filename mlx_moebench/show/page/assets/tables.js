// What a figure shows as a table, to read and to save: columns, how many rows, and a function that makes one, since a
// table has thousands of which a page of it shows a few.
"use strict";

MB.tableOf = (drawing, state) => {
  if (drawing.kind === "chart") return chartTable(drawing);
  if (drawing.kind in MB.sketches) {
    const { columns, rows } = MB.sketches[drawing.kind].table(drawing, state);
    return { columns, length: rows.length, row: (n) => rows[n] };
  }
  if (drawing.kind === "nothing") return { columns: [], length: 0, row: () => [] };
  return drawing.diagonal.length ? pairTable(drawing, state) : heatTable(drawing);
};

const chartTable = (chart) => {
  const facts = Object.keys(chart.lines[0]?.facts ?? {});
  const head = chart.line_head ? [chart.line_head] : [];
  const columns = [...head, ...chart.point_heads, chart.value, ...chart.ends, ...facts, "reason"];
  const rows = chart.lines.flatMap((line) => MB.shared(line.points).cells.map((cells, i) => [line, cells, i]));
  const row = ([line, cells, i]) => [
    ...head.map(() => line.name),
    ...cells,
    ...line.values[i].slice(0, 3),
    ...facts.map((name) => MB.shared(line.facts[name])[i]),
    MB.reason(line.values[i]),
  ];
  return { columns, length: rows.length, row: (n) => row(rows[n]) };
};

const heatTable = (heat) => {
  const measures = Object.entries(heat.measures);
  const ends = (measure) => (measure.low === null ? [] : ["low", "high"]);
  const heads = measures.flatMap(([, measure]) => [measure.words, ...ends(measure)]);
  const readers = measures.map(([name, measure]) => {
    const interval = MB.intervals(heat, name);
    return (row, column) => interval(row, column).slice(0, measure.low === null ? 1 : 3);
  });
  const lengths = MB.lengths(heat, heat.measures[heat.shown].cells);
  const cells = lengths.flatMap((length, row) => Array.from({ length }, (_, column) => [row, column]));
  const row = ([number, column]) => [
    ...heat.row_cells[number],
    column,
    ...readers.flatMap((read) => read(number, column)),
  ];
  return { columns: [...heat.row_heads, heat.x, ...heads], length: cells.length, row: (n) => row(cells[n]) };
};

// Every two experts once, those of the largest value first.
const pairTable = (heat, state) => {
  const measures = Object.entries(heat.measures).map(([name, measure]) => [MB.values(heat, name), measure]);
  const heads = measures.flatMap(([, measure]) => [measure.words, ...(measure.mirrored ? [measure.mirrored] : [])]);
  const key = MB.values(heat, state.measure ?? heat.shown);
  const n = heat.facts.own.length;
  const pairs = [];
  for (let i = 0; i < n; i += 1) for (let j = i + 1; j < n; j += 1) pairs.push([i, j, key(i, j) ?? -Infinity]);
  pairs.sort((a, b) => b[2] - a[2]);
  const row = ([i, j]) => [
    ...heat.row_cells[0],
    i,
    j,
    ...measures.flatMap(([value, measure]) => (measure.mirrored ? [value(i, j), value(j, i)] : [value(i, j)])),
  ];
  const columns = [...heat.row_heads, heat.x, `other ${heat.x}`, ...heads];
  return { columns, length: pairs.length, row: (k) => row(pairs[k]) };
};

const words = (value) => {
  if (typeof value === "number" && !Number.isInteger(value)) return MB.number(value, 4);
  return value === null || value === undefined ? "" : String(value);
};

// A table element of the first `most` rows.
MB.table = ({ columns, rows }, most) => {
  const numeric = columns.map(
    (_, i) => rows.length > 0 && rows.every((row) => row[i] === null || typeof row[i] === "number"),
  );
  const head = columns.map((text, i) => MB.element("th", { scope: "col", class: numeric[i] ? "number" : null, text }));
  const cell = (value, i) => {
    const text = words(value);
    if (numeric[i]) return MB.element("td", { class: "number", text });
    return MB.element("td", { class: text.length > 34 ? "long" : null, dir: "auto", text });
  };
  const body = rows.slice(0, most).map((row) => MB.element("tr", {}, ...row.map(cell)));
  const parts = [MB.element("thead", {}, MB.element("tr", {}, ...head)), MB.element("tbody", {}, ...body)];
  const table = MB.element("table", {}, ...parts);
  if (rows.length > most) {
    const [first, all] = [most, rows.length].map((n) => n.toLocaleString("en"));
    table.prepend(MB.element("caption", { text: `The first ${first} of ${all} rows; the CSV has all of them.` }));
  }
  return table;
};

const ROWS_SHOWN = 25;

// A table of one page of rows in `host`, and buttons that lead to the others.
MB.pages = (host, table, label) => {
  const last = Math.max(0, Math.ceil(table.length / ROWS_SHOWN) - 1);
  const scroll = MB.element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Table: ${label}` });
  const where = MB.element("span", { role: "status" });
  let page = 0;
  const show = (wanted) => {
    page = Math.max(0, Math.min(last, wanted));
    const [from, to] = [page * ROWS_SHOWN, Math.min(table.length, (page + 1) * ROWS_SHOWN)];
    const rows = Array.from({ length: to - from }, (_, i) => table.row(from + i));
    scroll.replaceChildren(MB.table({ columns: table.columns, rows }, ROWS_SHOWN));
    scroll.scrollTop = 0;
    const numbers = [from + 1, to, table.length].map((n) => n.toLocaleString("en"));
    where.textContent = `Rows ${numbers[0]} to ${numbers[1]} of ${numbers[2]}`;
    buttons.forEach(({ button, to: at }) => button.setAttribute("aria-disabled", String(at() === page)));
  };
  const button = (text, name, to) => {
    const attributes = { type: "button", text, "aria-label": `${name}: ${label}`, onclick: () => show(to()) };
    return { button: MB.element("button", attributes), to: () => Math.max(0, Math.min(last, to())) };
  };
  const buttons = [
    button("First", "First rows", () => 0),
    button("Previous", "Previous rows", () => page - 1),
    button("Next", "Next rows", () => page + 1),
    button("Last", "Last rows", () => last),
  ];
  show(0);
  const pager = MB.element("div", { class: "tools" }, ...buttons.map((one) => one.button), where);
  host.replaceChildren(scroll, ...(last ? [pager] : []));
};
