// The heat maps of layers and the numbers of a text, created when they are opened.

const MOST_ROWS = 500;

/** Return the indices of the strongest scores by any method, in order, and a note if some are omitted. */
function strongest(article, groups) {
  const record = recordOf(article);
  const rows = methodsOf(article).map((it) => strengths(groups.map((tokens) => total(record.scores[it.name], tokens))));
  const all = groups.map((_, place) => place);
  if (groups.length <= MOST_ROWS) return { places: all, said: [] };
  const most = (place) => Math.max(...rows.map((row) => Math.abs(row[place])));
  const places = all.sort((a, b) => most(b) - most(a)).slice(0, MOST_ROWS).sort((a, b) => a - b);
  const count = groups.length.toLocaleString("en");
  return { places, said: [make("p", { class: "note" }, `The ${MOST_ROWS} strongest of ${count}; CSV and JSON hold all.`)] };
}

/** Return a table of all tokens of a text and their scores by each method. */
function tokenNumbers(article) {
  const record = recordOf(article);
  const methods = methodsOf(article);
  const words = new Map(record.groups.flatMap(([word, tokens]) => tokens.map((token) => [token, word])));
  const { places, said } = strongest(article, record.tokens.map((_, token) => [token]));
  const ids = (token) => (record.ids ? [record.ids[token]] : []);
  const rows = places.map((token) => [
    record.tokens[token], token, ...ids(token), make("td", { dir: "auto" }, words.get(token) ?? ""),
    ...methods.map((it) => number(record.scores[it.name][token], it.unit)),
  ]);
  const heads = ["token", "number", ...(record.ids ? ["id"] : []), "word", ...methods.map(named)];
  return [...said, scrolled("Numbers", table("numbers", heads, rows))];
}

/** Return a heat map of pieces by layers for each method with layers, shaded within each layer. */
function heatMaps(article) {
  const record = recordOf(article);
  const groups = tokensOf(article);
  const { places, said } = strongest(article, groups);
  const maps = methodsOf(article).filter((it) => depthsOf(record, it).length).flatMap((it) => {
    const layers = depthsOf(record, it).map((row) => groups.map((tokens) => total(row, tokens)));
    const shades = layers.map(strengths);
    const pieces = piecesOf(it.element);
    const rows = places.map((place) => [
      pieces[place].textContent,
      ...layers.map((row, layer) => make("td", shade(shades[layer][place], it.unit), number(row[place], it.unit))),
    ]);
    const heads = [`${it.unit} after layer`, ...layers.map((_, index) => String(index + it.first))];
    const note = make("p", { class: "note" }, depthsNote(it.unit));
    return [make("h3", {}, it.name), note, scrolled(`Layers of ${it.name}`, table("heat", heads, rows))];
  });
  return [...said, ...maps];
}

/** Add a collapsible element whose content is created when it is opened. */
function addDetails(article, label, contents) {
  const details = make("details", {}, make("summary", {}, label));
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(...contents(article));
  });
  article.append(details);
}

for (const article of articles) {
  if ("layers" in article.dataset) addDetails(article, "Layers", heatMaps);
  addDetails(article, "Numbers", tokenNumbers);
}
