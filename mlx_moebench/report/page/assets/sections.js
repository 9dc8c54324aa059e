// The sections of one run: load, layers, domains, co-activation, dead experts, loss by routing uncertainty.
"use strict";

const runs = MB.data.runs;
const kinds = (routers) => [...new Set(routers.map((r) => r.kind))];
const ofKind = (routers, kind) => routers.map((r, i) => [r, i]).filter(([r]) => r.kind === kind);
const viewName = (run, view) => {
  const domain = view.domain === null ? (run.views.length > 1 ? "all domains" : view.data) : view.domain;
  return runs.length > 1 ? `${MB.name(run.name)} on ${MB.name(domain)}` : MB.name(domain);
};
const size = (view) => `n = ${MB.count(view.n_sequences, "sequence")}, ${MB.count(view.n_tokens, "token")}`;
const without = (entry) => (MB.reason(entry) ? [`No interval: ${MB.reason(entry)}.`] : []);
const byNumber = (n) => Array.from({ length: n }, (_, i) => i);
const sorted = (values) => byNumber(values.length).sort((a, b) => values[b] - values[a] || a - b);

MB.views = runs.flatMap((run) => run.views.map((view) => ({ run, view, name: viewName(run, view) })));

// -- load ------------------------------------------------------------------------------------------------------------

const ratios = (run, view, row) => {
  const { e, k } = run.routers[row];
  const scale = view.tokens[row] ? e / (k * view.tokens[row]) : NaN;
  return view.counts[row].map((count) => count * scale);
};

const share = (run, view, row, expert) => {
  const value = view.tokens[row] ? view.counts[row][expert] / view.tokens[row] : null;
  const [below, above] = [view.below[row], view.above[row]];
  if (value === null || below === null || above === null) return [value, null, null, view.reasons[row]];
  return [value, Math.max(0, value - below), Math.min(1, value + above), null];
};

MB.load = () => {
  if (!runs.length) return;
  const section = MB.section("load", "Load: which experts work", null);
  const most = Math.max(2, ...MB.views.flatMap(({ run, view }) => run.routers.flatMap((_, row) => ratios(run, view, row)).filter(Number.isFinite)));
  const redraws = [];
  const state = { sort: "number" };
  section.append(MB.el("div", { class: "controls" }, MB.select("Experts in the order of", [["number", "their number"], ["load", "their load, each layer its own"]], "number", (value) => { state.sort = value; redraws.forEach((f) => f()); })));
  for (const run of runs) {
    let view = run.views[0];
    const choose = MB.select("Data", run.views.map((v, i) => [i, v.domain === null ? (run.views.length > 1 ? "all domains" : v.data) : v.domain]), 0, (i) => { view = run.views[i]; redraw(); });
    const flagged = () => view.flags.some((flag) => flag);
    const heat = () => {
      const values = run.routers.map((_, row) => ratios(run, view, row));
      return {
        rows: run.routers.map((r) => r.label),
        columns: Math.max(...run.routers.map((r) => r.e)),
        order: (row) => (state.sort === "load" ? sorted(values[row]) : byNumber(run.routers[row].e)),
        value: (row, expert) => values[row][expert],
        colour: MB.fromEven(most),
        x: state.sort === "load" ? "expert, busiest first in each layer" : "expert",
        y: "layer",
        places: state.sort === "load" ? (place) => `${place + 1}.` : null,
        note: (row) => {
          const best = view.counts[row].indexOf(Math.max(...view.counts[row]));
          return MB.interval(share(run, view, row, best), 2) + (view.flags[row] ? " *" : "");
        },
        noteLabel: flagged() ? `busiest, of tokens; * > ${run.tau}` : "busiest, of tokens",
        describe: (row, expert) => {
          const entry = share(run, view, row, expert);
          const { k, e, label } = run.routers[row];
          return [
            `Layer ${label}, expert ${expert}`,
            `${MB.count(view.counts[row][expert], "selection")} by ${MB.count(view.tokens[row], "token")}`,
            `Share of tokens ${MB.interval(entry)}`,
            entry[1] === null ? without(entry)[0] || "No interval." : `${MB.percent(run.level)} band over all experts of the layer`,
            `${MB.number(values[row][expert], 2)} times the even share, ${MB.number(k / e)}`,
          ];
        },
        scale: MB.evenScale(most, "load, multiple of the even share (1 = even)"),
      };
    };
    const redraw = MB.figure(section, {
      title: () => `Layer by expert load${runs.length > 1 || run.views.length > 1 ? `: ${viewName(run, view)}` : ""}`,
      label: `Heatmap of the load of ${run.name}, layers by experts`,
      controls: run.views.length > 1 ? [choose] : [],
      caption: () => `${run.load.definition} ${size(view)}, ${run.phase}.${view.below.every((b) => b === null) ? ` No intervals: ${view.reasons[0] !== null ? MB.data.reasons[view.reasons[0]] : "none can be given"}.` : ` Level ${MB.percent(run.level)}.`} Unit: ${run.load.unit}.`,
      draw: (host) => MB.heatmap(host, heat()),
      table: () => ({
        columns: ["data", "layer", "router", "expert", "selections", "tokens", "share of tokens", "low", "high", "multiple of even load"],
        rows: run.routers.flatMap((r, row) => {
          const values = ratios(run, view, row);
          return view.counts[row].map((count, expert) => [MB.name(view.data), r.layer, r.kind, expert, count, view.tokens[row], ...share(run, view, row, expert).slice(0, 3), values[expert]]);
        }),
      }),
    });
    redraws.push(redraw);
  }
};

