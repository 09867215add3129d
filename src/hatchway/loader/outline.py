"""What a stream yields, in a line and in a number: for messages, and to know it again. Pure."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

_LONGEST_TEXT = 60
_LONGEST_OUTLINE = 200
_MOST_WORDS = 256
# Of large parts both ends are looked at: all of them would cost as much as reading them.
_END_BYTES = 4096


def outline(item: Any) -> tuple[str, int]:
    """The text of an item without its bulk, and its checksum.

    The same item has the same checksum in every process and at every start: it is made of
    text, numbers, sizes and the ends of what is large. Of other objects the type counts.
    """
    pen = _Pen()
    pen.write(item)
    text = "".join(pen.words)
    if len(text) > _LONGEST_OUTLINE:
        text = text[: _LONGEST_OUTLINE - 3] + "..."
    return text, pen.checksum


def _bytes_of(tensor: torch.Tensor) -> Any:
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    return plain.contiguous().flatten().view(torch.uint8).numpy()


class _Pen:
    def __init__(self) -> None:
        self.words: list[str] = []
        self.checksum = 0

    def write(self, item: Any) -> None:
        if isinstance(item, functools.partial):
            named = getattr(item.func, "__qualname__", type(item.func).__qualname__)
            keywords = [part for pair in item.keywords.items() for part in pair]
            self._all(f"{type(item).__name__}({named}, ", [*item.args, *keywords], ")")
        elif type(item) in (tuple, list):
            opening, closing = "()" if type(item) is tuple else "[]"
            self._all(opening, item, closing)
        elif type(item) is dict:
            self._all("{", [part for pair in item.items() for part in pair], "}")
        elif isinstance(item, bytes | bytearray):
            self._bulk(f"<{len(item)} bytes>", memoryview(item))
        elif isinstance(item, np.ndarray) and not item.dtype.hasobject:
            self._array(item)
        elif type(item) is torch.Tensor and item.layout is torch.strided and not item.is_quantized:
            self._array(_bytes_of(item), item)
        elif isinstance(item, str):
            shown = item if len(item) <= _LONGEST_TEXT else item[: _LONGEST_TEXT - 3] + "..."
            self.words.append(repr(shown))
            self._count(item)
        elif isinstance(item, bool | int | float | complex | None):
            self._say(repr(item))
        else:
            self._say(f"<{type(item).__qualname__}>")

    def _all(self, opening: str, parts: Sequence[Any], closing: str) -> None:
        self._say(opening)
        for number, part in enumerate(parts):
            if len(self.words) > _MOST_WORDS:
                self.words.append("...")
                break
            if number:
                self.words.append(", ")
            self.write(part)
        self._count(str(len(parts)))
        self._say(closing)

    def _array(self, content: Any, shown: Any = None) -> None:
        shown = content if shown is None else shown
        flat = np.ascontiguousarray(content).reshape(-1)
        text = f"<{type(shown).__name__} {tuple(shown.shape)} {shown.dtype}>"
        self._bulk(text, flat.view(np.uint8).data if flat.nbytes else memoryview(b""))

    def _bulk(self, text: str, content: memoryview) -> None:
        self._say(text)
        for end in (content[:_END_BYTES], content[-_END_BYTES:]):
            self.checksum = zlib.crc32(end, self.checksum)

    def _say(self, text: str) -> None:
        self.words.append(text)
        self._count(text)

    def _count(self, text: str) -> None:
        self.checksum = zlib.crc32(text.encode(errors="surrogatepass"), self.checksum)
