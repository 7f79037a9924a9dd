"""Checkpoints of training frameworks: their tensors are read, and nothing else in them is ever run."""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from medgraft.checkpoints.unpickling import Blank, load_tensors
from medgraft.checkpoints.weights import read_weights
from medgraft.errors import CheckpointError

STATE = {"backbone.a": torch.arange(6.0).view(2, 3), "backbone.b": torch.ones(2, dtype=torch.bfloat16)}


class Stage(Enum):
    FIT = "fit"


class AttributeDict(dict):
    """As Lightning's own: a dictionary with a state beside its items."""


@dataclass
class Node:
    """As a configuration library's: nested, with types as values and defaults in a ``defaultdict``."""

    content: dict[str, Any] = field(default_factory=lambda: {"kind": Any, "stage": Stage.FIT})
    flags: Any = field(default_factory=lambda: defaultdict(list, {"a": [1]}))


class Slotted:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = Path("/data")


class Loud:
    """Its state must not be set by its own code."""

    def __setstate__(self, state):
        raise AssertionError("code of a class in the file ran")


def attributes() -> AttributeDict:
    found = AttributeDict(lr=1e-3)
    found.owner = "x"
    return found


EXTRAS = {
    "namespace": argparse.Namespace(lr=1e-3, root=Path("/data")),
    "configuration": Node(),
    "attribute dictionary": attributes(),
    "slots": Slotted(),
    "numbers of numpy": [np.float64(0.5), np.arange(3), np.random.default_rng(0)],
    "containers": (defaultdict(dict, {"x": {}}), Counter("aab"), OrderedDict(a=1), {1, 2}, bytearray(b"x"), 3j),
    "classes and functions": (torch.nn.Linear, torch.optim.AdamW, np.mean, Stage.FIT, torch.float16, torch.Size((2,))),
    "module": torch.nn.Linear(2, 2),
    "object": Loud(),
}


def lightning(state: dict[str, torch.Tensor], extra: Any) -> dict[str, Any]:
    """The table that ``ModelCheckpoint`` writes."""
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    return {
        "epoch": 99, "global_step": 8100, "pytorch-lightning_version": "2.3.3", "state_dict": OrderedDict(state),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 99}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"dirpath": Path("/runs"), "best_model_score": extra}},
        "optimizer_states": [optimizer.state_dict()], "lr_schedulers": [{"base_lrs": [1e-3]}],
        "hparams_name": "config", "hyper_parameters": {"config": extra},
    }  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", EXTRAS)
def test_the_weights_of_a_lightning_checkpoint_are_read(tmp_path, name, zipped):
    path = tmp_path / "BrainIAC.ckpt"
    torch.save(lightning(STATE, EXTRAS[name]), path, _use_new_zipfile_serialization=zipped)
    found = read_weights(path)
    assert found.keys() == STATE.keys() and all(torch.equal(found[key], STATE[key]) for key in STATE)
    assert all(found[key].dtype == STATE[key].dtype for key in STATE)


def test_what_is_no_tensor_is_blank_and_keeps_nothing(tmp_path):
    torch.save({"a": Node(), "b": attributes(), "t": torch.ones(2)}, tmp_path / "w.pt")
    found = load_tensors(tmp_path / "w.pt")
    assert isinstance(found["a"], Blank) and isinstance(found["b"], Blank) and torch.equal(found["t"], torch.ones(2))
    assert not vars(found["a"]) and not vars(found["b"])


def test_classes_that_are_not_installed_are_not_needed(tmp_path, monkeypatch):
    module = ModuleType("brainiac_train")
    module.Settings = type("Settings", (), {"__module__": "brainiac_train"})
    monkeypatch.setitem(sys.modules, "brainiac_train", module)
    torch.save({"state_dict": {"a": torch.ones(2)}, "hyper_parameters": module.Settings()}, tmp_path / "w.ckpt")
    monkeypatch.delitem(sys.modules, "brainiac_train")
    assert torch.equal(read_weights(tmp_path / "w.ckpt")["a"], torch.ones(2))
    assert "brainiac_train" not in sys.modules


def shared(state):
    """Two names of one storage, as tied weights are saved."""
    whole = torch.arange(4.0)
    return {"whole": whole, "part": whole[1:3], "turned": whole.view(2, 2).t()} | state


def test_views_of_one_storage_are_read_as_they_were(tmp_path):
    state = shared({"p": torch.nn.Parameter(torch.ones(2))})
    torch.save({"state_dict": state, "hyper_parameters": argparse.Namespace()}, tmp_path / "w.pt")
    found = read_weights(tmp_path / "w.pt")
    assert all(torch.equal(found[key], state[key]) for key in state) and isinstance(found["p"], torch.nn.Parameter)


# --- attacks ----------------------------------------------------------------------------------------------------------


class Attack:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def evil(path: Path) -> dict[str, Attack]:
    made = str(path)
    return {
        "os": Attack(os.mkdir, made),
        "eval": Attack(eval, f"__import__('os').mkdir({made!r})"),
        "exec": Attack(exec, f"import os; os.mkdir({made!r})"),
        "subprocess": Attack(subprocess.check_call, ["mkdir", made]),
        "pathlib": Attack(Path.mkdir, Path(made)),
        "torch": Attack(torch.save, 1, made),
        "numpy": Attack(np.save, made, np.ones(1)),
        "open": Attack(open, made, "w"),
        "nested": Attack(getattr, Attack(__import__, "os"), "mkdir"),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", evil(Path()))
def test_nothing_that_a_file_names_is_run(tmp_path, name, zipped):
    attack = evil(tmp_path / "ran")[name]
    content = {"state_dict": STATE, "hyper_parameters": argparse.Namespace(a=attack), "callbacks": attack}
    torch.save(content, tmp_path / "w.ckpt", _use_new_zipfile_serialization=zipped)
    before = sorted(each.name for each in tmp_path.iterdir())
    try:
        found = read_weights(tmp_path / "w.ckpt")
    except CheckpointError as error:
        assert "is refused: it holds more than tensors" in str(error) and "safetensors" in str(error)
    else:
        assert found.keys() == STATE.keys(), "an inert function may be passed over"
    assert sorted(each.name for each in tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["os", "eval", "exec", "subprocess", "open", "nested"])
def test_a_file_that_asks_to_run_something_is_refused_by_its_name(tmp_path, name):
    torch.save({"a": STATE["backbone.a"], "b": evil(tmp_path / "ran")[name]}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="it asks to run "):
        read_weights(tmp_path / "w.pt")


def test_torch_itself_cannot_be_altered(tmp_path):
    """A pickle may set attributes on whatever it names, so it is given copies."""
    import torch._utils

    before = dict(vars(torch._utils._rebuild_tensor_v2)), torch._utils._rebuild_tensor_v2.__defaults__
    slots = (None, {"__defaults__": (1,), "mark": 1})
    content = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + pickle.dumps(slots, 2)[2:-1] + b"b."
    (tmp_path / "w.pkl").write_bytes(content)
    with pytest.raises(CheckpointError):
        read_weights(tmp_path / "w.pkl")
    torch.save({"a": torch.ones(2), "b": argparse.Namespace()}, tmp_path / "w.pt")
    load_tensors(tmp_path / "w.pt")
    after = dict(vars(torch._utils._rebuild_tensor_v2)), torch._utils._rebuild_tensor_v2.__defaults__
    assert after == before


def test_a_whole_model_is_no_table(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"not a table of tensors; save the model's state_dict"):
        read_weights(tmp_path / "w.pt")
