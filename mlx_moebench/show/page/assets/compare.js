// Two runs side by side, and trainings step by step.
"use strict";

const CLEAR = 0.05;
const FIRST = ["mean_entropy", "load_entropy", "marginal_entropy", "token_information", "top_share_token", "peak_top_share_token", "top_load_ratio", "gini", "n_eff", "dead_experts", "adjacent_overlap", "margin_prob", "selection_margin"];

// entry of an effect: [a, b, p, q, effect, low, high, reason]
const effectOf = (entry) => entry.slice(4);

MB.differences = () => MB.data.differences.forEach((found, number) => {
  const [a, b] = found.names.map(MB.name);
  const section = MB.section(`differences${number || ""}`, "Two runs compared", null);
  const how = found.paired === null ? "values only, without intervals" : found.paired ? "paired on the same sequences" : "unpaired, other sequences on either side";
  const n = `A: ${a}, ${MB.count(found.n_sequences[0], "sequence")}, ${MB.count(found.n_tokens[0], "token")}. B: ${b}, ${MB.count(found.n_sequences[1], "sequence")}, ${MB.count(found.n_tokens[1], "token")}. ${how}.`;
  section.append(MB.el("p", { class: "note", text: `A: ${a}. B: ${b}. Every effect is B minus A, ${how}.` }));
  overall(section, found);
  const grid = section.appendChild(MB.el("div", { class: "pair" }));
  effects(grid, found, n);
  distances(grid, found, n);
  shareChanges(section, found, n);
});

// What the bars of a figure are, or why it has none.
const barsOf = (entries, level) => {
  if (entries.some((entry) => entry[1] !== null)) return `Bars: ${MB.percent(level)} intervals over sequences`;
  return `No intervals: ${MB.reason(entries.find(MB.reason) || []) || "none can be given"}`;
};

const overall = (section, found) => {
  for (const [kind, row] of Object.entries(found.overall)) {
    const line = (name) => {
      const entry = row[name];
      return [name.startsWith("peak_") ? `peak: ${MB.words(name.slice(5)).toLowerCase()}` : MB.words(name), found.units[name.replace(/^peak_/, "")] || "", MB.number(entry[0]), MB.number(entry[1]), MB.interval(effectOf(entry), 4, MB.signed), entry[2] === null ? "" : MB.number(entry[2]), MB.reason(effectOf(entry)) || ""];
    };
    const columns = ["metric", "unit", "A", "B", "B - A", "p", "no interval, because"];
    const table = (names, caption) => {
      const made = MB.table({ columns, rows: names.filter((name) => row[name]).map(line) }, 200);
      return [MB.el("p", { class: "note", text: `${caption}:` }), MB.el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, made)];
    };
    const rest = Object.keys(row).filter((name) => !FIRST.includes(name));
    const known = Object.values(row).some((entry) => effectOf(entry)[1] !== null);
    section.append(...table(FIRST, `Mean over the ${kind} routers (peak: the largest over them), ${known ? `${MB.percent(found.level)} intervals` : "without intervals"}`));
    section.append(MB.el("details", {}, MB.el("summary", { text: "All other metrics" }), ...table(rest, `All other metrics of the ${kind} routers`)));
  }
};

