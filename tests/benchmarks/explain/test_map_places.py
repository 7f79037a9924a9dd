"""Maps lie where the sample is: on images, on volumes in any orientation, on an encoder's own slices."""

from __future__ import annotations

import csv
import io
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tiny_encoders
import torch
from PIL import Image
from planted import SIDE, SpotCnn, SpotViT, grafted, scorer, spot

from medgraft import GraftClassifier, build_encoder
from medgraft.benchmarks.cohorts.volumes.load import load_spaced, load_volume
from medgraft.benchmarks.explain.geometry import shows_whole
from medgraft.benchmarks.explain.maps import Explanation, explain, spatial_modality
from medgraft.benchmarks.explain.pictures import _chosen
from medgraft.benchmarks.predict.explaining import COLUMNS, MapFolder
from medgraft.benchmarks.predict.predictor import Predictor
from medgraft.benchmarks.predict.samples import items_of
from medgraft.encoders.slices import spaced
from medgraft.errors import ConfigError, DataError

CLASSES = ("none", "spot")


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.int64)


@pytest.mark.parametrize("shape", [(70, 60), (300, 41), (9, 9)])
def test_an_encoder_that_resizes_shows_the_whole(shape):
    tower = tiny_encoders.shared("chest").towers()["image"]
    assert shows_whole(tower, np.zeros(shape, np.uint8))


