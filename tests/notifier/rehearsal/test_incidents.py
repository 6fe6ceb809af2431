"""The made-up incidents: always the same for a seed, exactly as large as asked, and true about themselves."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from notifier import composing, profiles
from notifier.composing import Facts
from notifier.errors import InputError
from notifier.rehearsal.faults import PRESETS, Both, Fate, fate
from notifier.rehearsal.incidents import FORMS, Truth, incident_facts, make_incident
from notifier.settings import ROOT
from notifier.states import Channel, Exclusion, Variant


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("incident")
    return folder, make_incident(7, 5, 2000, folder, PRESETS["harsh"])


def cells_of(folder: Path, number: int) -> list[list[str]]:
    form = FORMS[number - 1]
    text = (folder / f"list-D{number:04d}.csv").read_bytes().decode(form.encoding)
    return list(csv.reader(text.splitlines(keepends=True), delimiter=form.delimiter))


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path):
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        make_incident(seed, 3, 200, tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert files(tmp_path / "one") != files(tmp_path / "three")


def test_who_is_reachable_follows_the_servers_seed_and_not_the_lists(tmp_path: Path):
    """Two incidents at one pair of servers: the same contact meets the same fate in both."""
    faults = Both.model_validate({"email": {"refused": 0.5}, "sms": {"refused": 0.5}})
    for seed in (1, 2):
        made = make_incident(seed, 1, 60, tmp_path / str(seed), faults, fates=9)
        for person in made.people:
            works = [fate(faults.email, 9, one) is Fate.ARRIVES for one in person.email]
            works += [fate(faults.sms, 9, one) is Fate.ARRIVES for one in person.sms]
            assert person.reachable == (person.excluded is None and any(works))


@pytest.mark.parametrize(("doctors", "patients"), [(1, 1), (1, 7), (3, 3), (3, 100), (40, 90)])
def test_there_are_exactly_as_many_rows_as_asked(tmp_path: Path, doctors: int, patients: int):
    truth = make_incident(1, doctors, patients, tmp_path)
    assert sum(len(person.rows) for person in truth.people) == patients == truth.rows
    assert len({person.doctor for person in truth.people}) == doctors == len(truth.doctors)


@pytest.mark.parametrize(("doctors", "patients"), [(0, 10), (3, 2), (5000, 9000)])
def test_what_cannot_be_made_is_said(tmp_path: Path, doctors: int, patients: int):
    with pytest.raises(InputError):
        make_incident(1, doctors, patients, tmp_path)


def test_1500_doctors_have_names_and_numbers_of_their_own(tmp_path: Path):
    truth = make_incident(1, 1500, 1500, tmp_path)
    assert len({doctor["name"] for doctor in truth.doctors}) == 1500
    assert len({doctor["phone"] for doctor in truth.doctors}) == 1500


def test_each_row_number_leads_to_the_person(made):
    folder, truth = made
    for number in range(1, 6):
        rows = cells_of(folder, number)
        form = FORMS[number - 1]
        first = [meaning for _, meaning in form.columns].index("first")
        for person in (one for one in truth.people if one.doctor == f"D{number:04d}"):
            for row in person.rows:
                assert rows[row - 1][first] == person.first


def test_lists_are_as_messy_as_real_ones(made):
    folder, truth = made
    starts = [(folder / f"list-D{n:04d}.csv").read_bytes()[:3] for n in range(1, 6)]
    assert starts[1] == b"\xef\xbb\xbf"
    assert starts[2][:2] == b"\xff\xfe"
    assert cells_of(folder, 1)[0][0].startswith("Liste des patients")
    assert cells_of(folder, 1)[-1][0].startswith("Total")
    assert cells_of(folder, 1)[2][-2:] == ["", ""]
    text = "\n".join(";".join(row) for n in range(1, 6) for row in cells_of(folder, n))
    for mess in (
        r"\+33 \(0\)6", r"0033639", r";639\d{6};", r";\d{4};", r" ou 0", r"\*\*", r"E\+10", r"\(m[eè]re\)",
        r"example,org", r"<[\w.]+@", r"aucun|NC|pas de mail", r"0000000000|00 00 00", "\u00a0", r";1000;",
        r"Anglais|anglais|EN;", r"14/03/2025",
    ):  # fmt: skip
        assert re.search(mess, text), mess
    assert any(len(person.rows) > 1 for person in truth.people)
    assert any(person.sensitive for person in truth.people)


def test_everybody_is_fictitious(made):
    folder, truth = made
    for person in truth.people:
        assert all(re.fullmatch(r"\+3363998\d{4}", number) for number in person.sms)
        assert all(re.fullmatch(r"[a-z0-9.]+@([a-z]+\.)?example\.(com|org|net|fr)", mail) for mail in person.email)
    text = "\n".join(";".join(row) for n in range(1, 6) for row in cells_of(folder, n))
    assert all(
        re.search(r"\.example\.|@example|example\.org$|example,org", mail, re.IGNORECASE)
        for mail in re.findall(r"[\w.]+@[\w.,]+", text)
    )


def test_a_number_is_shared_only_within_a_household(made):
    _, truth = made
    for (_, channel, _), people in truth.allowed().items():
        assert len({person.last for person in people}) == 1
        if len(people) > 1:
            assert channel in Channel
            assert {(person.language, person.variant) for person in people} == {
                (people[0].language, Variant.STANDARD)
            }


def test_nobody_may_be_told_at_the_contact_of_the_dead_alone(made):
    _, truth = made
    dead = [person for person in truth.people if person.excluded is Exclusion.DECEASED]
    assert dead
    assert not any(person in people for people in truth.allowed().values() for person in dead)
    assert not any(person.reachable or person.must_be_tried for person in dead)


def test_the_same_person_is_never_made_twice(made):
    _, truth = made
    seen = Counter((person.doctor, person.first, person.last, person.born) for person in truth.people)
    assert max(seen.values()) == 1


def test_no_patient_has_a_doctors_name(made):
    _, truth = made
    signers = {doctor["name"].removeprefix("Dr ") for doctor in truth.doctors}
    assert not signers & {f"{person.first} {person.last}" for person in truth.people}


def test_the_truth_can_be_read_back(made):
    folder, truth = made
    assert Truth.read(folder / "truth.json") == truth


def test_once_the_block_is_used_up_people_have_no_mobile_rather_than_anothers(tmp_path: Path):
    truth = make_incident(1, 1, 25_000, tmp_path)
    numbers = {number for person in truth.people for number in person.sms}
    assert len(numbers) == 10_000
    for people in truth.allowed().values():
        assert len({person.last for person in people}) == 1


def test_the_incidents_facts_are_all_a_notice_needs():
    facts = Facts.read(incident_facts()["facts"])
    for needed in (
        facts.what_happened,
        facts.consequences,
        facts.measures_taken,
        facts.advice,
        facts.not_concerned,
    ):
        assert {"fr", "en"} <= set(needed)
    assert facts.categories
    assert facts.contact.phone
    assert facts.contact.email
    assert facts.contact.hours


def test_the_notice_of_the_doctor_with_the_longest_name_is_complete(tmp_path: Path):
    """Nothing that the legal profile requires may be missing, or the rehearsal could not be approved."""
    signers = make_incident(1, 1500, 1500, tmp_path).doctors
    longest = max(signers, key=lambda signer: len(signer["name"] + signer["practice"]))
    doctor = composing.Doctor(longest["name"], longest["practice"], longest["address"], longest["phone"])
    known = incident_facts()
    profile = profiles.load(known["profile"], ROOT / "config")
    facts = Facts.read(known["facts"])
    composed = composing.compose(facts, doctor, profile, ROOT / "templates", ["fr", "en"], list(Variant))
    assert not composed.missing
