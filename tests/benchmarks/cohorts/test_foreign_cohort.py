"""A cohort of another distribution: its command, its phantom in a sweep without --data, and what it may do wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from distributions import install, install_groups
from sweeping import Toy, command

from medgraft import plugins
from medgraft.benchmarks.cohorts.places import cohort_at, folder_of
from medgraft.benchmarks.results.reading import read_results
from medgraft.cohort import cohort_class, write_phantom
from medgraft.errors import ConfigError, DataError, UnknownNameError

SOURCE = '''
"""Films of made-up people."""

import hashlib
from typing import Literal

import medgraft_toy
from medgraft.cohort import Cohort, CohortConfig
from medgraft.errors import DataError
from medgraft_toy import ToyTask
from pydantic import Field


class Films(Cohort):
    """Dull and bright films."""

    generator = "7"
    small = {"subjects": 20}

    class Config(CohortConfig):
        subjects: int = Field(24, ge=10, le=500, description="How many people.")
        films: int = Field(2, ge=1, description="Films of each.")
        style: Literal["square", "round"] = Field("square", description="Shape of the films.")

    def write_phantom(self, out, config, jobs):
        medgraft_toy.write_toy_cohort(out, config.subjects, config.films, phantom=False)


class Breaks(Films):
    def write_phantom(self, out, config, jobs):
        raise ZeroDivisionError("of no people")


class Idles(Films):
    def write_phantom(self, out, config, jobs):
        pass


class Recordings(Films):
    """Data of a kind that the harness knows nothing of: no table, and files of another ending."""

    def revision(self, root):
        files = sorted(root.glob("*.rec"))
        if not files:
            raise DataError(f"{root} holds no recording")
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


class Raises(Films):
    def revision(self, root):
        return {}["sampling rate"]


class Counts(Films):
    def revision(self, root):
        return 3


class FilmTask(ToyTask):
    """Dull or bright."""

    cohort = "films"


class BrokenTask(ToyTask):
    cohort = "breaks"
'''
ENTRY_POINTS = """
[medgraft.cohorts]
films = medgraft_films:Films
breaks = medgraft_films:Breaks
idles = medgraft_films:Idles
recordings = medgraft_films:Recordings
raises = medgraft_films:Raises
counts = medgraft_films:Counts
unloadable = medgraft_films:NotThere
[medgraft.tasks]
film_brightness = medgraft_films:FilmTask
broken_films = medgraft_films:BrokenTask
"""


@pytest.fixture
def films(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The toy beside a distribution with cohorts and tasks of them, in this process and in workers."""
    site = tmp_path / "site"
    install_groups(site, "medgraft-films", ENTRY_POINTS, {"medgraft_films": SOURCE})
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", f"{site}:{toy.site}")
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))
    return toy


def test_its_command_is_made_of_its_options(films, tmp_path):
    done = command("cohort", "films", "--help")
    words = " ".join(done.output.split())
    assert done.exit_code == 0
    for said in ("--subjects", "10<=x<=500", "How many people.", "--films", "--style", "round", "--seed", "--jobs"):
        assert said in words, said
    done = command("cohort", "films", "--out", str(tmp_path / "c"), "--subjects", "12", "--films", "1")
    assert done.exit_code == 0 and f"--data films={tmp_path / 'c'}" in done.output
    assert len(list((tmp_path / "c").glob("*.npy"))) == 12
    marker = json.loads((tmp_path / "c" / "PHANTOM").read_text())
    assert marker["generator"] == "films-7" and marker["config"]["subjects"] == 12


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["films", "--subjects", "3"], "Invalid value for '--subjects': Input should be greater than or equal to 10"),
        (["films", "--style", "oval"], "'oval' is not one of"),
        (["films", "--sujects", "12"], "--subjects"),
        (["flims"], "unknown cohort 'flims'; did you mean films"),
        (["breaks"], "cohort 'breaks' cannot write its phantom: ZeroDivisionError: of no people; ask the authors of"),
        (["idles"], "cohort 'idles' wrote nothing into its phantom"),
    ],
)
def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(films, tmp_path, arguments, says):
    done = command("cohort", *arguments, "--out", str(tmp_path / "c"))
    text = " ".join(done.output.replace("│", " ").split())
    assert done.exit_code != 0 and says in text and "Traceback" not in text, text
    assert not [path for path in tmp_path.iterdir() if path.name.strip(".")[:1] == "c" and path.name != "cache"]


