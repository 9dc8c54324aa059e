// What a canvas draws, as vectors: the commands of a 2d context that write elements of SVG. Pictures that are saved or
// printed are drawn by the same code as those on the screen.
"use strict";

// The width of the sheet that is drawn for, in CSS pixels; null: for the screen.
MB.sheet = null;

// How wide a drawing in this element may be.
MB.room = (host) => MB.sheet ?? host.clientWidth;

// draw() with all figures drawing vectors of this width.
MB.onSheet = (width, draw) => {
  const before = MB.sheet;
  MB.sheet = width;
  try {
    return draw();
  } finally {
    MB.sheet = before;
  }
};

const TEXT_DROPS = { top: "0.8em", hanging: "0.8em", middle: "0.35em", bottom: "-0.2em" };
const TEXT_ANCHORS = { center: "middle", right: "end", end: "end" };
const svgNumber = (x) => String(Math.round(x * 100) / 100);

class Vectors {
  constructor(svg) {
    this.svg = svg;
    this.measure = document.createElement("canvas").getContext("2d");
    this.cells = new Map();
    this.path = [];
    this.states = [];
    Object.assign(this, { fillStyle: "#000", strokeStyle: "#000", lineWidth: 1, globalAlpha: 1, dash: [] });
    Object.assign(this, { font: "10px sans-serif", textAlign: "start", textBaseline: "alphabetic", transform: "" });
  }

  save() {
    const { fillStyle, strokeStyle, lineWidth, globalAlpha, dash, font, textAlign, textBaseline, transform } = this;
    this.states.push({
      fillStyle,
      strokeStyle,
      lineWidth,
      globalAlpha,
      dash,
      font,
      textAlign,
      textBaseline,
      transform,
    });
  }

  restore() {
    Object.assign(this, this.states.pop());
  }

  translate(x, y) {
    this.transform += ` translate(${svgNumber(x)} ${svgNumber(y)})`;
  }

  rotate(angle) {
    this.transform += ` rotate(${svgNumber((angle * 180) / Math.PI)})`;
  }

  scale(x, y) {
    this.transform += ` scale(${x} ${y})`;
  }

  setLineDash(dash) {
    this.dash = dash;
  }

  measureText(text) {
    this.measure.font = this.font;
    return this.measure.measureText(text);
  }

  // Rectangles that follow each other and have one colour are one path: a matrix has thousands.
  fillRect(x, y, width, height) {
    const key = JSON.stringify([this.fillStyle, this.globalAlpha, this.transform]);
    if (!this.cells.has(key)) this.cells.set(key, []);
    const [w, h] = [svgNumber(width), svgNumber(height)];
    this.cells.get(key).push(`M${svgNumber(x)} ${svgNumber(y)}h${w}v${h}h-${w}z`);
  }

  // Writes the rectangles that have come so far.
  flush() {
    for (const [key, parts] of this.cells) {
      const [fill, opacity, transform] = JSON.parse(key);
      const look = { d: parts.join(""), fill, "shape-rendering": "crispEdges" };
      this.svg.append(MB.svg("path", { ...look, ...transformOf(transform), ...(opacity < 1 ? { opacity } : {}) }));
    }
    this.cells.clear();
  }

  add(name, attributes, text = null) {
    this.flush();
    const opacity = this.globalAlpha < 1 ? { opacity: this.globalAlpha } : {};
    this.svg.append(MB.svg(name, { ...attributes, ...opacity, ...transformOf(this.transform) }, text));
  }

  fillText(text, x, y) {
    const [, weight, size, family] = /^(?:(\w+) )?([\d.]+)px (.+)$/.exec(this.font);
    const drop = TEXT_DROPS[this.textBaseline];
    const anchor = TEXT_ANCHORS[this.textAlign];
    this.add(
      "text",
      {
        ...{ x: svgNumber(x), y: svgNumber(y), fill: this.fillStyle, "font-size": size, "font-family": family },
        ...(weight ? { "font-weight": weight } : {}),
        ...(drop ? { dy: drop } : {}),
        ...(anchor ? { "text-anchor": anchor } : {}),
      },
      text,
    );
  }

  strokeRect(x, y, width, height) {
    this.add("rect", { x: svgNumber(x), y: svgNumber(y), width, height, fill: "none", ...this.ink });
  }

  get ink() {
    const dash = this.dash.length ? { "stroke-dasharray": this.dash.join(" ") } : {};
    return { stroke: this.strokeStyle, "stroke-width": this.lineWidth, ...dash };
  }

  beginPath() {
    this.path = [];
  }

  to(command, ...numbers) {
    this.path.push(command + numbers.map(svgNumber).join(" "));
  }

  moveTo(x, y) {
    this.to("M", x, y);
  }

  lineTo(x, y) {
    this.to("L", x, y);
  }

  bezierCurveTo(...points) {
    this.to("C", ...points);
  }

  quadraticCurveTo(...points) {
    this.to("Q", ...points);
  }

  rect(x, y, width, height) {
    this.path.push(`M${svgNumber(x)} ${svgNumber(y)}h${svgNumber(width)}v${svgNumber(height)}h${svgNumber(-width)}z`);
  }

  // In two halves, since an arc of SVG that ends where it begins is none.
  arc(x, y, r, from = 0, to = 2 * Math.PI) {
    const at = (angle) => [x + r * Math.cos(angle), y + r * Math.sin(angle)];
    this.to(this.path.length ? "L" : "M", ...at(from));
    for (const angle of [(from + to) / 2, to]) this.to("A", r, r, 0, 0, to > from ? 1 : 0, ...at(angle));
  }

  closePath() {
    this.path.push("Z");
  }

  fill() {
    this.add("path", { d: this.path.join(""), fill: this.fillStyle });
  }

  stroke() {
    this.add("path", { d: this.path.join(""), fill: "none", ...this.ink });
  }
}

const transformOf = (transform) => (transform ? { transform: transform.trim() } : {});

// Pixels of a canvas for one on the screen, within what phones can hold.
const pixels = (width, height) =>
  Math.min(3, Math.max(1, window.devicePixelRatio || 1), Math.sqrt(16e6 / (width * height)));

// An element that `paint(context, ratio)` has drawn on: a canvas on the screen, whose edges are sharp at multiples of
// 1/ratio, on a sheet an SVG.
MB.painted = (width, height, attributes, paint) => {
  if (MB.sheet) {
    const size = {
      width: svgNumber(width),
      height: svgNumber(height),
      viewBox: `0 0 ${svgNumber(width)} ${svgNumber(height)}`,
    };
    const svg = MB.svg("svg", { ...size, ...attributes, "aria-hidden": "true" });
    const context = new Vectors(svg);
    paint(context, 4);
    context.flush();
    return svg;
  }
  const ratio = pixels(width, height);
  const size = { width: Math.round(width * ratio), height: Math.round(height * ratio) };
  const canvas = MB.element("canvas", { ...size, ...attributes, "aria-hidden": "true" });
  canvas.style.width = `${width}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  paint(context, ratio);
  return canvas;
};
