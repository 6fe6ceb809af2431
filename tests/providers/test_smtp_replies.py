"""A server's "no" is read as the person's, as later, or as ours; a sender's fault never costs a patient."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.providers.base import Blame
from notifier.providers.smtp_replies import judge, short_code


@pytest.mark.parametrize(
    ("code", "reply", "blame"),
    [
        (550, "5.1.1 <someone@example.org> User unknown", Blame.PERSON),
        (550, "5.1.2 Host unknown", Blame.PERSON),
        (550, "5.2.1 Mailbox disabled", Blame.PERSON),
        (556, "5.1.10 Recipient address has null MX", Blame.PERSON),
        (550, "No such user here", Blame.PERSON),
        (550, "Adresse d'au moins un destinataire invalide. Invalid recipient. OFR204_416", Blame.PERSON),
        (550, "5.5.0 Mailbox not found", Blame.PERSON),
        (551, "5.1.1 utilisateur inconnu", Blame.PERSON),
        (550, "5.5.0 Invalid recipient LPN007_416", Blame.PERSON),
        (550, "Requested action not taken", Blame.PERSON),
        (452, "4.2.2 Mailbox full", Blame.LATER),
        (552, "5.2.2 The email account is over quota", Blame.LATER),
        (550, "5.2.2 boîte pleine", Blame.LATER),
        (450, "4.7.1 Greylisted, try again", Blame.LATER),
        (451, "4.3.0 Temporary failure", Blame.LATER),
        (421, "Service not available", Blame.LATER),
        (
            421,
            "mwinf5c04 ME Trop de connexions, veuillez verifier. Too many connections. OFR004_104",
            Blame.THROTTLED,
        ),
        (421, "Service refused, please try later. OFR_999", Blame.THROTTLED),
        (450, "4.7.1 SFR_IN_104 too many unknown users", Blame.THROTTLED),
        (550, "5.2.0 Mail rejete. Mail rejected. OFR_506", Blame.OURS),
        (550, "5.7.1 Message rejected as spam", Blame.OURS),
        (550, "5.7.26 This mail is unauthenticated", Blame.OURS),
        (550, "5.7.515 Access denied, sending domain does not meet the required level", Blame.OURS),
        (550, "spam detected", Blame.OURS),
        (550, "5.5.0 Sender address cannot receive LPN007_405", Blame.OURS),
        (553, "5.1.8 Sender's domain does not exist", Blame.OURS),
        (535, "5.7.8 Authentication credentials invalid", Blame.OURS),
        (554, "something nobody has seen", Blame.LATER),
    ],
)
def test_replies_of_receivers(code: int, reply: str, blame: Blame):
    assert judge(code, reply).blame is blame


@given(st.integers(200, 599), st.text(max_size=3000))
def test_any_reply_has_a_verdict_and_its_short_code_holds_none_of_its_words(code: int, reply: str):
    judge(code, reply)
    assert set(short_code(code, reply)) <= set("smtp_0123456789.")
