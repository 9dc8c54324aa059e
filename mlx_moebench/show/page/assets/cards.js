// The cards of the experts: an index of them, the strongest findings first, and one card at a time, made when it is
// opened. Its anchor is #card-LAYER-EXPERT; of a further run #card2-LAYER-EXPERT.
(() => {
  "use strict";

  const NOBODY = 0xffff;
  const WHOLE = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };
  const whole = ({ type, data }) =>
    new WHOLE[type](Uint8Array.from(atob(data), (character) => character.charCodeAt(0)).buffer);

  MB.cardId = (run, layer, expert) => `card${run ? run + 1 : ""}-${layer.replace(/\s+/g, "-")}-${expert}`;

  // The heatmaps of the page that have an expert's shares with their bands: of a run on all its data, of its domains.
  const heatOf = (id, find) => {
    const section = MB.data.sections.find((one) => one.id === id);
    const figures = (section?.parts ?? []).flatMap((part) => part.pair ?? [part]).filter((part) => part.drawings);
    const drawing = find(figures);
    return drawing ? MB.readable(drawing, MB.data.words) : null;
  };

  MB.Cards = class {
    constructor(section, data) {
      Object.assign(this, data, { section, opened: null });
      this.starts = [];
      let from = 0;
      for (const { experts } of data.routers) {
        this.starts.push(from);
        from += experts;
      }
      for (const name of ["partners", "following"]) {
        this[name] = ["", "_counts", "_lifts"].map((end) => whole(data[`${name}${end}`]));
      }
      this.build();
    }

    build() {
      if (this.title) this.section.append(MB.element("h3", { text: this.title }));
      this.host = MB.element("div", { class: "card-place", "aria-live": "polite" });
      this.section.append(this.chooser(), this.host, this.index());
    }

    chooser() {
      const ids = ["layer", "expert"].map((name) => `cards${this.run}-${name}`);
      this.layer = MB.element("select", { id: ids[0], onchange: () => this.fillExperts() });
      this.routers.forEach(({ name }, n) => this.layer.append(MB.element("option", { value: n, text: name })));
      this.expert = MB.element("select", { id: ids[1] });
      this.fillExperts();
      const onclick = () => this.show(Number(this.layer.value), Number(this.expert.value));
      // The lists follow what is chosen elsewhere, so that its card is one press away.
      if (this.run === 0)
        MB.onSelect(({ router, expert }) => {
          if (router === null || !this.routers[router]) return;
          if (Number(this.layer.value) !== router) {
            this.layer.value = String(router);
            this.fillExperts();
          }
          if (expert !== null) this.expert.value = String(expert);
        });
      const control = (text, id, select) =>
        MB.element("span", { class: "control" }, MB.element("label", { for: id, text }), select);
      return MB.element(
        "div",
        { class: "controls" },
        control("Layer", ids[0], this.layer),
        control("Expert", ids[1], this.expert),
        MB.element("button", { type: "button", text: "Open its card", onclick }),
      );
    }

    fillExperts() {
      const options = Array.from({ length: this.routers[Number(this.layer.value)].experts }, (_, e) =>
        MB.element("option", { value: e, text: String(e) }),
      );
      this.expert.replaceChildren(...options);
    }

    index() {
      const rows = this.findings.map(([router, expert, times, words]) => {
        const text = `Layer ${this.routers[router].name}, expert ${expert}`;
        const link = MB.element("a", { href: `#${this.idOf(router, expert)}`, text });
        const much = MB.element("span", { class: "times", text: `${MB.number(times, 1)}x ` });
        return MB.element("li", {}, much, link, " ", MB.element("span", { dir: "auto", class: "words", text: words }));
      });
      const all = this.routers.reduce((sum, { experts }) => sum + experts, 0).toLocaleString("en");
      const first = rows.length < this.found ? `, the first ${rows.length} of them` : "";
      const text = `Index: ${this.found.toLocaleString("en")} of ${all} experts stand out${first}`;
      const scroll = { class: "scroll card-scroll", tabindex: 0, role: "group", "aria-label": "Index of the cards" };
      const list = MB.element("div", scroll, MB.element("ol", { class: "card-index" }, ...rows));
      if (!rows.length) return MB.element("p", { class: "note", text: `${text}.` });
      return MB.element("div", {}, MB.element("h3", { text }), list);
    }

    idOf(router, expert) {
      return MB.cardId(this.run, this.routers[router].name, expert);
    }

    // The router and expert that an anchor names, null for none of these cards.
    placeOf(id) {
      for (let router = 0; router < this.routers.length; router += 1) {
        const start = this.idOf(router, "");
        const rest = id.startsWith(start) ? id.slice(start.length) : "";
        if (/^\d+$/.test(rest) && Number(rest) < this.routers[router].experts) return { router, expert: Number(rest) };
      }
      return null;
    }

    // By hand: the address names it, too.
    show(router, expert) {
      this.open(router, expert);
      this.choose(router, expert);
      this.host.firstElementChild.querySelector("h3").focus({ preventScroll: true });
    }

    open(router, expert) {
      this.opened = { router, expert };
      this.layer.value = String(router);
      this.fillExperts();
      this.expert.value = String(expert);
      this.redraw();
    }

    // Other figures follow it, and the address names it.
    choose(router, expert) {
      const id = this.idOf(router, expert);
      if (this.run === 0) MB.select({ router, expert }, id);
      MB.remember(id);
    }

    redraw() {
      if (this.opened) this.host.replaceChildren(MB.card(this, this.opened.router, this.opened.expert));
    }

    // {expert, count, lift} of the partners or next experts.
    near(name, router, expert) {
      const [experts, counts, lifts] = this[name];
      const from = (this.starts[router] + expert) * this.near_;
      const all = Array.from({ length: this.near_ }, (_, i) => ({
        expert: experts[from + i],
        count: counts[from + i],
        lift: lifts[from + i] / 100,
      }));
      return all.filter((one) => one.expert !== NOBODY);
    }

    get loads() {
      this.loadHeat ??= heatOf("load", (figures) => figures[this.run]?.drawings["0"]);
      return this.loadHeat;
    }

    domainHeat(router) {
      if (this.domains === null) return null;
      const find = (figures) => figures.find(({ by }) => by === "router")?.drawings[String(router)];
      return heatOf(this.domains, find);
    }
  };

  // An address that somebody typed need not be one.
  const fragment = (text) => {
    try {
      return decodeURIComponent(text);
    } catch {
      return text;
    }
  };

  const everyCards = [];
  MB.widgets.cards = (section, { near, ...data }) => {
    const cards = new MB.Cards(section, { ...data, near_: near });
    everyCards.push(cards);
    MB.redraws.push({ redraw: () => cards.redraw(), refresh: () => cards.redraw(), drawNow: () => {} });
    cards.follow(location.hash);
  };

  // A link to a card makes it before the browser looks for it; so does an address from elsewhere.
  MB.Cards.prototype.follow = function follow(hash, chosen = false) {
    const place = this.placeOf(fragment(hash.replace(/^#/, "").split("?")[0]));
    if (place) this.open(place.router, place.expert);
    if (place && chosen) this.choose(place.router, place.expert);
    return place !== null;
  };
  const follow = (hash, chosen) => everyCards.some((cards) => cards.follow(hash, chosen));
  document.addEventListener(
    "click",
    (event) => {
      const link = event.button ? null : event.target.closest?.('a[href^="#card"]');
      if (link) follow(link.getAttribute("href"), true);
    },
    true,
  );
  addEventListener("hashchange", () => {
    if (follow(location.hash)) document.getElementById(location.hash.slice(1).split("?")[0])?.scrollIntoView();
  });
})();
