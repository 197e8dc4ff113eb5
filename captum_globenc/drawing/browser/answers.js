// The answer of a language model: selecting one of its tokens, or its column in the heat map, shades the prompt by the
// scores for that token.

/** Shade the pieces of every method by the selected answer token. */
function shadeAgain(article) {
  for (const method of methodsOf(article)) {
    const scores = tokensOf(article).map((tokens) => total(shownScores(article, method.name), tokens));
    strengths(scores).forEach((strength, place) => {
      const look = shade(strength, method.unit);
      const piece = piecesOf(method.element)[place];
      piece.classList.remove("for", "against", "share");
      piece.classList.add(look.class);
      piece.setAttribute("style", look.style);
      piece.removeAttribute("title"); // it has the score of the whole answer
    });
  }
}

/** Select a token of an answer; selecting it again, or none, selects the whole answer. */
function select(article, token) {
  const buttons = [...article.querySelectorAll(".answer button")];
  if (token === undefined || selected.get(article) === token) selected.delete(article);
  else selected.set(article, token);
  buttons.forEach((it, place) => {
    it.setAttribute("aria-pressed", String(selected.get(article) === place));
    it.tabIndex = place === (token ?? 0) ? 0 : -1;
  });
  shadeAgain(article);
  const chosen = buttons[selected.get(article)];
  say(chosen ? `shaded by “${chosen.textContent}” of the answer` : "shaded by the whole answer");
}

for (const article of articles) {
  if (!article.querySelector(".answer") || !Object.keys(recordOf(article).answer_scores ?? {}).length) continue;
  const answer = article.querySelector(".answer .tokens");
  [...answer.querySelectorAll("span")].forEach((it, place) => {
    const attributes = { title: it.title, "aria-pressed": "false", tabindex: place ? "-1" : "0" };
    it.replaceWith(button(it.textContent, () => select(article, place), attributes));
  });
  answer.before(make("p", { class: "note" }, "Select a token to shade the prompt by it."));
  answer.addEventListener("keydown", (event) => {
    const buttons = [...answer.querySelectorAll("button")];
    const place = buttons.indexOf(event.target);
    const next = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (event.key === "Escape") select(article);
    else if (buttons[next]) {
      select(article, next);
      buttons[next].focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  for (const map of article.querySelectorAll(".squares")) {
    map.addEventListener("click", (event) => {
      const cell = event.target.closest("td, th[scope=col]");
      if (!cell?.cellIndex) return;
      if (selected.get(article) !== cell.cellIndex - 1) select(article, cell.cellIndex - 1);
      if (cell.title) say(`${cell.parentElement.cells[0].textContent} → ${cell.title}`);
    });
  }
}
