// Builds the page: sections, contents, theme, print.
"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const KEY = "mlx-moebench-theme";

  // A page on disk may be refused storage: it then follows the system each time.
  const stored = (theme) => {
    try {
      if (theme) localStorage.setItem(KEY, theme);
      return localStorage.getItem(KEY);
    } catch {
      return null;
    }
  };
  const follow = () => {
    MB.isDark = MB.dark();
    button.setAttribute("aria-pressed", String(MB.isDark));
  };
  // Where they are is asked of all before the first is drawn, or the page would be laid out anew for each.
  const redrawAll = () => {
    const near = MB.redraws.map((figure) => figure.near?.() ?? true);
    MB.redraws.forEach((figure, i) => figure.refresh(near[i]));
  };

  const startTheme = () => {
    const before = stored();
    if (before === "dark" || before === "light") root.dataset.theme = before;
    follow();
    button.addEventListener("click", () => {
      root.dataset.theme = MB.isDark ? "light" : "dark";
      stored(root.dataset.theme);
      follow();
      redrawAll();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      follow();
      redrawAll();
    });
  };

  const buildSections = () => {
    MB.data.sections.forEach(MB.build);
    if (MB.data.tokens) {
      const section = MB.section("tokens", "Single tokens and their experts");
      MoebenchTokens.mount(section.appendChild(MB.element("div")), MB.data.tokens);
      MB.adopt(section, "tokens");
    }
    for (const heading of document.querySelectorAll("main h2, footer h2")) {
      const text = heading.textContent.split(":")[0];
      const link = MB.element("a", { href: `#${heading.parentElement.id}`, text });
      document.getElementById("contents").append(MB.element("li", {}, link));
    }
  };

  // Links within the page keep what was chosen; back and forward, and an address put in by hand, bring it back.
  const watchAddress = () => {
    document.addEventListener("click", (event) => {
      const link = event.target.closest?.('a[href^="#"]');
      if (!link || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      const place = link.getAttribute("href").slice(1).split("?")[0];
      MB.remember(place);
      MB.lookAt(place);
    });
    addEventListener("hashchange", MB.restore);
    MB.restore();
  };

  const watchWindow = () => {
    let width = innerWidth;
    let waiting = null;
    addEventListener("resize", () => {
      if (innerWidth === width) return;
      width = innerWidth;
      clearTimeout(waiting);
      waiting = setTimeout(redrawAll, 120);
    });
    for (const moved of ["wheel", "touchmove"]) addEventListener(moved, MB.untip, { passive: true });
  };

  // Paper is light, and shows every figure, drawn as wide as A4 and Letter have room, and where it comes from.
  const PAPER = 700;
  const watchPrinter = () => {
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
      MB.sheet = PAPER;
      for (const figure of MB.redraws) {
        figure.drawNow();
        figure.redraw();
      }
    });
    addEventListener("afterprint", () => {
      MB.sheet = null;
      for (const details of opened.splice(0)) details.open = false;
      if (chosen) root.dataset.theme = chosen;
      else delete root.dataset.theme;
      follow();
      redrawAll();
    });
  };

  startTheme();
  buildSections();
  MB.watchPins();
  MB.watchSelection();
  watchAddress();
  watchWindow();
  watchPrinter();
})();
