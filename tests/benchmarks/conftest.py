"""Tiny cohorts, a foreign plugin, and ways to run the harness on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import medgraft_toy
import pytest
from distributions import install_groups
from s3_server import S3, serving
from sweeping import Toy, command

TOY_ENTRY_POINTS = """
[medgraft.adapters]
toy_gain = medgraft_toy:ToyGain
toy_reporting = medgraft_toy:ToyReporting
toy_trouble = medgraft_toy:ToyTrouble
toy_broken = medgraft_toy:NotThere
[medgraft.encoders]
toy = medgraft_toy:ToySource
[medgraft.tasks]
toy = medgraft_toy:ToyTask
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    """A server that speaks S3, for the tests of a module."""
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def no_shared_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command leaves the shared cache that it was given in the environment, for its workers; here others follow."""
    monkeypatch.setenv("MEDGRAFT_SHARED_CACHE", "")
    monkeypatch.delenv("MEDGRAFT_SHARED_CACHE")


@pytest.fixture(scope="session")
def toy_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as pip leaves it: the toy's module beside its metadata."""
    site = tmp_path_factory.mktemp("site-packages")
    source = Path(medgraft_toy.__file__).read_text(encoding="utf-8")
    install_groups(site, "medgraft-toy", TOY_ENTRY_POINTS, {"medgraft_toy": source}, "1.5")
    return site


@pytest.fixture(scope="session")
def toy_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return medgraft_toy.write_toy_cohort(tmp_path_factory.mktemp("cohorts") / "toy")


@pytest.fixture
def toy(toy_site: Path, toy_cohort: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The toy distribution, installed for one test, in this process too."""
    monkeypatch.syspath_prepend(str(toy_site))
    return Toy(toy_site, toy_cohort)


@pytest.fixture(scope="session")
def adni_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 phantom subjects, most with two visits, voxels of 6 mm."""
    from medgraft.benchmarks.phantoms.brain.cohort import write_cohort

    out = tmp_path_factory.mktemp("adni") / "cohort"
    template = tmp_path_factory.getbasetemp() / "brain-template"
    write_cohort(out, n_subjects=24, seed=3, spacing=6.0, max_visits=2, cache_dir=template)
    return out


@pytest.fixture(scope="session")
def chest_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training films, 24 for testing, 4 of each of the five classes, 64 pixels wide."""
    from medgraft.benchmarks.phantoms.chest.cohort import write_cohort

    out = tmp_path_factory.mktemp("chexpert") / "cohort"
    write_cohort(out, n_train=60, n_valid=12, n_test=24, n_5x200_per_class=4, seed=3, size=64)
    return out


@pytest.fixture(scope="session")
def rsna_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 films, about half with boxes, 64 pixels wide, and 12 pairs to train on."""
    from medgraft.benchmarks.phantoms.chest.layouts import write_rsna

    out = tmp_path_factory.mktemp("rsna") / "cohort"
    write_rsna(out, n_images=16, seed=3, size=64, positive_share=0.6, n_pairs=12)
    return out


@pytest.fixture(scope="session")
def siim_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 films, about half with masks, 64 pixels wide; no pairs."""
    from medgraft.benchmarks.phantoms.chest.layouts import write_siim

    out = tmp_path_factory.mktemp("siim") / "cohort"
    write_siim(out, n_images=16, seed=3, size=64, positive_share=0.6)
    return out


@pytest.fixture(scope="session")
def nih_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 films, 64 pixels wide."""
    from medgraft.benchmarks.phantoms.chest.layouts import write_nih

    out = tmp_path_factory.mktemp("nih") / "cohort"
    write_nih(out, n_images=16, seed=3, size=64)
    return out


@pytest.fixture(scope="session")
def mimic_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 films with reports, 64 pixels wide."""
    from medgraft.benchmarks.phantoms.chest.mimic import write_mimic

    out = tmp_path_factory.mktemp("mimic") / "cohort"
    write_mimic(out, n_images=16, seed=3, size=64)
    return out


@pytest.fixture
def medgraft(monkeypatch: pytest.MonkeyPatch):
    """``medgraft("ls", "adapters")``, wide enough that nothing wraps."""
    monkeypatch.setenv("COLUMNS", "200")
    return command
