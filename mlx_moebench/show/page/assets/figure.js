// The frame of a figure: heading, controls, drawing, caption with unit, n and definition, table, files.
"use strict";

// A figure as it is shown: which of its drawings, with which lines hidden.
class Shown {
  constructor(figure, shared, id) {
    this.id = id;
    this.figure = figure;
    this.own = new MB.State(figure.choices, id);
    this.shared = shared;
    this.hidden = new Map();
    this.readable = new Map();
  }

  get state() {
    return { ...this.shared.chosen, ...this.own.chosen };
  }

  get drawing() {
    const { drawings, by } = this.figure;
    const name = by ? (this.state[by] ?? Object.keys(drawings)[0]) : "";
    if (!this.readable.has(name)) this.readable.set(name, MB.readable(drawings[name], MB.data.words));
    return this.readable.get(name);
  }

  get lines() {
    if (this.drawing.kind !== "chart") return [];
    const hidden = (n) => this.hidden.get(n) ?? this.drawing.lines[n].hidden;
    const { line } = this.state;
    return MB.linesOf(this.drawing, hidden, line === undefined || line === "" ? null : Number(line));
  }

  toggle(number) {
    this.hidden.set(number, !(this.hidden.get(number) ?? this.drawing.lines[number].hidden));
  }

  // What the legend names: nothing of a single line, or of more than there is room for.
  get keys() {
    const { lines } = this;
    return lines.length > 1 && this.drawing.legend ? lines : [];
  }

  get caption() {
    const sizes = this.lines.filter((line) => line.note && !line.hidden).map((line) => `${line.name}: ${line.note}`);
    return [this.drawing.caption, sizes.length ? `${sizes.join("; ")}.` : ""].filter(Boolean).join(" ");
  }

  get table() {
    return MB.tableOf(this.drawing, this.state);
  }

  draw(host) {
    const { drawing, lines } = this;
    if (drawing.kind === "heat") return MB.heatmap(host, drawing, this.state);
    if (drawing.kind === "nothing") return nothing(host, drawing.reason);
    if (lines.some((line) => line.points.length)) return MB.chart(host, drawing, lines);
    const reason = MB.reason(drawing.lines.flatMap((line) => line.values)[0] ?? []);
    return nothing(host, reason ?? "it is undefined here");
  }
}

const nothing = (host, reason) => {
  host.replaceChildren(MB.element("p", { class: "note", text: `Nothing to draw: ${reason}.` }));
  for (const handler of ["onpointermove", "onpointerdown", "onpointerleave", "onkeydown"]) host[handler] = null;
};

const seen =
  "IntersectionObserver" in window
    ? new IntersectionObserver(
        (entries) => {
          for (const entry of entries) if (entry.isIntersecting) entry.target.drawNow();
        },
        { rootMargin: "300px" },
      )
    : null;

// The elements of a figure, empty but for its controls and buttons.
const elementsOf = (shown) => {
  const { label, title } = shown.drawing;
  const action = { role: "application", "aria-roledescription": "figure" };
  const host = MB.element("div", {
    ...{ class: "plot", tabindex: 0, ...action },
    "aria-label": `${label}. Arrow keys move, Escape leaves.`,
  });
  const scroll = { class: "scroll", tabindex: 0, role: "region", "aria-label": `Table: ${label}` };
  const button = (text, onclick) =>
    MB.element("button", { type: "button", text, "aria-label": `Save as ${text}: ${label}`, onclick });
  const csv = () => {
    const blob = new Blob([MB.csv(shown.table)], { type: "text/csv" });
    MB.save(blob, `${MB.fileName(shown.drawing.title)}.csv`);
  };
  const tools = MB.element(
    "div",
    { class: "tools" },
    button("CSV", csv),
    button("PNG", () => MB.png(host, shown)),
  );
  const body = MB.element("div", scroll);
  const details = MB.element("details", {}, MB.element("summary", { text: "As a table" }), body);
  const { controls } = shown.own;
  const heading = MB.element("h3", { text: title });
  const legend = MB.element("ul", { class: "legend" });
  const caption = MB.element("figcaption");
  const chosen = controls.length ? MB.element("div", { class: "controls" }, ...controls) : null;
  const figure = MB.element("figure", { id: shown.id }, heading, chosen, legend, host, caption, tools, details);
  return { figure, heading, legend, host, caption, details, body };
};

MB.figure = (parent, figure, shared, id) => {
  const shown = new Shown(figure, shared, id);
  const parts = elementsOf(shown);
  const fill = () => parts.body.replaceChildren(MB.table(shown.table, 1500));
  let drawn = false;
  const draw = () => {
    drawn = true;
    parts.heading.textContent = shown.drawing.title;
    parts.caption.textContent = shown.caption;
    shown.draw(parts.host);
    drawLegend(parts.legend, shown, redraw);
    if (parts.details.open) fill();
  };
  const redraw = () => {
    MB.untip();
    if (drawn) draw();
  };
  parts.figure.drawNow = () => {
    if (!drawn) draw();
    if (seen) seen.unobserve(parts.figure);
  };
  // What is not on the screen is drawn again when it comes there.
  const refresh = () => {
    const box = parts.figure.getBoundingClientRect();
    if (!drawn || !seen || (box.bottom > 0 && box.top < innerHeight)) return redraw();
    drawn = false;
    return seen.observe(parts.figure);
  };
  parts.details.addEventListener("toggle", () => parts.details.open && fill());
  for (const state of [shown.own, shared]) state.listeners.push(redraw);
  MB.redraws.push({ redraw, refresh, drawNow: parts.figure.drawNow });
  parent.append(parts.figure);
  if (seen) seen.observe(parts.figure);
  else draw();
};

const drawLegend = (legend, shown, redraw) => {
  // The button that was pressed is made anew: the keyboard stays on it.
  const held = [...legend.querySelectorAll("button")].indexOf(document.activeElement);
  const entries = shown.keys.map((line, number) => {
    const onclick = () => {
      shown.toggle(number);
      redraw();
    };
    const pressed = { type: "button", "aria-pressed": String(!line.hidden), onclick };
    return MB.element("li", {}, MB.element("button", pressed, key(line), MB.element("bdi", { text: line.name })));
  });
  legend.replaceChildren(...entries);
  legend.hidden = !entries.length;
  if (held >= 0) legend.querySelectorAll("button")[held]?.focus();
};

// A piece of a line, as a picture.
const key = (line) => {
  const picture = MB.svg("svg", { width: 26, height: 12, "aria-hidden": "true" });
  const dash = { "stroke-width": 2, "stroke-dasharray": line.dash };
  picture.append(MB.svg("line", { x1: 1, x2: 25, y1: 6, y2: 6, stroke: line.colour, ...dash }));
  picture.append(MB.marker(line.shape, 13, 6, { fill: line.colour, stroke: line.colour }));
  return picture;
};
