// The routing river: columns of experts, ribbons of the moves between them, a window of layers at a time. What it draws
// stands in show/figures/river.py: columns in running order, nodes from top to bottom, moves row by row.
"use strict";

const RIVER = { height: 460, node: 13, gap: 3, label: 30, other: 1 / 3, wide: 6, narrow: 3 };

// The nodes of a column as they are drawn, and how many selections come in and go out. The merged experts of a large
// router are drawn at most a third as tall as the others together, and say so.
const riverColumn = (column, height) => {
  const { loads, experts } = column;
  const shown = loads.reduce((sum, load, i) => sum + (experts[i] === null ? 0 : load), 0);
  const weights = loads.map((load, i) =>
    experts[i] === null ? Math.min(load, Math.max(1, shown * RIVER.other)) : load,
  );
  const room = height - RIVER.gap * (loads.length - 1);
  const scale =
    room /
    Math.max(
      1,
      weights.reduce((a, b) => a + b, 0),
    );
  let y = 0;
  return weights.map((weight, i) => {
    const node = { expert: experts[i], load: loads[i], y, height: weight * scale, squeezed: weight < loads[i] };
    y += node.height + RIVER.gap;
    return node;
  });
};

const summed = new WeakMap();

// What goes out of each node of a column, and into each of the next.
const sums = (moves, n, m) => {
  if (!summed.has(moves)) summed.set(moves, sumsOf(moves, n, m));
  return summed.get(moves);
};

const sumsOf = (moves, n, m) => {
  const [rows, columns] = [new Float64Array(n), new Float64Array(m)];
  for (let i = 0; i < n; i += 1) {
    for (let j = 0; j < m; j += 1) {
      rows[i] += moves[i * m + j];
      columns[j] += moves[i * m + j];
    }
  }
  return [rows, columns];
};

// Ribbons of a gap: where each begins and ends, its moves, and its lift against independent choices.
const riverRibbons = (drawing, gap, from, to) => {
  const moves = drawing.moves[gap];
  const { tokens } = drawing.columns[gap];
  const [n, m] = [from.length, to.length];
  const [rows, columns] = sums(moves, n, m);
  const [left, right] = [from.map((node) => node.y), to.map((node) => node.y)];
  const ribbons = [];
  for (let i = 0; i < n; i += 1) {
    for (let j = 0; j < m; j += 1) {
      const count = moves[i * m + j];
      if (!count) continue;
      const out = (count / rows[i]) * from[i].height;
      const into = (count / columns[j]) * to[j].height;
      const lift = (count * tokens) / (from[i].load * to[j].load);
      ribbons.push({ gap, i, j, count, lift, share: count / rows[i], y0: left[i], h0: out, y1: right[j], h1: into });
      left[i] += out;
      right[j] += into;
    }
  }
  return ribbons.sort((a, b) => a.lift - b.lift);
};

const ribbonPath = ({ y0, h0, y1, h1 }, x0, x1) => {
  const [a, b] = [x0 + (x1 - x0) * 0.5, x1 - (x1 - x0) * 0.5];
  const f = (x) => x.toFixed(1);
  return (
    `M${f(x0)},${f(y0)}C${f(a)},${f(y0)} ${f(b)},${f(y1)} ${f(x1)},${f(y1)}` +
    `L${f(x1)},${f(y1 + h1)}C${f(b)},${f(y1 + h1)} ${f(a)},${f(y0 + h0)} ${f(x0)},${f(y0 + h0)}Z`
  );
};

// Faint at chance and below, the page's colour for more above it; four times chance has the full colour.
const ribbonLook = (lift) => {
  const strength = Math.max(0, Math.min(1, Math.log2(Math.max(lift, 1e-6)) / 2));
  return { fill: MB.diverging(0.25 + 0.75 * strength), opacity: lift <= 1 ? 0.05 : 0.1 + 0.75 * strength };
};