const effects = (parent, found, n) => {
  const names = Object.keys(found.effects[0]);
  const state = { metric: names.includes("mean_entropy") ? "mean_entropy" : names[0] };
  const every = [...new Set(found.routers.map((r) => r.kind))];
  const series = () => every.map((kind, place) => ({
    ...MB.style(place), name: `${kind} routers`, line: false, hollow: (p) => !(p.q !== null && p.q < CLEAR),
    points: found.routers.flatMap((r, i) => {
      const entry = found.effects[i][state.metric];
      if (r.kind !== kind || !entry) return [];
      const [y, low, high] = effectOf(entry);
      return [{ x: r.layer + 0.15 * place, y, low, high, q: entry[3], lines: [`Layer ${r.label}: ${MB.words(state.metric)}`, `B - A ${MB.interval(effectOf(entry), 4, MB.signed)} ${found.units[state.metric]}`, `A ${MB.number(entry[0])}, B ${MB.number(entry[1])}`, entry[3] === null ? `p ${MB.number(entry[2])}` : `p ${MB.number(entry[2])}, q ${MB.number(entry[3])}`, ...(MB.reason(effectOf(entry)) ? [`No interval: ${MB.reason(effectOf(entry))}.`] : [])] }];
    }),
    band: false,
  }));
  const redraw = MB.figure(parent, {
    title: () => `Difference by layer: ${MB.words(state.metric)}`,
    label: "Difference of a quantity between two runs, layer by layer",
    controls: [MB.select("Quantity", names.map((name) => [name, MB.words(name)]), state.metric, (value) => { state.metric = value; redraw(); })],
    caption: () => `${found.definitions[state.metric] || ""} ${found.definition} Unit: ${found.units[state.metric]}. ${barsOf(found.effects.flatMap((row) => (row[state.metric] ? [effectOf(row[state.metric])] : [])), found.level)}; filled: q < ${CLEAR}; dotted: no difference. ${n}`,
    legend: () => (every.length > 1 ? series() : []),
    draw: (host) => MB.chart(host, { series: series(), zero: true, integers: true, x: "layer", y: `B - A, ${found.units[state.metric]}`, label: `Difference of ${MB.words(state.metric)}`, lines: [{ name: "no difference", points: found.routers.map((r) => [r.layer, 0]) }] }),
    table: () => ({ columns: ["layer", "router", "metric", "unit", "A", "B", "B - A", "low", "high", "p", "q", "reason"], rows: found.routers.flatMap((r, i) => Object.entries(found.effects[i]).map(([name, entry]) => [r.layer, r.kind, name, found.units[name], entry[0], entry[1], ...effectOf(entry).slice(0, 3), entry[2], entry[3], MB.reason(effectOf(entry))])) }),
  });
};

const distances = (parent, found, n) => {
  if (found.loads.every((load) => load.l1[0] === null)) return;
  const series = () => [{ ...MB.style(0), name: "sum of |g - f|", line: false, hollow: (p) => !(p.q !== null && p.q < CLEAR), points: found.routers.map((r, i) => { const [y, mean, high, q] = found.loads[i].l1; return { x: r.layer + (r.kind === found.routers[0].kind ? 0 : 0.2), y, q, lines: [`Layer ${r.label}`, `L1 distance of the loads ${MB.number(y, 4)}`, high === null ? "No null." : `by chance ${MB.number(mean, 4)}, below ${MB.number(high, 4)} in 95%; q ${MB.number(q)}`] }; }) }];
  MB.figure(parent, {
    title: () => "How far the loads lie apart",
    label: "Distance of the loads of two runs, layer by layer, against chance",
    caption: () => `Sum over experts of |g - f|, f and g the loads of A and B: twice the share of selections that moved. Unit: share of selections, from 0 to 2; above 0 in finite samples also without a difference. Dotted: 95% quantile with sides exchanged at random; filled: q < ${CLEAR}. ${n}`,
    draw: (host) => MB.chart(host, { series: series(), zero: true, integers: true, x: "layer", y: "share of selections", label: "L1 distance of loads", lines: [{ name: "95% by chance", points: found.routers.map((r, i) => [r.layer, found.loads[i].l1[2]]) }] }),
    table: () => ({ columns: ["layer", "router", "L1", "null mean", "null 95%", "q"], rows: found.routers.map((r, i) => [r.layer, r.kind, ...found.loads[i].l1]) }),
  });
};

