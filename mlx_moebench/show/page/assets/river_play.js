// A sentence of the trace sent through the river, token by token: each goes from its first expert to its first expert.
"use strict";

const PLAY = { step: 650, kept: 6, beside: 14 };

Object.assign(MB.River.prototype, {
  player() {
    if (!this.tokens) return null;
    const { data } = this.tokens;
    const options = data.sequences.map((sequence, n) => [n, `${sequence.name}: ${this.opening(sequence)}`]);
    const id = `river-sentence-${this.drawing.run}`;
    const select = MB.element("select", { id, onchange: () => this.choose(Number(select.value)) });
    for (const [value, text] of options) select.append(MB.element("option", { value, text }));
    select.value = String(this.sequence);
    this.playButton = MB.element("button", { type: "button", onclick: () => this.toggle() });
    const next = MB.element("button", { type: "button", text: "Next token", onclick: () => this.step() });
    const label = MB.element("label", { for: id, text: "Sentence" });
    const controls = [MB.element("span", { class: "control" }, label, select), next];
    if (!this.still.matches) controls.splice(1, 0, this.playButton);
    this.sentence = MB.element("p", { class: "river-sentence", dir: "auto" });
    this.namePlay();
    this.tellSentence();
    return MB.element("div", {}, MB.element("div", { class: "tools" }, ...controls), this.sentence);
  },

  opening({ first, end }) {
    const text = Array.from({ length: Math.min(8, end - first) }, (_, i) => this.tokens.data.text(first + i)).join("");
    return MB.plain(text).replace(/\s+/g, " ").slice(0, 40);
  },

  namePlay() {
    this.playButton.textContent = this.playing ? "Stop" : "Play";
    this.playButton.setAttribute("aria-pressed", String(this.playing > 0));
  },

  choose(sequence) {
    this.stop();
    this.sequence = sequence;
    this.token = null;
    this.paintPath();
    this.tellSentence();
  },

  stop() {
    cancelAnimationFrame(this.playing);
    this.playing = 0;
    if (this.playButton) this.namePlay();
  },

  toggle() {
    if (this.playing) return this.stop();
    const { first, end } = this.tokens.data.sequences[this.sequence];
    if (this.token === null || this.token + 1 >= end) this.token = first - 1;
    return this.run();
  },

  // The next token sets out when the one before has arrived.
  run() {
    this.step(0);
    let started = null;
    const frame = (now) => {
      started ??= now;
      const done = (now - started) / PLAY.step;
      if (!this.host.isConnected) return this.stop();
      this.paintPath(Math.min(1, done));
      if (done < 1) this.playing = requestAnimationFrame(frame);
      else if (this.token + 1 < this.tokens.data.sequences[this.sequence].end) this.run();
      else this.stop();
      return undefined;
    };
    this.playing = requestAnimationFrame(frame);
    this.namePlay();
  },

  step(done = 1) {
    if (done === 1) this.stop();
    const { first, end } = this.tokens.data.sequences[this.sequence];
    this.token = this.token === null || this.token + 1 >= end ? first : this.token + 1;
    this.paintPath(done);
    this.tellSentence();
  },

  tellSentence() {
    const { data } = this.tokens;
    const { first, end } = data.sequences[this.sequence];
    const here = this.token ?? first;
    const from = Math.max(first, Math.min(here - PLAY.beside, end - 2 * PLAY.beside));
    const pieces = [];
    for (let t = from; t < Math.min(end, from + 2 * PLAY.beside + 1); t += 1) {
      pieces.push(MB.element(t === this.token ? "mark" : "span", { text: MB.plain(data.text(t)) }));
    }
    this.sentence.replaceChildren(...(from > first ? ["… "] : []), ...pieces);
  },

  // The middle of the first expert's node of a token in a column.
  stopOf(column, token) {
    const node = this.nodes[column][this.tokens.node(column, token)];
    return { x: this.x(column) + MB.river.size.node / 2, y: node.y + node.height / 2 };
  },

  // The way of the token and, fainter, of those before it; a dot where it is when `done` of the way is behind it.
  paintPath(done = 1) {
    this.over.replaceChildren();
    this.paintMark();
    if (!this.tokens || this.token === null) return;
    const { first } = this.tokens.data.sequences[this.sequence];
    for (let token = Math.max(first, this.token - PLAY.kept); token <= this.token; token += 1) {
      const age = this.token - token;
      const stops = [];
      for (let c = this.from; c <= this.last; c += 1) stops.push(this.stopOf(c, token));
      const here = age ? stops.length - 1 : done * (stops.length - 1);
      const opacity = age ? 0.3 * (1 - age / (PLAY.kept + 1)) : 1;
      const look = { fill: "none", stroke: MB.colour("fg"), "stroke-width": age ? 1.5 : 3, opacity };
      this.over.append(MB.svg("path", { d: pathThrough(stops, here), ...look, class: age ? "" : "river-token" }));
      if (!age) this.paintDot(stops, here);
    }
  },

  paintDot(stops, here) {
    const at = pointOn(stops, here);
    this.over.append(
      MB.svg("circle", { cx: at.x, cy: at.y, r: 6, fill: MB.colour("accent"), stroke: MB.colour("bg") }),
    );
    const text = MoebenchMap.visible(this.tokens.data.text(this.token), 20);
    const end = at.x > this.width - 140;
    const look = {
      "font-size": 13,
      "font-weight": 600,
      fill: MB.colour("fg"),
      stroke: MB.colour("bg"),
      "stroke-width": 4,
    };
    const place = { x: at.x + (end ? -10 : 10), y: at.y - 9, "text-anchor": end ? "end" : "start" };
    this.over.append(MB.svg("text", { ...place, ...look, "paint-order": "stroke", "unicode-bidi": "isolate" }, text));
  },

  // Where the keyboard is.
  paintMark() {
    if (!this.here || this.here.column < this.from || this.here.column > this.last) return;
    const node = this.nodes[this.here.column][this.here.node];
    const box = {
      x: this.x(this.here.column) - 3,
      y: node.y - 3,
      width: MB.river.size.node + 6,
      height: node.height + 6,
    };
    this.over.append(MB.svg("rect", { ...box, fill: "none", stroke: MB.colour("fg"), "stroke-width": 2, rx: 3 }));
  },
});

const between = (a, b, w) => ({ x: a.x + (b.x - a.x) * w, y: a.y + (b.y - a.y) * (3 * w * w - 2 * w * w * w) });

const pointOn = (stops, here) => {
  const i = Math.min(stops.length - 2, Math.floor(here));
  return stops.length < 2 ? stops[0] : between(stops[i], stops[i + 1], here - i);
};

// Of the same curves as the ribbons, up to `here` stops from the start.
const pathThrough = (stops, here) => {
  const points = [];
  for (let i = 0; i + 1 < stops.length; i += 1) {
    for (let step = 0; step <= 12; step += 1) {
      if (i + step / 12 <= here + 1e-9) points.push(between(stops[i], stops[i + 1], step / 12));
    }
  }
  return points.map(({ x, y }, n) => `${n ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");
};
