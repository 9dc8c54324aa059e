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
  if (x === null || x === undefined || Number.isNaN(x)) return "null";
  const size = Math.abs(x);
  if (size !== 0 && size < 0.5 * 10 ** -digits) return x.toExponential(1);
  return x.toFixed(size < 10 ? digits : 1);
};

MB.signed = (x, digits = 3) => (x > 0 ? "+" : "") + MB.number(x, digits);

// interval: [value, low, high, number of the reason why there are no low and high]
MB.interval = ([value, low, high], digits = 3, write = MB.number) => {
  if (value === null) return "null";
  const words = write(value, digits);
  return low === null ? words : `${words} [${write(low, digits)}, ${write(high, digits)}]`;
};

MB.reason = (interval) => MB.data.reasons[interval[3] ?? -1] ?? null;

MB.colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
MB.dark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

// [place on the scale, red, green, blue]
const ARMS = {
  light: [
    [-1, 8, 64, 129],
    [-0.5, 92, 158, 205],
    [0, 246, 246, 246],
    [0.35, 253, 184, 99],
    [0.7, 217, 95, 2],
    [1, 115, 46, 0],
  ],
  dark: [
    [-1, 120, 190, 255],
    [-0.5, 52, 108, 160],
    [0, 36, 40, 46],
    [0.35, 140, 76, 22],
    [0.7, 222, 132, 48],
    [1, 255, 214, 160],
  ],
};

const mixed = (arms, x) => {
  let i = 1;
  while (i < arms.length - 1 && x > arms[i][0]) i += 1;
  const [a, b] = [arms[i - 1], arms[i]];
  const w = (x - a[0]) / (b[0] - a[0]);
  return `rgb(${[1, 2, 3].map((c) => Math.round(a[c] + w * (b[c] - a[c]))).join(",")})`;
};
const STEPS = 400;
const diverging = (arms) => Array.from({ length: STEPS + 1 }, (_, i) => mixed(arms, (2 * i) / STEPS - 1));
const COLOURS = { light: diverging(ARMS.light), dark: diverging(ARMS.dark) };

// Blue for less, orange for more, the page's neutral at 0: told apart by every kind of colour blindness. t in [-1, 1].
MB.diverging = (t) =>
  COLOURS[MB.isDark ? "dark" : "light"][Math.round(((Math.max(-1, Math.min(1, t)) + 1) / 2) * STEPS)];

// Okabe and Ito's colours, the darkest and the palest changed for either ground.
const HUES = {
  light: ["#0072b2", "#d55e00", "#009e73", "#8f4f9f", "#a67c00", "#3b9bd0", "#4d4d4d", "#b8527e"],
  dark: ["#56b4e9", "#f0914a", "#2fc49b", "#cf9be0", "#f0c541", "#9fd3f5", "#c9c9c9", "#f29ac0"],
};
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];
const SHAPES = ["circle", "square", "triangle", "diamond"];

// How the n-th line looks. Where hues begin anew, each meets another dash.
MB.style = (n) => ({
  colour: HUES[MB.isDark ? "dark" : "light"][n % 8],
  dash: DASHES[(n + Math.floor(n / 8)) % 4],
  shape: SHAPES[n % 4],
});

MB.ticks = (low, high, most = 6) => {
  if (!(high > low)) return [low];
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= rough * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-6; i += 1) {
    ticks.push(+(i * step).toPrecision(12));
  }
  return ticks;
};

MB.tip = (lines, x, y) => {
  const tip = document.getElementById("tip");
  tip.replaceChildren(...lines.map((line) => MB.element("div", { text: line })));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const right = document.documentElement.clientWidth;
  tip.style.left = `${Math.max(4, Math.min(x + 14, right - width - 4))}px`;
  tip.style.top = `${y + 18 + height > innerHeight ? Math.max(4, y - height - 12) : y + 18}px`;
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
MB.csv = ({ columns, rows }) => [columns, ...rows].map((row) => row.map(MB.cell).join(",")).join("\n") + "\n";

MB.fileName = (text) => {
  const words = MB.plain(text)
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, "-");
  return words.replace(/^-|-$/g, "").slice(0, 80) || "figure";
};
