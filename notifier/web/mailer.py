"""Sends the links that accounts wait for, through the deployment's own email provider.

What is to be sent stands in the database, without its secret: a link is made when its email goes out, so that a
copy of the table opens nothing. Beside the queue of notices: who signs in must not wait behind fifteen million.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from notifier import accounts
from notifier.accounts import Letter, Mail
from notifier.errors import NotifierError
from notifier.notices import Frozen
from notifier.providers.base import Kind, Message, Provider
from notifier.providers.brevo_email import BrevoEmailProvider
from notifier.providers.smtp import SmtpProvider
from notifier.settings import Settings
from notifier.store import Database
from notifier.web import uploads
from notifier.web.texts import Texts

log = structlog.get_logger()

#: how often to look without being woken, in seconds: other processes ask too
LOOK_S = 2.0
_TIDY_EVERY = timedelta(hours=1)


def email_provider(settings: Settings) -> Provider:
    """The provider of `email_provider`, of this process alone."""
    if settings.email_provider == BrevoEmailProvider.name:
        return BrevoEmailProvider(settings.brevo_email)
    return SmtpProvider(settings.smtp, settings.time_scale)


class Mailer:
    """One task on the server's loop. Several processes may run one each."""

    def __init__(self, settings: Settings, database: Database, provider: Provider | None = None) -> None:
        """Raises SettingsError if the words of the emails cannot be read."""
        self.settings = settings
        self.database = database
        self.provider = provider or email_provider(settings)
        self.texts = Texts(Path(settings.templates_dir) / "web" / "texts")
        self._wake: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tidied: datetime | None = None

    def wake(self) -> None:
        """Says that something waits; from any thread."""
        if self._loop is not None and self._wake is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Sends what waits, until cancelled. A database or provider that is away delays, and is logged."""
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        await self.provider.open()
        try:
            while True:
                try:
                    while await self.send_next():
                        pass
                    await self._tidy()
                except (SQLAlchemyError, NotifierError, OSError) as error:
                    log.warning("mailer_failed", error=type(error).__name__)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), LOOK_S)
                self._wake.clear()
        finally:
            await self.provider.close()

    async def send_next(self) -> bool:
        """Sends one email if one waits; whether there was one. What was not taken comes again, later each time."""
        mail = await asyncio.to_thread(self._take)
        if mail is None:
            return False
        if isinstance(mail, Mail):
            outcome = await self.provider.send(self.message(mail))
            log.info(
                "account_mail", user=mail.account_id, letter=mail.letter, outcome=outcome.kind, code=outcome.code
            )
            if outcome.kind is Kind.ACCEPTED:
                await asyncio.to_thread(self._sent, mail.id)
        return True

    def message(self, mail: Mail) -> Message:
        """The email in the account's language."""
        web = self.settings.web
        link = f"{self.settings.public_url.rstrip('/')}/link/{mail.token}" if mail.token else ""
        values = {"service": web.service, "days": web.invitation_days, "minutes": web.link_min, "help": web.help}
        holds = {Letter.INVITATION: "mail.holds_days", Letter.SIGN_IN: "mail.holds_minutes"}
        say = self.texts.say
        parts = [
            say(mail.language, "mail.hello"),
            say(mail.language, f"mail.{mail.letter}.text", **values),
            link,
            say(mail.language, holds[mail.letter], **values) if link else "",
            say(mail.language, "mail.not_you", **values),
            web.help,
            web.service,
        ]
        shown = [part for part in parts if part]
        return Message(
            # There is no delivery 0: a reference of ours that names none.
            reference=f"0.a{mail.id}.{mail.tries}",
            recipient=mail.recipient,
            content=Frozen(
                say(mail.language, f"mail.{mail.letter}.subject", **values),
                "\n\n".join(shown),
                "".join(_paragraph(part, is_link=part == link) for part in shown),
            ),
            language=mail.language,
            sender_name=web.service,
        )

    def _take(self) -> Mail | int | None:
        with self.database.staff() as session:
            now = datetime.now(UTC)
            return accounts.next_mail(session, self.settings.master, now=now, web=self.settings.web)

    def _sent(self, mail_id: int) -> None:
        with self.database.staff() as session:
            accounts.mail_sent(session, mail_id)

    async def _tidy(self) -> None:
        now = datetime.now(UTC)
        if self._tidied is None or now - self._tidied >= _TIDY_EVERY:
            self._tidied = now
            await asyncio.to_thread(self._tidy_now, now)

    def _tidy_now(self, now: datetime) -> None:
        with self.database.staff() as session:
            accounts.tidy(session, now=now)
            uploads.tidy(session, now=now)


def _paragraph(part: str, *, is_link: bool) -> str:
    shown = escape(part)
    return f'<p><a href="{shown}">{shown}</a></p>' if is_link else f"<p>{shown}</p>"
