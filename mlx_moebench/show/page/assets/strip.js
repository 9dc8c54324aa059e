// The strip of layers beside the answer: a click shows that layer in all figures, and goes to them.
"use strict";

for (const link of document.querySelectorAll(".strip a")) {
  const { layer, kind } = link.dataset;
  link.addEventListener("click", () => MB.select({ router: MB.routerOf(Number(layer), kind) }));
}
