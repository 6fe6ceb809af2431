"""Beside the steps: who signs in to the pages, by what proof, and what they may do.

A doctor or secretary proves the address by a one-time link, staff a password or an OpenID Connect provider's
word; then everybody the second factor (TOTP, RFC 6238). A link, a session and a recovery code are kept as
hashes. What slows down guessing is counted for each source, so that nobody can shut a person out by failing in
their name: a browser that signed in before has an allowance of its own, and links already sent stay good.

Refusals are values, not errors: they must be committed with what they cost.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import ipaddress
import secrets
import threading
import unicodedata
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote, urlencode

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.twofactor.hotp import HOTP
from sqlalchemy import ColumnElement, Select, delete, exists, func, select, text, update
from sqlalchemy.orm import Session

from notifier import store
from notifier.addresses import check_email
from notifier.errors import ConflictError, InputError, NotFoundError
from notifier.models import Account, AccountLink, AccountMail, Doctor, KnownDevice, RecoveryCode, WebSession
from notifier.sealing import DeploymentKey, MasterKey, hash_secret
from notifier.settings import Web

LANGUAGES = ("fr", "en")


class Role(StrEnum):
    """What an account may do; a doctor's or secretary's work is bound to one doctor."""

    #: everything about their own patients, approving included
    DOCTOR = "doctor"
    #: prepares for the doctor, cannot approve
    SECRETARY = "secretary"
    #: runs the sending
    OPERATOR = "operator"
    #: approves on the processor's side
    APPROVER = "approver"
    #: reads only
    AUDITOR = "auditor"


DOCTORS = frozenset({Role.DOCTOR, Role.SECRETARY})
STAFF = frozenset({Role.OPERATOR, Role.APPROVER, Role.AUDITOR})


class Stage(StrEnum):
    """How far a browser is on its way in."""

    #: came by an invitation: sets a password (staff) and enrols a second factor
    INVITED = "invited"
    #: proved the first factor
    SECOND_FACTOR = "second_factor"
    #: signed in
    FULL = "full"


#: a browser may be half signed in for so long
HALFWAY = {Stage.INVITED: timedelta(hours=1), Stage.SECOND_FACTOR: timedelta(minutes=10)}
#: wrong codes before a half signed-in browser begins anew
MOST_CODES = 5
RECOVERY_CODES = 10
DEVICE_DAYS = 180
TOTP_STEP_S = 30
TOTP_DIGITS = 6
#: of a secret: what RFC 4226 §4 recommends
_TOTP_BYTES = 20
LEAST_PASSWORD, MOST_PASSWORD = 12, 200

_SEEN_EVERY = timedelta(minutes=1)
_TOKEN_BYTES = 32
#: OWASP's Password Storage Cheat Sheet, Argon2id: 19 MiB, two passes, one lane
_PASSES, _LANES, _MEMORY_KIB = 2, 1, 19 * 1024
#: hashing takes memory: so many at a time
_hashing = threading.BoundedSemaphore(4)


class Limit(NamedTuple):
    """So many tries at once; then one more each `refill`."""

    most: int
    refill: timedelta


class Limits(NamedTuple):
    """What one kind of try may cost whom."""

    #: a browser that signed in to this account before
    device: Limit
    #: others, from one network, for this account
    source: Limit
    #: others, from everywhere, for this account
    account: Limit
    #: one network, for all accounts
    network: Limit


_MIN = timedelta(minutes=1)
LIMITS = {
    "link": Limits(Limit(5, 2 * _MIN), Limit(5, 10 * _MIN), Limit(20, 6 * _MIN), Limit(60, _MIN)),
    "password": Limits(Limit(10, _MIN / 2), Limit(5, 2 * _MIN), Limit(30, 2 * _MIN), Limit(60, _MIN)),
    "code": Limits(Limit(10, _MIN / 2), Limit(10, 2 * _MIN), Limit(30, 2 * _MIN), Limit(60, _MIN)),
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a request comes from."""

    #: the client's address, if it is known
    address: str = ""
    #: the secret of a browser that signed in before
    device: str | None = None
    #: coarse, for the list of sessions: "Firefox, Windows"
    browser: str = ""

    @property
    def network(self) -> str:
        """The first 24 bits of an IPv4 address, 56 of an IPv6 one: what one subscriber may hold."""
        try:
            found = ipaddress.ip_address(self.address)
        except ValueError:
            return ""
        mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
        bits = 56 if mapped is None and found.version == 6 else 24
        return str(ipaddress.ip_network((mapped or found, bits), strict=False))


@dataclass(frozen=True, slots=True)
class Wait:
    """Too many tries: how long until the next."""

    seconds: int


@dataclass(frozen=True, slots=True)
class Signed:
    """A browser's live session and whose it is."""

    session_id: int
    account_id: int
    role: Role
    doctor_id: int | None
    language: str
    stage: Stage
    has_password: bool
    is_enrolled: bool

    @property
    def actor(self) -> str:
        """How the journal names them."""
        return f"user:{self.account_id}"


