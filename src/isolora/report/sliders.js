"use strict";

// The sliders: what is asked, and the plan's answer in words, on the gauge, in the table and as a mark in the figures.
if (document.getElementById("instrument")) {
  const data = JSON.parse(document.getElementById("instrument").textContent);
  const { plan } = planner(data), told = toldAs(data.target);
  const part = (name) => document.getElementById(`steer-${name}`);
  const known = (name) => data.options.map((option) => option[name]).filter((value) => value !== null && value > 0);
  const log = (low, high, share) => low * (high / low) ** share;
  const seconds = data.points.seconds?.filter((value) => value > 0) ?? [], flops = data.points.flops?.filter((value) => value > 0) ?? [];
  const HERE = "here", FAR = data.rules.farthest;

  // What the machine does in a second, where it is not the one that measured.
  const rate = () => {
    const chosen = data.accelerators.find(({ name }) => name === part("where").value);
    return chosen ? (chosen.peak * Number(part("share").value)) / 100 : null;
  };
  const price = () => Number(part("price").value) || null;
  function ends() {
    if (part("unit").value === "flops") return [Math.min(...flops) / 4, Math.max(...flops) * FAR];
    const spent = rate() ? [Math.min(...flops) / 4 / rate(), (Math.max(...flops) * FAR) / rate()] : [Math.min(...seconds) / 4, Math.max(...seconds) * FAR];
    return spent.map((value) => (value / 3600) * (part("unit").value === "money" ? price() ?? 1 : 1));
  }
  const limits = { examples: null, memory: null, forget: null, serve: null };
  const perExample = known("tokens_per_example"), memories = known("peak_memory_bytes");
  const losses = data.options.flatMap((option) => option.forgetting.map(([, lost]) => lost));
  if (perExample.length) limits.examples = [10, Math.max(1000, (FAR * Math.max(...known("largest_tokens"))) / Math.min(...perExample))];
  if (memories.length) limits.memory = [Math.min(...memories) * 0.9, Math.max(...memories) * 1.1];
  if (losses.length) limits.forget = [0, Math.max(...losses, 0.01) * 1.5];
  const weights = (option) => option.model_parameters ?? option.body_parameters, sizes = data.options.map(weights).filter((value) => value > 0);
  if (flops.length && sizes.length) limits.serve = [Math.min(...flops) / 8 / Math.max(...sizes), (Math.max(...flops) * FAR) / 2 / Math.min(...sizes)];

  let moved = false; // whether another plan is asked for than the one that the page was made with
  let typed = null; // a budget that was typed instead of slid
  let given = {}; // limits that the page was asked about, to the last digit, until their sliders are moved
  // Tokens of inference that the budget pays for too; none at the slider's left end.
  function served() {
    const share = Number(part("serve").value) / Number(part("serve").max);
    return limits.serve === null || share === 0 ? 0 : Math.round(log(...limits.serve, share));
  }
  function asked() {
    const unit = part("unit").value, amount = typed ?? log(...ends(), Number(part("budget").value) / 1000);
    const limit = (name, value) => {
      const slider = part(name), share = Number(slider.value) / Number(slider.max);
      return limits[name] === null || share === 1 ? null : value(share);
    };
    const hours = unit === "money" ? amount / (price() ?? 1) : amount;
    return {
      amount: unit === "flops" ? amount : rate() ? hours * 3600 * rate() : hours * 3600,
      unit: unit === "flops" || rate() ? "flops" : "seconds",
      price: price(),
      rate: rate(),
      shown: amount,
      examples: given.examples ?? limit("examples", (share) => Math.round(log(...limits.examples, share))),
      memory: given.memory ?? limit("memory", (share) => log(...limits.memory, share)),
      forget: given.forget ?? limit("forget", (share) => limits.forget[0] + share * (limits.forget[1] - limits.forget[0])),
      serve: given.serve ?? served(),
    };
  }

  const REASONS = {
    memory: "No choice fits that memory.",
    budget: "With these limits, and after serving, the budget buys less than anything that was measured.",
    far: `That takes every choice more than ${FAR} times beyond the tokens it was followed for: the evidence does not reach so far.`,
    wide: "The interval is too wide to choose by.",
    beaten: "A run that was measured within this budget already beats what the law expects.",
  };
  const measuredWords = (found) => `${called(found) || found.run}: ${told.value(found.loss).toFixed(4)} at ${count(found.tokens)} tokens`;
  function facts(question, answer) {
    const { row } = answer;
    if (!row) return answer.measured ? [["best measured within the budget", measuredWords(answer.measured)]] : [];
    const elsewhere = rate() && part("unit").value !== "flops";
    const spent = elsewhere ? row.flops / rate() : row.seconds;
    const found = [[`predicted ${told.name}`, `${told.value(row.predicted).toFixed(4)}, 95 % interval ${told.ends(row.interval).map((end) => end.toFixed(4)).join(" to ")}`]];
    if (row.flops !== null) found.push(["compute", `${number(row.flops)} FLOPs${answer.factor ? `, ${number(answer.factor)} × the largest measured` : ""}`]);
    if (spent !== null) found.push(spentWords(spent, question.price));
    if (row.examples !== null) found.push(["data", `${count(row.examples)} examples, ${number(row.epochs)} ${row.epochs === 1 ? "pass" : "passes"}`]);
    if (question.serve) found.push(["serving", `${count(question.serve)} tokens take ${number(2 * weights(row.option) * question.serve)} FLOPs of the budget`]);
    if (row.learningRate !== null) found.push(["learning rate", number(row.learningRate)]);
    if (answer.nearest) found.push(["nearest evidence", measuredWords(answer.nearest)]);
    if (row.stoppedEarly) found.push(["mind", "the budget is not spent: a limit ends the training before"]);
    return found;
  }
  function show(question, answer) {
    const { row } = answer;
    part("headline").textContent = row ? `Train ${called(row.option)} on ${count(row.tokens)} tokens` : "No recommendation";
    part("reason").textContent = row ? "" : REASONS[answer.refused];
    part("facts").replaceChildren(...facts(question, answer).flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
    const next = moved || !data.start ? answer.next : data.start.next;
    part("next-title").hidden = part("next-words").hidden = !next.length;
    part("next-words").textContent = moved || !data.start ? "Steps towards this budget. isolora plan weighs runs by how much they would tell about it." : "";
    part("next").replaceChildren(...next.map(({ option, tokens }) => element("li", `${called(option)}: ${count(tokens)} tokens`)));
    const rows = row ? [...answer.rows].sort((a, b) => a.prudent - b.prudent).slice(0, 8) : [];
    part("table").tBodies[0].replaceChildren(...rows.map((each) => {
      const line = element("tr", "", each === row ? "chosen" : "");
      const interval = told.ends(each.interval).map((end) => end.toFixed(3)).join(" to ");
      line.append(element("td", called(each.option)), ...[count(each.tokens), told.value(each.predicted).toFixed(4), interval].map((text) => element("td", text, "right")));
      return line;
    }));
    part("table").parentElement.hidden = !rows.length;
    gauge(row);
  }
  // The interval on a fixed scale, that of everything measured, so that it moves and widens before the eye.
  function gauge(row) {
    part("gauge").hidden = !row;
    if (!row) return;
    const lowest = Math.min(...data.points.loss, row.interval[0]), highest = Math.max(row.interval[1], ...known("loss"), Math.min(...data.points.loss) * 1.2);
    const [low, high] = told.ends([lowest, highest]), [start, end] = told.ends(row.interval), predicted = told.value(row.predicted);
    const place = (value) => `${(100 * (value - low)) / (high - low)}%`;
    const [band, mark, above, left, right] = [".band", ".predicted", ".above", ".low", ".high"].map((each) => part("gauge").querySelector(each));
    band.style.left = place(start);
    band.style.width = `${(100 * (end - start)) / (high - low)}%`;
    mark.style.left = above.style.left = place(predicted);
    above.textContent = `predicted ${predicted.toFixed(3)}`;
    left.style.left = place(start);
    right.style.left = place(end);
    [left.textContent, right.textContent] = [start, end].map((each) => each.toFixed(3));
    const apart = right.getBoundingClientRect().left - left.getBoundingClientRect().right > 6;
    right.hidden = !apart;
    if (!apart) left.textContent = [start, end].map((each) => each.toFixed(3)).join(" to ");
  }
  function words(question) {
    const unit = part("unit").value;
    part("budget-words").textContent = `${number(question.shown)} ${unit === "flops" ? "FLOPs" : unit}`;
    if (document.activeElement !== part("amount")) part("amount").value = question.shown >= 1e7 ? question.shown.toExponential(5).replace("e+", "e") : String(+question.shown.toPrecision(6));
    part("examples-words").textContent = question.examples === null ? "as many as it takes" : count(question.examples);
    part("memory-words").textContent = question.memory === null ? "no limit" : `${(question.memory / 1e9).toPrecision(3)} GB`;
    part("forget-words").textContent = question.forget === null ? "no limit" : `at most ${question.forget.toFixed(3)}`;
    part("serve-words").textContent = question.serve ? `${count(question.serve)} tokens` : "nothing";
    part("where-row").hidden = unit === "flops";
    part("share-field").hidden = rate() === null;
  }

  // A budget in money needs the price of an hour.
  function priced() {
    part("unit").querySelector("[value=money]").disabled = price() === null;
    if (price() === null && part("unit").value === "money") part("unit").value = "hours";
  }
  function update() {
    priced();
    const question = asked(), answer = plan(question);
    words(question);
    show(question, answer);
    window.steered = { asked: question, answer };
    document.dispatchEvent(new CustomEvent("steered"));
  }
  const START = { examples: data.limits.examples ?? data.examplesAtHand, memory: data.limits.memory, forget: data.limits.forget, serve: data.limits.serve || null };
  function reset() {
    const start = data.start ?? (flops.length ? { amount: 4 * Math.max(...flops), unit: "flops" } : { amount: 4 * Math.max(...seconds), unit: "seconds" });
    part("unit").value = start.unit === "flops" ? "flops" : "hours";
    part("where").selectedIndex = 0;
    if (start.where) [part("where").value, part("share").value] = [start.where, start.share];
    part("price").value = start.price ?? "";
    const [low, high] = ends();
    moved = false;
    typed = start.unit === "flops" ? start.amount : start.amount / 3600;
    part("budget").value = Math.round((1000 * Math.log(typed / low)) / Math.log(high / low));
    for (const name of ["examples", "memory", "forget"]) part(name).value = part(name).max;
    part("serve").value = 0;
    given = {};
    for (const [name, value] of Object.entries(START)) {
      if (value === null || limits[name] === null) continue;
      const [least, most] = limits[name], share = name === "forget" ? value / most : Math.log(value / least) / Math.log(most / least);
      given[name] = value;
      part(name).value = Math.round(part(name).max * share);
    }
    update();
  }

  part("where").append(...(seconds.length ? [new Option("this machine, as measured", HERE)] : []), ...(flops.length ? data.accelerators.map(({ name }) => new Option(name, name)) : []));
  for (const name of ["examples", "memory", "forget", "serve"]) part(name).parentElement.hidden = limits[name] === null;
  if (!flops.length) part("unit").options[0].remove();
  part("budget").form.addEventListener("input", () => { moved = true; }, true);
  part("budget").addEventListener("input", () => { typed = null; update(); });
  part("amount").addEventListener("input", () => {
    const value = Number(part("amount").value), [low, high] = ends();
    if (!(value > 0 && Number.isFinite(value))) return;
    typed = value;
    part("budget").value = Math.round((1000 * Math.log(value / low)) / Math.log(high / low));
    update();
  });
  for (const name of ["unit", "where", "share", "price"]) part(name).addEventListener("input", () => { typed = null; update(); });
  for (const name of ["examples", "memory", "forget", "serve"]) part(name).addEventListener("input", () => { delete given[name]; update(); });
  part("reset").addEventListener("click", reset);
  part("budget").form.addEventListener("submit", (event) => event.preventDefault());
  reset();
}
