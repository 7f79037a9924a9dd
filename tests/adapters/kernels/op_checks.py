"""What every operation's registration is held to, without a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from medgraft.ops import backends


def check_registration(op: Any, *cases: Sequence[Any]) -> None:
    """``torch.library.opcheck`` (schema, fake kernel, autograd, dynamic shapes) on each tuple of arguments."""
    for arguments in cases:
        done = torch.library.opcheck(op, tuple(arguments))
        assert set(done.values()) == {"SUCCESS"}, done


def check_compiles(function: Callable[..., Tensor], *arguments: Tensor) -> None:
    """One graph, forward and backward, with the numbers of eager mode.

    Args:
        function: Returns a scalar.
        arguments: Those that require a gradient are compared by it.
    """
    wanted = [x for x in arguments if x.requires_grad]
    expected = function(*arguments)
    gradients = torch.autograd.grad(expected, wanted)
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    got = compiled(*arguments)
    torch.testing.assert_close(got, expected)
    for mine, exact in zip(torch.autograd.grad(got, wanted), gradients, strict=True):
        torch.testing.assert_close(mine, exact)


def fake_cuda(op: Any, *arguments: Any) -> Any:
    """Runs ``op`` on CUDA tensors that have no memory; tensors among the arguments give shapes and types."""
    with FakeTensorMode():
        fake = [
            torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda") if isinstance(x, Tensor) else x
            for x in arguments
        ]
        return op(*fake)


def relative(got: Tensor, expected: Tensor) -> float:
    """Error relative to the 2-norm of ``expected``."""
    return ((got.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30)).item()


def reason_on_a_gpu(op: str, layer: Callable[..., Any], *arguments: Any) -> str:
    """Why ``layer``, asked for its fused form with :func:`fake_cuda` tensors, took another; empty if it took it."""
    with backends.recording() as record, warnings.catch_warnings():
        warnings.simplefilter("ignore", backends.FusedFallbackWarning)
        fake_cuda(partial(layer, backend="fused"), *arguments)
    ((use,),) = (record.summary()[op],)
    return use["reason"]
