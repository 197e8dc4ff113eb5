// The numbers of a piece, on hover and on focus. Arrow keys go from piece to piece, in a picture also up and down.

const tip = make("div", { id: "tip", role: "tooltip", hidden: "" });
document.body.append(tip);

/** Return the scores of some tokens by every method, and after every layer. */
function numbersOf(article, tokens) {
  const record = recordOf(article);
  const methods = methodsOf(article);
  const rows = [["score", ...methods.map((it) => number(total(shownScores(article, it.name), tokens), it.unit))]];
  const last = Math.max(...methods.map((it) => it.first + depthsOf(record, it).length - 1));
  const deep = methods.some((it) => depthsOf(record, it).length);
  for (let layer = Math.min(...methods.map((it) => it.first)); deep && layer <= last; layer += 1) {
    const cells = methods.map((it) => {
      const row = depthsOf(record, it)[layer - it.first];
      return row ? number(total(row, tokens), it.unit) : "";
    });
    rows.push([`after layer ${layer}`, ...cells]);
  }
  return table("numbers", ["", ...methods.map(named)], rows);
}

/** Return the note on tokens whose contributions end at exactly 0. */
function unread(article, tokens) {
  const record = recordOf(article);
  const ends = methodsOf(article).filter((it) => {
    const last = depthsOf(record, it).at(-1);
    return last && it.first === 0 && total(record.scores[it.name], tokens) !== 0 && total(last, tokens) === 0;
  });
  return ends.length ? [make("p", { class: "note" }, "0 after the last layer: the head does not read this position.")] : [];
}

/** Return the same piece in all methods. */
function sameAs(piece) {
  const place = placeOf(piece);
  return methodsOf(piece.closest("article")).map((it) => piecesOf(it.element)[place]);
}

let shown = null;
let stays = false; // while its piece has the focus, independent of the pointer

function showTip(piece, focused = false) {
  hideTip();
  shown = piece;
  stays = focused;
  for (const it of sameAs(piece)) it.classList.add("same");
  piece.removeAttribute("title"); // otherwise the browser also shows it
  piece.setAttribute("aria-describedby", "tip");
  const article = piece.closest("article");
  tip.replaceChildren(
    make("b", { dir: "auto" }, piece.textContent),
    ...(piece.dataset.note ? [make("p", { class: "note" }, piece.dataset.note)] : []),
    numbersOf(article, tokensOf(article)[placeOf(piece)]),
    ...unread(article, tokensOf(article)[placeOf(piece)]),
  );
  tip.hidden = false;
  placeTip();
}

/** Place the numbers below their piece, or above it if there is more space. */
function placeTip() {
  const at = shown.getClientRects()[0] ?? shown.getBoundingClientRect();
  const { clientWidth: width, clientHeight: height } = document.documentElement;
  const below = at.bottom + 6;
  const fits = below + tip.offsetHeight <= height || at.top < height - at.bottom;
  tip.style.top = `${Math.max(0, fits ? below : at.top - 6 - tip.offsetHeight)}px`;
  tip.style.left = `${Math.max(4, Math.min(at.left, width - tip.offsetWidth - 4))}px`;
}

function hideTip() {
  if (!shown) return;
  for (const it of sameAs(shown)) it.classList.remove("same");
  shown.removeAttribute("aria-describedby");
  shown = null;
  tip.hidden = true;
}

/** Make a piece the only one of its line that Tab reaches. */
function reach(piece) {
  piece.closest(".shaded").querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
  piece.setAttribute("tabindex", "0");
  piece.setAttribute("role", "button");
  piece.setAttribute("aria-haspopup", "dialog");
}

/** Move the focus to a piece, after an arrow key. */
function goTo(piece, scroll = "nearest") {
  reach(piece);
  piece.focus({ preventScroll: true });
  piece.scrollIntoView({ block: scroll, inline: "nearest" });
  showTip(piece, true);
}

/** Return whether a piece is neither folded nor a hidden special token. */
const isShown = (piece) => !piece.closest(".folded[hidden], .without-special .special");

/** Make sure that Tab reaches a visible piece. */
function keepReachable(shaded) {
  const reached = shaded.querySelector('[tabindex="0"]');
  const piece = reached && isShown(reached) ? reached : piecesOf(shaded).find(isShown);
  if (piece) reach(piece);
}

function move(piece, key) {
  const pieces = piecesOf(piece.closest(".shaded"));
  const along = getComputedStyle(piece.closest(".tokens")).direction === "rtl" ? -1 : 1;
  const across = piece.closest(".picture") ? recordOf(piece.closest("article")).picture.widths.length : NaN;
  const step = { ArrowRight: along, ArrowLeft: -along, ArrowDown: across, ArrowUp: -across, Home: 1, End: -1 }[key];
  const start = { Home: 0, End: pieces.length - 1 }[key] ?? pieces.indexOf(piece) + step;
  for (let place = start; place >= 0 && place < pieces.length; place += step) {
    if (isShown(pieces[place])) return goTo(pieces[place]);
  }
}

main.querySelectorAll(".shaded").forEach(keepReachable);

main.addEventListener("pointerover", (event) => {
  const piece = event.target.closest(PIECE);
  if (piece && piece !== shown && event.pointerType === "mouse") showTip(piece);
});
main.addEventListener("pointerout", (event) => {
  if (event.target.closest(PIECE) && !stays) hideTip();
});
main.addEventListener("focusin", (event) => {
  const piece = event.target.closest(PIECE);
  if (piece?.matches(":focus-visible")) showTip(piece, true);
});
main.addEventListener("focusout", hideTip);
document.addEventListener("scroll", () => shown && (stays ? placeTip() : hideTip()), { passive: true });
main.addEventListener("click", (event) => {
  const piece = event.target.closest(PIECE);
  if (piece) openPanel(piece);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") return shown ? hideTip() : closePanel();
  const piece = event.target.closest?.(PIECE);
  if (!piece || event.ctrlKey || event.metaKey || event.altKey) return;
  const ways = ["ArrowLeft", "ArrowRight", "Home", "End", ...(piece.closest(".picture") ? ["ArrowUp", "ArrowDown"] : [])];
  if (ways.includes(event.key)) move(piece, event.key);
  else if (["Enter", " "].includes(event.key)) openPanel(piece);
  else return;
  event.preventDefault();
});
