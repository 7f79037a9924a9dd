"""A hub that does not answer: one attempt, one sentence, at once; what is in the cache still loads."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from medgraft.encoders.parts import hub
from medgraft.encoders.parts.quiet import quiet
from medgraft.errors import CheckpointError, ConfigError


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch):
    monkeypatch.setattr(hub, "_asked", {})
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def online(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def silent():
    """A host that takes connections and never says a word; the second value holds one item for each."""
    server = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def serve():
        while True:
            try:
                taken.append(server.accept()[0])
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}", taken
    server.close()
    for each in taken:
        each.close()


def answering(status: int) -> HTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.parametrize(("status", "answers"), [(200, True), (302, True), (404, True), (405, True), (503, False)])
def test_any_answer_counts_but_that_of_a_broken_server(status, answers):
    server = answering(status)
    try:
        found = hub.unreachable(f"http://127.0.0.1:{server.server_address[1]}/some/file")
    finally:
        server.shutdown()
        server.server_close()
    assert (found == "") == answers
    assert answers or found == "it answers 503"


def test_a_refused_connection_is_known_at_once(closed_port):
    start = time.monotonic()
    assert "refused" in hub.unreachable(closed_port)
    assert time.monotonic() - start < 1.5


def test_a_silent_host_is_asked_once_and_not_for_long(silent):
    url, taken = silent
    start = time.monotonic()
    assert hub.unreachable(url) == "no answer within 2 s"
    assert hub.unreachable(f"{url}/another") == "no answer within 2 s"
    assert time.monotonic() - start < 3 and len(taken) == 1


def test_a_name_that_nobody_knows_is_a_reason():
    assert hub.unreachable("http://no-such-host.invalid/x")
    assert hub.unreachable("no-address-at-all")


def test_one_sentence_names_the_encoder_the_host_and_the_remedy(closed_port, online, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", closed_port)
    with pytest.raises(CheckpointError) as caught, hub.fetching("toy:tiny"):
        raise ConnectionError("retries exhausted " * 50)
    said = str(caught.value)
    assert said.count("\n") == 0 and len(said) < 300
    assert all(
        part in said for part in ("toy:tiny", closed_port.removeprefix("http://"), "refused", "@/path", "no copy")
    )


def test_what_is_in_a_cache_still_loads(closed_port, online, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", closed_port)
    with hub.fetching("toy:tiny"):
        import huggingface_hub.constants

        assert huggingface_hub.constants.HF_HUB_OFFLINE
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", 9))
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_other_threads_keep_their_connections(silent):
    url, _ = silent
    host, port = url.removeprefix("http://").split(":")
    found: list[object] = []
    with hub.disconnected():
        other = threading.Thread(target=lambda: found.append(socket.create_connection((host, int(port)))))
        other.start()
        other.join()
    assert len(found) == 1
    found[0].close()  # pyright: ignore[reportAttributeAccessIssue]


def test_an_offline_setting_asks_no_host(silent, monkeypatch):
    import huggingface_hub.constants

    url, taken = silent
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"), hub.fetching("toy:tiny"):
        raise OSError("We couldn't connect to the hub")
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        hub.demand("toy:tiny", "owner/name")
    assert not taken


def test_local_files_ask_no_host_and_keep_their_reason(silent, online, monkeypatch):
    url, taken = silent
    monkeypatch.setenv("HF_ENDPOINT", url)
    torn = r"could not be loaded \(ValueError: torn\)"
    with pytest.raises(CheckpointError, match=torn), hub.fetching("toy:tiny", local=True):
        raise ValueError("torn")
    with pytest.raises(ConfigError, match="options"), hub.fetching("toy:tiny", local=True):
        raise TypeError("no such option")
    assert not taken


def test_loggers_are_quiet_inside_and_as_before_afterwards(caplog):
    logger = logging.getLogger("huggingface_hub.utils._http")
    logger.setLevel(logging.WARNING)
    with quiet():
        logger.warning("Retrying in 1s [Retry 1/5]")
        logging.getLogger("medgraft").warning("ours")
        logging.error("the root's own")
    assert [record.getMessage() for record in caplog.records] == ["ours"]
    assert logger.level == logging.WARNING


SCRIPT = """
import json, sys, time
from medgraft.registry import build_encoder
import importlib
for name in sys.argv[2:]:
    importlib.import_module(name)
for name in json.loads(sys.argv[1]):
    start = time.monotonic()
    try:
        build_encoder(name)
    except Exception as error:
        print(json.dumps([name, type(error).__name__, str(error), time.monotonic() - start]))
    else:
        print(json.dumps([name, "", "", 0.0]))
"""


def run(names, modules, endpoint, tmp_path):
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path)}
    environment.pop("HF_HUB_OFFLINE", None)
    environment |= {"http_proxy": "", "https_proxy": "", "HTTP_PROXY": "", "HTTPS_PROXY": ""}
    command = [sys.executable, "-c", SCRIPT, json.dumps(names), *modules]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_a_hub_id_is_refused_before_its_library_is_imported(silent, tmp_path):
    url, taken = silent
    names = ["transformers:owner/name", "brainiac:v2"]
    found, stderr = run(names, ["medgraft.encoders.transformers"], url, tmp_path)
    for name, kind, said, seconds in found:
        assert kind == "CheckpointError" and name in said and "no answer within 2 s" in said and "\n" not in said
        assert seconds < 10, "imports on a busy machine; the host has two seconds"
    assert stderr == "" and len(taken) == 1, "one attempt for all of them"


@pytest.mark.slow
def test_every_source_gives_up_after_one_attempt(silent, tmp_path):
    url, taken = silent
    names = ["timm:vit_tiny_patch16_224", "timm:hf-hub:owner/name", "open_clip:ViT-B-32", "monai:resnet10", "m3d:clip"]
    names += [
        "open_clip:hf-hub:owner/name",
        "medicalnet:resnet18",
        "transformers:owner/name",
        "neuro_simclr:t1",
        "swin_unetr:ssl",
    ]
    modules = ["timm", "transformers", "open_clip", "monai.networks.nets", "torchvision"]
    found, stderr = run(names, modules, url, tmp_path)
    assert [name for name, *_ in found] == names
    for name, kind, said, seconds in found:
        assert kind == "CheckpointError", (name, kind, said)
        assert name in said and "@/path" in said and "\n" not in said and seconds < 8, (name, said, seconds)
    lines = [line for line in stderr.splitlines() if "torch/utils/_pytree.py" not in line]
    assert lines == [], "torchao, which the libraries import, tells its authors something; nobody else says a word"
    assert len(taken) == 1