// -- layers ----------------------------------------------------------------------------------------------------------

const WORDS = { mean_entropy: "Entropy of a token's routing", topk_entropy: "Entropy of the gate weights", load_entropy: "Entropy of the load", marginal_entropy: "Entropy of the mean routing", token_information: "Information of the token about its expert", top_share_token: "Busiest expert, share of tokens", top_share_selection: "Busiest expert, share of selections", top_share_top1: "Busiest first choice, share of tokens", top_load_ratio: "Busiest expert, multiple of even load", n_eff: "Effective number of experts", n90: "Experts that get 90% of the selections", gini: "Gini coefficient of the load", switch_balance: "Switch balance", adjacent_overlap: "Experts shared by adjacent tokens", margin_prob: "Margin of the first choice", selection_margin: "Selection margin" };
MB.words = (metric) => WORDS[metric] || metric.replace(/_/g, " ");

MB.style = (n) => ({ colour: MB.hue(n), dash: MB.dash(n), shape: MB.SHAPES[n % 4] });

MB.layers = () => {
  if (!runs.length) return;
  const section = MB.section("layers", "Entropy and shares by layer", null);
  const state = { metric: "mean_entropy" };
  const redraws = [];
  section.append(MB.el("div", { class: "controls" }, MB.select("Quantity", Object.keys(runs[0].metrics).map((name) => [name, MB.words(name)]), "mean_entropy", (value) => { state.metric = value; redraws.forEach((f) => f()); })));
  const every = kinds(runs.flatMap((run) => run.routers));
  const grid = every.length > 1 ? section.appendChild(MB.el("div", { class: "pair" })) : section;
  for (const kind of every) {
    const shown = MB.views.map((entry, n) => ({ ...entry, n, hidden: runs.length > 1 && entry.view.domain !== null }));
    const series = () => shown.map((entry, place) => {
      const values = entry.view.metrics[state.metric];
      const unit = entry.run.metrics[state.metric].unit;
      return {
        ...MB.style(entry.n),
        name: entry.name,
        hidden: entry.hidden,
        toggle: () => { entry.hidden = !entry.hidden; },
        points: ofKind(entry.run.routers, kind).map(([r, i]) => {
          const [y, low, high] = values[i];
          const shift = shown.length > 1 ? (place - (shown.length - 1) / 2) * Math.min(0.09, 0.5 / shown.length) : 0;
          return { x: r.layer + shift, y, low, high, lines: [`${entry.name}, layer ${r.label}`, `${MB.words(state.metric)}: ${MB.interval(values[i])} ${unit}`, ...without(values[i]), size(entry.view)] };
        }),
      };
    });
    const chance = () => {
      const found = new Map(runs.map((run) => [JSON.stringify(ofKind(run.routers, kind).map(([r, i]) => [r.layer, run.chance[state.metric][i]])), run]));
      return [...found.keys()].map((key) => ({ name: runs[0].metrics[state.metric].reference, points: JSON.parse(key) }));
    };
    redraws.push(MB.figure(grid, {
      title: () => `${MB.words(state.metric)} by layer${every.length > 1 ? `, ${kind} routers` : ""}`,
      label: `A quantity of every ${kind} router, layer by layer`,
      caption: () => {
        const metric = runs[0].metrics[state.metric];
        const all = shown.filter((entry) => !entry.hidden);
        return `${metric.definition} Unit: ${metric.unit}. Bands and bars: ${MB.percent(runs[0].level)} intervals over sequences. Dotted: ${metric.reference}. ${all.map((entry) => `${entry.name}: ${size(entry.view)}`).join("; ")}.`;
      },
      legend: () => (shown.length > 1 ? series() : []),
      draw: (host) => MB.chart(host, { series: series(), lines: chance(), x: "layer", y: runs[0].metrics[state.metric].unit, integers: true, label: MB.words(state.metric) }),
      table: () => ({
        columns: ["data", "layer", "router", "metric", "unit", "value", "low", "high", "chance", "reason"],
        rows: shown.flatMap((entry) => ofKind(entry.run.routers, kind).map(([r, i]) => [entry.name, r.layer, r.kind, state.metric, entry.run.metrics[state.metric].unit, ...entry.view.metrics[state.metric][i].slice(0, 3), entry.run.chance[state.metric][i], MB.reason(entry.view.metrics[state.metric][i])])),
      }),
    }));
  }
};

