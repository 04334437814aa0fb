"use strict";

// What it takes to reach a loss or a score, as isolora.plan.reach finds it: the cheapest option whose prediction gets there.
// `goal` is in the law's own words, an error where the law is of 1 - score; `asked` as for the planner.
function reacher(data, { place, uniqueTokens, spaced, predict, judge, fits, mostTokens, serving, firstMeasured }) {
  const { options, rules, smallest } = data, kept = new Map();
  // Tokens from the fewest that a plan may have to the farthest supported, with the prediction and, once asked for, the interval's ends.
  function curve(option, asked) {
    const key = `${options.indexOf(option)}/${asked.examples}/${asked.forget}`;
    if (!kept.has(key)) {
      const unique = uniqueTokens(option, asked.examples);
      const tokens = spaced(rules.below * smallest, mostTokens(option, asked), rules.reachGrid);
      kept.set(key, { tokens, unique, predicted: tokens.map((count) => predict(place(option, count, unique))) });
    }
    return kept.get(key);
  }
  function ends(option, asked) {
    const found = curve(option, asked);
    found.ends ??= found.tokens.map((count) => judge(place(option, count, found.unique)).interval);
    return [0, 1].map((side) => found.ends.map((interval) => interval[side]));
  }
  // The fewest tokens at which a curve is at the goal, between two grid points by the logarithm of tokens; null where it is not.
  function first({ tokens }, losses, goal) {
    const at = losses.findIndex((loss) => loss <= goal);
    if (at <= 0) return at < 0 ? null : tokens[0];
    const share = Math.min(Math.max((losses[at - 1] - goal) / Math.max(losses[at - 1] - losses[at], 1e-12), 0), 1);
    return Math.exp(Math.log(tokens[at - 1]) + share * Math.log(tokens[at] / tokens[at - 1]));
  }
  // The fewest tokens from which on a curve is at the goal all the way to `until`: far below what was measured an interval is wide.
  function since({ tokens }, losses, goal, until) {
    const above = tokens.findLastIndex((count, k) => count < until && losses[k] > goal);
    return above < 0 ? tokens[0] : Math.min(first({ tokens: tokens.slice(above) }, losses.slice(above), goal) ?? until, until);
  }
  function fitting(asked) {
    const told = (option) => asked.examples === null || option.tokens_per_example !== null;
    return options.filter((option) =>
      !option.rising && fits(option, asked) && told(option) && mostTokens(option, asked) >= rules.below * smallest);
  }
  // The lowest loss that any option is predicted to reach within the evidence.
  function lowest(asked) {
    return Math.min(...fitting(asked).map((option) => Math.min(...curve(option, asked).predicted)));
  }
  function reach(goal, asked) {
    const unit = options.some((option) => option.flops_per_token !== null) ? "flops" : "seconds";
    const spent = ({ option, tokens }) => (option.flops_per_token ?? option.seconds_per_token) * tokens;
    const cost = (way) => spent(way) + serving(way.option, asked, way.option.flops_per_token === null ? "seconds" : "flops");
    const ways = fitting(asked).map((option) => ({ option, tokens: first(curve(option, asked), curve(option, asked).predicted, goal) }));
    const able = ways.filter((way) => way.tokens !== null && Number.isFinite(cost(way)));
    if (!able.length) return null;
    const { option, tokens } = able.reduce((best, way) => (cost(way) < cost(best) ? way : best));
    const [low, high] = ends(option, asked);
    const interval = [since(curve(option, asked), low, goal, tokens), first(curve(option, asked), high, goal)];
    const needed = option.tokens_per_example === null ? null : Math.ceil(tokens / option.tokens_per_example);
    const already = firstMeasured(goal, asked, unit);
    const seconds = option.seconds_per_token === null ? null : tokens * option.seconds_per_token;
    return {
      option, tokens, interval, seconds,
      flops: option.flops_per_token === null ? null : tokens * option.flops_per_token,
      examples: needed === null || asked.examples === null ? needed ?? asked.examples : Math.min(needed, asked.examples),
      money: seconds === null || asked.price === null ? null : (seconds / 3600) * asked.price,
      farther: tokens / option.largest_tokens,
      measured: already !== null && already[unit] < 0.999 * spent({ option, tokens }) ? already : null,
    };
  }
  return { reach, lowest };
}

if (document.getElementById("reach")) {
  const data = JSON.parse(document.getElementById("instrument").textContent);
  const { reach, lowest } = reacher(data, planner(data)), part = (name) => document.getElementById(name);
  const { name: measure, value: shown } = toldAs(data.target);
  const worst = Math.max(...data.points.loss.filter((loss) => loss !== null));
  let typed = null;
  // Left: the worst that was measured; right: the best that is predicted within the evidence.
  function update() {
    const asked = window.steered.asked, best = lowest(asked), share = Number(part("reach").value) / Number(part("reach").max);
    const goal = typed ?? (Number.isFinite(best) ? worst * (best / worst) ** share : worst), found = reach(goal, asked);
    part("reach-words").textContent = `${measure} ${shown(goal).toFixed(4)}`;
    if (document.activeElement !== part("reach-amount")) part("reach-amount").value = String(+shown(goal).toPrecision(5));
    part("reach-headline").textContent = found ? `It takes ${called(found.option)} on ${count(found.tokens)} tokens` : "Out of reach";
    part("reach-facts").replaceChildren(...lines(found, best, asked).flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
    window.reached = { goal, answer: found };
  }
  function lines(found, best, asked) {
    if (!found) return Number.isFinite(best) ? [["best within the evidence", shown(best).toFixed(4)]] : [["why", "no choice fits that memory"]];
    const [low, high] = found.interval.map((tokens) => (tokens === null ? "beyond the evidence" : `${count(tokens)} tokens`));
    const told = [["95 % interval", `${low} to ${high}`]];
    if (found.flops !== null) told.push(["compute", `${number(found.flops)} FLOPs`]);
    const seconds = asked.rate ? found.flops / asked.rate : found.seconds;
    if (seconds !== null) told.push(spentWords(seconds, asked.price));
    if (found.examples !== null) told.push(["data", `${count(found.examples)} examples`]);
    if (found.measured) told.push(["measured", `run ${found.measured.run} was there for less: ${shown(found.measured.loss).toFixed(4)} at ${count(found.measured.tokens)} tokens`]);
    if (found.farther > 1.05) told.push(["mind", `${number(found.farther)} × the tokens that this choice was followed for: an extrapolation`]);
    return told;
  }
  part("reach").addEventListener("input", () => { typed = null; update(); });
  part("reach-amount").addEventListener("input", () => {
    const value = Number(part("reach-amount").value), error = shown(value);
    if (!(value > 0 && error > 0)) return;
    typed = error;
    part("reach").value = Math.round((part("reach").max * Math.log(error / worst)) / Math.log(lowest(window.steered.asked) / worst));
    update();
  });
  document.addEventListener("steered", update);
  update();
}