def account_key(master: MasterKey) -> DeploymentKey:
    """Seals what belongs to accounts."""
    return master.key_for(b"accounts")


# --- accounts ------------------------------------------------------------------------------------------


def create(
    session: Session,
    master: MasterKey,
    *,
    role: Role,
    email: str,
    language: str = "fr",
    doctor_id: int | None = None,
    actor: str,
) -> Account:
    """A new account, which cannot sign in before it was invited.

    Raises InputError for an address or language that cannot be used or a role without its doctor, ConflictError
    if the address has an account, NotFoundError for a doctor there is not.
    """
    checked = check_email(email)
    if not checked.ok or checked.address is None or not checked.address.isascii():
        raise InputError("The address of the account cannot be used: give a plain email address.")
    if language not in LANGUAGES:
        raise InputError(f"Pages are written in {' and '.join(LANGUAGES)} only.")
    if (role in DOCTORS) != (doctor_id is not None):
        raise InputError("A doctor's or secretary's account belongs to a doctor, any other to none.")
    if doctor_id is not None and session.get(Doctor, doctor_id) is None:
        raise NotFoundError(f"There is no doctor {doctor_id}.")
    store.take(session, store.Lock.ACCOUNTS)
    if session.scalar(select(exists().where(Account.email_blind.in_(_email_blinds(master, email))))):
        raise ConflictError("This address has an account already: one address, one account.")
    account = Account(
        role=role,
        doctor_id=doctor_id,
        email_sealed=account_key(master).seal(checked.address.encode(), b"account.email"),
        email_blind=email_blind(master, email),
        language=language,
    )
    session.add(account)
    session.flush()
    _record(session, account, "user.create", actor, role=role)
    return account


def find(session: Session, account_id: int, *, lock: bool = False) -> Account:
    """Raises NotFoundError."""
    # As weak as will do: rows that name the account may be made meanwhile.
    how = {"key_share": True} if lock else None
    account = session.get(Account, account_id, with_for_update=how, populate_existing=True)
    if account is None:
        raise NotFoundError(f"There is no user {account_id}.")
    return account


def email_of(master: MasterKey, account: Account) -> str:
    """The address in clear: for sending to it, and for the account's own pages."""
    return account_key(master).open(account.email_sealed, b"account.email").decode()


def masked_email(master: MasterKey, account: Account) -> str:
    """Enough of the address to tell accounts apart: "c…@example.org"."""
    local, _, domain = email_of(master, account).rpartition("@")
    return f"{local[:1]}…@{domain}"


def email_blind(master: MasterKey, email: str) -> bytes:
    """Equal for all ways to write one address."""
    return account_key(master).blind(_blinded(email))


def _email_blinds(master: MasterKey, email: str) -> list[bytes]:
    """What `email_blind` may have said under this master key or a former one."""
    return account_key(master).blinds(_blinded(email))


def _blinded(email: str) -> bytes:
    checked = check_email(email)
    plain = checked.address if checked.ok and checked.address is not None else email.strip()
    return b"email:" + plain.casefold().encode()


def _known_blind(session: Session, master: MasterKey, email: str) -> bytes:
    """The address's blind index as the account that has it keeps it.

    Costs a look-up only while there are former master keys, and then for every address.
    """
    blinds = _email_blinds(master, email)
    if len(blinds) == 1:
        return blinds[0]
    kept = session.scalar(select(Account.email_blind).where(Account.email_blind.in_(blinds)))
    return kept if kept is not None else blinds[0]


def seal_again(master: MasterKey, account: Account) -> None:
    """Seals what the account holds by the master key, whichever sealed it before. The caller has locked it."""
    key, email = account_key(master), email_of(master, account)
    secret = _totp_secret(master, account)
    account.email_sealed = key.seal(email.encode(), b"account.email")
    account.email_blind = email_blind(master, email)
    if secret is not None:
        account.totp_sealed = key.seal(secret, _account_totp(account.id))


def seal_session_again(master: MasterKey, row: WebSession) -> None:
    """As `seal_again`, for a second factor that is being set up."""
    if row.totp_sealed is not None:
        purpose = _session_totp(row.id)
        row.totp_sealed = account_key(master).seal(account_key(master).open(row.totp_sealed, purpose), purpose)


def set_role(session: Session, account_id: int, role: Role, *, actor: str, now: datetime) -> Account:
    """Changes what an account may do and ends its sessions. Raises InputError between doctors and staff."""
    account = find(session, account_id, lock=True)
    if (role in DOCTORS) != (account.doctor_id is not None):
        raise InputError("A doctor's account cannot become staff's, nor the other way round: make another.")
    if account.role != role:
        account.role = role
        end_all(session, account, now=now)
        _record(session, account, "user.role", actor, role=role)
    return account


