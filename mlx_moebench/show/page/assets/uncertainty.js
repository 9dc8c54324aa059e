// The loss of the next token by routing uncertainty.
"use strict";

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
    caption: () => `${found.definition} Unit: nats against ${found.scores[state.score].unit}. ${barsOf(found.scores[state.score].curves.flatMap((curve) => curve.loss), found.level)}. ${n}.`,
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
    caption: () => `Spearman's rho of a router's score at a token with the loss of the next token; dotted: none. Unit: correlation, from -1 to 1. ${barsOf(scores.flatMap(([, s]) => s.curves.map((curve) => curve.rho)), found.level)}. ${n}.`,
    legend: series,
    draw: (host) => MB.chart(host, { series: series(), zero: true, integers: true, x: "layer", y: "rho", label: "Rank correlation", lines: [{ name: "none", points: found.routers.map((r) => [r.layer, 0]) }] }),
    table: () => ({ columns: ["layer", "router", "score", "rho", "low", "high", "reason"], rows: scores.flatMap(([key, s]) => s.curves.map((curve, i) => [found.routers[i].layer, found.routers[i].kind, key, ...curve.rho.slice(0, 3), MB.reason(curve.rho)])) }),
  });
});
