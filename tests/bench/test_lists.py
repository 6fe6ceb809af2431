"""Contacts of lists as messy as real ones: none is taken that is not the person's, hardly any is missed."""

from __future__ import annotations

import pytest

from bench import lists


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_contact_taken_is_the_persons_own_and_hardly_one_is_missed(seed: int):
    measured = lists.run(rows=3000, seed=seed)
    assert measured["contacts_usable"] > 3000
    assert (measured["precision"], measured["wrong_by_kind"]) == (1.0, {})
    assert measured["recall"] >= 0.995


def test_the_same_seed_makes_the_same_list():
    one, other = (lists.written(lists._Maker(7).lines(200)) for _ in range(2))
    assert one == other != lists.written(lists._Maker(8).lines(200))
