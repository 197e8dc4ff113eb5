// Search, filter and sort the texts and the table of contents.

const tools = document.getElementById("tools");
const fields = tools.elements;
const entries = [...document.querySelectorAll("#contents li")];
const found = "Highlight" in window ? new Highlight() : null; // null if the browser does not support highlights
const MARKED = 2000;
const noun = fields.count.value.split(" ").at(-1);
let hits = []; // the matches in the first shown method of each text; the other methods have the same
let hit = -1;

const measure = (article) => recordOf(article).probability ?? recordOf(article).value;
const compare = new Intl.Collator().compare;
const ORDERS = {
  given: () => 0,
  highest: (a, b) => measure(b) - measure(a),
  lowest: (a, b) => measure(a) - measure(b),
  text: (a, b) => compare(recordOf(a).text, recordOf(b).text),
};

/** Return the pattern of a query, which ignores case and the amount of space, or null. */
function pattern() {
  const words = fields.query.value.trim().split(/\s+/).filter(Boolean);
  const quoted = words.map((word) => word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  return words.length ? new RegExp(quoted.join("\\s+"), "giu") : null;
}

function shownArticles() {
  return articles.filter((article) => !article.hidden);
}

/** Show the texts that match the search and the filters. */
function choose() {
  const wanted = pattern();
  const label = fields.label.value;
  articles.forEach((article, index) => {
    const { text, pair = "" } = recordOf(article);
    const matches = !wanted || [text, pair].some((it) => it.search(wanted) >= 0);
    article.hidden = !matches || (label !== "" && article.dataset.label !== label);
    if (entries.length) entries[index].hidden = article.hidden;
  });
  mark(wanted);
  const count = shownArticles().length;
  say(wanted && !count ? `no match for “${fields.query.value.trim()}”` : "", true);
  fields.count.value = count === articles.length ? `${count} ${noun}` : `${count} of ${articles.length} ${noun}`;
}

/** Sort the texts and the table of contents. */
function sort() {
  const sorted = [...articles].sort(ORDERS[fields.order.value]);
  main.append(...sorted);
  document.querySelector("#contents ol")?.append(...sorted.map((it) => entries[articles.indexOf(it)]));
}

/** Highlight the matches, across pieces and gaps. */
function mark(wanted) {
  hit = -1;
  hits = [];
  found?.clear();
  if (!wanted) return;
  for (const article of shownArticles()) {
    const first = article.querySelector(".method:not([hidden])");
    for (const paragraph of article.querySelectorAll(".tokens")) {
      const ranges = rangesOf(paragraph, wanted);
      if (first?.contains(paragraph)) hits.push(...ranges);
      if (found && found.size < MARKED) for (const range of ranges) found.add(range);
    }
  }
  if (found) CSS.highlights.set("found", found);
}

/** Return the ranges of the matches in a paragraph. */
function rangesOf(paragraph, wanted) {
  const nodes = [];
  let text = "";
  const walk = document.createTreeWalker(paragraph, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    if (walk.currentNode.parentElement.closest("button, .special")) continue;
    nodes.push([text.length, walk.currentNode]);
    text += walk.currentNode.data;
  }
  let at = 0;
  const put = (set, offset) => {
    while (at + 1 < nodes.length && nodes[at + 1][0] <= offset) at += 1;
    set(nodes[at][1], offset - nodes[at][0]);
  };
  return [...text.matchAll(wanted)].map((match) => {
    const range = new Range();
    put(range.setStart.bind(range), match.index);
    put(range.setEnd.bind(range), match.index + match[0].length);
    return range;
  });
}

/** Go to the next match. */
function nextFound() {
  if (!hits.length) return;
  hit = (hit + 1) % hits.length;
  const element = hits[hit].startContainer.parentElement;
  unfold(element);
  element.scrollIntoView({ block: "center" });
  say(`match ${hit + 1} of ${hits.length}`);
}

/** Show the checked methods in every text. */
function showMethods() {
  const off = new Set([...tools.querySelectorAll("[name=method]:not(:checked)")].map((it) => it.value));
  for (const section of main.querySelectorAll(".method")) {
    section.hidden = off.has((section.querySelector(".shaded") ?? section).dataset.method);
  }
  document.body.classList.toggle("without-special", !fields.special.checked);
  main.querySelectorAll(".shaded").forEach(keepReachable);
  mark(pattern());
}

const CHANGES = { query: choose, label: choose, order: sort, method: showMethods, special: showMethods };

tools.addEventListener("input", (event) => CHANGES[event.target.name]());
tools.addEventListener("submit", (event) => {
  event.preventDefault();
  nextFound();
});
tools.hidden = false;
if (matchMedia("(max-width: 50rem)").matches) document.querySelector("#contents details")?.removeAttribute("open");
document.getElementById("unscripted").hidden = true;
// Other sticky elements are placed below.
new ResizeObserver(() => {
  const sticks = getComputedStyle(tools).position === "sticky";
  document.body.style.setProperty("--below", sticks ? `${tools.offsetHeight}px` : "0");
}).observe(tools);
