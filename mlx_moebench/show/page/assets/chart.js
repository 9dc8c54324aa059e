// Lines with bands over layers, steps or scores, as SVG.
"use strict";

const FONT = { "font-size": 12, "font-family": "system-ui, sans-serif" };

// The lines of a chart as they are drawn: points with what is said of them. hidden: a function of a line's number.
// chosen: the number of the line that stands out, or null.
MB.linesOf = (chart, hidden, chosen) =>
  chart.lines.map((line, number) => {
    const places = MB.shared(line.points);
    const shift = chart.layers ? dodge(number, chart.lines) : 0;
    const points = places.x.map((x, i) => ({
      x: x + shift,
      y: line.values[i][0],
      low: line.values[i][1],
      high: line.values[i][2],
      hollow: line.clear !== null && !line.clear[i],
      lines: () => tipOf(chart, line, i),
      router: chart.layers ? MB.routerIn(chart.point_heads, places.cells[i]) : null,
    }));
    return {
      ...MB.style(line.style),
      name: line.name,
      note: line.note,
      hidden: hidden(number),
      joined: chart.joined,
      bars: chart.bars || number === chosen,
      faint: chosen !== null && number !== chosen,
      wide: number === chosen,
      points: points.filter((point) => point.y !== null),
    };
  });

// Where several lines have intervals, they stand a little beside each other.
const dodge = (number, lines) => {
  const banded = lines.some((line) => line.values.some((value) => value[1] !== null));
  return banded && lines.length > 1 ? (number - (lines.length - 1) / 2) * Math.min(0.09, 0.5 / lines.length) : 0;
};

const tipOf = (chart, line, i) => {
  const name = MB.shared(line.points).names[i];
  const first = chart.lines.length > 1 && line.name ? `${line.name}, ${name}` : name;
  const value = line.values[i];
  const parts = { value, mean: value[0], low: value[1], high: value[2] };
  const find = (key) => {
    const fact = key in parts ? parts[key] : MB.shared(line.facts[key])[i];
    return typeof fact === "string" && fact.length > 90 ? `${fact.slice(0, 90)}…` : fact;
  };
  const lines = chart.tip.map((template) => MB.fill(template, find, chart.signed && template.includes("{value")));
  return [
    first.replace(/^(layer|step) /, (word) => word[0].toUpperCase() + word.slice(1)),
    ...lines,
    ...MB.because(value),
    line.note,
  ].filter(Boolean);
};

MB.chart = (host, chart, lines) => {
  const shown = lines.filter((line) => !line.hidden);
  const references = chart.references
    .filter((one) => one.line === null || !lines[one.line].hidden)
    .map((one) => ({ name: one.name, points: pairsOf(MB.shared(one.x), MB.shared(one.y)) }))
    .filter((one) => one.points.length);
  const frame = frameOf(host, chart, shown, references);
  const attributes = { width: frame.width, height: frame.height, viewBox: `0 0 ${frame.width} ${frame.height}` };
  const svg = MB.svg("svg", { ...attributes, role: "img", "aria-label": chart.title });
  drawAxes(svg, frame, chart);
  const ends = references.map((one) => drawReference(svg, frame, one, chart.layers));
  for (const line of shown) drawIntervals(svg, frame, line);
  for (const line of shown) drawLine(svg, frame, line);
  nameReferences(svg, frame, references, ends, shown);
  host.replaceChildren(svg);
  walkPoints(host, chart, { svg, lines: shown, frame });
};

const pairsOf = (x, y) => x.map((value, i) => [value, y[i]]).filter((pair) => pair[1] !== null);

