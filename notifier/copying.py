"""Rows in PostgreSQL's binary COPY form, put together from bytes: a quarter of what adapters need for a row.

Source: PostgreSQL documentation, COPY, "Binary Format" (read 2026-11-25).
"""

from __future__ import annotations

import struct
from typing import Any

import psycopg

NULL = b"\xff\xff\xff\xff"
TRUE, FALSE = b"\x00\x00\x00\x01\x01", b"\x00\x00\x00\x01\x00"
_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_END = b"\xff\xff"
_INT2, _INT4, _INT8 = struct.Struct(">ih"), struct.Struct(">ii"), struct.Struct(">iq")
_LENGTH = struct.Struct(">i")
_FIELDS = struct.Struct(">h")


def int2(value: int) -> bytes:
    return _INT2.pack(2, value)


def int4(value: int) -> bytes:
    return _INT4.pack(4, value)


def int8(value: int) -> bytes:
    return _INT8.pack(8, value)


def raw(value: bytes | None) -> bytes:
    """A bytea."""
    return NULL if value is None else _LENGTH.pack(len(value)) + value


def text(value: str | None) -> bytes:
    return NULL if value is None else raw(value.encode(errors="replace"))


def boolean(value: bool | None) -> bytes:
    return NULL if value is None else TRUE if value else FALSE


def fields(count: int) -> bytes:
    """What stands before the fields of each row."""
    return _FIELDS.pack(count)


def copy(connection: psycopg.Connection[Any], table: str, rows: list[bytes]) -> None:
    """Sends rows (each `fields(n)` and its n fields) to a table; without any, does nothing."""
    if not rows:
        return
    statement = f"COPY {table} FROM STDIN (FORMAT BINARY)".encode()
    with connection.cursor() as cursor, cursor.copy(statement) as stream:
        stream.write(b"".join([_HEADER, *rows, _END]))
