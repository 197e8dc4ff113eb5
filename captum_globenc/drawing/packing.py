"""What a page knows of its texts, made small: what all share once, and scores as the bytes of their numbers.

Nothing is lost: `browser/data.js` makes every object, and every number, what it was. N tokens.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["pack"]


def pack(objects: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return lines of JSON: what all objects share, and what each has of its own.

    Args:
        objects: What JSON can hold of each text. Its "scores", rows of N numbers by name, and its "layers",
            several such rows by name, become strings: base64 of N floats of 4 bytes where that is what the
            numbers are, as those of most models, else of 8; the lowest byte first.

    Returns:
        One line more than there are objects.

    Example:
        >>> pack([{"unit": "%", "scores": {"a": [0.5, 1.0]}}, {"unit": "%", "scores": {"a": [0.1]}}])
        ['{"unit":"%"}', '{"scores":{"a":"AAAAPwAAgD8="}}', '{"scores":{"a":"mpmZmZmZuT8="}}']
    """
    fields = [{name: _as_json(_packed(name, value)) for name, value in it.items()} for it in objects]
    first, *others = fields or [{}]
    shared = {
        name: value for name, value in first.items() if others and all(it.get(name) == value for it in others)
    }
    own = [{name: value for name, value in it.items() if name not in shared} for it in fields]
    return ["{" + ",".join(f"{_as_json(name)}:{it[name]}" for name in it) + "}" for it in (shared, *own)]


def _as_json(value: object) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _packed(name: str, value: Any) -> Any:
    if name == "scores":
        return {method: _as_bytes(row) for method, row in value.items()}
    if name == "layers":
        return {method: [*map(_as_bytes, rows)] for method, rows in value.items()}
    return value


def _as_bytes(row: Sequence[float]) -> str:
    """Return the bytes of numbers in base64."""
    try:
        made = struct.pack(f"<{len(row)}f", *row)
    except OverflowError:  # too large for four bytes
        made = b""
    if struct.unpack(f"<{len(made) // 4}f", made) != tuple(row):
        made = struct.pack(f"<{len(row)}d", *row)
    return base64.b64encode(made).decode()
