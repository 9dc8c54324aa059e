// Lines with bands over layers, steps or scores, as SVG.
"use strict";

// spec: x label, y label, series [{name, hue, points: [{x, y, low, high, lines}], band, line, hollow(point)}],
// lines [{name, points: [[x, y]]}] (drawn dotted, the name at the end), zero (keep 0 in sight), integers (x has whole numbers only)
MB.chart = (host, spec) => {
  const width = Math.max(280, host.clientWidth);
  const height = spec.height || Math.max(220, Math.min(330, width * 0.36));
  const shown = spec.series.filter((s) => !s.hidden);
  const values = shown.flatMap((s) => s.points.flatMap((p) => [p.y, p.low, p.high])).filter(Number.isFinite);
  const lines = spec.lines || [];
  for (const line of lines) values.push(...line.points.map((p) => p[1]).filter(Number.isFinite));
  if (spec.zero) values.push(0);
  let [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  [low, high] = [low - (spec.zero && low >= 0 ? 0 : room), high + room];
  const xs = [...shown.flatMap((s) => s.points.map((p) => p.x)), ...lines.flatMap((l) => l.points.map((p) => p[0]))];
  let [left, right] = xs.length ? [Math.min(...xs), Math.max(...xs)] : [0, 1];
  if (spec.integers) [left, right] = [left - 0.4, right + 0.4];
  else if (left === right) [left, right] = [left - 1, right + 1];
  const yTicks = MB.ticks(low, high, Math.max(3, Math.floor(height / 48)));
  const digits = MB.decimals(yTicks);
  const margin = { left: 20 + 7.2 * Math.max(...yTicks.map((t) => t.toFixed(digits).length)) + 14, right: 12, top: 10, bottom: 42 };
  const X = (x) => margin.left + ((x - left) / (right - left)) * (width - margin.left - margin.right);
  const Y = (y) => height - margin.bottom - ((y - low) / (high - low)) * (height - margin.top - margin.bottom);
  const [fg, muted, grid, bg] = ["fg", "muted", "line", "bg"].map(MB.colour);
  const font = { "font-size": 12, "font-family": "system-ui, sans-serif", fill: muted };
  const svg = MB.svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": spec.label });
  const add = (name, attributes, text = null) => svg.appendChild(MB.svg(name, attributes, text));
  for (const tick of yTicks) {
    add("line", { x1: margin.left, x2: width - margin.right, y1: Y(tick), y2: Y(tick), stroke: grid });
    add("text", { x: margin.left - 6, y: Y(tick) + 4, "text-anchor": "end", ...font }, tick.toFixed(digits));
  }
  let xTicks = MB.ticks(left, right, Math.max(3, Math.floor(width / 70)));
  if (spec.integers) xTicks = xTicks.filter(Number.isInteger);
  const xDigits = MB.decimals(xTicks);
  for (const tick of xTicks) {
    add("text", { x: X(tick), y: height - margin.bottom + 17, "text-anchor": "middle", ...font }, tick.toFixed(xDigits));
  }
  add("line", { x1: margin.left, x2: width - margin.right, y1: height - margin.bottom, y2: height - margin.bottom, stroke: muted });
  add("text", { x: (margin.left + width - margin.right) / 2, y: height - 6, "text-anchor": "middle", ...font }, spec.x);
  const middle = (height - margin.bottom + margin.top) / 2;
  add("text", { x: 13, y: middle, "text-anchor": "middle", transform: `rotate(-90 13 ${middle})`, ...font }, spec.y);
  const named = [];
  const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${X(x).toFixed(1)} ${Y(y).toFixed(1)}`).join("");
  for (const line of lines) {
    const known = line.points.filter((p) => Number.isFinite(p[1]));
    if (!known.length) continue;
    const ends = spec.integers ? [[known[0][0] - 0.4, known[0][1]], ...known, [known[known.length - 1][0] + 0.4, known[known.length - 1][1]]] : known;
    add("path", { d: path(ends), fill: "none", stroke: fg, "stroke-width": 1.2, "stroke-dasharray": "2 4", opacity: 0.8 });
    if (line.name) named.push([line.name, ends[ends.length - 1]]);
  }
  for (const s of shown) {
    const banded = s.points.filter((p) => Number.isFinite(p.low) && Number.isFinite(p.high));
    if (s.band !== false && banded.length > 1) {
      const d = `${path(banded.map((p) => [p.x, p.low]))}L${path(banded.map((p) => [p.x, p.high]).reverse()).slice(1)}Z`;
      add("path", { d, fill: s.colour, opacity: s.faint ? 0.05 : 0.16 });
    }
    if (s.bars !== false && banded.length <= 64) {
      for (const p of banded) add("line", { x1: X(p.x), x2: X(p.x), y1: Y(p.low), y2: Y(p.high), stroke: s.colour, "stroke-width": 1.5, opacity: s.faint ? 0.2 : 0.7 });
    }
  }
  for (const s of shown) {
    const known = s.points.filter((p) => Number.isFinite(p.y));
    const ink = { stroke: s.colour, opacity: s.faint ? 0.25 : 1 };
    if (s.line !== false) add("path", { d: path(known.map((p) => [p.x, p.y])), fill: "none", "stroke-width": s.wide ? 2.6 : 1.5, "stroke-dasharray": s.dash || "", ...ink });
    if (known.length * 11 <= width) {
      for (const p of known) svg.append(MB.marker(s.shape, X(p.x), Y(p.y), { ...ink, fill: s.hollow && s.hollow(p) ? bg : s.colour, "stroke-width": 1.5 }));
    }
  }
  // What a dotted line is, at its end, over the data; lines of one name and height once.
  const taken = [];
  for (const [name, [x, y]] of named) {
    const place = Y(y) - 5 < margin.top + 8 ? Y(y) + 14 : Y(y) - 5;
    if (taken.some((other) => Math.abs(other - place) < 13)) continue;
    taken.push(place);
    add("text", { ...font, x: X(x) - 3, y: place, "text-anchor": "end", class: "line-name", fill: fg, stroke: bg, "stroke-width": 3, "paint-order": "stroke" }, name);
  }
  const ring = add("circle", { r: 8, fill: "none", stroke: fg, "stroke-width": 2, visibility: "hidden" });
  host.replaceChildren(svg);
  MB.walkPoints(host, shown, X, Y, ring);
};

MB.decimals = (ticks) => {
  const step = ticks.length > 1 ? ticks[1] - ticks[0] : 1;
  return Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-9)));
};

MB.marker = (shape, x, y, attributes) => {
  const r = 3.6;
  if (shape === "square") return MB.svg("rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r, ...attributes });
  if (shape === "triangle") return MB.svg("path", { d: `M${x} ${y - 4.5}L${x + 4.4} ${y + 3.4}L${x - 4.4} ${y + 3.4}Z`, ...attributes });
  if (shape === "diamond") return MB.svg("path", { d: `M${x} ${y - 5}L${x + 5} ${y}L${x} ${y + 5}L${x - 5} ${y}Z`, ...attributes });
  return MB.svg("circle", { cx: x, cy: y, r, ...attributes });
};

// One handler for a whole chart: the nearest point under the pointer, arrow keys from point to point.
MB.walkPoints = (host, series, X, Y, ring) => {
  const points = series.map((s) => s.points.filter((p) => Number.isFinite(p.y)));
  let at = null;
  const show = (s, i, spoken) => {
    const point = points[s][i];
    at = [s, i];
    ring.setAttribute("cx", X(point.x));
    ring.setAttribute("cy", Y(point.y));
    ring.setAttribute("visibility", "visible");
    const box = host.getBoundingClientRect();
    MB.tip(point.lines, box.left + X(point.x), box.top + Y(point.y));
    if (spoken) MB.say(point.lines);
  };
  const hide = () => { ring.setAttribute("visibility", "hidden"); MB.untip(); };
  const near = (event) => {
    const box = host.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = null;
    points.forEach((row, s) => row.forEach((p, i) => {
      const distance = 3 * Math.abs(X(p.x) - x) + Math.abs(Y(p.y) - y);
      if (best === null || distance < best[0]) best = [distance, s, i];
    }));
    if (best && best[0] < 240) show(best[1], best[2], false);
    else hide();
  };
  host.onpointermove = near;
  host.onpointerdown = near;
  host.onpointerleave = hide;
  host.onblur = hide;
  host.onkeydown = (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -1e9], End: [0, 1e9] }[event.key];
    if (event.key === "Escape") hide();
    const alive = points.map((row, s) => (row.length ? s : -1)).filter((s) => s >= 0);
    if (!step || !alive.length) return;
    event.preventDefault();
    let [s, i] = at || [alive[0], -step[1]];
    if (at && step[0]) s = alive[(alive.indexOf(s) + step[0] + alive.length) % alive.length];
    i = Math.max(0, Math.min(points[s].length - 1, i + step[1]));
    show(s, i, true);
  };
};
