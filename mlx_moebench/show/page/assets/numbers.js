// The numbers of a drawing: arrays as they were written, cells of heatmaps, templates filled with numbers.
"use strict";

const TYPES = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };

MB.shared = (place) => MB.data.shared[place];

// A drawing with its words in place of their numbers; `words` are the fields that many drawings have in common.
MB.readable = (drawing, words) => {
  const shared = words.filter((name) => name in drawing).map((name) => [name, MB.shared(drawing[name])]);
  return { ...drawing, ...Object.fromEntries(shared), caption: drawing.caption.map(MB.shared).join(". ") };
};

const decoded = new WeakMap();

// The rows of an array of a heatmap; in a square of pairs only what is above the diagonal was written.
MB.rows = (heat, place) => {
  const array = heat.arrays[place];
  if (!decoded.has(array)) {
    const bytes = Uint8Array.from(atob(array.data), (character) => character.charCodeAt(0));
    const numbers = new TYPES[array.type](bytes.buffer);
    decoded.set(
      array,
      heat.diagonal.length ? mirrored(numbers, array.lengths) : split(numbers, MB.lengths(heat, place)),
    );
  }
  return decoded.get(array);
};

// How many columns each row of it has.
MB.lengths = (heat, place) => {
  const { lengths } = heat.arrays[place];
  return Array.isArray(lengths) ? lengths : MB.shared(heat.rows).map(() => lengths);
};

const split = (numbers, lengths) => {
  let from = 0;
  return lengths.map((length) => {
    from += length;
    return numbers.subarray(from - length, from);
  });
};

const mirrored = (numbers, n) => {
  const rows = Array.from({ length: n }, () => new Float64Array(n).fill(NaN));
  let place = 0;
  for (let i = 0; i < n; i += 1) {
    for (let j = i + 1; j < n; j += 1) {
      rows[i][j] = numbers[place];
      rows[j][i] = numbers[place];
      place += 1;
    }
  }
  return rows;
};

// A function from row and column to a measure there, null where it is undefined.
MB.values = (heat, name) => {
  const { cells, times, ...divisors } = heat.measures[name];
  const rows = MB.rows(heat, cells);
  const [over, across] = [divisors.over, divisors.across].map((by) => (Array.isArray(by) ? by : heat.facts[by]));
  const single = heat.arrays[cells].type === "f4";
  return (row, column) => {
    const cell = rows[row]?.[column] ?? NaN;
    const value = (times * cell) / (over.length ? over[row] : 1) / (across.length ? across[column] : 1);
    if (!Number.isFinite(value)) return null;
    return single ? Number(value.toPrecision(6)) : value;
  };
};

// The same, to its interval, or its value and the reason of the row why there is none.
MB.intervals = (heat, name) => {
  const measure = heat.measures[name];
  const value = MB.values(heat, name);
  if (measure.low === null) return (row, column) => [value(row, column), null, null, heat.reasons[row] ?? null];
  const ends = [measure.low, measure.high].map((place) => {
    const rows = MB.rows(heat, place);
    const { type, over } = heat.arrays[place];
    const write = type === "f4" ? (x) => Number(x.toPrecision(6)) : (x) => x / over;
    return (row, column) => (Number.isFinite(rows[row]?.[column]) ? write(rows[row][column]) : null);
  });
  return (row, column) => {
    const [low, high] = ends.map((end) => end(row, column));
    return [value(row, column), low, high, low === null ? (heat.reasons[row] ?? null) : null];
  };
};

// A line of a tip: {name}, {name:digits} or {name:noun} are filled in by `find`, which returns words, a number or an
// interval. A line of a number that is undefined is left out, one of an interval says so.
MB.fill = (template, find, signed) => {
  let known = true;
  const write = signed ? MB.signed : MB.number;
  const line = template.replace(/\{([^{}:]+)(?::([^{}]*))?\}/g, (_, name, form) => {
    const thing = find(name);
    const digits = /^\d$/.test(form ?? "3") ? Number(form ?? 3) : null;
    const value = Array.isArray(thing) ? thing[0] : thing;
    if (typeof value === "string") return value;
    if (digits === null && value !== null) return MB.count(value, form);
    if (Array.isArray(thing)) return MB.interval(thing, digits, write);
    known = known && value !== null && value !== "";
    return MB.number(value, digits);
  });
  return known ? line : null;
};

// A number without a value says its own reason.
MB.because = (interval) =>
  MB.reason(interval) && interval[0] !== null ? [`No interval: ${MB.reason(interval)}.`] : [];
