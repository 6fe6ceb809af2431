"""What an SMTP server's "no" means: is it the person, later, or us? First match wins.

Sources: RFC 5321 §4.2, RFC 3463 §3 (enhanced codes), and the receivers' own pages as of 2026-11-25. A
reply nobody foresaw is "later": it counts as a try, and after the last one the next channel takes over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from notifier.providers.base import Blame


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whose matter a reply is and how long to wait, None for the usual back-off."""

    blame: Blame
    retry_after: timedelta | None = None


_HOURS = timedelta(hours=1)

#: (pattern over "code enhanced text", verdict). Receivers' own texts come before the general codes,
#: because several put "unknown user" under 5.5.0 and "spam" under 5.1.1.
_TABLE: tuple[tuple[re.Pattern[str], Verdict], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), verdict)
    for pattern, verdict in (
        # Orange, SFR and La Poste block the sending address for hours; the person is not at fault
        (r"^4\d\d .*\bOFR[\d_]*_(104|105|108|999)\b", Verdict(Blame.THROTTLED, 4 * _HOURS)),
        (r"\bSFR_IN_\w+", Verdict(Blame.THROTTLED, 2 * _HOURS)),
        (r"\bLPN007_405\b", Verdict(Blame.OURS)),
        (r"\bLPN\d*_503\b", Verdict(Blame.THROTTLED, _HOURS)),
        (r"\bLPN\d*_(510|517)\b|\bOFR\d*_5\d\d\b", Verdict(Blame.OURS)),
        (r"\bLPN\d*_416\b", Verdict(Blame.PERSON)),
        # our sender, authentication or content (RFC 3463 X.7.x; RFC 7372, RFC 7505 §4.2)
        (r"^5\d\d 5\.7\.\d+\b", Verdict(Blame.OURS)),
        (r"^5\d\d 5\.1\.[78]\b", Verdict(Blame.OURS)),
        (r"^53\d ", Verdict(Blame.OURS)),
        (r"^5\d\d .*\b(spam|blacklist|blocklist|dnsbl|rbl)\b", Verdict(Blame.OURS)),
        # the box is full: it may empty again (RFC 3463 X.2.2)
        (r"^[45]\d\d [45]\.2\.2\b|mailbox (is )?full|over ?quota|bo[iî]te pleine", Verdict(Blame.LATER)),
        # no such person (RFC 3463 X.1.x, X.2.1; null MX of the receiver: RFC 7505 §4.1)
        (r"^5\d\d 5\.(1\.(0|1|2|3|6|10)|2\.1|4\.4)\b", Verdict(Blame.PERSON)),
        (
            r"^5\d\d .*(user|mailbox|recipient|address|account)[^.]{0,30}"
            r"(unknown|not found|does ?n.t exist|disabled)",
            Verdict(Blame.PERSON),
        ),
        (r"^5\d\d .*(unknown|no such|invalid) (user|mailbox|recipient|address|account)", Verdict(Blame.PERSON)),
        (
            r"^5\d\d .*(destinataire|utilisateur|adresse)[^.]{0,20}(invalide|inconnu|inexistant)",
            Verdict(Blame.PERSON),
        ),
        # greylisting and load (RFC 5321 §4.2.1: 4yz is transient)
        (r"^4", Verdict(Blame.LATER)),
        # mailbox refused without a reason given (RFC 5321 §4.2.3)
        (r"^55[013] (?!5\.)", Verdict(Blame.PERSON)),
        (r"", Verdict(Blame.LATER)),
    )
)

_ENHANCED = re.compile(r"^\s*([245]\.\d{1,3}\.\d{1,3})\b")


def judge(code: int, text: str) -> Verdict:
    """What the reply `code text` means. The text may be of any length or language."""
    reply = f"{code} {text[:1000].strip()}"
    return next(verdict for pattern, verdict in _TABLE if pattern.search(reply))


def short_code(code: int, text: str) -> str:
    """The reply without its words, which may name the person: "smtp_550_5.1.1"."""
    enhanced = _ENHANCED.match(text)
    return f"smtp_{code}_{enhanced[1]}" if enhanced else f"smtp_{code}"
