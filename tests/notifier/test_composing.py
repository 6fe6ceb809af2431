"""A notice is complete in itself, in every channel, language and variant, or it says what it lacks."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from notifier import composing, notices, profiles, sms
from notifier.composing import Composed, Doctor, Facts, compose, preview
from notifier.errors import IncompleteNotice, InputError, SettingsError
from notifier.notices import Problem, readable
from notifier.settings import ROOT
from notifier.states import Channel, Variant

TEMPLATES = ROOT / "templates"
PROFILE = profiles.load("eu-gdpr-fr", ROOT / "config")
LANGUAGES = PROFILE.languages
DOCTOR = Doctor(
    name="Dr Claire Martin",
    practice="Cabinet médical des Lilas",
    address="12 rue des Exemples, 75000 Paris",
    phone="01 99 00 12 34",
)
#: a whole made-up incident, as `incident.facts` holds it
FACTS: dict[str, Any] = json.loads(Path(__file__).with_name("facts.json").read_text(encoding="utf-8"))


def make_facts(**changes: Any) -> dict[str, Any]:
    """The sample's facts; `contact__phone=""` changes `phone` of `contact`."""
    facts = copy.deepcopy(FACTS)
    for name, value in changes.items():
        *groups, key = name.split("__")
        place = facts
        for group in groups:
            place = place[group]
        place[key] = value
    return facts


def write(facts: dict[str, Any] | None = None, doctor: Doctor = DOCTOR, **changes: Any) -> Composed:
    values: dict[str, Any] = {
        "templates_dir": TEMPLATES,
        "languages": LANGUAGES,
        "variants": list(Variant),
        **changes,
    }
    return compose(Facts.read(facts if facts is not None else FACTS), doctor, PROFILE, **values)


def gaps(found: tuple[notices.Gap, ...]) -> set[tuple[str, str]]:
    return {(gap.part, str(gap.channel)) for gap in found}


def whole(draft: notices.DraftNotice) -> str:
    return readable("\n".join((draft.subject, draft.text, draft.html)))


def words_of_html(html: str) -> list[str]:
    return composing._visible(readable(html)).split()


# ---- complete --------------------------------------------------------------------------------------------------


def test_every_channel_language_and_variant_composes_without_a_gap():
    composed = write()
    assert composed.missing == ()
    assert composed.warnings == ()
    composed.check()
    keys = {draft.key for draft in composed.notices}
    assert keys == {(c, lang, v) for c in Channel for lang in LANGUAGES for v in Variant}


def test_the_same_facts_give_the_same_hash_and_one_changed_letter_another():
    assert write().hash == write().hash
    assert write(make_facts(contact__phone="01 99 00 50 61")).hash != write().hash


@pytest.mark.parametrize("draft", write().notices, ids=lambda draft: "-".join(draft.key))
def test_a_notice_has_no_link_no_attachment_and_nothing_to_load(draft: notices.DraftNotice):
    text = whole(draft)
    assert not re.search(r"https?:|www\.|href|src=|mailto|tel:|<a\b|<img|url\(|\{\{|STOP", text)
    without_addresses = re.sub(r"\S+@\S+", "", text)
    assert not re.search(r"\w\.(fr|com|org|net|example)\b", without_addresses)


@pytest.mark.parametrize("draft", write().notices, ids=lambda draft: "-".join(draft.key))
def test_a_notice_names_the_doctor_and_gives_a_number_and_asks_for_nothing(draft: notices.DraftNotice):
    assert "Dr Claire Martin" in draft.text
    assert DOCTOR.phone in draft.text
    assert FACTS["contact"]["phone"] in draft.text
    assert "33700" in draft.text
    assert "17Cyber" in draft.text
    assert re.search("aucun lien|ni lien|no link", draft.text)


@pytest.mark.parametrize("draft", write().notices, ids=lambda draft: "-".join(draft.key))
def test_an_sms_has_at_most_six_parts_in_the_plain_alphabet(draft: notices.DraftNotice):
    if draft.channel is Channel.EMAIL:
        assert (draft.parts, draft.encoding) == (0, "")
        return
    assert draft.encoding == "GSM-7"
    assert 1 <= draft.parts <= 6
    assert draft.text.startswith("Dr Claire Martin")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("variant", Variant)
