// A figure as a picture to save: title, legend, drawing and caption on one canvas, twice as fine as a screen.
"use strict";

const PNG = { scale: 2, margin: 12, small: "12px system-ui, sans-serif", large: "600 15px system-ui, sans-serif" };

MB.png = async (host, shown) => {
  const pictures = await Promise.all([...host.querySelectorAll("canvas, svg")].map(pictureOf));
  const width = Math.max(480, ...pictures.map((picture) => picture.width)) + 2 * PNG.margin;
  const canvas = MB.element("canvas");
  const context = canvas.getContext("2d");
  const { title } = shown.drawing;
  const heading = wrapped(context, title, PNG.large, width - 2 * PNG.margin);
  const caption = wrapped(context, shown.caption, PNG.small, width - 2 * PNG.margin);
  const keys = shown.keys.filter((line) => !line.hidden);
  const drawn = pictures.reduce((sum, picture) => sum + picture.height + 4, 0);
  const height = 28 + 20 * heading.length + 18 * keys.length + drawn + 16 * caption.length;
  canvas.width = Math.round(width * PNG.scale);
  canvas.height = Math.round(height * PNG.scale);
  context.scale(PNG.scale, PNG.scale);
  context.fillStyle = MB.colour("bg");
  context.fillRect(0, 0, width, height);
  let y = write(context, heading, PNG.large, "fg", 24, 20);
  for (const line of keys) y = drawKey(context, line, y);
  for (const { image, ...size } of pictures) {
    context.drawImage(image, PNG.margin, y - 12, size.width, size.height);
    y += size.height + 4;
  }
  write(context, caption, PNG.small, "muted", y, 16);
  canvas.toBlob((blob) => MB.save(blob, `${MB.fileName(title)}.png`), "image/png");
};

const pictureOf = async (element) => {
  if (element.tagName !== "CANVAS") {
    const { width, height } = element.getBoundingClientRect();
    return { image: await rasterised(element), width, height };
  }
  const width = parseFloat(element.style.width);
  return { image: element, width, height: (width * element.height) / element.width };
};

const rasterised = (svg) =>
  new Promise((resolve, reject) => {
    const copy = svg.cloneNode(true);
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
  });

const wrapped = (context, text, font, width) => {
  context.font = font;
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines[lines.length - 1]} ${word}`.trim();
    if (context.measureText(longer).width > width && lines[lines.length - 1]) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
};

// Returns where the next line goes.
const write = (context, lines, font, colour, y, step) => {
  context.font = font;
  context.fillStyle = MB.colour(colour);
  lines.forEach((line, i) => context.fillText(line, PNG.margin, y + i * step));
  return y + lines.length * step;
};

const drawKey = (context, line, y) => {
  context.strokeStyle = line.colour;
  context.lineWidth = 2;
  context.setLineDash(line.dash.split(" ").filter(Boolean).map(Number));
  context.beginPath();
  context.moveTo(14, y - 4);
  context.lineTo(40, y - 4);
  context.stroke();
  context.setLineDash([]);
  context.font = PNG.small;
  context.fillStyle = MB.colour("fg");
  context.fillText(line.name, 48, y);
  return y + 18;
};
