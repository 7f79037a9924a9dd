"""Which library multiplies in fp32: measured, stored by processor, the same for every process of a machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from medgraft.errors import ConfigError
from medgraft.fast import fp32_product as module
from medgraft.fast import linear
from medgraft.fast.fp32_product import Choice, identity, kept, measured


def spending(milliseconds: float):
    def run(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        end = time.process_time() + milliseconds / 1e3
        while time.process_time() < end:
            pass
        return x

    return run


@pytest.mark.parametrize(
    ("mkl", "onednn", "product"), [(2.0, 6.0, "mkl"), (6.0, 2.0, "onednn"), (4.0, 4.0, "onednn"), (4.0, 5.5, "mkl")]
)
def test_the_faster_one_is_taken_and_oneDNN_at_a_tie(mkl, onednn, product):
    found = measured(spending(mkl), spending(onednn))
    assert found.product == product
    assert found.mkl_ms == pytest.approx(mkl, rel=0.1) and found.ratio == pytest.approx(mkl / onednn, rel=0.2)


def test_a_measurement_takes_tens_of_milliseconds_and_leaves_threads_and_gradients_alone():
    before = torch.get_num_threads()
    start = time.process_time()
    measured(F.linear, F.linear)
    assert time.process_time() - start < 1.0 and torch.get_num_threads() == before and torch.is_grad_enabled()


def test_the_first_choice_stored_holds(tmp_path):
    first = kept(tmp_path, lambda: Choice("mkl", 1.0, 2.0))
    assert first == Choice("mkl", 1.0, 2.0)
    assert kept(tmp_path, lambda: pytest.fail("measured again")) == first
    (path,) = (tmp_path / "fp32_product").iterdir()
    assert json.loads(path.read_text())["for"] == identity()


def test_a_process_that_comes_second_takes_what_is_there(tmp_path):
    def slow() -> Choice:
        kept(tmp_path, lambda: Choice("mkl", 1.0, 2.0))  # another process, while this one measures
        return Choice("onednn", 2.0, 1.0)

    assert kept(tmp_path, slow).product == "mkl"


@pytest.mark.parametrize("text", ["", "{}", '{"product": "blas", "mkl_ms": 1, "onednn_ms": 1}', "[]", "\x00"])
def test_a_damaged_choice_is_made_again(tmp_path, text):
    kept(tmp_path, lambda: Choice("mkl", 1.0, 2.0))
    (path,) = (tmp_path / "fp32_product").iterdir()
    path.write_text(text)
    assert kept(tmp_path, lambda: Choice("onednn", 2.0, 1.0)).product == "onednn"
    assert kept(tmp_path, lambda: Choice("mkl", 1.0, 2.0)).product == "onednn"
    assert [each.suffix for each in path.parent.iterdir()] == [".json"]


@pytest.mark.parametrize("fact", ["processor", "capability", "torch"])
def test_another_machine_measures_for_itself(tmp_path, monkeypatch, fact):
    kept(tmp_path, lambda: Choice("mkl", 1.0, 2.0))
    other = {**identity(), fact: "another"}
    monkeypatch.setattr(module, "identity", lambda: other)
    assert kept(tmp_path, lambda: Choice("onednn", 2.0, 1.0)).product == "onednn"


def test_a_folder_that_cannot_be_written_costs_the_memory_only(tmp_path):
    (tmp_path / "file").write_text("")
    assert kept(tmp_path / "file", lambda: Choice("mkl", 1.0, 2.0)).product == "mkl"


@pytest.fixture
def undecided():
    linear.fast_choice.cache_clear()
    yield
    linear.fast_choice.cache_clear()


@pytest.mark.parametrize("asked", ["mkl", "oneDNN "])
def test_the_variable_decides_without_a_measurement(undecided, monkeypatch, asked):
    monkeypatch.setenv(module.VARIABLE, asked)
    monkeypatch.setattr(linear, "has_onednn", lambda: True)
    monkeypatch.setattr(linear, "kept", lambda *_: pytest.fail("measured"))
    assert linear.fp32_choice() == Choice(asked.strip().lower())  # pyright: ignore[reportArgumentType]


def test_a_variable_of_something_else_is_refused(undecided, monkeypatch):
    monkeypatch.setenv(module.VARIABLE, "blas")
    with pytest.raises(ConfigError, match="MEDGRAFT_FP32_PRODUCT is 'blas'; set it to mkl or onednn"):
        linear.fp32_choice()


def test_the_choice_is_what_multiplies(undecided, monkeypatch):
    asked: list[int] = []
    real = linear.onednn_linear
    monkeypatch.setattr(linear, "SMALLEST", 0)
    monkeypatch.setattr(linear, "has_onednn", lambda: True)
    monkeypatch.setattr(linear, "onednn_linear", lambda *a: asked.append(1) or F.linear(*a[:2]))
    for product, count in (("mkl", 0), ("onednn", 1)):
        monkeypatch.setenv(module.VARIABLE, product)
        linear.fast_choice.cache_clear()
        linear.linear(torch.ones(2, 3), torch.ones(4, 3))
        assert len(asked) == count
    assert real is not linear.onednn_linear


def test_processes_that_start_together_agree(tmp_path: Path):
    code = (
        f"import os; os.environ['MEDGRAFT_CACHE'] = {str(tmp_path)!r}\n"
        "from medgraft.fast.linear import fp32_choice\nprint(fp32_choice())"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate(timeout=120)[0] for process in both}
    assert len(said) == 1 and "product=" in said.pop()
