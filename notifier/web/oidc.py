"""Signing in with an OpenID Connect provider: out to it and back (`openid.py` speaks with it).

What must be remembered while the browser is with the provider travels sealed in a cookie of ten minutes: nothing
is kept for who never comes back, and an answer that another browser asked for is refused.
"""

from __future__ import annotations

import base64
import json
import secrets
from typing import Any
from urllib.parse import quote

import structlog
from starlette.responses import RedirectResponse, Response

from notifier import accounts
from notifier.errors import NotFoundError, SealingError
from notifier.web.openid import Provider, Refused
from notifier.web.pages import Visit, own_path

log = structlog.get_logger()

AWAY_S = 600
_PURPOSE = b"oidc.away"


def quoted(path: str) -> str:
    """A path as the value of a query."""
    return quote(path, safe="/")


def leave(visit: Visit) -> Response:
    """Sends the browser to the provider."""
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    url = _provider(visit).leave_url(state, nonce, verifier)
    away = {"state": state, "nonce": nonce, "verifier": verifier, "next": visit.next, "at": visit.now.timestamp()}
    sealed = accounts.account_key(visit.site.settings.master).seal(json.dumps(away).encode(), _PURPOSE)
    visit.cookies["oidc"] = (base64.urlsafe_b64encode(sealed).decode(), AWAY_S)
    return RedirectResponse(url, 303)


def come_back(visit: Visit) -> Response:
    """Takes the provider's answer; half signed in, or all the way where it asked for a second factor itself."""
    provider, settings, asked = _provider(visit), visit.site.settings, visit.request.query_params
    away = _away(visit)
    visit.cookies["oidc"] = ("", 0)
    try:
        if away is None or not secrets.compare_digest(asked.get("state", "").encode(), away["state"].encode()):
            raise Refused("This browser did not ask.")
        if "code" not in asked or asked.get("iss", settings.oidc.issuer) != settings.oidc.issuer:
            raise Refused("The provider gave no code.")
        found = provider.claims(asked["code"], away["nonce"], away["verifier"])
    except Refused as error:
        log.info("oidc_refused", reason=error.message)
        return visit.page("sign_in/oidc_refused.html", 403)
    with visit.site.database.staff() as session:
        came = accounts.sign_in_by_oidc(
            session,
            settings.master,
            issuer=settings.oidc.issuer or "",
            subject=found.subject,
            email=None if settings.oidc.reference_claim else found.email,
            reference=found.reference,
            roles=settings.oidc.roles,
            source=visit.source,
            now=visit.now,
        )
        if came is None:
            return visit.page("sign_in/oidc_refused.html", 403)
        signed = accounts.look_up(session, came, now=visit.now, web=settings.web)
        assert signed is not None
        if not (settings.oidc.second_factor or signed.is_enrolled):
            return visit.page("sign_in/oidc_refused.html", 403)  # the invitation comes first
        if settings.oidc.second_factor:
            came = accounts.vouched(session, signed, visit.source, now=visit.now)
            device = accounts.remember_device(session, signed.account_id, visit.source.device, now=visit.now)
            visit.cookies["device"] = (device, accounts.DEVICE_DAYS * 24 * 3600)
    visit.come_in(came)
    path = own_path(away["next"])
    return visit.redirect(path if settings.oidc.second_factor else f"/second-factor?next={quoted(path)}")


def _away(visit: Visit) -> dict[str, Any] | None:
    try:
        sealed = base64.urlsafe_b64decode(visit.request.cookies.get(visit.site.cookie("oidc"), ""))
        found: dict[str, Any] = json.loads(accounts.account_key(visit.site.settings.master).open(sealed, _PURPOSE))
    except (ValueError, SealingError):
        return None
    return found if visit.now.timestamp() - found["at"] <= AWAY_S else None


def _provider(visit: Visit) -> Provider:
    if visit.site.oidc is None:
        raise NotFoundError("No OpenID Connect provider is set.")
    return visit.site.oidc
