"""Reading weights without running code, and adapter folders that only fit where they belong."""

from __future__ import annotations

import io
import json
import os
import zipfile

import pytest
import tiny_encoders as tiny
import torch
from safetensors.torch import save_file
from torch import nn

from medgraft.adapters.linear_probe import LinearProbe
from medgraft.adapters.lora import Lora
from medgraft.checkpoints import folder as checkpoint
from medgraft.checkpoints.folder import CONFIG_NAME, WEIGHTS_NAME
from medgraft.checkpoints.model_card import CARD_NAME
from medgraft.checkpoints.opening import load_graft
from medgraft.checkpoints.weights import file_digest, load_strict, read_weights, state_digest
from medgraft.errors import CheckpointError
from medgraft.grafting import Grafted, graft

pytestmark = pytest.mark.usefixtures("seeded")
STATE = {"a": torch.arange(6.0).view(2, 3), "b.c": torch.ones(2, dtype=torch.int64)}


def same(found: dict, wanted: dict) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


# -- weights files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    save_file(STATE, tmp_path / "w.safetensors")
    torch.save(STATE, tmp_path / "w.pt")
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    return tmp_path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "old.pth"])
def test_each_format_is_read(files, name):
    assert same(read_weights(files / name), STATE)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_a_wrapper_of_a_training_script_is_opened(tmp_path, wrapper):
    torch.save({wrapper: STATE, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "w.pt")
    assert same(read_weights(tmp_path / "w.pt"), STATE)


class Code:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_the_code_does_not_run(tmp_path, zipped):
    torch.save({"a": Code(tmp_path / "ran")}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"w\.pt is refused: it holds more than tensors.*safetensors"):
        read_weights(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "old.pth"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_file_is_a_checkpoint_error(files, name, keep):
    whole = (files / name).read_bytes()
    (files / name).write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        read_weights(files / name)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("seed", range(20))
def test_a_file_of_noise_is_a_checkpoint_error(tmp_path, name, seed):
    noise = torch.randint(0, 256, (64,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    (tmp_path / name).write_bytes(bytes(noise.tolist()))
    with pytest.raises(CheckpointError):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("first", range(0x28, 0x7F))
def test_a_pickle_that_starts_with_any_opcode_is_a_checkpoint_error(tmp_path, first):
    (tmp_path / "w.pt").write_bytes(bytes([0x80, 2, first]) + b"x\n.")
    with pytest.raises(CheckpointError):
        read_weights(tmp_path / "w.pt")


def test_a_zip_of_something_else_is_a_checkpoint_error(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "hello")
    (tmp_path / "w.pt").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [[torch.ones(2)], {"a": 1.0}, {0: torch.ones(2)}, torch.ones(2)])
def test_what_is_no_table_of_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="not a table of tensors"):
        read_weights(tmp_path / "w.pt")


def test_a_missing_file_and_a_folder_are_checkpoint_errors(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(CheckpointError, match="does not exist"):
            read_weights(path)


def test_the_right_checksum_passes_and_a_wrong_one_is_refused_before_reading(files, monkeypatch):
    path = files / "w.pt"
    assert same(read_weights(path, file_digest(path)), STATE)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("read before it was checked"))
    with pytest.raises(CheckpointError, match=r"has sha256 [0-9a-f]{16}\.\.\., expected 0{16}\.\.\."):
        read_weights(path, "0" * 64)


# -- loading into a module --------------------------------------------------------------------------------------------


def test_every_key_that_does_not_fit_is_named():
    state = {"weight": torch.ones(2, 4), "extra": torch.ones(1)}
    wanted = (
        r"w\.pt does not fit: missing: bias; unexpected: extra; of another shape: weight is \(2, 4\), expected \(2, 3\)"
    )
    with pytest.raises(CheckpointError, match=wanted):
        load_strict(nn.Linear(3, 2), state, "w.pt")


def test_many_keys_are_counted():
    with pytest.raises(CheckpointError, match=r"unexpected: k0, k1, k2, k3, k4, k5 and 4 more"):
        load_strict(nn.Identity(), {f"k{i}": torch.ones(1) for i in range(10)}, "w.pt")


def test_nothing_is_loaded_where_something_does_not_fit():
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    with pytest.raises(CheckpointError):
        load_strict(layer, {"weight": torch.ones(2, 3)}, "w.pt")
    assert torch.equal(layer.weight, before)


def test_a_digest_tells_apart_the_same_bytes_under_another_name_shape_or_type():
    tables = [
        {"a": torch.zeros(2, 3)},
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3, dtype=torch.int32)},
    ]
    holders = []
    for table in tables:
        holder = nn.Module()
        for name, tensor in table.items():
            holder.register_buffer(name, tensor)
        holders.append(state_digest(holder))
    assert len(set(holders)) == 4


