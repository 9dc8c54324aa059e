// A matrix on a canvas: one handler for the pointer, arrow keys from cell to cell.
"use strict";

const CANVAS_FONT = "12px system-ui, sans-serif";

// As much of a text as has room, measured in the font of the context.
const fitted = (context, text, room) => {
  if (context.measureText(text).width <= room) return text;
  const letters = [...MB.plain(text)];
  let [low, high] = [0, Math.min(letters.length, 400)];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (context.measureText(`${letters.slice(0, middle).join("")}…`).width <= room) low = middle;
    else high = middle - 1;
  }
  return `\u2068${letters.slice(0, low).join("")}…\u2069`;
};

// How values become colours, and what the legend says at which place of it.
const SCALES = {
  // below even in proportion, above it on a logarithmic scale
  even: ({ most }) => ({
    from: -1,
    to: 1,
    place: (value) => (value < 1 ? value - 1 : Math.log(value) / Math.log(most)),
    value: (t) => (t < 0 ? 1 + t : most ** t),
    at: [-1, -0.5, 0, 0.5, 1],
    words: (value) => (value <= 1 ? String(value) : MB.number(value, 1)),
  }),
  log: ({ most, middle }) => {
    const far = Math.log2(most);
    return {
      from: -far,
      to: far,
      place: (value) => (value > 0 ? Math.log2(value / middle) / far : -1),
      value: (t) => middle * 2 ** t,
      at: [-far, -far / 2, 0, far / 2, far],
      words: (value) => MB.number(value, 2),
    };
  },
  linear: ({ most }) => ({
    from: -1,
    to: 1,
    place: (value) => value / most,
    value: (t) => t * most,
    at: [-1, -0.5, 0, 0.5, 1],
    words: (value) => MB.signed(value),
  }),
};

// The columns of a row in the order of its choice: by number, by the row's own values, or by those of others.
const byNumber = (n) => Array.from({ length: n }, (_, i) => i);
const descending = (keys) => byNumber(keys.length).sort((a, b) => keys[b] - keys[a] || a - b);

MB.orders = (heat, value, choice) => {
  const lengths = MB.lengths(heat, heat.measures[heat.shown].cells);
  if (choice === "group" && heat.groups === null) return MB.orders(heat, value, "each");
  const rowOf = (row) => byNumber(lengths[row]).map((column) => value(row, column) ?? -Infinity);
  if (choice === "group") {
    const groups = MB.rows(heat, heat.groups);
    return lengths.map((_, row) => {
      const of = rowOf(row);
      return descending(of).sort((a, b) => groups[row][a] - groups[row][b]);
    });
  }
  if (choice === "each") return lengths.map((_, row) => descending(rowOf(row)));
  let order = byNumber(Math.max(...lengths));
  if (choice === "own") order = descending(heat.facts.own);
  else if (choice === "largest") {
    const rows = lengths.map((_, row) => rowOf(row));
    order = descending(order.map((column) => Math.max(...rows.map((row) => row[column] ?? -Infinity))));
  } else if (choice.startsWith("row ")) order = descending(rowOf(Number(choice.slice(4))));
  return lengths.map((length) => order.filter((column) => column < length));
};

// What is said of a cell.
const describe = (heat, intervals, row, column) => {
  if (heat.diagonal.length && row === column) {
    return heat.diagonal.map((template) => MB.fill(template, (name) => namedIn(heat, intervals, row, column, name)));
  }
  const banded = Object.keys(heat.measures).find((name) => heat.measures[name].low !== null);
  const known = banded !== undefined && intervals[banded](row, column)[1] !== null;
  const band = known ? heat.band : (MB.because([0, 0, 0, heat.reasons[row] ?? null])[0] ?? null);
  const signed = heat.measures[heat.shown].scale.kind === "linear";
  return heat.tip
    .map((template) => {
      if (template === "{band}") return band;
      return MB.fill(template, (name) => namedIn(heat, intervals, row, column, name), signed);
    })
    .filter(Boolean);
};

const namedIn = (heat, intervals, row, column, name) => {
  if (name === "row") return MB.shared(heat.rows)[row];
  if (name === "column") return String(column);
  if (name === "group") return heat.group_names[MB.rows(heat, heat.groups)[row][column]];
  if (name.endsWith("^")) return intervals[name.slice(0, -1)](column, row);
  return name in intervals ? intervals[name](row, column) : heat.facts[name][row];
};

// A function from row and column to whether the interval there holds what is neutral; null where none has one.
const uncertain = (heat) => {
  const banded = Object.keys(heat.measures).find((name) => heat.measures[name].low !== null);
  if (banded === undefined || !heat.neutral.length) return null;
  const interval = MB.intervals(heat, banded);
  return (row, column) => {
    const [, low, high] = interval(row, column);
    return low !== null && low <= heat.neutral[row] && heat.neutral[row] <= high;
  };
};

