"""What a sweep leaves of its cells for what collects logs and traces."""

from __future__ import annotations

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sweeping import Toy, command

from medgraft.benchmarks.cell.job import Job, failure
from medgraft.benchmarks.cell.progress import ProgressWriter
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.watch import traces
from medgraft.benchmarks.watch.cell_events import cell_events
from medgraft.benchmarks.watch.json_log import SUFFIX, log_lines
from medgraft.benchmarks.watch.recording import Recording

SPEC = CellSpec.model_validate(
    {
        "task": "adni_image",
        "encoder": "e",
        "adapter": "lora",
        "seed": 3,
        "train": {"epochs": 1},
        "cohort": {"name": "adni", "revision": "r", "phantom": True},
    }
)


def failed(message: str = "no memory\nleft\x1b[31m") -> CellResult:
    return failure(Job(spec=SPEC, root=Path("/data")), "oom", message, "training")


ENTRIES = [
    {"time": 101.0, "step": "load", "doing": "reading", "share": 0.0},
    {"time": 102.0, "step": "load", "doing": "reading", "share": 0.5},
    {"time": 103.0, "step": "train", "doing": "training", "share": 0.0},
    {"time": 103.5, "log": [logging.WARNING, "medgraft.data", "a\nstrange\x1b[2Jfile"]},
    {"log": [1, 2]},
    {"time": "never", "step": 5},
    {"unwritable": "x"},
]


def test_each_step_stands_once_and_what_was_logged_between():
    events = cell_events(ENTRIES, failed(), 100.0, 110.0)
    assert [event.name for event in events] == ["started", "step", "step", "log", "ended"]
    assert [event.time for event in events] == [100.0, 101.0, 103.0, 103.5, 110.0]
    assert events[-1].level == logging.ERROR and events[-1].facts["stage"] == "train"


def test_every_line_of_a_log_is_json_and_names_its_cell():
    lines = log_lines(cell_events(ENTRIES, failed(), 100.0, 110.0), failed()).splitlines()
    entries = [json.loads(line) for line in lines]
    assert len(entries) == 5 and all(entry["cell"] == SPEC.key() and entry["seed"] == 3 for entry in entries)
    assert entries[0]["time"] == "1970-01-01T00:01:40.000Z" and entries[3]["level"] == "WARNING"
    assert not any(ord(character) < 32 for entry in entries for character in entry["message"])


def test_a_folder_that_takes_no_log_costs_only_the_log(tmp_path, caplog):
    recording = Recording(ResultStore(tmp_path / "results"), json_logs=True)
    (tmp_path / "results").write_text("a file in its place")
    work = tmp_path / "work"
    work.mkdir()
    with caplog.at_level(logging.WARNING):
        recording.cell(failed(), work, 1.0)
        recording.cell(failed(), work, 1.0)
    assert len([line for line in caplog.messages if "--json-logs" in line]) == 1


def test_times_that_are_none_cost_only_the_record(tmp_path, caplog):
    (tmp_path / "progress.jsonl").write_text('{"time": 1e20, "step": "load", "doing": "reading", "share": 0.0}\n')
    sent = traces.Traces("medgraft run", InMemorySpanExporter())
    recording = Recording(ResultStore(tmp_path / "results"), json_logs=True, traces=sent)
    with caplog.at_level(logging.WARNING), recording.sweep(1):
        recording.cell(failed(), tmp_path, 1.0)
    assert "a cell cannot be recorded" in caplog.text


def test_progress_is_read_from_its_beginning(tmp_path):
    writer = ProgressWriter(tmp_path)
    writer.step("reading", 0.0)
    writer.step("training", 0.0)
    writer.close()
    recording = Recording(ResultStore(tmp_path / "results"), json_logs=True)
    recording.store.put(failed())
    recording.cell(failed(), tmp_path, 2.0)
    lines = recording.store.path(SPEC).with_suffix(SUFFIX).read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["started", "step", "step", "ended"]


def test_spans_are_nested_and_hold_the_times_of_the_worker():
    memory = InMemorySpanExporter()
    sent = traces.Traces("medgraft run", memory)
    with sent.sweep(1):
        sent.cell(cell_events(ENTRIES, failed(), 100.0, 110.0), failed())
    spans = {span.name: span for span in memory.get_finished_spans()}
    assert set(spans) == {"sweep", "adni_image / lora", "load", "train"}
    cell, load, train = spans["adni_image / lora"], spans["load"], spans["train"]
    assert (cell.start_time, cell.end_time) == (100_000_000_000, 110_000_000_000)
    assert (load.start_time, load.end_time, train.end_time) == (101_000_000_000, 103_000_000_000, 110_000_000_000)
    assert cell.parent.span_id == spans["sweep"].context.span_id and load.parent.span_id == cell.context.span_id
    assert not cell.status.is_ok and len(cell.events) == 1


def test_a_step_by_a_clock_that_is_ahead_does_not_end_before_it_began():
    memory = InMemorySpanExporter()
    sent = traces.Traces("medgraft run", memory)
    with sent.sweep(1):
        sent.cell(cell_events(ENTRIES, failed(), 100.0, 90.0), failed())
    assert all(span.end_time >= span.start_time for span in memory.get_finished_spans())


class Collector(BaseHTTPRequestHandler):
    """A collector of OTLP over HTTP."""

    bodies: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        self.bodies.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_sweep_leaves_logs_and_sends_spans_to_a_collector(toy: Toy, tmp_path, monkeypatch):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    bodies: list[tuple[str, bytes]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Collector,), {"bodies": bodies}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    out = tmp_path / "results"
    asked = toy.options("--adapters", "linear_probe", "--seeds", "0,1", "--results", str(out))
    monkeypatch.chdir(tmp_path)
    done = command("run", *asked, "--json-logs", "--traces", "--max-cells", "1")
    server.shutdown()
    assert done.exit_code == 0, done.output
    assert "--max-cells 1 left 1 cells undone" in " ".join(done.output.split())
    (log,) = out.glob(f"*/*/*/*{SUFFIX}")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert entries[0]["event"] == "started" and entries[-1]["status"] == "success"
    assert [entry["step"] for entry in entries if entry["event"] == "step"][:4] == ["load", "build", "prefix", "train"]
    assert [path for path, _ in bodies] == ["/v1/traces"] * len(bodies) and bodies
    names = [
        span.name
        for _, body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert "sweep" in names and "toy / linear_probe" in names and names.count("train") == 1
    again = command("run", "--dry-run", *asked)
    assert "1 have no result yet; 1 at a time they take about" in " ".join(again.output.split())


def test_without_the_library_the_remedy_is_named(toy: Toy, tmp_path, monkeypatch):
    monkeypatch.setattr(traces, "find_spec", lambda name: None)
    done = command("run", *toy.options("--adapters", "linear_probe", "--traces", "--results", str(tmp_path)))
    assert done.exit_code == 2 and "pip install 'medgraft[traces]'" in " ".join(done.output.split())
