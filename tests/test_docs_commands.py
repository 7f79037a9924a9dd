"""The commands of README and docs that train nothing are run, page by page, in a folder such as a reader has.

What trains is in ``test_docs_runs.py``, what measures or pre-trains in ``test_docs_programs.py``;
``benchmarks/predict/test_quickstart.py`` runs the quickstart as a whole.
Checkpoints, scans and data sets that a reader has are made-up files of the published layouts (``readers_files.py``).
"""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from readers_files import (
    ace_lora_checkpoint,
    language_model,
    m3d_projector,
    openflamingo_checkpoint,
    vision_transformer,
)
from s3_server import serving
from test_docs import commands, in_medgraft
from typer.testing import CliRunner

from medgraft.benchmarks.cohorts.medmnist import phantom
from medgraft.benchmarks.cohorts.places import write_phantom
from medgraft.benchmarks.commands.main import app
from medgraft.benchmarks.launch.warm_start import start_fork_server
from medgraft.registry import CohortEntry, catalogue

pytestmark = [pytest.mark.slow(seconds=193), pytest.mark.timeout(600)]

WALK = Path(__file__).parent / "plugins" / "test_walk.py"
NOT_HERE = {
    "run": "trains; test_docs_runs.py",
    "check my_vit:tiny": "checks a package that pip has installed; tests/plugins/test_walk.py",
    "check my_films": "the same",
    "describe my_bottleneck": "the same",
}
"""Beginning of a command -> why it is not run here."""
SMALLER = {
    "--train": 8, "--valid": 3, "--validation": 2, "--test": 4, "--per-class": 1, "--subjects": 9, "--images": 12,
    "--pairs": 6, "--size": 64, "--samples": 100, "--spacing": 6,
}  # fmt: skip
"""Option of a generated cohort -> a size for a test."""

UNSAID = {
    "chexpert": ("--valid", "--per-class", "--size"),
    "medmnist": ("--samples",),
    **dict.fromkeys(("adni", "oasis"), ("--spacing",)),
}
"""Cohort -> options that its commands leave at a size for measurements."""

PHANTOMS = {
    "chexpert": {"n_train": 48, "n_valid": 12, "n_test": 16, "n_5x200_per_class": 1, "size": 64},
    "adni": {"n_subjects": 18, "spacing": 6.0, "max_visits": 2},
    "mimic": {"n_images": 12, "size": 64},
}
"""Cohort -> options of one that stands for the default phantom, and for the reader's data."""


def pages() -> Mapping[str, list[list[str]]]:
    """Page -> its commands in their order."""
    found: dict[str, list[list[str]]] = {}
    for each in commands():
        words, page = each.values[0], str(each.id).partition(".md")[0]
        inner = in_medgraft(words)
        if inner is None or " ".join(inner).startswith(tuple(NOT_HERE)) or page == "quickstart":
            continue
        if inner[0] == "prepare" and any(inner in several for several in found.values()):
            continue  # eight seconds, and two pages say the same words
        found.setdefault(page, []).append(inner)
    return found


PAGES = pages()