def set_language(session: Session, account_id: int, language: str) -> None:
    """Raises InputError for a language that pages are not written in."""
    if language not in LANGUAGES:
        raise InputError(f"Pages are written in {' and '.join(LANGUAGES)} only.")
    find(session, account_id).language = language


def disable(session: Session, account_id: int, *, actor: str, now: datetime) -> Account:
    """Refuses an account from the commit on; its sessions and links end."""
    account = find(session, account_id, lock=True)
    if account.disabled_at is None:
        account.disabled_at = now
        end_all(session, account, now=now)
        _spend_links(session, account, now)
        _record(session, account, "user.disable", actor)
    return account


def enable(session: Session, account_id: int, *, actor: str) -> Account:
    """Lets a disabled account sign in again."""
    account = find(session, account_id, lock=True)
    if account.disabled_at is not None:
        account.disabled_at = None
        _record(session, account, "user.enable", actor)
    return account


def reset_second_factor(session: Session, account_id: int, *, actor: str, now: datetime) -> Account:
    """Forgets second factor, recovery codes, password and known browsers, and ends all sessions.

    Invite the account again: only an invitation leads to a new second factor.
    """
    account = find(session, account_id, lock=True)
    account.totp_sealed, account.totp_step, account.password_hash = None, 0, None
    for table in (RecoveryCode, KnownDevice):
        session.execute(delete(table).where(table.account_id == account.id))
    end_all(session, account, now=now)
    _spend_links(session, account, now)
    _record(session, account, "user.reset", actor)
    return account


# --- one-time links ------------------------------------------------------------------------------------


class Purpose(StrEnum):
    """What a link is for."""

    INVITATION = "invitation"
    SIGN_IN = "sign_in"


def invite(session: Session, account_id: int, *, actor: str, now: datetime) -> Account:
    """Has an invitation sent to the account's address. Raises ConflictError if it is disabled or enrolled."""
    account = _may_be_invited(session, account_id)
    session.add(
        AccountMail(
            purpose=Purpose.INVITATION, account_id=account.id, due_at=now, expires_at=now + timedelta(days=2)
        )
    )
    _record(session, account, "user.invite", actor, by="email")
    return account


def invitation_link(session: Session, account_id: int, *, actor: str, now: datetime, web: Web) -> str:
    """The secret of an invitation to be handed over by other means than email, this once. Raises as `invite`."""
    account = _may_be_invited(session, account_id)
    _record(session, account, "user.invite", actor, by="hand")
    return _new_link(session, account, Purpose.INVITATION, now + timedelta(days=web.invitation_days))


def _may_be_invited(session: Session, account_id: int) -> Account:
    account = find(session, account_id, lock=True)
    if account.disabled_at is not None:
        raise ConflictError(f"User {account_id} is disabled: enable it first.")
    if account.totp_sealed is not None:
        raise ConflictError(f"User {account_id} has a second factor: reset it first.")
    return account


def ask_link(
    session: Session, master: MasterKey, email: str, source: Source, *, now: datetime, web: Web
) -> Wait | None:
    """Has a link to sign in sent, if the address has an account; the answer is the same if it has none."""
    blind = _known_blind(session, master, email)
    refused = _take(session, master, "link", blind, source, now)
    if refused is None:
        blinds, minutes = _email_blinds(master, email), timedelta(minutes=web.link_min)
        session.add(
            AccountMail(purpose=Purpose.SIGN_IN, email_blinds=blinds, due_at=now, expires_at=now + minutes)
        )
    return refused


def look_at_link(session: Session, token: str, *, now: datetime) -> Purpose | None:
    """What a link is for if it can be used now; using it is another act: mail scanners open links."""
    found = session.scalar(_usable(token, now).with_only_columns(AccountLink.purpose))
    return Purpose(found) if found else None


def use_link(session: Session, token: str, source: Source, *, now: datetime) -> str | None:
    """Uses a link up; the secret of a half signed-in session, or None if the link is not good (any more)."""
    link = session.scalar(_usable(token, now).with_for_update(of=AccountLink))
    if link is None:
        return None
    link.used_at = now
    account = find(session, link.account_id)
    if link.purpose == Purpose.INVITATION:
        if account.totp_sealed is not None:
            return None  # enrolled meanwhile, by another invitation
        return open_session(session, account, Stage.INVITED, source, now=now)
    return open_session(session, account, Stage.SECOND_FACTOR, source, now=now)


def _usable(token: str, now: datetime) -> Select[AccountLink]:
    return (
        select(AccountLink)
        .join(Account, Account.id == AccountLink.account_id)
        .where(
            AccountLink.hash == hash_secret(token),
            AccountLink.used_at.is_(None),
            AccountLink.expires_at > now,
            Account.disabled_at.is_(None),
        )
    )


def _new_link(session: Session, account: Account, purpose: Purpose, expires_at: datetime) -> str:
    token = new_token()
    session.add(
        AccountLink(account_id=account.id, purpose=purpose, hash=hash_secret(token), expires_at=expires_at)
    )
    session.flush()
    return token


