"""A FHIR patient tells a list the same as a row of a table: own contacts in the order wanted, and nobody else's."""

from __future__ import annotations

import contextlib
import io
import json
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.errors import ListError
from notifier.importers import Code, Column, Doubt, Format, Limits, RawList, RawRow, open_list
from tests.notifier.importers.books import bundle, ndjson, patient

TODAY = date(2026, 11, 25)


def _read(content: bytes, **options) -> tuple[RawList, list[RawRow]]:
    with open_list(io.BytesIO(content), today=TODAY, **options) as listing:
        return listing, list(listing)


def _one(**changes) -> tuple[dict[str, list[str]], list[Doubt]]:
    _, (row,) = _read(ndjson(patient(**changes)))
    return {str(column): values for column, values in row.cells.items()}, list(row.doubts)


def test_a_whole_patient_is_read():
    cells, doubts = _one(
        identifier=[
            {"system": "urn:oid:1.2.3", "value": "IPP9"},
            {"system": "urn:oid:1.2.250.1.213.1.4.8", "value": "275017512345678"},
        ],
        name=[
            {"use": "maiden", "family": "Roux"},
            {"use": "official", "family": "Martin", "given": ["Zoé", "Anne"]},
            {"use": "usual", "family": "Petit", "given": ["Zouzou"]},
        ],
        telecom=[
            {"system": "phone", "value": "06 39 98 00 01", "use": "mobile"},
            {"system": "email", "value": "z@example.fr"},
        ],
        birthDate="1975-01-31",
        deceasedBoolean=False,
        address=[
            {"use": "work", "line": ["9 rue W"], "city": "Lyon", "postalCode": "69001"},
            {
                "use": "home",
                "line": ["1 rue A", "Bât. B"],
                "city": "Paris",
                "postalCode": "75001",
                "country": "FR",
            },
        ],
        communication=[
            {"language": {"coding": [{"code": "en"}]}},
            {"language": {"coding": [{"code": "fr-FR"}]}, "preferred": True},
        ],
        generalPractitioner=[{"identifier": {"system": "urn:oid:1.2.250.1.71.4.2.1", "value": "10001234567"}}],
    )
    assert cells == {
        "patient_id": ["p1"],
        "national_id": ["275017512345678"],
        "last_name": ["Martin"],
        "used_name": ["Petit"],
        "birth_name": ["Roux"],
        "first_name": ["Zouzou"],
        "birth_date": ["1975-01-31"],
        "phone": ["06 39 98 00 01"],
        "email": ["z@example.fr"],
        "address": ["1 rue A", "Bât. B"],
        "postal_code": ["75001"],
        "town": ["Paris"],
        "country": ["FR"],
        "language": ["fr-FR"],
        "deceased": ["non"],
        "doctor": ["10001234567"],
    }
    assert doubts == []


@pytest.mark.parametrize(
    ("telecom", "phones", "emails", "doubts"),
    [
        ([{"system": "email", "value": ""}, {"system": "phone"}], None, None, []),
        # rank orders, then mobile; what is old or over is never used
        (
            [
                {"system": "phone", "use": "old", "value": "0639980009"},
                {"system": "phone", "use": "mobile", "rank": 2, "value": "0692123456"},
                {"system": "phone", "use": "home", "rank": 1, "value": "0199001234"},
                {"system": "email", "value": "old@example.fr", "period": {"end": "2019-01-01"}},
            ],
            ["0199001234", "0692123456"],
            None,
            [Doubt.OLD_CONTACT],
        ),
        (
            [
                {"system": "phone", "use": "work", "value": "4"},
                {"system": "phone", "use": "home", "value": "2"},
                {"system": "phone", "value": "3"},
                {"system": "sms", "value": "1"},
                {"system": "phone", "use": "temp", "value": "5"},
            ],
            ["1", "2", "3", "4", "5"],
            None,
            [],
        ),
        ([{"system": "fax", "value": "0199001234"}], None, None, [Doubt.FAX]),
        ([{"system": "url", "value": "https://example.fr/zoe"}], None, None, []),
        # the system is left out: the value speaks for itself, or is not used
        (
            [{"value": "z@example.fr"}, {"value": "0199001234"}, {"value": "porte 4"}],
            ["0199001234"],
            ["z@example.fr"],
            [],
        ),
        ({"system": "email", "value": "z@example.fr"}, None, ["z@example.fr"], []),
        ("z@example.fr", None, None, [Doubt.SHAPE]),
        ([None, {"system": "email", "value": "z@example.fr"}], None, ["z@example.fr"], [Doubt.SHAPE]),
        ([{"system": "phone", "value": 639980001}], ["639980001"], None, []),
        ([{"system": "phone", "value": {"a": 1}, "rank": "1", "period": "x"}], None, None, []),
        ([{"system": "email", "value": "z@example.fr", "period": {"end": "2026"}}], None, ["z@example.fr"], []),
        (
            [{"system": "email", "value": "z@example.fr", "period": {"end": "2026-10"}}],
            None,
            None,
            [Doubt.OLD_CONTACT],
        ),
        (
            [{"system": "email", "value": "z@example.fr", "period": {"end": "2026-11-24T10:00:00Z"}}],
            None,
            None,
            [Doubt.OLD_CONTACT],
        ),
        ([{"system": "email", "value": "z@example.fr", "period": {"start": "2030"}}], None, ["z@example.fr"], []),
    ],
)
def test_contacts_by_rank_use_and_period(telecom, phones, emails, doubts):
    cells, found = _one(telecom=telecom)
    assert (cells.get("phone"), cells.get("email"), found) == (phones, emails, doubts)


