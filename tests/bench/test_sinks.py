from __future__ import annotations

import json
import smtplib
import urllib.request
from pathlib import Path

from bench import sinks


def test_the_rivals_sink_counts_both_ways_and_answers_as_the_email_api(shared: Path):
    with sinks.running(with_token=True) as sink:
        assert sink.kind == "c", "a compiler is part of a machine that measures"
        body = json.dumps({"to": [{"email": "rid-00000007@example.org"}]}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{sink.http_port}/v3/smtp/email", data=body)
        with urllib.request.urlopen(request) as answer:
            assert json.loads(answer.read())["messageId"]
        assert sink.counts() == (1, 0)
        for to in ("rid-00000008@example.org", "rid-00000007@example.org"):
            with smtplib.SMTP("127.0.0.1", sink.smtp_port) as client:
                client.sendmail("a@example.org", [to], f"To: {to}\r\n\r\nhello\r\n")
        assert sink.counts() == (2, 1)


def test_our_own_sink_stands_in_where_messages_carry_no_token():
    with sinks.running(with_token=False) as sink:
        assert sink.kind == "python"
        assert sink.counts() == (0, 0)
