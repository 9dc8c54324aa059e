// The map of the last tokens of the latest request: a row a token, a column a router. Tokens have numbers and no text,
// which the server does not keep.
MB.lastTokens = (() => {
  "use strict";

  const at = (id) => document.getElementById(id);
  let [loads, drawn, map] = [[], "", null];

  // By the loads of the routers the colours are given, so that they hardly move with every token.
  const countsOf = (latest) =>
    latest.routers.map((router, number) => {
      const load = loads[number]?.load;
      if (load?.length === router.n_experts && load.every((share) => share !== null)) return load;
      const counts = new Array(router.n_experts).fill(0);
      for (const experts of latest.experts) counts[experts[number]] += 1;
      return counts;
    });

  const dataOf = (latest, ground) => {
    const several = new Set(latest.routers.map((router) => router.router)).size > 1;
    const made = latest.phases.indexOf("decode");
    return {
      name: `request ${latest.request}`,
      tokens: latest.phases.map((_, n) => `#${latest.first + n}`),
      layers: latest.routers.map((router) => `${router.layer}${several ? ` ${router.router}` : ""}`),
      experts: latest.experts,
      weights: latest.weights,
      first: latest.first,
      made,
      colours: countsOf(latest).map((counts) => MoebenchMap.coloursOf(counts, ground.experts, ground.other)),
      other: ground.other,
      against: null,
    };
  };

  const draw = (latest) => {
    const dark = MB.dark();
    const box = at("last");
    const place = map?.here ?? null;
    const chosen = map?.chosen ?? null;
    const options = { dark, tip: MB.tip, untip: MB.untip, speak: MB.speak };
    map = MoebenchMap.draw(box, dataOf(latest, MB.data.colours[dark ? "dark" : "light"]), options);
    if (chosen) map.select(chosen.layer, chosen.expert);
    if (place && place.token < latest.phases.length) map.here = place; // where the arrow keys are
    box.scrollTop = box.scrollHeight;
  };

  const show = ({ most, latest }) => {
    at("last").hidden = latest === null;
    if (latest === null) {
      at("last-note").textContent = most
        ? "No token was run yet."
        : "Not kept. A server that is started with --last-tokens 64 keeps in its memory what every router chose " +
          "for the last 64 tokens of each request, and shows it here. Texts are never kept, but choices tell much " +
          "of them.";
      return;
    }
    const now = JSON.stringify([latest, MB.dark(), at("last").clientWidth]);
    if (now === drawn) return;
    drawn = now;
    const made = latest.phases.filter((phase) => phase === "decode").length;
    at("last-note").textContent = [
      `Request ${latest.request} since the start: its last ${MB.count(latest.phases.length, "token")}, ${made} of them`,
      "generated, below the line. Colour: the first expert of each layer, the 8 busiest; all others grey. Opacity:",
      "gate weight. Tokens have numbers, for no text is kept.",
    ].join(" ");
    draw(latest);
  };

  const ask = async () => {
    const answer = await fetch("last", { cache: "no-store" });
    if (!answer.ok) throw new Error(`the server said ${answer.status}`);
    show(await answer.json());
  };

  return { ask, choose: (routers) => (loads = routers) };
})();