def _contact(value: str, **relationship) -> dict:
    return {"relationship": [relationship], "telecom": [{"system": "phone", "value": value}]}


@pytest.mark.parametrize(
    ("relationship", "is_parent"),
    [
        ({"coding": [{"code": "MTH"}]}, True),
        ({"coding": [{"code": "C"}, {"code": "GUARD"}]}, True),
        ({"text": "Père"}, True),
        ({"coding": [{"display": "représentant légal"}]}, True),
        ({"text": "grand-mère"}, False),
        ({"text": "belle mère, beau-père"}, False),
        ({"coding": [{"code": "N"}]}, False),
        ({"text": "conjoint"}, False),
        ({}, False),
    ],
)
def test_contacts_of_parents_are_marked_and_of_others_left_out(relationship, is_parent):
    born = TODAY.replace(year=TODAY.year - 9).isoformat()
    cells, doubts = _one(birthDate=born, contact=[_contact("0639980002", **relationship)])
    assert cells.get("phone") == (["0639980002 (parent)"] if is_parent else None)
    assert doubts == ([] if is_parent else [Doubt.ANOTHERS_CONTACT])


def test_a_contact_without_relationship_or_value_is_nobodys():
    assert _one(contact=[{"telecom": [{"system": "phone", "value": "0639980002"}]}])[1] == [Doubt.ANOTHERS_CONTACT]
    assert _one(contact=[{"name": {"family": "X"}}])[1] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"deceasedBoolean": True}, ["oui"]),
        ({"deceasedBoolean": "true"}, ["oui"]),
        ({"deceasedDateTime": "2019"}, ["décédé le 2019"]),
        ({"deceasedDateTime": "2019-04"}, ["décédé le 2019-04"]),
        ({"deceasedDateTime": "2019-04-05T10:00:00+02:00"}, ["décédé le 2019-04-05"]),
        ({"deceasedDateTime": "1900-01-01"}, ["décédé le 1900-01-01"]),
        ({"deceasedBoolean": True, "deceasedDateTime": "1900-01-01"}, ["oui"]),
        ({"deceasedDateTime": True}, None),
        ({"deceasedBoolean": False}, ["non"]),
        ({}, None),
    ],
)
def test_the_dead_are_known(changes, said):
    assert _one(**changes)[0].get("deceased") == said


@pytest.mark.parametrize(
    ("name", "last", "first"),
    [
        ([{"text": "Zoé Martin"}], ["Zoé Martin"], None),
        ([{"use": "old", "family": "A", "given": ["B"]}, {"family": "C", "given": ["D"]}], ["C"], ["D"]),
        ([{"use": "old", "family": "A", "given": ["B"]}], ["A"], ["B"]),
        ([{"use": "maiden", "family": "A"}], ["A"], None),
        ([{"family": ["De", "La"], "given": "X"}], ["De La"], ["X"]),
        ([{"given": ["X"], "text": "X"}], None, ["X"]),
        ([], None, None),
        ("Martin", None, None),
    ],
)
def test_names_in_all_their_forms(name, last, first):
    cells, _ = _one(name=name)
    assert (cells.get("last_name"), cells.get("first_name")) == (last, first)


def test_a_replaced_record_comes_under_the_id_that_replaces_it():
    cells, _ = _one(
        id="old",
        link=[
            {"type": "seealso", "other": {"reference": "Patient/x"}},
            {"type": "replaced-by", "other": {"reference": "https://fhir.example.org/r4/Patient/new/_history/2"}},
        ],
    )
    assert cells["patient_id"] == ["new"]