// Both axes of a chart: how numbers become places, where the ticks are, and what the margins are.
const frameOf = (host, chart, shown, references) => {
  const width = Math.max(280, MB.room(host));
  const height = Math.max(220, Math.min(330, width * 0.36));
  const [low, high] = verticalEnds(chart, shown, references);
  const [left, right] = horizontalEnds(chart, shown, references);
  const yTicks = MB.ticks(low, high, Math.max(3, Math.floor(height / 48)), chart.whole);
  const xTicks = MB.ticks(left, right, Math.max(3, Math.floor(width / 70)), chart.whole_x);
  const digits = decimals(yTicks);
  const widest = Math.max(...yTicks.map((tick) => tick.toFixed(digits).length));
  const margin = { left: 34 + 7.2 * widest, right: 12, top: 10, bottom: 42 };
  const [wide, tall] = [width - margin.left - margin.right, height - margin.top - margin.bottom];
  const [fg, muted, grid, bg] = ["fg", "muted", "line", "bg"].map(MB.colour);
  return {
    ...{ width, height, margin, xTicks, yTicks, fg, muted, grid, bg },
    x: (x) => margin.left + ((x - left) / (right - left)) * wide,
    y: (y) => height - margin.bottom - ((y - low) / (high - low)) * tall,
  };
};

const verticalEnds = (chart, shown, references) => {
  const ends = shown.flatMap((line) => line.points.flatMap((point) => [point.y, point.low, point.high]));
  const values = [...ends, ...references.flatMap((one) => one.points.map((point) => point[1]))];
  const known = values.filter(Number.isFinite);
  if (chart.zero) known.push(0);
  const [low, high] = known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
  if (chart.whole) return [Math.min(low, 0), Math.max(1, high * 1.06)];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - (chart.zero && low >= 0 ? 0 : room), high + room];
};

const horizontalEnds = (chart, shown, references) => {
  const places = shown.flatMap((line) => line.points.map((point) => point.x));
  places.push(...references.flatMap((one) => one.points.map((point) => point[0])));
  const [left, right] = places.length ? [Math.min(...places), Math.max(...places)] : [0, 1];
  if (chart.layers) return [left - 0.4, right + 0.4];
  return left === right ? [left - 1, right + 1] : [left, right];
};

const drawAxes = (svg, frame, chart) => {
  const { width, height, margin, muted } = frame;
  const words = { ...FONT, fill: muted };
  const line = (attributes) => svg.append(MB.svg("line", attributes));
  const text = (attributes, content) => svg.append(MB.svg("text", { ...words, ...attributes }, content));
  const [bottom, right] = [height - margin.bottom, width - margin.right];
  for (const tick of frame.yTicks) {
    const y = frame.y(tick);
    line({ x1: margin.left, x2: right, y1: y, y2: y, stroke: frame.grid });
    text({ x: margin.left - 6, y: y + 4, "text-anchor": "end" }, tick.toFixed(decimals(frame.yTicks)));
  }
  for (const tick of frame.xTicks) {
    text({ x: frame.x(tick), y: bottom + 17, "text-anchor": "middle" }, tick.toFixed(decimals(frame.xTicks)));
  }
  line({ x1: margin.left, x2: right, y1: bottom, y2: bottom, stroke: muted });
  text({ x: (margin.left + right) / 2, y: height - 6, "text-anchor": "middle" }, chart.x);
  const middle = (bottom + margin.top) / 2;
  text({ x: 13, y: middle, "text-anchor": "middle", transform: `rotate(-90 13 ${middle})` }, chart.y);
};

const pathOf = (frame, points) =>
  points.map(([x, y], i) => `${i ? "L" : "M"}${frame.x(x).toFixed(1)} ${frame.y(y).toFixed(1)}`).join("");

// Dotted, over layers a little farther than the first and last; returns both ends.
const drawReference = (svg, frame, { points }, layers) => {
  const [[firstX, firstY], [lastX, lastY]] = [points[0], points[points.length - 1]];
  const ends = layers ? [[firstX - 0.4, firstY], ...points, [lastX + 0.4, lastY]] : points;
  const dotted = { "stroke-width": 1.2, "stroke-dasharray": "2 4", opacity: 0.8 };
  svg.append(MB.svg("path", { d: pathOf(frame, ends), fill: "none", stroke: frame.fg, ...dotted }));
  return [ends[0], ends[ends.length - 1]];
};

