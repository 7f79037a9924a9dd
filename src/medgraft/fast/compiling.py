"""``torch.compile`` of a graft, whose hooks are part of what it computes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function, **options: Any) -> Function:
    """Compiles a function that runs modules with hooks.

    By default the compiler does not check a module's hooks when it chooses the code for it. Blocks of one class share
    code wherever the graph breaks, so a block with hooks (an adapter, the attention across slices of an inflated
    encoder) would silently run that of one without. Here hooks are checked.

    Args:
        function: For example ``grafted.encode``.
        **options: Of ``torch.compile``.

    Returns:
        The same function, compiled when it is first called.
    """
    compiled_function = torch.compile(function, **options)

    @functools.wraps(function)
    def run(*arguments: Any, **keywords: Any) -> Any:
        from torch._dynamo import config  # heavy, and of no use before something is compiled

        with config.patch(skip_nnmodule_hook_guards=False):  # pyright: ignore[reportUnknownMemberType]
            return compiled_function(*arguments, **keywords)

    return run  # pyright: ignore[reportReturnType]
