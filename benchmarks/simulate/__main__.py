"""Measures the harness on sweeps of made-up cells: ``python -m benchmarks.simulate --real RESULTS``.

Cells take the numbers of the real results in ``RESULTS`` (a few seeds of one row are enough) and no time; two of a
hundred fail in one of four ways. For each size: milliseconds per cell of sending them out and storing what comes back,
seconds until a second start has found what is done, the time that ``--dry-run`` would give for another sweep of these
rows over what it is made to take, seconds of the board, and the peak memory of each. Of more than a thousand cells the
last thousand are sent out; the results of those before them are written as a sweep leaves them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from medgraft.benchmarks.simulate.figure import plot
from medgraft.benchmarks.simulate.phases import PHASES, Cost, cost

HEAD = "| cells | per cell | resumed in | board in | time left, said / true | memory: run, resume, board |"


def line(cells: int, costs: dict[str, Cost]) -> str:
    """One row of the table."""
    run, resume, estimate, board = (costs[phase] for phase in PHASES)
    memory = ", ".join(f"{phase.peak / 1e6:.0f}" for phase in (run, resume, board))
    each = run.seconds / (cells - run.said["done before"])
    ratio = estimate.said["said"] / max(estimate.said["true"], 1)
    parts = (
        f"{cells:,}", f"{1e3 * each:.1f} ms", f"{resume.seconds:.1f} s", f"{board.seconds:.1f} s",
        f"{ratio:.2f}", f"{memory} MB",
    )  # fmt: skip
    return f"| {' | '.join(parts)} |"


def main(arguments: list[str] | None = None) -> int:
    """Measures each size and writes a line of a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    parser.add_argument("--real", type=Path, required=True, help="folder of real results, whose numbers are taken")
    parser.add_argument("--cells", default="1000,10000,100000", help="sizes, comma-separated")
    parser.add_argument("--figure", type=Path, help="SVG file to write")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args(arguments)
    found: dict[int, dict[str, Cost]] = {}
    sys.stdout.write(f"{HEAD}\n|{'---|' * HEAD.count(' |')}\n")
    for cells in map(int, options.cells.split(",")):
        with tempfile.TemporaryDirectory(prefix="medgraft-simulate-") as folder:
            found[cells] = {phase: cost(phase, options.real, Path(folder) / "results", cells) for phase in PHASES}
        sys.stdout.write(f"{line(cells, found[cells])}\n")
        sys.stdout.flush()
    if options.figure:
        plot(found, options.figure)
    if options.json:
        numbers = {cells: {phase: vars(each) for phase, each in costs.items()} for cells, costs in found.items()}
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