// How much of what goes through one node goes through every other, forward and back, if each move forgets the one
// before: [columns][nodes], 1 at the node, and the moves themselves by gap.
const riverFlow = (drawing, column, node) => {
  const through = drawing.columns.map(({ loads }) => new Float64Array(loads.length));
  const moves = drawing.moves.map((gap) => new Float64Array(gap.length));
  through[column][node] = 1;
  for (const step of [1, -1]) {
    for (let c = column; c + step >= 0 && c + step < drawing.columns.length; c += step) {
      const gap = step > 0 ? c : c - 1;
      const [n, m] = [drawing.columns[gap].loads.length, drawing.columns[gap + 1].loads.length];
      const [rows, columns] = sums(drawing.moves[gap], n, m);
      for (let i = 0; i < n; i += 1) {
        for (let j = 0; j < m; j += 1) {
          const count = drawing.moves[gap][i * m + j];
          if (!count) continue;
          const flow = step > 0 ? (through[c][i] * count) / rows[i] : (through[c][j] * count) / columns[j];
          moves[gap][i * m + j] = flow;
          through[c + step][step > 0 ? j : i] += flow;
        }
      }
    }
  }
  return { through, moves };
};

// The tokens of the page's trace, as nodes of this river; null where there are none, or of other routers.
MB.riverTokens = (drawing) => {
  if (!MB.data.tokens) return null;
  MB.tokens ??= new MoebenchTokens.Data(MB.data.tokens);
  const routers = drawing.columns.map(({ layer, router, n_experts: n }) =>
    MB.tokens.routers.findIndex((r) => r.layer === layer && r.router === router && r.n_experts === n),
  );
  if (routers.includes(-1)) return null;
  const places = drawing.columns.map(({ experts, n_experts: n }) => {
    const rest = experts.indexOf(null);
    return Array.from({ length: n }, (_, expert) => (experts.includes(expert) ? experts.indexOf(expert) : rest));
  });
  return {
    data: MB.tokens,
    node: (column, token, slot = 0) => {
      const { top_k: k, experts } = MB.tokens.routers[routers[column]];
      return places[column][experts[token * k + slot]];
    },
    slots: (column) => MB.tokens.routers[routers[column]].top_k,
  };
};

// The same of the tokens that choose the node: where they really were, before and after.
const riverPaths = (drawing, tokens, column, node) => {
  const through = drawing.columns.map(({ loads }) => new Float64Array(loads.length));
  const moves = drawing.moves.map((gap) => new Float64Array(gap.length));
  const slots = (c) => Array.from({ length: tokens.slots(c) }, (_, slot) => slot);
  let takers = 0;
  for (let token = 0; token < tokens.data.tokens.length; token += 1) {
    if (!slots(column).some((slot) => tokens.node(column, token, slot) === node)) continue;
    takers += 1;
    const here = drawing.columns.map((_, c) => slots(c).map((slot) => tokens.node(c, token, slot)));
    here.forEach((nodes, c) => {
      for (const i of nodes) through[c][i] += 1 / nodes.length;
      if (c + 1 === here.length) return;
      const m = through[c + 1].length;
      for (const i of nodes) for (const j of here[c + 1]) moves[c][i * m + j] += 1 / nodes.length / here[c + 1].length;
    });
  }
  const shares = (arrays) => arrays.map((array) => array.map((x) => x / Math.max(1, takers)));
  return { through: shares(through), moves: shares(moves), takers };
};

const riverTable = (drawing) => {
  const name = (expert, others) => (expert === null ? `other ${others}` : expert);
  const rows = drawing.moves.flatMap((moves, gap) => {
    const [from, to] = [drawing.columns[gap], drawing.columns[gap + 1]];
    const m = to.loads.length;
    const all = [];
    from.experts.forEach((one, i) => {
      const total = moves.slice(i * m, (i + 1) * m).reduce((a, b) => a + b, 0);
      to.experts.forEach((other, j) => {
        const count = moves[i * m + j];
        const expected = (from.loads[i] * to.loads[j]) / from.tokens;
        const [share, lift] = [total ? count / total : null, expected ? count / expected : null];
        all.push([from.name, name(one, from.others), to.name, name(other, to.others), count, share, lift]);
      });
    });
    return all.sort((a, b) => (b[6] ?? -1) - (a[6] ?? -1));
  });
  const columns = ["layer", "expert", "next layer", "next expert", "moves", "share of the expert's moves", "lift"];
  return { columns, rows };
};

MB.river = {
  size: RIVER,
  column: riverColumn,
  ribbons: riverRibbons,
  path: ribbonPath,
  look: ribbonLook,
  flow: riverFlow,
  paths: riverPaths,
  table: riverTable,
};
