// A matrix on a canvas: one handler for the pointer, arrow keys from cell to cell.
"use strict";

// As much of a text as has room, measured in the font of the context.
MB.fitted = (context, text, room) => {
  if (context.measureText(text).width <= room) return text;
  const letters = [...MB.plain(text)];
  let [low, high] = [0, Math.min(letters.length, 400)];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (context.measureText(`${letters.slice(0, middle).join("")}…`).width <= room) low = middle;
    else high = middle - 1;
  }
  return MB.name(`${letters.slice(0, low).join("")}…`);
};

// Pixels of a canvas for one on the screen, within what phones can hold.
MB.pixels = (width, height) => Math.min(3, Math.max(1, window.devicePixelRatio || 1), Math.sqrt(16e6 / (width * height)));

// spec: rows [label], columns, order(row) -> the column at each place, value(row, column) -> null where there is none,
// colour(value), describe(row, column) -> lines, note(row) -> words at the right, x and y labels, scale {at: [[t, label]]}
MB.heatmap = (host, spec) => {
  const font = "12px system-ui, sans-serif";
  const measure = document.createElement("canvas").getContext("2d");
  measure.font = font;
  const wide = (text) => measure.measureText(text).width;
  const room = Math.max(260, host.clientWidth);
  const labels = spec.rows.map((label) => MB.fitted(measure, label, Math.max(60, Math.min(240, room / 3))));
  const left = Math.ceil(Math.max(...labels.map(wide))) + 28;
  const notes = spec.note && room > 700 ? spec.rows.map((_, row) => spec.note(row)) : [];
  const right = notes.length ? Math.ceil(Math.max(wide(spec.noteLabel || ""), ...notes.map(wide))) + 14 : 4;
  const least = spec.square ? 5 : 4;
  let cell = Math.max(least, (room - left - right) / spec.columns);
  if (spec.square) cell = Math.max(least, Math.min(cell, 26, Math.max(6, 640 / spec.rows.length)));
  else cell = Math.min(cell, 64);
  const line = spec.square ? cell : Math.max(13, Math.min(26, 720 / spec.rows.length));
  const top = notes.length ? 20 : 4;
  const [width, height] = [left + right + cell * spec.columns, top + line * spec.rows.length + 36];
  const ratio = MB.pixels(width, height);
  const canvas = MB.el("canvas", { width: Math.round(width * ratio), height: Math.round(height * ratio), "aria-hidden": "true" });
  canvas.style.width = `${width}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.font = font;
  context.textBaseline = "middle";
  const orders = spec.rows.map((_, row) => spec.order(row));
  const absent = MB.colour("absent");
  spec.rows.forEach((_, row) => orders[row].forEach((column, place) => {
    const value = spec.value(row, column);
    context.fillStyle = value === null || Number.isNaN(value) ? absent : spec.colour(value, row, column);
    const x = left + place * cell;
    // Edges on whole pixels leave no seams between cells.
    const [x0, x1] = [Math.round(x * ratio) / ratio, Math.round((x + cell) * ratio) / ratio];
    context.fillRect(x0, top + row * line, x1 - x0 - (cell > 9 ? 1 : 0), line - (line > 9 ? 1 : 0));
  }));
  context.fillStyle = MB.colour("muted");
  context.textAlign = "right";
  const every = Math.ceil(13 / line);
  labels.forEach((label, row) => { if (row % every === 0) context.fillText(label, left - 5, top + (row + 0.5) * line); });
  context.textAlign = "left";
  notes.forEach((note, row) => { if (row % every === 0) context.fillText(note, left + cell * spec.columns + 8, top + (row + 0.5) * line); });
  if (notes.length) context.fillText(spec.noteLabel || "", left + cell * spec.columns + 8, 8);
  context.textAlign = "center";
  const bottom = top + line * spec.rows.length;
  const step = [1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64].find((n) => n * cell >= 26) || 128;
  for (let place = 0; place < spec.columns; place += step) context.fillText(spec.places ? spec.places(place) : String(place), left + (place + 0.5) * cell, bottom + 10);
  context.fillText(spec.x, left + (cell * spec.columns) / 2, bottom + 27);
  context.save();
  context.translate(8, top + (line * spec.rows.length) / 2);
  context.rotate(-Math.PI / 2);
  context.fillText(spec.y, 0, 0);
  context.restore();
  const mark = MB.el("div", { class: "mark", hidden: true });
  const box = MB.el("div", { class: "heat" }, canvas, mark);
  host.replaceChildren(box, MB.scale(spec, Math.min(420, room - 10)));
  MB.walkCells(host, spec, orders, { box, canvas, mark, left, top, cell, line });
};

MB.scale = (spec, width) => {
  const ratio = Math.min(3, Math.max(1, window.devicePixelRatio || 1));
  const canvas = MB.el("canvas", { class: "scale", width: width * ratio, height: 46 * ratio, "aria-hidden": "true" });
  canvas.style.width = `${width}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.font = "12px system-ui, sans-serif";
  const [from, to] = [20, width - 24];
  const [low, high] = [spec.scale.from, spec.scale.to];
  for (let x = from; x < to; x += 1) {
    context.fillStyle = spec.colour(spec.scale.value(low + ((x - from) / (to - from)) * (high - low)));
    context.fillRect(x, 4, 1.5, 10);
  }
  context.fillStyle = MB.colour("muted");
  context.textAlign = "center";
  for (const [t, label] of spec.scale.at) context.fillText(label, from + ((t - low) / (high - low)) * (to - from), 26);
  context.fillText(spec.scale.label, (from + to) / 2, 41);
  return canvas;
};