const shareChanges = (section, found, n) => {
  const known = found.loads.flatMap((load) => load.change || []).filter((x) => x !== null);
  if (!known.length) return;
  const far = MB.most(known.map(Math.abs), 1e-6);
  const state = { sort: "number" };
  const band = (load, x) => (load.below === null ? [x, null, null, load.reason] : [x, x - load.below, x + load.above, null]);
  const redraw = MB.figure(section, {
    title: () => "Which experts gained and lost",
    label: "Heatmap of the change of each expert's share of tokens, layers by experts",
    controls: [MB.select("Experts in the order of", [["number", "their number"], ["change", "their change, each layer its own"]], "number", (value) => { state.sort = value; redraw(); })],
    caption: () => `Share of tokens that use an expert, at B minus at A; orange gained, blue lost. The interval is a simultaneous band over the experts of a layer. Unit: share of tokens. ${n}`,
    draw: (host) => MB.heatmap(host, {
      rows: found.routers.map((r) => r.label), columns: Math.max(...found.loads.map((load) => (load.change || []).length)),
      order: (row) => { const change = found.loads[row].change || []; const every = change.map((_, i) => i); return state.sort === "change" ? every.sort((x, y) => change[y] - change[x] || x - y) : every; },
      value: (row, x) => found.loads[row].change[x], colour: (value) => MB.diverging(value / far), x: state.sort === "change" ? "expert, most gained first in each layer" : "expert", y: "layer",
      places: state.sort === "change" ? (place) => `${place + 1}.` : null,
      describe: (row, x) => { const entry = band(found.loads[row], found.loads[row].change[x]); return [`Layer ${found.routers[row].label}, expert ${x}`, `Share of tokens ${MB.interval(entry, 4, MB.signed)}`, entry[1] === null ? `No interval${MB.reason(entry) ? `: ${MB.reason(entry)}` : ""}.` : `${MB.percent(found.level)} band over all experts of the layer`]; },
      scale: { from: -1, to: 1, value: (t) => t * far, at: [-1, -0.5, 0, 0.5, 1].map((t) => [t, MB.signed(t * far, 3)]), label: "change of the share of tokens, B - A" },
    }),
    table: () => ({ columns: ["layer", "router", "expert", "change of share of tokens", "low", "high"], rows: found.routers.flatMap((r, i) => (found.loads[i].change || []).map((x, expert) => [r.layer, r.kind, expert, ...band(found.loads[i], x).slice(0, 3)])) }),
  });
};

// -- trainings -------------------------------------------------------------------------------------------------------

MB.trainings = () => MB.data.trainings.forEach((found, number) => {
  const section = MB.section(`training${number || ""}`, `Training: ${MB.name(found.name)}`, null);
  if (!found.steps.length) {
    section.append(MB.el("p", { class: "note", text: "The log of this training holds no step." }));
    return;
  }
  const grid = section.appendChild(MB.el("div", { class: "pair" }));
  const n = `n = ${MB.count(found.n_steps, "step")}, ${MB.count(found.n_tokens, "token")}${found.every > 1 ? `; every ${found.every}th step is drawn` : ""}`;
  const line = (values, place, name, unit, steps = found.steps) => ({ ...MB.style(place), name, shape: "circle", points: steps.map((x, i) => ({ x, y: values[i], lines: [`Step ${x}`, `${name}: ${MB.number(values[i], 4)} ${unit}`] })) });
  const chart = (title, unit, series, floors = []) => MB.figure(grid, {
    title: () => title, label: `${title}, step by step`,
    caption: () => `${found.definition} Unit: ${unit}.${floors.length ? ` Dotted: the floor, ${floors.map((x) => MB.number(x)).join(", ")} nats.` : ""} ${n}.`,
    legend: series,
    draw: (host) => MB.chart(host, { series: series(), x: "step", y: unit, label: title, lines: floors.map((y) => ({ name: "floor", points: [[found.steps[0], y], [found.steps[found.steps.length - 1], y]] })) }),
    table: () => ({ columns: ["quantity", "step", "value", "smallest over routers", "largest over routers"], rows: series().flatMap((s) => s.points.map((p) => [s.name, p.x, p.y, p.low ?? null, p.high ?? null])) }),
  });
  const validation = found.validation[0].length ? [() => line(found.validation[1], 1, "validation", "nats", found.validation[0])] : [];
  chart("Cross-entropy", "nats per token", () => [line(found.ce, 0, "training batch", "nats"), ...validation.map((f) => f())]);
  chart("Routing loss, before its weight", "nats or ratio, as the loss is", () => [line(found.routing_loss, 0, "routing loss", "")]);
  const bands = (names) => () => names.map((name, place) => { const r = found.routers[name]; return { ...MB.style(place), name: r.words, shape: "circle", bars: false, points: found.steps.flatMap((x, i) => (r.values[i] ? [{ x, y: r.values[i][0], low: r.values[i][1], high: r.values[i][2], lines: [`Step ${x}`, `${r.words}: mean over routers ${MB.number(r.values[i][0])}, from ${MB.number(r.values[i][1])} to ${MB.number(r.values[i][2])} ${r.unit}`] }] : [])) }; });
  chart("Entropies of the routers", "nats", bands(["token_entropy", "marginal_entropy", "load_entropy"]), found.floors);
  chart("Load of the routers", "multiple of even load; experts", bands(["top_load_ratio", "dead_experts"]));
});