def test_text_and_html_of_an_email_say_the_same_words(language: str, variant: Variant):
    [email] = [d for d in write().notices if d.key == (Channel.EMAIL, language, variant)]
    text = [word for word in readable(email.text).split() if word != "-"]
    assert words_of_html(email.html) == text


def test_the_comment_is_named_only_to_those_who_have_one_and_never_quoted():
    for draft in write().notices:
        named = bool(re.search("commentaire libre|free-text comment", draft.text))
        assert named is (draft.variant is Variant.COMMENT), draft.key


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_html_declares_its_language_and_can_be_read_at_any_width(language: str):
    for draft in write(languages=[language]).notices:
        if draft.channel is Channel.EMAIL:
            assert f'<html lang="{language}"' in draft.html
            assert 'name="viewport"' in draft.html
            assert 'content="light dark"' in draft.html
            assert draft.html.count("<h1") == 1
            assert not re.search(r"(?<!max-)width:|(?<!-)color:|background", draft.html)
            sizes = [int(size) for size in re.findall(r"font-size: (\d+)px", draft.html)]
            assert min(sizes) >= 16


def test_the_patient_is_named_in_the_body_of_an_email_and_nowhere_else():
    for draft in write().notices:
        assert not notices.has_span(draft.subject)
        assert notices.has_span(draft.text) is (draft.channel is Channel.EMAIL)
        assert notices.has_span(draft.html) is (draft.channel is Channel.EMAIL)


def test_every_part_a_template_marks_is_known_to_the_profile():
    known = {element.id for element in PROFILE.element}
    for path in (TEMPLATES / "notices").rglob("*.j2"):
        marked = set(re.findall(r'call part\("([^"]+)"\)', path.read_text(encoding="utf-8")))
        assert marked <= known, path.name


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_every_template(language: str):
    found = {path.name for path in (TEMPLATES / "notices" / language).iterdir()}
    assert found == {"email.subject.j2", "email.txt.j2", "email.html.j2", "sms.txt.j2"}


# ---- incomplete ------------------------------------------------------------------------------------------------

BOTH = ("email", "sms")


@pytest.mark.parametrize(
    ("removed", "part", "channels"),
    [
        ({"what_happened": {}, "short__what_happened": {}}, "what.nature", BOTH),
        ({"categories": [], "short__categories": []}, "data.categories", BOTH),
        ({"consequences": {}, "short__consequences": {}}, "effects.likely", BOTH),
        ({"measures_taken": {}, "short__measures_taken": {}}, "measures.taken", BOTH),
        ({"advice": {}, "short__advice": {}}, "measures.person", BOTH),
        ({"contact__name": "", "short__contact_name": ""}, "contact.point", BOTH),
        ({"contact__phone": ""}, "contact.phone", BOTH),
        ({"contact__email": "", "contact__post": ""}, "contact.written", BOTH),
        ({"contact__hours": {}, "short__hours": {}}, "contact.hours", BOTH),
        ({"what_happened": {}}, "what.nature", ("email",)),
        ({"measures_taken": {}}, "measures.taken", ("email",)),
    ],
)
def test_a_required_fact_removed_makes_exactly_that_part_missing(
    removed: dict[str, Any], part: str, channels: tuple[str, ...]
):
    composed = write(make_facts(**removed))
    assert gaps(composed.missing) == {(part, channel) for channel in channels}
    assert {gap.problem for gap in composed.missing} == {Problem.ABSENT}
    assert {gap.language for gap in composed.missing} == set(LANGUAGES)
    assert composed.warnings == ()


@pytest.mark.parametrize(
    ("change", "part", "channels"),
    [
        ({"name": ""}, "ctrl.identity", BOTH),
        ({"address": " "}, "ctrl.address", ("email",)),
        ({"phone": ""}, "ctrl.phone", BOTH),
    ],
)
def test_a_doctor_without_name_address_or_phone_cannot_sign(
    change: dict[str, str], part: str, channels: tuple[str, ...]
):
    composed = write(doctor=dataclasses.replace(DOCTOR, **change))
    assert gaps(composed.missing) == {(part, channel) for channel in channels}


