// The frame of a figure: heading, controls, drawing, caption with unit, n and definition, table, files.
"use strict";

MB.section = (id, heading, words) => {
  const section = MB.el("section", { id, "aria-labelledby": `${id}-heading` }, MB.el("h2", { id: `${id}-heading`, text: heading }));
  if (words) section.append(MB.el("p", { class: "note", text: words }));
  document.getElementById("figures").append(section);
  return section;
};

let selects = 0;
MB.select = (label, options, value, onchange) => {
  selects += 1;
  const id = `choice${selects}`;
  const select = MB.el("select", { id, onchange: () => onchange(select.value) });
  for (const [key, words] of options) select.append(MB.el("option", { value: key, text: words, selected: String(key) === String(value) }));
  return MB.el("span", { class: "control" }, MB.el("label", { for: id, text: label }), select);
};

const seen = "IntersectionObserver" in window ? new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) entry.target.drawNow();
}, { rootMargin: "300px" }) : null;

// spec: title, label (for those who do not see it), draw(host), caption() -> words, table() -> {columns, rows},
// controls [element], legend() -> [{name, colour, dash, shape, hidden, toggle}]
MB.figure = (parent, spec) => {
  const host = MB.el("div", { class: "plot", tabindex: 0, role: "application", "aria-roledescription": "figure", "aria-label": `${spec.label}. Arrow keys move, Escape leaves.` });
  const legend = MB.el("ul", { class: "legend" });
  const caption = MB.el("figcaption");
  const body = MB.el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Table: ${spec.label}` });
  const details = MB.el("details", { ontoggle: () => details.open && fill() }, MB.el("summary", { text: "As a table" }), body);
  const heading = MB.el("h3", { text: spec.title() });
  const tools = MB.el("div", { class: "tools" },
    MB.el("button", { type: "button", text: "CSV", "aria-label": `Save as CSV: ${spec.label}`, onclick: () => MB.save(new Blob([MB.csv(spec.table())], { type: "text/csv" }), `${MB.fileName(spec.title())}.csv`) }),
    MB.el("button", { type: "button", text: "PNG", "aria-label": `Save as PNG: ${spec.label}`, onclick: () => MB.png(host, spec) }));
  const controls = spec.controls && spec.controls.length ? MB.el("div", { class: "controls" }, ...spec.controls) : null;
  const figure = MB.el("figure", {}, heading, controls, legend, host, caption, tools, details);
  const fill = () => body.replaceChildren(MB.table(spec.table(), 1500));
  let drawn = false;
  const draw = () => {
    drawn = true;
    heading.textContent = spec.title();
    caption.textContent = spec.caption();
    spec.draw(host);
    // The button that was pressed is made anew: the keyboard stays on it.
    const held = [...legend.querySelectorAll("button")].indexOf(document.activeElement);
    legend.replaceChildren(...(spec.legend ? spec.legend() : []).map((entry) => MB.key(entry, redraw)));
    if (held >= 0) legend.querySelectorAll("button")[held]?.focus();
    legend.hidden = !legend.children.length;
    if (details.open) fill();
  };
  const redraw = () => { MB.untip(); if (drawn) draw(); };
  figure.drawNow = () => { if (!drawn) draw(); if (seen) seen.unobserve(figure); };
  // What is not on the screen is drawn again when it comes there.
  const refresh = () => {
    const box = figure.getBoundingClientRect();
    if (!drawn || !seen || (box.bottom > 0 && box.top < innerHeight)) return redraw();
    drawn = false;
    return seen.observe(figure);
  };
  MB.redraws.push({ redraw, refresh, drawNow: figure.drawNow });
  parent.append(figure);
  if (seen) seen.observe(figure);
  else draw();
  return redraw;
};

MB.nothing = (host, { reason }) => {
  host.replaceChildren(MB.el("p", { class: "note", text: `Nothing to draw: ${reason}.` }));
  for (const handler of ["onpointermove", "onpointerdown", "onpointerleave", "onkeydown"]) host[handler] = null;
};

MB.key = (entry, redraw) => {
  const picture = MB.svg("svg", { width: 26, height: 12, "aria-hidden": "true" });
  picture.append(MB.svg("line", { x1: 1, x2: 25, y1: 6, y2: 6, stroke: entry.colour, "stroke-width": 2, "stroke-dasharray": entry.dash || "" }));
  if (entry.shape) picture.append(MB.marker(entry.shape, 13, 6, { fill: entry.colour, stroke: entry.colour }));
  if (!entry.toggle) return MB.el("li", {}, MB.el("span", { class: "key" }, picture, MB.el("bdi", { text: entry.name })));
  const button = MB.el("button", { type: "button", "aria-pressed": String(!entry.hidden), onclick: () => { entry.toggle(); redraw(); } }, picture, MB.el("bdi", { text: entry.name }));
  return MB.el("li", {}, button);
};

MB.table = ({ columns, rows }, most) => {
  const words = (value) => (typeof value === "number" && !Number.isInteger(value) ? MB.number(value, 4) : value === null || value === undefined ? "" : String(value));
  const numeric = columns.map((_, i) => rows.length > 0 && rows.every((row) => row[i] === null || typeof row[i] === "number"));
  const head = MB.el("tr", {}, ...columns.map((name, i) => MB.el("th", { scope: "col", class: numeric[i] ? "number" : null, text: name })));
  const body = rows.slice(0, most).map((row) => MB.el("tr", {}, ...row.map((value, i) => MB.el("td", { class: numeric[i] ? "number" : words(value).length > 34 ? "long" : null, dir: numeric[i] ? null : "auto", text: words(value) }))));
  const table = MB.el("table", {}, MB.el("thead", {}, head), MB.el("tbody", {}, ...body));
  if (rows.length > most) table.prepend(MB.el("caption", { text: `The first ${most.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows; the CSV has all of them.` }));
  return table;
};

// Title, drawing, legend and caption on one canvas, twice as fine as a screen.
MB.png = async (host, spec) => {
  const scale = 2;
  const pictures = [];
  for (const child of host.querySelectorAll("canvas, svg")) {
    const box = child.getBoundingClientRect();
    pictures.push({ image: child.tagName === "CANVAS" ? child : await MB.rasterised(child), width: child.tagName === "CANVAS" ? parseFloat(child.style.width) : box.width, height: child.tagName === "CANVAS" ? (parseFloat(child.style.width) * child.height) / child.width : box.height });
  }
  const width = Math.max(480, ...pictures.map((p) => p.width)) + 24;
  const canvas = MB.el("canvas");
  const context = canvas.getContext("2d");
  const small = "12px system-ui, sans-serif";
  const large = "600 15px system-ui, sans-serif";
  const wrap = (text, font) => {
    context.font = font;
    const lines = [""];
    for (const word of text.split(" ")) {
      const longer = `${lines[lines.length - 1]} ${word}`.trim();
      if (context.measureText(longer).width > width - 24 && lines[lines.length - 1]) lines.push(word);
      else lines[lines.length - 1] = longer;
    }
    return lines;
  };
  const title = wrap(spec.title(), large);
  const caption = wrap(spec.caption(), small);
  const keys = spec.legend ? spec.legend().filter((entry) => !entry.hidden) : [];
  const height = 16 + 20 * title.length + 18 * keys.length + pictures.reduce((sum, p) => sum + p.height + 4, 0) + 16 * caption.length + 12;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  context.scale(scale, scale);
  context.fillStyle = MB.colour("bg");
  context.fillRect(0, 0, width, height);
  let y = 24;
  const write = (lines, font, colour, step) => { context.font = font; context.fillStyle = colour; for (const line of lines) { context.fillText(line, 12, y); y += step; } };
  write(title, large, MB.colour("fg"), 20);
  for (const entry of keys) {
    context.strokeStyle = entry.colour;
    context.lineWidth = 2;
    context.setLineDash((entry.dash || "").split(" ").filter(Boolean).map(Number));
    context.beginPath();
    context.moveTo(14, y - 4);
    context.lineTo(40, y - 4);
    context.stroke();
    context.setLineDash([]);
    context.font = small;
    context.fillStyle = MB.colour("fg");
    context.fillText(entry.name, 48, y);
    y += 18;
  }
  for (const p of pictures) { context.drawImage(p.image, 12, y - 12, p.width, p.height); y += p.height + 4; }
  write(caption, small, MB.colour("muted"), 16);
  canvas.toBlob((blob) => MB.save(blob, `${MB.fileName(spec.title())}.png`), "image/png");
};

MB.rasterised = (svg) => new Promise((resolve, reject) => {
  const copy = svg.cloneNode(true);
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  const image = new Image();
  image.onload = () => resolve(image);
  image.onerror = reject;
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
});
