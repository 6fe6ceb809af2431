"""Reads HTTP/1.1 responses strictly, without a connection: bytes in, a response out (RFC 9112)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_HEAD_BYTES = 32 * 1024
MAX_BODY_BYTES = 4 * 1024 * 1024

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?")
_TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")


@dataclass(frozen=True, slots=True)
class Response:
    """An answer that came whole. Names of headers are in lower case; of a repeated one the first counts."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


class Answer:
    """Reads one response, in whatever pieces it comes (RFC 9112).

    `feed` and `end` raise ValueError for what is no response, is framed in two ways, or is too large.
    """

    def __init__(self) -> None:
        self.keep = False
        self._buffer = bytearray()
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        #: bytes of the body; None until the connection closes
        self._length: int | None = None
        self._chunked = False
        self._chunks: list[bytes] = []
        self._chunked_bytes = 0

    def feed(self, data: bytes) -> Response | None:
        """The response once it is whole. What comes after it makes the connection unfit for another."""
        self._buffer += data
        while not self._status:
            if not self._read_head():
                return None
        body: bytes | None = None
        if self._chunked:
            body = self._read_chunks()
        elif self._length is not None and len(self._buffer) >= self._length:
            body = bytes(self._buffer[: self._length])
            del self._buffer[: self._length]
        elif len(self._buffer) > MAX_BODY_BYTES:
            raise ValueError("body too large")
        if body is None:
            return None
        self.keep = self.keep and not self._buffer
        return Response(self._status, self._headers, body)

    def end(self) -> Response:
        """The response that ends with its connection (RFC 9112 §6.3)."""
        if not self._status or self._chunked or self._length is not None:
            raise ValueError("broken off")
        return Response(self._status, self._headers, bytes(self._buffer))

    def _read_head(self) -> bool:
        """Whether there was a head: one of the response, or one before it (1xx)."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD_BYTES:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise ValueError("head too large")
            return False
        first, *lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        matched = _STATUS.fullmatch(first)
        if matched is None:
            raise ValueError("no status line")
        status = int(matched[2])
        headers = _fields(lines)
        if status < 200:
            if status == 101:
                raise ValueError("another protocol")
            return True
        self._status, self._headers = status, headers
        self._frame(http_1_1=matched[1] == b"1")
        return True

    def _frame(self, *, http_1_1: bool) -> None:
        length, coding = self._headers.get(b"content-length"), self._headers.get(b"transfer-encoding")
        if coding is not None and (length is not None or not http_1_1 or coding.lower() != b"chunked"):
            raise ValueError("unclear framing")
        self._chunked = coding is not None
        if self._status in (204, 304):
            self._length, self._chunked = 0, False
        elif length is not None:
            if not length.isdigit() or len(length) > 9 or int(length) > MAX_BODY_BYTES:
                raise ValueError("unfit length")
            self._length = int(length)
        options = self._headers.get(b"connection", b"").lower()
        self.keep = http_1_1 and b"close" not in options and (self._chunked or self._length is not None)

    def _read_chunks(self) -> bytes | None:
        while (end := self._buffer.find(b"\r\n")) >= 0:
            matched = _CHUNK_SIZE.fullmatch(self._buffer[:end])
            if matched is None:
                raise ValueError("no chunk size")
            size = int(matched[1], 16)
            if size == 0:
                return self._read_trailers(end)
            self._chunked_bytes += 0 if len(self._buffer) < end + 4 + size else size
            if size > MAX_BODY_BYTES or self._chunked_bytes > MAX_BODY_BYTES:
                raise ValueError("body too large")
            if len(self._buffer) < end + 4 + size:
                return None
            if self._buffer[end + 2 + size : end + 4 + size] != b"\r\n":
                raise ValueError("no end of chunk")
            self._chunks.append(bytes(self._buffer[end + 2 : end + 2 + size]))
            del self._buffer[: end + 4 + size]
        if len(self._buffer) > MAX_HEAD_BYTES:
            raise ValueError("no chunk size")
        return None

    def _read_trailers(self, start: int) -> bytes | None:
        # They say nothing we need; the last one is followed by an empty line.
        end = self._buffer.find(b"\r\n\r\n", start)
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise ValueError("trailers too large")
            return None
        del self._buffer[: end + 4]
        return b"".join(self._chunks)


def _fields(lines: list[bytes]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name.translate(None, _TOKEN) or b"\n" in value or b"\r" in value:
            raise ValueError("unreadable header")
        name, value = name.lower(), value.strip(b" \t")
        if name in fields and name in (b"content-length", b"transfer-encoding") and fields[name] != value:
            raise ValueError("unclear framing")
        fields.setdefault(name, value)
    return fields