@pytest.mark.parametrize(
    ("removed", "part", "channels"),
    [
        ({"processor": ""}, "proc.named", BOTH),
        ({"breach_on": None}, "what.date_breach", BOTH),
        ({"discovered_on": None}, "what.date_discovery", ("email",)),
        ({"not_concerned": {}, "short__not_concerned": {}}, "data.not_concerned", BOTH),
        ({"authority": {}}, "authority.told", BOTH),
    ],
)
def test_a_recommended_fact_removed_warns_but_does_not_forbid(
    removed: dict[str, Any], part: str, channels: tuple[str, ...]
):
    composed = write(make_facts(**removed))
    assert composed.missing == ()
    assert gaps(composed.warnings) == {(part, channel) for channel in channels}


def test_a_date_that_is_not_known_is_said_to_be_unknown():
    composed = write(make_facts(breach_on="unknown", discovered_on="unknown"))
    assert composed.missing == composed.warnings == ()
    texts = {draft.key: draft.text for draft in composed.notices}
    assert "n'est pas connue à ce jour" in texts[Channel.EMAIL, "fr", Variant.STANDARD]
    assert "date unknown" in texts[Channel.SMS, "en", Variant.STANDARD]


def test_a_fact_in_one_language_never_stands_in_for_another():
    composed = write(make_facts(consequences={"fr": FACTS["consequences"]["fr"]}))
    assert {(gap.part, gap.channel, gap.language) for gap in composed.missing} == {
        ("effects.likely", Channel.EMAIL, "en")
    }


def test_a_category_without_words_in_a_language_is_not_left_out_in_silence():
    categories = [*FACTS["categories"], {"fr": "numéro d'adhérent à la mutuelle"}]
    found = write(make_facts(categories=categories)).missing
    assert {(gap.part, gap.channel, gap.language) for gap in found} == {("data.categories", Channel.EMAIL, "en")}


def test_only_the_channels_of_a_campaigns_own_plan_are_composed():
    composed = write(make_facts(short={}), channels=[Channel.EMAIL])
    assert {draft.channel for draft in composed.notices} == {Channel.EMAIL}
    assert composed.missing == ()


VAGUE = Problem.EMPTY_WORDS
LONG = "(words that make the sentence long enough, so that its length is not what is refused)"


@pytest.mark.parametrize(
    ("name", "thin", "part", "problem"),
    [
        (
            "measures_taken",
            {"fr": f"Toutes les mesures nécessaires ont été prises {LONG}"},
            "measures.taken",
            VAGUE,
        ),
        (
            "measures_taken",
            {"fr": f"Nous avons pris l'ensemble des mesures utiles {LONG}"},
            "measures.taken",
            VAGUE,
        ),
        ("measures_taken", {"en": f"All necessary measures were taken {LONG}"}, "measures.taken", VAGUE),
        ("measures_taken", {"fr": "Accès fermés."}, "measures.taken", Problem.TOO_SHORT),
        ("what_happened", {"fr": "Un incident de sécurité est survenu."}, "what.nature", VAGUE),
        ("what_happened", {"en": "A security incident occurred."}, "what.nature", VAGUE),
        ("consequences", {"en": f"There may be limited consequences {LONG}"}, "effects.likely", VAGUE),
        ("consequences", {"fr": f"Nous n'attendons aucune conséquence {LONG}"}, "effects.likely", VAGUE),
        ("advice", {"fr": "Nous vous invitons à rester vigilant."}, "measures.person", VAGUE),
        ("advice", {"en": "Please remain vigilant."}, "measures.person", VAGUE),
        ("categories", [{"fr": "certaines données", "en": "some of your data"}], "data.categories", VAGUE),
        ("categories", [{"fr": "nom", "en": "name"}], "data.categories", Problem.TOO_SHORT),
    ],
)
def test_words_that_say_nothing_are_refused(name: str, thin: Any, part: str, problem: Problem):
    if isinstance(thin, dict):
        thin = {**FACTS[name], **thin}
    found = write(make_facts(**{name: thin})).missing
    assert {(gap.part, gap.channel, gap.problem) for gap in found} == {(part, Channel.EMAIL, problem)}