@pytest.mark.slow
def test_a_sweep_without_data_makes_its_phantom_once(films, tmp_path):
    options = ["--adapters", "toy_gain", "--tasks", "film_brightness", "--encoders", "toy:tiny", "--epochs", "2"]
    arguments = ["run", *options, "--seeds", "0", "--no-baselines", "--results", str(tmp_path / "out")]
    done = command(*arguments)
    assert done.exit_code == 0 and "making the phantom cohort films" in done.output, done.output
    ((_, cell),) = read_results([tmp_path / "out"])
    assert cell.status == "success" and cell.phantom and cell.spec.cohort.name == "films"
    again = command(*arguments)
    assert again.exit_code == 0 and "making the phantom" not in again.output and "1 of 1 cells are done" in again.output


@pytest.mark.slow
def test_a_task_of_a_foreign_cohort_is_checked_on_its_small_phantom(films):
    done = command("check", "film_brightness")
    assert "it_loads" in done.output and "no phantom" not in done.output, done.output


def test_a_sweep_on_a_cohort_that_cannot_be_written_says_whose_fault_it_is(films, tmp_path):
    options = ["--adapters", "toy_gain", "--tasks", "broken_films", "--encoders", "toy:tiny", "--no-baselines"]
    done = command("run", *options, "--results", str(tmp_path / "out"))
    assert done.exit_code != 0 and "cohort 'breaks' cannot write its phantom: ZeroDivisionError" in done.output
    assert "Traceback" not in done.output


def test_a_plugin_may_say_what_identifies_data_without_tables(films, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    with pytest.raises(DataError, match="holds no recording"):
        cohort_at("recordings", folder_of("recordings", root))
    (root / "1.rec").write_bytes(b"one")
    first = cohort_at("recordings", folder_of("recordings", root))
    (root / "notes.csv").write_text("a\n1\n")  # it is for the plugin to say what counts
    assert cohort_at("recordings", root).id == first.id
    (root / "1.rec").write_bytes(b"two")
    second = cohort_at("recordings", root)
    assert second.id.revision != first.id.revision and not second.id.phantom
    with pytest.raises(DataError, match="no CSV or TSV table"):
        folder_of("idles", films.site)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raises", r"cohort 'raises' cannot read .*: KeyError: 'sampling rate'; ask the authors of medgraft_films"),
        ("counts", r"Counts.revision\(\) gave 3; it must give a text"),
    ],
)
def test_a_revision_that_fails_is_one_sentence(films, tmp_path, name, says):
    (tmp_path / "table.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=says):
        cohort_at(name, tmp_path)


def test_one_cohort_that_cannot_be_loaded_does_not_hide_the_others(films):
    done = command("cohort", "--help")
    words = " ".join(done.output.replace("│", " ").split())
    assert done.exit_code == 0 and "Write a phantom of films" in words, words
    assert "unloadable" in words and "Cannot be loaded: " in words
    alone = command("cohort", "unloadable", "--out", "nowhere")
    assert alone.exit_code != 0 and "NotThere" in alone.output and "Traceback" not in alone.output


def test_its_description_says_how_to_set_an_option(films):
    done = command("describe", "films")
    assert done.exit_code == 0 and "options (medgraft cohort films --OPTION VALUE)" in done.output, done.output


def test_names_that_clash(films, tmp_path, monkeypatch):
    offers = {"films": "medgraft_films:Films", "adni": "medgraft_films:Films"}
    install(tmp_path / "twin", "twin", offers, {}, group="medgraft.cohorts")
    monkeypatch.syspath_prepend(str(tmp_path / "twin"))
    with pytest.raises(UnknownNameError, match="several distributions offer it"):
        cohort_class("films")
    assert plugins.find("cohort", "adni").builtin


def test_options_are_strict(films, tmp_path):
    with pytest.raises(ConfigError, match=r"options of cohort 'films': .*did you mean subjects"):
        write_phantom("films", tmp_path / "c", {"subject": 12})
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(DataError, match="is not empty; name a new folder"):
        write_phantom("films", tmp_path / "used", {})