def test_crops_slices_and_tiny_samples_do_not():
    cropping = tiny_encoders.shared("timm")

    class Cropping(type(cropping)):
        def prepare(self, raw):
            side = min(raw.shape)
            low = [(n - side) // 2 + side // 10 for n in raw.shape]
            return cropping.prepare(raw[low[0] : low[0] + side * 8 // 10, low[1] : low[1] + side * 8 // 10])

    crop = Cropping.__new__(Cropping)
    crop.__dict__.update(cropping.__dict__)
    assert not shows_whole(crop, np.zeros((70, 60), np.uint8))
    assert not shows_whole(tiny_encoders.shared("chest").towers()["image"], np.zeros((5, 90), np.uint8))


def test_volumes():
    tower = tiny_encoders.shared("brain").towers()["volume"]
    assert shows_whole(tower, spaced(np.ones((40, 50, 30), np.float32), (1, 2, 3)))
    turned = SpotCnn(3)
    turned.prepare = lambda raw: torch.as_tensor(np.asarray(raw, np.float32)).transpose(0, 2)[None]  # type: ignore
    assert not shows_whole(turned, np.ones((SIDE,) * 3, np.float32)) and shows_whole(SpotCnn(3), spot(3))


@pytest.mark.parametrize("axes", ["RAS", "LPS", "AIL"])
def test_a_map_of_a_volume_lies_on_it_in_millimetres(axes, tmp_path):
    """The file's own orientation does not matter: the brightest place of both is the same point of the world."""
    values = np.full((20, 24, 18), 1, np.float32)
    values[14:17, 4:7, 10:13] = 100
    affine = np.array([[2, 0, 0, -30], [0, 3, 0, 10], [0, 0, 4, 5], [0, 0, 0, 1.0]])
    image = nib.Nifti1Image(values, affine)
    wanted: Any = nib.orientations.axcodes2ornt(axes)
    change: Any = nib.orientations.ornt_transform(nib.orientations.io_orientation(affine), wanted)
    turned = image.as_reoriented(change)
    assert "".join(nib.aff2axcodes(turned.affine)) == axes
    nib.save(turned, tmp_path / "v.nii.gz")

    class Resizing(SpotViT):
        def prepare(self, raw):
            from medgraft.benchmarks.explain.geometry import resized

            return torch.as_tensor(resized(np.asarray(raw), (SIDE,) * 3))[None] / 100

    found = explain(scorer(grafted(Resizing(3))), load_spaced(tmp_path / "v.nii.gz"), "occlusion", CLASSES, "spot")
    _, read = load_volume(tmp_path / "v.nii.gz")
    saved: Any = nib.load(found.save_nifti(tmp_path / "map.nii.gz", read))
    place = np.unravel_index(np.asarray(saved.dataobj).argmax(), saved.shape)
    world = saved.affine @ [*place, 1]
    assert np.abs(world - affine @ [15, 5, 11, 1])[:3].max() <= 8, world
    assert not list(tmp_path.glob(".*"))


def test_pictures_show_the_map():
    found = explain(scorer(grafted(SpotCnn(2))), spot(2, 9), "occlusion", CLASSES, "spot")
    blank = Explanation(**{**vars(found), "heat": np.zeros_like(found.heat)})
    with_map, without = pixels(found.picture()), pixels(blank.picture())
    assert with_map.shape[2] == 3 and with_map.std() > 10 and (with_map != without).mean() > 0.005
    long = Explanation(**{**vars(found), "raw": np.zeros((5000, 30), np.uint8)})
    assert max(pixels(long.picture()).shape) < 2500


def test_slices_of_a_volume_show_the_place():
    found = explain(scorer(grafted(SpotCnn(3))), spot(3, 9), "occlusion", CLASSES, "spot")
    assert pixels(found.picture()).std() > 10
    for axis in range(3):
        chosen = _chosen(found.raw, found.heat, axis, 6)
        assert chosen == sorted(set(chosen)) and set(chosen) & {9, 10, 11} and len(chosen) <= 6


def test_slices_of_an_encoder_are_drawn_as_it_sees_them():
    encoder = build_encoder("inflate3d:slices=6:embedded:chest@random")
    raw = spaced(np.random.default_rng(0).uniform(1, 9, (30, 40, 36)).astype(np.float32), (1, 1, 1))
    made = scorer(grafted(encoder, seed=1))
    found = explain(made, raw, "gradcam", CLASSES)
    assert found.heat.shape == encoder.spec.input_size and not found.whole and found.heat.max() > 0
    assert pixels(found.picture()).std() > 10
    with pytest.raises(ConfigError, match="sees a crop, slices or padding"):
        _ = found.on_sample
    with pytest.raises(ConfigError, match="reads slices one by one; use gradcam or occlusion"):
        explain(made, raw, "rollout", CLASSES)


def test_texts_have_no_map():
    with pytest.raises(ConfigError, match="drawn on an image or a volume, and the graft reads text"):
        spatial_modality(("text",))
    assert spatial_modality(("text", "volume")) == "volume"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory) -> Predictor:
    random = np.random.default_rng(0)
    images = random.integers(0, 90, (24, 32, 32)).astype(np.uint8)
    images[::2, 8:22, 8:22] += 120
    classifier = GraftClassifier("phantom_chest", "lora", epochs=1).fit(images, ["square", "nothing"] * 12)
    return Predictor(classifier.save(tmp_path_factory.mktemp("graft") / "g"))


def rows(folder) -> list[dict[str, str]]:
    with (folder / "maps.csv").open() as handle:
        return list(csv.DictReader(handle))


def test_a_folder_of_maps_is_gone_on_with(predictor, tmp_path):
    random, new, out = np.random.default_rng(1), tmp_path / "in", tmp_path / "out"
    new.mkdir()

    def draw(*names: str) -> list[str]:
        for name in names:
            Image.fromarray(random.integers(0, 250, (30, 20)).astype(np.uint8)).save(new / name)
        return list(MapFolder(out, predictor, "rollout").draw(items_of([new], predictor.facts.inputs)))

    (new / "broken.png").write_bytes(b"x")
    done = draw("b.c.png", "d.png")
    assert done.count("ok") == 2 and len(done) == 3
    found = rows(out)
    assert tuple(found[0])[:-1] == COLUMNS
    assert {row["class"] for row in found if row["status"] == "ok"} <= set(predictor.facts.classes)
    pictures = {row["picture"]: (out / row["picture"]).read_bytes() for row in found if row["picture"]}
    assert {name[5:] for name in pictures} == {"b.c.png", "d.png"}
    assert draw("a.png") == ["ok"] and len(rows(out)) == 4 and len(list(out.glob("*.png"))) == 3
    assert {name: (out / name).read_bytes() for name in pictures} == pictures
    with pytest.raises(DataError, match="name another"):
        MapFolder(out, predictor, "rollout", predictor.facts.classes[0])


def test_in_python(predictor, tmp_path):
    image = np.random.default_rng(3).integers(0, 250, (30, 20)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "x.png")
    by_file, by_array = (
        predictor.explain(each, "gradcam", "square") for each in (tmp_path / "x.png", {"image": image})
    )
    np.testing.assert_array_equal(by_file.heat, by_array.heat)
    number = predictor.facts.classes.index("square")
    assert by_file.score == pytest.approx(predictor.scores([{"image": image}])[0, number], abs=1e-6)
    assert by_file.on_sample.shape == (30, 20)
    with pytest.raises(DataError, match="this one has no image"):
        predictor.explain({"volume": image}, "gradcam")
    with pytest.raises(DataError, match="a sample"):
        predictor.explain({"image": image.astype(np.float32)}, "gradcam")
