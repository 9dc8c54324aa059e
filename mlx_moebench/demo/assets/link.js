// What a link to the demo says, after its #, which no server is sent: the texts, what is shown of them, and the place
// that was chosen. Models and modes are numbers of those that the page offers, so that no path is in a link.
const MoebenchLink = (() => {
  "use strict";

  const MOST = 2000; // characters of the texts of a link: longer ones are cut by mail and chat

  const parts = (hash) => new URLSearchParams(hash.replace(/^#/, ""));

  const whole = (text) => (/^\d{1,5}$/.test(text ?? "") ? Number(text) : null);

  // Whether it opens the demo on a text.
  const says = (hash) => parts(hash).has("text");

  const within = (text) => [...text].slice(0, MOST).join("");

  // The widgets [model, mode, text, text B] of a link, or those there where it is silent. offered: {models, modes}
  const widgets = (hash, there, offered) => {
    if (!says(hash)) return there;
    const said = parts(hash);
    const [model, mode] = ["model", "show"].map((key) => whole(said.get(key)));
    return [
      offered.models[model] ?? there[0],
      offered.modes[mode] ?? there[1],
      within(said.get("text")),
      said.has("b") ? within(said.get("b")) : there[3],
    ];
  };

  // {token, router, expert} that a link names, each null where it does not.
  const place = (hash) => {
    const said = parts(hash);
    const [token, router, expert] = ["token", "layer", "expert"].map((key) => whole(said.get(key)));
    return { token, router, expert };
  };

  // The link to what is shown, or why there is none, in one sentence: {address} or {why}.
  const link = (location, there, offered, at) => {
    const [model, mode, text, other] = there;
    const [numberOfModel, numberOfMode] = [offered.models.indexOf(model), offered.modes.indexOf(mode)];
    const second = mode === "two texts" ? other : "";
    const length = [...text].length + [...second].length;
    if (length > MOST) {
      const [has, most] = [length, MOST].map((n) => n.toLocaleString("en"));
      return {
        why: `No link: the text has ${has} characters, and a link takes at most ${most}. Shorten it to share it.`,
      };
    }
    const said = new URLSearchParams({ text });
    if (second) said.set("b", second);
    if (numberOfMode > 0) said.set("show", numberOfMode);
    if (numberOfModel > 0) said.set("model", numberOfModel);
    for (const [key, value] of Object.entries({ layer: at.router, token: at.token, expert: at.expert })) {
      if (Number.isInteger(value)) said.set(key, value);
    }
    return { address: `${location.origin}${location.pathname}#${said}` };
  };

  return { says, widgets, place, link };
})();