def test_an_incomplete_notice_says_to_a_doctor_what_where_and_in_which_language():
    composed = write(make_facts(contact__phone=""), languages=["fr"])
    with pytest.raises(IncompleteNotice) as caught:
        composed.check()
    assert caught.value.missing == (("contact.phone", "email", "fr"), ("contact.phone", "sms", "fr"))
    assert (
        "SMS in French – the telephone number of the contact point – not in the message." in caught.value.message
    )
    assert caught.value.message.count("SMS in French") == 1
    assert composed.missing[0].words["fr"].startswith("email en français – le téléphone du point de contact")


def gap_of(
    composed: Composed, part: str, language: str = "fr", variant: Variant = Variant.STANDARD
) -> notices.Gap:
    found = (*composed.missing, *composed.warnings)
    [gap] = [gap for gap in found if (gap.part, gap.language, gap.variant) == (part, language, variant)]
    return gap


def sms_of(composed: Composed, language: str = "fr", variant: Variant = Variant.STANDARD) -> notices.DraftNotice:
    [draft] = [draft for draft in composed.notices if draft.key == (Channel.SMS, language, variant)]
    return draft


LONG_PRACTICE = "Maison médicale pluridisciplinaire des Lilas et des Jardins " * 4


def test_short_texts_that_are_too_long_are_refused_and_by_how_much():
    composed = write(make_facts(short__advice={}))
    assert gaps(composed.missing) == {("sms.length", "sms")}
    over = sms.measure(sms_of(composed).text).units - 6 * 153
    words = gap_of(composed, "sms.length").words
    assert words["en"] == (
        f"SMS in French – the SMS – {over} characters too long: shorten the short texts of the incident "
        "(these texts belong to all doctors: their approvals will have to be given again)."
    )
    assert f"trop long de {over} caractères : raccourcissez les textes courts" in words["fr"]


def test_a_long_practice_leaves_the_sms_where_name_and_telephone_are_enough():
    composed = write(doctor=dataclasses.replace(DOCTOR, practice=LONG_PRACTICE))
    assert composed.missing == composed.warnings == ()
    for draft in composed.notices:
        if draft.channel is Channel.SMS:
            assert draft.text.startswith("Dr Claire Martin (01 99 00 12 34)")
            assert (draft.parts <= 6, draft.encoding) == (True, "GSM-7")
        else:
            assert LONG_PRACTICE.strip() in draft.text


def test_a_practice_that_fits_stays_in_the_sms():
    assert sms_of(write()).text.startswith("Dr Claire Martin, Cabinet médical des Lilas (")


def test_a_name_too_short_to_identify_is_not_left_alone_in_the_sms():
    composed = write(doctor=dataclasses.replace(DOCTOR, name="Dr X", practice=LONG_PRACTICE))
    assert gaps(composed.missing) == {("sms.length", "sms")}
    assert sms_of(composed).text.startswith("Dr X, Maison")
    assert "shorten the doctor's name, practice or telephone" in gap_of(composed, "sms.length").words["en"]


def test_a_long_name_is_the_doctors_own_to_shorten():
    composed = write(doctor=dataclasses.replace(DOCTOR, name="Dr " + "Marie-Antoinette " * 12))
    assert gaps(composed.missing) == {("sms.length", "sms")}
    over = sms.measure(sms_of(composed).text).units - 6 * 153
    words = gap_of(composed, "sms.length").words["en"]
    assert f"{over} characters too long: shorten the doctor's name or telephone by so many" in words
    assert "incident" not in words


def test_a_letter_outside_the_alphabet_is_named_with_where_it_stands():
    composed = write(doctor=dataclasses.replace(DOCTOR, name="Dr Жanna Test"))
    assert gaps(composed.missing) == {("sms.length", "sms")}
    over = sms.measure(sms_of(composed).text).units - 6 * 67
    words = gap_of(composed, "sms.length").words
    assert (
        f"{over} characters too long, because one character outside the SMS alphabet leaves room for 402 characters "
        "instead of 918: “Ж” (the doctor's name). Write it with a letter of the SMS alphabet."
    ) in words["en"]
    assert "« Ж » (le nom du médecin)" in words["fr"]
    assert "“Ж” (the doctor's name)" in gap_of(composed, "sms.alphabet").words["en"]


