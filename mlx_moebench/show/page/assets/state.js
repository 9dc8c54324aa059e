// What a reader has chosen, kept in the address, so that a link opens the page as it is seen; light or dark is each
// reader's own. The address ends in #PLACE?KEY=VALUE&...: PLACE is the id of a section or figure, and a key that is at
// its default is left out.
"use strict";

// What all figures show: the number of a router (of `MB.data.routers`) and of an expert; null where none is chosen.
MB.selection = { router: null, expert: null };
const selectListeners = [];

// callback(selection) is called whenever it has changed.
MB.onSelect = (callback) => selectListeners.push(callback);

const wholeBelow = (number, end) => (Number.isInteger(number) && number >= 0 && number < end ? number : null);

// Choose a router, an expert or both: MB.select({ router, expert }), null for none. What is left out stays, but for an
// expert that the new router does not have. place: the id of the figure in which it was done. True if it changed.
MB.select = (change, place = null, kind = "select") => {
  const wanted = { ...MB.selection, ...change };
  const router = wholeBelow(wanted.router, MB.data.routers.length);
  const most = router === null ? MB.mostExperts() : MB.data.routers[router].experts;
  const expert = wholeBelow(wanted.expert, most || Infinity);
  if (router === MB.selection.router && expert === MB.selection.expert) return false;
  Object.assign(MB.selection, { router, expert });
  for (const callback of selectListeners) callback(MB.selection);
  MB.remember(place, kind);
  return true;
};

MB.mostExperts = () => MB.data.routers.reduce((most, router) => Math.max(most, router.experts), 0);

// The number of a router by its layer and kind, null where there is none.
MB.routerOf = (layer, kind) => {
  const place = MB.data.routers.findIndex((router) => router.layer === layer && router.router === kind);
  return place < 0 ? null : place;
};

// Something to keep in the address. read() returns a text, "" for the default; write(text) takes it up again, and does
// nothing where it cannot be.
const keptValues = new Map();
MB.keep = (key, read, write) => keptValues.set(key, { read, write });

const selectedPart = (name) => [
  () => (MB.selection[name] === null ? "" : String(MB.selection[name])),
  (text) => MB.select({ [name]: /^\d+$/.test(text) ? Number(text) : null }),
];
MB.keep("router", ...selectedPart("router"));
MB.keep("expert", ...selectedPart("expert"));

let addressPlace = ""; // the section or figure that the address names
let isRestoring = false;
let lastChange = null; // the kind of the change before

const partsOf = (hash) => {
  const [place, ...rest] = hash.replace(/^#/, "").split("?");
  let name = place;
  try {
    name = decodeURIComponent(place);
  } catch {
    // not encoded: as it is
  }
  return { place: name, values: new URLSearchParams(rest.join("?")) };
};

// What follows the # for a place, with all that is chosen.
MB.addressOf = (place) => {
  const values = new URLSearchParams();
  for (const [key, { read }] of keptValues) if (read()) values.set(key, read());
  const query = String(values);
  return `#${encodeURIComponent(place)}${query && `?${query}`}`;
};

// A step of the browser's history. Values looked at one after the other are one step.
MB.remember = (place = null, kind = "choice") => {
  if (isRestoring) return;
  addressPlace = place ?? addressPlace;
  const address = MB.addressOf(addressPlace);
  if (address === (location.hash || "#")) return;
  const again = kind === "pin" && lastChange === "pin";
  lastChange = kind;
  try {
    history[again ? "replaceState" : "pushState"](null, "", address);
  } catch {
    // A frame without an address of its own, or too many steps at once: the page works, its address stays behind.
  }
};

MB.restore = () => {
  const { place, values } = partsOf(location.hash);
  isRestoring = true;
  for (const [key, { read, write }] of keptValues) if (read() !== (values.get(key) ?? "")) write(values.get(key) ?? "");
  isRestoring = false;
  lastChange = null;
  if (place === addressPlace) return;
  addressPlace = place;
  MB.lookAt(place);
};

// Scrolls to a section or figure.
MB.lookAt = (place) => {
  const element = place ? document.getElementById(place) : null;
  if (!element) return;
  element.drawNow?.();
  element.scrollIntoView();
  if (element.hasAttribute("tabindex")) element.focus({ preventScroll: true });
};

// What was chosen in the lists of a figure or a section, and who draws anew when it changes. id: of that figure or
// section; without one it is not kept in the address. The list of layers is one for all figures.
MB.State = class {
  constructor(choices, id = null) {
    this.id = id;
    this.chosen = Object.fromEntries(choices.map((choice) => [choice.name, choice.value || choice.options[0][0]]));
    this.first = { ...this.chosen };
    this.listeners = [];
    this.selects = {};
    this.controls = choices.map((choice) => this.control(choice));
    if (id === null) return;
    for (const { name } of choices) if (name !== "router") this.keep(name);
    if ("router" in this.chosen) MB.onSelect(({ router }) => this.take("router", String(router ?? this.first.router)));
  }

  keep(name) {
    const read = () => (this.chosen[name] === this.first[name] ? "" : this.chosen[name]);
    MB.keep(`${this.id}.${name}`, read, (value) => this.take(name, value || this.first[name]));
  }

  // Chooses a value, if the list has it, as if a reader had.
  take(name, value) {
    const select = this.selects[name];
    if (this.chosen[name] === value || ![...select.options].some((option) => option.value === value)) return;
    select.value = value;
    this.chosen[name] = value;
    for (const listener of this.listeners) listener();
  }

  control({ name, words, options }) {
    MB.State.selects = (MB.State.selects ?? 0) + 1;
    const id = `choice${MB.State.selects}`;
    const onchange = () => {
      this.take(name, select.value);
      if (name === "router" && this.id !== null) MB.select({ router: Number(select.value) }, this.id);
      else if (this.id !== null) MB.remember(this.id);
    };
    const select = MB.element("select", { id, onchange });
    for (const [value, text] of options) {
      select.append(MB.element("option", { value, text, selected: value === this.chosen[name] }));
    }
    this.selects[name] = select;
    return MB.element("span", { class: "control" }, MB.element("label", { for: id, text: words }), select);
  }
};

// The lists of a part of the page that has its own, kept in the address like the others.
MB.adopt = (host, id) => {
  [...host.querySelectorAll("select")].forEach((select, number) => {
    const { value: first } = select;
    const take = (value) => {
      if (select.value === value || ![...select.options].some((option) => option.value === value)) return;
      select.value = value;
      select.dispatchEvent(new Event("change"));
    };
    if (select.id.endsWith("-router")) {
      MB.onSelect(({ router }) => take(String(router ?? first)));
      select.addEventListener("change", () => MB.select({ router: Number(select.value) }, id));
      return;
    }
    const read = () => (select.value === first ? "" : select.value);
    MB.keep(`${id}.${number}`, read, (value) => take(value || first));
    select.addEventListener("change", () => MB.remember(id));
  });
};
