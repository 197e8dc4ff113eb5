"""The form of the web demo, and the link that restores it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.texts.methods import DEFAULT_METHODS, MAIN_METHODS
from captum_globenc.texts.request import BASELINES

__all__ = ["LONGEST_LINK", "LONGEST_TEXT", "TYPED", "Form"]

LONGEST_TEXT = 20_000
"""Maximum number of characters of a text, far more than a model reads."""
LONGEST_LINK = 6_000
"""Maximum number of characters of a link; some servers reject longer ones."""

TYPED = ("text", "pair", "model", "position", "target", "against")
"""The free-text fields of a form."""
SWITCHES = ("words", "special", "windows")
NUMBERS = ("layer", "result")
LARGEST = 999
"""Maximum of the fields in `NUMBERS`."""


class Form(NamedTuple):
    """The fields of the page, and of a link to it.

    Attributes:
        text: The text.
        pair: The second segment, or the answer to a prompt, or "".
        model: A folder or a hub name, or "" for the first model of the demo.
        mixing: The mixing of GlobEnc.
        methods: Keys of `captum_globenc.texts.methods.MAIN_METHODS`.
        words: Whether tokens are merged into words.
        special: Whether special tokens are shown.
        position: The token that GlobEnc explains: its index, "mean", or "" for the token that the head pools.
        target: The explained class, by name or index, or "" for the predicted class.
        against: The contrast class, or a contrast answer, or "".
        baseline: The baseline, one of `captum_globenc.texts.BASELINES`.
        windows: Whether long texts are split into windows.
        layer: The layer after which GlobEnc's shares are shown, from 1; 0 for the last.
        result: The index of the shown explanation, if a text has several, such as one per entity.
    """

    text: str = ""
    pair: str = ""
    model: str = ""
    mixing: str = "N-Enc"
    methods: Sequence[str] = DEFAULT_METHODS
    words: bool = True
    special: bool = True
    position: str = ""
    target: str = ""
    against: str = ""
    baseline: str = "mask"
    windows: bool = False
    layer: int = 0
    result: int = 0

    def link(self) -> str:
        """Return the query string of the fields that differ from the defaults; "" if it is too long.

        Example:
            >>> Form("not bad", words=False).link()
            '?text=not+bad&words=0'
        """
        usual, changed = _as_text(Form()), _as_text(self)
        link = "?" + urlencode({name: value for name, value in changed.items() if value != usual[name]})
        return link if len(link) <= LONGEST_LINK else ""

    def fields(self) -> list[Any]:
        """Return the values of all fields except `layer` and `result`, in order."""
        return [*self._replace(methods=list(self.methods))[: -len(NUMBERS)]]

    @classmethod
    def of(cls, query: Mapping[str, Any]) -> "Form":
        """Restore a form from a query; invalid values are replaced by the defaults.

        Texts that are too long are not shortened, so that the error message can state their length.

        Example:
            >>> Form.of({"text": "not bad", "mixing": "N-Nothing"}) == Form("not bad")
            True
        """
        given = {name: str(query[name]) for name in cls._fields if name in query}
        made: dict[str, Any] = {
            name: value if name in ("text", "pair", "against") else value.strip()
            for name, value in given.items()
            if name in TYPED
        }
        for name, known in (("mixing", MIXINGS), ("baseline", BASELINES)):
            if given.get(name) in known:
                made[name] = given[name]
        made |= {name: given[name] in ("1", "true") for name in SWITCHES if given.get(name)}
        chosen = given.get("methods", "").split(",")
        for name in NUMBERS:
            number = given.get(name, "")
            if number.isdecimal() and len(number) <= len(str(LARGEST)):
                made[name] = int(number)
        methods = tuple(name for name in MAIN_METHODS if name in chosen)
        return cls(**made, methods=methods or DEFAULT_METHODS)


def _as_text(form: Form) -> dict[str, str]:
    values = {**form._asdict(), "methods": ",".join(form.methods)}
    return {name: str(int(it)) if isinstance(it, bool) else str(it) for name, it in values.items()}
