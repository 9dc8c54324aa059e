// One card: the shares of an expert by domain, its tokens and where they stand, its partners, and who comes next.
"use strict";

const CARD = { contexts: 3, row: 24, bar: 220 };

const shareWords = (interval) =>
  `${MB.interval(
    interval.map((x, i) => (i < 3 && x !== null ? 100 * x : x)),
    1,
  )}%`;

MB.card = (cards, router, expert) => {
  const { name, top_k: k, experts } = cards.routers[router];
  const id = cards.idOf(router, expert);
  const heading = MB.element("h3", { id: `${id}-heading`, tabindex: -1, text: `Layer ${name}, expert ${expert}` });
  heading.append(" ", MB.element("a", { href: `#${id}`, text: "link", "aria-label": `Link to this card: ${id}` }));
  const loads = cards.loads;
  const own = loads ? MB.intervals(loads, "share")(router, expert) : null;
  const even = k / experts;
  const parts = [heading, steps(cards, router, expert)];
  if (own && own[0] !== null) {
    const times = `${MB.number(own[0] / even, 2)} times the even share of ${MB.number(100 * even, 1)}%`;
    parts.push(MB.element("p", { text: `${shareWords(own)} of all tokens choose it, ${times}. ${cards.n}.` }));
  }
  parts.push(...domainPart(cards, router, expert, even), ...tokenPart(cards, router, expert));
  parts.push(...nearPart(cards, router, expert));
  return MB.element("article", { id, class: "card", "aria-labelledby": `${id}-heading` }, ...parts);
};

const steps = (cards, router, expert) => {
  const step = (text, r, e) => {
    const there = cards.routers[r] && e >= 0 && e < cards.routers[r].experts;
    return there ? MB.element("a", { href: `#${cards.idOf(r, e)}`, text }) : null;
  };
  const links = [step("previous expert", router, expert - 1), step("next expert", router, expert + 1)];
  links.push(step("same number, layer before", router - 1, expert), step("layer after", router + 1, expert));
  return MB.element("p", { class: "note card-steps" }, ...links.filter(Boolean));
};

const domainPart = (cards, router, expert, even) => {
  const heat = cards.domainHeat(router);
  if (!heat) return [];
  const share = MB.intervals(heat, "share");
  const rows = MB.shared(heat.rows).map((domain, row) => ({ domain, value: share(row, expert) }));
  const known = rows.filter(({ value }) => value[0] !== null);
  if (!known.length) return [];
  const reason = MB.reason(known[0].value);
  const note = reason
    ? `No bands: ${reason}.`
    : "Bars: simultaneous bands, over all experts of the layer on all domains. Dotted: even.";
  return [
    MB.element("h4", { text: "Share of each domain's tokens" }),
    domainBars(known, even, `Shares of the tokens of every domain that choose expert ${expert}`),
    MB.element("p", { class: "note", text: note }),
  ];
};

const domainBars = (rows, even, label) => {
  const most = Math.max(even, ...rows.map(({ value }) => value[2] ?? value[0])) * 1.05;
  const x = (share) => (CARD.bar * share) / most;
  const look = MB.data.colours[MB.isDark ? "dark" : "light"];
  const names = MB.data.colours.names ?? [];
  const bars = rows.map(({ domain, value: [value, low, high] }, n) => {
    const picture = MB.svg("svg", { width: CARD.bar + 8, height: CARD.row, "aria-hidden": "true" });
    const place = names.indexOf(MB.plain(domain));
    const fill = MB.domainColour?.(MB.plain(domain)) ?? look.domains[(place < 0 ? n : place) % look.domains.length];
    picture.append(MB.svg("rect", { x: 0, y: 4, width: Math.max(0.5, x(value)).toFixed(1), height: 15, fill }));
    if (low !== null) {
      const line = { y1: 11.5, y2: 11.5, x1: x(low), x2: x(high), stroke: MB.colour("fg"), "stroke-width": 2 };
      picture.append(MB.svg("line", line));
      for (const end of [low, high]) picture.append(MB.svg("line", { ...line, x1: x(end), x2: x(end), y1: 7, y2: 16 }));
    }
    const dots = {
      x1: x(even),
      x2: x(even),
      y1: 0,
      y2: CARD.row,
      stroke: MB.colour("muted"),
      "stroke-dasharray": "2 2",
    };
    picture.append(MB.svg("line", dots));
    const words = shareWords([value, low, high]);
    return MB.element(
      "tr",
      {},
      MB.element("th", { scope: "row" }, MB.element("bdi", { text: domain })),
      MB.element("td", {}, picture),
      MB.element("td", { class: "number", text: words }),
    );
  });
  const table = MB.element("table", { class: "card-bars", "aria-label": label }, MB.element("tbody", {}, ...bars));
  return MB.element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, table);
};

