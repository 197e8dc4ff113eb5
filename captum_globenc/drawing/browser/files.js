// Export: the shaded text for a document, pictures, JSON for the library, tables.

const TALLEST = 16000; // maximum height that browsers draw
const NOT_XML = /[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/g;

function download(name, type, content) {
  const link = make("a", { download: name, href: URL.createObjectURL(new Blob([content], { type })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  say(`${name} is made`);
}

/** Return the explanations as JSON lines for `captum-globenc show` and `Explanations.load`. */
function toJson(some) {
  return some.map((article) => `${JSON.stringify(recordOf(article))}\n`).join("");
}

/** Return a table with one row per token and method, with the columns of `to_pandas`. */
function toCsv(some) {
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
  const rows = [["text", "index", "token", "segment", "start", "stop", "method", "score"]];
  for (const article of some) {
    const record = recordOf(article);
    for (const [method, scores] of Object.entries(record.scores)) {
      scores.forEach((score, index) => {
        const [start, stop, segment] = record.offsets[index] ?? ["", "", ""];
        rows.push([articles.indexOf(article), index, record.tokens[index], segment, start, stop, method, score]);
      });
    }
  }
  return rows.map((row) => `${row.map(quoted).join(",")}\r\n`).join("");
}

/** Return a table of pieces and scores as tab-separated text. */
function toPlainText(article) {
  const record = recordOf(article);
  const methods = methodsOf(article);
  const pieces = piecesOf(methods[0].element);
  const rows = tokensOf(article).map((tokens, place) => [
    pieces[place].textContent.replaceAll(/\s/g, " "), ...methods.map((it) => number(total(record.scores[it.name], tokens), it.unit)),
  ]);
  const heads = ["", ...methods.map(named)];
  return [article.querySelector("h2").textContent, ...[heads, ...rows].map((row) => row.join("\t"))].join("\n");
}

/** Return the visible shaded text with inline colors, for a document. */
function toRichText(article) {
  const copied = article.cloneNode(true);
  const shades = (one) => [...one.querySelectorAll(PIECE)];
  shades(copied).forEach((copy, index) => {
    const style = getComputedStyle(shades(article)[index]);
    copy.setAttribute("style", `background-color:${style.backgroundColor};color:${style.color};text-decoration:${style.textDecorationLine}`);
  });
  for (const it of copied.querySelectorAll(":is(details, .actions, .overview, .fold, [hidden])")) it.remove();
  for (const it of copied.querySelectorAll("*")) {
    for (const name of it.getAttributeNames()) if (!["style", "dir"].includes(name)) it.removeAttribute(name);
  }
  return copied.innerHTML;
}

async function copy(article) {
  try {
    const types = { "text/plain": toPlainText(article), "text/html": toRichText(article) };
    await navigator.clipboard.write([
      new ClipboardItem(Object.fromEntries(Object.entries(types).map(([type, text]) => [type, new Blob([text], { type })]))),
    ]);
    say("copied");
  } catch {
    say("this browser does not let the page copy: select the text, or download it");
  }
}

/** Return the visible words of a text with their positions; for words broken over lines, the letters. */
function* wordsOf(node, pattern = /\S+/gu, from = 0, to = node.length) {
  for (const { 0: text, index } of node.data.slice(from, to).matchAll(pattern)) {
    const range = new Range();
    range.setStart(node, from + index);
    range.setEnd(node, from + index + text.length);
    const rects = [...range.getClientRects()].filter((it) => it.width);
    if (rects.length > 1 && text.length > 2) yield* wordsOf(node, /./gsu, from + index, from + index + text.length);
    else if (rects.length) yield [text, rects[0]];
  }
}

/** Draw an article as SVG, with every shade and word at its visible position. */
function toSvg(article) {
  const frame = article.getBoundingClientRect();
  const last = article.querySelectorAll(":is(h2, .note, .shaded, .answer, .bars):not(details *)");
  const bottom = Math.max(...[...last].map((it) => it.getBoundingClientRect().bottom));
  const [width, height] = [Math.ceil(frame.width) + 16, Math.ceil(bottom - frame.top) + 16];
  const page = getComputedStyle(document.body);
  const made = draw("svg", { xmlns: SVG, width, height, viewBox: `-8 -8 ${width} ${height}`, "font-family": page.fontFamily },
    draw("rect", { x: -8, y: -8, width, height, fill: page.backgroundColor }));
  const at = (rect) => ({ x: rect.left - frame.left, y: rect.top - frame.top, width: rect.width, height: rect.height });
  for (const it of article.querySelectorAll(".picture")) {
    made.append(draw("image", { ...at(it.getBoundingClientRect()), href: recordOf(article).picture.source, preserveAspectRatio: "none" }));
  }
  for (const piece of article.querySelectorAll(PIECE)) {
    const style = getComputedStyle(piece);
    for (const rect of piece.getClientRects()) {
      const box = at(rect);
      made.append(draw("rect", { ...box, rx: 3, fill: style.backgroundColor }));
      if (piece.matches(".against")) {
        const y = box.y + box.height - 2;
        made.append(draw("line", { x1: box.x, x2: box.x + box.width, y1: y, y2: y, stroke: style.color, "stroke-dasharray": "1.5 1.5" }));
      }
    }
  }
  for (const bar of article.querySelectorAll(".bars i")) {
    const [box, { color, boxShadow }] = [at(bar.getBoundingClientRect()), getComputedStyle(bar)];
    made.append(draw("rect", { ...box, fill: "none", stroke: boxShadow.match(/rgba?\([^)]*\)/)?.[0] ?? color }),
      draw("rect", { ...box, width: box.width * bar.style.getPropertyValue("--s"), fill: color }));
  }
  const walk = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode;
    if (node.parentElement.closest("details, .actions, .overview")) continue;
    const style = getComputedStyle(node.parentElement);
    for (const [text, rect] of wordsOf(node)) {
      const box = at(rect);
      made.append(draw("text", {
        x: box.x + box.width / 2, y: box.y + 0.79 * box.height, "text-anchor": "middle", textLength: box.width,
        lengthAdjust: "spacingAndGlyphs", "font-size": style.fontSize, "font-weight": style.fontWeight, fill: style.color,
      }, text.replace(NOT_XML, "\ufffd")));
    }
  }
  return new XMLSerializer().serializeToString(made);
}

async function toPng(article) {
  const drawing = toSvg(article);
  const image = new Image();
  image.src = URL.createObjectURL(new Blob([drawing], { type: "image/svg+xml" }));
  await image.decode();
  const scale = Math.min(2, TALLEST / image.height);
  if (scale < 1) return say("too tall for PNG: fold the text, or take SVG");
  const canvas = make("canvas", { width: image.width * scale, height: image.height * scale });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  canvas.toBlob((blob) => download(`${article.id}.png`, "image/png", blob));
}

const FILES = {
  jsonl: (name, some) => download(`${name}.jsonl`, "application/x-ndjson", toJson(some)),
  csv: (name, some) => download(`${name}.csv`, "text/csv", toCsv(some)),
};

for (const article of articles) {
  article.append(make("p", { class: "actions" },
    button("Copy", () => copy(article)),
    button("PNG", () => toPng(article)),
    button("SVG", () => download(`${article.id}.svg`, "image/svg+xml", toSvg(article))),
    button("JSON", () => FILES.jsonl(article.id, [article])),
    button("CSV", () => FILES.csv(article.id, [article]))));
}
for (const [kind, give] of Object.entries(FILES)) {
  fields[kind].addEventListener("click", () => give("texts", shownArticles()));
}