def test_a_letter_outside_the_alphabet_in_the_texts_of_all_doctors_is_said_to_be_theirs():
    composed = write(make_facts(short__contact_name="Équipe Ж"))
    assert "“Ж” (the texts of the incident)" in gap_of(composed, "sms.length").words["en"]
    assert "belong to all doctors" in gap_of(composed, "sms.length").words["en"]


def test_letter_and_length_are_both_said():
    composed = write(make_facts(short__advice={}), doctor=dataclasses.replace(DOCTOR, name="Dr Жanna Test"))
    assert "characters will still be too many" in gap_of(composed, "sms.length").words["en"]


def test_a_practice_in_other_letters_is_left_out_of_the_sms():
    composed = write(doctor=dataclasses.replace(DOCTOR, practice="Ιατρείο Лилия"))
    assert composed.missing == composed.warnings == ()
    assert sms_of(composed).text.startswith("Dr Claire Martin (")


@pytest.mark.parametrize("variant", Variant)
def test_no_line_of_a_french_email_can_begin_with_its_punctuation(variant: Variant):
    facts = make_facts(contact__name="Cellule « Info » : qui appeler ?", short__contact_name="Cellule : info")
    composed = write(facts, languages=["fr"], variants=[variant])
    [email, text_message] = composed.notices
    for body in (email.text, email.html):
        assert not re.search(r" [:;?!»]|« ", body)
        assert "Téléphone\u00a0: " in body
        assert "suspect\u00a0: transférez" in body
        assert "Cellule «\u00a0Info\u00a0»\u00a0: qui appeler\u00a0?" in body
    assert "\u00a0" not in email.subject + text_message.text
    assert "Contact : Cellule : info" in text_message.text


def test_the_spaces_of_an_english_email_stay_plain():
    [email, _] = write(languages=["en"], variants=[Variant.STANDARD]).notices
    assert "\u00a0" not in email.text + email.html


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"contact__name": "Voir https://example.com/info"}, "must_not.link"),
        ({"contact__name": "Voir www.example.org"}, "must_not.link"),
        ({"contact__name": "Voir notre-site.fr pour la suite"}, "must_not.link"),
        ({"contact__name": "Voir la pièce jointe"}, "must_not.attachment"),
        ({"contact__name": "See the attached file"}, "must_not.attachment"),
        ({"contact__name": "Répondez STOP"}, "must_not.stop"),
        ({"contact__name": "{{ contact }}"}, "must_not.placeholder"),
        ({"contact__name": "Secrétariat de cardiologie"}, "must_not.specialty"),
        ({"contact__name": "Votre numéro 2 85 05 78 006 084 36"}, "must_not.value"),
        ({"contact__name": "Patient né le 12/05/1980"}, "must_not.value"),
        ({"contact__name": "Notre newsletter"}, "must_not.marketing"),
    ],
)
def test_what_may_stand_nowhere_is_found_in_the_finished_message(changes: dict[str, Any], part: str):
    composed = write(make_facts(**changes, short__contact_name=""))
    assert gaps(composed.missing) == {(part, channel) for channel in BOTH}


@pytest.mark.parametrize(
    "name",
    ["dpo.lilas@cabinet.example.fr", "Appelez-nous. Merci", "Mme Stopard", "l'équipe de la clinique", "n° 12.5"],
)
def test_ordinary_words_are_not_taken_for_a_link_or_a_stop(name: str):
    assert write(make_facts(contact__name=name, short__contact_name="")).missing == ()


# ---- hostile and odd inputs ------------------------------------------------------------------------------------


def test_template_syntax_in_a_doctors_name_is_never_run_and_is_refused():
    composed = write(doctor=dataclasses.replace(DOCTOR, name="Dr {{ 7 * 7 }}{% raw %}"))
    assert gaps(composed.missing) == {("must_not.placeholder", channel) for channel in BOTH}
    assert not any("49" in draft.subject for draft in composed.notices)


