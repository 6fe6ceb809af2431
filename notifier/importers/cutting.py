"""Cuts a large JSON document into the objects a reader wants, without holding the document. No meaning in here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from notifier.importers.refusals import Refusal, refused

#: a string, its closing quote apart (none: it goes on in what was not read yet), or a bracket
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)|[][{}]', re.DOTALL)
#: all up to the next brace that stands in no string
_BRACE = re.compile(rb'(?:[^"{}]++|"(?:[^"\\]++|\\.)*+")*+([{}])', re.DOTALL)
_FIRST_READ, _LARGEST_READ = 65536, 4 * 1024 * 1024
_DEEPEST = 200


class Cut:
    """Yields (key, bytes) of every object of the document that stands

    - in an array of the outermost object: `key` is the array's name;
    - in an outermost array, or outermost itself, if `whole`: `key` is empty.

    Bytes are None for one larger than `largest`. Raises ListError where the document is broken or ends too early.
    """

    def __init__(self, stream: BinaryIO, *, whole: bool, largest: int) -> None:
        self._stream, self._whole, self._largest = stream, whole, largest
        self._at = 0
        self._buffer, self._position, self._size = b"", 0, _FIRST_READ

    def __iter__(self) -> Iterator[tuple[str, bytes | None]]:
        self._at, self._buffer, self._position = 0, b"", 0
        opened: list[int] = []
        key = text = b""
        while (token := self._token(is_open=bool(opened))) is not None:
            sign = token[0]
            if sign == 0x22:
                text = token[1:65] if len(opened) == 1 else text
            elif sign == 0x7B and self._is_wanted(opened):
                yield key.split(b'"')[0].decode("utf-8", "replace"), self._object()
            elif sign in b"{[":
                if sign == 0x5B and len(opened) == 1:
                    key = text
                opened.append(sign)
                if len(opened) > _DEEPEST:
                    raise refused(Refusal.JSON_DEPTH)
            elif not opened or opened.pop() != sign - 2:
                # } and ] stand two places after { and [
                raise refused(Refusal.JSON_BRACKET)

    def _is_wanted(self, opened: list[int]) -> bool:
        return opened in ([], [0x5B]) if self._whole else opened == [0x7B, 0x5B]

    def _token(self, is_open: bool) -> bytes | None:
        """The next string or bracket; None at the end."""
        while True:
            token = _TOKEN.search(self._buffer, self._position)
            if token is not None and token[1] != b"":
                self._position = token.end()
                return token[0]
            self._position = len(self._buffer) if token is None else token.start()
            if not self._read(self._position):
                if is_open or token is not None:
                    raise refused(Refusal.JSON_CUT_OFF)
                return None

    def _object(self) -> bytes | None:
        """The object whose opening brace was just read; None if it is too large to be kept."""
        start: int | None = self._position - 1
        depth = 1
        while depth:
            brace = _BRACE.match(self._buffer, self._position)
            if brace is None:
                if start is not None and len(self._buffer) - start > self._largest:
                    start = None
                kept = self._position if start is None else start
                if not self._read(kept):
                    raise refused(Refusal.JSON_CUT_OFF)
                start = None if start is None else 0
                continue
            depth += 1 if brace[1] == b"{" else -1
            self._position = brace.end()
        if start is None or self._position - start > self._largest:
            return None
        return self._buffer[start : self._position]

    def _read(self, kept: int) -> bool:
        """Reads on, twice as much each time; forgets what stands before `kept`. False at the end of the file."""
        if len(self._buffer) - self._position > self._largest:
            raise refused(Refusal.JSON_LONG_TEXT, most=self._largest)
        # several may read from one stream
        self._stream.seek(self._at)
        more = self._stream.read(self._size)
        self._at += len(more)
        self._size = min(self._size * 2, _LARGEST_READ) if kept == 0 else _FIRST_READ
        self._buffer = self._buffer[kept:] + more
        self._position -= kept
        return bool(more)