def test_a_digest_sees_values_names_shapes_and_types():
    layers = [
        nn.Linear(2, 2),
        nn.Linear(2, 2),
        nn.Conv1d(2, 2, 1),
        nn.Linear(2, 2).to(torch.bfloat16),
        nn.BatchNorm1d(2),
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    digests = [state_digest(layer) for layer in layers]
    assert digests[0] == digests[1] and len(set(digests)) == 4
    with torch.no_grad():
        layers[1].bias[0] += 1e-6
    assert state_digest(layers[1]) != digests[0]


# -- adapter folders --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A trained LoRA on the tiny timm encoder, with a head."""
    grafted = graft(tiny.fresh("timm"), "lora", head=nn.Linear(48, 3), rank=2)
    with torch.no_grad():
        for parameter in grafted.adapters.parameters():
            parameter.normal_()
    return grafted.save(tmp_path / "adapter")


def target(**options):
    return graft(tiny.fresh("timm"), "lora", head=nn.Linear(48, 3), **{"rank": 2, **options})


def rewrite(folder, **changes):
    config = json.loads((folder / CONFIG_NAME).read_text())
    config = {key: value for key, value in {**config, **changes}.items() if value is not None}
    (folder / CONFIG_NAME).write_text(json.dumps(config))


def test_the_folder_holds_a_readable_description_and_safetensors(folder):
    config = json.loads((folder / CONFIG_NAME).read_text())
    assert sorted(path.name for path in folder.iterdir()) == [CARD_NAME, CONFIG_NAME, WEIGHTS_NAME]
    assert config["adapters"]["lora"]["config"]["rank"] == 2 and config["head"] == "Linear"
    assert config["base_encoder"]["name"].startswith("timm:") and config["format_version"] == 2
    assert config["adapters"]["lora"]["plugin"] == "lora" and config["active"] == ["lora"]


def test_it_loads_where_it_belongs(folder):
    grafted = target()
    assert grafted.load(folder) is grafted
    assert grafted.adapters["lora"].delta["blocks/0/attn/q"].B.any()


@pytest.mark.parametrize("change", ["one weight", "another model"])
def test_another_encoder_is_refused(folder, change):
    encoder = tiny.fresh("timm") if change == "one weight" else tiny.MhaViT(dim=48)
    with torch.no_grad():
        next(encoder.parameters()).add_(1e-3)
    grafted = graft(encoder, "lora", head=nn.Linear(48, 3), rank=2)
    with pytest.raises(CheckpointError, match=r"was trained on encoder 'timm:.*; this encoder, '"):
        grafted.load(folder)


def test_other_options_are_refused(folder):
    with pytest.raises(CheckpointError, match=r"'lora' was saved with other options.*'rank': 2"):
        target(alpha=3.0).load(folder)


def test_a_folder_with_a_head_asks_for_one(folder):
    with pytest.raises(CheckpointError, match="graft with a head"):
        graft(tiny.fresh("timm"), "lora", rank=2).load(folder)


def test_a_head_of_another_shape_is_refused(folder):
    with pytest.raises(CheckpointError, match=r"head\.weight is \(3, 48\), expected \(5, 48\)"):
        graft(tiny.fresh("timm"), "lora", head=nn.Linear(48, 5), rank=2).load(folder)


@pytest.mark.parametrize(
    "adapters", [{"probe": LinearProbe()}, {"lora": Lora(Lora.Config(rank=2)), "p": LinearProbe()}]
)
def test_other_adapters_are_refused_even_where_they_hold_no_weights(folder, adapters):
    with pytest.raises(CheckpointError, match="holds adapters lora; this graft has"):
        Grafted(tiny.fresh("timm"), adapters, nn.Linear(48, 3)).load(folder)


def test_a_folder_without_a_description_is_no_adapter_folder(folder):
    (folder / CONFIG_NAME).unlink()
    with pytest.raises(CheckpointError, match="not an adapter folder"):
        target().load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\x00\xff"])
def test_a_damaged_description_is_a_checkpoint_error(folder, text):
    (folder / CONFIG_NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=CONFIG_NAME):
        target().load(folder)


@pytest.mark.parametrize(("version", "advice"), [(0, ""), (3, "; it needs a newer medgraft"), ("1", ""), (None, "")])
def test_another_format_version_is_refused(folder, version, advice):
    rewrite(folder, format_version=version)
    with pytest.raises(CheckpointError, match=f"this medgraft reads 2{advice}$"):
        target().load(folder)


def test_a_folder_of_the_first_version_is_brought_up(folder):
    config = json.loads((folder / CONFIG_NAME).read_text())
    adapters = {name: {k: v for k, v in a.items() if k != "plugin"} for name, a in config["adapters"].items()}
    rewrite(folder, format_version=1, adapters=adapters, active=None, weights_sha256=None)
    grafted = load_graft(folder, tiny.fresh("timm"), nn.Linear(48, 3))
    assert grafted.active == ("lora",) and grafted.adapters["lora"].delta["blocks/0/attn/q"].B.any()


def test_a_folder_says_what_graft_it_is(folder, tmp_path):
    saved = target().load(folder)
    saved.add("second", Lora(Lora.Config(rank=1, targets=("out",))))
    saved.activate("lora")
    folder = saved.save(tmp_path / "two")
    opened = load_graft(folder, tiny.fresh("timm"), nn.Linear(48, 3))
    assert list(opened.adapters) == ["lora", "second"] and opened.active == ("lora",) and not opened.training
    for key, value in saved.adapters.state_dict().items():
        assert torch.equal(opened.adapters.state_dict()[key], value)
    x = tiny.batch(opened.encoder)["image"]
    assert torch.equal(opened(x).tokens, saved.eval()(x).tokens)


def test_a_folder_names_its_encoder(tmp_path):
    folder = graft("embedded:chest", "lora", rank=1).save(tmp_path)
    assert load_graft(folder).encoder.spec.name == "embedded:chest"


def test_an_adapter_that_no_plugin_registers_is_named(tmp_path):
    class Own(Lora):
        pass

    folder = graft(tiny.fresh("timm"), Own(Lora.Config(rank=1))).save(tmp_path)
    with pytest.raises(CheckpointError, match=r"Own, which no installed plugin registers"):
        load_graft(folder, tiny.fresh("timm"))


def test_weights_of_another_save_are_refused(folder, tmp_path):
    other = target().save(tmp_path / "other")
    (other / WEIGHTS_NAME).replace(folder / WEIGHTS_NAME)  # as a save that was killed between its two files
    with pytest.raises(CheckpointError, match="sha256"):
        target().load(folder)


def test_the_card_says_what_it_is_and_spares_a_persons_own_text(folder):
    text = (folder / CARD_NAME).read_text()
    assert "base_model: timm:" in text and "LoRA: Low-Rank" in text and "load_graft" in text and "| head |" in text
    (folder / CARD_NAME).write_text("mine")
    target().save(folder)
    assert (folder / CARD_NAME).read_text() == "mine"


@pytest.mark.parametrize("key", ["base_digest", "base_encoder", "adapters"])
def test_an_incomplete_description_names_what_it_lacks(folder, key):
    rewrite(folder, **{key: None})
    with pytest.raises(CheckpointError, match=f"lacks {key}"):
        target().load(folder)


def test_missing_weights_are_a_checkpoint_error(folder):
    (folder / WEIGHTS_NAME).unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        target().load(folder)


def test_weights_with_another_key_are_refused(folder):
    save_file({**read_weights(folder / WEIGHTS_NAME), "adapters.lora.more": torch.ones(1)}, folder / WEIGHTS_NAME)
    rewrite(folder, weights_sha256=file_digest(folder / WEIGHTS_NAME))
    with pytest.raises(CheckpointError, match=r"unexpected: adapters\.lora\.more"):
        target().load(folder)


@pytest.mark.parametrize("failing", ["save_file", "replace"])
def test_a_save_that_fails_leaves_the_old_files_whole(folder, monkeypatch, failing):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint if failing == "save_file" else os, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        target().save(folder)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_second_save_takes_the_place_of_the_first(folder):
    grafted = target()
    grafted.save(folder)
    fresh = graft(tiny.fresh("timm"), "lora", head=nn.Linear(48, 3), rank=2).load(folder)
    assert not fresh.adapters["lora"].delta["blocks/0/attn/q"].B.any()
