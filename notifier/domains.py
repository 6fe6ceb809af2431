"""Asks the DNS whether the domains of a list take mail: only when asked to, by domain, never by person.

A domain that surely takes none (RFC 5321 §5.1, RFC 7505) is handed to `judging.Setting.dead_domains`. One that the
DNS does not answer for stays in use: an outage at the time of an import must not throw patients away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from enum import StrEnum

import dns.asyncresolver
import dns.exception
import dns.rdata
import dns.resolver

from notifier.addresses import is_well_known

#: questions a second to the resolver, and questions under way at a time
PER_SECOND, AT_ONCE = 50, 20
TIMEOUT_S = 5.0


class Mail(StrEnum):
    """What the DNS says about mail for one domain."""

    #: it has a mail server, or a host that is one without saying so
    TAKEN = "taken"
    #: it says that it takes none (RFC 7505)
    REFUSED = "refused"
    #: there is no such domain, or it has no host at all
    NOBODY = "nobody"
    #: no answer: try again later, and meanwhile write to it
    UNKNOWN = "unknown"


class Domains:
    """Asks once for each domain and remembers the answer, as long as it lives."""

    def __init__(self, resolver: dns.asyncresolver.Resolver | None = None, per_second: float = PER_SECOND) -> None:
        self._resolver = resolver
        self._pause_s = 1 / per_second
        self._known: dict[str, Mail] = {}

    async def check(self, domains: Iterable[str]) -> dict[str, Mail]:
        """What is known of each domain (lower case, ASCII). Never raises for what the DNS does or does not say."""
        wanted = set(domains)
        asked = sorted(domain for domain in wanted - self._known.keys() if not is_well_known(domain))
        resolver = self._resolver or dns.asyncresolver.Resolver()
        places = asyncio.Semaphore(AT_ONCE)
        start = asyncio.get_running_loop().time()

        async def ask(number: int, domain: str) -> tuple[str, Mail]:
            await asyncio.sleep(start + number * self._pause_s - asyncio.get_running_loop().time())
            async with places:
                return domain, await _ask(resolver, domain)

        answers = dict(await asyncio.gather(*(ask(number, domain) for number, domain in enumerate(asked))))
        self._known |= {domain: mail for domain, mail in answers.items() if mail is not Mail.UNKNOWN}
        return {domain: self._known.get(domain) or answers.get(domain, Mail.TAKEN) for domain in wanted}

    async def dead(self, domains: Iterable[str]) -> frozenset[str]:
        """Those of the domains that surely take no mail."""
        checked = await self.check(domains)
        return frozenset(domain for domain, mail in checked.items() if mail in (Mail.REFUSED, Mail.NOBODY))


async def _ask(resolver: dns.asyncresolver.Resolver, domain: str) -> Mail:
    try:
        servers = await _records(resolver, domain, "MX")
        if servers:
            names = [server.to_text().partition(" ")[2] for server in servers]
            return Mail.REFUSED if names == ["."] else Mail.TAKEN
        hosts = await _records(resolver, domain, "A") or await _records(resolver, domain, "AAAA")
    except dns.resolver.NXDOMAIN:
        return Mail.NOBODY
    except (dns.exception.DNSException, OSError):
        return Mail.UNKNOWN
    return Mail.TAKEN if hosts else Mail.NOBODY


async def _records(resolver: dns.asyncresolver.Resolver, domain: str, kind: str) -> list[dns.rdata.Rdata]:
    answer = await resolver.resolve(domain, kind, raise_on_no_answer=False, lifetime=TIMEOUT_S)
    return list(answer.rrset or ())