def medgraft(*words: str) -> str:
    done = CliRunner().invoke(app, [*words])
    assert done.exit_code == 0, f"medgraft {' '.join(words)}\n{done.output}\n{done.exception!r}"
    return done.output


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A reader's folder: data, and what short sweeps left."""
    folder = tmp_path_factory.mktemp("reader")
    start_fork_server()  # before the variables are changed, since tests of other modules have it too
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("MEDGRAFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        kept = ("pathmnist", "chestmnist", "bloodmnist", "organmnist3d")  # of each kind one; all are written elsewhere
        patch.setattr(phantom, "DATA_SETS", {name: phantom.DATA_SETS[name] for name in kept})
        write_phantom("table", folder / "table", {"patients": 12, "size": 32}, 1)
        write_phantom("folder", folder / "films-folder", {"patients": 12, "size": 32}, 1)
        for name, options in PHANTOMS.items():
            cohorts = catalogue().presets["quick"].cohorts  # which no worker reads: it is told the folder
            patch.setitem(cohorts, name, CohortEntry(writer=name, options=options))
            write_phantom(name, folder / "data" / name, options, 1)
        lay_out(folder)
        sweeps()
        with serving() as s3:
            s3.bucket("my-bucket")
            medgraft("results", "sync", "results/phantom_chest", "s3://my-bucket/sweep")
            yield folder


def lay_out(folder: Path) -> None:
    """Files under the names that the pages use."""
    shutil.copytree(folder / "table", folder, dirs_exist_ok=True)
    (table,) = (folder / "table").glob("*.csv")
    for name in ("cohort.csv", "more.csv"):
        shutil.copy(table, folder / name)
    pictures = sorted((folder / "films-folder").rglob("*.png"))
    (folder / "new_films").mkdir()
    for picture in pictures[:3]:
        shutil.copy(picture, folder / "new_films")
    shutil.copy(pictures[0], folder / "one.png")
    (scan, *_) = sorted((folder / "data/adni").rglob("*.nii"))
    (folder / "scan.nii.gz").write_bytes(gzip.compress(scan.read_bytes()))
    publish(folder)


def publish(folder: Path) -> None:
    """What a reader downloads."""
    language_model(folder / "models/language")
    vision_transformer(folder / "models/vision")
    ace_lora_checkpoint(folder / "ACE_LoRA.pt")
    m3d_projector(folder / "mm_projector.bin")
    openflamingo_checkpoint(folder / "checkpoint.pt")
    write_phantom("medmnist", folder / "medmnist", {"samples": 100, "size": 64}, 1)
    raw = {"form": "raw", "n_subjects": 4, "spacing": 6.0, "max_visits": 1}
    write_phantom("adni", folder / "data/adni-raw", raw, 1)


def sweeps() -> None:
    """Results of the kinds that the pages speak of."""
    run = ("run", "--no-baselines", "--epochs", "2", "--jobs", "2")
    medgraft(*run, "--adapters", "lora,bitfit", "--tasks", "chexpert", "--seeds", "0,2", "--keep", "all")
    medgraft(*run, "--adapters", "brain_adapter", "--tasks", "adni_image", "--seeds", "0", "--keep", "all")
    words = ("--tasks", "chest_reports", "--encoders", "pair:embedded:chest|causal_lm:embedded", "--seeds", "0")
    rows = ("--adapters", "soft_prefix+lora,xattn,nearest_report,blind", "--limit", "16")
    medgraft(*run, *rows, *words, "--results", "results/films")
    experts = ("--adapters", "tgh_moe", "--set", "tgh_moe.tasks=4")
    asked = (*experts, "--tasks", "brain_prompts", "--seeds", "0", "--limit", "12")
    medgraft(*run, *asked, "--results", "results/volumes")
    for name in (
        *("results-march", "results-april", "results/job-1", "results/job-2"),
        *("results/volumes_fair", "results/volumes_by_language", "mine"),
    ):
        shutil.copytree("results/phantom_chest", f"{name}/phantom_chest")


def real(words: list[str]) -> list[str]:
    """A command with the reader's own names in the place of made-up ones."""
    lora = sorted(Path("results/phantom_chest/lora/chexpert").glob("*.json"))
    kept = next(Path("results/phantom_chest/lora/chexpert").glob("*.adapter"))
    if "scan.nii.gz" in words:
        kept = next(Path("results/phantom_brain/brain_adapter/adni_image").glob("*.adapter"))
    seeded = next(path for path in lora if '"seed": 2' in path.read_text())
    names = {
        r"results/ENCODER/ADAPTER/TASK/KEY\.adapter": str(kept),
        r"results/\w+/lora/chexpert/1a2b3c\w+\.json": str(lora[0]),
        r"^1a2b3c$": seeded.stem[:8],
        r"transformers:FOLDER": f"transformers:clip@{Path('models/vision').resolve()}",
        r"m3d:clip@FILE": "embedded:chest",
        r"causal_lm:FOLDER": f"causal_lm:{Path('models/language').resolve()}",
        r"^FOLDER/": "medmnist/",
        r"/data/CheXpert": "data/chexpert",
        r"/data/(adni|ADNI)": "data/adni",
        r"/data/mimic": "data/mimic",
        r"^Brain-Tumor-\S+": "films-folder",
    }
    for made_up, name in names.items():
        words = [re.sub(made_up, name, word) for word in words]
    if words[0] == "prepare":  # of the phantom's voxels, and into a folder of its own
        words = ["data/prepared" if word == "data/adni" else {"8": "1"}.get(word, word) for word in words]
        words += ["--spacing", "6", "--no-n4"]
    if words[0] == "cohort":
        words = [str(SMALLER.get(option, word)) for option, word in zip(["", *words], words, strict=False)]
        unsaid = UNSAID.get(words[1], ())
        words += [each for option in unsaid if option not in words for each in (option, str(SMALLER[option]))]
    return [each for word in words for each in (map(str, sorted(Path().glob(word))) if "*" in word else [word])]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_do_what_it_says(page, reader, tmp_path, monkeypatch):
    shutil.copytree(reader, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for words in PAGES[page]:
        assert medgraft(*real(words)).strip(), words


def test_nearly_all_of_them_are_run():
    assert sum(map(len, PAGES.values())) > 70
    others = [" ".join(inner) for each in commands() if (inner := in_medgraft(each.values[0])) is not None]
    assert all(any(each.startswith(beginning) for each in others) for beginning in NOT_HERE), "of no page any more"


@pytest.mark.parametrize("words", [words for words in NOT_HERE if words != "run"])
def test_what_is_run_elsewhere_cannot_be_run_here_and_is_run_there(words):
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code != 0 and words.split()[1].partition(":")[0] in done.output
    assert f'"medgraft {words}' in WALK.read_text(), "the walk names the command that it runs"
