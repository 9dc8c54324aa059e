// The token x layer map: a sentence down, layers across, each cell in the colour of the token's first expert there, as
// opaque as its gate weight. It stands alone: the page, the demo and the live view draw it from plain data.
//
//   const map = MoebenchMap.draw(element, {
//     name, tokens: [T texts], layers: [L names], experts: [T][L], weights: [T][L],
//     colours: [L][E] as #rrggbb, other: the one of them that many experts share, whose cells always have their number,
//     against: null, or {name, tokens, experts, weights}: drawn beside it, what changed outlined
//     first: number of the first token, 0 if absent; made: of either side, rows above a line, below it were generated
//   }, {dark, tip(lines, x, y), untip(), speak(lines), choose({token, layer, expert}), room(): pixels it may take});
//   map.reveal(n): only the first n tokens, the last of them marked; map.select(layer, expert); map.select(null)
//
// An entry of `experts` that is null has no cell. Every text reaches the page through textContent alone.
const MoebenchMap = (() => {
  "use strict";

  const NS = "http://www.w3.org/2000/svg";
  const [ROW, HEAD, GAP] = [19, 24, 26];
  const [LEAST, WIDEST] = [17, 40]; // pixels of a cell
  const BUSIEST = 8; // experts with a colour of their own
  const FAINTEST = 0.22; // opacity of a gate weight of 0, so that its cell is seen
  const ALL_NUMBERED = 3000; // cells up to which those in colour have their number, too
  const LETTERS = 14; // of a token, beside its row
  const STAND_INS = { "\n": "⏎", "\r": "␍", "\t": "⇥", " ": "␣", "\u00a0": "⍽" };

  const svg = (name, attributes = {}, text = null) => {
    const element = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== null) element.textContent = text;
    return element;
  };

  const code = (character) => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

  // A token as it can be seen: spaces and controls stand for themselves by a sign, long ones are cut.
  const visible = (text, most = LETTERS) => {
    const characters = [...text];
    const shown = characters
      .slice(0, most)
      .map((c) => STAND_INS[c] ?? (/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}]/u.test(c) ? code(c) : c));
    return shown.length ? shown.join("") + (characters.length > most ? "…" : "") : "∅";
  };

  // A name, whose spaces are spaces.
  const titled = (name) => visible(name, 40).replaceAll(STAND_INS[" "], " ");

  // The colours of a layer's experts: the busiest in the palette's order, all others in one grey.
  const coloursOf = (counts, palette, other) => {
    const busiest = [...counts.keys()].filter((e) => counts[e] > 0).sort((a, b) => counts[b] - counts[a] || a - b);
    const colours = counts.map(() => other);
    busiest.slice(0, Math.min(BUSIEST, palette.length)).forEach((expert, place) => (colours[expert] = palette[place]));
    return colours;
  };

  const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

  // Black or white, whichever can be read on a colour of that opacity.
  const ink = (hex, opacity, dark) => {
    const ground = dark ? [15, 19, 24] : [255, 255, 255];
    const linear = channels(hex)
      .map((c, i) => (opacity * c + (1 - opacity) * ground[i]) / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 ? "#000000" : "#ffffff";
  };

  const finite = (x) => (Number.isFinite(x) ? Math.abs(x) : 0);
  const largest = (sides) =>
    Math.max(1e-9, ...sides.flatMap((side) => side.weights.map((row) => Math.max(...row.map(finite)))));

  // Whether two sides can be told apart cell by cell at a token: both have it, and it is the same text.
  const comparable = (one, other, token) =>
    other !== null && token < other.tokens.length && one.tokens[token] === other.tokens[token];

  const changed = (one, other, token, layer) =>
    comparable(one, other, token) && one.experts[token][layer] !== other.experts[token][layer];

  class View {
    constructor(root, data, options) {
      Object.assign(this, { root, data, options, rows: [], bright: [], here: null, chosen: null, revealed: Infinity });
      this.sides = [data, ...(data.against ? [data.against] : [])];
      this.build();
    }

    build() {
      const { data, sides } = this;
      const rows = Math.max(...sides.map((side) => side.tokens.length));
      const twice = sides.length > 1 && sides[1].tokens.some((text, t) => text !== data.tokens[t]);
      this.gutters = sides.map((_, n) => (n === 0 || twice ? 112 : 0));
      const whole = (this.options.room?.() ?? this.root.clientWidth) || 800;
      const room = whole - this.gutters.reduce((a, b) => a + b) - GAP * (sides.length - 1) - 4;
      const wide = room / (sides.length * data.layers.length);
      this.cell = Math.max(LEAST, Math.min(WIDEST, Math.floor(wide)));
      this.turned = Math.max(...data.layers.map((name) => name.length)) * 6.5 > this.cell;
      this.top = (this.turned ? 62 : HEAD) + (sides.length > 1 ? 18 : 0);
      this.most = largest(sides);
      const grid = this.cell * data.layers.length;
      this.starts = sides.map((_, n) => this.gutters.slice(0, n + 1).reduce((a, b) => a + b) + n * (grid + GAP));
      const width = this.starts[sides.length - 1] + grid + (this.turned ? 30 : 4);
      const height = this.top + rows * ROW + 4;
      this.picture = svg("svg", {
        width,
        height,
        viewBox: `0 0 ${width} ${height}`,
        role: "img",
        "aria-hidden": "true",
      });
      this.picture.style.maxWidth = "none";
      this.numbered = sides.length * rows * data.layers.length <= ALL_NUMBERED;
      sides.forEach((side, n) => this.drawSide(side, n));
      this.bar = svg("rect", { x: 0, width, height: ROW, fill: "none", stroke: "currentColor", visibility: "hidden" });
      this.ring = svg("rect", {
        width: this.cell,
        height: ROW,
        fill: "none",
        stroke: "currentColor",
        "stroke-width": 2.5,
      });
      this.ring.setAttribute("visibility", "hidden");
      this.picture.append(this.bar, this.ring);
      this.root.replaceChildren(this.picture);
      this.listen();
    }

    drawSide(side, n) {
      const { data, starts, cell } = this;
      const other = this.sides.length > 1 ? this.sides[1 - n] : null;
      if (other !== null) this.picture.append(this.heading(side.name, starts[n], cell * data.layers.length + GAP));
      data.layers.forEach((name, l) => {
        const [x, y] = [starts[n] + (l + 0.5) * cell, this.top - 6];
        const turn = this.turned ? { transform: `rotate(-55 ${x} ${y})` } : { "text-anchor": "middle" };
        if (this.turned || cell >= 20 || l % 2 === 0) this.picture.append(this.text(name, x, y, turn));
      });
      side.tokens.forEach((text, t) => {
        const y = this.top + t * ROW;
        const row = svg("g", { "data-token": t });
        if (this.gutters[n]) {
          const at = { "text-anchor": "end" };
          row.append(this.text(visible(text), starts[n] - 6, y + 13, at, "ui-monospace, Menlo, Consolas, monospace"));
        }
        const cells = svg("g");
        side.experts[t].forEach((expert, l) => {
          if (expert !== null && expert !== undefined) cells.append(this.drawCell(side, other, n, t, l, expert));
        });
        row.append(cells);
        this.picture.append(row);
        this.rows.push({ row, cells, experts: side.experts[t] });
      });
      if (side.made > 0 && side.made < side.tokens.length) {
        const [x1, y] = [starts[n] - this.gutters[n], this.top + side.made * ROW];
        const at = { x1, x2: starts[n] + cell * data.layers.length, y1: y, y2: y };
        this.picture.append(svg("line", { ...at, class: "mm-made", stroke: "currentColor", "stroke-width": 2 }));
      }
    }

    // The name of a side, as much of it as there is room for; all of it where it is pointed at.
    heading(name, x, room) {
      const most = Math.max(6, Math.floor(room / 6.8));
      const whole = titled(name);
      const shown = [...whole].length > most ? `${[...whole].slice(0, most - 1).join("")}…` : whole;
      const heading = this.text(shown, x, 12, { "font-weight": 600 });
      heading.append(svg("title", {}, whole));
      return heading;
    }

    text(words, x, y, attributes, family = "system-ui, sans-serif") {
      const plain = { x, y, "font-size": 11, "font-family": family, fill: "currentColor", "unicode-bidi": "isolate" };
      return svg("text", { ...plain, ...attributes }, words);
    }

    drawCell(side, other, n, t, l, expert) {
      const { data, starts, cell } = this;
      const colour = data.colours[l][expert] ?? data.other;
      const opacity = FAINTEST + (1 - FAINTEST) * Math.min(1, finite(side.weights[t][l]) / this.most);
      const [x, y] = [starts[n] + l * cell, this.top + t * ROW];
      const group = svg("g", { class: "mm-cell", "data-side": n, "data-layer": l, "data-expert": expert });
      const box = { x: x + 0.5, y: y + 0.5, width: cell - 1, height: ROW - 1, rx: 2 };
      group.append(svg("rect", { ...box, fill: colour, "fill-opacity": opacity.toFixed(3) }));
      if (changed(side, other, t, l)) {
        group.classList.add("mm-changed");
        const inside = { x: x + 1.5, y: y + 1.5, width: cell - 3, height: ROW - 3 };
        group.append(svg("rect", { ...inside, fill: "none", stroke: "currentColor", "stroke-width": 2 }));
      }
      if (this.numbered || colour === data.other) {
        const at = {
          "text-anchor": "middle",
          fill: ink(colour, opacity, this.options.dark),
          "font-size": cell < 20 ? 8 : 10,
        };
        group.append(this.text(String(expert), x + cell / 2, y + 13, at));
      }
      return group;
    }

    // The side, token and layer at a place of the picture.
    at(event) {
      const box = this.picture.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      const token = Math.floor((y - this.top) / ROW);
      const grid = this.cell * this.data.layers.length;
      const side = this.starts.findIndex((start, n) => x >= start - this.gutters[n] && x < start + grid);
      if (side < 0 || token < 0 || token >= this.sides[side].tokens.length) return null;
      return { side, token, layer: Math.max(0, Math.floor((x - this.starts[side]) / this.cell)) };
    }

    lines({ side, token, layer }) {
      const [here, other] = [this.sides[side], this.sides.length > 1 ? this.sides[1 - side] : null];
      const expert = here.experts[token][layer];
      const number = token + (this.data.first ?? 0);
      const first = `${visible(here.tokens[token], 60)} (token ${number}), layer ${this.data.layers[layer]}`;
      if (expert === null || expert === undefined) return [first, "No expert here."];
      const lines = [first, `First expert ${expert}, gate weight ${here.weights[token][layer].toPrecision(3)}`];
      if (changed(here, other, token, layer))
        lines.push(`${titled(other.name)}: expert ${other.experts[token][layer]}`);
      return lines;
    }

    // Point at a cell: a frame around it, and its words to whoever shows them.
    point(place, at = null) {
      this.here = place;
      this.ring.setAttribute("visibility", place ? "visible" : "hidden");
      if (!place) return this.options.untip?.();
      const [x, y] = [this.starts[place.side] + place.layer * this.cell, this.top + place.token * ROW];
      this.ring.setAttribute("x", x);
      this.ring.setAttribute("y", y);
      const box = this.picture.getBoundingClientRect();
      const lines = this.lines(place);
      this.options.tip?.(lines, at ? at.clientX : box.left + x, at ? at.clientY : box.top + y);
      if (!at) this.options.speak?.(lines);
      return lines;
    }

    choose(place) {
      const expert = this.sides[place.side].experts[place.token][place.layer];
      const again = this.chosen && this.chosen.layer === place.layer && this.chosen.expert === expert;
      if (again) this.select(null);
      else this.select(place.layer, expert);
      this.options.choose?.(again ? null : { ...place, expert });
    }

    // Only the cells of one expert of one layer stay bright; null brings all back. A row turns faint as a whole, and
    // the one cell of it that stays bright stands beside the others: touching each of thousands takes long.
    select(layer, expert) {
      this.chosen = layer === null ? null : { layer, expert };
      for (const { cell, cells, next } of this.bright) {
        cell.classList.remove("mm-chosen");
        cells.insertBefore(cell, next);
      }
      this.bright = [];
      for (const { cells, experts } of this.rows) {
        if (layer === null) cells.removeAttribute("opacity");
        else cells.setAttribute("opacity", 0.25);
        if (layer === null || experts[layer] !== expert) continue;
        const cell = cells.querySelector(`[data-layer="${layer}"]`);
        this.bright.push({ cell, cells, next: cell.nextSibling });
        cell.classList.add("mm-chosen");
        cells.after(cell);
      }
    }

    reveal(n) {
      this.revealed = n;
      for (const { row } of this.rows) row.setAttribute("opacity", Number(row.dataset.token) < n ? 1 : 0.08);
      const shown = n >= 1 && n <= this.rows.length;
      this.bar.setAttribute("visibility", shown ? "visible" : "hidden");
      if (shown) this.bar.setAttribute("y", this.top + (n - 1) * ROW);
    }

    listen() {
      const { root } = this;
      root.onpointermove = (event) => event.pointerType === "mouse" && this.point(this.at(event), event);
      root.onpointerleave = (event) => event.pointerType === "mouse" && this.point(null);
      root.onclick = (event) => {
        const place = this.at(event);
        if (!place) return;
        this.point(place, event);
        this.choose(place);
      };
      root.onkeydown = (event) => this.key(event);
    }

    key(event) {
      const { side, token, layer } = this.here ?? { side: 0, token: -1, layer: 0 };
      const [rows, columns] = [this.sides[side].tokens.length, this.data.layers.length];
      const moves = {
        ArrowDown: [side, token + 1, layer],
        ArrowUp: [side, token - 1, layer],
        ArrowLeft: [side, token, layer - 1],
        ArrowRight: this.here ? [side, token, layer + 1] : [side, 0, 0],
        Home: [side, 0, 0],
        End: [side, rows - 1, columns - 1],
      };
      if (event.key === "Escape") {
        this.select(null);
        this.point(null);
      } else if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        if (this.here) this.choose(this.here);
      } else if (event.key in moves) {
        event.preventDefault();
        let [s, t, l] = moves[event.key];
        // Beyond the last layer of the one side lies the first of the other.
        if (l >= columns && s + 1 < this.sides.length) [s, l] = [s + 1, 0];
        if (l < 0 && s > 0) [s, l] = [s - 1, columns - 1];
        t = Math.max(0, Math.min(this.sides[s].tokens.length - 1, t));
        this.point({ side: s, token: t, layer: Math.max(0, Math.min(columns - 1, l)) });
      }
    }
  }

  return {
    coloursOf,
    visible,
    draw: (element, data, options = {}) => new View(element, data, options),
  };
})();
