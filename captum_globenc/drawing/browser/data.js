// What the page holds: the explanation of each text, as the library saves it, and the elements that show it.

const [SHARED, ...LINES] = document.getElementById("data").textContent.split("\n").filter(Boolean);
const SHADE = ":is(.for, .against, .share)";
const PIECE = `.shaded ${SHADE}`;
const SHARE = "%";

const main = document.querySelector("main");
const articles = [...main.querySelectorAll("article")];

/** Remember what a function says of each object. */
function remembered(tell) {
  const known = new WeakMap();
  return (it) => {
    if (!known.has(it)) known.set(it, tell(it));
    return known.get(it);
  };
}

/** Numbers from their bytes in base64: of four bytes each where that makes as many as there should be, else of eight. */
function unpack(packed, count) {
  const { buffer } = Uint8Array.from(atob(packed), (byte) => byte.charCodeAt(0));
  return Array.from(buffer.byteLength === 4 * count ? new Float32Array(buffer) : new Float64Array(buffer));
}

/** The explanation that an article shows: what is shared by all, and what is its own, as `pack` made them small. */
const recordOf = remembered((article) => {
  const record = { ...JSON.parse(SHARED), ...JSON.parse(LINES[articles.indexOf(article)]) };
  const numbers = (row) => unpack(row, record.tokens.length);
  for (const name of Object.keys(record.scores)) record.scores[name] = numbers(record.scores[name]);
  for (const rows of [record.layers ?? {}, record.answer_scores ?? {}]) {
    for (const name of Object.keys(rows)) rows[name] = rows[name].map(numbers);
  }
  return record;
});

/** The methods of an article: where each is shown, its unit, and the number of its first layer. */
const methodsOf = remembered((article) =>
  [...article.querySelectorAll(".shaded")].map((element) => ({
    element,
    name: element.dataset.method,
    unit: element.dataset.unit,
    first: Number(element.dataset.first),
  })),
);

/** The tokens of every piece of an article, and the pieces that show them by one method. */
const tokensOf = remembered((article) =>
  article.dataset.tokens.split(" ").filter(Boolean).map((tokens) => tokens.split("+").map(Number)),
);
const piecesOf = remembered((shaded) => [...shaded.querySelectorAll(PIECE)]);
const placesOf = remembered((shaded) => new Map(piecesOf(shaded).map((piece, place) => [piece, place])));

/** Which piece of its article one is. */
const placeOf = (piece) => placesOf(piece.closest(".shaded")).get(piece);

/** A text, 0, or its pair, 1, by characters: those that Python counts. */
const charactersOf = remembered((record) => [record.text, record.pair ?? ""].map((text) => Array.from(text)));

/** What some tokens score together. */
const total = (row, tokens) => tokens.reduce((sum, token) => sum + row[token], 0);

/** What a method's scores are called at the head of a column. */
const named = (method) => `${method.name}, ${method.unit}`;

/** Every depth of a method, or none. */
const depthsOf = (record, method) => record.layers?.[method.name] ?? [];

/** The selected token of the answer of an article, if there is one. */
const selected = new Map();

/** The scores that a method is shaded by: the row of the selected answer token, or those of the whole answer. */
function shownScores(article, name) {
  const record = recordOf(article);
  return record.answer_scores?.[name]?.[selected.get(article)] ?? record.scores[name];
}

/** A score as tables show it, in a unit. */
function number(score, unit) {
  if (unit === SHARE) return (100 * score).toFixed(1);
  const text = score.toFixed(3);
  return Number(text) === 0 ? "0.000" : score > 0 ? `+${text}` : text;
}

/** The scores of one line, -1 to 1 by the largest magnitude. */
function strengths(row) {
  const largest = row.reduce((most, score) => Math.max(most, Math.abs(score)), 0);
  return row.map((score) => (largest ? score / largest : 0));
}

/** How a strength is shaded: a class, and a style. */
function shade(strength, unit) {
  const kind = unit === SHARE ? "share" : strength < 0 ? "against" : "for";
  return { class: kind, style: `--s:${Math.abs(strength).toFixed(3)}` };
}

const SVG = "http://www.w3.org/2000/svg";

/** Make an element; texts among its children are text and nothing else. */
function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** Make an element of a drawing. */
function draw(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Make a button that does something. */
function button(label, act, attributes = {}) {
  const made = make("button", { type: "button", ...attributes }, label);
  made.addEventListener("click", act);
  return made;
}

/** Make a table: its heads, and rows that begin with a head of their own. */
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

/** What scores are after each layer, in a unit. */
const depthsNote = (unit) => DEPTHS[[SHARE, "share"].includes(unit) ? "shares" : "signed"];

const SECONDS = 4;
let hush = 0;

/** Tell the reader something, in words that are read out; it goes away by itself unless it stays. */
function say(message, stays = false) {
  clearTimeout(hush);
  document.getElementById("said").textContent = message;
  if (message && !stays) hush = setTimeout(() => say(""), 1000 * SECONDS);
}