// -- domains ---------------------------------------------------------------------------------------------------------

MB.domains = () => {
  MB.data.domains.forEach((found, number) => {
    const several = MB.data.domains.length > 1 ? `: ${MB.name(found.name)}` : "";
    const section = MB.section(`domains${number || ""}`, `Domains${several}`, null);
    const sizes = found.domains.map((d, i) => `${MB.name(d)} ${found.n_sequences[i].toLocaleString("en")} sequences, ${found.n_tokens[i].toLocaleString("en")} tokens`).join("; ");
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
    return [r.label, v.word || "none", MB.interval(v.a, 2), MB.interval(v.b, 2), MB.interval(v.r, 2), MB.interval(v.mi), MB.number(v.p), open];
  });
  const table = MB.table({ columns: ["layer", "verdict", "a, of tokens", "b, of tokens", "r, ratio", "MI, nats", "p", "what is open"], rows }, 400);
  section.append(
    MB.el("h3", { text: "Verdicts" }),
    MB.el("p", { class: "note", text: `a: share of tokens of the expert that no domain escapes; b: of the busiest expert of any domain; r: effective share of the experts that the domains mixed in equal parts use; tau ${found.tau}. collapsed: a > tau or r < 0.5; specialised: a <= tau, r >= 0.5, b > tau and MI above its null; balanced: a, b <= tau and r >= 0.5; whole intervals must say so, else undetermined.` }),
    MB.el("div", { class: "scroll long", tabindex: 0, role: "region", "aria-label": `Verdicts of ${found.name}` }, table),
  );
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
    caption: () => `${found.definition} Unit: nats; at most ln D = ${MB.number(found.highest)}. Bars: ${MB.percent(found.level)} intervals over sequences. Dotted: 95% quantile of ${found.permutations.toLocaleString("en")} permutations. ${sizes}.`,
    legend: () => (every.length > 1 ? series() : []),
    draw: (host) => MB.chart(host, { series: series(), zero: true, integers: true, x: "layer", y: "nats", label: "MI(domain; expert)", lines: every.map((kind) => ({ name: "null", points: ofKind(found.routers, kind).map(([r, i]) => [r.layer, found.between[i].null[1]]) })) }),
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
    caption: () => `Jensen-Shannon divergence of the loads of two domains, H((f + g) / 2) - (H(f) + H(g)) / 2. Unit: nats, at most ln 2 = 0.693; above 0 in finite samples also without a difference. Bars: ${MB.percent(found.level)} intervals over sequences. ${sizes}.`,
    legend: series,
    draw: (host) => MB.chart(host, { series: series(), zero: true, integers: true, x: "layer", y: "nats", label: "Jensen-Shannon divergence" }),
    table: () => ({ columns: ["layer", "router", "domain", "other domain", "JSD, nats", "low", "high", "reason"], rows: found.routers.flatMap((r, i) => found.between[i].divergence.map(([a, b, entry]) => [r.layer, r.kind, MB.name(a), MB.name(b), ...entry.slice(0, 3), MB.reason(entry)])) }),
  });
};

