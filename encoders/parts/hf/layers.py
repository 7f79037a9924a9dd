"""How a transformers model is built, found out by running it once: its blocks, and where their attention lies.

The library has some five hundred architectures that differ in names more than in what they compute. Nothing here knows
an architecture: blocks are the list of modules that hand one hidden state to the next, and a projection is believed
only after its values, set to zero, left nothing for the output projection to read.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.encoder.attention import AttentionLayout, capture_cls_rows
from medgraft.errors import IncompatibleError

SPLIT = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"),
    ("q", "k", "v"),
)
PACKED = ("qkv", "Wqkv", "qkv_proj", "query_key_value", "c_attn", "in_proj")
OUTPUT = ("o_proj", "out_proj", "out_lin", "Wo", "wo", "o", "dense", "c_proj", "proj", "projection", "output.dense")
BIASES = ("relative_position", "relative_attention", "rel_pos", "attention_biases", "rel_embeddings")
Run = Callable[[], Any]


class _Reached(Exception):
    """Ends a run where a hidden state was wanted."""


def hidden_of(value: Any) -> Tensor:
    """The hidden state, of any shape, among what a block takes or returns."""
    while not isinstance(value, Tensor):
        value = value[0]
    return value


def hidden_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden state, of any shape, that a block is called with: its first argument, by place or by name."""
    return hidden_of(args[0] if args else next(iter(kwargs.values())))


@dataclasses.dataclass(frozen=True)
class Stack:
    """The blocks of a model.

    Attributes:
        path: Of the list of modules.
        names: Of its children that run, in the order in which they do.
        extra: What each returns beside the hidden state, tensors left out; ``None`` where it returns a tensor alone.
        repeated: Some block runs more than once in a run, as ALBERT's does.
    """

    path: str
    names: tuple[str, ...]
    extra: tuple[tuple[Any, ...] | None, ...]
    repeated: bool = False

    @property
    def paths(self) -> list[str]:
        """Module path of each block."""
        return [f"{self.path}.{name}" if self.path else name for name in self.names]


