"""Makes the tables of ``docs/brain.md`` anew: ``python -m benchmarks.audit.brain_page``.

For each kind of data a phantom cohort is written, and small sweeps run on it as a user's would, in folders below
``--results``. A run that was ended goes on from them. Caches lie there too and are empty at the start, so that the
first cell of an encoder computes what later ones find. The numbers go to a JSON file beside the page, the tables made
of them between two markers of the page; ``--parts`` makes some parts anew and leaves the others as that file has them.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from medgraft import __version__
from medgraft.benchmarks.audit.brain_rows import Page, markdown, read_table
from medgraft.benchmarks.audit.phantom_board import machine
from medgraft.benchmarks.cohorts.places import PHANTOM_CONTENT
from medgraft.benchmarks.results.spec import NUMBERS_VERSION
from medgraft.errors import ConfigError, MedgraftError

STANDARD_ERROR = 2
"""Number of the stream; what sweeps print is no output of the page's command."""

PAGE = Path("docs/brain.md")
RESULTS = Path("build/brain-page")
START, END = "<!-- tables: python -m benchmarks.audit.brain_page -->", "<!-- end of tables -->"


@dataclass(frozen=True)
class Part:
    """One kind of data.

    Attributes:
        title: Heading of its table.
        cohort: Words behind ``medgraft cohort``, without the folder.
        folder: Of the cohort; parts may share one.
        sweeps: Words behind ``medgraft run``, without data and results; each is a sweep.
        numbers: Metrics to show, the first orders the rows.
        few: Options that make the cohort small, for ``--quick``.
    """

    title: str
    cohort: tuple[str, ...]
    folder: str
    sweeps: tuple[str, ...]
    numbers: tuple[str, ...] = ("auc_macro", "f1_macro")
    few: tuple[str, ...] = ("--subjects", "40")

    def commands(self, name: str, quick: bool = False) -> list[list[str]]:
        """Words behind ``medgraft`` of all that is run, the cohort first.

        Args:
            name: Of the part; its results go to ``results/NAME``.
            quick: The first sweep alone, its probes, on few samples of a small cohort.
        """
        cohort = self.cohort[0]
        first = ["cohort", *self.cohort, "--out", self.folder, *(self.few if quick else ())]
        small = ["--adapters", "linear_probe", "--seeds", "0,1", "--limit", "12"] if quick else []
        common = ["--data", f"{cohort}={self.folder}", "--no-baselines", "--jobs", "1", "--results", f"results/{name}"]
        return [first, *(["run", *shlex.split(each), *small, *common] for each in self.sweeps[: 1 if quick else None])]


RUNS = ("abide", "--subjects", "160", "--volumes", "40")
SCANS = ("brain_scans", "--subjects", "200", "--size", "16")
WINDOWS = "--set dementia.seconds=4,dementia.windows=2"


def on_scans(task: str, prefix: str, adapters: str) -> tuple[str, ...]:
    """Sweeps on one kind of scan of the tree that the space reads.

    Args:
        task: Its task.
        prefix: Of the encoders' names.
        adapters: Commas between them.
    """
    few = "--seeds 0,1 --epochs 6"
    return (
        f"--tasks {task} --adapters {adapters} --encoders {prefix}phantom_brain {few}",
        f"--tasks {task} --adapters linear_probe --encoders {prefix}pixels:3d {few}",
    )


PARTS: dict[str, Part] = {
    "fmri": Part(
        "Functional MRI: autism or control",
        RUNS,
        "rest",
        (
            "--tasks abide --adapters linear_probe,lora,st_adapter,full_finetune --encoders swift:tiny@random"
            " --seeds 0-2 --epochs 40",
        ),
    ),
    "fmri_published": Part(
        "Functional MRI: SwiFT of the published size on few people",
        ("abide", "--subjects", "32", "--volumes", "20"),
        "few",
        (
            "--tasks abide --adapters linear_probe,attentive_probe --encoders swift:hcp,windows=1@random --seeds 0,1"
            " --epochs 10",
        ),
    ),
    "eeg": Part(
        "EEG: Alzheimer's disease, frontotemporal dementia or neither",
        ("bids_eeg", "--subjects", "88", "--seconds", "30", "--rate", "128"),
        "eeg",
        (
            "--tasks dementia --adapters linear_probe,lora,spectral"
            f" --encoders braindecode:cbramod,seconds=4@random {WINDOWS} --seeds 0,1 --epochs 2",
            "--tasks dementia --adapters linear_probe,full_finetune --encoders braindecode:shallow@random"
            f" {WINDOWS} --seeds 0,1",
        ),
        ("subject_f1_macro", "f1_macro", "auc_macro"),
        ("--subjects", "24"),
    ),
    "smri": Part(
        "Structural MRI: Alzheimer's disease or normal",
        SCANS,
        "scans",
        on_scans("brain_scans", "", "linear_probe,lora,brain_adapter,full_finetune"),
    ),
    "pet": Part("PET: the same", SCANS, "scans", on_scans("brain_scans:pet", "pet:", "linear_probe,lora,st_adapter")),
    "dmri": Part(
        "Diffusion MRI: the same", SCANS, "scans", on_scans("brain_scans:dmri", "dmri:", "linear_probe,lora,st_adapter")
    ),
    "connectomes": Part(
        "Connectomes: the classes of a phantom of streamlines and correlations",
        ("connectomes", "--subjects", "400", "--kinds", "both"),
        "graphs",
        (
            '--tasks connectomes --set \'connectomes.kinds=["streamlines", "correlation"]\''
            " --adapters linear_probe,lora,full_finetune --encoders connectome:base,kinds=2,scaling=log+as_is"
            " --seeds 0,1 --epochs 10",
        ),
    ),
    "omics": Part(
        "Expression and genotype: normal, MCI or Alzheimer's disease",
        ("adni_expression", "--subjects", "900", "--genes", "1000"),
        "expression",
        (
            "--tasks adni_expression --adapters linear_probe,bitfit,full_finetune --encoders omics:row,omics:mlp"
            " --seeds 0-2 --epochs 10",
            "--tasks adni_expression --adapters linear_probe --encoders omics:gene_tokens --seeds 0,1",
        ),
        ("f1_macro", "auc_macro"),
    ),
    "space": Part(
        "One space around the T1",
        SCANS,
        "scans",
        (
            "--tasks brain_space,brain_space:plain,brain_space:all_pairs --adapters linear_probe"
            " --encoders 'pair:pixels:3d|pet:pixels:3d|dmri:pixels:3d' --seeds 0,1 --epochs 40",
        ),
        (
            *("r1_anchor", "r1_anchor_chance", "r1_anchor_confounds"),
            *("r1_emergent", "r1_emergent_chance", "r1_emergent_confounds"),
            *("probe_common", "probe_specific", "probe_both"),
        ),
    ),
}


