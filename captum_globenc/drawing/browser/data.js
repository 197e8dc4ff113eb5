// The data of the page: the explanation of each text, in the library's format, and the elements that show it.

const [SHARED, ...LINES] = document.getElementById("data").textContent.split("\n").filter(Boolean);
const SHADE = ":is(.for, .against, .share)";
const PIECE = `.shaded ${SHADE}`;
const SHARE = "%";

const main = document.querySelector("main");
const articles = [...main.querySelectorAll("article")];

/** Cache the results of a function of one object. */
function remembered(tell) {
  const known = new WeakMap();
  return (it) => {
    if (!known.has(it)) known.set(it, tell(it));
    return known.get(it);
  };
}

/** Decode floats from base64: of four bytes each if that gives the expected count, else of eight. */
function unpack(packed, count) {
  const { buffer } = Uint8Array.from(atob(packed), (byte) => byte.charCodeAt(0));
  return Array.from(buffer.byteLength === 4 * count ? new Float32Array(buffer) : new Float64Array(buffer));
}

/** Return the explanation of an article, from its own and the shared fields of `pack`. */
const recordOf = remembered((article) => {
  const record = { ...JSON.parse(SHARED), ...JSON.parse(LINES[articles.indexOf(article)]) };
  const numbers = (row) => unpack(row, record.tokens.length);
  for (const name of Object.keys(record.scores)) record.scores[name] = numbers(record.scores[name]);
  for (const rows of [record.layers ?? {}, record.answer_scores ?? {}]) {
    for (const name of Object.keys(rows)) rows[name] = rows[name].map(numbers);
  }
  return record;
});

/** Return the methods of an article: element, unit, and number of the first layer of each. */
const methodsOf = remembered((article) =>
  [...article.querySelectorAll(".shaded")].map((element) => ({
    element,
    name: element.dataset.method,
    unit: element.dataset.unit,
    first: Number(element.dataset.first),
  })),
);

/** Return the tokens of every piece of an article, and the pieces of one method. */
const tokensOf = remembered((article) =>
  article.dataset.tokens.split(" ").filter(Boolean).map((tokens) => tokens.split("+").map(Number)),
);
const piecesOf = remembered((shaded) => [...shaded.querySelectorAll(PIECE)]);
const placesOf = remembered((shaded) => new Map(piecesOf(shaded).map((piece, place) => [piece, place])));

/** Return the index of a piece in its article. */
const placeOf = (piece) => placesOf(piece.closest(".shaded")).get(piece);

/** Return the code points, as in Python, of the text (0) or its pair (1). */
const charactersOf = remembered((record) => [record.text, record.pair ?? ""].map((text) => Array.from(text)));

/** Return the sum of the scores of some tokens. */
const total = (row, tokens) => tokens.reduce((sum, token) => sum + row[token], 0);

/** Return the column header of a method. */
const named = (method) => `${method.name}, ${method.unit}`;

/** Return the layers of a method, or an empty list. */
const depthsOf = (record, method) => record.layers?.[method.name] ?? [];

/** Return the selected answer token of an article, if there is one. */
const selected = new Map();

/** Return the scores that shade a method: for the selected answer token, or for the whole answer. */
function shownScores(article, name) {
  const record = recordOf(article);
  return record.answer_scores?.[name]?.[selected.get(article)] ?? record.scores[name];
}

/** Format a score for tables, in a unit. */
function number(score, unit) {
  if (unit === SHARE) return (100 * score).toFixed(1);
  const text = score.toFixed(3);
  return Number(text) === 0 ? "0.000" : score > 0 ? `+${text}` : text;
}

/** Divide the scores of one line by their largest magnitude. */
function strengths(row) {
  const largest = row.reduce((most, score) => Math.max(most, Math.abs(score)), 0);
  return row.map((score) => (largest ? score / largest : 0));
}

/** Return the class and style that shade a strength. */
function shade(strength, unit) {
  const kind = unit === SHARE ? "share" : strength < 0 ? "against" : "for";
  return { class: kind, style: `--s:${Math.abs(strength).toFixed(3)}` };
}

const SVG = "http://www.w3.org/2000/svg";

/** Create an element; strings among its children become text nodes. */
function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** Create an SVG element. */
function draw(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Create a button with a click handler. */
function button(label, act, attributes = {}) {
  const made = make("button", { type: "button", ...attributes }, label);
  made.addEventListener("click", act);
  return made;
}

/** Create a table with column headers, and rows that start with a row header. */
function table(kind, heads, rows) {
  const cell = (content) => (content instanceof Element ? content : make("td", {}, String(content)));
  return make(
    "table",
    { class: kind },
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
    make(
      "tbody",
      {},
      ...rows.map(([head, ...cells]) =>
        make("tr", {}, make("th", { scope: "row", dir: "auto" }, String(head)), ...cells.map(cell)),
      ),
    ),
  );
}

/** Return the explanation of scores after each layer, for a unit. */
const depthsNote = (unit) => DEPTHS[[SHARE, "share"].includes(unit) ? "shares" : "signed"];

const SECONDS = 4;
let hush = 0;

/** Show a message that screen readers read out; it disappears after a while unless it stays. */
function say(message, stays = false) {
  clearTimeout(hush);
  document.getElementById("said").textContent = message;
  if (message && !stays) hush = setTimeout(() => say(""), 1000 * SECONDS);
}
