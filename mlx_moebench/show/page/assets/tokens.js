// The token view: MoebenchTokens.mount(element, data), with the data of show/tokens.py. What is chosen, and how.
Object.assign(
  MoebenchTokens,
  (() => {
    "use strict";

    const { COLOURS, Data, contexts, details, expertButton, label, make, muted } = MoebenchTokens;
    const { named, plural, seen, scale, styles, table, tokenElement } = MoebenchTokens;
    const MANY = 1000; // tokens from which lines that are out of sight are left out
    const LINE = 256; // tokens of a line that no token ends, so that a browser can leave out what is out of sight
    const A_ROW = 12; // tokens about, of a row of the screen
    let mounted = 0;

    class View {
      constructor(root, data) {
        this.data = new Data(data);
        this.root = root;
        this.id = `mt${++mounted}`;
        const { paired } = this.data;
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

      build(paired) {
        const { routers, sequences } = this.data;
        const kinds = new Set(routers.map((r) => r.router)).size;
        const layerOf = (r) => `${r.layer}${kinds > 1 ? `, ${r.router}` : ""}`;
        const prompts = sequences.map((s, i) => [i, seen(s.name, true)]);
        prompts.unshift([-1, `all ${sequences.length}`]);
        const colours = Object.entries(COLOURS).filter(([key]) => paired || key !== "changed");
        const controls = make(
          "div",
          { className: "mt-controls", role: "group", "aria-label": "What to show" },
          ...(sequences.length > 1 ? [this.select("Prompt", "sequence", prompts)] : []),
          this.select(
            kinds > 1 ? "Layer, router" : "Layer",
            "router",
            routers.map((r, i) => [i, layerOf(r)]),
          ),
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
        this.experts.addEventListener("click", (e) => this.turn(e.target.closest("button")));
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
          make("p", { className: "mt-note" }, ...this.note(), left ? " " + left : ""),
        );
        this.root.classList.add("moebench-tokens");
        for (const kind of ["pointerover", "focusin"])
          this.lines.addEventListener(kind, (e) => this.describe(e.target));
        this.lines.addEventListener("click", (e) => this.focusOn(e.target.closest(".mt-token")));
        this.lines.addEventListener("keydown", (e) => this.key(e));
      }

      note() {
        const { units, model, data, phase } = this.data;
        return [
          named(model),
          " on ",
          named(data),
          `, ${phase}. Entropy in ${units.entropy}; selection margin: ${units.margin}; weight: ${units.weights}. ` +
            "Single tokens are a census of what is shown: they have no interval. " +
            "␣ space, ⏎ end of line, ⇥ tab, ⋯ later piece of one character, " +
            "� piece of a character or no valid text.",
        ];
      }

      select(words, key, options) {
        const id = `${this.id}-${key}`;
        const select = make("select", { id });
        for (const [value, text] of options) select.append(make("option", { value: String(value), textContent: text }));
        select.value = String(this.state[key]);
        select.addEventListener("change", () => {
          this.state[key] = key === "colour" ? select.value : Number(select.value);
          if (key === "router" && this.state.expert >= this.router.n_experts) this.state.expert = null;
          this.state.word = null;
          this.draw(key);
        });
        this[`${key}Select`] = select;
        return make("label", { for: id }, `${words} `, select);
      }

      // key: what of the state has changed; of thousands of tokens only that is done anew which depends on it.
      draw(key = "sequence") {
        const { router, colour } = this.state;
        this.drawExperts();
        if (key === "sequence") this.drawTokens();
        if (key !== "colour") for (const element of this.elements) label(element, this.data, router);
        const style = styles(this.data, router, colour, this.state.expert);
        for (const element of this.elements) element.style.cssText = style(Number(element.dataset.token));
        this.mark();
        this.scale.replaceChildren(...scale(this.data, router, colour));
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
          if (several) {
            const words = [named(sequence.name), `, ${plural(sequence.n_tokens, "token")}`];
            group.append(make("div", { className: "mt-title", "aria-hidden": "true" }, ...words));
          }
          let line = null;
          for (let token = sequence.first; token < sequence.end; token++) {
            const element = tokenElement(this.data, token);
            this.elements.push(element);
            line ??= group.appendChild(make("div", { className: "mt-line", dir: "auto", role: "presentation" }));
            line.append(element);
            if (this.data.text(token).includes("\n") || line.childNodes.length === LINE) line = null;
          }
          for (const one of group.querySelectorAll(".mt-line")) {
            one.style.containIntrinsicBlockSize = `auto ${1.75 * Math.ceil(one.childNodes.length / A_ROW)}em`;
          }
          this.lines.append(group);
        }
        this.elements[0].tabIndex = 0;
        this.marked = [];
        this.lines.classList.toggle("mt-many", this.elements.length > MANY);
      }

      // The tokens that take the chosen expert stand out, and its button is pressed. Only those elements are touched
      // that change, since there may be thousands.
      mark() {
        const { router, expert } = this.state;
        const from = this.shown()[0].first;
        const takers = expert === null ? [] : this.data.takers(router, expert);
        const takes = new Set(takers.map((token) => this.elements[token - from]).filter((element) => element));
        const turn = (element, on) => {
          element.classList.toggle("mt-takes", on);
          element.setAttribute("aria-selected", String(on));
        };
        for (const element of this.marked) if (!takes.has(element)) turn(element, false);
        for (const element of takes) if (!element.classList.contains("mt-takes")) turn(element, true);
        this.marked = [...takes];
        this.lines.classList.toggle("mt-one", expert !== null);
        for (const button of this.experts.children) {
          button.setAttribute("aria-pressed", String(Number(button.dataset.expert) === expert));
        }
      }

      drawExperts() {
        const { chosen } = this.router;
        const tokens = this.data.tokens.length;
        this.heading.textContent = `Experts by how many of the ${plural(tokens, "token")} choose them`;
        this.experts.setAttribute("aria-label", "Experts: choose one to see its tokens");
        const order = [...chosen.keys()].sort((a, b) => chosen[b] - chosen[a] || a - b);
        this.experts.replaceChildren(
          ...order.map((expert) => {
            const colour = this.data.colourOf(this.state.router, expert, this.state.expert);
            return expertButton(expert, this.router, tokens, colour);
          }),
        );
      }

      // What was chosen elsewhere on the page: a router, and one of its experts or null.
      show(router, expert = null) {
        if (router === this.state.router) return this.choose(expert);
        Object.assign(this.state, { router, expert, word: null });
        this.routerSelect.value = String(router);
        this.draw("router");
      }

      // The button of an expert was pressed: choose it, or none where it was chosen.
      turn(button) {
        if (button === null) return;
        const expert = Number(button.dataset.expert);
        this.choose(this.state.expert === expert ? null : expert);
      }

      choose(expert) {
        const before = this.state.expert;
        this.state.expert = expert;
        this.state.word = null;
        this.colourAnew([before, expert]);
        this.mark();
        this.drawMost();
        this.tell();
      }

      // The swatches of some experts, and the tokens that have their colour.
      colourAnew(experts) {
        const { router, colour, expert } = this.state;
        for (const button of this.experts.children) {
          const one = Number(button.dataset.expert);
          if (experts.includes(one)) button.firstChild.style.backgroundColor = this.data.colourOf(router, one, expert);
        }
        if (colour !== "expert") return;
        const style = styles(this.data, router, colour, expert);
        for (const element of this.elements) {
          const token = Number(element.dataset.token);
          if (experts.includes(this.data.firstOf(router, token))) element.style.cssText = style(token);
        }
      }

      drawMost() {
        this.most.replaceChildren();
        const { expert, router, word } = this.state;
        if (expert === null) {
          this.most.append(muted("Choose an expert to see the tokens that choose it most."));
          return;
        }
        const words = this.data.words(router, expert);
        const title = `Expert ${expert}: the tokens that choose it most`;
        this.most.append(make("h3", { className: "mt-heading", textContent: title }));
        if (!words.length) {
          this.most.append(muted("No token here chooses it."));
          return;
        }
        const placed = word === null ? words : words.filter((one) => one.id === word);
        const press = (id) => this.press(id);
        const pieces = this.data.takers(router, expert).filter((token) => this.data.later[token]).length;
        const both = [table(this.data, words, pieces, word, press), contexts(this.data, placed)];
        this.most.append(make("div", { className: "mt-two" }, ...both));
      }

      press(word) {
        this.state.word = this.state.word === word ? null : word;
        this.drawMost();
        this.most.querySelector('.mt-word[aria-pressed="true"]')?.focus();
      }

      describe(target) {
        const element = target.closest?.(".mt-token");
        if (!element) return;
        this.details.replaceChildren(...details(this.data, this.state.router, Number(element.dataset.token)));
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
          this.choose(this.data.firstOf(this.state.router, Number(this.elements[here].dataset.token)));
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
  })(),
);