def find_stack(model: nn.Module, run: Run) -> Stack:
    """Runs a model once and finds its blocks: of the lists that hand a hidden state on, the one with most weights.

    Args:
        model: The library's model.
        run: Runs it on a sample.

    Raises:
        IncompatibleError: No list of modules hands a hidden state on.
    """
    lists = {p: m for p, m in model.named_modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m)}
    calls: dict[str, list[tuple[str, int, int, Any]]] = {path: [] for path in lists}
    kept: list[Tensor] = []  # a tensor that is gone may give its address to another
    handles = []

    def watch(path: str, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            try:
                before, after = hidden_argument(args, kwargs), hidden_of(output)
            except (TypeError, IndexError, KeyError, StopIteration):
                return
            kept.extend((before, after))
            calls[path].append((name, id(before), id(after), output))

        return hook

    for path, each in lists.items():
        for name, child in each.named_children():
            handles.append(child.register_forward_hook(watch(path, name), with_kwargs=True))
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    chains = [path for path, seen in calls.items() if seen and _is_chain(seen)]
    if not chains:
        raise IncompatibleError("no list of modules in it hands one hidden state to the next")
    best = max(chains, key=lambda path: (sum(p.numel() for p in lists[path].parameters()), -path.count(".")))
    return _stack(best, calls[best])


def _is_chain(seen: list[tuple[str, int, int, Any]]) -> bool:
    return all(after == before for (_, _, after, _), (_, before, _, _) in itertools.pairwise(seen))


def _stack(path: str, seen: list[tuple[str, int, int, Any]]) -> Stack:
    names = tuple(dict.fromkeys(name for name, *_ in seen))
    extra = []
    for _, _, _, output in seen[: len(names)]:
        if isinstance(output, tuple | list):
            extra.append(tuple(None if isinstance(each, Tensor) else each for each in output[1:]))
        else:
            extra.append(None)
    return Stack(path, names, tuple(extra), repeated=len(seen) > len(names))


def run_to(module: nn.Module, run: Run) -> Tensor:
    """Runs until ``module`` is called, and returns the hidden state, of any shape, that it is given."""
    hidden_states: list[Tensor] = []

    def stop(_: nn.Module, args: Any, kwargs: Any) -> None:
        hidden_states.append(hidden_argument(args, kwargs))
        raise _Reached

    handle = module.register_forward_pre_hook(stop, with_kwargs=True, prepend=True)
    try:
        run()
    except _Reached:
        pass
    finally:
        handle.remove()
    return hidden_states[0]


@contextmanager
def resumed(blocks: list[nn.Module], extra: tuple[Any, ...], hidden: Tensor) -> Iterator[None]:
    """Inside, a run passes over all but the last of ``blocks``, which is given ``hidden`` in place of its input.

    ``hidden`` is what :func:`run_to` returned, ``[B, N, C]`` for tokens. The library still makes masks and rotations
    itself, from an input of the right shape.
    """

    def passing(rest: tuple[Any, ...] | None) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            state = hidden_argument(args, kwargs)
            return state if rest is None else (state, *rest)

        return forward

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (hidden, *args[1:]), kwargs
        first, *_others = kwargs
        return args, {**kwargs, first: hidden}

    *over, first = blocks
    before = [(block, block.__dict__.get("forward")) for block in over]
    handle = first.register_forward_pre_hook(enter, with_kwargs=True, prepend=True)
    try:
        for block, rest in zip(over, extra, strict=False):
            block.__dict__["forward"] = passing(rest)
        yield
    finally:
        handle.remove()
        for block, kept_forward in before:
            block.__dict__.pop("forward", None) if kept_forward is None else block.__dict__.__setitem__(
                "forward", kept_forward
            )


# -- attention --------------------------------------------------------------------------------------------------------


class PerHead(nn.Module):
    """Three linears in place of one whose rows go head by head, ``[heads, (q, k, v), head_dim]`` (BLOOM, GPT-NeoX).

    Args:
        packed: The library's linear.
        heads: Number of heads.
    """

    def __init__(self, packed: nn.Linear, heads: int) -> None:
        super().__init__()
        self.heads = heads
        rows = torch.arange(packed.out_features).view(heads, 3, -1)
        for index, name in enumerate(("q_proj", "k_proj", "v_proj")):
            head_rows = rows[:, index].flatten()
            linear = nn.Linear(packed.in_features, len(head_rows), bias=packed.bias is not None, device="meta")
            linear.weight = nn.Parameter(packed.weight.detach()[head_rows].clone())
            if packed.bias is not None:
                linear.bias = nn.Parameter(packed.bias.detach()[head_rows].clone())
            self.add_module(name, linear)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C] -> [..., 3 C]``, the rows head by head."""
        parts = [getattr(self, name)(x).unflatten(-1, (self.heads, -1)) for name in ("q_proj", "k_proj", "v_proj")]
        return torch.stack(parts, dim=-2).flatten(-3)


def plain_linears(model: nn.Module) -> None:
    """Linears in place of GPT-2's ``Conv1D``, which is one with its weight transposed."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ == "Conv1D" and child.weight.ndim == 2:
                weight: Any = child.weight
                linear = nn.Linear(*weight.shape, bias=True, device="meta")
                linear.weight = nn.Parameter(weight.detach().T.contiguous())
                linear.bias = nn.Parameter(child.bias.detach().clone())  # pyright: ignore
                setattr(parent, name, linear)


def heads_of(config: Any) -> int:
    """Attention heads by a configuration, whatever it calls them; 0 where it has none or their number varies."""
    for name in ("num_attention_heads", "n_head", "n_heads", "num_heads"):
        if isinstance(value := getattr(config, name, None), int):
            return value
    return 0


def find_attention(encoder: nn.Module, blocks: list[str], heads: int, run: Run) -> list[AttentionLayout]:
    """One layout per block, or none at all where one block's attention is of a kind that a layout cannot describe.

    Args:
        encoder: What the paths are relative to.
        blocks: Module path of each block.
        heads: Number of heads.
        run: Runs the model on two samples.
    """
    layouts = []
    kinds: dict[tuple[Any, ...], str] = {}  # one run for each kind of block
    for path in blocks:
        layout = _layout(encoder.get_submodule(path), path, heads) if heads else None
        if layout is None:
            return []
        kind = (
            type(encoder.get_submodule(path)),
            *(part.removeprefix(path) for part in (layout.path, layout.out_path)),
        )
        if kind not in kinds:
            kinds[kind] = "plain" if _is_true(encoder, layout, run) else "per head"
            if kinds[kind] == "per head" and (layout := _per_head(encoder, layout, run)) is None:
                return []
        elif kinds[kind] == "per head" and (layout := _per_head(encoder, layout)) is None:
            return []
        layouts.append(layout)
    return layouts


