"""Sealed values open only with their own key, purpose and campaign; erasing the data key erases the people."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.errors import MissingKeyError, SealingError, SettingsError
from notifier.sealing import BLIND_BYTES, NONCE_BYTES, MasterKey, mark_of

MASTER = MasterKey(bytes(range(32)))
KEY = MASTER.open_data_key(MASTER.new_data_key(1), 1)


@given(st.binary(max_size=500), st.binary(max_size=20))
def test_what_is_sealed_opens_again_and_never_looks_the_same_twice(value: bytes, purpose: bytes):
    sealed = KEY.seal(value, purpose)
    assert KEY.open(sealed, purpose) == value
    assert sealed != KEY.seal(value, purpose)
    assert len(value) < 8 or value not in sealed


def test_a_sealer_seals_as_its_key_does_and_uses_no_nonce_twice():
    seal = KEY.sealer().seal
    sealed = [seal(b"value", b"p") for _ in range(3000)]
    assert {KEY.open(one, b"p") for one in sealed} == {b"value"}
    assert (
        len({one[:NONCE_BYTES] for one in [*sealed, *(KEY.sealer().seal(b"value", b"p") for _ in range(9))]})
        == 3009
    )


def test_a_forked_process_draws_nonces_of_its_own():
    sealer = KEY.sealer()
    sealer.seal(b"value", b"p")
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writing, b"".join(sealer.seal(b"", b"p")[:NONCE_BYTES] for _ in range(9)))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 9 * NONCE_BYTES)
    ours = b"".join(sealer.seal(b"", b"p")[:NONCE_BYTES] for _ in range(9))
    assert {theirs[n : n + 12] for n in range(0, 108, 12)}.isdisjoint(
        {ours[n : n + 12] for n in range(0, 108, 12)}
    )


@given(st.binary(min_size=1, max_size=50), st.integers(0, 10_000))
def test_an_altered_byte_is_noticed(value: bytes, position: int):
    sealed = bytearray(KEY.seal(value, b"p"))
    sealed[position % len(sealed)] ^= 1
    with pytest.raises(SealingError):
        KEY.open(bytes(sealed), b"p")


def test_a_value_opens_for_no_other_purpose_campaign_or_master_key():
    sealed = KEY.seal(b"value", b"contact.value")
    with pytest.raises(SealingError):
        KEY.open(sealed, b"patient.identity")
    with pytest.raises(SealingError):
        MASTER.open_data_key(MASTER.new_data_key(2), 2).open(sealed, b"contact.value")
    wrapped = MASTER.new_data_key(1)
    with pytest.raises(SealingError, match="campaign 2"):
        MASTER.open_data_key(wrapped, 2)
    with pytest.raises(SealingError, match="NOTIFIER_MASTER_KEY"):
        MasterKey(bytes(32)).open_data_key(wrapped, 1)


def test_an_erased_data_key_says_so():
    with pytest.raises(SealingError, match="erased"):
        MASTER.open_data_key(None, 1)


def test_the_blind_index_is_equal_for_equal_values_of_one_campaign_only():
    other = MASTER.open_data_key(MASTER.new_data_key(2), 2)
    assert KEY.blind(b"a@example.org") == KEY.blind(b"a@example.org")
    assert KEY.blind(b"a@example.org") != KEY.blind(b"b@example.org")
    assert KEY.blind(b"a@example.org") != other.blind(b"a@example.org")
    assert len(KEY.blind(b"")) == BLIND_BYTES


def test_a_message_is_named_the_same_by_its_campaigns_key_and_by_no_other():
    signature = KEY.sign("17")
    assert KEY.check("17", signature)
    assert not KEY.check("18", signature)
    assert not KEY.check("17", "é")
    assert not MASTER.open_data_key(MASTER.new_data_key(2), 2).check("17", signature)
    assert signature.encode() not in KEY.blind(b"17").hex().encode()


def test_a_former_key_opens_and_checks_and_never_seals_or_signs():
    old, new = MasterKey(bytes(range(32))), MasterKey(b"n" * 32)
    both = MasterKey(new.key, (old.key,))
    assert both.open_data_key(old.new_data_key(1), 1).blind(b"") != KEY.blind(b"")
    sealed = old.key_for(b"accounts").seal(b"value", b"p")
    assert both.key_for(b"accounts").open(sealed, b"p") == b"value"
    with pytest.raises(MissingKeyError, match=mark_of(sealed)):
        new.key_for(b"accounts").open(sealed, b"p")
    assert both.check("webhook", "17", old.sign("webhook", "17"))
    assert both.check("webhook", "17", new.sign("webhook", "17"))
    assert not both.check("webhook", "17", MasterKey(bytes(32)).sign("webhook", "17"))
    assert both.sign("webhook", "17") == new.sign("webhook", "17")
    assert mark_of(both.new_data_key(1)) == mark_of(both.key_for(b"x").seal(b"", b"")) == new.fingerprint
    assert both.key_for(b"x").blind(b"v") == new.key_for(b"x").blind(b"v")
    assert both.key_for(b"x").blinds(b"v") == [one.key_for(b"x").blind(b"v") for one in (new, old)]
    assert old.key.hex() not in repr(both)


def test_a_data_key_wrapped_again_is_the_same_key_and_only_its_own_campaigns():
    old, new = MASTER, MasterKey(b"n" * 32)
    sealed = old.new_data_key(1)
    again = MasterKey(new.key, (old.key,)).wrap_again(sealed, 1)
    assert new.open_data_key(again, 1).blind(b"v") == old.open_data_key(sealed, 1).blind(b"v")
    with pytest.raises(SealingError):
        MasterKey(new.key, (old.key,)).wrap_again(sealed, 2)


def test_an_address_is_signed_and_a_changed_one_is_refused():
    signature = MASTER.sign("delivery", "17")
    assert MASTER.check("delivery", "17", signature)
    assert not MASTER.check("delivery", "18", signature)
    assert not MASTER.check("receipt", "17", signature)
    assert not MASTER.check("delivery", "17", signature[:-1])
    assert not MASTER.check("delivery", "17", "é")


def test_a_key_of_the_wrong_length_is_refused():
    with pytest.raises(SettingsError, match="32 bytes"):
        MasterKey(b"short")
    with pytest.raises(SettingsError, match="32 bytes"):
        MasterKey(bytes(32), (b"short",))
