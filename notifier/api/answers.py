"""Shapes of what the API says and hears, and how one thing is answered (ETag, 304)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Path, Request, Response
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
)

from notifier import deciding, lists
from notifier.api.protocol import is_known, tag_of
from notifier.states import Campaign as CampaignState
from notifier.states import Channel, Outcome, Variant
from notifier.states import Delivery as DeliveryState

#: the largest number that JSON carries exactly everywhere (RFC 8259 §6)
_LARGEST = 2**53 - 1
#: a number of ours in a path, in a query
PathId = Annotated[int, Path(ge=1, le=_LARGEST, description="Its `id`.")]
Id = Annotated[int, Field(ge=1, le=_LARGEST)]
#: always in UTC
Instant = Annotated[datetime, AfterValidator(lambda value: value.astimezone(UTC))]
#: bytes in hexadecimal
Hex = Annotated[str, BeforeValidator(lambda value: value.hex() if isinstance(value, bytes) else value)]
# Regular expressions that Python reads as those do who read our OpenAPI document (ECMAScript): no \s, no \p{…}.
#: controls, invisible and BiDi marks, line and paragraph separators (Unicode, table 4-4: Cc, Cf, Zl, Zp)
_SEEN = (
    r"^[^\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e"
    r"\u2060-\u206f\ufeff\ufff9-\ufffb]*$"
)
#: … and beyond the first plane, which no regular expression says to all its readers alike
_UNSEEN_BEYOND = (
    "[\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001-\U000e007f]"
)
_NO_NUL = r"^[^\x00]*$"
#: something else than spaces and line ends of all kinds
_SOMETHING = r"[^\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"


def _whole(value: object) -> object:
    # 17.0 is an integer too, and some programs write it so (JSON Schema 2020-12, validation §6.1.1).
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shown(longest: int, pattern: str) -> Any:
    return Field(
        min_length=1,
        max_length=longest,
        json_schema_extra={"pattern": pattern, "allOf": [{"pattern": _SOMETHING}]},
    )


def _checked(pattern: str, wanted: str, never: str | None = None) -> AfterValidator:
    """Takes the spaces around a text away. What it refuses stands in the document by `_shown`."""

    def check(value: str) -> str:
        is_fit = re.fullmatch(pattern, value) and re.search(_SOMETHING, value)
        if not is_fit or (never and re.search(never, value)):
            raise ValueError(f"{wanted} is needed")
        return value.strip()

    return AfterValidator(check)


#: a number of ours in a body
BodyId = Annotated[int, Field(ge=1, le=_LARGEST, strict=True), BeforeValidator(_whole)]
#: one line in which every character is seen
Line = Annotated[
    str,
    _shown(300, _SEEN),
    _checked(_SEEN, "one line without control, invisible or direction characters", _UNSEEN_BEYOND),
]
#: some sentences of a person
Words = Annotated[str, _shown(500, _NO_NUL), _checked(_NO_NUL, "a text without NUL characters")]


class Heard(BaseModel):
    """The body of a request; a key nobody knows is an error."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Said(BaseModel):
    """A part of an answer, read from a row. Fields of other tables' numbers lose their `_id`."""

    model_config = ConfigDict(from_attributes=True, populate_by_name=True, use_attribute_docstrings=True)


def single(request: Request, thing: BaseModel) -> Response:
    """One thing with its ETag; 304 without a body if the caller has it already (RFC 9110 §13.1.2)."""
    body = thing.model_dump_json().encode()
    tag = tag_of(body)
    if is_known(request, tag):
        return Response(status_code=304, headers={"ETag": tag})
    return Response(body, headers={"ETag": tag}, media_type="application/json")


def written(thing: BaseModel) -> Response:
    """One thing as it is after a PUT, with its new ETag."""
    body = thing.model_dump_json().encode()
    return Response(body, headers={"ETag": tag_of(body)}, media_type="application/json")


#: for the OpenAPI description of what is answered by `single`
UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "Nothing has changed since this ETag."}}


def _number(column: str) -> Any:
    return Field(validation_alias=column)


# --- incidents and doctors ------------------------------------------------------------------------------


class NewIncident(Heard):
    """A breach to tell patients of."""

    reference: Line
    profile: Annotated[Line, Field(examples=["eu-gdpr-fr"])]
    """A legal profile of this deployment: "eu-gdpr-fr"."""
    facts: dict[str, Any] = {}
    """What the notices are composed from; may be completed later."""


class IncidentLine(Said):
    """An incident in a listing."""

    id: int
    reference: str
    profile: str
    created_at: Instant


class Incident(IncidentLine):
    """An incident with its facts."""

    facts: dict[str, Any]


class NewDoctor(Heard):
    """The controller of the data, who signs the notice."""

    reference: Line
    name: Line
    practice: Line
    address: Line
    phone: Annotated[Line, Field(examples=["01 99 00 12 34"])]
    email: Annotated[Line, Field(examples=["practice@example.org"], json_schema_extra={"format": "email"})]


class Doctor(Said):
    """A doctor."""

    id: int
    reference: str
    name: str
    practice: str
    address: str
    phone: str
    email: str
    created_at: Instant


