"""An OpenID Connect provider as this deployment uses it: authorisation code flow with PKCE and nonce.

Authlib knows the protocol's forms and claims, joserfc its signatures; httpx carries what is asked.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from notifier.errors import InputError, ServiceError
from notifier.settings import Oidc

#: asymmetric only: a token signed with our own secret proves less
ALGORITHMS = ["RS256", "PS256", "ES256", "RS384", "ES384", "RS512", "PS512", "EdDSA"]
#: for clocks that differ, in seconds
LEEWAY_S = 60
#: metadata and keys are asked for again after so long
_KEEP_S = 3600
#: bytes of an answer
_LARGEST = 1024 * 1024


class Refused(InputError):
    """The provider did not vouch for anybody, or not in a way that can be believed."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What the provider says and proves."""

    subject: str
    #: only if the provider says that it verified it
    email: str | None
    reference: str | None


class Provider:
    """One provider: its metadata and keys are asked for when first needed and kept for an hour."""

    def __init__(self, settings: Oidc, redirect_uri: str) -> None:
        self.settings = settings
        self.redirect_uri = redirect_uri
        self._lock = threading.Lock()
        self._metadata: dict[str, Any] = {}
        self._keys: KeySet | None = None
        self._fetched = 0.0

    def leave_url(self, state: str, nonce: str, verifier: str) -> str:
        """Where the browser goes. Raises ServiceError if the provider does not answer."""
        more = {"acr_values": self.settings.acr} if self.settings.acr else {}
        url: str = prepare_grant_uri(
            self._known()["authorization_endpoint"],
            self.settings.client_id,
            "code",
            self.redirect_uri,
            self.settings.scopes,
            state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
            **more,
        )
        return url

    def claims(self, code: str, nonce: str, verifier: str) -> Claims:
        """What the provider says of who came back with this code. Raises Refused or ServiceError."""
        answer = self._token(code, verifier)
        found = self._checked(answer, nonce)
        own = self.settings.reference_claim
        if (own and own not in found) or (not own and "email" not in found):
            found = self._user_info(answer, found)
        email = found.get("email") if found.get("email_verified") is True else None
        reference = found.get(own) if own else None
        return Claims(
            str(found["sub"]), email if isinstance(email, str) else None, str(reference) if reference else None
        )

    def _token(self, code: str, verifier: str) -> dict[str, Any]:
        secret = self.settings.client_secret.get_secret_value() if self.settings.client_secret else ""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": verifier,
        }
        known = self._known().get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        auth: tuple[str, str] | None = None
        if secret and "client_secret_basic" in known:
            # Both are form-encoded before they are put together (RFC 6749 §2.3.1).
            auth = quote(self.settings.client_id, safe=""), quote(secret, safe="")
        else:
            form |= {"client_id": self.settings.client_id} | ({"client_secret": secret} if secret else {})
        answer = self._ask("POST", self._known()["token_endpoint"], data=form, auth=auth)
        if not isinstance(answer.get("id_token"), str):
            raise Refused("The provider gave no ID token.")
        return answer

    def _checked(self, answer: dict[str, Any], nonce: str) -> dict[str, Any]:
        """The ID token's claims, after all checks of OpenID Connect Core §3.1.3.7."""
        try:
            try:
                token = jwt.decode(answer["id_token"], self._key_set(), algorithms=ALGORITHMS)
            except (JoseError, ValueError):
                # The provider may have new keys; asked for once more, at most each minute.
                token = jwt.decode(answer["id_token"], self._key_set(renew=True), algorithms=ALGORITHMS)
            found = CodeIDToken(
                token.claims,
                token.header,
                {
                    "iss": {"essential": True, "value": self.settings.issuer},
                    "aud": {"essential": True, "value": self.settings.client_id},
                },
                {"nonce": nonce, "client_id": self.settings.client_id, "access_token": answer.get("access_token")},
            )
            found.validate(leeway=LEEWAY_S)
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise Refused(f"The provider's ID token does not hold: {type(error).__name__}.") from error
        if self.settings.acr and found.get("acr") != self.settings.acr:
            raise Refused("The provider did not ask for the required strength.")
        if not isinstance(found.get("sub"), str) or not found["sub"]:
            raise Refused("The provider names nobody.")
        return dict(found)

    def _user_info(self, answer: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
        endpoint, access = self._known().get("userinfo_endpoint"), answer.get("access_token")
        if not endpoint or not isinstance(access, str):
            return found
        more = self._ask("GET", endpoint, headers={"Authorization": f"Bearer {access}"})
        if more.get("sub") != found["sub"]:
            raise Refused("The provider speaks of two people.")  # OpenID Connect Core §5.3.2
        return more | found

    def _known(self) -> dict[str, Any]:
        with self._lock:
            if not self._metadata or time.monotonic() - self._fetched > _KEEP_S:
                issuer = self.settings.issuer or ""
                found = self._ask("GET", issuer.rstrip("/") + "/.well-known/openid-configuration")
                if found.get("issuer") != issuer:
                    raise ServiceError(
                        "The OpenID Connect provider calls itself otherwise than NOTIFIER_OIDC__ISSUER."
                    )
                for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                    # A provider reached safely must not send us, or browsers, over an open line.
                    if urlsplit(str(found.get(name))).scheme != urlsplit(issuer).scheme:
                        raise ServiceError(f"The OpenID Connect provider gives no safe {name}.")
                self._metadata, self._keys, self._fetched = found, None, time.monotonic()
            return self._metadata

    def _key_set(self, *, renew: bool = False) -> KeySet:
        address = self._known()["jwks_uri"]
        with self._lock:
            if self._keys is None or renew:
                self._keys = KeySet.import_key_set(self._ask("GET", address))  # type: ignore[arg-type]  # checked there
            return self._keys

    def _ask(self, method: str, url: str, **more: Any) -> dict[str, Any]:
        try:
            answer = httpx.request(method, url, timeout=self.settings.timeout_s, follow_redirects=False, **more)
            found = answer.json() if len(answer.content) <= _LARGEST else None
        except (httpx.HTTPError, ValueError) as error:
            raise ServiceError("The OpenID Connect provider does not answer as it should.") from error
        if answer.status_code >= 500 or not isinstance(found, dict):
            raise ServiceError("The OpenID Connect provider does not answer as it should.")
        if answer.status_code != 200:
            raise Refused("The OpenID Connect provider refused.")
        return found
