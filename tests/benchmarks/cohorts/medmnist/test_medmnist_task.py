"""Tasks of MedMNIST: labels, splits and images as in the files, one sentence for files that are something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import ran, spec

from medgraft.benchmarks.cohorts.medmnist import facts as facts_module
from medgraft.benchmarks.cohorts.medmnist.facts import BINARY, DATA_SETS, MULTI_LABEL, facts_of
from medgraft.benchmarks.cohorts.medmnist.reading import file_name
from medgraft.benchmarks.cohorts.places import cohort_at
from medgraft.benchmarks.results.spec import CohortId
from medgraft.benchmarks.tasks.medmnist import OWN_SUBJECT
from medgraft.cohort import write_phantom
from medgraft.errors import ConfigError, DataError, UnknownNameError
from medgraft.modality import find_modality
from medgraft.task import SPLITS
from medgraft.task.names import build_task, variants_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("medmnist") / "phantom"
    write_phantom("medmnist", root, {"samples": 100})
    return root


def arrays(name: str, count: int = 24, size: int = 28, **changes: Any) -> dict[str, np.ndarray]:
    """The arrays of a small file; ``changes`` take the place of some, and those that are ``None`` are left out."""
    facts, random = DATA_SETS[name], np.random.default_rng(0)
    shape = (size,) * 3 if facts.volumes else (size, size, 3) if facts.channels == 3 else (size, size)
    made: dict[str, Any] = {}
    for split in SPLITS:
        made[f"{split}_images"] = random.integers(0, 256, (count, *shape), np.uint8)
        K = len(facts.labels)
        labels = random.integers(0, 2, (count, K)) if facts.task == MULTI_LABEL else (np.arange(count) % K)[:, None]
        made[f"{split}_labels"] = labels.astype(np.uint8)
    return {key: value for key, value in (made | changes).items() if value is not None}


def write(root: Path, name: str, size: int = 28, **changes: Any) -> dict[str, np.ndarray]:
    made = arrays(name, size=size, **changes)
    np.savez_compressed(root / file_name(name, size), **made)
    return made


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_data_set_of_the_phantom_is_what_it_is_called(folder, name):
    task, facts = build_task(f"medmnist:{name}"), DATA_SETS[name]
    data = task.load(folder).check()
    assert data.classes == facts.labels and data.phantom and data.provenance["generator"] == "medmnist-1"
    assert task.objective == ("multilabel" if facts.task == MULTI_LABEL else "multiclass")
    raw = data.inputs[task.inputs[0]]
    sample = raw.read(3)
    find_modality(task.inputs[0]).check(sample)
    with np.load(folder / f"{name}.npz") as file:
        assert {key: str(file[key].dtype) for key in file} == {
            f"{split}_{what}": "uint8" for split in SPLITS for what in ("images", "labels")
        }
        stored = file["train_images"][3]
        assert np.array_equal(sample, stored / np.float32(255) if facts.volumes else stored)
        joined = np.concatenate([file[f"{split}_labels"] for split in SPLITS])
        assert np.array_equal(data.targets.reshape(len(joined), -1), joined)
        counts = {split: len(file[f"{split}_labels"]) for split in SPLITS}
    assert {split: len(index) for split, index in data.splits.items()} == counts
    assert raw.colour == (facts.channels == 3)


def test_images_of_all_splits_are_found_by_their_numbers(tmp_path):
    made = write(tmp_path, "pathmnist")
    data = build_task("medmnist:pathmnist").load(tmp_path).check()
    joined = np.concatenate([made[f"{split}_images"] for split in SPLITS])
    for index in np.random.default_rng(0).permutation(len(joined)).tolist():
        assert np.array_equal(data.inputs["image"].read(index), joined[index])
    assert data.splits["test"].tolist() == list(range(48, 72))


def test_it_says_that_nobody_knows_the_patients_and_that_the_numbers_are_others(tmp_path):
    write(tmp_path, "breastmnist")
    data = build_task("medmnist:breastmnist").load(tmp_path)
    assert len(set(data.subjects)) == len(data.targets) == 72 and data.variants == ("medmnist_auc", "medmnist_acc")
    first, second = data.provenance["notes"]
    assert first == OWN_SUBJECT and second.endswith("24 of 546 in train, 24 of 78 in val, 24 of 156 in test")
    assert not data.phantom and data.provenance["licence"] == "CC BY 4.0"


def test_sizes_are_files_of_their_own(tmp_path):
    write(tmp_path, "bloodmnist", size=64)
    task = build_task("medmnist:bloodmnist", {"size": 64})
    assert task.load(tmp_path).inputs["image"].read(0).shape == (64, 64, 3)
    with pytest.raises(DataError, match=r"^bloodmnist\.npz is not in .*--download"):
        build_task("medmnist:bloodmnist").load(tmp_path)
    with pytest.raises(ConfigError, match="volumes of 28 and 64"):
        build_task("medmnist:organmnist3d", {"size": 128})


def test_a_variant_is_its_own_data_set():
    assert variants_of("medmnist") == tuple(f"medmnist:{name}" for name in DATA_SETS)
    assert build_task("medmnist", {"name": "organmnist3d"}).inputs == ("volume",)
    assert build_task("medmnist", {"name": "chestmnist"}).objective == "multilabel"
    with pytest.raises(ConfigError, match="name the task medmnist:chestmnist"):
        build_task("medmnist:octmnist", {"name": "chestmnist"})
    with pytest.raises(UnknownNameError, match="did you mean pathmnist"):
        build_task("medmnist:pathmnst")


def test_other_files_in_the_folder_do_not_matter(tmp_path):
    write(tmp_path, "breastmnist")
    name = "medmnist:breastmnist"

    def identity() -> CohortId:
        return cohort_at("medmnist", tmp_path, {name: build_task(name).load(tmp_path)}).of(name)

    first = identity()
    write(tmp_path, "pneumoniamnist")
    assert identity() == first
    write(tmp_path, "breastmnist", test_images=arrays("breastmnist")["train_images"])
    assert identity() != first


GREY, COLOUR = np.zeros((24, 28, 28), np.uint8), np.zeros((24, 28, 28, 3), np.uint8)
HOSTILE: dict[str, tuple[str, dict[str, Any], str]] = {
    "a key is missing": ("octmnist", {"val_labels": None}, "has no val_labels; it has"),
    "two keys are missing": ("octmnist", {"val_labels": None, "test_images": None}, "no val_labels and no test_images"),
    "grey for colour": ("pathmnist", {"train_images": GREY}, r"is \[24, 28, 28\] and not \[n, 28, 28, 3\]"),
    "colour for grey": ("octmnist", {"train_images": COLOUR}, r"is \[24, 28, 28, 3\] and not \[n, 28, 28\]"),
    "another size": ("octmnist", {"test_images": np.zeros((24, 64, 64), np.uint8)}, r"octmnist.size=64"),
    "no such size": ("octmnist", {"test_images": np.zeros((24, 30, 30), np.uint8)}, "copy the file again"),
    "an image for a volume": ("organmnist3d", {"val_images": GREY}, r"not \[n, 28, 28, 28\]"),
    "real numbers": ("octmnist", {"train_images": GREY.astype(np.float32)}, "is float32; images of MedMNIST are uint8"),
    "fewer labels": ("octmnist", {"train_labels": np.zeros((23, 1), np.uint8)}, r"is \[23, 1\] and not \[24, 1\]"),
    "labels side by side": ("octmnist", {"train_labels": np.zeros((24, 4), np.uint8)}, r"not \[24, 1\]"),
    "one label of fourteen": ("chestmnist", {"train_labels": np.zeros((24, 1), np.uint8)}, r"not \[24, 14\]"),
    "a label out of range": ("octmnist", {"val_labels": np.full((24, 1), 4, np.uint8)}, "label 4; they are 0 to 3"),
    "a label below": ("octmnist", {"val_labels": np.full((24, 1), -1, np.int8)}, "has a label -1"),
    "two of one label": ("chestmnist", {"test_labels": np.full((24, 14), 2, np.uint8)}, "label 2; they are 0 to 1"),
    "words": ("octmnist", {"train_labels": np.full((24, 1), "drusen")}, "labels of MedMNIST are whole numbers"),
    "pickled": ("octmnist", {"train_labels": np.full((24, 1), None, object)}, "nothing is unpickled"),
    "no image": ("octmnist", {"val_images": GREY[:0], "val_labels": np.zeros((0, 1), np.uint8)}, "val split has no"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_is_something_else_is_refused_in_a_sentence(tmp_path, case):
    name, changes, said = HOSTILE[case]
    write(tmp_path, name, **changes)
    with pytest.raises(DataError, match=said) as caught:
        build_task(f"medmnist:{name}").load(tmp_path).check()
    assert "\n" not in str(caught.value)


def test_damage_among_the_images_fails_every_sample_of_the_split(tmp_path):
    made = arrays("octmnist")
    np.savez(tmp_path / "octmnist.npz", **made)
    content = bytearray((tmp_path / "octmnist.npz").read_bytes())
    at = content.index(made["test_images"][12].tobytes())
    content[at] ^= 1
    (tmp_path / "octmnist.npz").write_bytes(content)
    raw = build_task("medmnist:octmnist").load(tmp_path).inputs["image"]
    assert raw.read(0).shape == (28, 28)
    for index in (48, 71):
        with pytest.raises(DataError, match="checksum is wrong"):
            raw.read(index)


def test_our_facts_are_those_of_the_package():
    pytest.importorskip("medmnist")
    told = facts_module._told_by_the_package()
    assert set(told) == set(DATA_SETS)
    for name, facts in DATA_SETS.items():
        assert told[name]._replace(downloads={}) == facts
        assert set(told[name].downloads) == set(facts.sizes)
    two = [name for name, facts in DATA_SETS.items() if len(facts.labels) == 2]
    assert two == [name for name, facts in DATA_SETS.items() if facts.task == BINARY], "the metrics tell them so"


def test_without_the_package_our_facts_are_read(monkeypatch):
    monkeypatch.setattr(facts_module, "_told_by_the_package", dict)
    assert facts_of("chestmnist") is DATA_SETS["chestmnist"] and not facts_of("chestmnist").downloads


@pytest.mark.parametrize("name", ["retinamnist", "chestmnist"])
def test_a_cells_numbers_are_those_of_the_packages_evaluator_on_the_file(folder, name):
    evaluator = pytest.importorskip("medmnist.evaluator").Evaluator(name, "test", root=str(folder))
    run = ran(spec(task=f"medmnist:{name}", encoder="pixels:2d", adapter="linear_probe"), folder)
    found = [run.evaluated.metrics[number].value for number in ("medmnist_auc", "medmnist_acc")]
    assert found == pytest.approx(list(evaluator.evaluate(run.arrays["scores"])), abs=1e-12)


def test_a_cell_has_both_kinds_of_numbers(folder):
    run = ran(spec(task="medmnist:pneumoniamnist", encoder="pixels:2d", adapter="linear_probe"), folder)
    metrics = run.evaluated.metrics
    scores, test = run.arrays["scores"], run.loaded.data.targets[run.loaded.splits["test"]]
    assert metrics["medmnist_acc"].value == pytest.approx(((scores[:, 1] > 0.5) == test).mean(), abs=1e-12)
    assert metrics["medmnist_auc"].value == pytest.approx(metrics["auc_macro"].value, abs=1e-12)
    assert metrics["medmnist_auc"].value > 0.9, "the place of a disc tells the classes apart"
    assert metrics["medmnist_acc"].n_subjects == len(test) and run.loaded.data.provenance["notes"] == [OWN_SUBJECT]


def test_one_file_is_as_good_as_its_folder(folder, tmp_path):
    """Whatever it is called; a phantom's is known for one by the folder that it lies in."""
    task = build_task("medmnist:breastmnist")
    whole, alone = task.load(folder).check(), task.load(folder / "breastmnist.npz").check()
    assert np.array_equal(whole.targets, alone.targets) and whole.given_test and alone.phantom
    assert alone.provenance["generator"] == "medmnist-1"
    made = write(tmp_path, "breastmnist")
    (tmp_path / "breastmnist.npz").rename(tmp_path / "mine.npz")
    data = task.load(tmp_path / "mine.npz").check()
    assert np.array_equal(data.inputs["image"].read(0), made["train_images"][0]) and not data.phantom
    with pytest.raises(DataError, match=r"breastmnist\.npz is not in"):
        task.load(tmp_path)