# --- campaigns ------------------------------------------------------------------------------------------


class NewCampaign(Heard):
    """One doctor's notification of one incident."""

    incident: BodyId
    doctor: BodyId


class Approval(Heard):
    """The hash shown with the preview that the approver has read."""

    hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]


class Reason(Heard):
    """Why; kept in the journal."""

    reason: Words


class CampaignLine(Said):
    """A campaign in a listing."""

    id: int
    incident: int = _number("incident_id")
    doctor: int = _number("doctor_id")
    state: CampaignState
    plan: list[Channel]
    """Channels in the order they are tried."""
    reason: str | None
    """Why it is paused or cancelled."""
    approved_at: Instant | None
    approved_by: str | None
    notice_hash: Hex | None
    """What was approved; null while nothing is."""
    created_at: Instant
    started_at: Instant | None
    completed_at: Instant | None


class Started(CampaignLine):
    """A campaign that has just been started."""

    deliveries: int = 0
    """How many deliveries were made for its patients."""


class Counts(Said):
    """Where the rows taken from the lists are: `imported` is the sum of the other five, at every moment."""

    imported: int
    excluded: int
    merged: int
    informed: int
    on_the_way: int
    unreached: int


class ListFile(Said):
    """One import of one list file; the file itself is not kept."""

    id: int
    campaign: int = _number("campaign_id")
    sha256: Hex
    rows: int
    """Data rows read = accepted + merged + refused."""
    accepted: int
    merged: int
    refused: int
    imported_by: str
    imported_at: Instant


class CampaignStatus(CampaignLine):
    """A campaign with where it stands."""

    counts: Counts
    deliveries: dict[Channel, dict[DeliveryState, int]]
    """How many deliveries are in each state, by channel."""
    lists: list[ListFile]


class ListProblem(Said):
    """One thing wrong or doubtful in one row; the value itself is nowhere kept."""

    id: int
    row: int
    """As a spreadsheet counts: the first line of the file is 1."""
    column: str
    reason: str


class ColumnLine(Said):
    """How one column of a list is read."""

    header: str
    meaning: str | None
    """Null: it is not read."""
    by: Literal["name", "given", "remembered", "asked"]
    """Its name, what was sent with it, what was said of an earlier list; or it has to be asked about."""
    could_be: list[str]


class ImportedList(ListFile):
    """An import, with how the list was read."""

    is_new: bool
    """False: this very file is the campaign's newest list, and nothing was changed."""
    columns: list[ColumnLine]

    @classmethod
    def of(cls, imported: lists.Imported) -> ImportedList:
        saved = ListFile.model_validate(imported.list_file)
        columns = [ColumnLine.model_validate(one) for one in imported.columns]
        return cls.model_construct(**dict(saved), is_new=imported.is_new, columns=columns)


class Question(Said):
    """What must be said before a list can be read."""

    subject: str
    """A header, or "sheet"."""
    options: list[str]
    french: str
    english: str


class ListNote(Said):
    """What is true for a whole file."""

    code: str
    count: int
    fr: str
    en: str


class ListSheet(Said):
    """One sheet of a spreadsheet."""

    name: str
    is_hidden: bool
    has_patients: bool


class ListDifference(Said):
    """What an import would change. rows = refused + new + changed + unchanged + repeated."""

    rows: int
    refused: int
    new: int
    repeated: int
    changed: int
    unchanged: int
    gone: int
    """People of earlier lists whom this one does not name; nothing changes for them."""
    informed: int
    """Of those named again: told already, and not told again."""
    due: int
    """People to be told who were not before."""
    perhaps_known: int
    """Of the new, without ids: with the name of one who is gone, perhaps the same with another contact."""
    told_elsewhere: int
    """Of the changed: a message went to a contact that the list takes away, and is not sent to the new one."""
    new_rows: list[int]


class ListLook(Said):
    """A list before it is imported."""

    format: str
    columns: list[ColumnLine]
    questions: list[Question]
    notes: list[ListNote]
    sheets: list[ListSheet]
    sheet: str | None
    has_earlier: bool
    """The campaign has taken a list before."""
    is_known: bool
    """This very file is the campaign's newest list: importing it again changes nothing."""
    difference: ListDifference | None
    """Null while questions are open."""
    token: str
    """Send it with the file to import exactly what was shown."""

    @classmethod
    def of(cls, seen: lists.Look) -> ListLook:
        return cls.model_validate(seen)


class Suggestion(Said):
    """What a refused address was probably meant to be."""

    row: int
    column: str
    reason: str
    read: str
    suggestion: str


class Suggestions(Said):
    """All suggestions of one list."""

    items: list[Suggestion]


class CodeInWords(Said):
    """What a code means and what to do."""

    code: str
    fr: str
    en: str


class Codes(Said):
    """All codes that a report may hold, and those of a list that is refused."""

    items: list[CodeInWords]


class DoubtfulPatient(Said):
    """A patient, and the row of the list that named them first."""

    patient: int
    list_file: int
    row: int


class DecidedPatient(Said):
    """What was said about another patient."""

    patient: int
    same: bool