def _spend_links(session: Session, account: Account, now: datetime) -> None:
    open_links = (AccountLink.account_id == account.id, AccountLink.used_at.is_(None))
    session.execute(update(AccountLink).where(*open_links).values(used_at=now))
    session.execute(delete(AccountMail).where(AccountMail.account_id == account.id))


class Letter(StrEnum):
    """What an email of ours says."""

    INVITATION = "invitation"
    SIGN_IN = "sign_in"
    #: staff sign in by password: there is no link for them
    WITH_PASSWORD = "with_password"  # noqa: S105 - a kind of letter
    #: never accepted an invitation
    NOT_ENROLLED = "not_enrolled"


class Mail(NamedTuple):
    """One email to be handed over now."""

    id: int
    tries: int
    account_id: int
    recipient: str
    language: str
    letter: Letter
    #: the link's secret; None where the letter has no link
    token: str | None


_NEXT_MAIL = text(
    """
    UPDATE account_mail SET tries = tries + 1,
        due_at = :now + make_interval(secs => 30 * power(2, least(tries, 7)))
    WHERE id = (
        SELECT id FROM account_mail WHERE due_at <= :now AND expires_at > :now
        ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING id, purpose, account_id, email_blinds, expires_at, tries
    """
)


def next_mail(session: Session, master: MasterKey, *, now: datetime, web: Web) -> Mail | int | None:
    """The next email to send, with a fresh link; a number for one that had no addressee; None if there is none.

    Commit, hand it over, then call `mail_sent`; what is not called sent comes again, later each time.
    """
    row = session.execute(_NEXT_MAIL, {"now": now}).first()
    if row is None:
        return None
    whose = Account.id == row.account_id if row.account_id else Account.email_blind.in_(row.email_blinds or [])
    account = session.scalar(select(Account).where(whose, Account.disabled_at.is_(None)))
    if account is None:
        mail_sent(session, row.id)
        return int(row.id)
    letter, token = Letter(row.purpose), None
    if letter is Letter.SIGN_IN and account.role in STAFF:
        letter = Letter.WITH_PASSWORD
    elif letter is Letter.SIGN_IN and account.totp_sealed is None:
        letter = Letter.NOT_ENROLLED
    elif letter is Letter.INVITATION:
        token = _new_link(session, account, Purpose.INVITATION, now + timedelta(days=web.invitation_days))
    else:
        token = _new_link(session, account, Purpose.SIGN_IN, now + timedelta(minutes=web.link_min))
    return Mail(row.id, row.tries, account.id, email_of(master, account), account.language, letter, token)


def mail_sent(session: Session, mail_id: int) -> None:
    session.execute(delete(AccountMail).where(AccountMail.id == mail_id))


# --- first factor --------------------------------------------------------------------------------------


def sign_in_by_password(
    session: Session, master: MasterKey, email: str, password: str, source: Source, *, now: datetime
) -> str | Wait | None:
    """The secret of a half signed-in session; None if address or password is wrong, which takes equally long."""
    blind = _known_blind(session, master, email)
    if refused := _take(session, master, "password", blind, source, now):
        return refused
    account = session.scalar(select(Account).where(Account.email_blind == blind))
    is_usable = account is not None and account.password_hash is not None and account.disabled_at is None
    kept = account.password_hash if account is not None and account.password_hash is not None else _nobodys_hash()
    is_right = _is_password(password, kept)
    if account is None or not is_usable or not is_right:
        # Also without an account: an entry takes some milliseconds, which would tell who has one.
        who, doctor_id = ("user:unknown", None) if account is None else (f"user:{account.id}", account.doctor_id)
        store.record(session, who, "user.sign_in_failed", who, doctor_id, {"factor": "password"})
        return None
    _give_back(session, master, "password", blind, source)
    return open_session(session, account, Stage.SECOND_FACTOR, source, now=now)


def sign_in_by_oidc(
    session: Session,
    master: MasterKey,
    *,
    issuer: str,
    subject: str,
    email: str | None,
    reference: str | None,
    roles: Collection[str],
    source: Source,
    now: datetime,
) -> str | None:
    """The secret of a half signed-in session for whom an OpenID Connect provider vouches; None for a stranger.

    The first time `reference` (a doctor's) or else `email` (verified by the provider) says who it is; from then
    on the provider's subject does, and nobody else's word about the same account is taken.
    """
    bound = (Account.oidc_issuer == issuer, Account.oidc_subject == subject)
    account = session.scalar(select(Account).where(*bound))
    if account is None:
        account = _unbound(session, master, email, reference)
        if account is None:
            return None
        account.oidc_issuer, account.oidc_subject = issuer, subject
        _record(session, account, "user.bind_oidc", f"user:{account.id}")
    if account.disabled_at is not None or account.role not in roles:
        _record(session, account, "user.sign_in_failed", f"user:{account.id}", factor="oidc")
        return None
    return open_session(session, account, Stage.SECOND_FACTOR, source, now=now)


