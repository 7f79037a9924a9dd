"""Where a task's data come from: a folder of the user's, identified by its tables, or a phantom that is made once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from medgraft.benchmarks.cohorts import places as cohorts
from medgraft.benchmarks.cohorts.chest.chexpert import read_chexpert
from medgraft.benchmarks.cohorts.files.made_up import made_up
from medgraft.benchmarks.cohorts.places import cohort_at, phantom, revision
from medgraft.benchmarks.launch import warm_start
from medgraft.errors import ConfigError, DataError
from medgraft.registry import CohortEntry

TINY = CohortEntry(
    writer="chexpert", options={"n_train": 2, "n_valid": 1, "n_test": 1, "n_5x200_per_class": 1, "size": 64, "seed": 1}
)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Tables as a user has them, in the folder and one level below."""
    root = tmp_path / "data" / "cohort"
    (root / "tables").mkdir(parents=True)
    (root / "visits.csv").write_text("a,b\n1,2\n")
    (root / "tables" / "people.tsv").write_text("a\tb\n")
    return root


# --- folders of the user's --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["visits.csv", "tables/people.tsv"])
def test_a_changed_table_is_another_revision(real, table):
    before = revision(real)
    (real / table).write_text("a,b\n1,3\n")
    assert revision(real) != before


def test_a_copy_elsewhere_has_the_same_revision(real, tmp_path):
    assert revision(Path(shutil.copytree(real, tmp_path / "other" / "cohort"))) == revision(real)


@pytest.mark.parametrize("name", ["image.nii", "a/b/c/film.png", "files/p10/s5.txt", "sub-01/ses-M00/x_scans.tsv"])
def test_what_a_folder_holds_enters_the_revision_by_name_and_content(real, name):
    found = [revision(real)]
    (real / name).parent.mkdir(parents=True, exist_ok=True)
    for content in (b"x", b"y", b"yy"):
        (real / name).write_bytes(content)
        os.utime(real / name, ns=(5, 5))
        found.append(revision(real))
    (real / name).rename((real / name).with_stem("other"))
    assert len({*found, revision(real)}) == 5


@pytest.mark.parametrize(
    "name",
    [
        "results/pixels/lora/adni_image/0123456789abcdef.json", "results/x/0123456789abcdef.npz",
        "results/leaderboard.csv", "leaderboard.md", "leaderboard.csv", "cache/prefix/ab/" + "ab" * 32 + "/x.npy",
        "cache/" + "ab" * 32 + "/facts.json", "prepared_report.csv", ".hidden.nii", ".git/x.png", "figure.svg",
        "results/gpu.ops.json",
    ],
)  # fmt: skip
def test_what_a_sweep_writes_into_the_folder_does_not(real, name):
    before = revision(real)
    (real / name).parent.mkdir(parents=True, exist_ok=True)
    (real / name).write_bytes(b"x")
    assert revision(real) == before


def test_nor_does_the_cache_inside_it(real, monkeypatch):
    before = revision(real)
    monkeypatch.setenv("MEDGRAFT_CACHE", str(real / "mine"))
    (real / "mine" / "cohorts").mkdir(parents=True)
    (real / "mine" / "cohorts" / "a.png").write_bytes(b"x")
    assert revision(real) == before


def test_a_link_to_the_folder_itself_ends(real):
    before = revision(real)
    (real / "tables" / "again").symlink_to(real)
    assert revision(real) == before


