"""Replicas of a graft as ``nn.DataParallel`` makes them: hooks that reach the replica's own adapter.

A replica of a module is a shallow copy whose parameters are those of one device; hooks and shadowed attributes are
shared with the original, which lies on another. Before a replica of a graft runs for the first time, they are copied,
with every module and parameter of the original standing for the replica's.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch import nn

from medgraft.adapter import Adapter
from medgraft.attachment.hooks import Hook
from medgraft.attachment.portable import LocalFunction, settle_functions
from medgraft.encoder import Encoder
from medgraft.typed.pytorch import own_buffers, own_modules, own_parameters

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
OWN = {"_parameters", "_buffers", "_modules", "_former_parameters", "_is_replica", "_replica_of", "training"}


def claim_hooks(original: nn.Module, replica: nn.Module) -> None:
    """Gives a replica hooks, shadowed attributes and attachments of its own.

    Args:
        original: The graft.
        replica: What ``torch.nn.parallel.replicate`` made of it.
    """
    settle_functions(original)
    pairs = list(_pairs(original, replica))
    memo: dict[int, Any] = {}
    for module, twin in pairs:
        memo[id(module)] = twin
        memo.update({id(p): getattr(twin, name) for name, p in own_parameters(module).items() if p is not None})
        copies = own_buffers(twin)
        memo.update({id(b): copies[name] for name, b in own_buffers(module).items() if b is not None})
        for name in HOOKS:
            memo[id(module.__dict__[name])] = twin.__dict__[name] = OrderedDict()
    for module, twin in pairs:
        # PyTorch leaves them empty, and the type and device of a module are asked of its parameters.
        twin.__dict__["_parameters"] = {name: memo.get(id(p)) for name, p in own_parameters(module).items()}
        for name in HOOKS:
            for key, hook in module.__dict__[name].items():
                twin.__dict__[name][key] = copy.deepcopy(hook, memo) if isinstance(hook, Hook | LocalFunction) else hook
    replica.__dict__["_attachments"] = copy.deepcopy(original.__dict__["_attachments"], memo)
    mine = {id(part) for holder, _ in pairs if isinstance(holder, Adapter) for part in holder.modules()}
    for module, twin in pairs:
        if isinstance(module, Encoder) or id(module) in mine:
            for name, value in module.__dict__.items():
                if name not in OWN and not name.endswith("_hooks"):
                    twin.__dict__[name] = copy.deepcopy(value, memo)
        else:
            _claim_shadows(module, twin, memo)


def _claim_shadows(module: nn.Module, twin: nn.Module, memo: dict[int, Any]) -> None:
    """Attributes of the module's instance that adapters set in the place of its class's or its parameters."""
    for name, value in module.__dict__.items():
        shadows = name in own_parameters(module) or hasattr(type(module), name) or name == "medgraft_projection"
        if shadows and name not in OWN and not name.endswith("_hooks"):
            twin.__dict__[name] = copy.deepcopy(value, memo)


def _pairs(original: nn.Module, replica: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Each module with its replica, once."""
    seen: set[int] = set()
    waiting = [(original, replica)]
    while waiting:
        module, twin = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield module, twin
        waiting += [(child, getattr(twin, name)) for name, child in own_modules(module).items() if child is not None]