// What a dotted line is, over the data, at its right end, or at the left if fewer points lie there; lines of one height
// once.
const nameReferences = (svg, frame, references, ends, shown) => {
  const taken = [];
  const points = shown.flatMap((line) => line.points.map((point) => [frame.x(point.x), frame.y(point.y)]));
  const crowd = ([x, y], to) =>
    points.filter((point) => (point[0] - frame.x(x)) * to > -80 && Math.abs(point[1] - frame.y(y)) < 20).length;
  references.forEach(({ name }, i) => {
    const [left, right] = ends[i];
    const atRight = crowd(right, 1) <= crowd(left, -1);
    const [x, y] = atRight ? right : left;
    const place = frame.y(y) - 5 < frame.margin.top + 8 ? frame.y(y) + 14 : frame.y(y) - 5;
    if (taken.some((other) => Math.abs(other - place) < 13)) return;
    taken.push(place);
    const side = { x: frame.x(x) + (atRight ? -3 : 3), "text-anchor": atRight ? "end" : "start" };
    const halo = { stroke: frame.bg, "stroke-width": 3, "paint-order": "stroke" };
    svg.append(MB.svg("text", { ...FONT, ...side, y: place, class: "line-name", fill: frame.fg, ...halo }, name));
  });
};

const drawIntervals = (svg, frame, line) => {
  const banded = line.points.filter((point) => Number.isFinite(point.low) && Number.isFinite(point.high));
  if (line.joined && banded.length > 1) {
    const there = banded.map((point) => [point.x, point.low]);
    const back = banded.map((point) => [point.x, point.high]).reverse();
    const d = `${pathOf(frame, there)}L${pathOf(frame, back).slice(1)}Z`;
    svg.append(MB.svg("path", { d, fill: line.colour, opacity: line.faint ? 0.05 : 0.16 }));
  }
  if (!line.bars || banded.length > 64) return;
  for (const { x, low, high } of banded) {
    const ends = { x1: frame.x(x), x2: frame.x(x), y1: frame.y(low), y2: frame.y(high) };
    svg.append(MB.svg("line", { ...ends, stroke: line.colour, "stroke-width": 1.5, opacity: line.faint ? 0.2 : 0.7 }));
  }
};

const drawLine = (svg, frame, line) => {
  const ink = { stroke: line.colour, opacity: line.faint ? 0.25 : 1 };
  if (line.joined) {
    const d = pathOf(
      frame,
      line.points.map((point) => [point.x, point.y]),
    );
    const width = { "stroke-width": line.wide ? 2.6 : 1.5, "stroke-dasharray": line.dash };
    svg.append(MB.svg("path", { d, fill: "none", ...width, ...ink }));
  }
  if (line.points.length * 11 > frame.width) return;
  for (const point of line.points) {
    const fill = point.hollow ? frame.bg : line.colour;
    svg.append(MB.marker(line.shape, frame.x(point.x), frame.y(point.y), { ...ink, fill, "stroke-width": 1.5 }));
  }
};

const decimals = (ticks) => {
  const step = ticks.length > 1 ? ticks[1] - ticks[0] : 1;
  return Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-9)));
};

const star = (x, y) => {
  const at = (i) => [i % 2 ? 2 : 5, (i * Math.PI) / 5];
  const points = Array.from({ length: 10 }, (_, i) => at(i));
  return `M${points.map(([r, turn]) => `${x + r * Math.sin(turn)} ${y - r * Math.cos(turn)}`).join("L")}Z`;
};

