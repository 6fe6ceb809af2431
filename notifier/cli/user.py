"""`notifier user …`: who signs in to the pages. An address is shown masked; a link by hand is shown once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from notifier.accounts import LANGUAGES, Role
from notifier.cli import common
from notifier.models import Account, Doctor

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(no_args_is_help=True, help="Invite who signs in to the pages; reset and revoke.")

User = Annotated[int, typer.Argument(metavar="USER", help="The user's number.", min=1)]
ByHand = Annotated[
    bool, typer.Option("--by-hand", help="Send no email: show the link, this once, to be handed over safely.")
]
COLUMNS = ["id", "role", "doctor", "address", "language", "enrolled", "created_at", "disabled_at"]


@app.command()
def invite(
    email: Annotated[str, typer.Argument(help="The address that the account belongs to.")],
    role: Annotated[Role, typer.Option(help="doctor, secretary, operator, approver or auditor.")],
    doctor: Annotated[
        str | None, typer.Option(help="For whom a doctor or secretary works: reference or number.")
    ] = None,
    language: Annotated[str, typer.Option(help=f"Of pages and emails: {' or '.join(LANGUAGES)}.")] = LANGUAGES[0],
    by_hand: ByHand = False,
    as_json: common.Json = False,
) -> None:
    """Make an account and invite its owner, who sets up a second factor (staff a password too)."""
    from notifier import accounts

    with common.work() as work:
        owner = common.find(work.session, Doctor, doctor) if doctor is not None else None
        made = accounts.create(
            work.session,
            work.settings.master,
            role=role,
            email=email,
            language=language,
            doctor_id=owner.id if owner else None,
            actor=work.actor,
        )
        document = _invited(work, made.id, by_hand=by_hand)
    _show(document, as_json)


@app.command()
def again(user: User, by_hand: ByHand = False, as_json: common.Json = False) -> None:
    """Invite a user again who has no second factor: the first invitation was lost, or the factor was reset."""
    with common.work() as work:
        document = _invited(work, user, by_hand=by_hand)
    _show(document, as_json)


@app.command(name="list")
def list_(as_json: common.Json = False) -> None:
    """List all users."""
    with common.work() as work:
        query = work.session.query(Account).order_by(Account.id)
        rows = [_entry(work, account) for account in query]
    common.emit_list("users", rows, as_json, COLUMNS)


@app.command()
def role(
    user: User,
    role: Annotated[Role, typer.Argument(help="The new role, among doctors' or among staff's.")],
    as_json: common.Json = False,
) -> None:
    """Change what a user may do; their sessions end."""
    from notifier import accounts

    with common.work() as work:
        document = _entry(work, accounts.set_role(work.session, user, role, actor=work.actor, now=work.now))
    _show(document, as_json)


@app.command()
def reset(user: User, by_hand: ByHand = False, as_json: common.Json = False) -> None:
    """Forget a user's second factor and password, end their sessions, and invite them anew."""
    from notifier import accounts

    with common.work() as work:
        accounts.reset_second_factor(work.session, user, actor=work.actor, now=work.now)
        document = _invited(work, user, by_hand=by_hand)
    _show(document, as_json)


@app.command()
def disable(user: User, as_json: common.Json = False) -> None:
    """Refuse a user from now on; their sessions end."""
    from notifier import accounts

    with common.work() as work:
        document = _entry(work, accounts.disable(work.session, user, actor=work.actor, now=work.now))
    _show(document, as_json)


@app.command()
def enable(user: User, as_json: common.Json = False) -> None:
    """Let a disabled user sign in again."""
    from notifier import accounts

    with common.work() as work:
        document = _entry(work, accounts.enable(work.session, user, actor=work.actor))
    _show(document, as_json)


@app.command()
def sessions(user: User, as_json: common.Json = False) -> None:
    """List where a user is signed in."""
    from notifier import accounts

    with common.work() as work:
        accounts.find(work.session, user)
        found = accounts.live_sessions(work.session, user, now=work.now, web=work.settings.web)
        rows = [common.columns_of(one, "id", "browser", "created_at", "seen_at") for one in found]
    common.emit_list("sessions", rows, as_json, ["id", "browser", "created_at", "seen_at"])


@app.command()
def revoke(
    user: User,
    session: Annotated[int | None, typer.Option(help="Only this session; all without it.")] = None,
    as_json: common.Json = False,
) -> None:
    """End a user's sessions: they have to sign in again."""
    from notifier import accounts

    with common.work() as work:
        if session is None:
            ended = accounts.revoke_sessions(work.session, user, actor=work.actor, now=work.now)
        else:
            accounts.end_session(work.session, user, session, actor=work.actor, now=work.now)
            ended = 1
    common.emit({"user": user, "ended": ended}, as_json, lambda out: out.print(f"{ended} sessions ended."))


def _invited(work: common.Work, user: int, *, by_hand: bool) -> dict[str, Any]:
    from notifier import accounts

    web = work.settings.web
    if by_hand:
        token = accounts.invitation_link(work.session, user, actor=work.actor, now=work.now, web=web)
        link = f"{work.settings.public_url.rstrip('/')}/link/{token}"
        return _entry(work, accounts.find(work.session, user)) | {"link": link}
    return _entry(work, accounts.invite(work.session, user, actor=work.actor, now=work.now))


def _entry(work: common.Work, account: Account) -> dict[str, Any]:
    from notifier import accounts

    owner = work.session.get(Doctor, account.doctor_id) if account.doctor_id is not None else None
    return {
        **common.columns_of(account, "id", "role"),
        "doctor": owner.reference if owner else None,
        "address": accounts.masked_email(work.settings.master, account),
        "language": account.language,
        "enrolled": account.totp_sealed is not None,
        **common.columns_of(account, "created_at", "disabled_at"),
    }


def _show(document: dict[str, Any], as_json: bool) -> None:
    def show(out: Console) -> None:
        link = document.get("link")
        out.print(common.facts("user", {name: value for name, value in document.items() if name != "link"}))
        if link:
            out.print("The link serves once. Hand it over safely: it is not stored and cannot be shown again.")
            # A line of its own, never folded: it is to be copied.
            out.print(link, markup=False, highlight=False, soft_wrap=True)

    common.emit(document, as_json, show)
