"""The forms in which a graft is trained where it runs, put together in the order in which they work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from medgraft.attention import FastAttention
from medgraft.convolution import ExactConv3d
from medgraft.linear import FastLinear
from medgraft.readout import ClsReadOut


@contextmanager
def fast_forms(device_type: str, bf16: bool, read_out: ClsReadOut | None = None) -> Iterator[None]:
    """The context in which an uncompiled graft is fast, and right in bf16 (3D convolutions of shallow inputs).

    The short last block is the innermost: it turns the library's attention into one of a single query, which then
    takes the device's form. The other way round, the whole attention would be on its way before it is asked.

    Args:
        device_type: ``cpu``, ``cuda`` and so on.
        bf16: Whether the graft runs under bf16 autocast.
        read_out: Of the graft, where nothing but CLS is read; ``None`` runs every block whole.

    Example:
        >>> with fast_forms("cpu", bf16=False):
        ...     pass
    """
    with ExitStack() as stack:
        if device_type == "cpu":
            for form in (FastLinear(), FastAttention(), ExactConv3d()) if bf16 else (FastLinear(),):
                stack.enter_context(form)
        if read_out is not None:
            stack.enter_context(read_out.running())
        yield
