"""The forms in which library functions run while a graft is trained or read."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medgraft.encoder.attention import fast_attention
from medgraft.fast.cls_block import ClsReadOut
from medgraft.fast.convolution import exact_conv3d
from medgraft.fast.linear import linear
from medgraft.fast.switch import is_plain

Form = Callable[..., Any]


class Forms(TorchFunctionMode):
    """Inside it, each call of some of PyTorch's functions takes a form of ours.

    One mode holds them all, since every call of any function passes through every mode.

    Args:
        forms: Function -> what is called in its place. Calls with subclasses of tensors stay with the library.
    """

    def __init__(self, forms: Mapping[Form, Form]) -> None:
        super().__init__()
        self.forms = forms

    def __torch_function__(
        self, func: Form, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Looks the function up."""
        form = self.forms.get(func)
        if form is None or not all(t in (Tensor, nn.Parameter) for t in types):
            form = func
        return form(*args, **(kwargs or {}))


def backward(loss: Tensor) -> None:
    """``loss.backward()`` with the forms around it at work.

    Gradient checkpointing computes activations again in the backward pass, and they must take the forms that they had.
    PyTorch's own ``backward`` is a function that modes see, so inside of it they are switched off.

    Args:
        loss: A scalar.
    """
    from torch.autograd.graph import _engine_run_backward  # pyright: ignore[reportPrivateUsage]

    run: Any = _engine_run_backward
    run((loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True)


@contextmanager
def fast_forms(device_type: str, bf16: bool, read_out: ClsReadOut | None = None) -> Generator[None]:
    """The context in which an uncompiled graft is fast, and right in bf16 (3D convolutions of shallow inputs).

    Under ``MEDGRAFT_PLAIN=1`` (:mod:`medgraft.fast.switch`) it is right and not fast.

    Args:
        device_type: ``cpu``, ``cuda`` and so on.
        bf16: Whether the graft runs in bf16.
        read_out: Of the graft, where nothing but CLS is read; ``None`` runs every block whole.

    Example:
        >>> with fast_forms("cpu", bf16=True):
        ...     q = torch.ones(1, 1, 2, 4, dtype=torch.bfloat16)
        ...     F.scaled_dot_product_attention(q, q, q).shape
        torch.Size([1, 1, 2, 4])
    """
    attention = F.scaled_dot_product_attention
    forms: dict[Form, Form] = {}
    plain = is_plain()
    if device_type == "cpu" and not plain:
        forms[F.linear] = linear
        if bf16:
            forms[attention] = fast_attention
    if device_type == "cpu" and bf16:
        forms[torch.conv3d] = exact_conv3d
    with ExitStack() as stack:
        if read_out is not None and not plain:
            forms[attention] = stack.enter_context(read_out.running(forms.get(attention, attention)))
        if forms:
            stack.enter_context(Forms(forms))
        yield
