"""How a frozen language model's weights are stored: in bfloat16, 8 or 4 bits, or over several memories.

Eight bits are one scale per row and whole numbers (torchao), or LLM.int8 (bitsandbytes; Dettmers et al., NeurIPS 2022).
Four bits are NF4 in blocks of 64 whose scales are quantised once more, as in Dettmers et al., "QLoRA", NeurIPS 2023
(arXiv 2305.14314), section 3. What lies in the blocks is quantised; embeddings, norms and the last linear map are not.
"""

from __future__ import annotations

import importlib.util
import math
import tempfile
from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from medgraft.errors import ConfigError
from medgraft.options import Options
from medgraft.world import World

BLOCK = 64
"""Numbers that share a scale in four bits."""
SCALES = 256
"""Scales that share one of their own, at most."""
REMEDY = "pip install medgraft[quantised]"
Library = Literal["torchao", "bitsandbytes"]


class Storage(Options):
    """How the weights are kept.

    Attributes:
        bits: 16 for bfloat16, 8 or 4 for quantised linear maps in the blocks; ``None`` as the files have them.
        library: Who quantises; ``None`` for torchao where it is installed, else bitsandbytes.
        device_map: ``auto`` spreads the model over accelerators, the CPU's memory and the disk, in that order.
        gpu: Memory of each accelerator that ``auto`` may use, such as ``20GB``; ``None`` for all that is free.
        cpu: The same of the CPU.
        offload: Folder in which a folder for what goes to the disk is made, and removed in the end; ``None`` for the
            system's own.
    """

    bits: Literal[4, 8, 16] | None = None
    library: Library | None = None
    device_map: Literal["auto"] | None = None
    gpu: str | None = Field(None, pattern=r"^\d+(\.\d+)?[KMG]i?B$")
    cpu: str | None = Field(None, pattern=r"^\d+(\.\d+)?[KMG]i?B$")
    offload: str | None = None

    @model_validator(mode="after")
    def _fit(self) -> Storage:
        if self.library is not None and self.bits not in (4, 8):
            raise ValueError(f"library={self.library} quantises; name bits=4 or bits=8 beside it")
        if self.device_map is None and (given := [n for n in ("gpu", "cpu", "offload") if getattr(self, n)]):
            raise ValueError(f"{given[0]} is for a model that is spread; name device_map=auto beside it")
        if self.device_map is not None and self.bits in (4, 8):
            raise ValueError(f"a base of bits={self.bits} lies on one device; leave device_map out, or name bits=16")
        return self


def library_for(name: str, bits: int, wanted: Library | None) -> Library:
    """Who quantises.

    Args:
        name: Of the encoder, for errors.
        bits: 4 or 8.
        wanted: The one that was asked for; ``None`` for the first that is installed.

    Raises:
        ConfigError: It is not installed.
    """
    libraries: tuple[Library, ...] = ("torchao", "bitsandbytes") if wanted is None else (wanted,)
    for each in libraries:
        if importlib.util.find_spec(each) is not None:
            return each
    missing = wanted or "torchao or bitsandbytes"
    remedy = f"pip install {wanted}" if wanted == "bitsandbytes" else REMEDY
    raise ConfigError(
        f"encoder {name}: {bits} bits need {missing}, which is not installed: {remedy}, or leave bits out"
    )


def quantise(name: str, root: nn.Module, blocks: list[str], bits: int, library: Library) -> None:
    """Replaces the weights of all linear maps in the blocks by quantised ones, one after another.

    Args:
        name: Of the encoder, for errors.
        root: What the paths of blocks are relative to.
        blocks: Module path of each block.
        bits: 4 or 8.
        library: Who does it; see :func:`library_for`.

    Raises:
        ConfigError: There are no blocks, a map's size is none that can be packed, or the library is too old.
    """
    if not blocks:
        raise ConfigError(
            f"encoder {name}: its blocks cannot be found, so there is nothing to quantise; leave bits out"
        )
    pack = _packer(name, bits, library)
    maps = [
        (parent, key, child, ".".join(part for part in (block, path, key) if part))
        for block in blocks
        for path, parent in root.get_submodule(block).named_modules()
        for key, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    for _, _, child, where in maps if bits == 4 else ():
        numbers, what = (child.in_features, "rows") if library == "bitsandbytes" else (child.weight.numel(), "weights")
        if numbers % BLOCK:
            raise ConfigError(
                f"encoder {name}: 4 bits of {library} come in {what} of blocks of {BLOCK} numbers, and {where} has "
                f"{numbers}; name bits=8"
            )
    for parent, key, child, _ in maps:
        setattr(parent, key, pack(child))


def _packer(name: str, bits: int, library: Library) -> Callable[[nn.Linear], nn.Module]:
    try:
        if library == "bitsandbytes":
            import bitsandbytes as bnb  # pyright: ignore[reportMissingImports]

            return _bitsandbytes_4(bnb) if bits == 4 else _bitsandbytes_8(bnb)
        return _torchao_4() if bits == 4 else _torchao_8()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"encoder {name}: the installed {library} cannot pack {bits} bits ({error}); {REMEDY} -U, or leave bits out"
        ) from error