const specialisation = (section, found, sizes) => {
  const state = { router: 0, sort: "number" };
  const ratio = (i) => found.between[i].shares.map((row) => row.map((s) => (s === null ? null : (s * found.routers[i].e) / found.routers[i].k)));
  const most = Math.max(2, ...found.routers.flatMap((_, i) => ratio(i).flat()).filter((x) => x !== null));
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

// -- co-activation ---------------------------------------------------------------------------------------------------

const pairsOf = (entry, e) => {
  if (!entry.pairs) return null;
  const bytes = MB.bytes(entry.pairs);
  const view = new DataView(bytes.buffer);
  const full = new Float64Array(e * e);
  let place = 0;
  for (let i = 0; i < e; i += 1) {
    for (let j = i + 1; j < e; j += 1) {
      const n = entry.bytes === 2 ? view.getUint16(place, true) : view.getUint32(place, true);
      place += entry.bytes;
      full[i * e + j] = n;
      full[j * e + i] = n;
    }
  }
  return full;
};

MB.coactivation = () => {
  if (!runs.length) return;
  const section = MB.section("coactivation", "Co-activation: which experts are chosen together", null);
  const state = { run: 0, router: Math.max(0, runs[0].coactivation.routers.findIndex((r) => r.pairs)), measure: "lift", sort: "number" };
  const now = () => { const run = runs[state.run]; return { run, view: run.views[0], r: run.routers[state.router], entry: run.coactivation.routers[state.router] }; };
  const layer = () => MB.select("Layer", runs[state.run].routers.map((r, i) => [i, r.label]), state.router, (i) => { state.router = +i; redraw(); });
  const holder = MB.el("span", {}, layer());
  const controls = [holder, MB.select("Show", [["lift", "lift"], ["share", "share of the row's tokens"]], "lift", (value) => { state.measure = value; redraw(); }), MB.select("Experts in the order of", [["number", "their number"], ["load", "their load"]], "number", (value) => { state.sort = value; redraw(); })];
  if (runs.length > 1) controls.unshift(MB.select("Run", runs.map((run, i) => [i, run.name]), 0, (i) => { state.run = +i; state.router = Math.min(state.router, runs[state.run].routers.length - 1); holder.replaceChildren(layer()); redraw(); }));
  const redraw = MB.figure(section, {
    title: () => `Co-activation of the experts of layer ${now().r.label}${runs.length > 1 ? `, ${MB.name(now().run.name)}` : ""}`,
    label: "Heatmap of how often two experts of a layer are chosen together",
    controls,
    caption: () => { const { run, view, entry } = now(); return `${run.coactivation.definition} Chance here: lift ${MB.number(entry.lift)}, share ${MB.number(entry.chance)}; white is chance, orange more, blue less. Unit: ratio; share: of the tokens of the row's expert. ${size(view)}. ${run.coactivation.left_out}`; },
    draw: (host) => {
      const { view, r, entry } = now();
      const pairs = pairsOf(entry, r.e);
      if (!pairs) { host.replaceChildren(MB.el("p", { class: "note", text: `Nothing to draw: ${entry.reason}.` })); return; }
      const counts = view.counts[state.router];
      const tokens = view.tokens[state.router];
      const order = state.sort === "load" ? sorted(counts) : byNumber(r.e);
      const lift = (i, j) => (counts[i] && counts[j] ? (pairs[i * r.e + j] * tokens) / (counts[i] * counts[j]) : null);
      const part = (i, j) => (counts[i] ? pairs[i * r.e + j] / counts[i] : null);
      const chance = state.measure === "lift" ? entry.lift : entry.chance;
      const far = 3;
      MB.heatmap(host, {
        rows: order.map(String), columns: r.e, square: true, order: () => order, x: "expert", y: "expert", places: (place) => String(order[place]),
        value: (row, j) => (order[row] === j ? null : state.measure === "lift" ? lift(order[row], j) : part(order[row], j)),
        colour: (value) => MB.diverging(value > 0 ? Math.log2(value / chance) / far : -1),
        describe: (row, j) => {
          const i = order[row];
          if (i === j) return [`Expert ${i}, layer ${r.label}`, `${MB.count(counts[i], "token")} of ${tokens.toLocaleString("en")}`];
          return [`Experts ${i} and ${j}, layer ${r.label}`, `${MB.count(pairs[i * r.e + j], "token")} of ${tokens.toLocaleString("en")} chose both`, `Lift ${MB.number(lift(i, j), 2)} (chance ${MB.number(entry.lift, 2)})`, `${j} is used by ${MB.number(part(i, j))} of the tokens of ${i}, ${i} by ${MB.number(part(j, i))} of those of ${j} (chance ${MB.number(entry.chance)})`];
        },
        scale: { from: -far, to: far, value: (t) => chance * 2 ** t, at: [-3, -1.5, 0, 1.5, 3].map((t) => [t, MB.number(chance * 2 ** t, 2)]), label: state.measure === "lift" ? "lift (white = chance)" : "share of the row's tokens (white = chance)" },
      });
    },
    table: () => {
      const { view, r, entry } = now();
      const columns = ["layer", "router", "expert", "other expert", "tokens with both", "tokens", "lift", "chance of the lift", "share of the expert's tokens", "share of the other's tokens"];
      const pairs = pairsOf(entry, r.e);
      if (!pairs) return { columns, rows: [] };
      const counts = view.counts[state.router];
      const tokens = view.tokens[state.router];
      const rows = [];
      for (let i = 0; i < r.e; i += 1) for (let j = i + 1; j < r.e; j += 1) {
        const n = pairs[i * r.e + j];
        rows.push([r.layer, r.kind, i, j, n, tokens, counts[i] && counts[j] ? (n * tokens) / (counts[i] * counts[j]) : null, entry.lift, counts[i] ? n / counts[i] : null, counts[j] ? n / counts[j] : null]);
      }
      return { columns, rows: rows.sort((a, b) => b[6] - a[6]) };
    },
  });
};

// -- dead experts ----------------------------------------------------------------------------------------------------

const deadOf = (view, row) => view.counts[row].flatMap((count, expert) => (count ? [] : [expert]));

MB.dead = () => {
  if (!runs.length) return;
  const section = MB.section("dead", "Dead experts", null);
  const number = ({ run, view }) => run.routers.map((_, row) => deadOf(view, row).length);
  const worth = MB.views.some((entry) => number(entry).some(Boolean) || entry.view.dead_expected.some((x) => x > 0.5));
  if (!worth) {
    const largest = Math.max(...MB.views.flatMap((entry) => entry.view.dead_expected));
    section.append(MB.el("p", { class: "note", text: `Every expert of every layer was chosen by a token, on all data and on each domain: 0 dead experts, against fewer than ${MB.number(Math.max(largest, 0.001))} a layer under even routing. ${runs[0].dead.definition} ${MB.views.map((entry) => `${entry.name}: ${size(entry.view)}`).join("; ")}.` }));
    return;
  }
  const shown = MB.views.map((entry, n) => ({ ...entry, n, hidden: false }));
  for (const kind of kinds(runs.flatMap((run) => run.routers))) {
    const series = () => shown.map((entry) => ({
      ...MB.style(entry.n), name: entry.name, hidden: entry.hidden, toggle: () => { entry.hidden = !entry.hidden; },
      points: ofKind(entry.run.routers, kind).map(([r, i]) => { const gone = deadOf(entry.view, i); return { x: r.layer, y: gone.length, lines: [`${entry.name}, layer ${r.label}`, `${MB.count(gone.length, "expert")} of ${r.e} without a token; ${MB.number(entry.view.dead_expected[i], 2)} expected under even routing`, gone.length ? `Which: ${gone.slice(0, 20).join(", ")}${gone.length > 20 ? ", ..." : ""}` : "", size(entry.view)].filter(Boolean) }; }),
    }));
    MB.figure(section, {
      title: () => `Experts that no token chose${kinds(runs.flatMap((run) => run.routers)).length > 1 ? `, ${kind} routers` : ""}`,
      label: `Dead experts of every ${kind} router, layer by layer`,
      caption: () => `${runs[0].dead.definition} Unit: experts. Dotted: expected under even routing. ${shown.filter((s) => !s.hidden).map((entry) => `${entry.name}: ${size(entry.view)}`).join("; ")}.`,
      legend: () => (shown.length > 1 ? series() : []),
      draw: (host) => MB.chart(host, { series: series(), zero: true, integers: true, x: "layer", y: "experts", label: "Dead experts", lines: shown.filter((s) => !s.hidden).map((entry) => ({ name: "expected", points: ofKind(entry.run.routers, kind).map(([r, i]) => [r.layer, entry.view.dead_expected[i]]) })) }),
      table: () => ({ columns: ["data", "layer", "router", "dead experts", "expected under even routing", "which", "experts"], rows: shown.flatMap((entry) => ofKind(entry.run.routers, kind).map(([r, i]) => [entry.name, r.layer, r.kind, deadOf(entry.view, i).length, entry.view.dead_expected[i], deadOf(entry.view, i).join(" "), r.e])) }),
    });
  }
};

// -- loss by routing uncertainty -------------------------------------------------------------------------------------

MB.uncertainty = () => MB.data.uncertainty.forEach((found, number) => {
  const section = MB.section(`uncertainty${number || ""}`, `Loss by routing uncertainty: ${MB.name(found.name)}`, null);
  const state = { score: "entropy", router: "" };
  const grid = section.appendChild(MB.el("div", { class: "pair" }));
  const n = `n = ${MB.count(found.n_sequences, "sequence")}, ${MB.count(found.n_tokens, "token")} with a next one; mean loss ${MB.interval(found.mean_loss)} nats`;
  const redraw = MB.figure(grid, {
    title: () => `Loss of the next token by tenths of ${found.scores[state.score].words}`,
    label: `Loss by tenths of routing uncertainty, ${found.name}`,
    controls: [
      MB.select("Score", Object.entries(found.scores).map(([key, s]) => [key, s.words]), "entropy", (value) => { state.score = value; redraw(); }),
      MB.select("Layer", [["", "all"], ...found.routers.map((r, i) => [i, r.label])], "", (value) => { state.router = value; redraw(); }),
    ],
    caption: () => `${found.definition} Unit: nats against ${found.scores[state.score].unit}. Bars: ${MB.percent(found.level)} intervals over sequences. ${n}.`,
    legend: () => (found.routers.length <= 16 ? found.routers.map((r, i) => ({ ...MB.style(i), name: `layer ${r.label}` })) : []),
    draw: (host) => MB.chart(host, {
      x: `${found.scores[state.score].words}, ${found.scores[state.score].unit}`, y: "loss, nats", label: "Loss by routing uncertainty",
      series: found.scores[state.score].curves.map((curve, i) => ({
        ...MB.style(i), name: found.routers[i].label, faint: state.router !== "" && i !== +state.router, wide: state.router !== "" && i === +state.router, bars: state.router === "" ? false : i === +state.router,
        points: curve.x.map((x, bin) => ({ x, y: curve.loss[bin][0], low: curve.loss[bin][1], high: curve.loss[bin][2], lines: [`Layer ${found.routers[i].label}, tenth ${bin + 1} of ${curve.x.length}`, `Loss ${MB.interval(curve.loss[bin])} nats`, `${found.scores[state.score].words} ${MB.number(x)}, ${MB.count(curve.tokens[bin], "token")}`, `rho ${MB.interval(curve.rho)}`, ...without(curve.loss[bin])] })),
      })),
    }),
    table: () => ({ columns: ["layer", "router", "score", "tenth", "mean score", "tokens", "loss, nats", "low", "high", "reason"], rows: found.scores[state.score].curves.flatMap((curve, i) => curve.x.map((x, bin) => [found.routers[i].layer, found.routers[i].kind, state.score, bin + 1, x, curve.tokens[bin], ...curve.loss[bin].slice(0, 3), MB.reason(curve.loss[bin])])) }),
  });
  const scores = Object.entries(found.scores);
  const series = () => scores.map(([key, s], place) => ({
    ...MB.style(place), name: s.words,
    points: s.curves.map((curve, i) => ({ x: found.routers[i].layer + 0.1 * place, y: curve.rho[0], low: curve.rho[1], high: curve.rho[2], lines: [`${s.words}, layer ${found.routers[i].label}`, `rho ${MB.interval(curve.rho)}`, ...without(curve.rho)] })),
    line: kinds(found.routers).length === 1,
  }));
  MB.figure(grid, {
    title: () => "Rank correlation with the loss by layer",
    label: `Rank correlation of routing uncertainty and loss by layer, ${found.name}`,
    caption: () => `Spearman's rho of a router's score at a token with the loss of the next token; dotted: none. Unit: correlation, from -1 to 1. Bars: ${MB.percent(found.level)} intervals over sequences. ${n}.`,
    legend: series,
    draw: (host) => MB.chart(host, { series: series(), zero: true, integers: true, x: "layer", y: "rho", label: "Rank correlation", lines: [{ name: "none", points: found.routers.map((r) => [r.layer, 0]) }] }),
    table: () => ({ columns: ["layer", "router", "score", "rho", "low", "high", "reason"], rows: scores.flatMap(([key, s]) => s.curves.map((curve, i) => [found.routers[i].layer, found.routers[i].kind, key, ...curve.rho.slice(0, 3), MB.reason(curve.rho)])) }),
  });
});