def _unbound(session: Session, master: MasterKey, email: str | None, reference: str | None) -> Account | None:
    if reference:
        whose = select(Account).join(Doctor, Doctor.id == Account.doctor_id)
        whose = whose.where(Doctor.reference == reference, Account.role == Role.DOCTOR)
    elif email:
        whose = select(Account).where(Account.email_blind.in_(_email_blinds(master, email)))
    else:
        return None
    found = session.scalars(whose.where(Account.oidc_subject.is_(None), Account.disabled_at.is_(None))).all()
    return found[0] if len(found) == 1 else None


def set_password(session: Session, signed: Signed, password: str) -> None:
    """Raises InputError for a password that is too short, too long or too plain, ConflictError outside of an
    invitation."""
    if signed.stage is not Stage.INVITED or signed.role not in STAFF:
        raise ConflictError("A password is set by staff who accept an invitation.")
    normal = _normal(password)
    if not LEAST_PASSWORD <= len(normal) <= MOST_PASSWORD or len(set(normal)) < 6:
        raise InputError(f"A password has {LEAST_PASSWORD} characters or more, not the same few over and over.")
    account = find(session, signed.account_id, lock=True)
    account.password_hash = _password_hash(normal)
    _record(session, account, "user.password", signed.actor)


def _normal(password: str) -> str:
    """However a keyboard composes its letters (RFC 8265 §4.2)."""
    return unicodedata.normalize("NFC", password)


def _password_hash(password: str) -> str:
    salt = secrets.token_bytes(16)
    with _hashing:
        argon2 = Argon2id(salt=salt, length=32, iterations=_PASSES, lanes=_LANES, memory_cost=_MEMORY_KIB)
        return argon2.derive_phc_encoded(password.encode())


def _is_password(password: str, kept: str) -> bool:
    with _hashing:
        try:
            Argon2id.verify_phc_encoded(_normal(password)[:MOST_PASSWORD].encode(), kept)
        except InvalidKey:
            return False
    return True


@functools.lru_cache(maxsize=1)
def _nobodys_hash() -> str:
    """Of a password nobody knows, for addresses without one."""
    return _password_hash(secrets.token_hex())


# --- second factor -------------------------------------------------------------------------------------


def totp(secret: bytes, step: int) -> str:
    """The code of a time step (RFC 6238 with SHA-1 and 6 digits: what every app knows)."""
    return HOTP(secret, TOTP_DIGITS, hashes.SHA1()).generate(step).decode()  # noqa: S303 - as an HMAC it is sound


def totp_uri(secret: bytes, service: str, email: str) -> str:
    """What the QR code holds (Key Uri Format of Google Authenticator)."""
    values = urlencode({"secret": in_base32(secret), "issuer": service}, quote_via=quote)
    return f"otpauth://totp/{quote(service)}:{quote(email)}?{values}"


def in_base32(secret: bytes) -> str:
    return base64.b32encode(secret).decode().rstrip("=")


def secret_to_enrol(session: Session, master: MasterKey, signed: Signed) -> bytes:
    """The secret to be put into an app: the same until its first code. Raises ConflictError if not invited."""
    row = _enrolling(session, signed)
    purpose = _session_totp(row.id)
    if row.totp_sealed is None:
        row.totp_sealed = account_key(master).seal(secrets.token_bytes(_TOTP_BYTES), purpose)
    return account_key(master).open(row.totp_sealed, purpose)


def enrol(
    session: Session, master: MasterKey, signed: Signed, code: str, source: Source, *, now: datetime
) -> tuple[str, list[str]] | None:
    """Takes the secret on if the code is right: the new session's secret and the recovery codes.

    None for a wrong code. Raises ConflictError if the browser did not come by an invitation.
    """
    row = _enrolling(session, signed)
    secret = secret_to_enrol(session, master, signed)
    step = _step_of(secret, code, now)
    if step is None:
        return None
    account = find(session, signed.account_id, lock=True)
    if account.totp_sealed is not None:
        raise ConflictError("A second factor was set up meanwhile.")
    account.totp_sealed = account_key(master).seal(secret, _account_totp(account.id))
    account.totp_step = step
    row.totp_sealed = None
    codes = _new_recovery_codes(session, account.id, secret)
    _spend_links(session, account, now)
    _record(session, account, "user.enrol", signed.actor)
    return _promote(session, account, signed, source, "invitation", now), codes


def _enrolling(session: Session, signed: Signed) -> WebSession:
    if signed.stage is not Stage.INVITED or (signed.role in STAFF and not signed.has_password):
        raise ConflictError("A second factor is set up by who accepts an invitation, staff after their password.")
    return session.get_one(WebSession, signed.session_id, with_for_update=True)


def second_factor(
    session: Session, master: MasterKey, signed: Signed, code: str, source: Source, *, now: datetime
) -> str | Wait | None:
    """The secret of the full session that replaces the half one; None for a wrong code or one used before.

    The fifth wrong code ends the half session.
    """

    def is_right(account: Account) -> bool:
        return _use_totp(session, master, account, code, now)

    return _complete(session, master, signed, source, "totp", is_right, now)


