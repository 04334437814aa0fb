"use strict";

// What to train, as isolora.plan decides it, from the same options, limits and measured points. `asked` is
// {amount, unit: "flops" or "seconds", price, examples, memory, forget, serve}; null where a limit is not set, serve in tokens.
function planner(data) {
  const { fit, options, rules, points, smallest, nearestRows } = data;
  const { predict, judge } = evaluator(fit);
  const missing = (value) => value === null || value === undefined;
  const spaced = (first, last, count) =>
    Array.from({ length: count }, (_, k) =>
      k === 0 ? first : k === count - 1 ? last : Math.exp(Math.log(first) + (k / (count - 1)) * (Math.log(last) - Math.log(first))));

  const priceOf = (option, unit) => (unit === "flops" ? option.flops_per_token : option.seconds_per_token);
  // What the budget buys after serving: 2 FLOPs a weight of the merged base for each token served.
  function serving(option, asked, unit) {
    if (!asked.serve) return 0;
    const flops = 2 * (option.model_parameters ?? option.body_parameters ?? NaN) * asked.serve;
    return unit === "flops" ? flops : (flops * option.seconds_per_token) / option.flops_per_token;
  }
  function tokensFor(option, asked) {
    const price = priceOf(option, asked.unit);
    return missing(price) ? NaN : (asked.amount - serving(option, asked, asked.unit)) / price;
  }
  const uniqueTokens = (option, examples) =>
    missing(examples) || missing(option.tokens_per_example) ? Infinity : examples * option.tokens_per_example;
  // The learning rate of the runs on about so many examples.
  const rateFor = (option, examples) => missing(examples) || !option.rates.length ? option.learning_rate
    : option.rates.reduce((a, b) => Math.abs(Math.log(b[0] / examples)) < Math.abs(Math.log(a[0] / examples)) ? b : a)[1];
  function place(option, tokens, unique) {
    const found = { d: tokens, u: Math.min(tokens, unique), ...option.columns };
    if (!missing(option.flops_per_token)) found.c = option.flops_per_token * tokens;
    return found;
  }
  function forgotten(option, tokens) {
    const known = option.forgetting;
    if (known.length < 2) return known.length ? known[0][1] : NaN;
    const at = Math.log(tokens), logs = known.map(([count]) => Math.log(count));
    const last = known.length - 1;
    if (at <= logs[0]) return known[0][1];
    if (at > logs[last]) {
      const slope = Math.max((known[last][1] - known[last - 1][1]) / Math.max(logs[last] - logs[last - 1], 1e-9), 0);
      return known[last][1] + slope * (at - logs[last]);
    }
    const k = logs.findIndex((log) => at <= log);
    return known[k - 1][1] + ((known[k][1] - known[k - 1][1]) * (at - logs[k - 1])) / (logs[k] - logs[k - 1]);
  }

  // Whether an option is known to fit the memory, where one is set.
  function fits(option, asked) {
    return missing(asked.memory) || (!missing(option.peak_memory_bytes) && option.peak_memory_bytes <= asked.memory);
  }

  // Tokens that an option may be trained on; 0 where it is left out.
  function allowedTokens(option, asked) {
    const least = rules.below * smallest;
    let tokens = tokensFor(option, asked);
    if (option.rising || !(tokens >= least)) return 0;
    if (!missing(asked.examples) && missing(option.tokens_per_example)) return 0;
    tokens = Math.min(tokens, mostTokens(option, asked));
    return tokens < least && !missing(asked.forget) ? 0 : tokens;
  }
  // The most tokens that an option may be trained on, whatever the budget; 0 where it always forgets too much.
  function mostTokens(option, asked) {
    const tokens = Math.min(option.passes_limit * uniqueTokens(option, asked.examples), rules.farthest * option.largest_tokens);
    return missing(asked.forget) ? tokens : withinForgetting(option, tokens, asked.forget);
  }
  // Between two points forgetting is a line in log tokens.
  function withinForgetting(option, tokens, limit) {
    if (!(forgotten(option, tokens) > limit)) return tokens;
    let above = tokens;
    for (const below of option.forgetting.map(([at]) => at).filter((at) => at < tokens).reverse()) {
      const lost = forgotten(option, below);
      if (lost <= limit) return below * (above / below) ** ((limit - lost) / (forgotten(option, above) - lost));
      above = below;
    }
    return 0;
  }
  // The law's lowest loss up to so many tokens: all of them, but where the loss rises again with repeats.
  function bestTokens(option, tokens, asked) {
    const unique = uniqueTokens(option, asked.examples);
    if (!rules.repeats || tokens <= unique) return tokens;
    const tried = spaced(Math.max(Math.min(unique, tokens / 2), rules.below * smallest), tokens, rules.grid);
    const losses = tried.map((count) => predict(place(option, count, unique)));
    return tried[losses.indexOf(Math.min(...losses))];
  }
  function row(option, tokens, asked) {
    const unique = uniqueTokens(option, asked.examples);
    const seconds = missing(option.seconds_per_token) ? null : tokens * option.seconds_per_token;
    const needed = missing(option.tokens_per_example) ? null : Math.ceil(tokens / option.tokens_per_example);
    return {
      option, tokens, seconds, learningRate: rateFor(option, asked.examples), ...judge(place(option, tokens, unique)),
      flops: missing(option.flops_per_token) ? null : tokens * option.flops_per_token,
      examples: needed === null ? asked.examples : missing(asked.examples) ? needed : Math.min(needed, asked.examples),
      epochs: Math.max(1, tokens / unique),
      money: missing(asked.price) || seconds === null ? null : (seconds / 3600) * asked.price,
      stoppedEarly: tokens < 0.99 * tokensFor(option, asked),
    };
  }
  // Lowest prudent loss; then, of that model and method, the smallest rank that the law cannot tell from the best.
  function choose(rows) {
    const best = rows.reduce((a, b) => (b.prudent < a.prudent ? b : a));
    const alike = rows.filter(({ option }) => option.model === best.option.model && option.method === best.option.method);
    const lowest = Math.min(...alike.map((each) => each.predicted));
    const equal = alike.filter((each) => each.predicted <= lowest * (1 + rules.tie));
    return equal.reduce((a, b) => (b.option.rank - a.option.rank || b.prudent - a.prudent) < 0 ? b : a);
  }

  // The lowest measured loss within the budget and the limits; null where there is none.
  function bestMeasured(asked) {
    const cost = points[asked.unit];
    if (!cost) return null;
    let best = null;
    for (let k = 0; k < points.loss.length; k++) {
      if (cost[k] === null || cost[k] + served(k, asked) > asked.amount * 1.001 || !keeps(k, asked)) continue;
      if (best === null || points.loss[k] < points.loss[best]) best = k;
    }
    return best === null ? null : point(best);
  }
  // What serving takes with a measured point's base.
  function served(k, asked) {
    if (!asked.serve) return 0;
    const flops = 2 * (points.model_parameters?.[k] ?? points.body_parameters?.[k]) * asked.serve;
    return asked.unit === "flops" ? flops : (flops * points.seconds[k]) / points.flops[k];
  }
  // Whether a measured point keeps to the limits.
  function keeps(k, asked) {
    const over = (name, limit) => !missing(limit) && points[name] && points[name][k] !== null && points[name][k] > limit;
    if (!missing(asked.memory) && points.peak_memory_bytes && !fits({ peak_memory_bytes: points.peak_memory_bytes[k] }, asked)) return false;
    return !over("unique_examples", asked.examples) && !over("forgetting", asked.forget);
  }
  // The measured point that was at the goal for the least FLOPs or seconds; null where none was.
  function firstMeasured(goal, asked, unit) {
    if (!points[unit]) return null;
    let first = null;
    for (let k = 0; k < points.loss.length; k++) {
      if (points.loss[k] === null || points.loss[k] > goal || !(points.tokens[k] > 0) || points[unit][k] === null || !keeps(k, asked)) continue;
      if (first === null || points[unit][k] < points[unit][first]) first = k;
    }
    return first === null ? null : point(first);
  }
  const point = (k) => Object.fromEntries(Object.keys(points).map((name) => [name, points[name][k]]));

  // The measured point closest in log size, log trainable parameters and log tokens, of the option's method.
  function nearest(option, tokens) {
    let best = null, least = Infinity;
    for (const k of nearestRows) {
      if (option.method && points.method && points.method[k] !== option.method) continue;
      let distance = Math.log(points.tokens[k] / tokens) ** 2;
      for (const name of ["body_parameters", "trainable_parameters"]) {
        if (!points[name] || missing(option[name])) continue;
        const square = missing(points[name][k]) ? 0 : Math.log(points[name][k] / option[name]) ** 2;
        if (Number.isFinite(square)) distance += square;
      }
      if (distance < least) [best, least] = [k, distance];
    }
    return best === null ? null : point(best);
  }
  // Runs on the way from what was measured to the budget, of the options followed farthest.
  function nextRuns(fitting, asked) {
    const far = (option) => option.largest_flops ?? option.largest_tokens;
    const runs = [...fitting].sort((a, b) => far(b) - far(a)).slice(0, rules.mostNext).map((option) => {
      const price = priceOf(option, asked.unit);
      const factor = Math.max(asked.amount / price / option.largest_tokens, 1e-12);
      return { option, tokens: option.largest_tokens * (factor > 1 ? Math.min(Math.sqrt(factor), rules.nextStep) : factor) };
    });
    return runs.filter(({ option, tokens }) => tokens >= rules.leastShare * option.smallest_tokens).sort((a, b) => a.tokens - b.tokens);
  }

  // {row, rows, nearest, next} or {refused, measured, next}; `refused` names the reason.
  function plan(asked) {
    const fitting = options.filter((option) => fits(option, asked));
    const next = fitting.length ? nextRuns(fitting, asked) : [];
    if (!fitting.length) return { refused: "memory", measured: null, next };
    const rows = fitting.flatMap((option) => {
      const tokens = allowedTokens(option, asked);
      return tokens ? [row(option, bestTokens(option, tokens, asked), asked)] : [];
    });
    const measured = bestMeasured(asked);
    if (!rows.length) return { refused: "budget", measured, next };
    if (rows.every(({ option, tokens }) => tokens >= rules.farthest * option.largest_tokens)) return { refused: "far", measured, next };
    const chosen = choose(rows);
    const largest = Math.max(...fitting.map((option) => option.largest_flops ?? 0));
    const [low, high] = chosen.interval;
    const widest = missing(fit.ceiling) ? rules.widest * chosen.predicted : rules.widestBounded;
    if (high - low > widest) return { refused: "wide", measured, next };
    if (measured && !asked.serve && measured.loss < chosen.predicted * (1 - rules.tie)) return { refused: "beaten", measured, next };
    return { row: chosen, rows, nearest: nearest(chosen.option, chosen.tokens), next, factor: largest ? chosen.flops / largest : null };
  }
  return { plan, place, uniqueTokens, spaced, predict, judge, fits, mostTokens, serving, firstMeasured };
}
