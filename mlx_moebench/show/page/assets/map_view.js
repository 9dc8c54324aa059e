// The token x layer map on the page: which sentences of the trace, and what is beside them.
(() => {
  "use strict";

  const MAP = { rows: 64 }; // tokens of a sentence that are shown at once

  const mapSide = (data, sequence, from) => {
    const { first, end, name, start } = sequence;
    const tokens = [];
    for (let t = first + from; t < Math.min(end, first + from + MAP.rows); t += 1) tokens.push(t);
    const slot = (array, r, t) => array[t * r.top_k];
    return {
      name,
      from: start + from,
      tokens: tokens.map((t) => data.text(t)),
      experts: tokens.map((t) => data.routers.map((r) => slot(r.experts, r, t))),
      weights: tokens.map((t) => data.routers.map((r) => slot(r.weights, r, t))),
    };
  };

  const layersOf = ({ routers }) => {
    const kinds = new Set(routers.map((r) => r.router)).size;
    return routers.map((r) => `${r.layer}${kinds > 1 ? ` ${r.router}` : ""}`);
  };

  MB.TokenMap = class {
    constructor() {
      this.data = MB.tokens ??= new MoebenchTokens.Data(MB.data.tokens);
      this.other = MB.data.beside ? new MoebenchTokens.Data(MB.data.beside) : null;
      this.from = 0;
      const { sequences } = this.data;
      this.sequence = 0;
      // What two runs made of the same text says most; else what a demo paired.
      const against = sequences[0].against;
      this.beside = this.other ? this.twin(0) : against === null || against === undefined ? "" : `a${against}`;
    }

    // The same sequence in the other trace, "" where it has none.
    twin(number) {
      const { name, start } = this.data.sequences[number];
      const place = this.other.sequences.findIndex((s) => s.name === name && s.start === start);
      return place < 0 ? "" : `b${place}`;
    }

    select(words, options, value, choose) {
      const id = `map-${words.toLowerCase()}`;
      const select = MB.element("select", { id, onchange: () => choose(select.value) });
      for (const [key, text] of options) select.append(MB.element("option", { value: key, text }));
      select.value = value;
      return MB.element("span", { class: "control" }, MB.element("label", { for: id, text: words }), select);
    }

    controls() {
      const name = (s) => `${s.name}, ${MB.count(s.n_tokens, "token")}`;
      const own = this.data.sequences.map((s, n) => [String(n), name(s)]);
      const choose = (value) => {
        this.sequence = Number(value);
        this.from = 0;
        if (this.other) this.beside = this.twin(this.sequence);
        this.draw(this.host);
      };
      const beside = [["", "nothing"], ...own.map(([n, text]) => [`a${n}`, text])];
      const label = (text) => (this.other ? `${text} of ${this.nameOf(this.other)}` : text);
      if (this.other) beside.push(...this.other.sequences.map((s, n) => [`b${n}`, label(name(s))]));
      const place = (value) => {
        this.beside = value;
        this.draw(this.host);
      };
      return [
        this.select("Sentence", own, String(this.sequence), choose),
        this.select("Beside", beside, this.beside, place),
        ...this.pages(),
      ];
    }

    pages() {
      const total = this.data.sequences[this.sequence].n_tokens;
      if (total <= MAP.rows) return [];
      const turn = (text, step) => {
        const onclick = () => {
          this.from += step * MAP.rows;
          this.draw(this.host);
        };
        const disabled = this.from + step * MAP.rows < 0 || this.from + step * MAP.rows >= total;
        return MB.element("button", { type: "button", text, onclick, disabled });
      };
      const end = Math.min(total, this.from + MAP.rows);
      const here = MB.element("span", { class: "note", text: `Tokens ${this.from} to ${end - 1} of ${total}` });
      return [turn("Earlier tokens", -1), here, turn("Later tokens", 1)];
    }

    nameOf(data) {
      const { model } = data;
      return this.other && this.data.model === this.other.model
        ? `${model}, ${data === this.data ? "first" : "second"} trace`
        : model;
    }

    // What is beside the sentence: of the same trace or of another; null for nothing, or where the layers are others.
    against() {
      if (!this.beside) return null;
      const data = this.beside[0] === "a" ? this.data : this.other;
      if (data.routers.length !== this.data.routers.length) return null;
      const side = mapSide(data, data.sequences[Number(this.beside.slice(1))], this.from);
      return { ...side, name: this.other ? `${this.nameOf(data)}, ${side.name}` : side.name };
    }

    draw(host) {
      this.host = host;
      const { experts: palette, other } = MB.data.colours[MB.isDark ? "dark" : "light"];
      const side = mapSide(this.data, this.data.sequences[this.sequence], this.from);
      const colours = this.data.routers.map(({ first }) => MoebenchMap.coloursOf(first, palette, other));
      const name = this.other ? `${this.nameOf(this.data)}, ${side.name}` : side.name;
      const data = { ...side, name, layers: layersOf(this.data), colours, other, against: this.against() };
      const place = MB.element("div", { class: "map-picture" });
      this.status = MB.element("p", { class: "note", role: "status", text: this.counted(data) });
      host.replaceChildren(MB.element("div", { class: "tools" }, ...this.controls()), this.status, place);
      const tools = {
        dark: MB.isDark,
        tip: MB.tip,
        untip: MB.untip,
        speak: MB.speak,
        choose: (place_) => this.chosen(place_),
        room: () => MB.room(place),
      };
      this.map = MoebenchMap.draw(place, data, tools);
      // The keys are those of the figure, which has the focus.
      host.onkeydown = (event) => event.target === host && this.map.key(event);
      place.onkeydown = null;
      for (const name_ of ["onpointermove", "onpointerdown", "onpointerleave"]) host[name_] = null;
      this.shown = data;
    }

    // How many cells differ, of those that can be compared.
    counted({ tokens, experts, against, layers }) {
      if (!against) return "";
      const same = tokens.map((text, t) => (t < against.tokens.length && against.tokens[t] === text ? t : -1));
      const both = same.filter((t) => t >= 0);
      const other = (t) => experts[t].filter((expert, l) => expert !== against.experts[t][l]).length;
      const differ = both.reduce((sum, t) => sum + other(t), 0);
      const of = MB.count(both.length * layers.length, "cell");
      if (!both.length) return "No token stands at the same place in both, so that nothing can be compared.";
      return `${differ.toLocaleString("en")} of ${of} of the same token at the same place have another first expert.`;
    }

    chosen(place) {
      if (!place) return;
      const { layer, router } = this.data.routers[place.layer];
      const number = MB.routerOf(layer, router);
      if (number !== null) MB.select({ router: number, expert: place.expert }, "map");
    }
  };

  const mapTable = ({ tokens, experts, weights, layers, from, against }) => {
    const columns = [
      "position",
      "token",
      "layer",
      "first expert",
      "gate weight",
      ...(against ? ["beside: token", "beside: first expert"] : []),
    ];
    const rows = tokens.flatMap((text, t) =>
      layers.map((layer, l) => [
        from + t,
        MoebenchMap.visible(text, 200),
        layer,
        experts[t][l],
        Number(weights[t][l].toPrecision(4)),
        ...(against ? [MoebenchMap.visible(against.tokens[t] ?? "", 200), against.experts[t]?.[l] ?? null] : []),
      ]),
    );
    return { columns, rows };
  };

  MB.sketches.map = {
    draw: (host) => (MB.theMap ??= new MB.TokenMap()).draw(host),
    table: () => mapTable(MB.theMap.shown),
  };
})();