def recover(
    session: Session, master: MasterKey, signed: Signed, code: str, source: Source, *, now: datetime
) -> str | Wait | None:
    """As `second_factor`, with a recovery code in place of the app's."""

    def is_right(account: Account) -> bool:
        return _use_recovery(session, master, account, code, now)

    return _complete(session, master, signed, source, "recovery", is_right, now)


def vouched(session: Session, signed: Signed, source: Source, *, now: datetime) -> str:
    """As `second_factor`, for a provider that asked for one itself. The caller knows that it did."""
    account = find(session, signed.account_id, lock=True)
    return _promote(session, account, signed, source, "oidc", now)


def _complete(
    session: Session,
    master: MasterKey,
    signed: Signed,
    source: Source,
    factor: str,
    is_right: Callable[[Account], bool],
    now: datetime,
) -> str | Wait | None:
    if signed.stage is not Stage.SECOND_FACTOR:
        raise ConflictError("This browser is not waiting for a second factor.")
    account = find(session, signed.account_id, lock=True)
    if refused := _take(session, master, "code", account.email_blind, source, now):
        return refused
    if not is_right(account):
        row = session.get_one(WebSession, signed.session_id)
        row.failures += 1
        if row.failures >= MOST_CODES:
            row.ended_at = now
        _record(session, account, "user.sign_in_failed", signed.actor, factor=factor)
        return None
    _give_back(session, master, "code", account.email_blind, source)
    return _promote(session, account, signed, source, factor, now)


def _use_totp(session: Session, master: MasterKey, account: Account, code: str, now: datetime) -> bool:
    secret = _totp_secret(master, account)
    if secret is None:
        return False
    step = _step_of(secret, code, now)
    if step is None or step <= account.totp_step:
        return False
    account.totp_step = step  # the row is locked: of two at once one comes too late
    return True


def _totp_secret(master: MasterKey, account: Account) -> bytes | None:
    if account.totp_sealed is None:
        return None
    return account_key(master).open(account.totp_sealed, _account_totp(account.id))


def _account_totp(account_id: int) -> bytes:
    """What the second factor's secret is sealed for."""
    return b"account.totp:%d" % account_id


def _session_totp(session_id: int) -> bytes:
    return b"web_session.totp:%d" % session_id


def _step_of(secret: bytes, code: str, now: datetime) -> int | None:
    """The time step this is the code of, one before and after allowed for clocks that differ."""
    typed = "".join(code.split())
    if len(typed) != TOTP_DIGITS or not (typed.isascii() and typed.isdigit()):
        return None
    current = int(now.timestamp()) // TOTP_STEP_S
    steps = (current, current - 1, current + 1)
    return next((step for step in steps if hmac.compare_digest(totp(secret, step), typed)), None)


def new_recovery_codes(
    session: Session, master: MasterKey, signed: Signed, code: str, source: Source, *, now: datetime
) -> list[str] | Wait | None:
    """Replaces the recovery codes of who is signed in; None if the app's code is wrong."""
    account = find(session, signed.account_id, lock=True)
    if refused := _take(session, master, "code", account.email_blind, source, now):
        return refused
    secret = _totp_secret(master, account)
    if secret is None or not _use_totp(session, master, account, code, now):
        _record(session, account, "user.code_failed", signed.actor)
        return None
    _give_back(session, master, "code", account.email_blind, source)
    _record(session, account, "user.recovery_codes", signed.actor)
    return _new_recovery_codes(session, account.id, secret)


def recovery_codes_left(session: Session, account_id: int) -> int:
    unused = (RecoveryCode.account_id == account_id, RecoveryCode.used_at.is_(None))
    return session.scalar(select(func.count()).select_from(RecoveryCode).where(*unused)) or 0


def _new_recovery_codes(session: Session, account_id: int, secret: bytes) -> list[str]:
    session.execute(delete(RecoveryCode).where(RecoveryCode.account_id == account_id))
    codes = [base64.b32encode(secrets.token_bytes(10)).decode().lower() for _ in range(RECOVERY_CODES)]
    session.add_all(
        RecoveryCode(account_id=account_id, hash=_recovery_hash(secret, account_id, code)) for code in codes
    )
    session.flush()
    return ["-".join(code[at : at + 4] for at in range(0, 16, 4)) for code in codes]


def _use_recovery(session: Session, master: MasterKey, account: Account, code: str, now: datetime) -> bool:
    secret = _totp_secret(master, account)
    if secret is None:
        return False
    plain = "".join(letter for letter in code.lower() if letter.isalnum())
    kept = session.get(RecoveryCode, (account.id, _recovery_hash(secret, account.id, plain)), with_for_update=True)
    if kept is None or kept.used_at is not None:
        return False
    kept.used_at = now
    return True


