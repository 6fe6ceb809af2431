"""Responses are read strictly, wherever the network cuts them; what is no response, or two at once, is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.providers import http_answer
from notifier.providers.http_answer import Answer, Response

WHOLE = [
    (b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\nX-A: b \r\n\r\nbody", 201, b"body", True),
    (b"HTTP/1.1 201\r\ncontent-length:0\r\n\r\n", 201, b"", True),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: Close\r\n\r\nok", 200, b"ok", False),
    (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, b"ok", False),
    (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 400 Bad\r\ncontent-length: 1\r\n\r\n!", 400, b"!", True),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n4\r\nab\r\n\r\n3;x=y\r\ncde\r\n0\r\n\r\n", 200, b"ab\r\ncde", True),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0A \r\n0123456789\r\n0\r\nx: y\r\nz: 1\r\n\r\n", 200, b"0123456789", True),
]  # fmt: skip


def read(*pieces: bytes) -> tuple[Answer, Response | None]:
    answer, response = Answer(), None
    for piece in pieces:
        assert response is None, "whole before its end"
        response = answer.feed(piece)
    return answer, response


@pytest.mark.parametrize(("data", "status", "body", "keep"), WHOLE)
def test_a_response_is_read_whole(data: bytes, status: int, body: bytes, keep: bool):
    answer, response = read(data)
    assert response is not None
    assert (response.status, response.body, answer.keep) == (status, body, keep)


@given(st.sampled_from(WHOLE), st.lists(st.integers(1, 120), max_size=6))
def test_where_it_is_cut_changes_nothing(whole: tuple[bytes, int, bytes, bool], cuts: list[int]):
    data = whole[0]
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in pairwise(places)]
    answer, response = read(*pieces)
    assert response is not None
    assert (response.status, response.body, answer.keep) == whole[1:]


@pytest.mark.parametrize("data", [one[0] for one in WHOLE])
def test_byte_by_byte(data: bytes):
    assert read(*(data[place : place + 1] for place in range(len(data))))[1] is not None


def test_any_number_of_heads_may_come_before():
    _, response = read(
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5000 + b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n"
    )
    assert response is not None
    assert response.status == 201


def test_names_of_headers_are_in_lower_case_and_their_values_trimmed():
    _, response = read(b"HTTP/1.1 200 OK\r\nX-Sib-RateLimit-Reset: \t7 \r\ncontent-length: 0\r\n\r\n")
    assert response is not None
    assert response.headers[b"x-sib-ratelimit-reset"] == b"7"


def test_a_body_without_a_length_ends_with_the_connection():
    answer, response = read(b"HTTP/1.1 201 Created\r\n\r\n{", b"}")
    assert response is None
    assert answer.end().body == b"{}"
    assert not answer.keep


def test_bytes_after_a_response_make_the_connection_unfit():
    answer, response = read(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n")
    assert response is not None
    assert response.body == b"{}"
    assert not answer.keep


@pytest.mark.parametrize(
    "data",
    [
        b"220 smtp.example.org ESMTP\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 099 no\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nspace : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\nc: d\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabcd",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n",
    ],
)
def test_what_is_no_response_or_could_be_two_is_refused(data: bytes):
    with pytest.raises(ValueError):
        Answer().feed(data)


@pytest.mark.parametrize(
    "endless",
    [
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"4000\r\n" + b"x" * 0x4000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1;" + b"x" * 1000),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7fffffff\r\n", b"x" * 65536),
    ],
)
def test_no_server_can_fill_our_memory(endless: tuple[bytes, bytes]):
    assert fed_until_refused(*endless) <= http_answer.MAX_BODY_BYTES + 65536


def fed_until_refused(start: bytes, more: bytes) -> int:
    """Bytes of an endless response that were taken."""
    answer, fed = Answer(), 0
    try:
        answer.feed(start)
        while fed <= 2 * http_answer.MAX_BODY_BYTES:
            assert answer.feed(more) is None
            fed += len(more)
    except ValueError:
        return fed
    raise AssertionError("taken without end")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 201 Cre",
        b"HTTP/1.1 201 Created\r\ncontent-length: 3\r\n\r\n{}",
        b"HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
    ],
)
def test_what_breaks_off_is_no_response(data: bytes):
    answer = Answer()
    assert answer.feed(data) is None
    with pytest.raises(ValueError):
        answer.end()