def _torchao_4() -> Callable[[nn.Linear], nn.Module]:
    from torchao.quantization import to_nf4

    def pack(linear: nn.Linear) -> nn.Module:
        blocks = linear.weight.numel() // BLOCK
        scales = math.gcd(blocks, SCALES)
        linear.weight = nn.Parameter(to_nf4(linear.weight.detach(), BLOCK, scales), requires_grad=False)
        return linear

    return pack


def _torchao_8() -> Callable[[nn.Linear], nn.Module]:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    def pack(linear: nn.Linear) -> nn.Module:
        linear.weight.requires_grad_(False)
        quantize_(linear, Int8WeightOnlyConfig())
        return linear

    return pack


def _bitsandbytes_4(bnb: Any) -> Callable[[nn.Linear], nn.Module]:
    def pack(linear: nn.Linear) -> nn.Module:
        weight = linear.weight.detach()
        made = _like(bnb.nn.Linear4bit, linear, compute_dtype=weight.dtype, quant_type="nf4", compress_statistics=True)
        made.support_avx512bf16_for_cpu = False  # it would write its weights in another order in every other call
        made.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
        return made.to(weight.device)

    return pack


def _bitsandbytes_8(bnb: Any) -> Callable[[nn.Linear], nn.Module]:
    def pack(linear: nn.Linear) -> nn.Module:
        weight = linear.weight.detach()
        made = _like(bnb.nn.Linear8bitLt, linear, has_fp16_weights=False)
        made.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        return made.to(weight.device)

    return pack


def _like(kind: type, linear: nn.Linear, **options: Any) -> Any:
    """A layer of another kind with the bias of a linear map, its weight to be set."""
    made = kind(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta", **options)
    if linear.bias is not None:
        made.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
    return made


class Spread:
    """A model over several memories; what lies away from its device is brought for each call, and never written back.

    Args:
        name: Of the encoder, for errors.
        network: The library's model, whole and on the CPU.
        storage: With ``device_map``.

    Attributes:
        device: Where the model begins to compute.
        places: Module path -> device, ``cpu`` or ``disk``.

    Raises:
        ConfigError: It does not fit into what may be used.
    """

    def __init__(self, name: str, network: Any, storage: Storage) -> None:
        from accelerate import dispatch_model, infer_auto_device_map
        from accelerate.utils import get_max_memory

        limits: dict[Any, Any] = dict(get_max_memory())
        if World().size > 1:  # each rank of a cell on several devices has one of its own
            mine = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
            limits = {place: size for place, size in limits.items() if place in (mine, "cpu")}
        for place in limits:
            given = storage.cpu if place == "cpu" else storage.gpu
            if given is not None:
                limits[place] = given
        kept_whole: list[str] = sorted(getattr(network, "_no_split_modules", None) or ())
        self.places: dict[str, Any] = dict(
            infer_auto_device_map(network, max_memory=get_max_memory(limits), no_split_module_classes=kept_whole)
        )
        if set(self.places.values()) == {"disk"}:
            raise ConfigError(f"encoder {name} cannot be spread: no memory has room for its largest layer; raise cpu=")
        state = network.state_dict()
        for path, place in self.places.items():  # what has no tensor leaves no file on the disk, where one is expected
            if place == "disk" and not any(f"{key}.".startswith(f"{path}.") for key in state):
                self.places[path] = "cpu"
        accelerators = [place for place in self.places.values() if place not in ("cpu", "disk")]
        main: Any = accelerators[0] if accelerators else "cpu"
        self.device = torch.device(main)
        # A folder of its own: the library would take what another model left there for this one's weights.
        self._folder = tempfile.TemporaryDirectory(prefix="medgraft-offload-", dir=storage.offload)
        try:
            dispatch_model(network, self.places, main_device=main, offload_dir=self._folder.name, force_hooks=True)
        except (ValueError, OSError) as error:
            raise ConfigError(f"encoder {name} cannot be spread ({error}); raise cpu= or gpu=") from error
