"use strict";

// The fitted law at a place, as isolora.fit.Fit computes it: prediction and interval. Formulas come as data (isolora.report.formula).
const OPERATIONS = {
  add: (a, b) => a + b,
  subtract: (a, b) => a - b,
  multiply: (a, b) => a * b,
  divide: (a, b) => a / b,
  negative: (a) => -a,
  minimum: Math.min,
  maximum: Math.max,
  logaddexp: (a, b) => Math.max(a, b) + Math.log1p(Math.exp(-Math.abs(a - b))),
  exp: Math.exp,
  log: Math.log,
  log1p: Math.log1p,
  expm1: Math.expm1,
  sqrt: Math.sqrt,
  square: (a) => a * a,
  power: Math.pow,
};

// Nodes become functions of the parameters and of the logarithms of the columns, once.
function compiled(node) {
  if (typeof node === "number") return () => node;
  const [name, ...rest] = node;
  if (name === "theta") return (theta) => theta[rest[0]];
  if (name === "column") return (_, logs) => logs[rest[0]];
  const [a, b] = rest.map(compiled), operation = OPERATIONS[name];
  return b ? (theta, logs) => operation(a(theta, logs), b(theta, logs)) : (theta, logs) => operation(a(theta, logs));
}

// Sum of coefficients times the exponentials of the terms, as a logarithm.
function logLoss(terms, theta, logs) {
  let sum = 0;
  for (let k = 0; k < terms.length; k++) sum += theta[k] * Math.exp(terms[k](theta, logs));
  return Math.log(sum);
}

function quantile(sorted, share) {
  const place = share * (sorted.length - 1), below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

// A fit ready to be asked: `place` holds n, d, p, u, c and the methods' columns, none of them logarithms.
function evaluator(fit) {
  const laws = Object.fromEntries(Object.entries(fit.formulas).map(([name, nodes]) => [name, nodes.map(compiled)]));
  const own = laws[fit.law], ceiling = fit.ceiling ?? Infinity;

  function complete(place) {
    const whole = { u: place.d, ...place };
    if (whole.c === undefined && fit.price) whole.c = fit.price * (whole.n ?? 1) * whole.d;
    return Object.fromEntries(Object.entries(whole).map(([name, value]) => [name, Math.log(value)]));
  }
  // How far beyond the fitted ranges, in logarithms: in compute upwards, or over the other columns if that is farther.
  function distance(logs) {
    let squares = 0, compute = 0;
    for (const [name, [low, high]] of Object.entries(fit.ranges)) {
      if (logs[name] === undefined) continue;
      const above = Math.max(logs[name] - Math.log(high), 0);
      if (name === "c") compute = above;
      else squares += Math.max(above, Math.log(low) - logs[name]) ** 2;
    }
    return Math.max(compute, Math.sqrt(squares));
  }
  function average(logs) {
    if (!fit.members.length) return [logLoss(own, fit.theta, logs), 0];
    const losses = fit.members.map((member) => logLoss(laws[member.law], member.theta, logs));
    const mean = losses.reduce((sum, loss, k) => sum + fit.members[k].weight * loss, 0);
    return [mean, Math.sqrt(losses.reduce((sum, loss, k) => sum + fit.members[k].weight * (loss - mean) ** 2, 0))];
  }
  // How much lower runs would be that go on as straight as they ended: see isolora.fit.straight.
  function straighter(logs, student) {
    if (!fit.ending || ceiling < Infinity || logs.d === undefined) return 0;
    const end = Math.log(fit.ranges.d[1]), beyond = Math.max(logs.d - end, 0), shorter = { ...logs, d: Math.min(logs.d, end) };
    if (logs.u !== undefined) shorter.u = Math.min(logs.u, shorter.d);
    if (logs.c !== undefined) shorter.c = logs.c - beyond;
    const fall = average(shorter)[0] - average(logs)[0];
    return Math.max((fit.ending[0] + student * fit.ending[1]) * beyond - fall, 0);
  }
  function predict(place) {
    const logs = complete(place);
    return Math.min(Math.exp(average(logs)[0] - fit.shift * Math.min(distance(logs) / fit.near, 1)), ceiling);
  }
  // Prediction, 95 % interval and the upper end of the one-sigma interval that options are compared by.
  function judge(place) {
    const logs = complete(place), predicted = predict(place), away = distance(logs);
    const spread = average(logs)[1], centre = logLoss(own, fit.theta, logs);
    const draws = Float64Array.from(fit.draws, (theta) => logLoss(own, theta, logs)).sort();
    const edges = fit.edges.map((theta) => logLoss(own, theta, logs) - centre);
    // A share scatters relatively more the smaller it is, and its interval is on the logit scale: see isolora.fit.bounded.
    const bounded = ceiling < Infinity, share = Math.min(Math.max(predicted, 1e-6), 1 - 1e-6);
    const factor = bounded ? Math.sqrt(Math.max((1 / share - 1) / (1 / fit.errorLevel - 1), 1)) : 1;
    const ends = ({ level, student, edge }) => {
      const [low, high] = draws.length ? [0.5 - level / 2, 0.5 + level / 2].map((tail) => quantile(draws, tail)) : [centre, centre];
      const below = Math.max(fit.judgedShare * Math.max(centre - low, 0), ...edges.map((gap) => -edge * gap));
      const above = Math.max(fit.judgedShare * Math.max(high - centre, 0), ...edges.map((gap) => edge * gap));
      const drift = student * fit.drift * Math.sqrt(away * (1 + away / fit.randomWalk));
      const noise = student * Math.sqrt((fit.noise * factor) ** 2 + spread ** 2), log = Math.log(predicted);
      const reach = (side) => Math.hypot(noise, Math.max(drift, side));
      if (!bounded) return [Math.exp(log - Math.hypot(reach(below), straighter(logs, student))), Math.exp(log + reach(above))];
      const logit = Math.log(share / (1 - share)), expit = (value) => 1 / (1 + Math.exp(-value));
      const stretch = 1 / (1 - Math.min(predicted, 0.9));
      return [Math.min(expit(logit - stretch * reach(below)), Math.exp(log - reach(below))), expit(logit + stretch * reach(above))];
    };
    return { predicted, interval: ends(fit.levels.interval), prudent: ends(fit.levels.prudent)[1] };
  }
  return { predict, judge };
}