// state: {measure, order, rows}, what is chosen of them.
MB.heatmap = (host, heat, state) => {
  const shown = state.measure ?? heat.shown;
  const order = state.order ?? "number";
  const value = MB.values(heat, shown);
  const scale = SCALES[heat.measures[shown].scale.kind](heat.measures[shown].scale);
  const orders = MB.orders(heat, value, order);
  const rows = heat.diagonal.length ? orders[0] : rowsOf(heat, state.rows);
  if (!rows.length) return MB.nothing(host, "no layer is flagged here");
  const frame = heatFrame(host, heat, rows, orders);
  const faded = uncertain(heat);
  const look = (row, column) => {
    const at = value(row, column);
    return at === null ? null : [MB.diverging(scale.place(at)), faded !== null && faded(row, column)];
  };
  let anyFaded = false;
  const canvas = MB.painted(frame.width, frame.height, {}, (context, ratio) => {
    context.font = CANVAS_FONT;
    context.textBaseline = "middle";
    anyFaded = drawCells(context, ratio, frame, look);
    drawFlags(context, frame, heat);
    if (order === "group" && heat.groups !== null) drawGroups(context, frame, heat);
    drawLabels(context, frame, heat, order);
  });
  const box = MB.element("div", { class: "heat" }, canvas);
  const legend = drawScale(scale, heat.measures[shown].scale.label, Math.min(420, frame.room - 10));
  host.replaceChildren(box, legend, ...keysOf(frame, heat, anyFaded, order));
  const names = Object.keys(heat.measures);
  const intervals = Object.fromEntries(names.map((name) => [name, MB.intervals(heat, name)]));
  const lines = ([row, place]) => describe(heat, intervals, rows[row], orders[rows[row]][place]);
  walkCells(host, { box, canvas, frame, heat, lines });
};

const rowsOf = (heat, choice) =>
  byNumber(MB.shared(heat.rows).length).filter((row) => choice !== "flagged" || heat.flags[row]);

// What marks, faded cells and groups mean, in words under the scale.
const keysOf = (frame, heat, anyFaded, order) => {
  const marked = frame.rows.some((row) => heat.flags[row]) && heat.flag_words;
  const words = [
    marked ? `Marked layers, by their busiest expert's share of tokens: ${heat.flag_words}.` : "",
    anyFaded ? `${MB.forced() ? "Hatched" : "Faded"}: the interval holds even, so that the cell may be even.` : "",
  ].filter(Boolean);
  const parts = words.length ? [MB.element("p", { class: "note", text: words.join(" ") })] : [];
  if (order === "group" && heat.groups !== null) parts.push(groupKey(heat));
  return parts;
};

const groupKey = (heat) => {
  const entries = heat.group_names.map((name) => {
    const picture = MB.svg("svg", { width: 14, height: 12, "aria-hidden": "true" });
    picture.append(MB.svg("rect", { width: 14, height: 12, fill: MB.domainColour(name) }));
    return MB.element("li", { class: "key" }, picture, MB.element("bdi", { text: name }));
  });
  return MB.element("ul", { class: "legend" }, ...entries);
};

// Where everything of a heatmap stands. rows: their numbers from above.
const heatFrame = (host, heat, rows, orders) => {
  const square = heat.diagonal.length > 0;
  const measure = document.createElement("canvas").getContext("2d");
  measure.font = CANVAS_FONT;
  const wide = (text) => measure.measureText(text).width;
  const room = Math.max(260, MB.room(host));
  const labels = rows.map((row) => fitted(measure, MB.shared(heat.rows)[row], Math.max(60, Math.min(240, room / 3))));
  const left = Math.ceil(Math.max(...labels.map(wide))) + 28 + (rows.some((row) => heat.flags[row]) ? FLAG : 0);
  const notes = heat.beside.length && room > 700 ? rows.map((row) => heat.beside[row]) : [];
  const right = notes.length ? Math.ceil(Math.max(wide(heat.beside_head), ...notes.map(wide))) + 14 : 4;
  const columns = Math.max(...orders.map((order) => order.length));
  const least = square ? 5 : 4;
  const most = square ? Math.min(26, Math.max(6, 640 / rows.length)) : 64;
  const cell = Math.max(least, Math.min(most, (room - left - right) / columns));
  const line = square ? cell : Math.max(13, Math.min(26, 720 / rows.length));
  const top = notes.length ? 20 : 4;
  const [width, height] = [left + right + cell * columns, top + line * rows.length + 36];
  return { room, labels, notes, left, top, cell, line, width, height, columns, rows, orders };
};

