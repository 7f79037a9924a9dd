"""Runs every method of peft on one encoder of each library and writes which work: ``docs/peft.md``.

``python -m benchmarks.speed.peft_table --out docs/peft.md``. Each cell is a graft that was attached, trained for two
steps and taken off again, on random weights: the method fits if its parameters moved and the encoder is bit-equal after
it.
"""

from __future__ import annotations

import argparse
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from medgraft.checkpoints.weights import state_digest
from medgraft.encoder import Encoder
from medgraft.errors import MedgraftError
from medgraft.grafting import Grafted, graft
from medgraft.registry import build_encoder

logger = logging.getLogger(__name__)

# Attention where peft can take it; open_clip's lies in nn.MultiheadAttention, so its MLP stands in.
COLUMNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "timm": ("timm:vit_tiny_patch16_224@random", ("q", "v")),
    "transformers": ("transformers:dinov2@random", ("q", "v")),
    "open_clip": ("open_clip:ViT-B-32@random", ("c_fc",)),
    "MONAI": ("monai:vit@random", ("q", "v")),
}
# Options without which a method has no meaning; the widths here are multiples of 32.
OPTIONS: dict[str, dict[str, object]] = {
    "c3a": {"block_size": 32},
    "oft": {"oft_block_size": 32},
    "boft": {"boft_block_size": 4},
    "vblora": {"vector_length": 32, "num_vectors": 16},
    "fourierft": {"n_frequency": 64},
    "lokr": {"r": 4},
    "vera": {"r": 16},
}


@contextmanager
def image_tower(name: str) -> Iterator[Encoder]:
    """The image or volume tower of an encoder, built anew."""
    torch.manual_seed(0)
    towers = build_encoder(name).towers()
    yield next(tower for modality, tower in towers.items() if modality != "text")


def batch(encoder: Encoder) -> Tensor:
    """Two random prepared inputs, ``[2, ...]``."""
    shape = (2, encoder.spec.channels, *encoder.spec.input_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def attempt(method: str, encoder: Encoder, targets: tuple[str, ...]) -> str:
    """One cell of the table: the number of trained parameters, or why there is none.

    Args:
        method: peft's name.
        encoder: Left as it was, also on failure.
        targets: Patterns of sites.
    """
    before = state_digest(encoder)
    try:
        grafted = graft(encoder, f"peft:{method}", targets=targets, options=OPTIONS.get(method, {}))
    except MedgraftError as error:
        return f"no: {_short(str(error), method)}"
    try:
        moved = _trains(grafted)
    except Exception as error:  # forty methods fail in forty ways, and each is a row of the table
        return f"no: {_short(f'{type(error).__name__}: {error}', method)}"
    finally:
        count = sum(grafted.trainable_count().values())
        grafted.ungraft()
    if state_digest(encoder) != before:
        return "no: the encoder was changed"
    return f"{count:,}" if moved else "no: nothing of it trains"


def _trains(grafted: Grafted) -> bool:
    parameters = grafted.trainable_parameters()
    start = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    x = batch(grafted.encoder)
    for _ in range(2):
        optimizer.zero_grad()
        grafted.train()(x).pooled.square().mean().backward()
        optimizer.step()
    return any(not torch.equal(parameter, old) for parameter, old in zip(parameters, start, strict=True))


def _short(message: str, method: str) -> str:
    for noise in (f"peft:{method} ", "is not offered: ", "does not fit this encoder: "):
        message = message.replace(noise, "")
    message = re.sub(r".*does not fit encoder '[^']*':", "", message.splitlines()[0]).strip(" :")
    return message if len(message) < 140 else message[:137] + "..."


def methods() -> list[str]:
    """Every method that the installed peft registers."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    return sorted(kind.value.lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING)


def render(rows: dict[str, dict[str, str]], version: str, asked: str = "") -> str:
    """The page: methods that run somewhere with their numbers of parameters, then the others with their reasons."""
    columns = list(COLUMNS)
    works = {m: cells for m, cells in rows.items() if any(not cell.startswith("no") for cell in cells.values())}
    lines = [
        "# peft's methods on each library's encoders",
        "",
        f"Made by `python -m benchmarks.speed.peft_table --out docs/peft.md{asked}` with peft {version}. A number",
        "counts trained parameters of a graft that was attached, trained for two steps and taken off again, the",
        "encoder bit-equal afterwards. Encoders, with random weights: "
        + ", ".join(f"`{name}` ({', '.join(targets)})" for name, targets in COLUMNS.values())
        + ".",
        "",
        f"| method | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    notes: list[str] = []
    for method, cells in works.items():
        shown = []
        for column in columns:
            cell = cells[column]
            if cell.startswith("no"):
                notes.append(f"`peft:{method}` on {column}: {cell[4:]}")
                cell = f"no [{len(notes)}]"
            shown.append(cell)
        options = f" {OPTIONS[method]}" if method in OPTIONS else ""
        lines.append(f"| `peft:{method}`{options} | {' | '.join(shown)} |")
    if notes:
        lines += ["", *(f"{i}. {note}" for i, note in enumerate(notes, 1))]
    lines += ["", "Not offered, and why:", ""]
    for method, cells in rows.items():
        if method not in works:
            lines.append(f"- `peft:{method}`: {next(iter(cells.values()))[4:]}")
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Command line."""
    import peft

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--method", action="append", choices=methods(), help="may be repeated; all by default")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    warnings.simplefilter("ignore")

    rows: dict[str, dict[str, str]] = {method: {} for method in options.method or methods()}
    for column, (name, targets) in COLUMNS.items():
        with image_tower(name) as encoder:
            for method in rows:
                rows[method][column] = attempt(method, encoder, targets)
                logger.info("%s %s: %s", column, method, rows[method][column])
    asked = "".join(f" --method {method}" for method in options.method or ())
    options.out.write_text(render(rows, peft.__version__, asked))


if __name__ == "__main__":
    main()
