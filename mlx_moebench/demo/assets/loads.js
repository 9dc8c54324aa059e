/* global element */
// Words of a cell of the loads, for whoever points at it or presses it: what a title is for a mouse that waits.
for (const kind of ["pointerover", "click"]) {
  element.addEventListener(kind, (event) => {
    const title = event.target.closest("rect")?.querySelector("title");
    const words = element.querySelector(".loads-words");
    if (title && words) words.textContent = title.textContent;
  });
}
