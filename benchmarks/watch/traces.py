"""``--traces``: a span for the sweep, one for each cell and one for each of its steps, by OpenTelemetry.

Where they go, and under which name, is said by OpenTelemetry's own variables (``OTEL_EXPORTER_OTLP_ENDPOINT``,
``OTEL_SERVICE_NAME``; https://opentelemetry.io/docs/specs/otel/protocol/exporter/). The sweep's process sends them
when a cell ends, from what its worker wrote, so that workers on other machines need neither library nor network.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.watch.cell_events import Event, facts_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

MISSING = "--traces needs OpenTelemetry; install it with: pip install 'medgraft[traces]'"


def missing() -> str:
    """What is not installed, and the remedy; empty where all is there."""
    parts = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
    try:
        return "" if all(find_spec(part) is not None for part in parts) else MISSING
    except ModuleNotFoundError:
        return MISSING


class Traces:
    """Spans of one sweep.

    Args:
        command: What was typed, for the span of the sweep.
        exporter: Takes the spans; by default OTLP over HTTP, as the variables of OpenTelemetry say.
    """

    def __init__(self, command: str, exporter: SpanExporter | None = None) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create()
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "medgraft"}))
        self.provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self.tracer = self.provider.get_tracer("medgraft")
        self.command = command
        self.parent: Any = None

    @contextmanager
    def sweep(self, cells: int) -> Iterator[None]:
        """The span of the sweep; at its end what is left is sent, and what could not be is said once.

        Args:
            cells: That will run.
        """
        from opentelemetry import trace

        span = self.tracer.start_span("sweep", attributes={"medgraft.cells": cells, "medgraft.command": self.command})
        self.parent = trace.set_span_in_context(span)
        try:
            yield
        finally:
            span.end()
            self.provider.force_flush(10_000)
            self.provider.shutdown()

    def cell(self, events: Sequence[Event], result: CellResult) -> None:
        """The spans of a cell that has ended, and of its steps; what it logged are events of its span.

        Args:
            events: What happened, see :func:`medgraft.benchmarks.watch.cell_events.cell_events`.
            result: How it ended.
        """
        from opentelemetry import trace
        from opentelemetry.trace import Status, StatusCode

        facts = {f"medgraft.{name}": value for name, value in facts_of(result).items()}
        name = f"{result.spec.task} / {result.spec.adapter}"
        span = self.tracer.start_span(name, self.parent, attributes=facts, start_time=_ns(events[0].time))
        span.set_attribute("medgraft.status", result.status)
        if result.status != "success":
            span.set_status(Status(StatusCode.ERROR, result.message))
        inside = trace.set_span_in_context(span)
        steps = [event for event in events if event.name in ("step", "ended")]
        for step, after in pairwise(steps):
            # Clocks of machines differ: a step may seem to end before it began.
            ends = max(after.time, step.time)
            part = self.tracer.start_span(str(step.facts["step"]), inside, start_time=_ns(step.time))
            part.end(_ns(ends))
        for event in events:
            if event.name == "log":
                level = logging.getLevelName(event.level)
                span.add_event(event.message, {"level": level, **event.facts}, _ns(event.time))
        span.end(_ns(max(events[-1].time, events[0].time)))


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