def test_a_results_file_of_a_task_changes_only_with_what_that_task_reads(chest_cohort, tmp_path):
    from medgraft.benchmarks.tasks import build_task

    copy = Path(shutil.copytree(chest_cohort, tmp_path / "copy"))
    for marker in copy.rglob("PHANTOM*"):
        marker.unlink()
    read = build_task("chexpert").load

    def ids() -> dict[str, str]:
        data = {"chexpert": read(copy)}
        return {"by task": cohort_at("chexpert", copy, data).of("chexpert").revision, "whole": revision(copy)}

    first = ids()
    (copy / "CheXpert-v1.0-small" / "unread.png").write_bytes(b"x")
    second = ids()
    assert second["by task"] == first["by task"] and second["whole"] != first["whole"]
    image = Path(str(read_chexpert(copy, "train").frame["image"][0]))
    stamp = image.stat()
    image.write_bytes(bytes([*image.read_bytes()[:-1], 0]))
    os.utime(image, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert ids()["by task"] != second["by task"]


def test_tables_of_others_beside_the_folder_do_not_enter(real):
    before = revision(real)
    (real.parent / "accounts.csv").write_text("x\n")
    assert revision(real) == before


def test_an_adnimerge_above_the_folder_is_read_with_it_and_so_enters(real):
    before = revision(real)
    (real.parent / "ADNIMERGE_2024.csv").write_text("x\n")
    assert revision(real) != before


def test_the_image_folder_of_a_loni_download_may_be_named_itself(adni_cohort, tmp_path):
    from medgraft.benchmarks.tasks import build_task

    copy = Path(shutil.copytree(adni_cohort, tmp_path / "copy"))
    found = cohort_at("adni", copy / "ADNI")
    assert found.id.phantom and len(build_task("adni_image").load(found.root).targets) > 0


def test_a_chexpert_download_in_batches_is_found_two_levels_down(tmp_path):
    table = (
        tmp_path / "download" / "chexpertchestxrays-u20210408" / "CheXpert-v1.0 batch 1 (validate & csv)" / "train.csv"
    )
    table.parent.mkdir(parents=True)
    table.write_text("Path\n")
    before = revision(tmp_path / "download")
    table.write_text("Path,Sex\n")
    assert revision(tmp_path / "download") != before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_subfolder_that_may_not_be_read_is_passed_over(real):
    (real / "lost+found").mkdir(mode=0)
    assert revision(real)


def test_a_folder_named_like_a_table_is_no_table(real):
    (real / "odd.csv").mkdir()
    assert revision(real)


def test_real_data_are_not_called_phantoms_and_phantoms_are(real, chest_cohort):
    assert not cohort_at("chexpert", real).id.phantom
    assert cohort_at("chexpert", chest_cohort).id.phantom


def test_home_may_be_abbreviated(real, monkeypatch):
    monkeypatch.setenv("HOME", str(real.parent))
    assert cohort_at("adni", Path("~/cohort")).root == real


MARKERLESS = {"adni": "adni_cohort", "chexpert": "chest_cohort", "rsna": "rsna_cohort", "siim": "siim_cohort",
              "nih": "nih_cohort", "mimic": "mimic_cohort"}  # fmt: skip


@pytest.mark.parametrize("name", MARKERLESS)
def test_a_phantom_without_its_marker_is_known_by_its_identifiers(name, request, tmp_path):
    from medgraft.benchmarks.tasks import build_task

    copy = Path(shutil.copytree(request.getfixturevalue(MARKERLESS[name]), tmp_path / "x" / "y" / "copy"))
    for marker in copy.rglob("PHANTOM*"):
        marker.unlink()
    named = {"adni": "adni_image", "mimic": "mimic_zero_shot"}
    task = named.get(name) or name
    data = build_task(task).load(copy)
    assert data.phantom and cohort_at(name, copy).id.phantom and cohort_at(name, copy, {task: data}).of(task).phantom


@pytest.mark.parametrize(
    ("kind", "real", "made"),
    [
        ("adni", "941_S_1311", "999_S_9999"), ("adni", "999_S_0123", "998_S_8000"), ("adni", "sub-01", "999_S_9000"),
        ("chexpert", "patient64740", "patient900001"), ("chexpert", "patient90001", "patient970001"),
        ("rsna", "0004cfab-14fd-4e49-80ba-63a80b6bddd6", "ffffffff-0000-4000-8000-000000000001"),
        ("siim", "1.2.276.0.7230010.3.1.4", "2.25.999.0.3.1"), ("nih", "00030805", "00090001"),
        ("mimic", "p19999987", "p99000001"), ("padchest", "x", "y"),
    ],
)  # fmt: skip
def test_real_identifiers_are_never_taken_for_made_up_ones(kind, real, made):
    assert made_up(kind, [made]) == (kind != "padchest")
    assert not made_up(kind, [real]) and not made_up(kind, [made, real]) and not made_up(kind, [])


# --- phantoms ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cohorts"


def test_a_phantom_is_made_once_and_announced(cache):
    said: list[str] = []
    first, second = (phantom("chexpert", TINY, 1, said.append) for _ in range(2))
    assert first == second and first.id.phantom and len(said) == 1
    assert "making the phantom cohort chexpert" in said[0]


def test_replaced_films_of_a_phantom_are_another_revision(cache):
    whole = phantom("chexpert", TINY, 1, lambda text: None)
    image = next(whole.root.rglob("*.jpg"))
    content, stamp = image.read_bytes(), image.stat()
    image.write_bytes(content[:-1] + b"x")
    os.utime(image, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert phantom("chexpert", TINY, 1, lambda text: None).id.revision != whole.id.revision
    image.write_bytes(content)
    assert phantom("chexpert", TINY, 1, lambda text: None) == whole


def test_other_options_or_another_generator_are_another_phantom(cache, monkeypatch):
    made: list[Path] = []

    def write(writer: str, out: Path, options: dict, jobs: int) -> None:
        made.append(out)
        out.mkdir(parents=True)
        (out / "PHANTOM").write_text("{}")

    monkeypatch.setattr(cohorts, "write_phantom", write)
    for entry in (TINY, TINY.model_copy(update={"options": {**TINY.options, "seed": 2}})):
        phantom("chexpert", entry, 1, lambda text: None)
    monkeypatch.setattr(cohorts, "generator_version", lambda writer: "next")
    phantom("chexpert", TINY, 1, lambda text: None)
    assert len(set(made)) == 3


def test_the_fork_server_of_the_cells_is_started_before_a_writer_may_start_its_own(cache, monkeypatch):
    order: list[str] = []

    def write(writer: str, out: Path, options: dict, jobs: int) -> None:
        order.append("write")
        out.mkdir(parents=True)
        (out / "PHANTOM").write_text("{}")

    monkeypatch.setattr(cohorts, "write_phantom", write)
    monkeypatch.setattr(warm_start, "start_fork_server", lambda: order.append("server"))
    phantom("chexpert", TINY, 1, lambda text: None)
    assert order == ["server", "write"]


def test_what_a_killed_maker_left_is_cleared(cache):
    whole = phantom("chexpert", TINY, 1, lambda text: None)
    unfinished = whole.root.parent / f".{whole.root.name}.partial-0123456789ab"
    shutil.move(whole.root, unfinished)
    assert phantom("chexpert", TINY, 1, lambda text: None) == whole
    assert not unfinished.exists()


def test_a_cohort_without_a_phantom_asks_for_a_folder(tmp_path):
    with pytest.raises(ConfigError, match="no phantom of cohort 'padchest'; give its folder with --data padchest=PATH"):
        cohorts.write_phantom("padchest", tmp_path / "x", {}, 1)


def test_a_folder_of_images_alone_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="has no CSV or TSV table"):
        cohort_at("adni", tmp_path / "images")
