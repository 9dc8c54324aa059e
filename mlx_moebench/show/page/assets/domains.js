// What lies between the domains of a model: verdicts, information, divergences, each domain's experts.
"use strict";

MB.domains = () => {
  MB.data.domains.forEach((found, number) => {
    const several = MB.data.domains.length > 1 ? `: ${MB.name(found.name)}` : "";
    const section = MB.section(`domains${number || ""}`, `Domains${several}`, null);
    const sizes = found.domains.map((d, i) => `${MB.name(d)}: n = ${MB.count(found.n_sequences[i], found.texts)}, ${MB.count(found.n_tokens[i], "token")}`).join("; ");
    verdicts(section, found);
    const grid = section.appendChild(MB.el("div", { class: "pair" }));
    information(grid, found, sizes);
    divergences(grid, found, sizes);
    specialisation(section, found, sizes);
  });
};

const verdicts = (section, found) => {
  const rows = found.routers.map((r, i) => {
    const v = found.between[i];
    const open = v.undecided.length ? `${v.undecided.join(", ")} open; ${v.needed === null ? "more texts need not decide it" : `about ${v.needed.toLocaleString("en")} texts in all would do`}` : v.word_reason || "";
    return [r.label, v.word || "none", MB.interval(v.a, 2), MB.interval(v.b, 2), MB.interval(v.r, 2), MB.interval(v.mi), v.p === null ? "none" : MB.number(v.p), open];
  });
  const table = MB.table({ columns: ["layer", "verdict", "a, of tokens", "b, of tokens", "r, ratio", "MI, nats", "p", "what is open"], rows }, 400);
  section.append(
    MB.el("h3", { text: "Verdicts" }),
    MB.el("p", { class: "note", text: `a: share of tokens of the expert that no domain escapes; b: of the busiest expert of any domain; r: effective share of the experts that the domains mixed in equal parts use; tau ${found.tau}. collapsed: a > tau or r < 0.5; specialised: a <= tau, r >= 0.5, b > tau and MI above its null; balanced: a, b <= tau and r >= 0.5; whole intervals must say so, else undetermined.` }),
    MB.el("div", { class: "scroll long", tabindex: 0, role: "region", "aria-label": `Verdicts of ${found.name}` }, table),
  );
};

const bars = (found) => {
  const entries = found.between.map((v) => v.mi);
  if (entries.every((entry) => entry[1] === null)) return `No intervals and no null: ${MB.reason(entries[0]) || "none can be given"}.`;
  return `Bars: ${MB.percent(found.level)} intervals over sequences.`;
};

const information = (parent, found, sizes) => {
  const every = kinds(found.routers);
  const points = (kind) => ofKind(found.routers, kind).map(([r, i]) => {
    const v = found.between[i];
    const [y, low, high] = v.mi;
    const lines = [`Layer ${r.label}`, `MI(domain; expert) ${MB.interval(v.mi)} nats, ${MB.number(100 * v.relative, 1)}% of ln D`, v.p === null ? "No null: too few sequences." : `null mean ${MB.number(v.null[0], 4)}, 95% quantile ${MB.number(v.null[1], 4)}; p ${MB.number(v.p)}, q ${MB.number(v.q)}`, ...without(v.mi)];
    return { x: r.layer, y, low, high, lines };
  });
  const series = () => every.map((kind, n) => ({ ...MB.style(n), name: `${kind} routers`, points: points(kind) }));
  MB.figure(parent, {
    title: () => "What the domain tells of the expert",
    label: `Information of the domain about the expert by layer, ${found.name}`,
    caption: () => `${found.definition} Unit: nats; at most ln D = ${MB.number(found.highest)}. ${bars(found)}${found.between[0].p === null ? "" : ` Dotted: 95% quantile of ${found.permutations.toLocaleString("en")} permutations.`} ${sizes}.`,
    legend: () => (every.length > 1 ? series() : []),
    draw: (host) => MB.chart(host, { series: series(), zero: true, integers: true, x: "layer", y: "nats", label: "MI(domain; expert)", lines: every.map((kind) => ({ name: "95% of permutations", points: ofKind(found.routers, kind).map(([r, i]) => [r.layer, found.between[i].null[1]]) })) }),
    table: () => ({
      columns: ["layer", "router", "MI, nats", "low", "high", "of ln D", "NMI", "null mean", "null 95%", "p", "q", "reason"],
      rows: found.routers.map((r, i) => { const v = found.between[i]; return [r.layer, r.kind, ...v.mi.slice(0, 3), v.relative, v.nmi, ...v.null, v.p, v.q, MB.reason(v.mi)]; }),
    }),
  });
};

