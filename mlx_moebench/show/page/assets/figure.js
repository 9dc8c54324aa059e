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
    const hidden = !(this.hidden.get(number) ?? this.drawing.lines[number].hidden);
    if (hidden === this.drawing.lines[number].hidden) this.hidden.delete(number);
    else this.hidden.set(number, hidden);
  }

  // Which lines were taken out or brought in, as a text: 2h.5s are line 2, hidden, and line 5, shown.
  get toggled() {
    return [...this.hidden].map(([number, hidden]) => `${number}${hidden ? "h" : "s"}`).join(".");
  }

  set toggled(text) {
    const parts = text.split(".").map((part) => /^(\d+)([hs])$/.exec(part));
    this.hidden = new Map(parts.filter(Boolean).map(([, number, how]) => [Number(number), how === "h"]));
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
    if (drawing.kind in MB.sketches) return MB.sketches[drawing.kind].draw(host, drawing, this.state);
    if (drawing.kind === "heat") return MB.heatmap(host, drawing, this.state);
    if (drawing.kind === "nothing") return MB.nothing(host, drawing.reason);
    if (lines.some((line) => line.points.length)) return MB.chart(host, drawing, lines);
    const reason = MB.reason(drawing.lines.flatMap((line) => line.values)[0] ?? []);
    return MB.nothing(host, reason ?? "it is undefined here");
  }
}

MB.nothing = (host, reason) => {
  host.replaceChildren(MB.element("p", { class: "note", text: `Nothing to draw: ${reason}.` }));
  MB.still(host);
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
    "aria-label": `${label}. Arrow keys move, Enter pins, Escape leaves.`,
  });
  const body = MB.element("div", { class: "paged" });
  const details = MB.element("details", {}, MB.element("summary", { text: "As a table" }), body);
  const { controls } = shown.own;
  const heading = MB.element("h3", { text: title });
  const head = MB.element("div", { class: "head" }, heading, anchorOf(shown));
  const legend = MB.element("ul", { class: "legend" });
  const caption = MB.element("figcaption");
  const chosen = controls.length ? MB.element("div", { class: "controls" }, ...controls) : null;
  const parts = [head, chosen, legend, host, caption, toolsOf(shown), details];
  const figure = MB.element("figure", { id: shown.id }, ...parts);
  return { figure, heading, legend, host, caption, details, body };
};

const toolsOf = (shown) => {
  const button = (text, onclick) =>
    MB.element("button", { type: "button", text, "aria-label": `Save as ${text}: ${shown.drawing.label}`, onclick });
  const csv = () => {
    const blob = new Blob([MB.csv(shown.table)], { type: "text/csv" });
    MB.save(blob, `${MB.fileName(shown.drawing.title)}.csv`);
  };
  const buttons = [button("CSV", csv), button("SVG", () => MB.saveSvg(shown)), button("PNG", () => MB.savePng(shown))];
  return MB.element("div", { class: "tools" }, ...buttons);
};

// A link to the figure as it is seen: pressed, it goes into the address and is copied.
const anchorOf = (shown) => {
  const words = { title: "Copy a link to this figure", "aria-label": `Copy a link to: ${shown.drawing.label}` };
  const link = MB.element("a", { class: "anchor", href: `#${shown.id}`, text: "#", ...words });
  const current = () => link.setAttribute("href", MB.addressOf(shown.id));
  for (const kind of ["pointerdown", "focus"]) link.addEventListener(kind, current);
  link.addEventListener("click", async (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    MB.remember(shown.id);
    const address = location.href.split("#")[0] + MB.addressOf(shown.id);
    MB.said(link, (await MB.copy(address)) ? "Link copied" : "The link is in the address bar");
  });
  return link;
};

MB.figure = (parent, figure, shared, id) => {
  const shown = new Shown(figure, shared, id);
  const parts = elementsOf(shown);
  let [drawn, filled] = [false, false];
  const fill = () => {
    if (parts.details.open && !filled) MB.pages(parts.body, shown.table, shown.drawing.title);
    filled = parts.details.open;
  };
  const name = () => {
    parts.heading.textContent = shown.drawing.title;
    parts.caption.textContent = shown.caption;
  };
  const draw = () => {
    drawn = true;
    name();
    shown.draw(parts.host);
    drawLegend(parts.legend, shown, redraw);
    fill();
  };
  const redraw = () => {
    MB.release(parts.host);
    if (drawn) draw();
  };
  parts.figure.drawNow = () => {
    if (!drawn) draw();
    if (seen) seen.unobserve(parts.figure);
  };
  const near = () => {
    const box = parts.figure.getBoundingClientRect();
    return !drawn || !seen || (box.bottom > 0 && box.top < innerHeight);
  };
  // What is not on the screen is drawn again when it comes there.
  const refresh = (isNear = near()) => {
    if (isNear) return redraw();
    MB.release(parts.host);
    name();
    drawn = false;
    return seen.observe(parts.figure);
  };
  const changed = () => {
    filled = false;
    if (drawn) refresh();
    else name();
  };
  for (const state of [shown.own, shared]) state.listeners.push(changed);
  keepFigure(shown, parts.details, { fill, changed });
  MB.redraws.push({ redraw, near, refresh, drawNow: parts.figure.drawNow });
  parent.append(parts.figure);
  if (seen) seen.observe(parts.figure);
  else draw();
};

// Lines taken out and an open table are part of the address, too.
const keepFigure = (shown, details, { fill, changed }) => {
  const take = (text) => {
    shown.toggled = text;
    changed();
  };
  MB.keep(`${shown.id}.lines`, () => shown.toggled, take);
  const open = (text) => (details.open = text === "open");
  MB.keep(`${shown.id}.table`, () => (details.open ? "open" : ""), open);
  details.addEventListener("toggle", () => {
    fill();
    MB.remember(shown.id);
  });
};

const drawLegend = (legend, shown, redraw) => {
  // The button that was pressed is made anew: the keyboard stays on it.
  const held = [...legend.querySelectorAll("button")].indexOf(document.activeElement);
  const entries = shown.keys.map((line, number) => {
    const onclick = () => {
      shown.toggle(number);
      redraw();
      MB.remember(shown.id);
    };
    const pressed = { type: "button", "aria-pressed": String(!line.hidden), onclick };
    return MB.element("li", {}, MB.element("button", pressed, MB.key(line), MB.element("bdi", { text: line.name })));
  });
  legend.replaceChildren(...entries);
  legend.hidden = !entries.length;
  if (held >= 0) legend.querySelectorAll("button")[held]?.focus();
};

// A piece of a line, as a picture.
MB.key = (line) => {
  const picture = MB.svg("svg", { width: 26, height: 12, "aria-hidden": "true" });
  const dash = { "stroke-width": 2, "stroke-dasharray": line.dash };
  picture.append(MB.svg("line", { x1: 1, x2: 25, y1: 6, y2: 6, stroke: line.colour, ...dash }));
  picture.append(MB.marker(line.shape, 13, 6, { fill: line.colour, stroke: line.colour }));
  return picture;
};
