// The panel of a piece: its place in the text, its tokens, and its scores over the layers.

const AROUND = 60;
const CHART = { width: 320, height: 90, left: 6, right: 314, top: 8, bottom: 74 };

const panel = make("aside", { id: "panel", role: "dialog", "aria-labelledby": "panel-head", tabindex: "-1", hidden: "" });
document.body.append(panel);
let opened = null;

function openPanel(piece) {
  hideTip();
  if (opened) closePanel();
  opened = piece;
  reach(piece);
  for (const it of sameAs(piece)) it.classList.add("opened");
  const article = piece.closest("article");
  const record = recordOf(article);
  const tokens = tokensOf(article)[placeOf(piece)];
  panel.replaceChildren(
    button("×", closePanel, { class: "close", "aria-label": "Close" }),
    make("h2", { id: "panel-head", dir: "auto" }, piece.textContent),
    ...(piece.dataset.note ? [make("p", { class: "note" }, piece.dataset.note)] : []),
    ...(record.picture ? [] : [stands(record, tokens)]),
    tokenTable(article, tokens),
    ...courses(article, tokens),
    scrolled("Scores", numbersOf(article, tokens)),
  );
  panel.hidden = false;
  panel.scrollTop = 0;
  panel.focus({ preventScroll: true });
  giveSight(piece);
}

/** Keep the panel from covering its piece: move the panel to the left, or scroll the piece above it. */
function giveSight(piece) {
  panel.classList.remove("left");
  const [it, over] = [piece.getClientRects()[0], panel.getBoundingClientRect()];
  if (it.bottom + 8 < over.top || it.right < over.left) return;
  if (it.left > over.width + 16) return panel.classList.add("left");
  document.body.style.paddingBottom = `${over.height}px`; // so that the end of the page can be scrolled above it
  scrollBy(0, it.bottom + 8 - over.top);
}

function closePanel() {
  if (!opened) return;
  const piece = opened;
  opened = null;
  for (const it of sameAs(piece)) it.classList.remove("opened");
  panel.hidden = true;
  document.body.style.paddingBottom = "";
  piece.focus({ preventScroll: true });
}

/** Return the tokens in the text, with their surroundings. */
function stands(record, tokens) {
  const places = tokens.map((token) => record.offsets[token]).filter(Boolean);
  if (!places.length) {
    const why = record.offsets.length ? "It is not part of the text: the tokenizer added it." :
      "The tokenizer gives no character offsets.";
    return make("p", {}, why);
  }
  const segment = places[0][2];
  const start = Math.min(...places.map((it) => it[0]));
  const stop = Math.max(...places.map((it) => it[1]));
  const all = charactersOf(record)[segment];
  const part = (from, to) => all.slice(Math.max(0, from), to).join("");
  const which = record.pair === undefined ? "text" : segment ? "second text" : "first text";
  return make(
    "p",
    {},
    make("span", { class: "around", dir: "auto" },
      start > AROUND ? "…" : "", part(start - AROUND, start), make("mark", {}, part(start, stop)),
      part(stop, stop + AROUND), stop + AROUND < all.length ? "…" : ""),
    make("span", { class: "note" }, `characters ${start} to ${stop} of the ${which}`),
  );
}

/** Return a table of the tokens of a piece: id, word, offsets and scores, one column per token. */
function tokenTable(article, tokens) {
  const record = recordOf(article);
  const word = (token) => record.groups.find((it) => it[1].includes(token))?.[0] ?? "";
  const place = (token) => record.offsets[token]?.slice(0, 2).join(" to ") ?? "";
  const row = (name, tell) => [name, ...tokens.map(tell)];
  const rows = [
    row("number", (token) => token),
    ...(record.ids ? [row("id", (token) => record.ids[token])] : []),
    ...(record.picture ? [] : [row("word", word), row("characters", place)]),
    ...methodsOf(article).map((it) => row(named(it), (token) => number(record.scores[it.name][token], it.unit))),
  ];
  return scrolled("Tokens", table("numbers", ["token", ...tokens.map((token) => record.tokens[token])], rows));
}

/** Return a region that scrolls sideways and can be focused. */
function scrolled(label, content) {
  return make("div", { class: "scroll", role: "region", "aria-label": label, tabindex: "0" }, content);
}

/** Return a line chart of the scores of a piece over the layers, one line per method. */
function courses(article, tokens) {
  const record = recordOf(article);
  return methodsOf(article).filter((it) => depthsOf(record, it).length).map((it) => {
    const row = depthsOf(record, it).map((scores) => total(scores, tokens));
    const note = make("figcaption", { class: "note" }, depthsNote(it.unit));
    return make("figure", {}, make("figcaption", {}, `${named(it)} after layer`), chart(row, it), note);
  });
}

function chart(row, method) {
  const { width, height, left, right, top, bottom } = CHART;
  const high = Math.max(0, ...row);
  const low = Math.min(0, ...row);
  const x = (index) => left + ((right - left) * index) / Math.max(1, row.length - 1);
  const y = (score) => bottom - ((bottom - top) * (score - low)) / (high - low || 1);
  const points = row.map((score, index) => `${x(index).toFixed(1)},${y(score).toFixed(1)}`);
  const dot = (score, index) =>
    draw("circle", { cx: x(index), cy: y(score), r: 3, class: shade(score, method.unit).class },
      draw("title", {}, `layer ${index + method.first}: ${number(score, method.unit)}`));
  const end = (index, anchor) =>
    draw("text", { x: x(index), y: height - 4, "text-anchor": anchor }, String(index + method.first));
  return draw(
    "svg",
    { class: "course", viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": `From ${number(row[0], method.unit)} to ${number(row.at(-1), method.unit)}` },
    draw("line", { x1: left, x2: right, y1: y(0), y2: y(0) }),
    draw("polyline", { points: points.join(" ") }),
    ...row.map(dot),
    end(0, "start"),
    ...(row.length > 1 ? [end(row.length - 1, "end")] : []),
  );
}
