// The sections of runs: load, layers, co-activation, dead experts.
"use strict";

const runs = MB.data.runs;
const kinds = (routers) => [...new Set(routers.map((r) => r.kind))];
const ofKind = (routers, kind) => routers.map((r, i) => [r, i]).filter(([r]) => r.kind === kind);
const viewName = (run, view) => {
  const domain = view.domain === null ? (run.views.length > 1 ? "all domains" : view.data) : view.domain;
  return runs.length > 1 ? `${MB.name(run.name)} on ${MB.name(domain)}` : MB.name(domain);
};
const size = (view) => `n = ${MB.count(view.n_sequences, view.texts)}, ${MB.count(view.n_tokens, "token")}`;
const without = (entry) => (MB.reason(entry) ? [`No interval: ${MB.reason(entry)}.`] : []);
const byNumber = (n) => Array.from({ length: n }, (_, i) => i);
const sorted = (values) => byNumber(values.length).sort((a, b) => values[b] - values[a] || a - b);

for (const run of runs) for (const view of run.views) view.texts = run.texts;
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
  const most = MB.most(MB.views.flatMap(({ run, view }) => run.routers.flatMap((_, row) => ratios(run, view, row))), 2);
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
          const [value, low, high] = share(run, view, row, best);
          // The largest share is never below the even one, as the report's interval says, too.
          return MB.interval([value, low === null ? null : Math.max(low, run.routers[row].k / run.routers[row].e), high], 2) + (view.flags[row] ? " *" : "");
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

MB.words = (metric) => MB.data.labels[metric] || metric[0].toUpperCase() + metric.slice(1).replace(/_/g, " ");

MB.style = (n) => ({ colour: MB.hue(n), dash: MB.dash(n), shape: MB.SHAPES[n % 4] });

MB.layers = () => {
  if (!runs.length) return;
  const section = MB.section("layers", "Entropy and shares by layer", null);
  const known = (name) => MB.views.some(({ view }) => view.metrics[name].some(([value]) => value !== null));
  const names = Object.keys(runs[0].metrics);
  const state = { metric: names.find(known) || names[0] };
  const redraws = [];
  section.append(MB.el("div", { class: "controls" }, MB.select("Quantity", names.map((name) => [name, known(name) ? MB.words(name) : `${MB.words(name)} (not measured)`]), state.metric, (value) => { state.metric = value; redraws.forEach((f) => f()); })));
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
      return [...found.keys()].map((key) => ({ name: runs[0].metrics[state.metric].reference.split(", ").pop(), points: JSON.parse(key) }));
    };
    redraws.push(MB.figure(grid, {
      title: () => `${MB.words(state.metric)} by layer${every.length > 1 ? `, ${kind} routers` : ""}`,
      label: `A quantity of every ${kind} router, layer by layer`,
      caption: () => {
        const metric = runs[0].metrics[state.metric];
        const entries = MB.views.flatMap(({ view }) => view.metrics[state.metric]);
        const bounds = () => (entries.some((entry) => entry[1] !== null) ? `Bands and bars: ${MB.percent(runs[0].level)} intervals over sequences.` : `No intervals: ${MB.reason(entries[0]) || "none can be given"}.`);
        const all = shown.filter((entry) => !entry.hidden);
        return `${metric.definition} Unit: ${metric.unit}. ${bounds()} Dotted: ${metric.reference}. ${all.map((entry) => `${entry.name}: ${size(entry.view)}`).join("; ")}.`;
      },
      legend: () => (shown.length > 1 ? series() : []),
      draw: (host) => (known(state.metric) ? MB.chart : MB.nothing)(host, { reason: MB.reason(MB.views[0].view.metrics[state.metric][0]) || "it is undefined here", series: series(), lines: chance(), x: "layer", y: runs[0].metrics[state.metric].unit, integers: true, label: MB.words(state.metric) }),
      table: () => ({
        columns: ["data", "layer", "router", "metric", "unit", "value", "low", "high", "chance", "reason"],
        rows: shown.flatMap((entry) => ofKind(entry.run.routers, kind).map(([r, i]) => [entry.name, r.layer, r.kind, state.metric, entry.run.metrics[state.metric].unit, ...entry.view.metrics[state.metric][i].slice(0, 3), entry.run.chance[state.metric][i], MB.reason(entry.view.metrics[state.metric][i])])),
      }),
    }));
  }
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
    caption: () => { const { run, view, entry } = now(); return `${run.coactivation.definition} Chance here: lift ${MB.number(entry.lift)}, share ${MB.number(entry.chance)}; the neutral colour is chance, orange more, blue less. Unit: ratio; share: of the tokens of the row's expert. ${size(view)}. ${run.coactivation.left_out}`; },
    draw: (host) => {
      const { view, r, entry } = now();
      const pairs = pairsOf(entry, r.e);
      if (!pairs) { MB.nothing(host, entry); return; }
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
        scale: { from: -far, to: far, value: (t) => chance * 2 ** t, at: [-3, -1.5, 0, 1.5, 3].map((t) => [t, MB.number(chance * 2 ** t, 2)]), label: state.measure === "lift" ? "lift (middle: chance)" : "share of the row's tokens (middle: chance)" },
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