def test_html_in_a_doctors_name_is_text():
    composed = write(doctor=dataclasses.replace(DOCTOR, practice='<a href="x">Cabinet</a> & Fils'))
    [email] = [d for d in composed.notices if d.key == (Channel.EMAIL, "fr", Variant.STANDARD)]
    assert "&lt;a href=&#34;x&#34;&gt;Cabinet&lt;/a&gt; &amp; Fils" in email.html
    assert "<a " not in email.html


@pytest.mark.parametrize(
    "hostile", ["Dr X\r\nBcc: spy@example.com", "Dr X\nY", "Dr \u202eX", "Dr\u2028X", "Dr X\ue000\ue001"]
)
def test_a_subject_is_one_plain_line_whatever_the_doctors_name_holds(hostile: str):
    for draft in write(doctor=dataclasses.replace(DOCTOR, name=hostile)).notices:
        assert draft.subject.isprintable()
        assert "\u202e" not in draft.text + draft.html
        assert draft.text.count(notices.NAME_OPEN) == (1 if draft.channel is Channel.EMAIL else 0)


def test_a_mark_typed_into_a_fact_proves_nothing():
    forged = "\ue010effects.likely\ue011" + "x" * 200 + "\ue012"
    composed = write(make_facts(consequences={}, short__consequences={}, contact__name=forged))
    assert ("effects.likely", "email") in gaps(composed.missing)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Claire Martin", "Dr Claire Martin"), ("Docteur Martin", "Docteur Martin"), ("Pr Martin", "Pr Martin"),
     ("Drouet", "Dr Drouet"), ("Docteure Anne Test", "Docteure Anne Test"), ("Dre Anne Test", "Dre Anne Test")],
)  # fmt: skip
def test_a_doctor_without_a_title_gets_one(name: str, expected: str):
    drafts = write(doctor=dataclasses.replace(DOCTOR, name=name)).notices
    assert all(expected in draft.text for draft in drafts)
    subjects = {draft.subject for draft in drafts if (draft.channel, draft.language) == (Channel.EMAIL, "fr")}
    assert subjects == {f"Information importante sur vos données personnelles – {expected}"}
    subjects = {draft.subject for draft in drafts if (draft.channel, draft.language) == (Channel.EMAIL, "en")}
    assert subjects == {f"Important information about your personal data – {expected}"}


def test_a_practice_that_bears_the_doctors_name_is_not_said_twice():
    doctor = dataclasses.replace(DOCTOR, practice="Cabinet du Dr Claire Martin")
    for draft in write(doctor=doctor).notices:
        if draft.channel is Channel.SMS:
            assert draft.text.count("Martin") == 1


def test_a_practice_of_another_doctor_with_a_longer_name_does_not_hide_the_doctor():
    doctor = dataclasses.replace(DOCTOR, name="Dr Martin", practice="Cabinet du Dr Martinez")
    assert doctor.signature == "Dr Martin, Cabinet du Dr Martinez"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"contact": {"hours": {"*": "9-18"}}}, "contact.hours"),
        ({"what_hapened": {}}, "what_hapened"),
        ({"breach_on": "yesterday"}, "breach_on"),
        ({"what_happened": "en français ou en anglais ?"}, "what_happened"),
        ({"what_happened": {"french": "x"}}, "what_happened"),
        ({"contact": {"phone": 33}}, "contact.phone"),
        ({"consequences": {"fr": [1, 2]}}, "consequences"),
        ({"advice": {"fr": ["x" * 5000]}}, "advice"),
    ],
)
def test_facts_that_are_wrong_are_named(values: dict[str, Any], named: str):
    with pytest.raises(InputError, match=re.escape(named)):
        Facts.read(values)


def test_facts_may_be_empty_and_are_then_all_missing():
    required = {(e.id, str(c)) for e in PROFILE.element for c in e.required_in}
    always = {("trust.no_ask", c) for c in BOTH} | {("authority.complaint", "email"), ("ctrl.identity", "email")}
    always |= {("ctrl.identity", "sms"), ("ctrl.phone", "email"), ("ctrl.phone", "sms"), ("ctrl.address", "email")}
    always |= {("data.comment", c) for c in BOTH}
    assert gaps(write({}).missing) == required - always


def test_facts_survive_the_way_through_json():
    facts = Facts.read(FACTS)
    assert Facts.read(facts.model_dump(mode="json")) == facts


