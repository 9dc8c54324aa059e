// The river on the page: its window of layers, what is pointed at, lit and played.
(() => {
  "use strict";

  MB.River = class {
    constructor(drawing) {
      Object.assign(this, { drawing, from: 0, here: null, lit: null, token: null, playing: 0 });
      this.tokens = MB.riverTokens(drawing);
      this.still = matchMedia("(prefers-reduced-motion: reduce)");
      this.sequence = 0;
    }

    get last() {
      return Math.min(this.drawing.columns.length, this.from + this.size) - 1;
    }

    // Builds all of it anew in a host, after a change of theme or width, too.
    draw(host) {
      this.host = host;
      const width = Math.max(300, MB.room(host));
      const size = Math.min(this.drawing.columns.length, width < 640 ? MB.river.size.narrow : MB.river.size.wide);
      if (this.size !== size) this.from = Math.min(this.from, this.drawing.columns.length - size);
      this.size = size;
      this.width = width;
      this.status = MB.element("p", { class: "note river-status", role: "status" });
      this.place = MB.element("div", { class: "river-picture" });
      host.replaceChildren(...[this.windowControls(), this.place, this.status, this.player()].filter(Boolean));
      this.paint();
      host.onpointermove = (event) => event.pointerType === "mouse" && this.hover(event);
      host.onpointerleave = () => MB.untip();
      host.onclick = (event) => this.click(event);
      host.onkeydown = (event) => this.key(event);
    }

    windowControls() {
      const { columns } = this.drawing;
      if (columns.length <= this.size) return null;
      const button = (text, step) =>
        MB.element("button", { type: "button", text, onclick: () => this.shift(step * Math.max(1, this.size - 1)) });
      this.earlier = button("Earlier layers", -1);
      this.later = button("Later layers", 1);
      this.range = MB.element("span", { class: "note" });
      return MB.element("div", { class: "tools" }, this.earlier, this.range, this.later);
    }

    shift(step) {
      const from = Math.max(0, Math.min(this.drawing.columns.length - this.size, this.from + step));
      if (from === this.from) return;
      this.from = from;
      this.here = null;
      MB.untip();
      this.paint();
    }

    paint() {
      const { columns } = this.drawing;
      const tallest = Math.max(...columns.slice(this.from, this.last + 1).map(({ loads }) => loads.length));
      const height = Math.max(MB.river.size.height, tallest * 22);
      const x = (c) =>
        MB.river.size.label + ((c - this.from) * (this.width - MB.river.size.label - 70)) / Math.max(1, this.size - 1);
      this.x = x;
      this.nodes = columns.map((column, c) =>
        c >= this.from && c <= this.last ? MB.river.column(column, height) : null,
      );
      const total = height + 46;
      const svg = MB.svg("svg", {
        width: this.width,
        height: total,
        viewBox: `0 0 ${this.width} ${total}`,
        role: "img",
      });
      svg.setAttribute("aria-label", this.drawing.label);
      this.flow = this.flowOf(this.lit);
      const ribbons = MB.svg("g", { transform: "translate(0 26)" });
      for (let gap = this.from; gap < this.last; gap += 1) this.paintGap(ribbons, gap);
      const nodes = MB.svg("g", { transform: "translate(0 26)" });
      for (let c = this.from; c <= this.last; c += 1) this.paintColumn(nodes, c);
      this.over = MB.svg("g", { transform: "translate(0 26)", "pointer-events": "none" });
      svg.append(ribbons, nodes, this.over, this.legend(total - 8));
      this.place.replaceChildren(svg);
      if (this.range) {
        this.range.textContent = `Layers ${columns[this.from].name} to ${columns[this.last].name} of ${columns.length}`;
        this.earlier.disabled = this.from === 0;
        this.later.disabled = this.last + 1 === columns.length;
      }
      this.tellLit();
      this.paintPath();
    }

    flowOf(lit) {
      if (!lit) return null;
      if (this.tokens) return MB.river.paths(this.drawing, this.tokens, lit.column, lit.node);
      return MB.river.flow(this.drawing, lit.column, lit.node);
    }

    paintGap(group, gap) {
      const [x0, x1] = [this.x(gap) + MB.river.size.node, this.x(gap + 1)];
      const [from, to] = [this.nodes[gap], this.nodes[gap + 1]];
      const [bright, dull] = [MB.colour("accent"), MB.colour("muted")];
      const most = this.flow ? this.brightest(gap) : 1;
      for (const ribbon of MB.river.ribbons(this.drawing, gap, from, to)) {
        const look = MB.river.look(ribbon.lift);
        const share = this.flow ? this.flow.moves[gap][ribbon.i * to.length + ribbon.j] / most : null;
        const merged = from[ribbon.i].expert === null || to[ribbon.j].expert === null;
        const lit = [share > 0 ? bright : dull, 0.03 + 0.8 * Math.min(merged ? 0.25 : 1, share)];
        const [fill, opacity] = share === null ? [look.fill, look.opacity] : lit;
        const path = MB.svg("path", { d: MB.river.path(ribbon, x0, x1), fill, "fill-opacity": opacity.toFixed(3) });
        path.dataset.gap = gap;
        path.river = ribbon;
        group.append(path);
      }
    }

    // The largest flow of a gap between experts that stand alone: the merged ones would outshine them all.
    brightest(gap) {
      const [from, to] = [this.drawing.columns[gap], this.drawing.columns[gap + 1]];
      const alone = this.flow.moves[gap].filter((_, at) => {
        const [i, j] = [Math.floor(at / to.loads.length), at % to.loads.length];
        return from.experts[i] !== null && to.experts[j] !== null;
      });
      return Math.max(1e-9, ...alone);
    }

    paintColumn(group, c) {
      const column = this.drawing.columns[c];
      const colours = MB.riverColours(column);
      const x = this.x(c);
      const heading = {
        x: x + MB.river.size.node / 2,
        y: -10,
        "text-anchor": "middle",
        "font-size": 12,
        fill: MB.colour("fg"),
      };
      group.append(MB.svg("text", heading, c === this.from ? `layer ${column.name}` : column.name));
      this.nodes[c].forEach((node, i) => {
        const through = this.flow ? this.flow.through[c][i] : 1;
        const lit = this.lit && this.lit.column === c && this.lit.node === i;
        const box = {
          x,
          y: node.y.toFixed(1),
          width: MB.river.size.node,
          height: Math.max(1, node.height).toFixed(1),
          rx: 2,
        };
        const look = { fill: colours[i], stroke: MB.colour(lit ? "fg" : "bg"), "stroke-width": lit ? 3 : 0.5 };
        const shape = MB.svg("g", {
          class: "river-node",
          opacity: this.flow ? 0.25 + 0.75 * Math.min(1, through * 3) : 1,
        });
        shape.dataset.column = c;
        shape.dataset.node = i;
        shape.append(MB.svg("rect", { ...box, ...look }));
        const words = node.expert === null ? `other ${column.others}` : String(node.expert);
        const y = node.y + node.height / 2 + 3.5;
        const at = { x: x + MB.river.size.node + 4, y, "font-size": 10, fill: MB.colour("fg") };
        const halo = { stroke: MB.colour("bg"), "stroke-width": 2.5, "paint-order": "stroke" };
        if (node.height >= 8 || node.expert === null) shape.append(MB.svg("text", { ...at, ...halo }, words));
        group.append(shape);
      });
    }

    // What the colours of ribbons mean, in the picture, so that it is saved with it.
    legend(y) {
      const group = MB.svg("g", { "font-size": 11, fill: MB.colour("muted") });
      const words = this.flow ? [] : [1, 1.5, 2, 4];
      let x = MB.river.size.label;
      if (!this.flow) group.append(MB.svg("text", { x, y }, "ribbon, lift:"));
      if (!this.flow) x += 70;
      for (const lift of words) {
        const { fill, opacity } = MB.river.look(lift);
        const box = { x, y: y - 10, width: 22, height: 11, fill, "fill-opacity": opacity, stroke: MB.colour("line") };
        group.append(MB.svg("rect", box), MB.svg("text", { x: x + 27, y }, lift === 4 ? "4 or more" : `${lift}`));
        x += 56;
      }
      if (this.flow)
        group.append(MB.svg("text", { x, y }, "ribbon: the more opaque, the more of the lit expert's tokens"));
      return group;
    }

    nameOf({ column, node }) {
      const { name, experts, others } = this.drawing.columns[column];
      const expert = experts[node];
      return expert === null
        ? `Layer ${name}, the other ${MB.count(others, "expert")}`
        : `Layer ${name}, expert ${expert}`;
    }

    lines(place) {
      const { loads, tokens, top_k: k, n_experts: n } = this.drawing.columns[place.column];
      const load = loads[place.node];
      const lines = [
        this.nameOf(place),
        `${MB.count(load, "selection")}, ${MB.number((load * n) / tokens / k, 2)} times even`,
      ];
      if (this.drawing.columns[place.column].experts[place.node] === null) lines[1] = MB.count(load, "selection");
      const strongest = (ribbons, words, end) => {
        const best = ribbons.filter((r) => r.count >= 5).sort((a, b) => b.lift - a.lift)[0];
        if (!best) return;
        const [lift, moves] = [MB.number(best.lift, 2), MB.count(best.count, "move")];
        lines.push(`${words} ${this.nameOf(end(best)).toLowerCase()}: lift ${lift}, ${moves}`);
      };
      const { column: c, node } = place;
      if (c < this.last)
        strongest(this.ribbonsOf(c, "i", node), "Goes most beyond chance to", (r) => ({ column: c + 1, node: r.j }));
      if (c > this.from)
        strongest(this.ribbonsOf(c - 1, "j", node), "Comes most beyond chance from", (r) => ({
          column: c - 1,
          node: r.i,
        }));
      return lines;
    }

    ribbonsOf(gap, end, node) {
      return MB.river
        .ribbons(this.drawing, gap, this.nodes[gap], this.nodes[gap + 1])
        .filter((ribbon) => ribbon[end] === node);
    }

    placeOf(target) {
      const shape = target.closest?.(".river-node");
      return shape ? { column: Number(shape.dataset.column), node: Number(shape.dataset.node) } : null;
    }

    hover(event) {
      const place = this.placeOf(event.target);
      if (place) return MB.tip(this.lines(place), event.clientX, event.clientY);
      const { river } = event.target;
      if (!river) return MB.untip();
      return MB.tip(this.ribbonLines(river), event.clientX, event.clientY);
    }

    ribbonLines({ gap, i, j, count, lift, share }) {
      const [a, b] = [this.nameOf({ column: gap, node: i }), this.nameOf({ column: gap + 1, node: j })];
      const words = `${MB.count(count, "move")}, ${MB.number(100 * share, 1)}% of the first one's`;
      return [`${a} to ${b.toLowerCase()}`, words, `Lift ${MB.number(lift, 2)} (chance 1)`, this.drawing.pooled];
    }

    click(event) {
      if (event.target.closest?.("button, select, a")) return;
      const place = this.placeOf(event.target);
      if (place) this.light(place, event);
      else if (event.target.river) MB.tip(this.ribbonLines(event.target.river), event.clientX, event.clientY);
      else this.light(null);
    }

    // The same node again, or none, puts the light out.
    light(place, event = null) {
      const same = place && this.lit && this.lit.column === place.column && this.lit.node === place.node;
      this.lit = same ? null : place;
      this.here = this.lit ?? this.here;
      this.paint();
      if (this.lit && event) MB.tip(this.lines(this.lit), event.clientX, event.clientY);
      else MB.untip();
      if (this.lit) this.share(this.lit);
    }

    // Other figures may follow what is chosen here.
    share({ column, node }) {
      const { number, experts } = this.drawing.columns[column];
      if (this.drawing.run === 0 && experts[node] !== null)
        MB.select({ router: number, expert: experts[node] }, "river");
    }

    tellLit() {
      if (!this.lit) {
        const how = this.tokens ? "the true paths of its tokens in the trace" : "its paths forward and back";
        this.status.textContent = `Click an expert to light ${how}.`;
        return;
      }
      const { name, experts } = this.drawing.columns[this.lit.column];
      const expert = experts[this.lit.node];
      const how = this.tokens
        ? `the true paths of the ${MB.count(this.flow.takers, "token")} of the trace that it takes.`
        : "its moves, followed forward and back as if each forgot the one before; a trace shows true paths.";
      const card =
        expert === null ? null : document.getElementById("cards") && MB.cardId?.(this.drawing.run, name, expert);
      this.status.replaceChildren(
        `${this.nameOf(this.lit)}: ${how} `,
        ...(card ? [MB.element("a", { href: `#${card}`, text: "Its card" })] : []),
      );
    }

    key(event) {
      if (event.target !== this.host) return;
      const { column, node } = this.here ?? { column: this.from, node: -1 };
      const steps = {
        ArrowDown: [0, 1],
        ArrowUp: [0, -1],
        ArrowRight: [this.here ? 1 : 0, this.here ? 0 : 1],
        ArrowLeft: [-1, 0],
      };
      if (event.key === "Escape") return this.light(null);
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        if (this.here) this.light(this.here);
        return undefined;
      }
      if (!(event.key in steps)) return undefined;
      event.preventDefault();
      return this.walk(column + steps[event.key][0], node + steps[event.key][1]);
    }

    // Beyond the window lie the layers before or after it.
    walk(column, node) {
      const c = Math.max(0, Math.min(this.drawing.columns.length - 1, column));
      if (c > this.last) this.shift(this.size - 1);
      if (c < this.from) this.shift(1 - this.size);
      this.here = { column: c, node: Math.max(0, Math.min(this.nodes[c].length - 1, node)) };
      const lines = this.lines(this.here);
      const box = this.place.getBoundingClientRect();
      const spot = this.nodes[c][this.here.node];
      MB.tip(lines, box.left + this.x(c), box.top + 26 + spot.y);
      MB.speak(lines);
      this.paintPath();
    }
  };

  MB.riverColours = ({ experts, loads, others }) => {
    const { experts: palette, other } = MB.data.colours[MB.isDark ? "dark" : "light"];
    const counts = experts.map((expert, i) => (expert === null ? 0 : loads[i]));
    return others === undefined ? [] : MoebenchMap.coloursOf(counts, palette, other);
  };

  const rivers = new Map();
  MB.sketches.river = {
    draw: (host, drawing) => {
      if (!rivers.has(drawing.columns)) rivers.set(drawing.columns, new MB.River(drawing));
      rivers.get(drawing.columns).draw(host);
    },
    table: MB.river.table,
  };
})();
