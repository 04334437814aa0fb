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

// A fit ready to be asked: `place` holds n, d, p, u, c and the methods' and families' columns, none of them logarithms.
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
  // Integral of exp(-decay x) from 0 to beyond; growth, a decay below 0, ends after fit.grown.
  function faded(beyond, decay) {
    if (Math.abs(decay) < 1e-9) return beyond;
    const fading = decay < 0 ? Math.min(beyond, fit.grown) : beyond;
    return -Math.expm1(-decay * fading) / decay + (beyond - fading) * Math.exp(-decay * fading);
  }
  // How much lower the loss is than at the end of the curves, how well that is known, and that end: see isolora.fit.continuation.
  function beyond(logs) {
    const found = fit.continuation;
    if (!found) return { fall: 0, error: 0, seen: logs, away: 0, slope: 0 };
    const far = (end) => Object.entries(end.place).reduce((sum, [name, value]) =>
      logs[name] === undefined ? sum : sum + (/^[mf]:/.test(name) ? 100 : 1) * Math.abs(logs[name] - value), 0);
    const near = found.ends.reduce((best, end) => (far(end) < far(best) ? end : best)), step = 1e-4;
    const away = Math.max(logs.d - Math.log(near.tokens), 0), unit = faded(away, found.decay);
    const byDecay = near.slope * (faded(away, found.decay + step) - unit) / step, [slope, both, decay] = found.covariance;
    const seen = { ...logs, d: logs.d - away };
    if (logs.c !== undefined) seen.c = logs.c - away;
    if (logs.u !== undefined) seen.u = Math.min(logs.u, seen.d);
    const variance = unit * unit * (slope + near.own) + 2 * unit * byDecay * both + byDecay * byDecay * decay;
    return { fall: near.slope * unit, error: Math.sqrt(Math.max(variance, 0)), seen, away, slope: near.slope };
  }
  // The laws' average, gone on with beyond the tokens seen; how far they lie apart; where they were asked.
  function continued(logs) {
    const { fall, seen } = beyond(logs), [mean, spread] = average(seen);
    return [mean - fall, spread, seen];
  }
  // Variance of the error at a distance, in units of that at about one.
  function growth(far) {
    return far * (1 + far / fit.randomWalk);
  }
  // What errors grow by, the laws' up to the end of the curves and along the curves' slope from there.
  function drifted(logs) {
    const { error, seen, away, slope } = beyond(logs), most = Math.min(fit.drift, fit.mostAlong * slope);
    return Math.hypot(fit.drift * Math.sqrt(growth(distance(seen))), Math.max(most * Math.sqrt(growth(away)), error));
  }
  function predict(place) {
    const logs = complete(place);
    return Math.min(Math.exp(continued(logs)[0] - fit.shift * Math.min(distance(logs) / fit.near, 1)), ceiling);
  }
  // Prediction, 95 % interval and the upper end of the one-sigma interval that options are compared by.
  function judge(place) {
    const logs = complete(place), predicted = predict(place);
    const [, spread, seen] = continued(logs), centre = logLoss(own, fit.theta, seen);
    const draws = Float64Array.from(fit.draws, (theta) => logLoss(own, theta, seen)).sort();
    const edges = fit.edges.map((theta) => logLoss(own, theta, seen) - centre);
    // A share scatters relatively more the smaller it is, and its interval is on the logit scale: see isolora.fit.interval.
    const bounded = ceiling < Infinity, share = Math.min(Math.max(predicted, 1e-6), 1 - 1e-6);
    const factor = bounded ? Math.sqrt(Math.max((1 / share - 1) / (1 / fit.errorLevel - 1), 1)) : 1;
    const ends = ({ level, student, edge }) => {
      const [low, high] = draws.length ? [0.5 - level / 2, 0.5 + level / 2].map((tail) => quantile(draws, tail)) : [centre, centre];
      const below = Math.max(fit.judgedShare * Math.max(centre - low, 0), ...edges.map((gap) => -edge * gap));
      const above = Math.max(fit.judgedShare * Math.max(high - centre, 0), ...edges.map((gap) => edge * gap));
      const drift = student * drifted(logs);
      const noise = student * Math.sqrt((fit.noise * factor) ** 2 + spread ** 2), log = Math.log(predicted);
      const reach = (side) => Math.hypot(noise, Math.max(drift, side));
      if (!bounded) return [Math.exp(log - reach(below)), Math.exp(log + fit.upper * reach(above))];
      const logit = Math.log(share / (1 - share)), expit = (value) => 1 / (1 + Math.exp(-value));
      const stretch = 1 / (1 - Math.min(predicted, 0.9));
      return [Math.min(expit(logit - stretch * reach(below)), Math.exp(log - reach(below))), expit(logit + stretch * fit.upper * reach(above))];
    };
    return { predicted, interval: ends(fit.levels.interval), prudent: ends(fit.levels.prudent)[1] };
  }
  return { predict, judge };
}
