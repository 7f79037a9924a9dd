"""GraftClassifier is an estimator: cloned, pickled, cross-validated by groups, and as good as its graft."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from own_data import picture
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GroupKFold, cross_val_score

import medgraft
from medgraft import GraftClassifier
from medgraft.errors import ConfigError, DataError, MedgraftError


def films(count: int = 36) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images with and without a bright square, two for each subject."""
    random = np.random.default_rng(0)
    images = random.integers(0, 90, (count, 32, 32)).astype(np.uint8)
    labels = np.array(["square" if k // 2 % 2 else "nothing" for k in range(count)])
    for k in np.flatnonzero(labels == "square"):
        row, column = random.integers(2, 14, 2)
        images[k, row : row + 14, column : column + 14] += 120
    return images, labels, np.array([f"p{k // 2}" for k in range(count)])


@pytest.fixture(scope="module")
def fitted() -> GraftClassifier:
    images, labels, patients = films()
    return GraftClassifier("phantom_chest", "lora", epochs=2).fit(images, labels, groups=patients)


def test_it_learns_and_gives_probabilities(fitted):
    images, labels, _ = films()
    p = fitted.predict_proba(images)
    assert p.shape == (36, 2) and np.allclose(p.sum(axis=1), 1) and fitted.classes_.tolist() == ["nothing", "square"]
    assert fitted.score(images, labels) > 0.8 and "auc_macro" in fitted.held_out_


def test_sets_are_those_of_the_saved_graft(fitted, tmp_path):
    images = films()[0][:6]
    inside = fitted.predict_sets(images)
    assert inside.shape == (6, 2) and inside.dtype == bool
    files = [tmp_path / f"{k}.png" for k in range(len(images))]
    for path, image in zip(files, images, strict=True):
        Image.fromarray(image).save(path)
    told = medgraft.load(fitted.save(tmp_path / "graft")).predict(files)["set"].tolist()
    assert told == ["|".join(np.array(["nothing", "square"])[row]) for row in inside]


def test_clone_and_pickle(fitted):
    images = films()[0][:4]
    fresh = clone(fitted)
    assert fresh.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        fresh.predict(images)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(images), fitted.predict_proba(images))


def test_the_same_seed_gives_the_same_classifier(fitted):
    images, labels, patients = films()
    again = clone(fitted).fit(images, labels, groups=patients)
    np.testing.assert_allclose(again.predict_proba(images), fitted.predict_proba(images), atol=1e-6)


@pytest.mark.slow
def test_cross_validation_with_groups():
    images, labels, patients = films()
    classifier = GraftClassifier(adapter="linear_probe")
    scores = cross_val_score(classifier, images, labels, groups=patients, cv=GroupKFold(3), error_score="raise")
    assert scores.shape == (3,) and scores.mean() > 0.7


@pytest.mark.slow
def test_paths_are_the_images_that_they_name(tmp_path):
    images, labels, patients = films()
    from PIL import Image

    paths = [tmp_path / f"{k}.png" for k in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    classifier = GraftClassifier(adapter="linear_probe").fit(paths, labels, groups=patients)
    np.testing.assert_allclose(classifier.predict_proba(paths), classifier.predict_proba(images), atol=1e-6)
    saved = medgraft.load(classifier.save(tmp_path / "graft"))
    np.testing.assert_allclose(
        saved.predict(paths[:5])["p:square"], classifier.predict_proba(paths[:5])[:, 1], atol=1e-6
    )


@pytest.mark.slow
def test_texts():
    texts = [f"{'large effusion' if k % 2 else 'clear lungs'} {k}" for k in range(30)]
    classifier = GraftClassifier("phantom_chest", "linear_probe").fit(texts, [k % 2 for k in range(30)])
    assert classifier.predict(["large effusion 99"]).shape == (1,)


@pytest.mark.parametrize(
    ("X", "y", "problem"),
    [
        ([], [], "there is no sample"),
        (np.zeros((4, 3), np.uint8), [0, 1, 0, 1], r"samples have \[1\] axes"),
        (films()[0], [0, 1], "36 samples have labels of shape"),
        (films()[0], [0] * 36, "there is nothing to tell apart"),
        (["a.png", "b.nii"], [0, 1], "give one kind"),
    ],
)
def test_samples_that_cannot_be_learnt(X, y, problem):
    with pytest.raises(DataError, match=problem):
        GraftClassifier().fit(X, y)


def test_names_that_do_not_exist(tmp_path: Path):
    images, labels, _ = films()
    with pytest.raises(MedgraftError, match="did you mean lora"):
        GraftClassifier(adapter="lorra").fit(images, labels)
    with pytest.raises(DataError):
        GraftClassifier(adapter="linear_probe").fit(
            [picture(tmp_path / "a.png"), tmp_path / "gone.png"] * 6, [0, 1] * 6
        )


def coloured(count: int = 24) -> np.ndarray:
    """Images ``[count, 24, 24, 3]`` of two hues in turns, of one brightness."""
    images = np.random.default_rng(0).integers(70, 110, (count, 24, 24, 3)).astype(np.int16)
    images[::2] += np.array((40, -20, -1), np.int16)
    images[1::2] -= np.array((40, -20, -1), np.int16)
    return images.astype(np.uint8)


def test_arrays_and_files_in_colour_are_read_in_colour(tmp_path):
    images, labels = coloured(), ["red", "green"] * 12
    paths = []
    for k, image in enumerate(images):
        paths.append(tmp_path / f"{k}.png")
        Image.fromarray(image).save(paths[-1])
    by_array = GraftClassifier("timm:test_vit@random").fit(images, labels)
    by_file = GraftClassifier("timm:test_vit@random", colour="rgb").fit(paths, labels)
    assert by_array.score(images, labels) == by_file.score(paths, labels) == 1
    np.testing.assert_allclose(by_array.predict_proba(images), by_file.predict_proba(paths), atol=1e-6)
    kept = medgraft.load(by_file.save(tmp_path / "graft"))
    assert kept.facts.colour and kept.predict(paths[:4])["prediction"].tolist() == labels[:4]
    assert GraftClassifier("timm:test_vit@random").fit(paths, labels).score(paths, labels) < 0.9, "grey: no hue"


def test_colour_is_grey_or_rgb_and_images_are_all_of_one_kind(tmp_path):
    images = coloured(4)
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="colour is 'bgr'; it is 'grey' or 'rgb'"):
        GraftClassifier(colour="bgr").fit([tmp_path / "a.png"] * 4, [0, 1, 0, 1])
    with pytest.raises(DataError, match=r"samples have \[2, 3\] axes; an image is uint8 \[H, W\] or \[H, W, 3\]"):
        GraftClassifier().fit([*images[:3], images[0, ..., 0]], [0, 1, 0, 1])