def test_a_language_the_profile_lacks_is_refused():
    with pytest.raises(InputError, match=r"de; it has fr, en"):
        write(languages=["fr", "de"])


def test_dates_cannot_be_misread_abroad():
    assert composing._day(date(2026, 11, 1), "fr") == "1er novembre 2026"
    assert composing._day(date(2026, 11, 12), "en") == "12 November 2026"
    assert composing._short_day(date(2026, 9, 4), "fr") == "04/09/2026"
    assert composing._short_day(date(2026, 9, 4), "en") == "4 Sep 2026"


# ---- templates that are wrong ----------------------------------------------------------------------------------


@pytest.fixture
def templates_dir(tmp_path: Path) -> Path:
    shutil.copytree(TEMPLATES / "notices", tmp_path / "notices")
    return tmp_path


@pytest.mark.parametrize(
    ("added", "named"),
    [
        ('<a href="tel:0199001234">x</a>', "<a>"),
        ('<img alt="">', "<img>"),
        ('<p onclick="x">y</p>', "onclick"),
        ('<p style="display: none">y</p>', "style"),
        ('<p style="background: url(x)">y</p>', "style"),
        ("{{ nobody }}", "does not exist"),
        ("{{ doctor.nothing }}", "does not exist"),
        ("{% if %}", "broken"),
        ("{{ ().__class__ }}", "fr/email.html.j2"),
    ],
)
def test_a_template_that_links_loads_hides_or_fails_stops_the_campaign(
    templates_dir: Path, added: str, named: str
):
    path = templates_dir / "notices" / "fr" / "email.html.j2"
    path.write_text(path.read_text(encoding="utf-8").replace("</main>", f"{added}</main>"), encoding="utf-8")
    with pytest.raises(SettingsError, match=re.escape(named)):
        write(templates_dir=templates_dir)


def test_a_template_that_is_not_there_is_named(templates_dir: Path):
    (templates_dir / "notices" / "en" / "sms.txt.j2").unlink()
    with pytest.raises(SettingsError, match=r"en/sms\.txt\.j2"):
        write(templates_dir=templates_dir)


def test_a_part_left_out_of_the_html_alone_is_missing_from_the_email(templates_dir: Path):
    path = templates_dir / "notices" / "fr" / "email.html.j2"
    html = path.read_text(encoding="utf-8").replace("{% for line in measures_taken %}", "{% for line in [] %}")
    path.write_text(html, encoding="utf-8")
    found = write(templates_dir=templates_dir).missing
    assert {(gap.part, gap.channel, gap.language) for gap in found} == {("measures.taken", Channel.EMAIL, "fr")}


def test_a_part_in_an_html_comment_is_not_read_by_anyone(templates_dir: Path):
    path = templates_dir / "notices" / "fr" / "email.html.j2"
    html = path.read_text(encoding="utf-8")
    start, end = html.index('<ul>\n{% call part("measures.taken")'), html.index("Ce que vous pouvez faire")
    end = html.rindex("<h2", start, end)
    path.write_text(html[:start] + "<!--" + html[start:end] + "-->" + html[end:], encoding="utf-8")
    found = write(templates_dir=templates_dir).missing
    assert {(gap.part, gap.channel, gap.language) for gap in found} == {("measures.taken", Channel.EMAIL, "fr")}


# ---- preview ---------------------------------------------------------------------------------------------------


def test_a_preview_shows_what_one_person_would_get_in_the_order_of_the_plan():
    email, text_message = preview(write(), name="Hélène Benoît", language="fr", variant=Variant.STANDARD)
    assert (email.channel, text_message.channel) == (Channel.EMAIL, Channel.SMS)
    assert "destiné à Hélène Benoît." in email.text
    assert "destiné à Hélène Benoît.</p>" in email.html
    assert "Hélène" not in email.subject + text_message.text
    assert (text_message.encoding, text_message.parts <= 6) == ("GSM-7", True)
    assert dataclasses.asdict(email)["parts"] == 0


def test_a_preview_of_a_person_without_a_name_reads_as_a_sentence():
    email, _ = preview(write(), name="", language="en", variant=Variant.COMMENT)
    assert "This message is meant for the person whose address is in the practice's file." in email.text
