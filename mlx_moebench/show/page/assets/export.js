// A figure as a picture to save: title, legend, drawing and caption, drawn anew at one width whatever the screen. SVG
// is vectors with text as text; PNG is the same three times as fine as a screen.
"use strict";

const SAVED = { width: 960, margin: 16, scale: 3, most: 40e6, family: "system-ui, sans-serif" };

MB.saveSvg = (shown) => {
  MB.save(new Blob([svgText(composed(shown))], { type: "image/svg+xml" }), `${MB.fileName(shown.drawing.title)}.svg`);
};

MB.savePng = async (shown) => {
  const svg = composed(shown);
  const [width, height] = ["width", "height"].map((name) => Number(svg.getAttribute(name)));
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svgText(svg))}`;
  await image.decode();
  const scale = Math.min(SAVED.scale, Math.sqrt(SAVED.most / (width * height)));
  const canvas = MB.element("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.toBlob((blob) => MB.save(blob, `${MB.fileName(shown.drawing.title)}.png`), "image/png");
};

// Characters that XML cannot hold are replaced: names can have any.
const svgText = (svg) =>
  new XMLSerializer()
    .serializeToString(svg)
    .replace(/[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, "\ufffd");

// The drawings of a figure as elements of SVG of the width of a saved picture.
const drawnAlone = (shown, width) =>
  MB.onSheet(width, () => {
    const host = MB.element("div");
    shown.draw(host);
    return [...host.querySelectorAll("svg")].filter((svg) => !svg.parentElement.closest("svg"));
  });

const composed = (shown) => {
  const { drawing } = shown;
  const room = SAVED.width;
  const pictures = drawnAlone(shown, room);
  const wide = Math.max(room, ...pictures.map((svg) => Number(svg.getAttribute("width"))));
  const sheet = MB.svg("svg", { xmlns: "http://www.w3.org/2000/svg", role: "img" });
  sheet.append(MB.svg("title", {}, drawing.title), MB.svg("rect", { fill: MB.colour("bg") }));
  const words = (text, size, colour, weight) => ({ text, size, colour: MB.colour(colour), weight });
  let y = writeLines(sheet, words(drawing.title, 15, "fg", 600), SAVED.margin + 14, wide) + 4;
  const keys = shown.keys.filter((line) => !line.hidden);
  if (keys.length) y = writeKeys(sheet, keys, y + 6, wide) + 8;
  for (const svg of pictures) {
    svg.setAttribute("x", SAVED.margin);
    svg.setAttribute("y", y);
    sheet.append(svg);
    y += Number(svg.getAttribute("height")) + 6;
  }
  const reason = drawing.kind === "nothing" ? `Nothing to draw: ${drawing.reason}. ` : "";
  y = writeLines(sheet, words(reason + shown.caption, 12, "muted", null), y + 14, wide);
  const size = { width: Math.ceil(wide + 2 * SAVED.margin), height: Math.ceil(y + SAVED.margin) };
  for (const element of [sheet, sheet.querySelector("rect")]) {
    for (const [name, value] of Object.entries(size)) element.setAttribute(name, value);
  }
  sheet.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
  return sheet;
};

// The parts of a text that have room in a width, broken between words, or within one that is longer than a line.
const wrapped = (text, font, width) => {
  const context = document.createElement("canvas").getContext("2d");
  context.font = font;
  const fits = (words) => context.measureText(words).width <= width;
  const lines = [""];
  const add = (piece, joint) => {
    const longer = lines[lines.length - 1] + joint + piece;
    if (!lines[lines.length - 1] || fits(longer)) lines[lines.length - 1] = longer.trimStart();
    else lines.push(piece);
  };
  for (const word of text.split(" ")) {
    if (fits(word)) add(word, " ");
    else [...word].forEach((letter, i) => add(letter, i ? "" : " "));
  }
  return lines;
};

// Returns where the next line goes; y: the foot of the first.
const writeLines = (sheet, { text, size, colour, weight }, y, width) => {
  const look = { "font-size": size, "font-family": SAVED.family, fill: colour };
  if (weight) look["font-weight"] = weight;
  const lines = wrapped(text, `${weight ?? 400} ${size}px ${SAVED.family}`, width);
  lines.forEach((line, i) => sheet.append(MB.svg("text", { ...look, x: SAVED.margin, y: y + i * size * 1.35 }, line)));
  return y + lines.length * size * 1.35;
};

const writeKeys = (sheet, keys, top, width) => {
  const context = document.createElement("canvas").getContext("2d");
  context.font = `12px ${SAVED.family}`;
  let [x, y] = [SAVED.margin, top];
  for (const line of keys) {
    const name = wrapped(line.name, context.font, width - 40)[0];
    const long = 34 + context.measureText(name).width;
    if (x > SAVED.margin && x + long > SAVED.margin + width) [x, y] = [SAVED.margin, y + 18];
    const key = MB.key(line);
    key.setAttribute("x", x);
    key.setAttribute("y", y - 10);
    const look = { "font-size": 12, "font-family": SAVED.family, fill: MB.colour("fg") };
    sheet.append(key, MB.svg("text", { ...look, x: x + 32, y }, name));
    x += long + 18;
  }
  return y + 6;
};
