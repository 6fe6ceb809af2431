"""Only a domain that surely takes no mail is left out; the DNS is asked once for each, never for a person."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from notifier.checking import domains_of
from notifier.domains import Domains, Mail
from notifier.judging import Judged

ZONE = {
    ("mx.example.org.", "MX"): "10 mail.example.org.",
    ("null.example.org.", "MX"): "0 .",
    ("host.example.org.", "A"): "192.0.2.1",
    ("six.example.org.", "AAAA"): "2001:db8::1",
}
NAMES = {name for name, _ in ZONE} | {"empty.example.org."}
FAILS = {"fails.example.org.": dns.rcode.SERVFAIL}


class _Server(asyncio.DatagramProtocol):
    """A name server for the zone above; it does not answer for silent.example.org."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name, kind = str(question.name), dns.rdatatype.to_text(question.rdtype)
        self.asked[name] += 1
        if name == "silent.example.org.":
            return
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        answer.set_rcode(FAILS.get(name, dns.rcode.NOERROR if name in NAMES else dns.rcode.NXDOMAIN))
        if (name, kind) in ZONE:
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", kind, ZONE[name, kind]))
        self._transport.sendto(answer.to_wire(), addr)  # type: ignore[attr-defined]  # a datagram transport


@asynccontextmanager
async def _server() -> AsyncIterator[tuple[_Server, Domains]]:
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        _Server, local_addr=("127.0.0.1", 0)
    )
    resolver = dns.asyncresolver.Resolver(configure=False)
    host, port = transport.get_extra_info("sockname")[:2]
    resolver.nameservers, resolver.port = [host], port
    resolver.timeout = resolver.lifetime = 0.2
    try:
        yield server, Domains(resolver, per_second=10_000)
    finally:
        transport.close()


def test_what_the_dns_says_decides(monkeypatch):
    monkeypatch.setattr("notifier.domains.TIMEOUT_S", 0.3)

    async def run() -> None:
        async with _server() as (_, domains):
            answers = await domains.check(
                f"{name}.example.org" for name in ("mx", "null", "host", "six", "empty", "gone", "fails", "silent")
            )
            assert answers == {
                "mx.example.org": Mail.TAKEN,
                "null.example.org": Mail.REFUSED,
                "host.example.org": Mail.TAKEN,
                "six.example.org": Mail.TAKEN,
                "empty.example.org": Mail.NOBODY,
                "gone.example.org": Mail.NOBODY,
                "fails.example.org": Mail.UNKNOWN,
                "silent.example.org": Mail.UNKNOWN,
            }

    asyncio.run(run())


def test_only_what_surely_takes_no_mail_is_dead():
    async def run() -> None:
        async with _server() as (_, domains):
            names = ("mx", "null", "gone", "fails")
            assert await domains.dead(f"{name}.example.org" for name in names) == {
                "null.example.org", "gone.example.org"
            }  # fmt: skip

    asyncio.run(run())


def test_a_domain_is_asked_for_once_and_well_known_ones_never():
    async def run() -> None:
        async with _server() as (server, domains):
            for _ in range(3):
                answers = await domains.check(["mx.example.org", "gmail.com", "orange.fr", "free.fr"])
                assert set(answers.values()) == {Mail.TAKEN}
            assert server.asked == {"mx.example.org.": 1}

    asyncio.run(run())


def test_without_an_answer_it_is_asked_again():
    async def run() -> None:
        async with _server() as (server, domains):
            for _ in range(2):
                await domains.check(["fails.example.org"])
            assert server.asked["fails.example.org."] > 1

    asyncio.run(run())


def test_of_a_list_only_the_domains_are_asked_for():
    rows = [Judged(2, emails=["a@example.org", "b@example.fr"]), Judged(3, emails=["c@example.org"])]
    assert domains_of(rows) == {"example.org", "example.fr"}
