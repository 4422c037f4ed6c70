"""Text from user data made harmless: nothing in it can move a cursor, start a line, or be endless."""

from __future__ import annotations

import reprlib
import unicodedata

ITEM_CHARS = 80
"""Longest text of one item: what fits beside its stage and error on a line of 120 columns."""
ERROR_CHARS = 200
"""Longest text of one exception: messages are often a sentence and a URL."""


def escape(text: str) -> str:
    """`text` on one line: control, bidi, line-break and other unprintable characters as backslash escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _backslash(c) for c in text)


def isolated(text: str) -> str:
    """`text` set apart, if it runs from right to left: else it would turn around the numbers beside it."""
    is_turned = not text.isascii() and any(unicodedata.bidirectional(c) in ("R", "AL") for c in text)
    return f"\u2068{text}\u2069" if is_turned else text


def _backslash(char: str) -> str:
    code = ord(char)
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    if char in short:
        return short[char]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def cut(text: str, most: int) -> str:
    """`text`, or its first characters and "..." if it has more than `most`."""
    return text if len(text) <= most else text[: most - 3] + "..."


class _Short(reprlib.Repr):
    """`repr` that looks at no more of a container, string or bytes than it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = ITEM_CHARS
        self.maxlevel = 3

    def repr_bytes(self, value: bytes, level: int) -> str:
        shown = repr(value[:ITEM_CHARS])
        return shown if len(value) <= ITEM_CHARS else shown + "..."


def plain(item: object) -> str:
    """An item as one short harmless line, whatever its `repr` does."""
    try:
        shown = _Short().repr(item)
    except Exception as error:  # noqa: BLE001 - a user's repr may raise anything; a summary must not
        shown = f"<{type(item).__name__}, repr raised {type(error).__name__}>"
    return cut(escape(shown), ITEM_CHARS)


def plain_error(error: BaseException) -> str:
    """An exception as "Type: message" on one short harmless line."""
    name = type(error).__name__
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - a user's __str__ may raise anything; a summary must not
        message = f"(its text raised {type(broken).__name__})"
    line = f"{name}: {message[:ERROR_CHARS]}" if message else name
    return cut(escape(line), ERROR_CHARS)