const FADED = 0.35; // opacity of a cell that may be even

MB.forced = () => matchMedia("(forced-colors: active)").matches;

// look: [colour, whether it is faded], null of what is absent. Returns whether any was faded.
const drawCells = (context, ratio, frame, look) => {
  const { left, top, cell, line } = frame;
  const absent = [MB.colour("absent"), false];
  const hatched = MB.forced();
  let any = false;
  frame.rows.forEach((row, y) =>
    frame.orders[row].forEach((column, place) => {
      const [colour, faded] = look(row, column) ?? absent;
      any = any || faded;
      context.fillStyle = colour;
      context.globalAlpha = faded ? FADED : 1;
      const x = left + place * cell;
      // Edges on whole pixels leave no seams between cells.
      const [from, to] = [Math.round(x * ratio) / ratio, Math.round((x + cell) * ratio) / ratio];
      const [wide, high] = [to - from - (cell > 9 ? 1 : 0), line - (line > 9 ? 1 : 0)];
      context.fillRect(from, top + y * line, wide, high);
      if (faded && hatched) hatch(context, from, top + y * line, wide, high);
    }),
  );
  context.globalAlpha = 1;
  return any;
};

const hatch = (context, x, y, wide, high) => {
  context.globalAlpha = 1;
  context.strokeStyle = MB.colour("muted");
  context.beginPath();
  context.moveTo(x, y + high);
  context.lineTo(x + wide, y);
  context.stroke();
};

const FLAG = 10; // pixels beside the name of a row

// A triangle left of the cells of every flagged row, hollow where it is open.
const drawFlags = (context, { left, top, line, rows }, heat) => {
  rows.forEach((row, y) => {
    if (!heat.flags[row]) return;
    const middle = top + (y + 0.5) * line;
    context.beginPath();
    context.moveTo(left - 9, middle - 4.5);
    context.lineTo(left - 2, middle);
    context.lineTo(left - 9, middle + 4.5);
    context.closePath();
    context.fillStyle = MB.ground().findings[heat.flags[row]];
    context.strokeStyle = MB.colour("fg");
    if (heat.flags[row] !== "open") context.fill();
    context.stroke();
  });
};

// Under each cell a stroke in the colour of the domain that it is most of.
const drawGroups = (context, { left, top, cell, line, rows, orders }, heat) => {
  const groups = MB.rows(heat, heat.groups);
  rows.forEach((row, y) =>
    orders[row].forEach((column, place) => {
      context.fillStyle = MB.domainColour(heat.group_names[groups[row][column]]);
      context.fillRect(left + place * cell, top + (y + 1) * line - 4, cell, 4);
    }),
  );
};

const drawLabels = (context, frame, heat, order) => {
  const { left, top, cell, line, columns, labels, notes, rows } = frame;
  const flag = rows.some((row) => heat.flags[row]) ? FLAG : 0;
  const own = order === "each" || order === "group"; // each row has an order of its own
  const [right, bottom] = [left + cell * columns, top + line * labels.length];
  const every = Math.ceil(13 / line);
  const write = (text, x, y, align) => {
    context.textAlign = align;
    context.fillText(text, x, y);
  };
  context.fillStyle = MB.colour("muted");
  labels.forEach((label, y) => y % every === 0 && write(label, left - 5 - flag, top + (y + 0.5) * line, "right"));
  notes.forEach((note, y) => y % every === 0 && write(note, right + 8, top + (y + 0.5) * line, "left"));
  if (notes.length) write(heat.beside_head, right + 8, 8, "left");
  const step = [1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64].find((n) => n * cell >= 26) || 128;
  for (let place = 0; place < columns; place += step) {
    const name = own ? `${place + 1}.` : String(frame.orders[frame.rows[0]][place] ?? place);
    write(name, left + (place + 0.5) * cell, bottom + 10, "center");
  }
  write(
    order === "each" ? heat.x_ordered : order === "group" ? "expert, by its favourite domain in each layer" : heat.x,
    (left + right) / 2,
    bottom + 27,
    "center",
  );
  context.save();
  context.translate(8, (top + bottom) / 2);
  context.rotate(-Math.PI / 2);
  write(heat.y, 0, 0, "center");
  context.restore();
};

