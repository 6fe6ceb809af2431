"""OpenTelemetry traces, from approval to receipt: off, and free of cost, unless `[tracing]` names a collector.

The database is the truth and tickets carry no context, so nothing is handed on: the trace of a campaign has an
id made from the campaign's by a keyed hash, and each process puts its spans there by itself. One span is for a
batch, never for a person; names and attributes hold ids, counts and reason codes, and of an error its type.

Names follow OpenTelemetry's conventions for messaging (opentelemetry.io/docs/specs/semconv/messaging, read
2026-11-25).
"""

from __future__ import annotations

import hashlib
import threading
from contextvars import ContextVar
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from notifier import __version__
from notifier.errors import SettingsError

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.sdk.trace import SpanProcessor

    from notifier.sealing import MasterKey
    from notifier.settings import Settings

Value = str | int | float | bool
_SERVICE = "patient-notifier"
#: how long the end of a process waits for the collector to take what is left
_FLUSH_S = 2.0


class Operation(StrEnum):
    """What is done to messages: `messaging.operation.type`."""

    CREATE = "create"
    SEND = "send"
    PROCESS = "process"


class Span(Protocol):
    """One piece of work on one campaign; a context manager that ends it."""

    def set(self, **values: Value) -> None:
        """What came of it, by names of ours: `deliveries=3` is `notifier.deliveries`."""

    def messages(self, count: int) -> None:
        """How many messages it was about."""

    def end(self) -> None:
        """For one that is not used as a context manager."""

    def drop(self) -> None:
        """It came to nothing: nobody needs to see it."""

    def __enter__(self) -> Span: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Nothing:
    """A span while tracing is off."""

    __slots__ = ()

    def set(self, **values: Value) -> None: ...

    def messages(self, count: int) -> None: ...

    def end(self) -> None: ...

    def drop(self) -> None: ...

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


_NOTHING = _Nothing()
_tracer: _Tracer | None = None
#: the trace that the next span without a parent belongs to
_wanted: ContextVar[int] = ContextVar("wanted")


def is_on() -> bool:
    return _tracer is not None


def span(
    name: str,
    campaign_id: int,
    operation: Operation | None = None,
    *,
    system: str = "",
    destination: str = "",
    started_ns: int | None = None,
) -> Span:
    """A span in the campaign's trace, begun now or at `started_ns` since 1970.

    `system` carries the messages, `destination` is the queue or table they go through.
    """
    if _tracer is None:
        return _NOTHING
    attributes: dict[str, Value] = {"notifier.campaign.id": campaign_id}
    if operation is not None:
        attributes |= {"messaging.operation.type": str(operation), "messaging.operation.name": name}
        attributes["messaging.system"] = system
    if destination:
        attributes["messaging.destination.name"] = destination
    return _tracer.span(f"{name} {destination}".rstrip(), campaign_id, operation, attributes, started_ns)


def start(settings: Settings, process: str) -> None:
    """Sends this process's spans to the collector of `[tracing]`, if it names one; else does nothing.

    Raises SettingsError if OpenTelemetry is not installed.
    """
    if settings.tracing.endpoint is None or _tracer is not None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingsError(
            "NOTIFIER_TRACING__ENDPOINT is set, but OpenTelemetry is not installed: "
            "pip install 'patient-notifier[otel]'."
        ) from error
    exporter = OTLPSpanExporter(f"{settings.tracing.endpoint.rstrip('/')}/v1/traces")
    start_with(BatchSpanProcessor(exporter), settings.master, process, settings.tracing.share)


def start_with(processor: SpanProcessor, master: MasterKey, process: str, share: float = 1) -> None:
    """As `start`, handing the spans of `share` of all campaigns to `processor`: the same ones in each process."""
    global _tracer
    _tracer = _Tracer(processor, master, process, share)


def stop() -> None:
    """Hands over what is left, waiting for two seconds at most, and is off."""
    global _tracer
    if _tracer is not None:
        # The processor itself waits for as long as the collector lets it.
        handing_over = threading.Thread(target=_tracer.processor.force_flush, daemon=True)
        handing_over.start()
        handing_over.join(_FLUSH_S)
        _tracer = None


class _Tracer:
    def __init__(self, processor: SpanProcessor, master: MasterKey, process: str, share: float) -> None:
        # Imported here: who does not trace need not have it.
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        class Ids(RandomIdGenerator):
            def generate_trace_id(self) -> int:
                return _wanted.get()

        named = {"service.name": _SERVICE, "service.version": __version__, "notifier.process": process}
        provider = TracerProvider(
            # By the trace's id: of a campaign all is kept or nothing, by whichever process.
            ParentBased(TraceIdRatioBased(share)),
            Resource.create(named),
            # `stop` does it, and waits for less.
            shutdown_on_exit=False,
            id_generator=Ids(),
        )
        provider.add_span_processor(processor)
        self.processor = processor
        self._master = master
        self._tracer = provider.get_tracer(_SERVICE, __version__)

    def span(
        self,
        title: str,
        campaign_id: int,
        operation: Operation | None,
        attributes: dict[str, Value],
        started_ns: int | None,
    ) -> Span:
        from opentelemetry import trace
        from opentelemetry.context import Context

        kinds = {
            Operation.CREATE: trace.SpanKind.PRODUCER,
            Operation.SEND: trace.SpanKind.CLIENT,
            Operation.PROCESS: trace.SpanKind.CONSUMER,
            None: trace.SpanKind.INTERNAL,
        }
        wanted = trace_id(self._master, campaign_id)
        is_inside = trace.get_current_span().get_span_context().trace_id == wanted
        token = _wanted.set(wanted)
        try:
            made = self._tracer.start_span(
                title,
                None if is_inside else Context(),
                kinds[operation],
                attributes,
                start_time=started_ns,
                record_exception=False,
                set_status_on_exception=False,
            )
        finally:
            _wanted.reset(token)
        return _Open(made)


def trace_id(master: MasterKey, campaign_id: int) -> int:
    """128 bits, the same in every process of a deployment, and of no use to tell a campaign by."""
    signed = master.sign("trace", str(campaign_id))
    return int.from_bytes(hashlib.sha256(signed.encode()).digest()[:16], "big")


class _Open:
    """A span of OpenTelemetry's, as we use them."""

    __slots__ = ("_is_dropped", "_span", "_token")

    def __init__(self, span: Any) -> None:
        self._span = span
        self._is_dropped = False
        self._token: Any = None

    def set(self, **values: Value) -> None:
        self._span.set_attributes({f"notifier.{name}": value for name, value in values.items()})

    def messages(self, count: int) -> None:
        self._span.set_attribute("messaging.batch.message_count", count)

    def end(self) -> None:
        if not self._is_dropped:
            self._span.end()

    def drop(self) -> None:
        # One that never ends is never handed to anybody.
        self._is_dropped = True

    def __enter__(self) -> Span:
        from opentelemetry import context, trace

        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from opentelemetry import context
        from opentelemetry.trace import Status, StatusCode

        context.detach(self._token)
        if kind is not None:
            self._is_dropped = False
            self._span.set_attribute("error.type", kind.__name__)
            # Its words could name a person.
            self._span.set_status(Status(StatusCode.ERROR))
        self.end()
