"""Weights in a file brought to a module: what training code wraps around them, and what was taken of it."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from medgraft.checkpoints.weights import Matched, load_strict, read_weights
from medgraft.encoders.parts.hub import reason
from medgraft.errors import CheckpointError

logger = logging.getLogger(__name__)

WRAPPERS = (
    "module.",
    "model.",
    "encoder.",
    "backbone.",
    "trunk.",
    "visual.",
    "vision_encoder.",
    "vision_model.",
    "vision_tower.",
    "swinViT.",
    "teacher.",  # of DINO; it is the mean of its students, and what is evaluated
    "student.",
    "encoder_q.",  # of MoCo
    "base_encoder.",
    "image_encoder.",
)

PRETRAINING = r"^(mask_token$|decoder_)"
"""Parts of a masked autoencoder (MAE) beside its encoder, left out where the encoder has none of the name."""


def unwrap(state: Mapping[str, Tensor], keys: Collection[str]) -> dict[str, Tensor]:
    """Strips the prefixes that training code wraps around a model (``module.``, ``model.``, ``vision_encoder.``).

    A prefix goes where this makes more keys fit. Keys without it are then parts of another module (a projector, a
    decoder) and are dropped.

    Args:
        state: Name -> tensor of any shape, as read.
        keys: Names that the model has.
    """
    return unwrapped(state, keys)[0]


def unwrapped(state: Mapping[str, Tensor], keys: Collection[str], taken: str = "") -> tuple[dict[str, Tensor], str]:
    """The same, and what was taken off: tensors of any shape by name, and the prefix, behind ``taken``."""
    inner = {prefix: _under(state, prefix) for prefix in WRAPPERS}
    found = [(dict(state), ""), *(unwrapped(part, keys, taken + prefix) for prefix, part in inner.items() if part)]
    best = max(found, key=lambda each: sum(key in keys for key in each[0]))  # of equals the first
    if not any(key in keys for key in best[0]):
        whole = [prefix for prefix, part in inner.items() if len(part) == len(state)]
        return unwrapped(inner[whole[0]], keys, taken + whole[0]) if whole and state else (dict(state), taken)
    return best if best[1] else (best[0], taken)


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


_matched: WeakKeyDictionary[nn.Module, Matched] = WeakKeyDictionary()


def note_match(module: nn.Module, matched: Matched) -> None:
    """Writes down what of a file went into a module; :func:`finish` passes it on to the encoder that holds it."""
    _matched[module] = matched
    (logger.warning if matched.missing else logger.info)("%s", matched)


def load_file(
    module: nn.Module,
    path: Path,
    sha256: str | None = None,
    *,
    drop: Sequence[str] = (),
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    refit: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> Matched:
    """Loads a local file into ``module``, strictly.

    Args:
        module: What receives the weights.
        path: Safetensors or PyTorch file.
        sha256: Expected digest of the file.
        drop: Patterns (:func:`re.search`) of keys that are known not to belong to an encoder, such as classifiers.
        convert: Renames keys of an older or foreign layout; runs on unwrapped keys, and only if they do not fit. It
            and ``refit`` get tensors of any shape by name.
        refit: Brings what has its right name to the module's shape; runs first, on unwrapped keys.

    Returns:
        What of the file was taken.

    Raises:
        CheckpointError: The file is unreadable, or keys or shapes differ.
    """
    module_state = module.state_dict()
    read = read_weights(path, sha256)
    state, prefix = unwrapped(read, module_state)
    outside = [key for key in read if not key.startswith(prefix)]
    if refit is not None:
        state = refit(state)

    def fitting(file_state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            k: v for k, v in file_state.items() if k in module_state or not any(re.search(each, k) for each in drop)
        }

    whole, state = state, fitting(state)
    fits = {key for key in state if not re.match(PRETRAINING, key)} == module_state.keys() and all(
        state[key].shape == module_state[key].shape for key in module_state
    )
    renamed = not fits and convert is not None
    if renamed and convert is not None:
        try:
            whole = convert(dict(state))
        except Exception as error:  # a conversion presumes the layout that it converts from
            raise CheckpointError(f"{path} does not fit: its layout is not known ({reason(error)})") from error
        renamed, state = whole.keys() != state.keys(), fitting(whole)
    state = {key: value for key, value in state.items() if key in module_state or not re.match(PRETRAINING, key)}
    try:
        matched = load_strict(module, state, str(path))
    except CheckpointError as error:
        same = sum(key in module_state and module_state[key].shape == state[key].shape for key in state)
        advice = f"; {same} of {len(module_state)} tensors would fit, and {path}?partial takes them" if same else ""
        raise CheckpointError(f"{error}{advice}") from None
    left = sorted({*matched.left_out, *(whole.keys() - state.keys()), *outside})
    matched = dataclasses.replace(matched, left_out=tuple(left), prefix=prefix, renamed=renamed)
    note_match(module, matched)
    return matched


def matches_in(module: nn.Module) -> tuple[Matched, ...]:
    """What was noted of a module and its parts."""
    return tuple(_matched[part] for part in module.modules() if part in _matched)