def _recovery_hash(secret: bytes, account_id: int, code: str) -> bytes:
    """Keyed by the second factor the code stands in for: a change of the master key leaves it as it is."""
    return hashlib.blake2b(b"recovery:%d:%b" % (account_id, code.encode()), key=secret, digest_size=16).digest()


# --- sessions ------------------------------------------------------------------------------------------


def new_token() -> str:
    """256 random bits that may stand in a cookie or an address."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def open_session(session: Session, account: Account, stage: Stage, source: Source, *, now: datetime) -> str:
    """A new session of this stage; its secret."""
    token = new_token()
    session.add(
        WebSession(
            hash=hash_secret(token),
            account_id=account.id,
            stage=stage,
            browser=source.browser,
            created_at=now,
            seen_at=now,
        )
    )
    session.flush()
    return token


def _promote(
    session: Session, account: Account, signed: Signed, source: Source, factor: str, now: datetime
) -> str:
    """A full session under a new secret in place of the half one: nobody who knew the old one comes along."""
    session.get_one(WebSession, signed.session_id).ended_at = now
    _record(session, account, "user.sign_in", signed.actor, factor=factor)
    return open_session(session, account, Stage.FULL, source, now=now)


def look_up(session: Session, token: str, *, now: datetime, web: Web, is_used: bool = True) -> Signed | None:
    """Whose session this is; None if it is unknown, ended, idle for too long or too old.

    `is_used`: a person asks, who is not idle.
    """
    found = session.execute(
        select(WebSession, Account)
        .join(Account, Account.id == WebSession.account_id)
        .where(WebSession.hash == hash_secret(token), WebSession.ended_at.is_(None), Account.disabled_at.is_(None))
    ).first()
    if found is None:
        return None
    row, account = found
    stage = Stage(row.stage)
    longest = HALFWAY.get(stage, timedelta(hours=web.session_hours))
    if now >= row.created_at + longest or now >= row.seen_at + timedelta(minutes=web.idle_min):
        return None
    if is_used and now - row.seen_at >= _SEEN_EVERY:
        row.seen_at = now
    return Signed(
        session_id=row.id,
        account_id=account.id,
        role=Role(account.role),
        doctor_id=account.doctor_id,
        language=account.language,
        stage=stage,
        has_password=account.password_hash is not None,
        is_enrolled=account.totp_sealed is not None,
    )


def live_sessions(session: Session, account_id: int, *, now: datetime, web: Web) -> list[WebSession]:
    """The full sessions of an account that can be used now, newest first."""
    mine = WebSession.account_id == account_id
    return list(
        session.scalars(select(WebSession).where(mine, *_is_live(now, web)).order_by(WebSession.id.desc()))
    )


def roles_of(session: Session, sessions: Collection[int], *, now: datetime, web: Web) -> dict[int, str]:
    """The roles in which these sessions can be used now; one that cannot is left out. Nobody counts as active."""
    found = session.execute(
        select(WebSession.id, Account.role)
        .join(Account, Account.id == WebSession.account_id)
        .where(WebSession.id.in_(sessions), Account.disabled_at.is_(None), *_is_live(now, web))
    )
    return {row.id: row.role for row in found}


def _is_live(now: datetime, web: Web) -> tuple[ColumnElement[bool], ...]:
    return (
        WebSession.stage == Stage.FULL,
        WebSession.ended_at.is_(None),
        WebSession.created_at > now - timedelta(hours=web.session_hours),
        WebSession.seen_at > now - timedelta(minutes=web.idle_min),
    )


def sign_out(session: Session, signed: Signed, *, now: datetime) -> None:
    """Ends this session."""
    session.get_one(WebSession, signed.session_id).ended_at = now
    _record(session, find(session, signed.account_id), "user.sign_out", signed.actor)


def end_session(session: Session, account_id: int, session_id: int, *, actor: str, now: datetime) -> None:
    """Ends one session of an account. Raises NotFoundError for one that is not this account's."""
    row = session.get(WebSession, session_id, with_for_update=True)
    if row is None or row.account_id != account_id:
        raise NotFoundError(f"User {account_id} has no session {session_id}.")
    if row.ended_at is None:
        row.ended_at = now
        _record(session, find(session, account_id), "session.revoke", actor, session=session_id)


def end_others(session: Session, signed: Signed, *, now: datetime) -> int:
    """Ends all sessions of an account but the one that asks."""
    account = find(session, signed.account_id)
    ended = end_all(session, account, now=now, but=signed.session_id)
    _record(session, account, "session.revoke", signed.actor, sessions=ended)
    return ended


def revoke_sessions(session: Session, account_id: int, *, actor: str, now: datetime) -> int:
    """Ends all sessions of an account; how many there were."""
    account = find(session, account_id)
    ended = end_all(session, account, now=now)
    _record(session, account, "session.revoke", actor, sessions=ended)
    return ended


