// Asks /routing every second and draws what it says. Names come from the server and only ever become textContent.
"use strict";
(() => {
  const EVERY = 1000;
  const LABEL = 90;
  const at = (id) => document.getElementById(id);
  const shown = { routers: [], updates: 0, paused: false, chosen: false };
  const dark = matchMedia("(prefers-color-scheme: dark)");

  const nameOf = (router) => `layer ${router.layer}${router.router === "mlp" ? "" : ` ${router.router}`}`;

  // Below even in proportion, above it on a logarithmic scale up to a load in one expert alone.
  const place = (load, experts) => {
    const times = load * experts;
    return times < 1 ? times - 1 : Math.log(times) / Math.log(Math.max(2, experts));
  };

  const cellSize = (columns) => {
    const room = Math.max(200, at("heat").clientWidth - LABEL);
    return Math.max(3, Math.min(28, Math.floor(room / columns)));
  };

  const drawHeat = () => {
    const { routers } = shown;
    const heat = at("heat");
    if (!routers.length) {
      heat.replaceChildren();
      return;
    }
    const columns = Math.max(...routers.map((router) => router.n_experts));
    const [cell, row] = [cellSize(columns), 16];
    const [width, height] = [LABEL + cell * columns, row * routers.length];
    const ratio = Math.min(3, Math.max(1, devicePixelRatio || 1), Math.sqrt(16e6 / (width * height)));
    const canvas = heat.querySelector("canvas") ?? MB.element("canvas", { "aria-hidden": "true" });
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    routers.forEach((router, number) => {
      context.fillStyle = MB.colour("fg");
      context.fillText(nameOf(router), 0, (number + 0.5) * row, LABEL - 6);
      router.load.forEach((load, expert) => {
        context.fillStyle = load === null ? MB.colour("absent") : MB.diverging(place(load, router.n_experts));
        context.fillRect(LABEL + expert * cell, number * row, cell - (cell > 4 ? 1 : 0), row - 1);
      });
    });
    if (!canvas.parentElement) heat.replaceChildren(canvas);
    canvas.moebench = { cell, row };
  };

  const pointAt = (event) => {
    const canvas = event.target;
    if (!canvas.moebench) return;
    const box = canvas.getBoundingClientRect();
    const router = shown.routers[Math.floor((event.clientY - box.top) / canvas.moebench.row)];
    const expert = Math.floor((event.clientX - box.left - LABEL) / canvas.moebench.cell);
    if (!router || expert < 0 || expert >= router.n_experts || router.load[expert] === null) {
      MB.untip();
      return;
    }
    const share = router.load[expert];
    const words = `${MB.number(100 * share, 2)}% of the selections, ${MB.number(share * router.n_experts, 2)} x even`;
    MB.tip([`${nameOf(router)}, expert ${expert}`, words], event.clientX, event.clientY);
  };

  const cell = (text) => MB.element("td", { class: "number", text });
  const drawTable = () => {
    const rows = shown.routers.map((router) =>
      MB.element(
        "tr",
        {},
        MB.element("th", { scope: "row", text: nameOf(router) }),
        cell(router.tokens.toLocaleString("en")),
        cell(MB.number(router.entropy)),
        cell(router.busiest_expert === null ? "none yet" : String(router.busiest_expert)),
        cell(router.top_share === null ? "none yet" : `${MB.number(100 * router.top_share, 1)}%`),
        cell(router.tokens ? `${router.dead_experts} of ${router.n_experts}` : "none yet"),
      ),
    );
    at("rows").replaceChildren(...rows);
  };

  const drawCautions = (model) => {
    const said = [];
    if (model && !model.recorded) said.push(`Its routing is not recorded: ${model.reason}`);
    for (const lost of model?.not_recorded ?? []) said.push(`${MB.count(lost.forwards, "forward")}: ${lost.reason}`);
    at("cautions").replaceChildren(...said.map((text) => MB.element("li", { text })));
    at("cautions").hidden = !said.length;
  };

  const stateOf = (answer, part) => {
    if (!answer.model) return "No model is loaded yet.";
    if (!part) return "No such token was run yet.";
    const tokens = MB.count(part.tokens, "token");
    return part.seconds === undefined ? `${tokens} since the start.` : `${tokens} in ${MB.number(part.seconds, 1)} s.`;
  };

  // The first answer with tokens decides which are shown, until someone chooses.
  const choosePhase = (answer) => {
    if (shown.chosen || answer.model === null) return;
    const tokens = answer.model.tokens;
    const most = ["decode", "prefill", "unsplit"].find((phase) => tokens[phase]);
    if (most) at("phase").value = most;
  };

  const show = (answer) => {
    const [phase, over] = [at("phase").value, at("over").value];
    const part = answer.phases[phase]?.[over];
    at("model").textContent = answer.model?.name ?? "no model yet";
    at("state").textContent = stateOf(answer, part);
    at("state").classList.remove("lost");
    shown.routers = part?.routers ?? [];
    shown.updates += 1;
    document.body.dataset.updates = String(shown.updates);
    MB.isDark = dark.matches;
    drawCautions(answer.model);
    drawHeat();
    drawTable();
    MB.lastTokens.choose(shown.routers);
    choosePhase(answer);
  };

  const ask = async () => {
    const query = new URLSearchParams({ phase: at("phase").value, over: at("over").value });
    try {
      const answer = await fetch(`../routing?${query}`, { cache: "no-store" });
      if (!answer.ok) throw new Error(`the server said ${answer.status}`);
      show(await answer.json());
      await MB.lastTokens.ask();
    } catch (error) {
      at("state").textContent = `No answer (${error.message}); what is below is old.`;
      at("state").classList.add("lost");
    }
  };

  // One question at a time: a slow server is not asked again before it has answered.
  const go = async () => {
    if (!shown.paused && !document.hidden) await ask();
    setTimeout(go, EVERY);
  };

  for (const id of ["phase", "over"]) {
    at(id).addEventListener("change", () => {
      shown.chosen = true;
      ask();
    });
  }
  at("pause").addEventListener("click", () => {
    shown.paused = !shown.paused;
    at("pause").setAttribute("aria-pressed", String(shown.paused));
    at("pause").textContent = shown.paused ? "Go on" : "Pause";
  });
  at("heat").addEventListener("pointermove", pointAt);
  at("heat").addEventListener("pointerleave", MB.untip);
  addEventListener("resize", drawHeat);
  go();
})();
