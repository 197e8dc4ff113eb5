// Long texts: an overview, folds around strong pieces, and buttons from one strong piece to the next.

const LONG = 400;
const STRONG = 30;
const AROUND_STRONG = 12;
const SHORTEST_FOLD = 20;
const BARS = 200;
const MAP = 40;

/** Unfold the text around an element. */
function unfold(element) {
  const folded = element.closest(".folded");
  if (folded?.hidden) folded.previousElementSibling.click();
}

/** Fold long runs of pieces that are not kept; the button of a fold shows the number of words. */
function fold(paragraph, kept) {
  paragraph.removeAttribute("dir"); // the browser would detect it again for every moved node
  let run = [];
  for (const node of [...paragraph.childNodes, null]) {
    const isPiece = node instanceof Element && node.matches(SHADE);
    if (node && !kept.has(node) && (isPiece || run.length)) {
      run.push(node);
      continue;
    }
    const words = run.filter((it) => /[\p{L}\p{N}]/u.test(it.textContent)).length;
    if (words >= SHORTEST_FOLD) {
      const folded = make("span", { class: "folded", hidden: "" });
      const label = `${words.toLocaleString("en")} words`;
      const toggle = button(`⋯ ${label} ⋯`, () => {
        folded.hidden = !folded.hidden;
        toggle.setAttribute("aria-expanded", String(!folded.hidden));
        toggle.textContent = folded.hidden ? `⋯ ${label} ⋯` : `fold ${label}`;
      }, { class: "fold", dir: "ltr", "aria-expanded": "false" });
      run[0].before(toggle, folded);
      folded.append(...run);
    }
    run = [];
  }
  paragraph.setAttribute("dir", "auto");
}

/** Draw the strongest scores of each section of a text: positive above, negative below. */
function drawMap(scores, unit) {
  const half = unit === SHARE ? MAP : MAP / 2;
  const bars = [];
  for (let bar = 0; bar < BARS; bar += 1) {
    const stretch = scores.slice((bar * scores.length) / BARS, ((bar + 1) * scores.length) / BARS);
    const most = stretch.reduce((one, other) => (Math.abs(other) > Math.abs(one) ? other : one), 0);
    const height = Math.abs(most) * half;
    const kind = shade(most, unit).class;
    bars.push(draw("rect", { x: bar + 0.1, y: most < 0 ? half : half - height, width: 0.8, height, class: kind }));
  }
  const view = draw("rect", { class: "view", y: 0, height: MAP, x: 0, width: 0 });
  const map = draw("svg", { class: "minimap", viewBox: `0 0 ${BARS} ${MAP}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    view, ...bars);
  return { map, view };
}

/** Return the first or last visible piece of a text, or undefined. */
function inSight(shaded, fromTop) {
  const { top, bottom, left, right } = shaded.getBoundingClientRect();
  const edges = [Math.max(top, shaded.previousElementSibling.getBoundingClientRect().bottom), Math.min(bottom, innerHeight)];
  const step = fromTop ? 14 : -14;
  for (let y = edges[fromTop ? 0 : 1] + step / 2; y > edges[0] && y < edges[1]; y += step) {
    for (let x = left + 4; x < right; x += 24) {
      const element = document.elementFromPoint(x, y)?.closest(`${PIECE}, .fold`);
      if (element && shaded.contains(element)) {
        return element.matches(".fold") ? element.nextElementSibling.querySelector(PIECE) : element;
      }
    }
  }
  return undefined;
}

/** Add overview, folds and buttons to one method of a long text. */
function makeLegible(article, { element: shaded, name, unit }) {
  const pieces = piecesOf(shaded);
  const row = recordOf(article).scores[name];
  const special = (place) => pieces[place].matches(".special");
  const scores = strengths(tokensOf(article).map((tokens, place) => (special(place) ? 0 : total(row, tokens))));
  const order = scores.map((_, place) => place).sort((a, b) => Math.abs(scores[b]) - Math.abs(scores[a]));
  const strong = order.slice(0, STRONG).filter((place) => scores[place]);
  const kept = new Set(strong.flatMap((place) =>
    pieces.slice(Math.max(0, place - AROUND_STRONG), place + AROUND_STRONG + 1)));
  for (const paragraph of shaded.querySelectorAll(".tokens")) fold(paragraph, kept);
  keepReachable(shaded);

  let rank = -1;
  const where = make("output", {}, `${strong.length} strongest`);
  const go = (step) => {
    rank = (Math.max(rank + step, step < 0 ? -1 : 0) + strong.length) % strong.length;
    where.textContent = `strongest ${rank + 1} of ${strong.length}`;
    unfold(pieces[strong[rank]]);
    goTo(pieces[strong[rank]], "center");
  };
  const all = button("Unfold all", () => {
    const folds = [...shaded.querySelectorAll(".fold")];
    const open = folds.some((it) => it.nextElementSibling.hidden);
    for (const it of folds) if (it.nextElementSibling.hidden === open) it.click();
    all.textContent = open ? "Fold again" : "Unfold all";
  });
  const { map, view } = drawMap(scores, unit);
  const mirrored = getComputedStyle(shaded.querySelector(".tokens")).direction === "rtl";
  if (mirrored) map.style.transform = "scaleX(-1)";
  map.addEventListener("click", (event) => {
    const { left, width } = map.getBoundingClientRect();
    const along = (event.clientX - left) / width;
    const piece = pieces[Math.min(pieces.length - 1, Math.floor((mirrored ? 1 - along : along) * pieces.length))];
    unfold(piece);
    goTo(piece, "center");
  });
  const look = () => {
    const ends = [true, false].map((fromTop) => inSight(shaded, fromTop));
    const [first, last] = ends.map((piece) => (piece ? placeOf(piece) : 0));
    view.setAttribute("x", (first * BARS) / pieces.length);
    view.setAttribute("width", ends[0] ? Math.max(1, ((last - first + 1) * BARS) / pieces.length) : 0);
  };
  new ResizeObserver(look).observe(shaded); // folds open and close
  let waiting = false;
  document.addEventListener("scroll", () => {
    if (waiting || !shaded.checkVisibility()) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      look();
    });
  }, { passive: true });
  shaded.before(make("div", { class: "overview" }, map,
    make("div", { class: "ways" }, all, where,
      button("‹", () => go(-1), { "aria-label": "Stronger one before" }),
      button("›", () => go(1), { "aria-label": "Next strongest" }))));
}

for (const article of articles) {
  const long = tokensOf(article).length > LONG && !article.querySelector(".picture");
  if (long) for (const method of methodsOf(article)) makeLegible(article, method);
}
