"""The judge sees each kind of harm, in the messages themselves and not in what the product says of them."""

import itertools
from datetime import date
from typing import Any

from notifier.rehearsal.incidents import Person, Truth, make_incident
from notifier.rehearsal.judging import judge
from notifier.states import Exclusion

DOCTORS = [
    {"reference": "D1", "name": "Dr Claire Abadie", "phone": "01 99 00 12 34"},
    {"reference": "D2", "name": "Dr Luc Pons", "phone": "02 61 91 12 34"},
]
EMAIL, NUMBER = "famille@example.org", "+33639980001"


def make_person(first: str, row: int, doctor: str = "D1", last: str = "Dupont", **changes: Any) -> Person:
    values: dict[str, Any] = {"email": [EMAIL], "must_be_tried": True, "reachable": True, "rows": [row], **changes}
    return Person(doctor, first, last, date(1980, 1, 1), **values)


def make_truth(*people: Person) -> Truth:
    return Truth(1, len(people), DOCTORS, list(people))


def mail(text: str, number: int = 0, contact: str = EMAIL, **changes: Any) -> dict[str, Any]:
    return {
        "number": number, "channel": "email", "contact": contact, "arrived": True, "subject": "Information",
        "text": text, "message_id": f"<{number}@example.org>", **changes,
    }  # fmt: skip


def sms(text: str, number: int = 0, contact: str = "33639980001", **changes: Any) -> dict[str, Any]:
    return mail(text, number, contact, **{"channel": "sms", "subject": "", **changes})


def said(outcome: str, row: int = 2, doctor: str = "D1") -> dict[str, Any]:
    return {"doctor": doctor, "row": row, "outcome": outcome, "reason": None}


def harm(verdict: dict[str, Any]) -> dict[str, int]:
    return {kind: verdict[kind] for kind in ("duplicates", "wrong_person", "lost", "missed") if verdict[kind]}


def test_one_message_each_is_no_harm():
    truth = make_truth(make_person("Ève", 2), make_person("Jean-Pierre", 3, email=[], sms=[NUMBER]))
    messages = [mail("Bonjour EVE DUPONT, Dr Claire Abadie vous informe"), sms("Dr Claire ABADIE: ...", 1)]
    verdict = judge(truth, messages, [said("informed"), said("informed", 3)])
    assert harm(verdict) == {}
    assert verdict["received"] == {"email": 1, "sms": 1}


def test_a_household_gets_one_message_for_all_or_one_for_each():
    truth = make_truth(make_person("Eve", 2), make_person("Tom", 3))
    both = [said("informed"), said("informed", 3)]
    assert harm(judge(truth, [mail("Dr Claire Abadie : Madame, Monsieur")], both)) == {}
    each = [mail("Dr Claire Abadie : Eve Dupont"), mail("Dr Claire Abadie : Dupont Tom", 1)]
    assert harm(judge(truth, each, both)) == {}
    assert harm(judge(truth, each[:1], both)) == {"lost": 1}


def test_told_again_at_the_same_contact_is_a_duplicate():
    truth = make_truth(make_person("Eve", 2, sms=[NUMBER]))
    twice = [mail("Dr Claire Abadie : Eve Dupont", n) for n in range(2)]
    verdict = judge(truth, [*twice, sms("Dr Claire Abadie", 2), sms("Dr Claire Abadie", 3)], [said("informed")])
    assert harm(verdict) == {"duplicates": 2}
    assert verdict["details"]["duplicates"][0] == {"message": 1, "channel": "email", "doctor": "D1", "rows": [2]}


def test_namesakes_at_one_mailbox_get_one_message_each_and_no_third():
    truth = make_truth(make_person("Eve", 2), make_person("Eve", 3))
    both = [said("informed"), said("informed", 3)]
    each = [mail("Dr Claire Abadie : Eve Dupont", n) for n in range(3)]
    assert harm(judge(truth, each[:2], both)) == {}
    assert harm(judge(truth, each, both)) == {"duplicates": 1}
    again = [each[0], mail("Dr Claire Abadie : Eve Dupont", 0)]
    assert harm(judge(truth, again, both)) == {"duplicates": 1, "lost": 1}, "the same message twice tells only one"


def test_two_doctors_may_each_tell_the_same_contact():
    truth = make_truth(make_person("Eve", 2, sms=[NUMBER]), make_person("Eve", 2, "D2", sms=[NUMBER]))
    messages = [sms("Dr Claire Abadie"), sms("Dr Luc Pons", 1)]
    assert harm(judge(truth, messages, [said("informed"), said("informed", 2, "D2")])) == {}


def test_a_message_after_a_bounce_is_no_duplicate_and_a_bounce_informs_nobody():
    truth = make_truth(make_person("Eve", 2, sms=[NUMBER]))
    bounced = sms("Dr Claire Abadie", arrived=False)
    assert harm(judge(truth, [bounced, sms("Dr Claire Abadie", 1)], [said("informed")])) == {}
    assert harm(judge(truth, [bounced], [said("informed")])) == {"lost": 1}


