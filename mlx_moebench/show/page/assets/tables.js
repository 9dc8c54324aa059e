// What a figure shows as a table, to read and to save.
"use strict";

MB.tableOf = (drawing, state) => {
  if (drawing.kind === "chart") return chartTable(drawing);
  if (drawing.kind in MB.sketches) return MB.sketches[drawing.kind].table(drawing, state);
  if (drawing.kind === "nothing") return { columns: [], rows: [] };
  return drawing.diagonal.length ? pairTable(drawing, state) : heatTable(drawing);
};

const chartTable = (chart) => {
  const facts = Object.keys(chart.lines[0]?.facts ?? {});
  const head = chart.line_head ? [chart.line_head] : [];
  const columns = [...head, ...chart.point_heads, chart.value, ...chart.ends, ...facts, "reason"];
  const rows = chart.lines.flatMap((line) =>
    MB.shared(line.points).cells.map((cells, i) => [
      ...head.map(() => line.name),
      ...cells,
      ...line.values[i].slice(0, 3),
      ...facts.map((name) => MB.shared(line.facts[name])[i]),
      MB.reason(line.values[i]),
    ]),
  );
  return { columns, rows };
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
  const rows = lengths.flatMap((length, row) =>
    Array.from({ length }, (_, column) => [
      ...heat.row_cells[row],
      column,
      ...readers.flatMap((read) => read(row, column)),
    ]),
  );
  return { columns: [...heat.row_heads, heat.x, ...heads], rows };
};

// Every two experts once, those of the largest value first.
const pairTable = (heat, state) => {
  const measures = Object.entries(heat.measures).map(([name, measure]) => [MB.values(heat, name), measure]);
  const heads = measures.flatMap(([, measure]) => [measure.words, ...(measure.mirrored ? [measure.mirrored] : [])]);
  const key = MB.values(heat, state.measure ?? heat.shown);
  const n = heat.facts.own.length;
  const pairs = Array.from({ length: n * n }, (_, k) => [Math.floor(k / n), k % n]).filter(([i, j]) => i < j);
  pairs.sort((a, b) => (key(...b) ?? -Infinity) - (key(...a) ?? -Infinity));
  const rows = pairs.map(([i, j]) => [
    ...heat.row_cells[0],
    i,
    j,
    ...measures.flatMap(([value, measure]) => (measure.mirrored ? [value(i, j), value(j, i)] : [value(i, j)])),
  ]);
  return { columns: [...heat.row_heads, heat.x, `other ${heat.x}`, ...heads], rows };
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
