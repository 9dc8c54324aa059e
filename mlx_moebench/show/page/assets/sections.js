// The sections of the page, as its data has them: notes, tables, figures.
"use strict";

MB.section = (id, heading) => {
  const title = MB.element("h2", { id: `${id}-heading`, text: heading });
  const section = MB.element("section", { id, "aria-labelledby": `${id}-heading` }, title);
  document.getElementById("figures").append(section);
  return section;
};

MB.build = ({ id, heading, choices, parts }) => {
  const section = MB.section(id, heading);
  const shared = new MB.State(choices, id);
  let figures = 0;
  const add = (parent, figure) => MB.figure(parent, figure, shared, `${id}-${(figures += 1)}`);
  if (choices.length) section.append(MB.element("div", { class: "controls" }, ...shared.controls));
  for (const part of parts) {
    if (part.note) section.append(MB.element("p", { class: "note", text: part.note }));
    else if (part.widget) MB.widgets[part.widget](section, part);
    else if (part.table) section.append(...tableParts(part.table));
    else if (part.pair) {
      const pair = section.appendChild(MB.element("div", { class: "pair" }));
      for (const figure of part.pair) add(pair, figure);
    } else add(section, part);
  }
};

const tableParts = ({ label, columns, rows, heading, note, folded, long }) => {
  const table = MB.table({ columns, rows }, 400);
  const scroll = { class: long ? "scroll long" : "scroll", tabindex: 0, role: "region", "aria-label": label };
  const parts = [MB.element("p", { class: "note", text: note }), MB.element("div", scroll, table)];
  if (heading) parts.unshift(MB.element("h3", { text: heading }));
  if (!folded) return parts;
  return [MB.element("details", {}, MB.element("summary", { text: folded }), ...parts)];
};
