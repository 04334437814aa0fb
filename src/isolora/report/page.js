"use strict";

// The theme: the reader's own choice while the page is open, else the system's; paper is always light.
const themes = JSON.parse(document.getElementById("themes").textContent);
const systemDark = window.matchMedia("(prefers-color-scheme: dark)");
const toggle = document.getElementById("theme");
const isDark = () => (document.documentElement.dataset.theme ?? (systemDark.matches ? "dark" : "light")) === "dark";

// Figures name colours by role: "@ink", "@size2/0.3". Only keys that end in "color" are read so, never text from outside.
function colour(value, roles) {
  const found = /^@([\w-]+)(?:\/([\d.]+))?$/.exec(value);
  if (!found || !roles[found[1]]) return value;
  const hex = roles[found[1]];
  if (!found[2]) return hex;
  const [red, green, blue] = [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
  return `rgba(${red},${green},${blue},${found[2]})`;
}
function coloured(value, roles, isColour = false) {
  if (Array.isArray(value)) return value.map((inner) => coloured(inner, roles, isColour));
  if (value !== null && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, coloured(inner, roles, key.endsWith("color"))]));
  return isColour && typeof value === "string" ? colour(value, roles) : value;
}

// On a phone figures are lower, their margins narrower, and a finger scrolls the page instead of zooming.
const narrow = window.innerWidth < 640;
function fitted(layout) {
  if (window.matchMedia("(pointer: coarse)").matches) layout.dragmode = false;
  if (!narrow) return layout;
  layout.margin = { ...layout.margin, l: 46, r: 20 };
  layout.font.size = 11;
  for (const name of ["legend", "legend2", "legend3"]) if (layout[name]) layout[name].font.size = 11;
  for (const note of layout.annotations ?? []) if (note.font) note.font.size = 11;
  return layout;
}

// Legends above a plot take as many rows as they need: the plot moves down under them instead of being written over.
function makeRoom(holder) {
  const above = ["legend", "legend2"].filter((name) => holder._fullLayout[name] && holder.layout[name]?.orientation === "h");
  const boxes = above.map((name) => holder.querySelector(`.${name}`)?.getBBox().height ?? 0);
  const needed = boxes.reduce((sum, height) => sum + height + 6, 8);
  const margin = holder.layout.margin;
  const plot = holder.layout.height - margin.t - margin.b;
  const update = { "margin.t": needed, height: plot + needed + margin.b };
  let bottom = 6;
  for (const [index, name] of [...above.entries()].reverse()) {
    update[`${name}.y`] = 1 + bottom / plot;
    bottom += boxes[index] + 6;
  }
  return Plotly.relayout(holder, update);
}

const figures = [...document.querySelectorAll("[data-figure]")];
async function draw(holder, roles) {
  const { data, layout } = JSON.parse(document.getElementById(holder.dataset.figure).textContent);
  const parts = [coloured(data, roles), fitted(coloured(layout, roles)), { responsive: true, displayModeBar: false }];
  await Plotly.react(holder, ...parts);
  await makeRoom(holder);
}
async function paint(dark) {
  const roles = themes[dark ? "dark" : "light"];
  toggle.textContent = dark ? "Light" : "Dark";
  toggle.setAttribute("aria-label", dark ? "Switch to the light theme" : "Switch to the dark theme");
  toggle.setAttribute("aria-pressed", String(dark));
  for (const holder of figures) await draw(holder, roles);
  document.documentElement.dataset.painted = dark ? "dark" : "light";
}
toggle.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  paint(isDark());
});
systemDark.addEventListener("change", () => paint(isDark()));
window.addEventListener("beforeprint", () => paint(false));
window.addEventListener("afterprint", () => paint(isDark()));
paint(isDark());

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