const divergences = (parent, found, sizes) => {
  const pairs = found.between[0].divergence.map(([a, b]) => `${MB.name(a)} and ${MB.name(b)}`);
  if (!pairs.length) return;
  const hidden = pairs.map((_, n) => n >= 8);
  const series = () => pairs.map((name, n) => ({
    ...MB.style(n), name, hidden: hidden[n], toggle: () => { hidden[n] = !hidden[n]; },
    points: found.routers.map((r, i) => { const entry = found.between[i].divergence[n][2]; return { x: r.layer + (r.kind === found.routers[0].kind ? 0 : 0.3) + (n - pairs.length / 2) * Math.min(0.05, 0.4 / pairs.length), y: entry[0], low: entry[1], high: entry[2], lines: [`${name}, layer ${r.label}`, `JSD ${MB.interval(entry)} nats`, ...without(entry)] }; }),
    line: kinds(found.routers).length === 1,
  }));
  MB.figure(parent, {
    title: () => "How far the loads of two domains lie apart",
    label: `Jensen-Shannon divergences of domains by layer, ${found.name}`,
    caption: () => `Jensen-Shannon divergence of the loads of two domains, H((f + g) / 2) - (H(f) + H(g)) / 2. Unit: nats, at most ln 2 = 0.693; above 0 in finite samples also without a difference. ${bars(found)} ${sizes}.`,
    legend: series,
    draw: (host) => MB.chart(host, { series: series(), zero: true, integers: true, x: "layer", y: "nats", label: "Jensen-Shannon divergence" }),
    table: () => ({ columns: ["layer", "router", "domain", "other domain", "JSD, nats", "low", "high", "reason"], rows: found.routers.flatMap((r, i) => found.between[i].divergence.map(([a, b, entry]) => [r.layer, r.kind, MB.name(a), MB.name(b), ...entry.slice(0, 3), MB.reason(entry)])) }),
  });
};

const specialisation = (section, found, sizes) => {
  const state = { router: 0, sort: "number" };
  const ratio = (i) => found.between[i].shares.map((row) => row.map((s) => (s === null ? null : (s * found.routers[i].e) / found.routers[i].k)));
  const most = MB.most(found.routers.flatMap((_, i) => ratio(i).flat()), 2);
  const redraw = MB.figure(section, {
    title: () => `Experts by domain, layer ${found.routers[state.router].label}`,
    label: `Heatmap of each domain's use of the experts of a layer, ${found.name}`,
    controls: [
      MB.select("Layer", found.routers.map((r, i) => [i, r.label]), 0, (i) => { state.router = +i; redraw(); }),
      MB.select("Experts in the order of", [["number", "their number"], ["most", "their busiest domain"], ...found.domains.map((d, i) => [i, `their load on ${d}`])], "number", (value) => { state.sort = value; redraw(); }),
    ],
    caption: () => { const v = found.between[state.router]; return `${found.shares_definition} ${v.band === null ? `No intervals: ${v.reason === null ? "none can be given" : MB.data.reasons[v.reason]}.` : `Band: share +- ${MB.number(v.band)}, ${MB.percent(found.level)}.`} Unit: multiple of even share. ${sizes}.`; },
    draw: (host) => {
      const i = state.router;
      const values = ratio(i);
      const { e, k, label } = found.routers[i];
      const v = found.between[i];
      const key = state.sort === "number" ? null : state.sort === "most" ? byNumber(e).map((x) => Math.max(...values.map((row) => row[x]))) : values[state.sort];
      const order = key ? sorted(key) : byNumber(e);
      MB.heatmap(host, {
        rows: found.domains.map(MB.name), columns: e, order: () => order, value: (row, x) => values[row][x], colour: MB.fromEven(most), x: "expert", y: "domain", places: (place) => String(order[place]),
        describe: (row, x) => {
          const s = v.shares[row][x];
          return [`${MB.name(found.domains[row])}, layer ${label}, expert ${x}`, `Share of the domain's tokens ${v.band === null || s === null ? MB.number(s) : MB.interval([s, Math.max(0, s - v.band), Math.min(1, s + v.band)])}`, `${MB.number(values[row][x], 2)} times the even share, ${MB.number(k / e)}`, ...(v.band === null && v.reason !== null ? [`No interval: ${MB.data.reasons[v.reason]}.`] : [])];
        },
        scale: MB.evenScale(most, "share of the domain's tokens, multiple of the even share"),
      });
    },
    table: () => {
      const r = found.routers[state.router];
      const v = found.between[state.router];
      return { columns: ["layer", "router", "domain", "expert", "share of tokens", "low", "high", "multiple of even share"], rows: found.domains.flatMap((d, row) => v.shares[row].map((s, x) => [r.layer, r.kind, MB.name(d), x, s, v.band === null || s === null ? null : Math.max(0, s - v.band), v.band === null || s === null ? null : Math.min(1, s + v.band), s === null ? null : (s * r.e) / r.k])) };
    },
  });
};
