// Values under the pointer, the finger or the arrow keys. A tap, a click or Enter pins them: they stay, with a button
// that copies them, until the next one elsewhere or Escape.
"use strict";

let pin = null; // {host, box, place, figure}

MB.copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Refused, or not there on this address: the way that pages had before.
    const area = MB.element("textarea", { class: "unseen", readonly: true, "aria-hidden": "true", tabindex: -1 });
    area.value = text;
    const before = document.activeElement;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    before?.focus?.({ preventScroll: true });
    return done;
  }
};

// A button says for a moment what it did.
MB.said = (button, words) => {
  const before = button.textContent;
  button.textContent = words;
  MB.speak([words]);
  setTimeout(() => (button.textContent = before), 1800);
};

// write: what is copied when it is pressed.
MB.copyButton = (attributes, write) => {
  const onclick = async () => MB.said(button, (await MB.copy(write())) ? "Copied" : "Not allowed to copy");
  const button = MB.element("button", { type: "button", ...attributes, onclick });
  return button;
};

MB.unpin = () => {
  if (!pin) return false;
  const { box, figure, host } = pin;
  if (box.contains(document.activeElement)) host.focus({ preventScroll: true });
  box.remove();
  figure.mark(null, "pinned");
  pin = null;
  return true;
};

// What is drawn anew takes its values along.
MB.release = (host) => {
  MB.untip();
  if (pin?.host === host) MB.unpin();
};

const samePlace = (a, b) => a !== null && b !== null && a.every((part, i) => part === b[i]);

// The box of a pin stands behind its figure in the page, so that Tab leads from one to the other.
const pinBox = (host, figure, lines) => {
  const words = lines.map((line) => MB.element("div", { text: line }));
  const write = () => [figure.title, ...lines].filter(Boolean).map(MB.plain).join("\n");
  const copy = MB.copyButton({ text: "Copy", "aria-label": "Copy these values" }, write);
  const close = MB.element("button", { type: "button", text: "Close", onclick: () => MB.unpin() });
  const buttons = MB.element("div", { class: "tools" }, copy, close);
  const box = MB.element("div", { class: "tip pin", role: "group", "aria-label": "Pinned values" }, ...words, buttons);
  host.after(box);
  return box;
};

const pinAt = (host, figure, place) => {
  const lines = figure.lines(place);
  MB.unpin();
  MB.untip();
  figure.mark(null, "pointed");
  figure.mark(place, "pinned");
  const box = pinBox(host, figure, lines);
  pin = { host, box, place, figure, write: () => lines.map(MB.plain).join("\n") };
  const { x, y } = figure.where(place);
  MB.beside(box, x, y);
  box.style.left = `${parseFloat(box.style.left) + scrollX}px`;
  box.style.top = `${parseFloat(box.style.top) + scrollY}px`;
  MB.speak([...lines, "Pinned"]);
  const picked = figure.pick(place);
  if (picked) MB.select(picked, figure.id, "pin");
};

// Lets a reader go about a drawing. figure:
//   under(x, y)        the place (a list of numbers) at a point of the window, null where there is none
//   step(at, key)      the place that a key leads to, null for a key that leads nowhere
//   lines(place)       what is said of it
//   where(place)       its {x, y} in the window
//   mark(place, how)   shows it as "pointed" or "pinned", or for null no longer
//   reveal(place)      scrolls it into view
//   pick(place)        {router, expert} that it is, for `MB.select`, or null
//   choose(selection)  shows what is selected in all figures
//   title, id          of the figure
MB.walk = (host, figure) => {
  if (MB.sheet) return;
  let at = null;
  const leave = () => {
    figure.mark(null, "pointed");
    MB.untip();
  };
  const point = (place, spoken) => {
    if (place === null) return leave();
    at = place;
    figure.mark(place, "pointed");
    if (spoken) figure.reveal(place);
    if (spoken) MB.speak(figure.lines(place));
    if (pin?.host === host && samePlace(pin.place, place)) return MB.untip();
    const { x, y } = figure.where(place);
    return MB.tip(figure.lines(place), x, y);
  };
  const toggle = (place) => {
    if (place === null || (pin?.host === host && samePlace(pin.place, place))) return MB.unpin();
    at = place;
    return pinAt(host, figure, place);
  };
  host.onpointermove = (event) => event.pointerType !== "touch" && point(figure.under(event.clientX, event.clientY));
  host.onpointerleave = (event) => event.pointerType !== "touch" && leave();
  host.onclick = (event) => toggle(figure.under(event.clientX, event.clientY));
  host.onblur = leave;
  host.onkeydown = (event) => {
    if (event.key === "Escape") leave();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const enters = (event.key === "Enter" || event.key === " ") && at !== null;
    const place = enters ? at : figure.step(at, event.key);
    if (place === null) return;
    event.preventDefault();
    if (enters) toggle(place);
    else point(place, true);
  };
  host.chosen = () => figure.choose(MB.selection);
  host.chosen();
};

// A drawing that is not there cannot be gone about.
MB.still = (host) => {
  for (const handler of ["onpointermove", "onpointerleave", "onclick", "onblur", "onkeydown"]) host[handler] = null;
  host.chosen = null;
};

// Whatever lies outside of figures lets a pin go; Escape does, and the next one what is selected in all figures.
MB.watchPins = () => {
  document.addEventListener("click", (event) => {
    if (pin && !event.target.closest?.(".plot, .pin")) MB.unpin();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !MB.unpin()) MB.select({ router: null, expert: null });
  });
  document.addEventListener("copy", (event) => {
    if (!pin || !getSelection().isCollapsed || document.activeElement !== pin.host) return;
    event.clipboardData.setData("text/plain", pin.write());
    event.preventDefault();
  });
  MB.onSelect(() => {
    for (const host of document.querySelectorAll(".plot")) host.chosen?.();
  });
};

// A line at the foot of the window, while something is selected: what, a link to it, and a way back.
MB.watchSelection = () => {
  const words = MB.element("span");
  const link = MB.copyButton({ text: "Copy link" }, () => location.href);
  const clear = () => MB.select({ router: null, expert: null });
  const buttons = [link, MB.element("button", { type: "button", text: "Clear", onclick: clear })];
  const bar = MB.element("aside", { class: "chosen", "aria-label": "Selected in all figures", hidden: true });
  bar.append(words, ...buttons);
  document.body.append(bar);
  MB.onSelect(({ router, expert }) => {
    bar.hidden = router === null && expert === null;
    const layer = router === null ? null : `layer ${MB.data.routers[router].label}`;
    const parts = [layer, expert === null ? null : `expert ${expert}`].filter(Boolean).join(", ");
    words.textContent = parts && `${parts[0].toUpperCase()}${parts.slice(1)} selected`;
  });
};
