"use strict";

// Figures. On a phone they are lower, their margins narrower, and a finger scrolls the page instead of zooming.
const narrow = window.innerWidth < 640;
for (const holder of document.querySelectorAll("[data-figure]")) {
  const { data, layout } = JSON.parse(document.getElementById(holder.dataset.figure).textContent);
  if (narrow) {
    layout.margin = { ...layout.margin, l: 46, r: 8 };
    layout.font.size = 11;
    layout.height = Math.min(layout.height, 440);
    if (layout.legend2) {
      layout.legend2.visible = false;
      layout.legend.y = 1;
    }
    for (const name of ["legend", "legend2", "legend3"]) if (layout[name]) layout[name].font.size = 11;
  }
  if (window.matchMedia("(pointer: coarse)").matches) layout.dragmode = false;
  Plotly.newPlot(holder, data, layout, { responsive: true, displayModeBar: false });
}

// Tables: a click on a heading sorts by it, another click turns the order round; cells without a value go last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const body = heading.closest("table").tBodies[0];
    const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const value = (row) => row.cells[heading.cellIndex].dataset.value;
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const numbers = Number(a) - Number(b);
      return sign * (Number.isNaN(numbers) ? a.localeCompare(b) : numbers);
    };
    const rows = [...body.rows].sort((a, b) => compare(value(a), value(b)));
    body.append(...rows);
  });
}