MB.walkCells = (host, spec, orders, { box, canvas, mark, left, top, cell, line }) => {
  let at = null;
  const show = (row, place, spoken) => {
    at = [row, place];
    mark.hidden = false;
    mark.style.left = `${left + place * cell - 1}px`;
    mark.style.top = `${top + row * line - 1}px`;
    mark.style.width = `${cell + 2}px`;
    mark.style.height = `${line + 2}px`;
    const lines = spec.describe(row, orders[row][place]);
    if (spoken) {
      const [x, view] = [left + place * cell, box.clientWidth];
      if (x < box.scrollLeft || x + cell > box.scrollLeft + view) box.scrollLeft = x - view / 2;
      MB.say(lines);
    }
    const corner = canvas.getBoundingClientRect();
    MB.tip(lines, corner.left + left + (place + 0.5) * cell, corner.top + top + (row + 0.5) * line);
  };
  const hide = () => { mark.hidden = true; MB.untip(); };
  const under = (event) => {
    const corner = canvas.getBoundingClientRect();
    const place = Math.floor((event.clientX - corner.left - left) / cell);
    const row = Math.floor((event.clientY - corner.top - top) / line);
    if (row < 0 || row >= orders.length || place < 0 || place >= orders[row].length) return hide();
    return show(row, place, false);
  };
  box.onpointermove = under;
  box.onpointerdown = under;
  box.onpointerleave = hide;
  host.onblur = hide;
  host.onkeydown = (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -1e9], End: [0, 1e9], PageUp: [-1e9, 0], PageDown: [1e9, 0] }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    let [row, place] = at || [0, 0];
    if (at) [row, place] = [row + step[0], place + step[1]];
    row = Math.max(0, Math.min(orders.length - 1, row));
    if (orders[row].length) show(row, Math.max(0, Math.min(orders[row].length - 1, place)), true);
  };
};

// How far a ratio is from even: below 1 in proportion, above it on a logarithmic scale up to `most`.
MB.fromEven = (most) => (ratio) => MB.diverging(ratio < 1 ? ratio - 1 : Math.log(ratio) / Math.log(most));
MB.evenScale = (most, label) => ({
  from: -1, to: 1, label, value: (t) => (t < 0 ? 1 + t : most ** t),
  at: [[-1, "0"], [-0.5, "0.5"], [0, "1"], [0.5, MB.number(Math.sqrt(most), 1)], [1, MB.number(most, 1)]],
});
