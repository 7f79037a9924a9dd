"""Adapters that fit encoders of recordings, runs, maps, rows or graphs: ``python -m benchmarks.audit.modality_table``.

Every built-in adapter meets a small encoder of each kind with random weights. Where it says that it fits, it is
grafted, trained for a step, merged where it can be, and taken off again
(:mod:`medgraft.benchmarks.audit.graft_table`); a cell where one of these goes wrong is an error. The table goes to the
output as Markdown.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from medgraft import plugins
from medgraft.benchmarks.audit.graft_table import attempt, build
from medgraft.encoder import Encoder
from medgraft.errors import ConfigError, IncompatibleError, MedgraftError
from medgraft.registry import build_adapter

SIX = ("Fp1", "Fp2", "C3", "C4", "O1", "O2")
# Column of the table -> encoder, and options that make it small.
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "swift": ("swift:tiny", {"windows": 2}),
    "diver": ("diver:tiny", {"channels": SIX}),
    "labram": ("braindecode:labram", {"num_layers": 2, "seconds": 2, "channels": SIX}),
    "cbramod": ("braindecode:cbramod", {"n_layer": 2, "dim_feedforward": 64, "seconds": 2, "channels": SIX}),
    "eegpt": ("braindecode:eegpt", {"depth": 2, "embed_dim": 32, "num_heads": 2, "seconds": 1, "channels": SIX}),
    "biot": ("braindecode:biot", {"num_layers": 2, "embed_dim": 32, "num_heads": 2, "seconds": 2}),
    "bendr": (
        "braindecode:bendr",
        {"seconds": 3, "encoder_h": 32, "contextualizer_hidden": 64, "transformer_layers": 2, "transformer_heads": 2},
    ),
    "luna": ("braindecode:luna", {"depth": 2, "embed_dim": 16, "seconds": 5, "channels": SIX}),
    "reve": (
        "braindecode:reve",
        {"depth": 2, "embed_dim": 32, "heads": 2, "head_dim": 16, "seconds": 2, "channels": SIX},
    ),
    "gene_tokens": ("omics:gene_tokens", {"genes": 30}),
    "connectome": ("connectome:tiny", {"regions": 12}),
    "pet": ("pet:embedded:brain", {}),
    "dmri": ("dmri:embedded:brain", {}),
    "fmri": ("fmri:embedded:brain", {}),
}
FITS, MERGES, NOT = "yes", "merges", ""


def adapters() -> list[str]:
    """Names of the built-in adapters."""
    return sorted(name for name, plugin in plugins.discover("adapter").items() if plugin.builtin)


def fits(adapter: str, encoder: Encoder) -> bool:
    """Whether an adapter with its defaults says that it fits; one that must be told more fits nothing by itself."""
    try:
        return bool(build_adapter(adapter, {}).supports(encoder))
    except MedgraftError:
        return False


def cell(adapter: str, encoder: Encoder) -> str:
    """What the table says of an adapter on an encoder.

    Raises:
        IncompatibleError: It says that it fits, and what it promises does not hold.
    """
    if not fits(adapter, encoder):
        return NOT
    found = attempt(encoder, adapter, {})
    if found.status == "refused":
        return NOT
    if found.status != "works":
        raise IncompatibleError(f"{adapter} on {encoder.spec.name}: {found.text}")
    return MERGES if found.merge == "equal" else FITS


def rows(columns: Sequence[str]) -> Iterator[list[str]]:
    """Rows of the table, an adapter that fits one of the encoders and its cells.

    Args:
        columns: Keys of :data:`ENCODERS`.

    Raises:
        IncompatibleError: As of :func:`cell`.
    """
    encoders = [build(*ENCODERS[column]) for column in columns]
    for adapter in adapters():
        cells = [cell(adapter, encoder) for encoder in encoders]
        if any(cells):
            yield [f"`{adapter}`", *cells]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit.modality_table", description=__doc__)
    parser.add_argument("--encoders", default="", help=f"columns, commas between them: {', '.join(ENCODERS)}")
    options = parser.parse_args(arguments)
    columns = [name.strip() for name in options.encoders.split(",") if name.strip()] or list(ENCODERS)
    if unknown := [name for name in columns if name not in ENCODERS]:
        raise ConfigError(f"no encoder {unknown[0]!r} in this table; it has {', '.join(ENCODERS)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lines = [["adapter", *columns], ["---"] * (1 + len(columns)), *rows(columns)]
    sys.stdout.write("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")


if __name__ == "__main__":
    main()
