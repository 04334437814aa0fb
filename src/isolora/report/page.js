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
  const across = layout.xaxis; // more ticks than a phone has room for would be turned on their side
  if (across?.tickvals?.length > 6)
    for (const name of ["tickvals", "ticktext"]) across[name] = across[name].filter((_, place) => place % 2 === 0);
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
// Where the sliders stand, as a mark in the figures of tokens and of FLOPs; the frame grows to hold it.
const STEERED = { "figure-curves": (row) => row.tokens, "figure-frontier": (row) => row.flops };
function steeredMark(key, roles) {
  if (!STEERED[key] || !window.steered) return null;
  const row = window.steered.answer.row, marker = { symbol: "diamond", size: 11, color: roles.bad };
  const mark = { type: "scatter", mode: "markers", name: "steered", legend: "legend3", marker, x: [null], y: [null] };
  if (!row) return mark;
  const [below, above] = [[row.predicted - row.interval[0]], [row.interval[1] - row.predicted]];
  const spread = { type: "data", array: above, arrayminus: below, color: roles.bad, thickness: 1.5, width: 5 };
  return { ...mark, x: [STEERED[key](row)], y: [row.predicted], error_y: spread };
}
function framed({ range: [low, high] }, value) {
  const log = Math.log10(value), room = 0.04 * (high - low);
  return value === null ? [low, high] : [Math.min(low, log - room), Math.max(high, log + room)];
}
const original = new Map(); // the axes as they are without the mark
async function moveMark(holder, roles) {
  const mark = steeredMark(holder.dataset.figure, roles), { xaxis, yaxis } = original.get(holder) ?? {};
  if (!mark || !xaxis) return;
  const place = holder.data.findIndex((trace) => trace.name === "steered");
  const layout = { "xaxis.range": framed(xaxis, mark.x[0]), "yaxis.range": framed(yaxis, mark.y[0]) };
  await Plotly.update(holder, { x: [mark.x], y: [mark.y], error_y: [mark.error_y ?? { visible: false }] }, layout, [place]);
}
async function draw(holder, roles) {
  const { data, layout } = JSON.parse(document.getElementById(holder.dataset.figure).textContent);
  const drawn = fitted(coloured(layout, roles)), mark = steeredMark(holder.dataset.figure, roles);
  original.set(holder, { xaxis: structuredClone(layout.xaxis), yaxis: structuredClone(layout.yaxis) });
  const traces = [...coloured(data, roles), ...(mark ? [mark] : [])];
  await Plotly.react(holder, traces, drawn, { responsive: true, displayModeBar: false });
  if (mark) await moveMark(holder, roles);
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

// The marks follow the sliders, at most once a frame.
let waiting = false;
document.addEventListener("steered", () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(async () => {
    waiting = false;
    for (const holder of figures.filter((each) => original.has(each))) await moveMark(holder, themes[isDark() ? "dark" : "light"]);
  });
});

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