@pytest.mark.parametrize(
    ("changes", "doctors"),
    [
        (
            {"generalPractitioner": [{"identifier": {"value": "10008"}}, {"identifier": {"value": "10009"}}]},
            ["10008", "10009"],
        ),
        ({"managingOrganization": {"identifier": {"value": "F1"}}}, ["F1"]),
        # the id of a resource that is not at hand says nothing, and an organisation is asked only without a doctor
        ({"generalPractitioner": [{"reference": "Practitioner/zzz"}]}, None),
        ({"managingOrganization": {"reference": "Organization/zzz"}}, None),
        (
            {
                "generalPractitioner": [{"reference": "Practitioner/zzz"}],
                "managingOrganization": {"identifier": {"value": "F1"}},
            },
            None,
        ),
        (
            {
                "generalPractitioner": [{"reference": "#c"}],
                "contained": [
                    {
                        "resourceType": "Practitioner",
                        "id": "c",
                        "identifier": [{"system": "https://rpps.esante.gouv.fr", "value": "10009"}],
                    }
                ],
            },
            ["10009"],
        ),
        ({"generalPractitioner": [{"display": "Dr X"}]}, None),
    ],
)
def test_the_doctor_is_the_practitioner_else_the_organisation(changes, doctors):
    assert _one(**changes)[0].get("doctor") == doctors


def test_a_zero_character_reaches_no_database():
    assert _one(name=[{"family": "Mar\0tin"}])[0]["last_name"] == ["Mar\ufffdtin"]


def test_lines_are_counted_blank_ones_too_and_a_broken_line_is_one_refused_row():
    content = ndjson(
        patient(id="1"),
        "",
        patient(id="2"),
        "{broken",
        '"text"',
        '{"a": 1}',
        {"resourceType": "Group"},
        patient(id="3"),
    )
    listing, rows = _read(b"\xef\xbb\xbf" + content)
    assert [(row.number, row.cells.get(Column.PATIENT_ID), list(row.doubts)) for row in rows] == [
        (1, ["1"], []),
        (3, ["2"], []),
        (4, None, [Doubt.NOT_JSON]),
        (5, None, [Doubt.NOT_A_RESOURCE]),
        (6, None, [Doubt.NOT_A_RESOURCE]),
        (8, ["3"], []),
    ]
    assert [row.is_refused for row in rows] == [False, False, True, True, True, False]
    assert (listing.format, [(note.code, note.count, note.names) for note in listing.notes]) == (
        Format.FHIR_NDJSON,
        [(Code.OTHER_RESOURCES, 1, ("Group",))],
    )


def test_a_practitioner_of_a_bundle_without_a_number_of_theirs_says_nothing():
    one = patient(generalPractitioner=[{"reference": "Practitioner/d1"}])
    _, (row,) = _read(bundle(one, {"resourceType": "Practitioner", "id": "d1", "name": [{"family": "X"}]}))
    assert Column.DOCTOR not in row.cells


def test_a_resource_that_is_too_large_is_one_refused_row():
    limits = Limits(max_resource_bytes=1000)
    large = patient(photo="x" * 5000)
    for content in (ndjson(patient(), large, patient()), bundle(patient(), large, patient())):
        _, rows = _read(content, limits=limits)
        assert [list(row.doubts) for row in rows] == [[], [Doubt.TOO_LARGE], []]


def test_a_bundle_knows_its_practitioners_and_tells_when_it_is_a_page():
    doctor = {
        "resourceType": "Practitioner",
        "id": "d1",
        "identifier": [{"system": "https://rpps.esante.gouv.fr", "value": "10009"}],
    }
    people = [patient(id=str(n), generalPractitioner=[{"reference": "Practitioner/d1"}]) for n in range(3)]
    link = [
        {"relation": "self", "url": "https://example.org"},
        {"relation": "next", "url": "https://example.org?page=2"},
    ]
    for indent in (None, 2):
        content = json.dumps(json.loads(bundle(*people, doctor, link=link)), indent=indent).encode()
        listing, rows = _read(content)
        assert listing.format is Format.FHIR_BUNDLE
        assert [(row.number, row.cells[Column.DOCTOR]) for row in rows] == [
            (1, ["10009"]),
            (2, ["10009"]),
            (3, ["10009"]),
        ]
        assert [(note.code, note.names) for note in listing.notes] == [
            (Code.OTHER_RESOURCES, ("Practitioner",)),
            (Code.MORE_PAGES, ()),
        ]
        assert len(list(_read(content)[1])) == 3