MB.marker = (shape, x, y, attributes) => {
  const r = 3.6;
  const path = (d) => MB.svg("path", { d, ...attributes });
  if (shape === "square") return MB.svg("rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r, ...attributes });
  if (shape === "triangle") return path(`M${x} ${y - 4.5}L${x + 4.4} ${y + 3.4}L${x - 4.4} ${y + 3.4}Z`);
  if (shape === "down") return path(`M${x} ${y + 4.5}L${x + 4.4} ${y - 3.4}L${x - 4.4} ${y - 3.4}Z`);
  if (shape === "cross") return path(`M${x - r} ${y - r}L${x + r} ${y + r}M${x - r} ${y + r}L${x + r} ${y - r}`);
  if (shape === "plus") return path(`M${x - r} ${y}L${x + r} ${y}M${x} ${y - r}L${x} ${y + r}`);
  if (shape === "star") return path(star(x, y));
  if (shape === "diamond") return path(`M${x} ${y - 5}L${x + 5} ${y}L${x} ${y + 5}L${x - 5} ${y}Z`);
  return MB.svg("circle", { cx: x, cy: y, r, ...attributes });
};

// The nearest point to a place, as [line, point]; null where all are far.
const nearest = (points, frame, x, y) => {
  let best = null;
  points.forEach((row, line) =>
    row.forEach((point, i) => {
      const distance = 3 * Math.abs(frame.x(point.x) - x) + Math.abs(frame.y(point.y) - y);
      if (best === null || distance < best[0]) best = [distance, line, i];
    }),
  );
  return best && best[0] < 240 ? best.slice(1) : null;
};

const CHART_KEYS = {
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  Home: [0, -1e9],
  End: [0, 1e9],
};

// The point that a key leads to from the one `at`, or from none.
const stepped = (points, at, [lines, along]) => {
  const alive = points.map((row, line) => (row.length ? line : -1)).filter((line) => line >= 0);
  if (!alive.length) return null;
  let [line, i] = at || [alive[0], -along];
  if (at && lines) line = alive[(alive.indexOf(line) + lines + alive.length) % alive.length];
  i = Math.max(0, Math.min(points[line].length - 1, i + along));
  return [line, i];
};

// One handler for a whole chart; a place is [line, point].
const walkPoints = (host, chart, { svg, lines, frame }) => {
  const points = lines.map((line) => line.points);
  const ring = { r: 8, fill: "none", stroke: frame.fg, "stroke-width": 2, class: "ring" };
  const at = ([line, i]) => ({ x: frame.x(points[line][i].x), y: frame.y(points[line][i].y) });
  const rings = Object.fromEntries(
    ["pointed", "pinned"].map((how) => [how, svg.appendChild(MB.svg("circle", { ...ring, visibility: "hidden" }))]),
  );
  rings.pinned.setAttribute("stroke-width", 3);
  const origin = () => svg.getBoundingClientRect();
  const band = MB.svg("rect", { class: "selected", fill: frame.fg, opacity: 0.08, "pointer-events": "none" });
  MB.walk(host, {
    ...{ title: chart.title, id: host.closest("figure")?.id, reveal: () => {} },
    under: (x, y) => nearest(points, frame, x - origin().left, y - origin().top),
    step: (from, key) => (key in CHART_KEYS ? stepped(points, from, CHART_KEYS[key]) : null),
    lines: ([line, i]) => points[line][i].lines(),
    where: (place) => ({ x: origin().left + at(place).x, y: origin().top + at(place).y }),
    mark: (place, how) => {
      rings[how].setAttribute("visibility", place ? "visible" : "hidden");
      if (!place) return;
      rings[how].setAttribute("cx", at(place).x);
      rings[how].setAttribute("cy", at(place).y);
    },
    pick: ([line, i]) => (points[line][i].router === null ? null : { router: points[line][i].router }),
    choose: ({ router }) => {
      band.remove();
      if (!chart.layers || router === null) return;
      const { layer } = MB.data.routers[router];
      const [left, right] = [layer - 0.4, layer + 0.4].map(frame.x);
      const { top, bottom } = frame.margin;
      if (left < frame.margin.left - 1 || right > frame.width - frame.margin.right + 1) return;
      const size = { x: left, width: right - left, y: top, height: frame.height - top - bottom };
      for (const [name, value] of Object.entries(size)) band.setAttribute(name, value);
      svg.prepend(band);
    },
  });
};
