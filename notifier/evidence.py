"""Step 8: the proof file of one campaign: who was told, how and when, who was not and why, and by which text.

A ZIP for the doctor, who must be able to show it (GDPR art. 5(2), 33(5)): tables, the frozen texts, the acts of
people, a page to print, and a manifest of SHA-256 in the form that `sha256sum -c` reads. The manifest's own hash
goes into the journal, so that a file can be checked years later. It names people: it is made when it is asked
for and kept nowhere.
"""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import jinja2
import orjson
from sqlalchemy import select, text
from sqlalchemy.orm import Session

import notifier
from notifier import notices, profiles, store, writing
from notifier.errors import InputError, NotFoundError
from notifier.judging import Identity
from notifier.models import Campaign, Doctor, Incident, ListFile, Notice
from notifier.sealing import DataKey
from notifier.settings import Settings
from notifier.states import Channel, Outcome, Variant
from notifier.states import Delivery as DeliveryState

FORMAT = "patient-notifier evidence 1"
MANIFEST, SUMMARY, FACTS, JOURNAL = "MANIFEST.sha256", "summary.html", "evidence.json", "journal.jsonl"
PEOPLE, DELIVERIES, HAND_OVERS, RECEIPTS = "people.csv", "deliveries.csv", "hand-overs.csv", "receipts.csv"
LANGUAGES = ("fr", "en")
#: no campaign's file is larger, unpacked: a check refuses to be kept busy
_MOST_READ = 4 * 2**30
_CHUNK = 2**16


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof file that was written."""

    #: SHA-256 of its manifest: whoever knows it can tell whether a file is this one
    manifest: str
    counts: Mapping[str, int]
    files: int


# --- writing ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Archive:
    """A ZIP that remembers the SHA-256 of what goes into it."""

    zip: zipfile.ZipFile
    at: datetime
    hashes: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def file(self, name: str) -> Iterator[_Hashing]:
        entry = zipfile.ZipInfo(name, self.at.timetuple()[:6])
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.external_attr = 0o600 << 16
        with self.zip.open(entry, "w", force_zip64=True) as raw:
            out = _Hashing(raw)
            yield out
        self.hashes[name] = out.hash.hexdigest()

    def write(self, name: str, content: bytes) -> None:
        with self.file(name) as out:
            out.write(content)


class _Hashing:
    def __init__(self, raw: IO[bytes]) -> None:
        self.raw = raw
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.hash.update(data)
        self.raw.write(data)


def export(
    database: store.Database,
    settings: Settings,
    campaign_id: int,
    path: Path,
    *,
    language: str,
    doctor_id: int | None,
    actor: str,
    now: datetime,
) -> Proof:
    """Writes the proof file of a campaign to `path`, whole or not at all, and the manifest's hash to the journal.

    One moment's truth: every table is read from the same snapshot. `doctor_id` is the caller's (None: operations).
    Raises NotFoundError, and OSError if the file cannot be written.
    """
    with writing.whole_file(path) as raw:
        with zipfile.ZipFile(raw, "w") as opened:
            archive = _Archive(opened, now)
            with database.snapshot(doctor_id) as session:
                facts = _write(session, settings, campaign_id, archive, language, actor, now)
            manifest = "".join(f"{value}  {name}\n" for name, value in sorted(archive.hashes.items())).encode()
            archive.write(MANIFEST, manifest)
        proof = Proof(hashlib.sha256(manifest).hexdigest(), facts["counts"], len(archive.hashes))
        # The file is in place only once the journal knows it.
        with database.scope(doctor_id) as session:
            detail = {"manifest": proof.manifest, "counts": dict(proof.counts)}
            store.record(
                session, actor, "evidence.export", f"campaign:{campaign_id}", facts["doctor"]["id"], detail
            )
    return proof


def _write(
    session: Session,
    settings: Settings,
    campaign_id: int,
    archive: _Archive,
    language: str,
    actor: str,
    now: datetime,
) -> dict[str, Any]:
    campaign = session.get(Campaign, campaign_id)
    if campaign is None:
        raise NotFoundError(f"There is no campaign {campaign_id}.")
    key = settings.master.open_data_key(campaign.data_key, campaign_id) if campaign.data_key else None
    told = _write_people(session, archive, campaign_id, key, language)
    for name, statement, sealed in (
        (DELIVERIES, _DELIVERIES, {"contact": b"contact.value"}),
        (HAND_OVERS, _HAND_OVERS, {"answer": b"attempt.raw"}),
        (RECEIPTS, _RECEIPTS, {}),
    ):
        with archive.file(name) as out:
            out.write(writing.START + writing.line(_HEADERS[language][name]))
            rows = session.execute(statement, {"campaign_id": campaign_id}, execution_options=_STREAM)
            for row in rows.mappings():
                out.write(
                    writing.line(
                        _opened(key, value, sealed[column]) if column in sealed else _cell(value)
                        for column, value in row.items()
                    )
                )
    frozen = session.scalars(
        select(Notice).where(Notice.campaign_id == campaign_id).order_by(Notice.version, Notice.id)
    ).all()
    for one in frozen:
        archive.write(_notice_file(one), _json(_notice(one)))
    acts = _write_journal(session, archive, campaign_id)
    facts = _facts(session, settings, campaign, frozen, told, is_erased=key is None)
    facts |= {"made_at": now, "made_by": actor, "language": language}
    archive.write(FACTS, _json(facts))
    newest = max((one.version for one in frozen), default=0)
    shown = [one for one in frozen if one.version == newest]
    archive.write(SUMMARY, _summary(settings, facts, shown, acts, language))
    return facts


#: who was told is proved by the message that arrived, else by the one that was taken, else by the last one tried
_PEOPLE = text(
    f"""
    SELECT p.id, p.row, p.merged, p.identity_sealed, p.language, p.variant, p.is_minor, p.outcome,
           p.outcome_reason, p.outcome_at, told.day, told.said_by,
           d.id AS delivery_id, d.channel, d.state, d.possibly_twice, d.first_tried_at, d.receipt_at,
           k.value_sealed
    FROM patient p
    LEFT JOIN told ON told.patient_id = p.id
    LEFT JOIN LATERAL (
        SELECT d.* FROM delivery_patient dp JOIN delivery d ON d.id = dp.delivery_id
        WHERE dp.patient_id = p.id
        ORDER BY d.state = '{DeliveryState.DELIVERED}' DESC, d.state = '{DeliveryState.ACCEPTED}' DESC, d.id DESC
        LIMIT 1
    ) d ON true
    LEFT JOIN contact k ON k.id = d.contact_id
    WHERE p.campaign_id = :campaign_id ORDER BY p.id
    """  # noqa: S608 - put together from our own states
)
_DELIVERIES = text(
    """
    SELECT d.id, d.channel, d.language, d.variant, d.state, d.reason, k.value_sealed AS contact,
           ARRAY(SELECT patient_id FROM delivery_patient dp WHERE dp.delivery_id = d.id ORDER BY 1) AS patients,
           d.tries, d.possibly_twice, d.first_tried_at, d.receipt_at, d.created_at
    FROM delivery d JOIN contact k ON k.id = d.contact_id WHERE d.campaign_id = :campaign_id ORDER BY d.id
    """
)
_HAND_OVERS = text(
    """
    SELECT a.delivery_id, a.fence AS number, a.provider, a.notice_id, a.started_at, a.ended_at, a.outcome, a.code,
           a.provider_message_id, a.raw_sealed AS answer
    FROM delivery d JOIN attempt a ON a.delivery_id = d.id
    WHERE d.campaign_id = :campaign_id ORDER BY a.delivery_id, a.fence
    """
)
_RECEIPTS = text(
    """
    SELECT r.delivery_id, r.id, r.provider, r.event, r.code, r.event_at, r.received_at, r.provider_message_id,
           r.effect
    FROM delivery d JOIN receipt r ON r.delivery_id = d.id
    WHERE d.campaign_id = :campaign_id ORDER BY r.delivery_id, r.id
    """
)
_STREAM = {"stream_results": True, "yield_per": 1000}

_PEOPLE_HEADER = {
    "en": (
        "patient", "row of the list", "rows merged", "patient id", "last name", "first name", "birth date",
        "outcome", "reason", "since", "language", "text", "minor", "day told otherwise", "said by",
        "delivery", "channel", "contact", "handed over first", "state", "reported", "possibly twice",
    ),
    "fr": (
        "patient", "ligne de la liste", "lignes fusionnées", "n° patient", "nom", "prénom", "date de naissance",
        "résultat", "raison", "depuis", "langue", "texte", "mineur", "jour d'information autrement", "déclaré par",
        "envoi", "canal", "contact", "remis la première fois", "état", "accusé", "peut-être en double",
    ),
}  # fmt: skip
_HEADERS = {
    "fr": {
        DELIVERIES: (
            "envoi", "canal", "langue", "texte", "état", "raison", "contact", "patients", "essais",
            "peut-être en double", "remis la première fois", "accusé", "créé",
        ),
        HAND_OVERS: (
            "envoi", "remise", "opérateur", "texte n°", "début", "fin", "résultat", "code", "n° de l'opérateur",
            "réponse de l'opérateur",
        ),
        RECEIPTS: (
            "envoi", "accusé", "opérateur", "événement", "mot de l'opérateur", "date de l'événement", "reçu",
            "n° de l'opérateur", "effet",
        ),
    },
    "en": {
        DELIVERIES: (
            "delivery", "channel", "language", "text", "state", "reason", "contact", "patients", "tries",
            "possibly twice", "handed over first", "reported", "made",
        ),
        HAND_OVERS: (
            "delivery", "hand-over", "provider", "text no.", "started", "ended", "outcome", "code",
            "provider's number", "provider's answer",
        ),
        RECEIPTS: (
            "delivery", "receipt", "provider", "event", "provider's word", "time of event", "received",
            "provider's number", "effect",
        ),
    },
}  # fmt: skip


def _write_people(
    session: Session, archive: _Archive, campaign_id: int, key: DataKey | None, language: str
) -> Counter[tuple[str, str]]:
    """Returns how many stand where: (outcome, what proves it or why)."""
    told: Counter[tuple[str, str]] = Counter()
    with archive.file(PEOPLE) as out:
        out.write(writing.START + writing.line(_PEOPLE_HEADER[language]))
        for row in session.execute(_PEOPLE, {"campaign_id": campaign_id}, execution_options=_STREAM):
            who = Identity.from_json(key.open(row.identity_sealed, b"patient.identity")) if key else Identity()
            told[row.outcome, row.outcome_reason or row.channel or ""] += 1
            out.write(
                writing.line(
                    map(
                        _cell,
                        (
                            row.id, row.row, row.merged, who.patient_id, who.last_name, who.first_name,
                            who.birth_date, row.outcome, row.outcome_reason, row.outcome_at, row.language,
                            row.variant, row.is_minor, row.day, row.said_by, row.delivery_id, row.channel,
                            _opened(key, row.value_sealed, b"contact.value"), row.first_tried_at, row.state,
                            row.receipt_at, row.possibly_twice,
                        ),
                    )
                )
            )  # fmt: skip
    return told


def _opened(key: DataKey | None, sealed: bytes | None, purpose: bytes) -> str | None:
    return key.open(sealed, purpose).decode(errors="replace") if key and sealed else None


def _cell(value: object) -> object:
    match value:
        case datetime():
            return value.isoformat(timespec="seconds")
        case list():
            return " ".join(map(str, value))
        case bool():
            return int(value)
    return value


def _notice_file(one: Notice) -> str:
    return f"notices/{one.version}-{one.channel}-{one.language}-{one.variant}.json"


def _notice(one: Notice) -> dict[str, Any]:
    names = ("id", "channel", "language", "variant", "version", "subject", "text", "html", "frozen_at")
    return {name: getattr(one, name) for name in names} | {"sha256": one.sha256.hex()}


#: the text a hash of the journal is taken over, so that it can be checked without our database
_ACTS = text(
    """
    SELECT j.id, j.at, j.actor, j.action, j.subject, j.detail, encode(j.previous, 'hex') AS previous,
           encode(j.hash, 'hex') AS hash,
           jsonb_build_array(
               j.id, extract(epoch FROM j.at), j.actor, j.action, j.subject, j.doctor_id, j.detail,
               encode(j.previous, 'hex')
           )::text AS hashed
    FROM journal j WHERE j.subject = :subject OR j.subject = :incident ORDER BY j.id
    """
)


def _write_journal(session: Session, archive: _Archive, campaign_id: int) -> list[dict[str, Any]]:
    incident_id = session.scalar(select(Campaign.incident_id).where(Campaign.id == campaign_id))
    subjects = {"subject": f"campaign:{campaign_id}", "incident": f"incident:{incident_id}"}
    acts = [dict(row) for row in session.execute(_ACTS, subjects).mappings()]
    with archive.file(JOURNAL) as out:
        for act in acts:
            out.write(orjson.dumps(act, option=orjson.OPT_APPEND_NEWLINE))
    return acts


def _facts(
    session: Session,
    settings: Settings,
    campaign: Campaign,
    frozen: Iterable[Notice],
    told: Mapping[tuple[str, str], int],
    *,
    is_erased: bool,
) -> dict[str, Any]:
    incident = session.get_one(Incident, campaign.incident_id)
    doctor = session.get_one(Doctor, campaign.doctor_id)
    profile = profiles.load(incident.profile, settings.config_dir)
    lists = session.scalars(
        select(ListFile).where(ListFile.campaign_id == campaign.id).order_by(ListFile.id)
    ).all()
    twice = text("SELECT count(*) FROM delivery WHERE campaign_id = :id AND possibly_twice")
    return {
        "format": FORMAT,
        "software": notifier.__version__,
        "incident": _columns(incident, "id", "reference", "profile", "facts", "created_at"),
        "law": {"profile": profile.id, "name": profile.name, "basis": profile.legal_basis},
        "doctor": _columns(doctor, "id", "reference", "name", "practice", "address", "phone", "email"),
        "campaign": _columns(
            campaign, "id", "state", "plan", "reason", "created_at", "approved_at", "approved_by", "started_at",
            "completed_at",
        ) | {"notice_hash": campaign.notice_hash.hex() if campaign.notice_hash else None},
        "counts": store.outcome_counts(session, campaign.id),
        "people": [
            {"outcome": outcome, "by": by, "n": n} for (outcome, by), n in sorted(told.items())
        ],
        "deliveries": store.delivery_counts(session, campaign.id),
        "possibly_twice": session.scalar(twice, {"id": campaign.id}),
        "lists": [
            _columns(one, "id", "rows", "accepted", "merged", "refused", "imported_by", "imported_at")
            | {"sha256": one.sha256.hex()}
            for one in lists
        ],
        "notices": [
            _columns(one, "id", "channel", "language", "variant", "version", "frozen_at")
            | {"sha256": one.sha256.hex(), "file": _notice_file(one)}
            for one in frozen
        ],
        "erased": is_erased,
    }  # fmt: skip


def _columns(row: object, *names: str) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


def _json(value: Mapping[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _summary(
    settings: Settings,
    facts: Mapping[str, Any],
    frozen: Iterable[Notice],
    acts: Iterable[Mapping[str, Any]],
    language: str,
) -> bytes:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(settings.templates_dir / "evidence"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    texts = [(one, notices.readable(one.text)) for one in frozen]
    return environment.get_template(f"{language}.html").render(facts, texts=texts, acts=acts).encode()


# --- checking --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verified:
    """What a check of a proof file found; it holds if `problems` is empty."""

    manifest: str
    counts: Mapping[str, int]
    problems: tuple[str, ...]


#: states of a message that has told somebody
_PROVING = (DeliveryState.ACCEPTED, DeliveryState.DELIVERED)
#: what reading a file that was damaged, or never was one, may end in
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, csv.Error, EOFError, LookupError, ValueError, TypeError, AttributeError,
    StopIteration, NotImplementedError,
)  # fmt: skip


def verify(path: Path) -> Verified:
    """Checks a proof file by itself: every file as the manifest says and none beside, counts that add up, texts
    that are those approved, acts whose hashes hold.

    Raises InputError if it is no proof file at all.
    """
    try:
        with zipfile.ZipFile(path) as opened:
            return _verify(opened)
    except _DAMAGED as error:
        raise InputError(f"{path} is not a whole proof file: {error}") from error


def _verify(opened: zipfile.ZipFile) -> Verified:
    if sum(info.file_size for info in opened.infolist()) > _MOST_READ:
        raise InputError("This is larger than any proof file.")
    manifest = opened.read(MANIFEST)
    wanted: dict[str, str] = {}
    for line in manifest.decode().splitlines():
        value, name = line.split("  ", 1)
        wanted[name] = value
    names = [name for name in opened.namelist() if name != MANIFEST]
    problems = [f"{name} is not in the manifest." for name in names if name not in wanted]
    problems += [f"{name} stands there twice." for name, n in Counter(names).items() if n > 1]
    problems += [f"{name} is missing." for name in wanted if name not in names]
    problems += [
        f"{name} was changed."
        for name, expected in wanted.items()
        if name in names and _hash_of(opened, name) != expected
    ]
    facts = orjson.loads(opened.read(FACTS))
    if facts["format"] != FORMAT:
        raise InputError(f"This is {facts['format']}; this program checks {FORMAT}.")
    problems += _counted_wrong(opened, facts)
    problems += _texts_wrong(opened, facts)
    approved = set()
    for entry in opened.read(JOURNAL).splitlines():
        act = orjson.loads(entry)
        said = orjson.loads(act["hashed"])
        fields = [act["id"], act["actor"], act["action"], act["subject"], act["detail"], act["previous"]]
        if (
            hashlib.sha256(act["hashed"].encode()).hexdigest() != act["hash"]
            or [said[0], *said[2:5], *said[6:]] != fields
            or datetime.fromisoformat(act["at"]).timestamp() != float(said[1])
        ):
            problems.append(f"Act {act['id']} of the journal was changed.")
        if act["action"] == "campaign.approve":
            approved.add(act["detail"].get("notice_hash"))
    if facts["campaign"]["notice_hash"] not in approved | {None}:
        problems.append("The journal holds no approval of these texts.")
    return Verified(hashlib.sha256(manifest).hexdigest(), facts["counts"], tuple(problems))


def _hash_of(opened: zipfile.ZipFile, name: str) -> str:
    found = hashlib.sha256()
    with opened.open(name) as file:
        while piece := file.read(_CHUNK):
            found.update(piece)
    return found.hexdigest()


def _counted_wrong(opened: zipfile.ZipFile, facts: Mapping[str, Any]) -> Iterator[str]:
    counts = facts["counts"]
    if counts["imported"] != sum(counts[name] for name in ("merged", *map(str, Outcome))):
        yield "The counts do not add up."
    people: Counter[tuple[str, str]] = Counter()
    merged = unproved = 0
    for record in _records(opened, PEOPLE):
        outcome, reason, channel, state = record[7], record[8], record[16], record[19]
        people[outcome, reason or channel] += 1
        merged += int(record[2])
        unproved += outcome == Outcome.INFORMED and not reason and state not in _PROVING
    counted = Counter({(one["outcome"], one["by"]): one["n"] for one in facts["people"]})
    totals = {outcome: sum(n for (stands, _), n in people.items() if stands == outcome) for outcome in Outcome}
    if people != counted or merged != counts["merged"] or any(totals[one] != counts[one] for one in Outcome):
        yield f"{PEOPLE} does not hold the people that are counted."
    if unproved:
        yield f"{PEOPLE} has {unproved} informed without a message that was taken."
    made = Counter((record[1], record[4]) for record in _records(opened, DELIVERIES))
    if made != Counter(
        {(channel, state): n for channel, of in facts["deliveries"].items() for state, n in of.items() if n}
    ):
        yield f"{DELIVERIES} does not hold the messages that are counted."


def _records(opened: zipfile.ZipFile, name: str) -> Iterator[list[str]]:
    with opened.open(name) as raw:
        records = csv.reader(io.TextIOWrapper(raw, "utf-8-sig", newline=""), delimiter=writing.DELIMITER)
        next(records, None)
        yield from records


def _texts_wrong(opened: zipfile.ZipFile, facts: Mapping[str, Any]) -> Iterator[str]:
    newest = max((one["version"] for one in facts["notices"]), default=0)
    digests: dict[notices.Key, bytes] = {}
    for one in facts["notices"]:
        read = orjson.loads(opened.read(one["file"]))
        digest = notices.digest(
            *(read[name] for name in ("channel", "language", "variant", "subject", "text", "html"))
        )
        if digest.hex() != one["sha256"]:
            yield f"{one['file']} is not the text that was frozen."
        if one["version"] == newest:
            digests[Channel(one["channel"]), one["language"], Variant(one["variant"])] = digest
    approved = facts["campaign"]["notice_hash"]
    if approved and notices.combined_digest(digests).hex() != approved:
        yield "The texts are not those that were approved."
