"""Traces: one for a campaign, by whichever process; a span for a batch and nothing about a person in any."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import text

from notifier import acts, tracing
from notifier.errors import ConflictError
from notifier.providers.base import Kind, Outcome
from notifier.providers.brevo_sms import BrevoSmsReceipts
from notifier.sealing import MasterKey
from notifier.settings import Settings
from notifier.states import Channel
from notifier.store import Database
from notifier.tracing import Operation
from tests.factories import make_campaign, make_settings, person, start_campaign
from tests.notifier.test_receipts import accept, apply, body
from tests.notifier.test_sending import FakeProvider, run
from tests.workers.test_main import end, start, wait_for_heartbeat
from workers import broker as brokers
from workers.tasks import VERSION, Tasks


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url)


@pytest.fixture
def spans(master: MasterKey) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.start_with(SimpleSpanProcessor(exporter), master, "test")
    yield exporter
    tracing.stop()


def by_name(exporter: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    found: dict[str, list[ReadableSpan]] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


def test_a_campaign_is_one_trace_from_approval_to_receipt(
    database: Database, current: Settings, master: MasterKey, spans: InMemorySpanExporter
):
    campaign = start_campaign(database, current, [person(number, email=None) for number in range(60)])
    provider = FakeProvider(Channel.SMS, lambda _: Outcome(Kind.ACCEPTED, "accepted", provider_message_id="1"))
    run(current, provider, campaign.id, campaign.epoch)
    with database.staff() as session:
        deliveries = session.scalars(text("SELECT id FROM delivery ORDER BY id LIMIT 3")).all()
    for number in deliveries:
        accept(database, current, BrevoSmsReceipts(), number, body("delivered"))
    apply(database, current)

    found = by_name(spans)
    assert {name: len(all_) for name, all_ in found.items()} == {
        "approve": 1,
        "start delivery": 1,
        "ticket sms": 1,
        "send": 2,  # fifty rows are marked together
        "apply receipt": 1,
    }
    every = spans.get_finished_spans()
    assert {span.context.trace_id for span in every} == {tracing.trace_id(master, campaign.id)}
    [ticket], [started], [applied] = found["ticket sms"], found["start delivery"], found["apply receipt"]
    assert [span.parent and span.parent.span_id for span in found["send"]] == [ticket.context.span_id] * 2
    assert ticket.attributes["messaging.batch.message_count"] == 60
    assert started.attributes["messaging.batch.message_count"] == 60
    assert applied.attributes["messaging.batch.message_count"] == 3
    assert sorted(span.attributes["notifier.accepted"] for span in found["send"]) == [10, 50]
    assert [(s.kind, s.attributes["messaging.operation.type"]) for s in (started, ticket, found["send"][0])] == [
        (SpanKind.PRODUCER, "create"),
        (SpanKind.CONSUMER, "process"),
        (SpanKind.CLIENT, "send"),
    ]
    shown = json.dumps([json.loads(span.to_json()) for span in every])
    for personal in ("Nom1", "Prenom1", "3398", "33639", "example.org", "Exemple"):
        assert personal not in shown


def test_two_campaigns_are_two_traces_also_in_one_batch_of_receipts(
    database: Database, current: Settings, master: MasterKey, spans: InMemorySpanExporter
):
    campaigns = [start_campaign(database, current, [person(n, email=None)], n) for n in (1, 2)]
    for campaign in campaigns:
        run(current, FakeProvider(Channel.SMS), campaign.id, campaign.epoch)
    with database.staff() as session:
        numbers = session.scalars(text("SELECT id FROM delivery ORDER BY id")).all()
    for number in numbers:
        accept(database, current, BrevoSmsReceipts(), number, body("delivered", message_id=number))
    apply(database, current)
    applied = by_name(spans)["apply receipt"]
    assert [span.context.trace_id for span in applied] == [tracing.trace_id(master, one.id) for one in campaigns]
    assert tracing.trace_id(master, 1) != tracing.trace_id(MasterKey(bytes(32)), 1)


def test_a_ticket_that_found_nothing_is_not_shown(
    database: Database, current: Settings, spans: InMemorySpanExporter
):
    campaign = start_campaign(database, current, [person(1)])
    run(current, FakeProvider(Channel.SMS), campaign.id, campaign.epoch)
    assert "ticket sms" not in by_name(spans)


def test_a_refused_act_is_an_error_without_its_words(
    database: Database, current: Settings, spans: InMemorySpanExporter
):
    campaign_id = make_campaign(database, current, [person(1)])
    with database.staff() as session, pytest.raises(ConflictError):
        acts.start(session, campaign_id, actor="cli:test", now=datetime.now(UTC))
    [refused] = by_name(spans)["start delivery"]
    assert (refused.status.status_code, refused.status.description) == (StatusCode.ERROR, None)
    assert refused.attributes["error.type"] == "ConflictError"
    assert refused.events == ()


def test_of_a_share_of_campaigns_all_is_kept_or_nothing(master: MasterKey):
    kept = []
    for _process in range(2):
        exporter = InMemorySpanExporter()
        tracing.start_with(SimpleSpanProcessor(exporter), master, "test", share=0.3)
        for campaign_id in range(200):
            for operation in (None, Operation.SEND):
                tracing.span("any", campaign_id, operation, system="smtp").end()
        tracing.stop()
        kept.append([span.attributes["notifier.campaign.id"] for span in exporter.get_finished_spans()])
    assert kept[0] == kept[1]
    assert 40 < len(kept[0]) < 200
    assert all(kept[0].count(campaign_id) == 2 for campaign_id in kept[0])


def test_off_nothing_is_made_and_opentelemetry_is_not_even_imported(current: Settings):
    tracing.start(current, "test")
    assert not tracing.is_on()
    assert tracing.span("any", 1) is tracing.span("another", 2, Operation.SEND, system="smtp")
    looked = (
        "import sys, notifier.acts, notifier.sending, notifier.receipts; print('opentelemetry' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", looked], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"


class Collector(BaseHTTPRequestHandler):
    """Takes OTLP over HTTP as a collector does, and remembers it."""

    got: list[ExportTraceServiceRequest]

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        data = gzip.decompress(data) if self.headers.get("content-encoding") == "gzip" else data
        if self.path == "/v1/traces":
            self.got.append(ExportTraceServiceRequest.FromString(data))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def test_a_worker_process_hands_its_spans_to_the_collector_before_it_ends(
    database: Database, database_url: str, redis_url: str, current: Settings, master: MasterKey
):
    campaign = start_campaign(database, current, [person(1)])
    got: list[ExportTraceServiceRequest] = []
    with HTTPServer(("127.0.0.1", 0), type("One", (Collector,), {"got": got})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        process = start(
            "worker",
            database_url,
            redis_url,
            NOTIFIER_TRACING__ENDPOINT=f"http://127.0.0.1:{server.server_port}",
            NOTIFIER_SMTP__PORT="1",
            NOTIFIER_SMTP__SECURITY="none",
        )
        try:
            wait_for_heartbeat(database, process)
            email = Tasks(brokers.make(redis_url)).send[Channel.EMAIL]
            wait_for_attempt(database, lambda: email.send(VERSION, 50, [[campaign.id, campaign.epoch]]))
        finally:
            status = end(process, 20)
        server.shutdown()
    assert status == 0
    found = [
        span for one in got for part in one.resource_spans for scope in part.scope_spans for span in scope.spans
    ]
    assert {span.name for span in found} == {"ticket email", "send"}
    wanted = tracing.trace_id(master, campaign.id)
    assert {int.from_bytes(span.trace_id, "big") for span in found} == {wanted}
    named = {pair.key: pair.value.string_value for pair in got[0].resource_spans[0].resource.attributes}
    assert (named["service.name"], named["notifier.process"]) == ("patient-notifier", "worker")


def wait_for_attempt(database: Database, issue_a_ticket: Callable[[], object]) -> None:
    """Until the first hand-over has ended; no relay listens, so it ends at once."""
    for number in range(400):
        if number % 20 == 0:
            issue_a_ticket()
        with database.staff() as session:
            if session.scalar(text("SELECT count(*) FROM attempt WHERE outcome IS NOT NULL")):
                return
        time.sleep(0.05)
    raise AssertionError("nothing was handed over")