def end_all(session: Session, account: Account, *, now: datetime, but: int | None = None) -> int:
    """Ends all sessions of an account but one, without a word in the journal."""
    alive = (WebSession.account_id == account.id, WebSession.ended_at.is_(None), WebSession.id != (but or 0))
    ended = session.scalars(update(WebSession).where(*alive).values(ended_at=now).returning(WebSession.id)).all()
    return len(ended)


def remember_device(session: Session, account_id: int, device: str | None, *, now: datetime) -> str:
    """Remembers that this browser signed in to this account; the secret it is to be known by."""
    device = device or new_token()
    session.execute(
        text(
            "INSERT INTO known_device (hash, account_id, seen_at) VALUES (:hash, :account_id, :now) "
            "ON CONFLICT (hash, account_id) DO UPDATE SET seen_at = excluded.seen_at"
        ),
        {"hash": hash_secret(device), "account_id": account_id, "now": now},
    )
    return device


def tidy(session: Session, *, now: datetime) -> None:
    """Forgets what has no use any more; the journal keeps what happened."""
    month_ago = now - timedelta(days=30)
    session.execute(delete(AccountMail).where(AccountMail.expires_at < now))
    session.execute(delete(AccountLink).where(AccountLink.expires_at < month_ago))
    session.execute(delete(WebSession).where(WebSession.seen_at < month_ago))
    session.execute(delete(KnownDevice).where(KnownDevice.seen_at < now - timedelta(days=DEVICE_DAYS)))
    session.execute(text("DELETE FROM allowance WHERE at < :at"), {"at": now - timedelta(days=1)})


def csrf_token(master: MasterKey, token: str) -> str:
    """What every form carries: bound to the browser's session, or to its passing secret before signing in."""
    return account_key(master).blind(b"csrf:" + token.encode()).hex()


def is_csrf_token(master: MasterKey, token: str, given: str) -> bool:
    """Whether a form was made for this browser, by this master key or a former one."""
    made = (blind.hex() for blind in account_key(master).blinds(b"csrf:" + token.encode()))
    return any(hmac.compare_digest(one.encode(), given.encode()) for one in made)


# --- allowances ----------------------------------------------------------------------------------------

_TAKE = text(
    """
    INSERT INTO allowance AS a (key, remaining, at) VALUES (:key, :most - 1, :now)
    ON CONFLICT (key) DO UPDATE SET at = greatest(a.at, excluded.at), remaining = least(
        :most, a.remaining + greatest(0, extract(epoch FROM excluded.at - a.at)) / :refill_s
    ) - 1
    WHERE least(:most, a.remaining + greatest(0, extract(epoch FROM excluded.at - a.at)) / :refill_s) >= 1
    RETURNING remaining
    """
)
_WAIT = text("SELECT (1 - remaining) * :refill_s - extract(epoch FROM :now - at) FROM allowance WHERE key = :key")


def _take(
    session: Session, master: MasterKey, kind: str, blind: bytes, source: Source, now: datetime
) -> Wait | None:
    """Takes one try from each bucket it falls into, or from none and says how long to wait."""
    with session.begin_nested() as saved:
        for key, limit in _buckets(session, master, kind, blind, source):
            refill_s = limit.refill.total_seconds()
            values = {"key": key, "most": limit.most, "refill_s": refill_s, "now": now}
            if session.execute(_TAKE, values).first() is None:
                left = session.scalar(_WAIT, {"key": key, "refill_s": refill_s, "now": now})
                saved.rollback()
                return Wait(max(1, int(left or 0) + 1))
    return None


def _give_back(session: Session, master: MasterKey, kind: str, blind: bytes, source: Source) -> None:
    """A try that was right costs nothing."""
    keys = [key for key, _ in _buckets(session, master, kind, blind, source)]
    session.execute(text("UPDATE allowance SET remaining = remaining + 1 WHERE key = ANY(:keys)"), {"keys": keys})


def _buckets(
    session: Session, master: MasterKey, kind: str, blind: bytes, source: Source
) -> list[tuple[bytes, Limit]]:
    """In one order for all, so that two at once wait for one another and never for good."""
    limits = LIMITS[kind]
    if source.device is not None:
        device = hash_secret(source.device)
        mine = (KnownDevice.account_id == Account.id, Account.email_blind == blind)
        if session.scalar(select(exists().where(KnownDevice.hash == device, *mine))):
            return [(_bucket(master, kind, "device", device + blind), limits.device)]
    network = source.network.encode()
    return [
        (_bucket(master, kind, "source", blind + network), limits.source),
        (_bucket(master, kind, "account", blind), limits.account),
        (_bucket(master, kind, "network", network), limits.network),
    ]


def _bucket(master: MasterKey, kind: str, what: str, value: bytes) -> bytes:
    return account_key(master).blind(f"{kind}:{what}:".encode() + value)


def _record(session: Session, account: Account, action: str, actor: str, /, **detail: object) -> None:
    store.record(session, actor, action, f"user:{account.id}", account.doctor_id, detail)
