"""Seals personal columns: AES-256-GCM under a data key per campaign, itself sealed by the master key.

Erasing a campaign's data key erases its people (GDPR article 17). Look-ups go through a keyed blind
index, so that equal contacts can be found without opening any. The master key never leaves memory.

Form of a sealed value: 12 bytes nonce, then ciphertext with its 16 bytes tag (NIST SP 800-38D). What the
master key itself seals begins with 4 bytes that say which one did, so that it can be changed (`keys.py`).
The nonce is random: a campaign of 2^20 patients with 4 values each stays far below the 2^32 bound.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from notifier.errors import MissingKeyError, SealingError, SettingsError

KEY_BYTES = 32
NONCE_BYTES = 12
BLIND_BYTES = 16
#: in front of what a master key sealed: its fingerprint
MARK_BYTES = 4
_SIGNATURE_BYTES = 10
_NONCES_AT_ONCE = 512


class DataKey:
    """Seals and opens the values of one campaign. `purpose` ties a value to its column."""

    __slots__ = ("_aead", "_blind", "_signature")

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(_hkdf(key, b"seal"))
        own = _hkdf(key, b"blind")
        self._blind = hashlib.blake2b(key=own, digest_size=BLIND_BYTES)
        self._signature = hashlib.blake2b(key=own, digest_size=_SIGNATURE_BYTES, person=b"signature")

    def seal(self, value: bytes, purpose: bytes) -> bytes:
        """Returns nonce + ciphertext + tag; two calls with one value differ."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, value, purpose)

    def sealer(self) -> Sealer:
        """For many values in a row."""
        return Sealer(self._aead)

    def open(self, sealed: bytes, purpose: bytes) -> bytes:
        """Raises SealingError if the bytes were altered or sealed for another purpose or campaign."""
        try:
            return self._aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], purpose)
        except InvalidTag as error:
            raise SealingError("A sealed value does not open with this campaign's key.") from error

    def blind(self, value: bytes) -> bytes:
        """16 bytes, equal for equal values of this campaign, meaningless without the key.

        Keyed BLAKE2b (RFC 7693 §2.9), at a third of what HMAC-SHA-256 costs.
        """
        keyed = self._blind.copy()
        keyed.update(value)
        return keyed.digest()

    def sign(self, value: str) -> str:
        """80 bits in hexadecimal, for names that travel and come back: the same as long as the campaign lives."""
        keyed = self._signature.copy()
        keyed.update(value.encode())
        return keyed.hexdigest()

    def check(self, value: str, signature: str) -> bool:
        """Compares in constant time."""
        return hmac.compare_digest(self.sign(value).encode(), signature.encode())


class Sealer:
    """Seals as `DataKey.seal` does, with nonces drawn by hundreds: one system call each cost as much as sealing.

    A process forked from this one draws anew: one nonce twice under one key would give both values away.
    """

    __slots__ = ("_aead", "_forks", "_nonces")

    def __init__(self, aead: AESGCM) -> None:
        self._aead = aead
        self._forks = _forks
        self._nonces: Iterator[tuple[bytes]] = iter(())

    def seal(self, value: bytes, purpose: bytes) -> bytes:
        """Returns nonce + ciphertext + tag; two calls with one value differ."""
        # One step of one iterator: no two threads can take the same.
        drawn = next(self._nonces, None) if self._forks == _forks else None
        nonce = self._draw() if drawn is None else drawn[0]
        return nonce + self._aead.encrypt(nonce, value, purpose)

    def _draw(self) -> bytes:
        nonces = struct.iter_unpack(f"{NONCE_BYTES}s", os.urandom(NONCE_BYTES * _NONCES_AT_ONCE))
        first: bytes = next(nonces)[0]
        self._nonces, self._forks = nonces, _forks
        return first


#: how often this process and its forebears were forked: to ask for its number costs half as much as a nonce
_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class DeploymentKey:
    """Seals what belongs to no campaign, under the master key; opens what former ones sealed."""

    __slots__ = ("_keys", "_mark")

    def __init__(self, keys: tuple[bytes, ...], purpose: bytes) -> None:
        """`keys`: the master key, then former ones."""
        self._mark = _mark(keys[0])
        self._keys = {
            _mark(key): DataKey(hmac.digest(key, b"patient-notifier/" + purpose, "sha256")) for key in keys
        }

    def seal(self, value: bytes, purpose: bytes) -> bytes:
        """Always by the master key, never by a former one."""
        return self._mark + self._keys[self._mark].seal(value, purpose)

    def open(self, sealed: bytes, purpose: bytes) -> bytes:
        """Raises MissingKeyError if a key sealed it that was not given, SealingError as `DataKey.open` does."""
        key = self._keys.get(sealed[:MARK_BYTES])
        if key is None:
            raise _missing("A sealed value", sealed)
        return key.open(sealed[MARK_BYTES:], purpose)

    def blind(self, value: bytes) -> bytes:
        """As `DataKey.blind`, by the master key."""
        return self._keys[self._mark].blind(value)

    def blinds(self, value: bytes) -> list[bytes]:
        """What `blind` may have said of a value, by this master key and by each former one."""
        return [key.blind(value) for key in self._keys.values()]


