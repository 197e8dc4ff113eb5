"""Names that are not known: the message, with the nearest names that are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

__all__ = ["unknown_names"]


def unknown_names(what: str, names: Iterable[object], known: Sequence[str]) -> str:
    """Return the message for names that are not known.

    Args:
        what: What the names are of, such as "method".
        names: The names that are not known.
        known: All names that are.

    Example:
        >>> unknown_names("method", ["Glob_Enc"], ["globenc", "decompx"])
        'no method Glob_Enc; known: globenc, decompx; did you mean globenc?'
    """
    spelled = {name.lower(): name for name in known}
    wrong = [str(name) for name in names]
    found = [get_close_matches(name.lower().replace("_", "-"), spelled, n=1) for name in wrong]
    nearest = ", ".join(dict.fromkeys(spelled[name] for names in found for name in names))
    message = f"no {what} {', '.join(wrong)}; known: {', '.join(known)}"
    return f"{message}; did you mean {nearest}?" if nearest else message
