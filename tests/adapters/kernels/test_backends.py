"""The choice of a form, its record, and what old or missing parts say."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from medgraft.errors import ConfigError
from medgraft.ops import backends, triton_runtime


@pytest.mark.parametrize(
    ("asked", "obstacle", "used"),
    [("eager", None, "eager"), ("compile", "why", "compile"), ("fused", None, "fused"), ("auto", None, "fused"),
     ("auto", "why", "eager")],
)  # fmt: skip
def test_choices(asked, obstacle, used):
    with backends.recording() as record:
        assert backends.choose("op", asked, obstacle) == used
    (choice,) = record.choices
    assert choice == ("op", asked, used, "why" if (asked, used) == ("auto", "eager") else "")


def test_a_fused_form_asked_for_by_name_falls_back_aloud():
    expected = pytest.warns(backends.FusedFallbackWarning, match="op: no fused form, eager runs instead: too wide")
    with backends.recording() as outer, backends.recording() as inner, expected:
        assert backends.choose("op", "fused", "too wide") == "eager"
    use = {"form": "eager", "asked": "fused", "calls": 1, "reason": "too wide"}
    assert outer.summary() == inner.summary() == {"op": [use]}


def test_an_unknown_backend_is_named():
    with pytest.raises(ConfigError, match="'quick'; use one of eager, compile, fused, auto"):
        backends.choose("op", "quick", None)  # pyright: ignore[reportArgumentType]


def test_a_choice_inside_a_compiled_region_is_recorded():
    def step(x):
        return x + (1 if backends.choose("op", "auto", None) == "fused" else 2)

    torch._dynamo.reset()
    with backends.recording() as record:
        assert torch.compile(step, fullgraph=True, backend="eager")(torch.zeros(1)) == 1
    assert [use["form"] for use in record.summary()["op"]] == ["fused"]


def test_eager_mode_inside_a_compiled_region_is_recorded_as_compiled():
    def step(x):
        return x + (1 if backends.choose("op", backends.current(), None) == "eager" else 2)

    torch._dynamo.reset()
    with backends.recording() as record:
        assert torch.compile(step, fullgraph=True, backend="eager")(torch.zeros(1)) == 1
    assert [(use["form"], use["asked"]) for use in record.summary()["op"]] == [("compile", "eager")]


def test_calls_are_counted():
    with backends.recording() as record:
        for obstacle in (None, None, "too wide"):
            backends.choose("op", "auto", obstacle)
    assert sorted((use["form"], use["calls"]) for use in record.summary()["op"]) == [("eager", 1), ("fused", 2)]


def test_only_auto_listens_to_what_is_faster():
    with backends.recording() as record:
        assert backends.choose("op", "auto", None, "short rows") == "eager"
        assert backends.choose("op", "fused", None, "short rows") == "fused"
    assert [use["reason"] for use in record.summary()["op"]] == ["short rows", ""]


def test_the_current_backend_is_eager_but_inside_of_using_also_after_an_error():
    assert backends.current() == "eager"
    with backends.using("fused"), backends.using("auto"):
        assert backends.current() == "auto"
    with pytest.raises(RuntimeError), backends.using("fused"):
        raise RuntimeError
    assert backends.current() == "eager"
    with pytest.raises(ConfigError, match="'fast'; use one of"), backends.using("fast"):  # pyright: ignore
        pass


def test_autocast_is_off_inside_and_its_type_holds():
    def told(x, y, n):
        return torch.is_autocast_enabled("cpu"), x.dtype, y.dtype, n

    single, double = torch.ones(1), torch.ones(1, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert backends.outside_autocast(told, single, double, 3) == (False, torch.bfloat16, torch.float64, 3)
    assert backends.outside_autocast(told, single, double, 3) == (False, torch.float32, torch.float64, 3)


@pytest.mark.parametrize(
    ("capability", "told"), [((7, 5), "compute capability 7.5; the kernels need 8.0"), ((8, 0), None), ((9, 0), None)]
)
def test_old_gpus_are_refused(monkeypatch, capability, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(backends, "triton_obstacle", lambda: None)
    found = backends.device_obstacle("cuda", 0, torch.bfloat16)
    assert found is None if told is None else told in found


def test_a_missing_or_old_triton_says_what_to_install(monkeypatch):
    monkeypatch.setattr(triton_runtime, "triton", None)
    assert "not installed; install triton >= 3.4" in triton_runtime.triton_obstacle()

    class Old:
        __version__ = "2.1.0"

    monkeypatch.setattr(triton_runtime, "triton", Old)
    assert triton_runtime.triton_obstacle() == "Triton 2.1.0 is too old; install triton >= 3.4"


def test_types_without_a_kernel_are_named():
    assert backends.device_obstacle("cpu", None, torch.float64) is None
    assert "not float64" in backends.device_obstacle("cuda", 0, torch.float64)
    assert "device mps" in backends.device_obstacle("mps", None, torch.float32)
    assert "int64 on cpu" in backends.obstacle_of(torch.ones(1, dtype=torch.int64))
    assert "float32 on cpu and float16 on cpu" in backends.obstacle_of(torch.ones(1), torch.ones(1).half())


def test_an_empty_input_and_an_odd_width_on_a_gpu_are_named():
    told = backends.obstacle_of(torch.ones(2, 4), torch.ones(0, 4))
    assert told is not None and "an input of shape (0, 4) is empty" in told
    assert backends.width_obstacle(torch.ones(1), 20) is None
    with FakeTensorMode():
        x = torch.empty(1, device="cuda")
        assert backends.width_obstacle(x, 32) is None
        assert "width 20 is not a multiple of 16" in str(told := backends.width_obstacle(x, 20))
    assert "pad it to 32" in str(told)
