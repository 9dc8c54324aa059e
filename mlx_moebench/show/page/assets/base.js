// What every figure uses: elements, numbers in words, colours, files to save. Text only ever becomes textContent.
"use strict";
const MB = { data: JSON.parse(document.getElementById("data").textContent), redraws: [] };
MB.sketches = {}; // pictures with a script of their own: {draw(host, drawing, state), table(drawing, state)} by kind
MB.widgets = {}; // what is no figure: a function of its section and its data, by name

MB.element = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "text") element.textContent = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};

MB.svg = (name, attributes = {}, text = null) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  return element;
};

// The isolates around a right-to-left name, which files and spreadsheets have no use for.
MB.plain = (text) => text.replace(/[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "");

MB.count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

MB.number = (x, digits = 3) => {
  if (x === null || x === undefined || Number.isNaN(x)) return "not defined";
  const size = Math.abs(x);
  if (size !== 0 && size < 0.5 * 10 ** -digits) return x.toExponential(1);
  return x.toFixed(size < 10 ? digits : 1);
};

MB.signed = (x, digits = 3) => (x > 0 ? "+" : "") + MB.number(x, digits);

// interval: [value, low, high, number of the reason why there are no low and high]
MB.interval = (interval, digits = 3, write = MB.number) => {
  const [value, low, high] = interval;
  if (value === null) return MB.reason(interval) ? `not defined: ${MB.reason(interval)}` : "not defined";
  const words = write(value, digits);
  return low === null ? words : `${words} [${write(low, digits)}, ${write(high, digits)}]`;
};

MB.reason = (interval) => MB.data.reasons[interval[3] ?? -1] ?? null;

MB.colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
MB.dark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

// The colours of `show/colours.py`, for the ground that the page has.
MB.ground = () => MB.data.colours[MB.isDark ? "dark" : "light"];

const rgb = (hex) => [1, 3, 5].map((from) => parseInt(hex.slice(from, from + 2), 16));
const mixed = (stops, x) => {
  let i = 1;
  while (i < stops.length - 1 && x > stops[i][0]) i += 1;
  const [[low, from], [high, to]] = [stops[i - 1], stops[i]];
  const w = Math.max(0, Math.min(1, (x - low) / (high - low)));
  const [a, b] = [rgb(from), rgb(to)];
  return `rgb(${a.map((c, k) => Math.round(c + w * (b[k] - c))).join(",")})`;
};
const STEPS = 400;
const MAPS = new Map();
const mapped = (stops, low, x) => {
  if (!MAPS.has(stops)) {
    MAPS.set(
      stops,
      Array.from({ length: STEPS + 1 }, (_, i) => mixed(stops, low + ((1 - low) * i) / STEPS)),
    );
  }
  return MAPS.get(stops)[Math.round(((Math.max(low, Math.min(1, x)) - low) / (1 - low)) * STEPS)];
};

// Blue for less, orange for more, the page's neutral at 0: told apart by every kind of colour blindness. t in [-1, 1].
MB.diverging = (t) => mapped(MB.ground().diverging, -1, t);
// x in [0, 1].
MB.sequential = (x) => mapped(MB.data.colours.sequential, 0, x);

// Of a domain by its name; of all together, "", and of one that nobody named the greys.
MB.domainColour = (name) => {
  const place = MB.data.colours.names.indexOf(name);
  const { domains, all } = MB.ground();
  return place < 0 ? all : domains[place % domains.length];
};

// Of an expert among all of its router: the busiest by `counts` have their own, and so has the one that was `chosen`.
const RANKS = new WeakMap();
MB.expertColour = (index, counts, chosen = null) => {
  if (!RANKS.has(counts)) {
    const order = Array.from(counts, (_, i) => i).sort((a, b) => counts[b] - counts[a] || a - b);
    RANKS.set(counts, new Map(order.map((expert, rank) => [expert, counts[expert] > 0 ? rank : Infinity])));
  }
  const { experts, other, chosen: own } = MB.ground();
  return experts[RANKS.get(counts).get(index)] ?? (index === chosen ? own : other);
};

const DASHES = ["", "6 3", "2 3", "8 3 2 3"];
const SHAPES = ["circle", "square", "triangle", "diamond", "down", "cross", "plus", "star"];

// How a line looks, of its numbers of hue, null for all domains, dash and marker.
MB.style = ([hue, dash, marker]) => ({
  colour: hue === null ? MB.ground().all : MB.ground().domains[hue],
  dash: DASHES[dash],
  shape: SHAPES[marker],
});

// Two or more, at 1, 2 or 5 times a power of ten; whole: at whole numbers alone.
MB.ticks = (low, high, most = 6, whole = false) => {
  if (!(high > low)) return [low];
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const found = power * [1, 2, 5, 10].find((m) => m * power >= rough * 0.999);
  const step = whole ? Math.max(1, found) : found;
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-6; i += 1) {
    ticks.push(+(i * step).toPrecision(12));
  }
  return ticks.length > 1 || step === 1 || most > 40 ? ticks : MB.ticks(low, high, most * 2, whole);
};

MB.tip = (lines, x, y) => {
  const tip = document.getElementById("tip");
  tip.replaceChildren(...lines.map((line) => MB.element("div", { text: line })));
  tip.hidden = false;
  MB.beside(tip, x, y);
};
// Puts a box beside a point of the window, where it is whole.
MB.beside = (box, x, y) => {
  const { width, height } = box.getBoundingClientRect();
  const right = document.documentElement.clientWidth;
  box.style.left = `${Math.max(4, Math.min(x + 14, right - width - 4))}px`;
  box.style.top = `${y + 18 + height > innerHeight ? Math.max(4, y - height - 12) : y + 18}px`;
};
MB.untip = () => {
  document.getElementById("tip").hidden = true;
};
MB.speak = (lines) => {
  document.getElementById("live").textContent = lines.join(". ");
};

MB.save = (blob, name) => {
  const link = MB.element("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

// A text that a spreadsheet would run as a formula gets an apostrophe before it.
MB.cell = (value) => {
  if (value === null || value === undefined) return "";
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  const text = MB.plain(String(value));
  return `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text).replace(/"/g, '""')}"`;
};
// table: of `MB.tableOf`.
MB.csv = ({ columns, length, row }) =>
  [columns, ...Array.from({ length }, (_, i) => row(i))].map((cells) => cells.map(MB.cell).join(",")).join("\n") + "\n";

MB.fileName = (text) => {
  const words = MB.plain(text)
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, "-");
  return words.replace(/^-|-$/g, "").slice(0, 80) || "figure";
};
