// The token view: MoebenchTokens.mount(element, data), with the data of report/tokens.py.
// Every text reaches the page through textContent alone; nothing here makes HTML of strings.
var MoebenchTokens = (() => {
  "use strict";

  const CONTEXT = 8; // tokens on either side of one that is shown in its context
  const LISTED = 20; // rows of a list
  const VIRIDIS = "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725".split(" ");
  const COLOURS = {
    expert: "first expert",
    entropy: "entropy, nats",
    margin: "selection margin",
    changed: "changed experts",
  };
  const SPACES = { " ": "␣", "\n": "⏎", "\r": "\\r", "\t": "⇥", "\u00a0": "⍽" };
  const UNSEEN = /[\p{Cc}\p{Cf}\p{Zs}\p{Zl}\p{Zp}\p{Cs}\p{Co}]/u;
  const JOINERS = "\u200c\u200d"; // of Persian and of emoji: seen between other characters, unseen alone
  let mounted = 0;

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(properties)) {
      if (key === "className" || key === "textContent" || key === "id" || key === "value") element[key] = value;
      else if (value !== undefined && value !== null) element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  }

  const span = (className, textContent) => make("span", { className, textContent });
  const muted = (text) => span("mt-muted", text);

  const plural = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

  function bytes(text) {
    const raw = atob(text);
    const array = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) array[i] = raw.charCodeAt(i);
    return array;
  }

  function integers(text, size) {
    const raw = bytes(text);
    if (size === 1) return raw;
    const view = new DataView(raw.buffer);
    const read = size === 2 ? (i) => view.getUint16(2 * i, true) : (i) => view.getUint32(4 * i, true);
    return Array.from({ length: raw.length / size }, (_, i) => read(i));
  }

  function halves(text) {
    const bits = integers(text, 2);
    return Float32Array.from(bits, (b) => {
      const sign = b & 0x8000 ? -1 : 1;
      const exponent = (b >> 10) & 31;
      const fraction = b & 1023;
      if (exponent === 31) return fraction ? NaN : sign * Infinity;
      return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
    });
  }

  // The data with its arrays read, and where each sequence starts in them.
  function read(data) {
    const routers = data.routers.map((r) => ({
      ...r,
      experts: integers(r.experts, r.bytes),
      weights: halves(r.weights),
      entropy: halves(r.entropy),
      margin: halves(r.margin),
    }));
    let from = 0;
    const sequences = data.sequences.map((s, number) => {
      const first = from;
      from += s.n_tokens;
      return { ...s, number, first, end: from, continued: new Set(s.continued) };
    });
    return { ...data, routers, sequences, tokens: integers(data.tokens, 4) };
  }

  // A text as something that can be seen: {text, strange} pieces, where strange ones stand for what cannot be.
  // running: part of a line that is read, so that spaces stay spaces.
  function visible(text, running) {
    if (/^[!-~]+$/.test(text) && text.length <= 80) return [{ text, strange: false }]; // nothing to look for in most
    if (text === "") return running ? [] : [{ text: "∅", strange: true }];
    const pieces = [];
    const characters = [...text].slice(0, 80);
    characters.forEach((character, i) => {
      const joins = JOINERS.includes(character) && characters.length > 1;
      const hidden = character === "\ufffd" || (UNSEEN.test(character) && !joins);
      if (/\p{M}/u.test(character) && i === 0) pieces.push({ text: "◌" + character, strange: false });
      else if (running && character === " ") pieces.push({ text: " ", strange: false });
      else if (hidden) pieces.push({ text: stand(character), strange: true });
      else pieces.push({ text: character, strange: false });
    });
    if ([...text].length > 80) pieces.push({ text: "…", strange: true });
    return pieces;
  }

  function stand(character) {
    const code = character.codePointAt(0);
    if (SPACES[character]) return SPACES[character];
    if (code < 32 || code === 127) return "\\x" + code.toString(16).padStart(2, "0");
    if (code === 0xfffd) return "�";
    return "U+" + code.toString(16).toUpperCase().padStart(4, "0");
  }

  const seen = (text) => visible(text).map((piece) => piece.text).join("");

  function fill(element, text, running = false) {
    for (const piece of visible(text, running)) {
      element.append(piece.strange ? span("mt-strange", piece.text) : piece.text);
    }
    return element;
  }

  // Three figures, and the exact zero as it is.
  function figure(value) {
    if (!Number.isFinite(value)) return "null";
    if (value === 0) return "0";
    return Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
  }

  function rgb(hex) {
    return [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
  }

  function viridis(share) {
    const x = Math.min(1, Math.max(0, share)) * (VIRIDIS.length - 1);
    const i = Math.min(VIRIDIS.length - 2, Math.floor(x));
    const [a, b] = [rgb(VIRIDIS[i]), rgb(VIRIDIS[i + 1])];
    return a.map((value, k) => Math.round(value + (b[k] - value) * (x - i)));
  }

  // Hues a golden angle apart in three lightnesses, so that neighbours in number differ in both.
  function hue(expert) {
    const [h, s, l] = [(expert * 137.508 + 200) % 360, 0.6, [0.68, 0.44, 0.86][expert % 3]];
    const f = (n) => {
      const k = (n + h / 30) % 12;
      return Math.round(255 * (l - s * Math.min(l, 1 - l) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
    };
    return [f(0), f(8), f(4)];
  }

  function paint(element, colour) {
    const light = colour.map((c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    const luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2];
    element.style.backgroundColor = `rgb(${colour.join(",")})`;
    element.style.color = luminance > 0.179 ? "#000" : "#fff";
  }

  class View {
    constructor(root, data) {
      this.data = read(data);
      this.root = root;
      this.id = `mt${++mounted}`;
      const paired = this.data.sequences.some((s) => s.against !== null);
      this.paired = paired;
      const few = this.data.sequences.length > 1 && this.data.sequences.length <= 4;
      const colour = paired ? "changed" : "expert";
      this.state = { sequence: few ? -1 : 0, router: 0, colour, expert: null, word: null };
      Object.assign(this.state, this.valid(data.view || {}, paired));
      this.build(paired);
      this.draw();
    }

    // What of a state from elsewhere holds for this data.
    valid(state, paired) {
      const kept = {};
      if (state.router < this.data.routers.length) kept.router = state.router;
      if (state.colour in COLOURS && (paired || state.colour !== "changed")) kept.colour = state.colour;
      if (state.sequence < this.data.sequences.length) kept.sequence = state.sequence;
      if (state.expert < this.data.routers[kept.router || 0].n_experts) kept.expert = state.expert;
      return kept;
    }

    get router() {
      return this.data.routers[this.state.router];
    }

    text(token) {
      return this.data.texts[this.data.tokens[token]];
    }

    // The experts of a token, in descending order of p.
    chosen(token) {
      const k = this.router.top_k;
      return Array.from({ length: k }, (_, i) => ({
        expert: this.router.experts[token * k + i],
        weight: this.router.weights[token * k + i],
      }));
    }

    takes(token, expert) {
      return this.chosen(token).some((c) => c.expert === expert);
    }

    sequenceOf(token) {
      return this.data.sequences.find((s) => token < s.end);
    }

    // The token of the sequence that this one's is compared with, or null.
    counterpart(token) {
      if (!this.paired) return null;
      const own = this.sequenceOf(token);
      if (own.against === null) return null;
      const other = this.data.sequences[own.against];
      const there = other.first + token - own.first;
      return there < other.end ? there : null;
    }

    changed(token) {
      const there = this.counterpart(token);
      return there === null ? NaN : this.chosen(token).filter((c) => !this.takes(there, c.expert)).length;
    }

    build(paired) {
      const { routers, sequences } = this.data;
      const kinds = new Set(routers.map((r) => r.router)).size;
      const named = (r) => `${r.layer}${kinds > 1 ? `, ${r.router}` : ""}`;
      const prompts = sequences.map((s, i) => [i, s.name]);
      prompts.unshift([-1, `all ${sequences.length}`]);
      const colours = Object.entries(COLOURS).filter(([key]) => paired || key !== "changed");
      const controls = make(
        "div",
        { className: "mt-controls", role: "group", "aria-label": "What to show" },
        ...(sequences.length > 1 ? [this.select("Prompt", "sequence", prompts)] : []),
        this.select(kinds > 1 ? "Layer, router" : "Layer", "router", routers.map((r, i) => [i, named(r)])),
        this.select("Colour", "colour", colours),
      );
      const box = make("input", { type: "checkbox", id: `${this.id}-numbers` });
      box.addEventListener("change", () => this.lines.classList.toggle("mt-numbered", box.checked));
      controls.append(make("label", { className: "mt-check" }, box, " expert numbers"));
      this.scale = make("div", { className: "mt-scale" });
      this.lines = make("div", {
        className: "mt-lines",
        role: "listbox",
        "aria-multiselectable": "true",
        "aria-label": "Tokens: arrow keys move, Enter chooses the first expert",
      });
      this.details = make("div", { className: "mt-details" });
      this.experts = make("div", { className: "mt-experts", role: "group" });
      this.heading = make("h3", { className: "mt-heading" });
      this.most = make("div", { className: "mt-most" });
      const left = this.data.left_out.sentence;
      this.root.replaceChildren(
        controls,
        this.scale,
        this.lines,
        this.details,
        this.heading,
        this.experts,
        this.most,
        make("p", { className: "mt-note", textContent: this.note() + (left ? " " + left : "") }),
      );
      this.root.classList.add("moebench-tokens");
      for (const kind of ["pointerover", "focusin"]) this.lines.addEventListener(kind, (e) => this.describe(e.target));
      this.lines.addEventListener("click", (e) => this.focusOn(e.target.closest(".mt-token")));
      this.lines.addEventListener("keydown", (e) => this.key(e));
    }

    note() {
      const { units, model, data, phase } = this.data;
      return (
        `${model} on ${data}, ${phase}. Entropy in ${units.entropy}; selection margin: ${units.margin}; weight: ` +
        `${units.weights}. Single tokens are a census of what is shown: they have no interval. ` +
        "␣ space, ⏎ end of line, ⇥ tab, ⋯ later piece of one character, � piece of a character or no valid text."
      );
    }

    select(label, key, options) {
      const id = `${this.id}-${key}`;
      const select = make("select", { id });
      for (const [value, text] of options) select.append(make("option", { value: String(value), textContent: text }));
      select.value = String(this.state[key]);
      select.addEventListener("change", () => {
        this.state[key] = key === "colour" ? select.value : Number(select.value);
        if (key === "router" && this.state.expert >= this.router.n_experts) this.state.expert = null;
        this.state.word = null;
        this.draw();
      });
      this[`${key}Select`] = select;
      return make("label", { for: id }, `${label} `, select);
    }

    draw() {
      this.drawExperts();
      this.drawTokens();
      this.drawScale();
      this.drawMost();
      this.details.replaceChildren(muted("Point at a token, or move to one with Tab and the arrow keys."));
      this.tell();
    }

    // For a page that keeps what is shown when it mounts other data: the `view` of those.
    tell() {
      this.root.dispatchEvent(new CustomEvent("moebench-view", { detail: { ...this.state }, bubbles: true }));
    }

    shown() {
      const { sequences } = this.data;
      return this.state.sequence < 0 ? sequences : [sequences[this.state.sequence]];
    }

    drawTokens() {
      this.lines.replaceChildren();
      this.elements = [];
      const several = this.shown().length > 1;
      for (const sequence of this.shown()) {
        const title = `${sequence.name}, ${plural(sequence.n_tokens, "token")}`;
        const group = make("div", { className: "mt-sequence", role: "group", "aria-label": title });
        if (several) group.append(fill(make("div", { className: "mt-title", "aria-hidden": "true" }), title, true));
        let line = make("div", { className: "mt-line", dir: "auto", role: "presentation" });
        for (let token = sequence.first; token < sequence.end; token++) {
          line.append(this.token(sequence, token));
          if (this.text(token).includes("\n")) {
            group.append(line);
            line = make("div", { className: "mt-line", dir: "auto", role: "presentation" });
          }
        }
        if (line.childNodes.length) group.append(line);
        this.lines.append(group);
      }
      if (this.elements.length) this.elements[0].tabIndex = 0;
      this.mark();
    }

    // The tokens that take the chosen expert stand out, and its button is pressed.
    mark() {
      const { expert } = this.state;
      for (const element of this.elements) {
        const takes = expert !== null && this.takes(Number(element.dataset.token), expert);
        element.classList.toggle("mt-takes", takes);
        element.classList.toggle("mt-dim", expert !== null && !takes);
        element.setAttribute("aria-selected", String(takes));
      }
      for (const button of this.experts.children) {
        button.setAttribute("aria-pressed", String(Number(button.dataset.expert) === expert));
      }
    }

    token(sequence, token) {
      const later = sequence.continued.has(token - sequence.first);
      const element = make("span", { className: "mt-token", role: "option", tabindex: "-1" });
      element.append(later ? span("mt-strange", "⋯") : fill(span("mt-text", ""), this.text(token)));
      element.append(span("mt-number", String(this.chosen(token)[0].expert)));
      element.dataset.token = token;
      element.setAttribute("aria-label", this.sentence(sequence, token));
      const colour = this.colour(token);
      if (colour) paint(element, colour);
      this.elements.push(element);
      return element;
    }

    // The ends of the scale of a colour that is a number.
    range() {
      if (this.state.colour === "entropy") return [0, this.router.max_entropy];
      if (this.state.colour === "changed") return [0, this.router.top_k];
      return [0, this.router.margin.reduce((most, x) => (x > most ? x : most), 0)];
    }

    colour(token) {
      const { colour } = this.state;
      if (colour === "expert") return hue(this.chosen(token)[0].expert);
      const value = colour === "changed" ? this.changed(token) : this.router[colour][token];
      if (!Number.isFinite(value)) return null;
      const [low, high] = this.range();
      return viridis(high > low ? (value - low) / (high - low) : 0);
    }

    sentence(sequence, token) {
      const experts = this.chosen(token).map((c) => `${c.expert} (weight ${figure(c.weight)})`);
      const margin = this.router.margin[token];
      const later = sequence.continued.has(token - sequence.first) ? "later piece of " : "";
      const changed = this.changed(token);
      return (
        `${later}${seen(this.text(token))}: experts ${experts.join(", ")}; ` +
        `entropy ${figure(this.router.entropy[token])} nats; selection margin ` +
        (Number.isFinite(margin) ? figure(margin) : "null, all experts are chosen") +
        (Number.isFinite(changed) ? `; ${plural(changed, "expert")} changed` : "")
      );
    }

    drawScale() {
      this.scale.replaceChildren();
      if (this.state.colour === "expert") {
        const { n_experts, top_k } = this.router;
        this.scale.append(`Colour: the expert of largest probability, of ${n_experts}; every token uses ${top_k}.`);
        return;
      }
      const [low, high] = this.range();
      const bar = make("span", { className: "mt-bar", "aria-hidden": "true" });
      bar.style.backgroundImage = `linear-gradient(to right, ${VIRIDIS.map((hex) => "#" + hex).join(", ")})`;
      const end = this.state.colour === "entropy" ? "; the right end is ln E" : "";
      this.scale.append(`${figure(low)} `, bar, ` ${figure(high)}  ${COLOURS[this.state.colour]}${end}`);
    }

    // Over all sequences: how many tokens choose each expert, and how many first.
    counts() {
      const all = new Uint32Array(this.router.n_experts);
      const first = new Uint32Array(this.router.n_experts);
      const k = this.router.top_k;
      this.router.experts.forEach((expert, i) => {
        all[expert]++;
        if (i % k === 0) first[expert]++;
      });
      return { all, first };
    }

    drawExperts() {
      const { all, first } = this.counts();
      const tokens = this.data.tokens.length;
      this.heading.textContent = `Experts by how many of the ${plural(tokens, "token")} choose them`;
      this.experts.setAttribute("aria-label", "Experts: choose one to see its tokens");
      const order = [...all.keys()].sort((a, b) => all[b] - all[a] || a - b);
      this.experts.replaceChildren(
        ...order.map((expert) => {
          const swatch = make("span", { className: "mt-swatch", "aria-hidden": "true" });
          paint(swatch, hue(expert));
          const button = make("button", { type: "button" });
          button.append(swatch, make("b", { textContent: String(expert) }), ` ${all[expert].toLocaleString("en")}`);
          const share = ((100 * all[expert]) / tokens).toFixed(0);
          const chosen = `chosen by ${plural(all[expert], "token")} (${share}%)`;
          const label = `expert ${expert}: ${chosen}, first choice of ${first[expert]}`;
          button.setAttribute("aria-label", label);
          button.title = label;
          button.dataset.expert = expert;
          button.addEventListener("click", () => this.choose(this.state.expert === expert ? null : expert));
          return button;
        }),
      );
    }

    choose(expert) {
      this.state.expert = expert;
      this.state.word = null;
      this.mark();
      this.drawMost();
      this.tell();
    }

    // The texts that choose an expert: how often each occurs, how often it chooses it, and where.
    words(expert) {
      const found = new Map();
      this.data.sequences.forEach((sequence) => {
        for (let token = sequence.first; token < sequence.end; token++) {
          if (sequence.continued.has(token - sequence.first)) continue;
          const id = this.data.tokens[token];
          if (!found.has(id)) found.set(id, { id, occurs: 0, places: [] });
          const word = found.get(id);
          word.occurs++;
          const choice = this.chosen(token).find((c) => c.expert === expert);
          if (choice) word.places.push({ token, weight: choice.weight });
        }
      });
      const words = [...found.values()].filter((word) => word.places.length);
      return words.sort((a, b) => b.places.length - a.places.length || a.occurs - b.occurs || a.id - b.id);
    }

    drawMost() {
      this.most.replaceChildren();
      const { expert } = this.state;
      if (expert === null) {
        this.most.append(muted("Choose an expert to see the tokens that choose it most."));
        return;
      }
      const words = this.words(expert);
      const title = `Expert ${expert}: the tokens that choose it most`;
      this.most.append(make("h3", { className: "mt-heading", textContent: title }));
      if (!words.length) {
        this.most.append(muted("No token here chooses it."));
        return;
      }
      this.most.append(make("div", { className: "mt-two" }, this.table(words), this.contexts(words)));
    }

    table(words) {
      const head = make("tr");
      const names = ["token", "choose it", "of", "share"];
      head.append(...names.map((textContent) => make("th", { scope: "col", textContent })));
      const rows = words.slice(0, LISTED).map((word) => {
        const pressed = String(this.state.word === word.id);
        const button = make("button", { type: "button", className: "mt-word", "aria-pressed": pressed });
        fill(button, this.data.texts[word.id]);
        button.addEventListener("click", () => {
          this.state.word = this.state.word === word.id ? null : word.id;
          this.drawMost();
          this.most.querySelector('.mt-word[aria-pressed="true"]')?.focus();
        });
        const share = ((100 * word.places.length) / word.occurs).toFixed(0);
        const cells = [word.places.length, word.occurs, `${share}%`].map((n) => n.toLocaleString("en"));
        return make("tr", {}, make("td", {}, button), ...cells.map((textContent) => make("td", { textContent })));
      });
      const more = words.length - rows.length;
      const left = more > 0 ? `; ${plural(more, "other text")} left out` : "";
      const said = `Over all sequences${left}. Press one to see only it in context.`;
      const caption = make("caption", { textContent: said });
      return make("table", {}, caption, make("thead", {}, head), make("tbody", {}, ...rows));
    }

    contexts(words) {
      const chosen = this.state.word === null ? words : words.filter((word) => word.id === this.state.word);
      const every = chosen.flatMap((word) => word.places).sort((a, b) => b.weight - a.weight || a.token - b.token);
      const items = every.slice(0, LISTED).map(({ token, weight }) => {
        const sequence = this.sequenceOf(token);
        const line = make("span", { dir: "auto" });
        for (let i = Math.max(sequence.first, token - CONTEXT); i < Math.min(sequence.end, token + CONTEXT + 1); i++) {
          if (sequence.continued.has(i - sequence.first)) continue;
          const piece = fill(make(i === token ? "mark" : "span", { className: "mt-piece" }), this.text(i), true);
          line.append(piece);
        }
        return make("li", {}, muted(`${figure(weight)}  `), line, fill(span("mt-where", ""), sequence.name, true));
      });
      const shown = `${items.length} of ${every.length.toLocaleString("en")}`;
      const caption = muted(`In context, largest gate weight first: ${shown}.`);
      return make("div", { className: "mt-contexts" }, caption, make("ol", {}, ...items));
    }

    describe(target) {
      const element = target.closest?.(".mt-token");
      if (!element) return;
      const token = Number(element.dataset.token);
      const sequence = this.sequenceOf(token);
      const heading = make("div", {}, fill(make("b", { className: "mt-piece" }), this.text(token)));
      const place = sequence.start + token - sequence.first;
      heading.append(muted(` token ${place} of `), fill(span("mt-muted mt-piece", ""), sequence.name, true));
      if (sequence.continued.has(token - sequence.first)) heading.append(muted(", a later piece of this character"));
      const there = this.counterpart(token);
      const experts = (t) => this.chosen(t).map((c) => `${c.expert} (${figure(c.weight)})`).join("  ");
      const rows = [["experts (weight)", experts(token)]];
      if (there !== null) rows.push([`in ${this.data.sequences[sequence.against].name}`, experts(there)]);
      const margin = this.router.margin[token];
      const most = figure(this.router.max_entropy);
      rows.push(["entropy", `${figure(this.router.entropy[token])} nats of at most ${most}`]);
      rows.push(["selection margin", Number.isFinite(margin) ? figure(margin) : "null: every expert is chosen"]);
      const list = make("dl");
      for (const [name, value] of rows) {
        list.append(make("div", {}, make("dt", { textContent: `${name}: ` }), make("dd", { textContent: value })));
      }
      this.details.replaceChildren(heading, list);
    }

    focusOn(element) {
      if (!element) return;
      this.lines.querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
      element.tabIndex = 0;
      element.focus();
    }

    key(event) {
      const here = this.elements.indexOf(event.target.closest(".mt-token"));
      const last = this.elements.length - 1;
      if (here < 0) return;
      const rightToLeft = getComputedStyle(this.elements[here].parentElement).direction === "rtl";
      const forward = rightToLeft ? -1 : 1;
      const moves = {
        ArrowRight: () => here + forward,
        ArrowLeft: () => here - forward,
        ArrowDown: () => this.below(here, 1),
        ArrowUp: () => this.below(here, -1),
        Home: () => 0,
        End: () => last,
      };
      if (event.key in moves) {
        event.preventDefault();
        this.focusOn(this.elements[Math.min(last, Math.max(0, moves[event.key]()))]);
      } else if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        this.choose(this.chosen(Number(this.elements[here].dataset.token))[0].expert);
      }
    }

    // The token nearest to this one in the next row of the screen, or in the one before.
    below(here, step) {
      const box = this.elements[here].getBoundingClientRect();
      let best = here;
      let row = null;
      for (let i = here + step; i >= 0 && i < this.elements.length; i += step) {
        const other = this.elements[i].getBoundingClientRect();
        const away = step * (other.top - box.top) > box.height / 2;
        if (!away) continue;
        if (row === null) row = other.top;
        if (Math.abs(other.top - row) > box.height / 2) break;
        const distance = (r) => Math.abs(r.left + r.width / 2 - box.left - box.width / 2);
        if (best === here || distance(other) < distance(this.elements[best].getBoundingClientRect())) best = i;
      }
      return best;
    }
  }

  return { mount: (element, data) => new View(element, data) };
})();
