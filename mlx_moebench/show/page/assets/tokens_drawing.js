// What the token view shows, as elements: functions that keep nothing. data: a `MoebenchTokens.Data`; router: a number.
// Every text reaches the page through textContent alone; nothing here makes HTML of strings.
Object.assign(
  MoebenchTokens,
  (() => {
    "use strict";

    const CONTEXT = 8; // tokens on either side of one that is shown in its context
    const LISTED = 20; // rows of a list
    const SHORT = /^[ -~]{0,24}$/; // what fits on every screen, and need not be cut
    const STEPS = 500; // of the scale, finer than an eye tells apart
    const COLOURS = {
      expert: "first expert",
      entropy: "entropy, nats",
      margin: "selection margin",
      changed: "changed experts",
    };
    const SPACES = { " ": "␣", "\n": "⏎", "\r": "\\r", "\t": "⇥", "\u00a0": "⍽" };
    const MARKS = Object.values(SPACES);
    const UNSEEN = /[\p{Cc}\p{Cf}\p{Zs}\p{Zl}\p{Zp}\p{Cs}\p{Co}]/u;
    const JOINERS = "\u200c\u200d"; // of Persian and of emoji: seen between other characters, unseen alone

    function make(tag, properties = {}, ...children) {
      const element = document.createElement(tag);
      for (const [key, value] of Object.entries(properties)) {
        if (key === "className" || key === "textContent" || key === "id" || key === "value") element[key] = value;
        else if (value !== undefined && value !== null) element.setAttribute(key, value);
      }
      element.append(...children);
      return element;
    }

    const span = (className, textContent) => make("span", { className, textContent });
    const muted = (text) => span("mt-muted", text);

    const { format: grouped } = new Intl.NumberFormat("en"); // made once: toLocaleString makes one for each number
    const plural = (n, noun) => `${grouped(n)} ${noun}${n === 1 ? "" : "s"}`;

    // A text as something that can be seen: {text, strange} pieces, where strange ones stand for what cannot be.
    // running: part of a line that is read, so that spaces stay spaces.
    function visible(text, running) {
      if (/^[!-~]+$/.test(text) && text.length <= 80) return [{ text, strange: false }]; // nothing to look for in most
      if (text === "") return running ? [] : [{ text: "∅", strange: true }];
      const pieces = [];
      const characters = [...text].slice(0, 80);
      characters.forEach((character, i) => {
        const joins = JOINERS.includes(character) && characters.length > 1;
        const hidden = character === "\ufffd" || (UNSEEN.test(character) && !joins);
        if (/\p{M}/u.test(character) && i === 0) pieces.push({ text: "◌" + character, strange: false });
        else if (running && character === " ") pieces.push({ text: " ", strange: false });
        else if (hidden) pieces.push({ text: stand(character), strange: true });
        else pieces.push({ text: character, strange: false });
      });
      if ([...text].length > 80) pieces.push({ text: "…", strange: true });
      return pieces;
    }

    function stand(character) {
      const code = character.codePointAt(0);
      if (SPACES[character]) return SPACES[character];
      if (code < 32 || code === 127) return "\\x" + code.toString(16).padStart(2, "0");
      if (code === 0xfffd) return "�";
      return "U+" + code.toString(16).toUpperCase().padStart(4, "0");
    }

    // A name of others inside a sentence, which its direction does not turn around.
    const named = (name) => fill(make("bdi"), name, true);

    const seen = (text, running = false) =>
      visible(text, running)
        .map((piece) => piece.text)
        .join("");

    function fill(element, text, running = false) {
      for (const piece of visible(text, running)) {
        const className = MARKS.includes(piece.text) ? "mt-space" : "mt-strange"; // marks may be faint, codes are read
        element.append(piece.strange ? span(className, piece.text) : piece.text);
      }
      return element;
    }

    // Three figures, and the exact zero as it is.
    function figure(value) {
      if (!Number.isFinite(value)) return "not defined";
      if (value === 0) return "0";
      return Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
    }

    function rgb(hex) {
      return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    }

    // The sequential map of the page, of a share of its length.
    function sequential(data, share) {
      const stops = data.colours.sequential;
      const x = Math.min(1, Math.max(0, share)) * (stops.length - 1);
      const i = Math.min(stops.length - 2, Math.floor(x));
      const [a, b] = [rgb(stops[i][1]), rgb(stops[i + 1][1])];
      return a.map((value, k) => Math.round(value + (b[k] - value) * (x - i)));
    }

    // The style of a text on this colour: black or white, whichever can be read.
    function styleOf(colour) {
      const light = colour.map((c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
      const luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2];
      return `background-color: rgb(${colour.join(",")}); color: ${luminance > 0.179 ? "#000" : "#fff"}`;
    }

    // The ends of the scale of a colour that is a number.
    function range(data, router, colour) {
      const { max_entropy, top_k, margin } = data.routers[router];
      if (colour === "entropy") return [0, max_entropy];
      if (colour === "changed") return [0, top_k];
      return [0, margin.reduce((most, x) => (x > most ? x : most), 0)];
    }

    // A function from a token to its style, "" where its colour is not defined. Made once for all tokens, since styles
    // are worked out once for each expert or step of the scale. chosen: an expert, or null.
    function styles(data, router, colour, chosen) {
      const known = new Map();
      const style = (key, colourOf) => known.get(key) ?? known.set(key, styleOf(colourOf())).get(key);
      if (colour === "expert") {
        return (token) => {
          const expert = data.firstOf(router, token);
          return style(expert, () => rgb(data.colourOf(router, expert, chosen)));
        };
      }
      const [low, high] = range(data, router, colour);
      return (token) => {
        const value = colour === "changed" ? data.changed(router, token) : data.routers[router][colour][token];
        if (!Number.isFinite(value)) return "";
        const step = high > low ? Math.round((STEPS * (value - low)) / (high - low)) : 0;
        return style(step, () => sequential(data, step / STEPS));
      };
    }

    // What the colours mean, as the children of an element.
    function scale(data, router, colour) {
      const { n_experts, top_k, margin } = data.routers[router];
      if (colour === "expert") {
        const few = n_experts > 8 ? " The 8 that are first most often have a colour; choose any other below." : "";
        return [`Colour: the expert of largest probability, of ${n_experts}; a token uses ${top_k}.${few}`];
      }
      if (colour === "margin" && !margin.some(Number.isFinite)) {
        return ["No selection margin: every expert is chosen, and none is left over."];
      }
      const [low, high] = range(data, router, colour);
      const bar = make("span", { className: "mt-bar", "aria-hidden": "true" });
      const stops = data.colours.sequential.map((stop) => stop[1]).join(", ");
      bar.style.backgroundImage = `linear-gradient(to right, ${stops})`;
      const end = colour === "entropy" ? "; the right end is ln E" : "";
      return [`${figure(low)} `, bar, ` ${figure(high)}  ${COLOURS[colour]}${end}`];
    }

    // A token and everything known of it, in words.
    function sentence(data, router, token) {
      const experts = data.chosen(router, token).map((c) => `${c.expert} (weight ${figure(c.weight)})`);
      const margin = data.routers[router].margin[token];
      const later = data.later[token] ? "later piece of " : "";
      const changed = data.changed(router, token);
      return (
        `${later}${seen(data.text(token))}: experts ${experts.join(", ")}; ` +
        `entropy ${figure(data.routers[router].entropy[token])} nats; selection margin ` +
        (Number.isFinite(margin) ? figure(margin) : "not defined: all experts are chosen") +
        (Number.isFinite(changed) ? `; ${plural(changed, "expert")} changed` : "")
      );
    }

    // The same for a reader who points at it, as elements.
    function details(data, router, token) {
      const { margin, entropy, max_entropy } = data.routers[router];
      const sequence = data.sequenceOf(token);
      const heading = make("div", {}, fill(make("b", { className: "mt-piece" }), data.text(token)));
      const place = sequence.start + token - sequence.first;
      const name = make("bdi", { className: "mt-muted mt-piece" }, ...named(sequence.name).childNodes);
      heading.append(muted(` token ${place} of `), name);
      if (data.later[token]) heading.append(muted(", a later piece of this character"));
      const there = data.counterpart(token);
      const experts = (t) =>
        data
          .chosen(router, t)
          .map((c) => `${c.expert} (${figure(c.weight)})`)
          .join("  ");
      const rows = [["experts (weight)", experts(token)]];
      if (there !== null) rows.push([["in ", named(data.sequences[sequence.against].name)], experts(there)]);
      rows.push(["entropy", `${figure(entropy[token])} nats of at most ${figure(max_entropy)}`]);
      const left = Number.isFinite(margin[token]) ? figure(margin[token]) : "not defined: every expert is chosen";
      rows.push(["selection margin", left]);
      const list = make("dl");
      for (const [quantity, value] of rows) {
        list.append(make("div", {}, make("dt", {}, ...[quantity].flat(), ": "), make("dd", { textContent: value })));
      }
      return [heading, list];
    }

    // A token, without what depends on the router and the colour.
    function tokenElement(data, token) {
      const element = make("span", { className: "mt-token", role: "option", tabindex: "-1", "aria-selected": "false" });
      if (!SHORT.test(data.text(token))) element.classList.add("mt-long");
      element.append(data.later[token] ? span("mt-space", "⋯") : fill(span("mt-text", ""), data.text(token)));
      element.append(span("mt-number", ""));
      element.dataset.token = token;
      return element;
    }

    // What of a token depends on the router.
    function label(element, data, router) {
      const token = Number(element.dataset.token);
      element.lastChild.textContent = data.firstOf(router, token);
      element.setAttribute("aria-label", sentence(data, router, token));
    }

    // router: of `Data.routers`; tokens: how many are shown; colour: hex.
    function expertButton(expert, router, tokens, colour) {
      const all = router.chosen[expert];
      const swatch = make("span", { className: "mt-swatch", "aria-hidden": "true" });
      swatch.style.cssText = styleOf(rgb(colour));
      const button = make("button", { type: "button" });
      // What is seen is part of the button's name, so that it can be called by voice; the rest describes it.
      button.append(swatch, span("mt-said", "expert "), make("b", { textContent: String(expert) }), ` ${grouped(all)}`);
      const chosen = `chosen by ${plural(all, "token")} (${((100 * all) / tokens).toFixed(0)}%)`;
      button.title = `expert ${expert}: ${chosen}, first choice of ${router.first[expert]}`;
      button.dataset.expert = expert;
      return button;
    }

    // words: of `Data.words`. pieces: tokens that choose it and are none of them. pressed: the id of the one that is
    // chosen, or null. press: is called with the id of one pressed.
    function table(data, words, pieces, pressed, press) {
      const head = make("tr");
      const names = ["token", "choose it", "of", "share"];
      head.append(...names.map((textContent) => make("th", { scope: "col", textContent })));
      const rows = words.slice(0, LISTED).map((word) => {
        const state = String(pressed === word.id);
        const button = make("button", { type: "button", className: "mt-word", "aria-pressed": state });
        fill(button, data.texts[word.id]);
        button.addEventListener("click", () => press(word.id));
        const share = ((100 * word.places.length) / word.occurs).toFixed(0);
        const cells = [word.places.length, word.occurs, `${share}%`].map((n) =>
          typeof n === "number" ? grouped(n) : n,
        );
        return make("tr", {}, make("td", {}, button), ...cells.map((textContent) => make("td", { textContent })));
      });
      const more = words.length - rows.length;
      const left = more > 0 ? `; ${plural(more, "other text")} left out` : "";
      const parts = pieces ? ` Not here: ${plural(pieces, "later piece")} of characters.` : "";
      const order = `Over all sequences, by how often they choose it, then by share${left}.${parts}`;
      const caption = make("caption", { textContent: `${order} Press one to see only it in context.` });
      return make("table", {}, caption, make("thead", {}, head), make("tbody", {}, ...rows));
    }

    // The places of words among their neighbours, those of largest weight first.
    function contexts(data, words) {
      const every = words.flatMap((word) => word.places).sort((a, b) => b.weight - a.weight || a.token - b.token);
      const items = every.slice(0, LISTED).map(({ token, weight }) => {
        const sequence = data.sequenceOf(token);
        const line = make("span", { dir: "auto" });
        for (let i = Math.max(sequence.first, token - CONTEXT); i < Math.min(sequence.end, token + CONTEXT + 1); i++) {
          if (data.later[i]) continue;
          line.append(fill(make(i === token ? "mark" : "span", { className: "mt-piece" }), data.text(i), true));
        }
        return make("li", {}, muted(`${weight.toFixed(3)}  `), line, fill(span("mt-where", ""), sequence.name, true));
      });
      const shown = `${items.length} of ${grouped(every.length)}`;
      const caption = muted(`In context, largest gate weight first: ${shown}.`);
      const list = make("ol", { tabindex: "0", "aria-label": "In context" }, ...items); // it scrolls, by keys too
      return make("div", { className: "mt-contexts" }, caption, list);
    }

    const elements = { contexts, details, expertButton, make, muted, named, scale, table, tokenElement };
    return { COLOURS, label, plural, seen, styles, ...elements };
  })(),
);
