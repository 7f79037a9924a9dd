"""What a source of encoders may be, and names that are checked against it."""

from __future__ import annotations

import pytest

from medgraft import sources
from medgraft.errors import CheckpointError, ConfigError, MedgraftError, PluginError, UnknownNameError
from medgraft.registry import build_encoder, check_encoder


class Static:
    api_version = 1
    models = staticmethod(lambda: {"tiny": "one layer", "small": "two"})

    @staticmethod
    def build(model, weights="default", sha256=None):
        return f"{model}@{weights}"


class Bound:
    """Instance methods only."""

    api_version = 1

    def models(self):
        return {"tiny": "one layer"}

    def build(self, model, weights="default"):
        return f"{type(self).__name__} {model}@{weights}"


class NeedsMore(Bound):
    def __init__(self, folder):
        self.folder = folder


class Hub(Static):
    hub_ids = True
    asked: tuple[str, str] | None = None

    @classmethod
    def check(cls, model, weights):
        cls.asked = (model, weights)


def test_a_class_of_instance_methods_becomes_an_instance():
    found = sources.usable(Bound)
    assert found.build("tiny", "random") == "Bound tiny@random" and found.models() == {"tiny": "one layer"}
    assert sources.usable(Static) is Static
    own = Bound()
    assert sources.usable(own) is own


def test_a_class_that_cannot_be_made_is_refused_with_the_remedy():
    with pytest.raises(
        PluginError, match=r"models\(\) and build\(\) need an instance.*folder.*static or class methods"
    ):
        sources.usable(NeedsMore)


@pytest.mark.parametrize(
    "build", [lambda: None, lambda model: None, lambda *, model, weights: None], ids=["none", "one", "keywords"]
)
def test_a_build_of_another_form_is_refused(build):
    kind = type("Source", (Static,), {"build": staticmethod(build)})
    with pytest.raises(PluginError, match=r"cannot be called as build\(model, weights\)"):
        sources.usable(kind)


@pytest.mark.parametrize(
    "models", [lambda: ["tiny"], lambda: {"tiny": 3}, lambda: 1 / 0], ids=["list", "no line", "error"]
)
def test_a_table_of_models_that_is_none_is_an_error(models):
    with pytest.raises(PluginError, match=r"'toy'.*models"):
        sources.check(type("Source", (Static,), {"models": staticmethod(models)}), "toy", "tiny", "default")


@pytest.mark.parametrize(
    "model", ["../../x", "a/b", "a\\b", "..", ".", "", "  ", " tiny", "ti\x00ny", "tiny\n", "t\u202einy"]
)
def test_names_that_are_none_are_refused_everywhere(model):
    with pytest.raises(MedgraftError):
        sources.check(Static, "toy", model, "random")


@pytest.mark.parametrize("model", ["", "ti\x00ny", "tiny\n"])
def test_a_source_of_hub_ids_takes_no_malformed_names_either(model):
    with pytest.raises(ConfigError):
        sources.check(Hub, "toy", model, "random")


def test_a_source_of_hub_ids_decides_itself():
    sources.check(Hub, "toy", "owner/name", "a tag of its own")
    assert Hub.asked == ("owner/name", "a tag of its own")


def test_a_near_model_is_suggested():
    sources.check(Static, "toy", "tiny", "default")
    with pytest.raises(UnknownNameError, match="toy encoder 'tinny'; did you mean tiny"):
        sources.check(Static, "toy", "tinny", "default")


def test_weights_are_a_keyword_or_on_this_disk(tmp_path):
    (tmp_path / "w.safetensors").touch()
    for weights in ("default", "pretrained", "random", "none", str(tmp_path), str(tmp_path / "w.safetensors")):
        sources.check(Static, "toy", "tiny", weights)
    for weights in ("/nonexistent", "w.pt", "../w", "~/nothing-here"):
        with pytest.raises(CheckpointError, match=r"toy:tiny.*do not exist"):
            sources.check(Static, "toy", "tiny", weights)
    with pytest.raises(UnknownNameError, match="did you mean random"):
        sources.check(Static, "toy", "tiny", "randm")
    with pytest.raises(ConfigError, match="control characters"):
        sources.check(Static, "toy", "tiny", "ran\x1bdom")


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("embedded:chst", UnknownNameError, "chest"),
        ("embedded:chest@randm", UnknownNameError, "random"),
        ("embedded:chest@/nonexistent", CheckpointError, "do not exist"),
        ("embedded:../../x", ConfigError, "looks like a path"),
        ("embedded:", ConfigError, "names no model"),
        ("pixels:2d/", ConfigError, "looks like a path"),
        ("monai:resnet11", UnknownNameError, "resnet10"),
        ("timm:vit_tny_patch16_224", UnknownNameError, "vit_tiny_patch16_224"),
        ("timm:../../x", ConfigError, "hub id"),
        ("timm:vit_tiny_patch16_224@/nonexistent", CheckpointError, "do not exist"),
        ("transformers:dinov4@random", UnknownNameError, "dinov2"),
        ("transformers:../../x", ConfigError, "hub id"),
        ("transformers:/nonexistent/folder", ConfigError, "hub id"),
        ("transformers:a/b/c", ConfigError, "hub id"),
        ("open_clip:ViT-B-33@random", UnknownNameError, "ViT-B-32"),
        ("open_clip:../x", ConfigError, "hub id"),
        ("open_clip:ViT-B-32@laion2b_s34b", UnknownNameError, "laion2b_s34b_b79k"),
        ("pair:embedded:chst@random|transformers:bert@random", UnknownNameError, "chest"),
        ("pair:embedded:chest", ConfigError, "form"),
        ("inflate3d:timm:vit_tny_patch16_224@random", UnknownNameError, "vit_tiny"),
        ("inflate3d:slices=4", ConfigError, "names no 2D encoder"),
    ],
)
def test_names_of_ours_are_checked_before_anything_is_built(name, error, said):
    for check in (check_encoder, build_encoder):
        with pytest.raises(error, match=said):
            check(name)


@pytest.mark.parametrize(
    "name",
    [
        "embedded:chest@random",
        "timm:vit_tiny_patch16_224",
        "timm:hf-hub:timm/vit_tiny_patch16_224",
        "transformers:microsoft/rad-dino",
        "transformers:qwen3@random",
        "open_clip:ViT-B-32@laion2b_s34b_b79k",
        "open_clip:hf-hub:owner/name",
        "pair:embedded:chest@random|transformers:bert@random",
        "inflate3d:slices=4:timm:vit_tiny_patch16_224@random",
    ],
)
def test_names_that_are_right_pass_without_building_or_fetching(name):
    assert check_encoder(name).full == name


def test_an_open_clip_folder_names_its_own_model(tmp_path):
    (tmp_path / "open_clip_config.json").write_text("{}")
    assert check_encoder(f"open_clip:mine@{tmp_path}").model == "mine"
    with pytest.raises(UnknownNameError):
        check_encoder("open_clip:mine@random")
