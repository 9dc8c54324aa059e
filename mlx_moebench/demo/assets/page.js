// The demo's own part of the page: the map with its player and the token view, from what the server gives: one JSON
// object at the end, or a line for every token while a text grows. `MoebenchDemo.mount(element, props, watch, colours)`
globalThis.MoebenchDemo = (() => {
  "use strict";

  let paper = false; // which is white
  const dark = () => !paper && Boolean(document.querySelector("body.dark, .gradio-container.dark"));

  // The sides of the map from a `MoebenchTokens.Data`: what goes on with a sequence is joined to it.
  const sidesOf = (data) => {
    const sides = [];
    for (const sequence of data.sequences) {
      const goesOn = sequence.after !== null && sequence.after !== undefined;
      if (!goesOn)
        sides.push({ name: sequence.name, tokens: [], experts: [], weights: [], of: [], made: sequence.n_tokens });
      const side = sides[sides.length - 1];
      for (let token = sequence.first; token < sequence.end; token += 1) {
        const first = data.routers.map((_, router) => data.chosen(router, token)[0]);
        side.tokens.push(data.text(token));
        side.experts.push(first.map((one) => one.expert));
        side.weights.push(first.map((one) => one.weight));
        side.of.push(token);
      }
    }
    return sides.slice(0, 2);
  };

  const namesOf = (routers) => {
    const several = new Set(routers.map((one) => one.router)).size > 1;
    return routers.map((one) => `${one.layer}${several ? ` ${one.router}` : ""}`);
  };

  const whole = (data) => {
    const sides = sidesOf(data);
    return {
      sides,
      layers: namesOf(data.routers),
      n_experts: data.routers.map((one) => one.n_experts),
      chosen: (side, token, router) => data.chosen(router, sides[side].of[token]),
      growing: false,
    };
  };

  // A text that grows: lines are only ever added, until a first line begins another text.
  class Growing {
    take(value) {
      if (this.read === undefined || !value.startsWith(this.read)) {
        const end = value.indexOf("\n") + 1;
        const { growing, routers } = JSON.parse(value.slice(0, end));
        this.read = value.slice(0, end);
        this.sides = growing.map((name) => ({ name, tokens: [], experts: [], weights: [], made: 0 }));
        Object.assign(this, {
          layers: namesOf(routers),
          n_experts: routers.map((one) => one.n_experts),
          growing: true,
        });
      }
      const end = value.lastIndexOf("\n") + 1;
      for (const line of value.slice(this.read.length, end).split("\n").filter(Boolean)) {
        const [number, text, made, experts, weights] = JSON.parse(line);
        const side = this.sides[number];
        side.tokens.push(text);
        side.experts.push(experts);
        side.weights.push(weights);
        if (!made) side.made = side.tokens.length;
      }
      this.read = value.slice(0, end);
      const begun = this.sides.filter((side) => side.tokens.length);
      return { ...this, sides: begun };
    }
  }

  const mount = (element, props, watch, colours) => {
    const [map, place] = [".token-map", ".token-view"].map((name) => element.querySelector(name));
    let [tokens, view, growing] = [null, {}, new Growing()];
    let link = MoebenchLink.place(location.hash);
    const player = new MoebenchPlayer(map, {
      colours,
      dark,
      choose: (chosen) => chosen && tokens?.show(chosen.router, chosen.expert),
    });
    demo.player = player;
    for (const kind of ["beforeprint", "afterprint"]) {
      addEventListener(kind, () => {
        paper = kind === "beforeprint";
        player.redraw();
      });
    }
    // Which layer, colour and expert are shown stays the same when other text is typed.
    element.addEventListener("moebench-view", (event) => (view = event.detail));
    const draw = () => {
      const { value } = props;
      element.classList.toggle("nothing", !value);
      if (!value) {
        place.replaceChildren();
        player.clear();
        return;
      }
      if (value.startsWith('{"growing"')) {
        place.replaceChildren();
        player.show(growing.take(value));
        return;
      }
      growing = new Growing();
      const data = JSON.parse(value);
      const { router, colour, expert } = view;
      tokens = MoebenchTokens.mount(place, { ...data, view: { router, colour, expert } });
      player.show(whole(tokens.data));
      if (link && MoebenchLink.says(location.hash)) {
        player.go(link);
        const there = player.at; // what of the link there is
        if (there.router !== undefined) tokens.show(there.router, there.expert ?? null);
      }
      link = null;
    };
    watch("value", draw);
    draw();
  };

  // Copy the link to what is shown, and say so, or why not; there: what the widgets hold.
  const share = async (there, offered) => {
    const said = document.querySelector("#shared");
    const { address, why } = MoebenchLink.link(location, there, offered, demo.player?.at ?? {});
    said.replaceChildren(why ?? "");
    if (why) return;
    try {
      await navigator.clipboard.writeText(address);
      said.textContent = "The link is copied. Whoever opens it at this demo sees this text; the link holds all of it.";
    } catch {
      const box = document.createElement("input");
      box.readOnly = true;
      box.value = address;
      box.setAttribute("aria-label", "Link to what is shown");
      said.replaceChildren("This browser lets the page copy nothing; copy the link from here: ", box);
      box.select();
    }
  };

  const demo = { mount, share, player: null };
  return demo;
})();
