"""A receiver that is never the bottleneck: SMTP with PIPELINING, and HTTP that answers as Brevo does.

Run as a process of its own (`python -m bench.sink`): prints its two ports as JSON. `GET /counts` tells how many
distinct references came, and how many came again. What it reads of a message is only its reference.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys

_MESSAGE_ID = re.compile(rb"\r\nMessage-ID: <([^@>]+)@")
_WEB_URL = re.compile(rb'"webUrl":"[^"]*/([^"/]+)"')
_CUSTOM = re.compile(rb'"X-Mailin-custom":"([^"]+)"')
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)

seen: set[bytes] = set()
again = 0


def count(reference: bytes) -> None:
    global again
    if reference in seen:
        again += 1
    seen.add(reference)


class Smtp(asyncio.Protocol):
    """Just enough of RFC 5321 and RFC 2920."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.buffer = bytearray()
        self.in_data = False
        self.transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        answers = []
        while True:
            if self.in_data:
                end = self.buffer.find(b"\r\n.\r\n")
                if end < 0:
                    break
                if found := _MESSAGE_ID.search(self.buffer, 0, min(end, 2000)):
                    count(bytes(found[1]))
                del self.buffer[: end + 5]
                self.in_data = False
                answers.append(b"250 2.0.0 taken\r\n")
                continue
            end = self.buffer.find(b"\r\n")
            if end < 0:
                break
            word = bytes(self.buffer[:4]).upper()
            del self.buffer[: end + 2]
            if word == b"DATA":
                self.in_data = True
                answers.append(b"354 go\r\n")
            elif word == b"EHLO":
                answers.append(b"250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
            elif word == b"QUIT":
                answers.append(b"221 bye\r\n")
                self.transport.write(b"".join(answers))
                self.transport.close()
                return
            else:
                answers.append(b"250 2.0.0 fine\r\n")
        if answers:
            self.transport.write(b"".join(answers))


class Http(asyncio.Protocol):
    """Just enough of HTTP/1.1 for one client that keeps its connection."""

    delay_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.buffer = bytearray()
        self.wanted = 0

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        # A batch comes in hundreds of pieces: its head is looked for once.
        while len(self.buffer) >= self.wanted and (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.buffer[: end + 2])
            length = int(found[1]) if (found := _LENGTH.search(head)) else 0
            self.wanted = end + 4 + length
            if len(self.buffer) < self.wanted:
                return
            body = bytes(self.buffer[end + 4 : self.wanted])
            del self.buffer[: self.wanted]
            self.wanted = 0
            if head.startswith(b"GET /counts"):
                self.answer(200, json.dumps({"distinct": len(seen), "again": again}).encode())
                continue
            content = taken(head, body)
            if self.delay_s:
                asyncio.get_running_loop().call_later(self.delay_s, self.answer, 201, content)
            else:
                self.answer(201, content)

    def answer(self, status: int, content: bytes) -> None:
        self.transport.write(
            b"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (status, len(content), content)
        )


def taken(head: bytes, body: bytes) -> bytes:
    """Counts the references of an SMS, an email, or a batch of emails; returns Brevo's answer."""
    if not head.startswith(b"POST /v3/smtp/email "):
        if found := _WEB_URL.search(body):
            count(found[1])
        return b'{"reference":"r","messageId":%d}' % len(seen)
    ids = []
    for reference in _CUSTOM.findall(body):
        count(reference)
        ids.append(b'"<%d.%d@sink.example.org>"' % (len(seen), again))
    if b'"messageVersions":' in body:
        return b'{"messageIds":[%b]}' % b",".join(ids)
    return b'{"messageId":%b}' % ids[0]


async def main(delay_ms: float) -> None:
    loop = asyncio.get_running_loop()
    Http.delay_s = delay_ms / 1000
    smtp = await loop.create_server(Smtp, "127.0.0.1", 0, backlog=512)
    http = await loop.create_server(Http, "127.0.0.1", 0, backlog=512)
    ports = {"smtp": smtp.sockets[0].getsockname()[1], "http": http.sockets[0].getsockname()[1]}
    print(json.dumps(ports), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 0))