const drawScale = (scale, label, width) =>
  MB.painted(width, 46, { class: "scale" }, (context) => {
    const [left, right] = [20, width - 24];
    const place = (t) => left + ((t - scale.from) / (scale.to - scale.from)) * (right - left);
    for (let x = left; x < right; x += 1) {
      const t = scale.from + ((x - left) / (right - left)) * (scale.to - scale.from);
      context.fillStyle = MB.diverging(scale.place(scale.value(t)));
      context.fillRect(x, 4, 1.5, 10);
    }
    context.font = CANVAS_FONT;
    context.fillStyle = MB.colour("muted");
    context.textAlign = "center";
    for (const t of scale.at) context.fillText(scale.words(scale.value(t)), place(t), 26);
    context.fillText(label, (left + right) / 2, 41);
  });

const HEAT_KEYS = {
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  Home: [0, -1e9],
  End: [0, 1e9],
  PageUp: [-1e9, 0],
  PageDown: [1e9, 0],
};

// The number of the router that a row of cells or a point is about, as its table says it; null where it does not.
MB.routerIn = (heads, cells) => {
  const layer = heads.indexOf("layer");
  return layer < 0 ? null : MB.routerOf(cells[layer], cells[heads.indexOf("router")]);
};

// A place is [row, place], both as they are seen. lines: what is said of one.
const walkCells = (host, { box, canvas, frame, heat, lines }) => {
  const { left, top, cell, line, rows, orders } = frame;
  const width = (row) => orders[rows[row]].length;
  const corner = ([row, place]) => [left + place * cell, top + row * line];
  const frameAt = (x, y, wide, tall) => ({ left: x - 1, top: y - 1, width: wide + 2, height: tall + 2 });
  const put = (kind, sides) => {
    const mark = box.appendChild(MB.element("div", { class: `mark ${kind}` }));
    for (const [side, length] of Object.entries(sides)) mark.style[side] = `${length}px`;
  };
  const clear = (kind) => box.querySelectorAll(`.mark.${kind}`).forEach((mark) => mark.remove());
  const routerAt = (row) => MB.routerIn(heat.row_heads, heat.row_cells[heat.diagonal.length ? 0 : rows[row]]);
  MB.walk(host, {
    ...{ title: heat.title, id: host.closest("figure")?.id, lines },
    under: (x, y) => {
      const at = canvas.getBoundingClientRect();
      const [row, place] = [Math.floor((y - at.top - top) / line), Math.floor((x - at.left - left) / cell)];
      return row >= 0 && row < rows.length && place >= 0 && place < width(row) ? [row, place] : null;
    },
    step: (at, key) => {
      const [down, along] = HEAT_KEYS[key] ?? [];
      if (down === undefined) return null;
      const [row, place] = at ? [at[0] + down, at[1] + along] : [0, 0];
      const inside = Math.max(0, Math.min(rows.length - 1, row));
      return width(inside) ? [inside, Math.max(0, Math.min(width(inside) - 1, place))] : null;
    },
    where: (at) => {
      const [x, y] = corner(at);
      const origin = canvas.getBoundingClientRect();
      return { x: origin.left + x + cell / 2, y: origin.top + y + line / 2 };
    },
    mark: (at, how) => {
      clear(how);
      if (at) put(how, frameAt(...corner(at), cell, line));
    },
    reveal: (at) => {
      const [x, view] = [corner(at)[0], box.clientWidth];
      if (x < box.scrollLeft || x + cell > box.scrollLeft + view) box.scrollLeft = x - view / 2;
    },
    pick: ([row, place]) => {
      const router = routerAt(row);
      return { ...(router === null ? {} : { router }), expert: orders[rows[row]][place] };
    },
    choose: (selection) => {
      clear("selected");
      for (const sides of selectedCells(frame, heat, routerAt, selection)) put("selected", frameAt(...sides));
    },
  });
};

// Frames, as [x, y, width, height], of what is selected: the expert in every row of the router or, where there is none,
// of any; the row of the router where no expert is. Cells below each other are one frame.
const selectedCells = (frame, heat, routerAt, { router, expert }) => {
  const { left, top, cell, line, rows, orders } = frame;
  const frames = [];
  rows.forEach((_, row) => {
    if (router !== null && routerAt(row) !== router) return;
    const order = orders[rows[row]];
    const place = expert === null ? 0 : order.indexOf(expert);
    if (place < 0 || (router === null && expert === null)) return;
    const [x, y, wide] = [left + place * cell, top + row * line, cell * (expert === null ? order.length : 1)];
    const above = frames[frames.length - 1];
    if (above && above[0] === x && above[2] === wide && Math.abs(above[1] + above[3] - y) < 0.01) above[3] += line;
    else frames.push([x, y, wide, line]);
  });
  if (!heat.diagonal.length) return frames;
  // In a square of pairs the expert is a row, too; the whole square is one router.
  const row = expert === null ? -1 : rows.indexOf(expert);
  if (expert === null || row < 0 || !frames.length) return [];
  return [...frames, [left, top + row * line, cell * rows.length, line]];
};