def test_a_message_to_nobodys_contact_is_to_the_wrong_person():
    truth = make_truth(make_person("Eve", 2))
    verdict = judge(
        truth,
        [mail("Dr Claire Abadie : Eve Dupont"), mail("Dr Claire Abadie", 1, contact="other@example.org")],
        [said("informed")],
    )
    assert harm(verdict) == {"wrong_person": 1}


def test_another_doctors_notice_is_to_the_wrong_person():
    truth = make_truth(make_person("Eve", 2), make_person("Ana", 2, "D2", email=["ana@example.org"]))
    verdict = judge(
        truth, [mail("Dr Luc Pons : Madame, Monsieur")], [said("unreached"), said("unreached", 2, "D2")]
    )
    assert verdict["wrong_person"] == 1


def test_a_message_that_names_somebody_else_is_to_the_wrong_person():
    truth = make_truth(make_person("Eve", 2), make_person("Tom", 3, last="Moreau", email=["tom@example.org"]))
    verdict = judge(truth, [mail("Dr Claire Abadie : Tom Moreau")], [said("informed"), said("unreached", 3)])
    assert verdict["wrong_person"] == 1
    assert verdict["details"]["lost"] == [
        {"doctor": "D1", "row": 2, "why": "called informed, but nothing arrived"}
    ]


def test_nobody_is_told_of_the_dead():
    dead = make_person("Eve", 2, excluded=Exclusion.DECEASED, must_be_tried=False, reachable=False)
    truth = make_truth(dead, make_person("Tom", 3))
    outcomes = [said("excluded"), said("informed", 3)]
    assert harm(judge(truth, [mail("Dr Claire Abadie : Tom Dupont")], outcomes)) == {}
    wrong = judge(
        truth, [mail("Dr Claire Abadie : Tom Dupont"), mail("Dr Claire Abadie : Eve Dupont", 1)], outcomes
    )
    assert harm(wrong) == {"wrong_person": 1}


def test_a_longer_name_does_not_name_whoever_is_inside_it():
    truth = make_truth(make_person("Jean-Pierre", 2), make_person("Pierre", 3, email=["pierre@example.org"]))
    verdict = judge(
        truth,
        [
            mail("Dr Claire Abadie : Jean-Pierre DUPONT"),
            mail("Dr Claire Abadie : Pierre Dupont", 1, "pierre@example.org"),
        ],
        [said("informed"), said("informed", 3)],
    )
    assert harm(verdict) == {}


def test_a_message_without_a_known_doctor_is_to_the_wrong_person_unless_the_practice_phone_stands_in_it():
    truth = make_truth(make_person("Eve", 2))
    assert judge(truth, [mail("Bonjour")], [said("informed")])["wrong_person"] == 1
    assert harm(judge(truth, [mail("Cabinet, 01.99.00.12.34")], [said("informed")])) == {}


def test_a_person_without_outcome_is_lost():
    truth = make_truth(make_person("Eve", 2, rows=[2, 9]), make_person("Tom", 3))
    messages = [mail("Dr Claire Abadie : Madame, Monsieur")]
    assert harm(judge(truth, messages, [said("informed", 9)])) == {"lost": 1}
    merged_away = [said("informed", 9), said("merged", 3)]
    assert harm(judge(truth, messages, merged_away)) == {"lost": 1}
    assert harm(judge(truth, messages, [said("informed", 9), said("on_the_way", 3)])) == {}


def test_a_working_contact_that_was_not_used_is_missed():
    truth = make_truth(make_person("Eve", 2), make_person("Tom", 3, email=["tom@example.org"], reachable=False))
    verdict = judge(truth, [], [said("unreached"), said("unreached", 3)])
    assert harm(verdict) == {"missed": 1}


def test_details_never_hold_a_contact_or_a_name():
    truth = make_truth(make_person("Eve", 2))
    verdict = judge(truth, [mail("x"), *[mail("Dr Claire Abadie : Eve Dupont", n) for n in range(3)]], [])
    assert not any(word in str(verdict) for word in (EMAIL, "Eve", "Dupont"))


def test_a_perfect_product_does_no_harm_to_a_whole_made_up_incident(tmp_path):
    truth = make_incident(3, 4, 1200, tmp_path)
    names = {doctor["reference"]: doctor["name"] for doctor in truth.doctors}
    messages = []
    for (doctor, channel, contact), people in truth.allowed().items():
        text = f"{names[doctor]} : {', '.join(f'{p.last.upper()} {p.first}' for p in people)}"
        make = mail if channel == "email" else sms
        messages.append(
            make(text if channel == "email" else names[doctor], len(messages), contact.removeprefix("+"))
        )
    outcomes = [
        {
            "doctor": person.doctor,
            "row": person.rows[0],
            "outcome": "excluded"
            if person.excluded
            else "informed"
            if person.email or person.sms
            else "unreached",
        }
        for person in truth.people
    ]
    assert harm(judge(truth, messages, outcomes)) == {}
    mails = [message for message in messages if message["channel"] == "email"]
    shifted = [{**one, "contact": other["contact"]} for one, other in itertools.pairwise(mails)]
    assert judge(truth, shifted, outcomes)["wrong_person"] > len(shifted) * 0.95