def _layout(block: nn.Module, path: str, heads: int) -> AttentionLayout | None:
    """The layout that the names of linears suggest; ``None`` unless they suggest one."""
    layouts: list[AttentionLayout] = []
    for name, module in block.named_modules():
        inner_path = f"{path}.{name}" if name else path
        out = _output(block, name)
        for names in SPLIT:
            parts = [getattr(module, each, None) for each in names]
            if all(isinstance(part, nn.Linear) for part in parts) and len({id(p) for p in parts}) == 3:
                q, k, v = (part.out_features for part in parts)  # pyright: ignore[reportOptionalMemberAccess]
                if k == v and q % heads == 0 and q % k == 0 and k % (q // heads) == 0:
                    query, key, value = (f"{inner_path}.{each}" for each in names)
                    ends = f"{path}.{out}"
                    kv = None if k == q else k
                    layouts.append(AttentionLayout("split", query, heads, q, key, value, ends, kv_dim=kv))
        packed = [each for each in PACKED if isinstance(getattr(module, each, None), nn.Linear)]
        if len(packed) == 1 and out:
            reader: Any = block.get_submodule(out)
            rows, into = int(getattr(module, packed[0]).out_features), int(reader.in_features)
            if rows > into and (rows - into) % 2 == 0 and into % heads == 0:
                kv = (rows - into) // 2
                common: dict[str, Any] = {"out_path": f"{path}.{out}", "kv_dim": None if kv == into else kv}
                layouts.append(AttentionLayout("packed", f"{inner_path}.{packed[0]}", heads, into, **common))
    layouts = [each for each in layouts if each.out_path != f"{path}."]
    return layouts[0] if len(layouts) == 1 else None


def _output(block: nn.Module, attention: str) -> Any:
    """Path of the output projection inside or beside an attention, relative to its block; empty without one."""
    modules = dict(block.named_modules())
    above = attention.rpartition(".")[0]
    for root in (attention, above):
        for name in OUTPUT if root == attention else ("output.dense",):
            path = f"{root}.{name}" if root else name
            if isinstance(modules.get(path), nn.Linear):
                return path
    return ""


def _is_true(encoder: nn.Module, layout: AttentionLayout, run: Run) -> bool:
    """Whether the output projection reads the same for every token of every sample where the layout's values are zero.

    A bias may be left. Without queries or keys it would read the mean of each sample's values.
    """
    path, rows = layout.location("v")

    def clear(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[..., slice(None) if rows is None else rows] = 0
        return output

    return _spread(encoder, layout, run) > 1e-5 >= _spread(encoder, layout, run, (path, clear)) >= 0


def _spread(encoder: nn.Module, layout: AttentionLayout, run: Run, change: tuple[str, Any] | None = None) -> float:
    """How far tokens and samples differ in what the output projection reads, of its largest number; -1 if nothing."""
    handles = [encoder.get_submodule(change[0]).register_forward_hook(change[1])] if change else []
    try:
        with torch.no_grad():
            read = run_to(encoder.get_submodule(layout.out_path), run).flatten(0, -2).float()
    except IndexError:
        return -1.0
    finally:
        for handle in handles:
            handle.remove()
    return float((read - read[:1]).abs().max() / read.abs().max().clamp_min(1e-30))


def _per_head(encoder: nn.Module, layout: AttentionLayout, run: Run | None = None) -> AttentionLayout | None:
    """The layout of a packed linear whose rows go head by head, which three linears take the place of."""
    parent, _, name = layout.path.rpartition(".")
    packed = encoder.get_submodule(layout.path)
    if layout.style != "packed" or not isinstance(packed, nn.Linear) or packed.out_features != 3 * layout.dim:
        return None
    holder = encoder.get_submodule(parent)
    setattr(holder, name, PerHead(packed, layout.heads))
    query, key, value = (f"{layout.path}.{each}" for each in ("q_proj", "k_proj", "v_proj"))
    split = AttentionLayout("split", query, layout.heads, layout.dim, key, value, layout.out_path)
    if run is None or _is_true(encoder, split, run):
        return split
    setattr(holder, name, packed)
    return None


class Rotation:
    """What an attention of the library does to ``q`` and ``k``, ``[B, heads, N, head_dim]``: norms and rotation.

    The rotation is the one that the block was given in the run that the scores are of.

    Args:
        encoder: Holds the block, and in ``rotation`` the cosines and sines of the last run.
        attention: Module path of the attention.
    """

    def __init__(self, encoder: Any, attention: str) -> None:
        self.encoder, self.attention = encoder, attention

    def __call__(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Per-head norms, if any, of ``[B, heads, N, head_dim]``, then the library's own function for the rotation."""
        attention: Any = self.encoder.get_submodule(self.attention)
        for norm in ("q_norm", "k_norm"):
            if isinstance(module := getattr(attention, norm, None), nn.Module):
                q, k = (module(q), k) if norm == "q_norm" else (q, module(k))
        if self.encoder.rotation is None:
            return q, k
        rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
        return rotate(q, k, *self.encoder.rotation)


@contextmanager
def rotation_noted(encoder: Any) -> Iterator[None]:
    """Keeps the rotation that the last attention is given in ``encoder.rotation`` while it runs."""
    path = encoder.attention[-1].transform.attention

    def note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        encoder.rotation = kwargs.get("position_embeddings")

    handle = encoder.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def with_scores(encoder: Any, layouts: list[AttentionLayout], x: Tensor) -> list[AttentionLayout]:
    """The layouts, with what they need to give the CLS row of the last attention, or marked as giving none.

    The row is believed where it mixes the values into what the output projection reads.

    Args:
        encoder: An encoder whose ``encode`` runs; its ``attention`` is set meanwhile.
        layouts: One per block.
        x: A prepared batch, ``[B, ...]``.
    """
    biased = any(part in name for name, _ in encoder.named_parameters() for part in BIASES)
    last = layouts[-1]
    attention = last.path.rpartition(".")[0]
    windowed = getattr(encoder.get_submodule(attention), "sliding_window", None) is not None
    for transform in (None, Rotation):
        tried = [
            dataclasses.replace(
                each, transform=transform and transform(encoder, each.path.rpartition(".")[0]), scored=True
            )
            for each in layouts
        ]
        for scale in dict.fromkeys((None, _scale(encoder.get_submodule(attention)))):
            encoder.attention = [dataclasses.replace(each, scale=scale) for each in tried]
            if not (biased or windowed) and _mixes(encoder, x):
                return list(encoder.attention)
    return [dataclasses.replace(each, scored=False) for each in layouts]


def _scale(attention: Any) -> float | None:
    scale = getattr(attention, "scaling", getattr(attention, "scale", None))
    return float(scale) if isinstance(scale, int | float) else None


@torch.no_grad()
def _mixes(encoder: Any, x: Tensor) -> bool:
    layout = encoder.attention[-1]
    seen: dict[str, Tensor] = {}
    path, rows = layout.location("v")
    handles = [
        encoder.get_submodule(path).register_forward_hook(lambda m, a, out: seen.update(v=out)),
        encoder.get_submodule(layout.out_path).register_forward_pre_hook(lambda m, a: seen.update(mixed=a[0])),
    ]
    try:
        with capture_cls_rows(encoder, layout) as capture:
            features = encoder.encode(x)
        probs = capture.rows(0, features.mask)[1]
    except (RuntimeError, AttributeError, TypeError, IndexError):  # a rotation of another signature, say
        return False
    finally:
        for handle in handles:
            handle.remove()
    value = (seen["v"] if rows is None else seen["v"][..., rows]).unflatten(-1, (-1, layout.dim // layout.heads))
    value = value.transpose(1, 2)
    value = value.repeat_interleave(layout.heads // value.shape[1], dim=1)
    heads_output = (probs[:, :, None] @ value).squeeze(2).flatten(1)
    mixed = seen["mixed"].reshape(len(heads_output), -1, heads_output.shape[-1])[:, 0]
    return torch.allclose(heads_output, mixed, rtol=1e-3, atol=1e-4 * float(mixed.abs().max()))
