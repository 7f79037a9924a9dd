"""--download and inspect on files of MedMNIST: what comes is whole and right, and nothing comes unasked."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from medgraft.benchmarks.cohorts.medmnist import download as download_module
from medgraft.benchmarks.cohorts.medmnist.download import download
from medgraft.benchmarks.cohorts.medmnist.facts import DATA_SETS
from medgraft.benchmarks.cohorts.medmnist.inspection import named
from medgraft.benchmarks.cohorts.medmnist.phantom import write_data_sets
from medgraft.benchmarks.commands.main import app
from medgraft.errors import ConfigError, DataError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Answer(BaseHTTPRequestHandler):
    """``/whole``, ``/cut`` after a million bytes, or an error."""

    def do_GET(self) -> None:
        if self.path not in ("/whole", "/cut"):
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/whole" else CONTENT[:1_000_000])

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answer) as serving:
        thread = threading.Thread(target=partial(serving.serve_forever, poll_interval=0.01), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


@pytest.fixture
def told(monkeypatch):
    """What the package would say of the address and checksum of octmnist."""

    def tell(url: str, md5: str = MD5) -> None:
        facts = DATA_SETS["octmnist"]._replace(downloads={28: (url, md5)})
        monkeypatch.setattr(download_module, "facts_of", lambda name: facts)

    return tell


def test_a_file_comes_whole_and_is_not_fetched_again(tmp_path, server, told, monkeypatch):
    said: list[str] = []
    told(f"{server}/whole")
    monkeypatch.setattr(download_module, "_TOLD", 2_000_000)
    download(tmp_path / "new", "octmnist", 28, said.append)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["octmnist.npz"]
    assert (tmp_path / "new" / "octmnist.npz").read_bytes() == CONTENT
    assert said[-1] == "downloaded octmnist.npz: 3.0 MB, checksum right"
    told(f"{server}/gone")
    download(tmp_path / "new", "octmnist", 28, said.append)
    assert len(said) == 3 and said[1].endswith(" of 0.0 GB")


@pytest.mark.parametrize(
    ("path", "md5", "problem"),
    [
        ("/whole", "0" * 32, f"has the MD5 {MD5} and should have 0000"),
        ("/cut", MD5, "cannot be downloaded from .* IncompleteRead|cannot be downloaded from .* 1,000,000"),
        ("/gone", MD5, r"cannot be downloaded from .* \(Service Unavailable\)"),
    ],
)
def test_what_is_cut_or_another_file_leaves_nothing(tmp_path, server, told, path, md5, problem):
    told(f"{server}{path}", md5)
    with pytest.raises(DataError, match=problem) as caught:
        download(tmp_path, "octmnist", 28, str)
    assert not list(tmp_path.iterdir()) and "\n" not in str(caught.value)


def test_without_a_network_a_sentence_says_what_to_do(tmp_path, told):
    told("http://medmnist.invalid/octmnist.npz")
    with pytest.raises(DataError, match="fetch it where there is a network and put it into"):
        download(tmp_path, "octmnist", 28, str)


def test_other_addresses_are_never_opened(tmp_path, told):
    (tmp_path / "secret").write_text("secret")
    told(f"file://{tmp_path}/secret")
    with pytest.raises(ConfigError, match="no web address"):
        download(tmp_path, "octmnist", 28, str)


def test_the_package_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "facts_of", DATA_SETS.__getitem__)
    with pytest.raises(ConfigError, match=r"pip install 'medgraft\[medmnist\]'"):
        download(tmp_path, "octmnist", 28, str)


@pytest.mark.parametrize("name", ["oct.npz", "octmnist_28.npz", "octmnist_065.npz", "organmnist3d_128.npz", "x.npz"])
def test_other_names_are_none_of_medmnist(name):
    with pytest.raises(DataError, match="is no file of MedMNIST; they are called NAME"):
        named(Path(name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("files")
    write_data_sets(root, 100, 28, 0)
    return root


def invoke(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
    return done.exit_code, done.output + (done.stderr if done.stderr_bytes is not None else "")


def test_inspect_shows_a_data_set_and_what_its_splits_share(folder, tmp_path):
    with np.load(folder / "chestmnist.npz") as file:
        made = {key: file[key] for key in file}
    made["test_images"][:3] = made["train_images"][:3]
    np.savez(tmp_path / "chestmnist.npz", **made)
    code, said = invoke("inspect", tmp_path / "chestmnist.npz")
    assert code == 0, said
    for text in (
        "read as multilabel of image (multi-label, binary-class in MedMNIST's words; CC BY 4.0)",
        "sizes of 100 images that were read: 28 x 28 (100)",
        "look at this: MedMNIST names no patients: each image is a subject of its own",
        "look at this: not the published data set",
        "look at this: images that train and test both have: 3",
        f"medgraft run --adapters linear_probe,lora --tasks medmnist:chestmnist --data medmnist={tmp_path}",
    ):
        assert text in said, (text, said)


def test_download_is_for_what_can_be_fetched(folder, tmp_path):
    run = ("run", "--adapters", "lora", "--download")
    for arguments, problem in (
        (("inspect", folder / "cohort.csv", "--download"), "is for files of MedMNIST"),
        (("inspect", folder / "octmnist.npz", "--set", "label=x"), "not for files of MedMNIST"),
        ((*run, "--tasks", "table"), "is for tasks whose data can be fetched"),
        ((*run, "--tasks", "medmnist:octmnist"), "--data medmnist=FOLDER"),
        ((*run, "--tasks", "medmnist:octmnist", "--data", f"medmnist={folder}", "--dry-run"), "fetches nothing"),
        ((*run, "--tasks", "medmnist:octmnst", "--data", f"medmnist={folder}"), "did you mean octmnist"),
    ):
        code, said = invoke(*arguments)
        assert code and problem in " ".join(said.split()), (arguments, said)


def test_a_sweep_fetches_nothing_unasked(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "facts_of", lambda name: pytest.fail("it was asked for an address"))
    sweep = ("run", "--adapters", "linear_probe", "--tasks", "medmnist:octmnist", "--dry-run")
    code, said = invoke(*sweep, "--data", f"medmnist={tmp_path}")
    assert code and "octmnist.npz is not in" in said and "--download" in said
    code, said = invoke(*sweep, "--data", f"medmnist={folder}")
    assert code == 0 and "medmnist:octmnist" in said, said
