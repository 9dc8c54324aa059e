// The token x layer map with a slider over its tokens, and a button that plays them: what the demo shows first.
//
//   const player = new MoebenchPlayer(element, {colours, dark(), choose({token, layer, expert} or null)});
//   player.show({layers: [L names], n_experts: [L], sides: [{name, tokens, experts, weights, made}],
//     chosen(side, token, layer), growing}): one side or two; made: tokens before those that were generated; chosen:
//     every expert of a cell with its weight, or null; growing: more tokens are coming
//   player.at: {token, router, expert} that is chosen; player.go({token, router, expert}): choose it
const MoebenchPlayer = (() => {
  "use strict";

  const A_TOKEN = 220; // milliseconds of a token while it plays
  const AT_ONCE = 2500; // cells that are drawn at a time, so that a long text costs no more
  const LEAST = 24; // tokens drawn at a time

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "text") element.textContent = value;
      else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  };

  const plural = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
  const figure = (x) => (Number.isFinite(x) ? x.toPrecision(3) : "null");

  return class Player {
    constructor(root, options) {
      Object.assign(this, { options, shown: null, position: 0, timer: null, at: {}, drawing: null, took: 0 });
      this.play = make("button", { type: "button", class: "mp-play", text: "Play" });
      this.back = make("button", { type: "button", "aria-label": "One token back", text: "‹" });
      this.step = make("button", { type: "button", "aria-label": "One token on", text: "›" });
      this.slider = make("input", {
        type: "range",
        min: 1,
        step: 1,
        "aria-label": "Token up to which the map is shown",
      });
      this.where = make("output", { class: "mp-where" });
      this.map = make("div", {
        class: "mp-map",
        tabindex: 0,
        role: "application",
        "aria-label": "Map of tokens and layers: arrow keys move from cell to cell, Enter chooses its expert",
      });
      this.words = make("p", { class: "mp-words", role: "status" });
      this.note = make("p", { class: "mp-note" });
      const buttons = make("div", { class: "mp-buttons" }, this.play, this.back, this.step);
      const controls = make("div", { class: "mp-controls" }, buttons, this.slider, this.where);
      root.replaceChildren(controls, this.map, this.words, this.note);
      this.play.addEventListener("click", () => (this.timer === null ? this.start() : this.stop()));
      this.back.addEventListener("click", () => this.turn(this.position - 1));
      this.step.addEventListener("click", () => this.turn(this.position + 1));
      this.slider.addEventListener("input", () => this.turn(Number(this.slider.value)));
      this.width = 0;
      new ResizeObserver(() => this.resized()).observe(this.map);
    }

    get length() {
      return Math.max(0, ...this.shown.sides.map((side) => side.tokens.length));
    }

    // Data again: a text that grows stays at its end where it was there, another one is shown whole.
    show(shown) {
      const follows = this.shown === null || !shown.growing || this.position >= this.length;
      if (!shown.growing) this.stop();
      this.shown = shown;
      if (follows) this.position = this.length;
      this.slider.max = Math.max(1, this.length);
      this.later();
    }

    // Nothing any more.
    clear() {
      this.stop();
      clearTimeout(this.drawing);
      Object.assign(this, { shown: null, drawing: null, at: {} });
      for (const part of [this.map, this.words, this.note]) part.replaceChildren();
    }

    // What grows fast is drawn as often as a quarter of the time allows.
    later() {
      if (this.drawing !== null) return;
      this.drawing = setTimeout(() => this.draw(), this.shown.growing ? 30 + 3 * this.took : 0);
    }

    resized() {
      const width = this.map.clientWidth;
      if (this.shown && width && Math.abs(width - this.width) > 8) this.later();
    }

    // The tokens that are drawn: all, or a stretch of a long text that the position is in.
    stretch() {
      const { layers, sides } = this.shown;
      const rows = Math.max(LEAST, Math.floor(AT_ONCE / (layers.length * sides.length)));
      const first = Math.floor(Math.max(0, this.position - 1) / rows) * rows;
      return [first, Math.min(this.length, first + rows)];
    }

    // The same in other colours.
    redraw() {
      if (this.shown) this.draw();
    }

    draw() {
      this.drawing = null;
      const began = performance.now();
      const { layers, sides, n_experts: experts } = this.shown;
      const dark = this.options.dark();
      const ground = this.options.colours[dark ? "dark" : "light"];
      [this.first, this.end] = this.stretch();
      const cut = (side) => ({
        name: side.name,
        made: side.made - this.first,
        ...Object.fromEntries(
          ["tokens", "experts", "weights"].map((key) => [key, side[key].slice(this.first, this.end)]),
        ),
      });
      const counts = layers.map((_, layer) => this.counts(layer, experts[layer]));
      const data = {
        ...cut(sides[0]),
        layers,
        first: this.first,
        colours: counts.map((of) => MoebenchMap.coloursOf(of, ground.experts, ground.other)),
        other: ground.other,
        against: sides.length > 1 ? cut(sides[1]) : null,
      };
      this.width = this.map.clientWidth;
      this.view = MoebenchMap.draw(this.map, data, {
        dark,
        tip: (lines) => this.tell(lines),
        speak: (lines) => this.tell(lines),
        choose: (place) => this.chosen(place),
      });
      if (Number.isInteger(this.at.expert)) this.view.select(this.at.router, this.at.expert);
      this.note.replaceChildren(...this.legend(ground));
      this.turn(this.position, false);
      this.took = performance.now() - began;
    }

    // How many tokens of the prompts have each expert first: by them colours are given, which so do not move while a
    // text grows.
    counts(layer, experts) {
      const counts = new Array(experts).fill(0);
      for (const side of this.shown.sides) {
        for (const row of side.experts.slice(0, side.made)) counts[row[layer]] += 1;
      }
      return counts;
    }

    legend({ experts, other }) {
      const swatch = (colour) => {
        const element = make("span", { class: "mp-swatch", "aria-hidden": "true" });
        element.style.background = colour;
        return element;
      };
      const busiest = experts.map(swatch);
      const parts = [
        "A row is a token, a column a layer. Colour: its first expert there, the ",
        make("span", { class: "mp-nowrap" }, ...busiest),
        ` ${busiest.length} busiest first of each layer of the prompt, all others `,
        swatch(other),
        ". Opacity: its gate weight. ",
      ];
      if (this.shown.sides.some((side) => side.made < side.tokens.length)) {
        parts.push("Below the line: generated. ");
      }
      if (this.shown.sides.length > 1) parts.push(this.difference());
      return parts;
    }

    // What is outlined, with the number of tokens that it is of, which are few.
    difference() {
      const [one, two] = this.shown.sides;
      const same = one.tokens.map((_, t) => t).filter((t) => one.tokens[t] === two.tokens[t]);
      if (!same.length) return "Nothing is outlined: no token is the same at the same place of both.";
      const layers = this.shown.layers.map((_, layer) => layer);
      const other = same.flatMap((t) => layers.filter((l) => one.experts[t][l] !== two.experts[t][l])).length;
      const cells = (same.length * layers.length).toLocaleString("en");
      const few = `${plural(same.length, "token")} that both have at the same place`;
      return `Outlined: another first expert, ${other.toLocaleString("en")} of ${cells} cells of ${few}; no interval.`;
    }

    // Show the first n tokens. A hand that moves it stops what plays.
    turn(n, byHand = true) {
      if (!this.shown) return;
      if (byHand) this.stop();
      const most = this.length;
      this.position = Math.max(Math.min(1, most), Math.min(most, n));
      const [first] = this.stretch();
      if (first !== this.first) {
        this.draw();
        return;
      }
      this.slider.value = this.position;
      const all = this.position >= most && this.timer === null && !this.shown.growing;
      this.view.reveal(all ? Infinity : this.position - this.first);
      const text = this.shown.sides.map((side) => side.tokens[this.position - 1]).find((one) => one !== undefined);
      const words = text === undefined ? "" : `, ${MoebenchMap.visible(text)}`;
      this.where.textContent = `token ${this.position} of ${most.toLocaleString("en")}${words}`;
      this.slider.setAttribute("aria-valuetext", this.where.textContent);
      if (!all) this.follow();
    }

    // Keep the last token in sight, within the map alone.
    follow() {
      const box = this.map.getBoundingClientRect();
      const row = this.view.bar.getBoundingClientRect();
      if (row.bottom > box.bottom - 8) this.map.scrollTop += row.bottom - box.bottom + 40;
      else if (row.top < box.top + 8) this.map.scrollTop -= box.top - row.top + 40;
    }

    start() {
      if (!this.shown || this.length < 1) return;
      if (this.position >= this.length) this.position = 0;
      this.play.textContent = "Pause";
      this.timer = setInterval(() => {
        if (this.position >= this.length) this.stop();
        else this.turn(this.position + 1, false);
      }, A_TOKEN);
      this.turn(this.position + 1, false);
    }

    stop() {
      if (this.timer === null) return;
      clearInterval(this.timer);
      this.timer = null;
      this.play.textContent = "Play";
      if (this.position >= this.length) this.view.reveal(Infinity);
    }

    // Words of a cell, with every expert that the token has there.
    tell(lines) {
      const place = this.view?.here ?? null;
      const every = place && this.shown.chosen?.(place.side, this.first + place.token, place.layer);
      const more = every
        ? [`All its experts (weight): ${every.map((c) => `${c.expert} (${figure(c.weight)})`).join(", ")}`]
        : [];
      this.words.textContent = [...lines, ...more].join(". ");
    }

    chosen(place) {
      this.at = place ? { token: this.first + place.token, router: place.layer, expert: place.expert } : {};
      this.options.choose(place ? { ...this.at } : null);
    }

    // Choose what is given of {token, router, expert}, where there is such a thing.
    go({ token, router, expert }) {
      const { layers, n_experts: experts } = this.shown;
      this.at = {};
      if (Number.isInteger(token) && token < this.length) this.at.token = token;
      if (Number.isInteger(router) && router < layers.length) {
        this.at.router = router;
        if (Number.isInteger(expert) && expert < experts[router]) this.at.expert = expert;
      }
      if (this.at.token !== undefined) this.position = this.at.token + 1;
      this.draw();
      if (this.at.token === undefined) return;
      this.view.point({ side: 0, token: this.at.token - this.first, layer: this.at.router ?? 0 });
    }
  };
})();
