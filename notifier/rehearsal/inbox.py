"""The rehearsal's mail server: takes every mail, delivers none, and keeps its own count.

It answers as French receivers do when it refuses (Orange's OFR, La Poste's LPN and SFR's codes, as their
postmaster pages and senders' reports give them; read 2026-11-25): an enhanced status code where they give one,
French words where they use them. A mail for several recipients is counted once for each.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time

from aiosmtpd.smtp import SMTP, Envelope, Session

from notifier.rehearsal.faults import Fate, Faults, Trouble, fate, latency_s, normal, share, trouble
from notifier.rehearsal.ledger import Ledger
from notifier.states import Channel

MAX_MAIL_BYTES = 10 * 1024 * 1024

UNKNOWN_USER = (
    "550 5.1.1 Adresse d'au moins un destinataire invalide. Invalid recipient. OFR_416",
    "550 5.1.1 User unknown in virtual mailbox table",
    "550 5.5.0 Destinataire invalide. Invalid recipient. LPN007_416",
    "550 5.2.1 This mailbox is disabled",
)
BUSY = (
    "421 4.7.0 Too many connections, slow down. OFR004_104",
    "450 4.7.1 Trop de messages, veuillez patienter. LPN027_503",
    "450 4.7.1 Limite de volume atteinte. SFR_IN_105",
    "451 4.7.1 Greylisted, please try again later",
)
BROKEN = ("451 4.3.0 Temporary local problem, please try later", "452 4.3.1 Insufficient system storage")
SENDER_REFUSED = (
    "550 5.7.1 Service refuse. Sender refused. LPN007_405",
    "550 5.7.1 Mail rejete. Mail rejected. OFR_506",
)


class Inbox:
    """The handler of every connection: aiosmtpd calls its `handle_…` methods.

    `faults` may be replaced at any moment.
    """

    def __init__(self, ledger: Ledger, faults: Faults, seed: int) -> None:
        self.ledger = ledger
        self.faults = faults
        self.seed = seed
        #: recipients asked for, whatever became of them
        self.tries = 0
        self._dice = random.Random(f"{seed} inbox")

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> asyncio.Server:
        """Listens on this loop. The real port is in `server.sockets[0].getsockname()[1]`."""
        # aiosmtpd logs addresses at its level INFO.
        logging.getLogger("mail.log").setLevel(logging.ERROR)
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: self._protocol(loop), host, port, backlog=512)

    def _protocol(self, loop: asyncio.AbstractEventLoop) -> SMTP:
        return SMTP(
            self,
            hostname="inbox.rehearsal.example",
            ident="Rehearsal inbox: nothing leaves this machine",
            data_size_limit=MAX_MAIL_BYTES,
            enable_SMTPUTF8=True,
            loop=loop,
        )

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Refuses at this stage: who is unknown, and part of what is only busy."""
        self.tries += 1
        await asyncio.sleep(latency_s(self.faults, self._dice))
        if self.faults.sender_refused:
            return self._dice.choice(SENDER_REFUSED)
        # One throw for the whole try: kept in the session for the end of DATA.
        session.trouble = trouble(self.faults, self._dice)  # type: ignore[attr-defined]  # aiosmtpd's own idiom
        if session.trouble is Trouble.CLOSED:  # type: ignore[attr-defined]
            return _hang_up(server, "421 4.3.2 Closing")
        if session.trouble is Trouble.THROTTLED:  # type: ignore[attr-defined]
            answer = self._dice.choice(BUSY)
            # RFC 5321 §3.8: a server that says 421 closes the connection, after the answer.
            if answer.startswith("421"):
                asyncio.get_running_loop().call_soon(_close, server)
            return answer
        if fate(self.faults, self.seed, address) is Fate.REFUSED:
            return UNKNOWN_USER[int(share(self.seed, "words", normal(address)) * len(UNKNOWN_USER))]
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Counts the mail, then answers: an answer that is lost does not undo the count."""
        kind = session.trouble  # type: ignore[attr-defined]  # set with each recipient
        if kind is Trouble.BROKEN:
            return self._dice.choice(BROKEN)
        content = envelope.content
        assert isinstance(content, bytes)
        for address in envelope.rcpt_tos:
            number = self.ledger.add(
                Channel.EMAIL,
                normal(address),
                content.decode("latin-1"),
                at=time.time(),
                sender=envelope.mail_from or "",
            )
        if kind is Trouble.LOST_REPLY:
            await asyncio.sleep(self.faults.lost_reply_hangs_s)
            return _hang_up(server, "421 4.3.2 Closing")
        return f"250 2.0.0 OK: taken as {number}"


def _hang_up(server: SMTP, answer: str) -> str:
    """Ends the connection so that `answer` is never read."""
    if isinstance(server.transport, asyncio.WriteTransport):
        server.transport.abort()
    return answer


def _close(server: SMTP) -> None:
    if server.transport is not None:
        server.transport.close()
