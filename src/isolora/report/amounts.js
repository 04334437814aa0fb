"use strict";

// Amounts, times and choices in words, as the sliders and what stands beside them write them.
const number = (value) => value >= 1e5 ? value.toPrecision(3).replace(/\.?0*e\+?/, "e") : value >= 100 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(3));
const LARGE = [[1e12, "trillion"], [1e9, "billion"], [1e6, "million"]];
const count = (value) => {
  const found = LARGE.find(([size]) => value >= 0.9995 * size);
  return found ? `${+(value / found[0]).toPrecision(3)} ${found[1]}` : Math.round(value).toLocaleString("en");
};
const duration = (value) => value >= 172800 ? `${(value / 86400).toFixed(1)} days` : value >= 5400 ? `${(value / 3600).toFixed(1)} h` : value >= 90 ? `${(value / 60).toFixed(1)} min` : `${+value.toPrecision(3)} s`;
// An entry of a list of facts: what a time costs too, where somebody has said what an hour does.
const spentWords = (seconds, price) => price === null ? ["time", duration(seconds)] : ["time and money", `${duration(seconds)}, ${((seconds / 3600) * price).toPrecision(3)} at ${price} an hour`];
const called = ({ model, method, rank }) => [model, [method, rank ? `rank ${rank}` : ""].filter(Boolean).join(" of ")].filter(Boolean).join(", ");
// A target as a person reads it: a score in place of its error, whose interval then turns around.
const toldAs = (target) => {
  const score = target.startsWith("1 - "), value = (error) => (score ? 1 - error : error);
  return { name: score ? target.slice(4) : target, value, ends: (interval) => interval.map(value).sort((a, b) => a - b) };
};
const element = (name, text, kind = "") => Object.assign(document.createElement(name), { textContent: text, className: kind });