class Doubt(Said):
    """A patient who may be the same person as others."""

    id: int
    reason: str
    patient: int
    list_file: int
    row: int
    others: list[DoubtfulPatient]
    decided: list[DecidedPatient]

    @classmethod
    def of(cls, pair: deciding.Pair) -> Doubt:
        others = [
            DoubtfulPatient(patient=one.patient, list_file=one.list_file, row=one.row) for one in pair.others
        ]
        decided = [DecidedPatient(patient=other, same=same) for other, same in pair.decided.items()]
        return cls(
            id=pair.id,
            reason=pair.reason,
            patient=pair.mine.patient,
            list_file=pair.mine.list_file,
            row=pair.mine.row,
            others=others,
            decided=decided,
        )


class NewDecision(Heard):
    """Whether two patients are one person."""

    same: StrictBool
    other: BodyId | None = None
    """The other patient, where there are several."""


class Decision(Said):
    """What was said about a doubt."""

    doubt: int = _number("problem_id")
    patient: int = _number("patient_id")
    other: int = _number("other_id")
    same: bool = _number("is_same")
    decided_by: str
    decided_at: Instant


class Gap(Said):
    """One thing wrong with one notice, in words for the doctor by language."""

    part: str
    channel: Channel
    language: str
    variant: Variant
    problem: str
    words: dict[str, str]


class PreviewText(Said):
    """What one person would get over one channel."""

    channel: Channel
    language: str
    variant: Variant
    subject: str
    text: str
    html: str
    parts: int
    """SMS parts, which is what it costs; 0 for an email."""
    encoding: str
    replaced: list[str]
    """Characters replaced to stay in the SMS alphabet."""


class Written(Said):
    """One text the patients of the campaign need."""

    channel: Channel
    language: str
    variant: Variant


class Preview(Said):
    """The notice as it would be approved now."""

    hash: str
    """What to send back to approve exactly this."""
    complete: bool
    """Nothing is missing."""
    texts: list[PreviewText]
    missing: list[Gap]
    """These forbid approval."""
    warnings: list[Gap]
    """These do not."""
    written: list[Written]
    """Every text that will be approved with it."""


# --- patients and deliveries ----------------------------------------------------------------------------


class Patient(Said):
    """One affected person, without a name: those are sealed."""

    id: int
    campaign: int = _number("campaign_id")
    list_file: int = _number("list_file_id")
    row: int
    """The row of the list that names them."""
    outcome: Outcome
    reason: str | None = _number("outcome_reason")
    """Why they are excluded or unreached."""
    at: Instant | None = _number("outcome_at")
    language: str
    has_postal: bool
    """A letter could be addressed."""


class DeliveryLine(Said):
    """One notice to one contact over one channel."""

    id: int
    campaign: int = _number("campaign_id")
    channel: Channel
    language: str
    state: DeliveryState
    reason: str | None
    """Code of the last result."""
    due_at: Instant | None
    """Pending: sent then; unknown or accepted: settled then."""
    tries: int
    """Hand-overs that count towards the limit."""
    first_tried_at: Instant | None
    possibly_twice: bool
    """A second hand-over was made although the first may have arrived."""
    receipt_at: Instant | None
    created_at: Instant


class PatientStatus(Patient):
    """One person with every delivery for them."""

    deliveries: list[DeliveryLine] = Field(default_factory=list)


class Attempt(Said):
    """One hand-over to a provider."""

    fence: int
    """Grows with every hand-over of a delivery."""
    provider: str
    started_at: Instant
    ended_at: Instant | None
    """Null while open."""
    outcome: str | None
    """Accepted, refused or unknown."""
    code: str | None


class Receipt(Said):
    """What a provider reported later."""

    id: int
    provider: str
    event: str
    code: str
    """The provider's own word."""
    event_at: Instant
    received_at: Instant
    applied_at: Instant | None
    effect: str | None
    """What it changed."""


class DeliveryStatus(DeliveryLine):
    """One delivery with all that happened to it."""

    patients: list[int] = Field(default_factory=list)
    """Whom it informs."""
    attempts: list[Attempt] = Field(default_factory=list)
    receipts: list[Receipt] = Field(default_factory=list)


# --- operations -----------------------------------------------------------------------------------------


class NewHold(Heard):
    """Why nothing of a scope may be sent."""

    reason: Words
    until: AwareDatetime | None = None
    """With a time zone; null: until a person lifts it."""


class Hold(Said):
    """Something that must not be sent now."""

    scope: str
    reason: str
    until: Instant | None
    by: str
    since: Instant


class NewKey(Heard):
    """A key for a program: of one doctor, or of operations where `doctor` is null."""

    name: Line
    doctor: BodyId | None = None


class Key(Said):
    """An API key, without its secret."""

    id: int
    name: str
    prefix: str
    """The first letters, to tell keys apart."""
    doctor: int | None = _number("doctor_id")
    created_at: Instant
    revoked_at: Instant | None


class MadeKey(Key):
    """A new key. `secret` is told this once and kept nowhere; null when the answer is given again."""

    secret: str | None = None
