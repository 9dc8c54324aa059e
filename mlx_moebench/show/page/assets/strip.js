// The strip of layers beside the answer: a click shows that layer in all figures, and goes to them.
"use strict";

for (const link of document.querySelectorAll(".strip a")) {
  link.addEventListener("click", () => {
    const { layer, kind } = link.dataset;
    const router = MB.routerOf?.(Number(layer), kind) ?? null;
    if (router !== null) MB.select({ router });
  });
}