def commands_shown(name: str, quick: bool = False) -> list[str]:
    """The commands of a part as a reader types them."""
    return [shlex.join(["medgraft", *words]) for words in PARTS[name].commands(name, quick)]


def sweep(name: str, folder: Path, quick: bool) -> None:
    """Runs the commands of a part in a folder; what is finished there is not run again.

    Args:
        name: Of the part.
        folder: Where cohorts, results and caches lie.
        quick: See :meth:`Part.commands`.

    Raises:
        MedgraftError: One of them failed.
    """
    part = PARTS[name]
    environment = os.environ | {"MEDGRAFT_CACHE": str((folder / "cache" / name).absolute())}
    for words in part.commands(name, quick):
        if words[0] == "cohort":
            if (folder / part.folder / PHANTOM_CONTENT).is_file():
                continue
            shutil.rmtree(folder / part.folder, ignore_errors=True)  # left by a run that was ended
        command = [sys.executable, "-m", "medgraft.benchmarks.commands.main", *words]
        code = subprocess.run(command, check=False, cwd=folder, env=environment, stdout=STANDARD_ERROR).returncode
        if code:
            raise MedgraftError(f"{shlex.join(['medgraft', *words])} ended with {code}; the same command goes on")


def with_tables(text: str, page: Page) -> str:
    """The text of a page with tables made of these numbers between its markers, and what parts it has none of.

    Raises:
        ConfigError: It has no such markers.
    """
    before, start, rest = text.partition(f"{START}\n")
    _, end, behind = rest.partition(END)
    if not start or not end:
        raise ConfigError(f"the page has no line {START!r} with {END!r} behind it; put both where the tables should go")
    missing = [part.title for name, part in PARTS.items() if name not in page.tables]
    lines = [*markdown(page), *(["", f"Not made so far: {'; '.join(missing)}."] if missing else [])]
    return "\n".join([f"{before}{START}", "", *lines, "", f"{END}{behind}"])


def numbers_beside(page: Path) -> Path:
    """The JSON file of a page's numbers."""
    return page.with_suffix(".json")


def made() -> str:
    """Of which day, code and machine the numbers are."""
    day = datetime.now(UTC).date().isoformat()
    return f"Made on {day} with medgraft {__version__}, numbers version {NUMBERS_VERSION}, on {machine()}."


def make(names: Sequence[str], folder: Path, out: Path, quick: bool = False) -> Page:
    """Runs parts, and writes the page and its numbers.

    Args:
        names: Keys of :data:`PARTS`; others stay as they are in the JSON file beside the page.
        folder: Where cohorts, results and caches lie.
        out: The page.
        quick: See :meth:`Part.commands`.

    Raises:
        MedgraftError: A sweep failed.
        ConfigError: The page has no place for tables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        sweep(name, folder, quick)
    numbers = numbers_beside(out)
    tables = dict(Page.model_validate_json(numbers.read_text()).tables) if numbers.is_file() else {}
    for name in names:
        part = PARTS[name]
        tables[name] = read_table(part.title, commands_shown(name, quick), part.numbers, [folder / "results" / name])
    page = Page(made=made(), tables={name: tables[name] for name in PARTS if name in tables})
    text = with_tables(out.read_text(encoding="utf-8"), page)
    numbers.write_text(f"{page.model_dump_json(indent=1)}\n", encoding="utf-8")
    out.write_text(text, encoding="utf-8")
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit.brain_page", description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE, help="the page")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of cohorts, results and caches")
    parser.add_argument("--parts", default="", help=f"commas between them: {', '.join(PARTS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="small cohorts, one epoch, few samples: does it run?")
    options = parser.parse_args(arguments)
    names = [name.strip() for name in options.parts.split(",") if name.strip()] or list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        raise ConfigError(f"no part {unknown[0]!r} of the page; it has {', '.join(PARTS)}")
    make(names, options.results, options.out, options.quick)
    sys.stdout.write(f"written: {options.out}, {numbers_beside(options.out)}\n")


if __name__ == "__main__":
    main()
