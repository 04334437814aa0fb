// What the browser tests ask a page: each function is an expression of its own.

// Contrast of every visible text with what lies under it, lowest first: [[ratio, text], ...].
function contrasts() {
  const parse = (text) => {
    const found = text.match(/[\d.]+/g).map(Number);
    return found.length < 4 ? [...found, 1] : found;
  };
  const over = (top, below) => [...[0, 1, 2].map((k) => top[3] * top[k] + (1 - top[3]) * below[k]), 1];
  const ground = (element) => {
    const layers = [];
    for (let each = element; each; each = each.parentElement) {
      layers.push(parse(getComputedStyle(each).backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const light = (colour) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = colour.map((part) => linear(part / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest("script, style, .skip")) continue;
    const style = getComputedStyle(element), drawn = element instanceof SVGElement;
    if (style.visibility === "hidden" || style.opacity === "0" || element.getClientRects().length === 0) continue;
    const under = ground(drawn ? element.closest("div") : element);
    const colour = over(parse(drawn ? style.fill : style.color), under);
    const [low, high] = [light(colour), light(under)].sort((a, b) => a - b);
    found.push([(high + 0.05) / (low + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}

// Elements that stick out of the window, those inside a container that scrolls left out.
function outside() {
  const sticksOut = (element) => {
    if (element.closest(".scroll, .plot, script, .skip")) return false;
    const box = element.getBoundingClientRect();
    return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1);
  };
  return [...document.querySelectorAll("main *")].filter(sticksOut).map((element) => element.outerHTML.slice(0, 80));
}

// Pairs of texts of one figure that are written over each other, and texts that the figure's edge cuts.
function overlaps() {
  const selector = ".legendtext, .xtick text, .ytick text, .g-xtitle text, .g-ytitle text, .annotation-text";
  const shared = (a, b, from, to) => Math.min(a[to], b[to]) - Math.max(a[from], b[from]);
  const hits = [];
  for (const plot of document.querySelectorAll(".plot")) {
    const texts = [...plot.querySelectorAll(selector)].filter((text) => text.textContent.trim());
    const boxes = texts.map((text) => [text.getBoundingClientRect(), text.textContent]);
    const frame = plot.getBoundingClientRect();
    boxes.forEach(([box, text], i) => {
      if (box.left < frame.left - 2 || box.right > frame.right + 2) hits.push(`${text} / edge`);
      for (const [other, words] of boxes.slice(i + 1))
        if (shared(box, other, "left", "right") > 2 && shared(box, other, "top", "bottom") > 3) hits.push(`${text} / ${words}`);
    });
  }
  return hits;
}