def test_keys_of_a_bundle_come_in_any_order():
    content = (
        b'{"entry": [{"resource": '
        + json.dumps(patient()).encode()
        + b'}], "note": ["{"], "type": "x", "resourceType": "Bundle"}'
    )
    assert [row.cells[Column.PATIENT_ID] for row in _read(content)[1]] == [["p1"]]


@pytest.mark.parametrize(
    "wrap",
    [lambda people: json.dumps(people), lambda people: "\n".join(json.dumps(one, indent=1) for one in people)],
)
def test_an_array_or_indented_patients_are_read(wrap):
    content = wrap([patient(id=str(n)) for n in range(3)]).encode()
    listing, rows = _read(content)
    assert (listing.format, [row.cells[Column.PATIENT_ID] for row in rows]) == (
        Format.FHIR_BUNDLE,
        [["0"], ["1"], ["2"]],
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1}', "no FHIR"),
        (bundle(patient())[:-10], "cut off"),
        (bundle(patient()) + b"}", "bracket"),
        (bundle(patient()).replace(b"]", b"}"), "bracket"),
        (b'{"resourceType": "Bundle", "entry": ' + b"[" * 500, "nested too deeply"),
        (b'{"resourceType": "Bundle", "entry": ["' + b"x" * 20_000_000, "text of more than"),
    ],
)
def test_what_is_no_fhir_is_refused_in_plain_words(content, words):
    with pytest.raises(ListError, match=words):
        _read(content)


def test_a_long_bundle_is_read_in_pieces():
    people = [patient(id=str(n), text={"div": "x" * 1000 + '"\\{[é'}) for n in range(2000)]
    _, rows = _read(bundle(*people))
    assert [row.cells[Column.PATIENT_ID] for row in rows] == [[str(n)] for n in range(2000)]


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "system",
                    "value",
                    "use",
                    "rank",
                    "period",
                    "end",
                    "start",
                    "reference",
                    "identifier",
                    "coding",
                    "code",
                    "text",
                    "language",
                    "line",
                    "city",
                    "family",
                    "given",
                    "relationship",
                    "telecom",
                    "other",
                    "type",
                    "id",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
_FIELDS = st.sampled_from(
    [
        "id",
        "identifier",
        "name",
        "telecom",
        "gender",
        "birthDate",
        "deceasedBoolean",
        "deceasedDateTime",
        "address",
        "contact",
        "communication",
        "generalPractitioner",
        "managingOrganization",
        "link",
        "contained",
    ]
)


@given(st.dictionaries(_FIELDS, _JSON, max_size=6))
def test_no_shape_of_a_patient_crashes_the_reader(fields):
    for content in (ndjson(patient(**fields)), bundle(patient(**fields))):
        _, rows = _read(content)
        assert [
            all(isinstance(v, str) and v for values in row.cells.values() for v in values) for row in rows
        ] == [True]


@given(st.binary(max_size=60), st.integers(0, 10**6))
def test_no_changed_byte_crashes_the_reader(junk, place):
    for content in (ndjson(patient(), patient()), bundle(patient(), patient())):
        changed = bytearray(content)
        at = 40 + place % (len(changed) - 40)
        changed[at : at + len(junk) // 2] = junk
        with contextlib.suppress(ListError):
            assert all(row.number > 0 for row in _read(bytes(changed))[1])


def test_published_patients_are_read(shared: Path):
    with open_list(shared / "cases/data/fhir/synthea_patient_20.ndjson", today=TODAY) as listing:
        rows = list(listing)
    assert len(rows) == 20
    assert all(
        {Column.PATIENT_ID, Column.LAST_NAME, Column.FIRST_NAME, Column.BIRTH_DATE} <= set(row.cells)
        for row in rows
    )
    assert all(not row.doubts for row in rows)


@pytest.mark.parametrize(
    ("years", "days", "told"), [(9, 0, True), (18, 1, True), (18, 0, False), (40, 0, False), (None, 0, False)]
)
def test_a_parent_is_told_about_a_child_and_not_about_an_adult(years, days, told):
    born = None if years is None else (TODAY.replace(year=TODAY.year - years) + timedelta(days=days)).isoformat()
    mother = _contact("0639980002", text="mère")
    cells, doubts = _one(birthDate=born, contact=[mother])
    assert ("phone" in cells) == told
    assert (Doubt.ANOTHERS_CONTACT in doubts) != told