@dataclass(frozen=True, slots=True)
class MasterKey:
    """The one secret of a deployment (`NOTIFIER_MASTER_KEY`, 32 bytes as 64 hexadecimal digits).

    Former ones (`NOTIFIER_MASTER_KEYS_FORMER`) still open and check, and never seal or sign.
    """

    key: bytes
    former: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        for key in self._all:
            if len(key) != KEY_BYTES:
                raise SettingsError(
                    f"A master key must be {KEY_BYTES} bytes (64 hexadecimal digits); one has {len(key)}."
                )

    @property
    def _all(self) -> tuple[bytes, ...]:
        return (self.key, *self.former)

    @property
    def fingerprint(self) -> str:
        """Names the key without telling anything of it: 8 hexadecimal digits."""
        return _mark(self.key).hex()

    @property
    def fingerprints(self) -> list[str]:
        """Of the key, then of former ones."""
        return [_mark(key).hex() for key in self._all]

    def __repr__(self) -> str:
        return "MasterKey(…)"

    def new_data_key(self, campaign_id: int) -> bytes:
        """A fresh data key, sealed for the `campaign.data_key` column."""
        return self._wrap(os.urandom(KEY_BYTES), campaign_id)

    def wrap_again(self, sealed: bytes, campaign_id: int) -> bytes:
        """The same data key, sealed by this master key whichever sealed it before. Raises as `open_data_key`."""
        return self._wrap(self._unwrap(sealed, campaign_id), campaign_id)

    def _wrap(self, data_key: bytes, campaign_id: int) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        sealed = AESGCM(_derive(self.key, b"wrap")).encrypt(nonce, data_key, _purpose(campaign_id))
        return _mark(self.key) + nonce + sealed

    def open_data_key(self, sealed: bytes | None, campaign_id: int) -> DataKey:
        """Raises SealingError if the key was erased or belongs to another campaign, MissingKeyError if a master
        key sealed it that was not given."""
        if sealed is None:
            raise SealingError(f"The data key of campaign {campaign_id} has been erased.")
        return DataKey(self._unwrap(sealed, campaign_id))

    def _unwrap(self, sealed: bytes, campaign_id: int) -> bytes:
        mark, nonce = sealed[:MARK_BYTES], sealed[MARK_BYTES : MARK_BYTES + NONCE_BYTES]
        master = next((key for key in self._all if _mark(key) == mark), None)
        if master is None:
            raise _missing(f"The data key of campaign {campaign_id}", sealed)
        try:
            return AESGCM(_derive(master, b"wrap")).decrypt(
                nonce, sealed[MARK_BYTES + NONCE_BYTES :], _purpose(campaign_id)
            )
        except InvalidTag as error:
            raise SealingError(
                f"The data key of campaign {campaign_id} does not open: it was altered, or is another campaign's."
            ) from error

    def key_for(self, purpose: bytes) -> DeploymentKey:
        """Seals what belongs to no campaign: accounts, callbacks."""
        return _key_for(self._all, purpose)

    def sign(self, purpose: str, value: str) -> str:
        """A short keyed signature (80 bits in hexadecimal) for addresses that are given to providers."""
        return _signature(self.key, purpose, value)

    def check(self, purpose: str, value: str, signature: str) -> bool:
        """Whether this key or a former one signed it. Compares in constant time."""
        signed = (_signature(key, purpose, value) for key in self._all)
        return any(hmac.compare_digest(one.encode(), signature.encode()) for one in signed)


def mark_of(sealed: bytes) -> str:
    """The fingerprint of the master key that sealed a campaign's data key, or what belongs to no campaign."""
    return sealed[:MARK_BYTES].hex()


def _missing(what: str, sealed: bytes) -> MissingKeyError:
    return MissingKeyError(
        f"{what} was sealed by the master key {mark_of(sealed)}, which is not given: "
        "is NOTIFIER_MASTER_KEY the one this database was made with? "
        "A former one belongs into NOTIFIER_MASTER_KEYS_FORMER."
    )


def _signature(key: bytes, purpose: str, value: str) -> str:
    digest = hmac.digest(_derive(key, b"sign"), f"{purpose}:{value}".encode(), "sha256")
    return digest[:_SIGNATURE_BYTES].hex()


def _mark(key: bytes) -> bytes:
    return _derive(key, b"fingerprint")[:MARK_BYTES]


@functools.lru_cache(maxsize=16)
def _key_for(keys: tuple[bytes, ...], purpose: bytes) -> DeploymentKey:
    return DeploymentKey(keys, purpose)


# Of master keys only: opened data keys live where they are used, and no longer.
@functools.lru_cache(maxsize=64)
def _derive(key: bytes, info: bytes) -> bytes:
    return _hkdf(key, info)


def _hkdf(key: bytes, info: bytes) -> bytes:
    hkdf = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=b"patient-notifier/" + info)
    return hkdf.derive(key)


def _purpose(campaign_id: int) -> bytes:
    return b"campaign:%d" % campaign_id


def hash_secret(secret: str) -> bytes:
    """SHA-256 of a random secret of at least 128 bits (API keys): no salt is needed for such."""
    return hashlib.sha256(secret.encode()).digest()