const tokenPart = (cards, router, expert) => {
  if (cards.favourites === null) {
    return [MB.element("p", { class: "note", text: "Its tokens: give a trace of this model with --trace." })];
  }
  const heading = MB.element("h4", { text: "Favourite tokens" });
  const those = cards.favourites[`${router} ${expert}`] ?? [];
  const none = "No token chooses it more often than its texts explain, or none occurs 5 times.";
  if (!those.length) return [heading, MB.element("p", { class: "note", text: `${none} ${cards.null}` })];
  const columns = ["token", "chose it", "of", "by chance", "q"];
  const rows = those.map(([text, ...rest]) => [
    MoebenchMap.visible(text, 40),
    ...rest.map((x) => (x > 0 && x < 0.001 ? x.toExponential(1) : x)),
  ]);
  const cell = (value, i) =>
    i
      ? MB.element("td", { class: "number", text: String(value) })
      : MB.element("td", {}, MB.element("bdi", { text: value }));
  const head = columns.map((text, i) => MB.element("th", { scope: "col", class: i ? "number" : null, text }));
  const body = rows.map((row) => MB.element("tr", {}, ...row.map(cell)));
  const table = MB.element(
    "table",
    {},
    MB.element("thead", {}, MB.element("tr", {}, ...head)),
    MB.element("tbody", {}, ...body),
  );
  return [
    heading,
    table,
    ...contextPart(cards, router, expert, those),
    MB.element("p", { class: "note", text: cards.null }),
  ];
};

// Where its favourite tokens stand, in the sequences that the token view shows.
const contextPart = (cards, router, expert, those) => {
  MB.tokens ??= new MoebenchTokens.Data(MB.data.tokens);
  const { layer, router: kind } = cards.routers[router];
  const number = MB.tokens.routers.findIndex((r) => r.layer === layer && r.router === kind);
  const wanted = new Set(those.map(([text]) => text));
  const words = MB.tokens
    .words(number, expert)
    .filter(({ id }) => wanted.has(MB.tokens.texts[id]))
    .map((word) => ({ ...word, places: word.places.slice(0, CARD.contexts) }));
  if (!words.length) return [];
  return [MB.element("div", { class: "moebench-tokens" }, MoebenchTokens.contexts(MB.tokens, words))];
};

const nearPart = (cards, router, expert) => {
  const list = (title, name, there, noun, none) => {
    const near = cards.near(name, router, expert);
    const heading = MB.element("h4", { text: title });
    if (!near.length) return MB.element("div", {}, heading, MB.element("p", { class: "note", text: none }));
    const items = near.map(({ expert: other, count, lift }) => {
      const words = `Layer ${cards.routers[there].name}, expert ${other}`;
      const link = MB.element("a", { href: `#${cards.idOf(there, other)}`, text: words });
      return MB.element("li", {}, link, `: ${MB.number(lift, 2)} times chance, ${MB.count(count, noun)}`);
    });
    return MB.element("div", {}, heading, MB.element("ul", {}, ...items));
  };
  const no = (known, words) => (known ? `None beyond chance${words}.` : "Not recorded.");
  const single = cards.routers[router].top_k < 2 ? "A token has one expert (K = 1)." : null;
  const parts = [
    list("Partners: chosen by the same tokens", "partners", router, "token", single ?? no(cards.partners_known, "")),
  ];
  if (router + 1 < cards.routers.length) {
    const none = no(cards.following_known, " at the next router");
    parts.push(list("Typical next experts", "following", router + 1, "move", none));
  }
  const note =
    "Lift over chance; no intervals: pairs and moves are kept for all sequences together. Those that exceed " +
    "chance most for its own spread come first.";
  return [MB.element("div", { class: "pair" }, ...parts), MB.element("p", { class: "note", text: note })];
};
