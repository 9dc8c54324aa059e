// Builds the page: sections, contents, theme, print.
"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  // A page on disk may be refused storage: it then follows the system each time.
  const stored = (value) => { try { if (value) localStorage.setItem("mlx-moebench-theme", value); return localStorage.getItem("mlx-moebench-theme"); } catch { return null; } };
  const told = () => { MB.isDark = MB.dark(); button.setAttribute("aria-pressed", String(MB.isDark)); };
  const redrawAll = () => MB.redraws.forEach((figure) => figure.refresh());
  const before = stored();
  if (before === "dark" || before === "light") root.dataset.theme = before;
  told();
  button.addEventListener("click", () => { root.dataset.theme = MB.isDark ? "light" : "dark"; stored(root.dataset.theme); told(); redrawAll(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { told(); redrawAll(); });

  for (const build of [MB.load, MB.layers, MB.domains, MB.differences, MB.coactivation, MB.dead, MB.uncertainty, MB.trainings]) build();
  if (MB.data.tokens) {
    const section = MB.section("tokens", "Single tokens and their experts", null);
    MoebenchTokens.mount(section.appendChild(MB.el("div")), MB.data.tokens);
  }
  for (const heading of document.querySelectorAll("main h2, footer h2")) {
    document.getElementById("contents").append(MB.el("li", {}, MB.el("a", { href: `#${heading.parentElement.id}`, text: heading.textContent.split(":")[0] })));
  }

  let width = innerWidth;
  let waiting = null;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(redrawAll, 120);
  });
  for (const moved of ["wheel", "touchmove"]) addEventListener(moved, MB.untip, { passive: true });
  // Paper is light, and shows every figure and where it comes from.
  let chosen;
  const opened = [];
  addEventListener("beforeprint", () => {
    chosen = root.dataset.theme;
    root.dataset.theme = "light";
    MB.isDark = false;
    for (const details of document.querySelectorAll("#provenance details:not([open])")) {
      details.open = true;
      opened.push(details);
    }
    for (const figure of MB.redraws) { figure.drawNow(); figure.redraw(); }
  });
  addEventListener("afterprint", () => {
    for (const details of opened.splice(0)) details.open = false;
    if (chosen) root.dataset.theme = chosen;
    else delete root.dataset.theme;
    told();
    redrawAll();
  });
})();
