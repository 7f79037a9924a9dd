"""Measures the harness on sweeps of made-up cells: ``python -m benchmarks.simulate --real RESULTS``.

Cells take the numbers of the real results in ``RESULTS`` (a few seeds of one row are enough) and no time; two of a
hundred fail in one of four ways. For each size: milliseconds per cell of sending them out and storing what comes back,
seconds until a second start has found what is done, the time that ``--dry-run`` would give for another sweep of these
rows over what it is made to take, seconds of the board, and the peak memory of each. Of more than a thousand cells the
last thousand are sent out; the results of those before them are written as a sweep leaves them. Rows are not computed
one by one, which takes a second each: what a sweep keeps of them is computed once for each set of real results.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from medgraft.benchmarks.simulate.figure import plot
from medgraft.benchmarks.simulate.phases import PHASES, Cost, cells_before, cost, write_before
from medgraft.errors import ConfigError

HEAD = "| cells | per cell | resumed in | board in | time left, said / true | memory: run, resume, board |"
NOTE = """
Per cell: of the last 1,000 where there are more, sent out beside the results of the others, which were written as a
sweep leaves them. Rows on the board: computed from real predictions, once for each set of them, and kept as a sweep
keeps them. Memory: the peak of the process, libraries among it; boards of 5,000 results and more are read by others
beside it, each of which holds the libraries once more.
"""

Found = Mapping[int, Mapping[str, Cost]]


def line(cells: int, costs: Mapping[str, Cost]) -> str:
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


def table(found: Found) -> str:
    """The table in Markdown."""
    lines = [HEAD, f"|{'---|' * HEAD.count(' |')}", *(line(cells, costs) for cells, costs in found.items())]
    return "\n".join(lines) + "\n"


def measured(real: Path, cells: int) -> dict[str, Cost]:
    """What each phase costs at one size; how far it is goes to the error output."""
    start = time.perf_counter()

    def tell(text: str) -> None:
        sys.stderr.write(f"{time.perf_counter() - start:6.1f} s  {cells:,} cells: {text}\n")
        sys.stderr.flush()

    with tempfile.TemporaryDirectory(prefix="medgraft-simulate-") as folder:
        out, told, costs = Path(folder) / "results", 0, dict[str, Cost]()
        for written in write_before(real, out, cells):
            if written - told >= 10_000 or written == cells_before(cells):
                told = written
                tell(f"{written:,} results are written")
        for phase in PHASES:
            costs[phase] = cost(phase, real, out, cells)
            tell(f"{phase} took {costs[phase].seconds:.1f} s, {costs[phase].peak / 1e6:.0f} MB, {costs[phase].said}")
    tell("their folder is removed")
    return costs


def known(path: Path) -> dict[int, dict[str, Cost]]:
    """The numbers of an earlier run; none where there is no such file.

    Raises:
        ConfigError: It holds something else.
    """
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text("utf-8"))
        return {int(n): {phase: Cost(**costs[phase]) for phase in PHASES} for n, costs in document.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} holds no numbers of this program ({error}); name another file") from error


def main(arguments: list[str] | None = None) -> int:
    """Measures each size and writes the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    parser.add_argument("--real", type=Path, required=True, help="folder of real results, whose numbers are taken")
    parser.add_argument("--cells", default="100,1000,10000,100000", help="sizes, comma-separated")
    parser.add_argument("--figure", type=Path, help="SVG file to write")
    parser.add_argument("--json", type=Path, help="file for the numbers; sizes that it has already are kept")
    options = parser.parse_args(arguments)
    found = known(options.json) if options.json else {}
    for cells in map(int, options.cells.split(",")):
        found[cells] = measured(options.real, cells)
        found = dict(sorted(found.items()))
        if options.json:
            numbers = {n: {phase: vars(each) for phase, each in costs.items()} for n, costs in found.items()}
            options.json.write_text(json.dumps(numbers, indent=1) + "\n")
    sys.stdout.write(f"{table(found)}{NOTE}")
    if options.figure:
        plot(found, options.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
