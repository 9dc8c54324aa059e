// The data of the token view: `new MoebenchTokens.Data(data)` reads those of show/tokens.py and answers what is asked.
// Routers are given by their number, tokens by their position among all that are shown.
const MoebenchTokens = (() => {
  "use strict";

  function bytes(text) {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  }

  const INTEGERS = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array };
  const UNPAIRED = 0xffff; // in place of a number of changed experts

  const integers = (text, size) => new INTEGERS[size](bytes(text).buffer);

  function halves(text) {
    const bits = integers(text, 2);
    return Float32Array.from(bits, (b) => {
      const sign = b & 0x8000 ? -1 : 1;
      const exponent = (b >> 10) & 31;
      const fraction = b & 1023;
      if (exponent === 31) return fraction ? NaN : sign * Infinity;
      return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
    });
  }

  class Data {
    constructor(data) {
      Object.assign(this, data);
      this.ranks = new Map();
      this.routers = data.routers.map((r) => ({
        ...r,
        experts: integers(r.experts, r.bytes),
        weights: halves(r.weights),
        entropy: halves(r.entropy),
        margin: halves(r.margin),
        changed: r.changed === null ? null : integers(r.changed, 2),
      }));
      let from = 0;
      this.sequences = data.sequences.map((s, number) => {
        const first = from;
        from += s.n_tokens;
        return { ...s, number, first, end: from };
      });
      this.tokens = integers(data.tokens, 4);
      this.paired = this.sequences.some((s) => s.against !== null);
      this.owners = new Uint16Array(from); // the sequence of each token
      this.later = new Uint8Array(from); // whether it is a later piece of the character that an earlier one starts
      for (const { number, first, end, continued } of this.sequences) {
        this.owners.fill(number, first, end);
        for (const position of continued) this.later[first + position] = 1;
      }
    }

    text(token) {
      return this.texts[this.tokens[token]];
    }

    sequenceOf(token) {
      return this.sequences[this.owners[token]];
    }

    // Of an expert: the busiest first choices have a colour of their own, and so has the one that was `chosen`.
    colourOf(router, expert, chosen) {
      const { first } = this.routers[router];
      if (!this.ranks.has(router)) {
        const order = [...first.keys()].filter((one) => first[one] > 0).sort((a, b) => first[b] - first[a] || a - b);
        this.ranks.set(router, new Map(order.map((one, rank) => [one, rank])));
      }
      const { experts, other, chosen: own } = this.colours.light; // of cells with text on them, on either ground
      return experts[this.ranks.get(router).get(expert)] ?? (expert === chosen ? own : other);
    }

    // The chosen expert of largest p.
    firstOf(router, token) {
      const { top_k, experts } = this.routers[router];
      return experts[token * top_k];
    }

    // The experts of a token, in descending order of p.
    chosen(router, token) {
      const { top_k, experts, weights } = this.routers[router];
      return Array.from({ length: top_k }, (_, i) => ({
        expert: experts[token * top_k + i],
        weight: weights[token * top_k + i],
      }));
    }

    // The slot in which a token has an expert; -1 where it does not choose it.
    slot(router, token, expert) {
      const { top_k, experts } = this.routers[router];
      for (let i = 0; i < top_k; i++) if (experts[token * top_k + i] === expert) return i;
      return -1;
    }

    // The tokens that choose an expert, in order.
    takers(router, expert) {
      const { top_k, experts } = this.routers[router];
      const tokens = [];
      for (let i = 0; i < experts.length; i++) if (experts[i] === expert) tokens.push(Math.floor(i / top_k));
      return tokens;
    }

    // The token of the sequence that this one's is compared with, or null.
    counterpart(token) {
      if (!this.paired) return null;
      const sequence = this.sequenceOf(token);
      if (sequence.against === null) return null;
      const other = this.sequences[sequence.against];
      const there = other.first + token - sequence.first;
      return there < other.end ? there : null;
    }

    // How many experts the counterpart does not choose; NaN without one.
    changed(router, token) {
      const { changed } = this.routers[router];
      return changed === null || changed[token] === UNPAIRED ? NaN : changed[token];
    }

    // The texts that choose an expert: how often each occurs, how often it chooses it, and where.
    words(router, expert) {
      const { top_k, weights } = this.routers[router];
      const words = new Map();
      for (const token of this.takers(router, expert)) {
        if (this.later[token]) continue;
        const id = this.tokens[token];
        if (!words.has(id)) words.set(id, { id, occurs: this.occurs[id], places: [] });
        words.get(id).places.push({ token, weight: weights[token * top_k + this.slot(router, token, expert)] });
      }
      const order = (a, b) => b.places.length - a.places.length || a.occurs - b.occurs || a.id - b.id;
      return [...words.values()].sort(order);
    }
  }

  return { Data };
})();
