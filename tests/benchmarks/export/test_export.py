"""What is exported gives what the graft gives, and is there whole or not at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_grafts import kept
from safetensors.numpy import load_file
from typer.testing import CliRunner

import medgraft
from medgraft.benchmarks.commands.main import app
from medgraft.benchmarks.export import exchange, writing
from medgraft.benchmarks.export.served import Served, apart, check_rows, examples
from medgraft.benchmarks.export.writing import export
from medgraft.benchmarks.predict.predictor import Predictor
from medgraft.errors import ConfigError, MedgraftError


@pytest.fixture(scope="module")
def graft(tmp_path_factory) -> Path:
    return kept(tmp_path_factory.mktemp("kept") / "g")


@pytest.fixture(scope="module")
def predictor(graft) -> Predictor:
    return Predictor(graft)


def images(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(4)
    return [{"image": random.integers(0, 250, (40 + k, 50), dtype=np.uint8)} for k in range(count)]


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def prepared(predictor: Predictor, count: int) -> np.ndarray:
    return np.stack([predictor.towers["image"].prepare(each["image"]).numpy() for each in images(count)])


@pytest.fixture(scope="module")
def onnx_file(graft, tmp_path_factory) -> tuple[Path, writing.Exported]:
    out = tmp_path_factory.mktemp("onnx") / "m.onnx"
    return out, export(graft, "onnx", out)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_onnx_runtime_gives_the_grafts_probabilities(onnx_file, predictor, count):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_file[0]), providers=["CPUExecutionProvider"])
    logits, p = map(np.asarray, session.run(["logits", "probabilities"], {"image": prepared(predictor, count)}))
    np.testing.assert_allclose(p, predictor.scores(images(count)), atol=1e-4)
    np.testing.assert_allclose(softmax(logits), p, atol=1e-6)


def test_what_stands_beside_a_file(onnx_file, predictor):
    import onnx
    from huggingface_hub import ModelCard

    out, done = onnx_file
    assert sorted(path.name for path in out.parent.iterdir()) == ["m.onnx", "m.onnx.json", "m.onnx.md"]
    facts = json.loads((out.parent / "m.onnx.json").read_text())
    assert facts["check"]["largest_difference"] == done.difference < 1e-4 and facts["check"]["batches"] == [3, 1, 7]
    given = facts["inputs"]["image"]
    raw = eval(given["example"]["raw"], {"medgraft": _with_modality(), "numpy": np})
    again = eval(given["prepare"], {"medgraft": medgraft, "raw": raw})
    assert given["shape"][1:] == list(again.shape) and given["dtype"] == "float32"
    np.testing.assert_allclose(again.flatten()[:4], given["example"]["prepared_first"], rtol=1e-6)
    assert facts["outputs"]["probabilities"] == {"shape": ["batch", 2], "is": "softmax of the logits"}
    model = onnx.load(str(out))
    onnx.checker.check_model(model)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    stored = json.loads(next(each.value for each in model.metadata_props if each.key == "medgraft"))
    assert stored["graft"] == facts["graft"] and stored["classes"] == ["a", "b"]
    assert "onnxruntime.InferenceSession" in ModelCard.load(out.parent / "m.onnx.md").content


def _with_modality() -> Any:
    import medgraft.modality

    return medgraft


def test_torchscript(graft, predictor, tmp_path):
    done = export(graft, "torchscript", tmp_path / "m.pt")
    extra = {"medgraft.json": ""}
    model = torch.jit.load(str(tmp_path / "m.pt"), _extra_files=extra)
    with torch.no_grad():
        _, p = model(torch.from_numpy(prepared(predictor, 4)))
    np.testing.assert_allclose(p, predictor.scores(images(4)), atol=1e-5)
    assert done.difference is not None and done.difference < 1e-5
    assert json.loads(extra["medgraft.json"])["kind"] == "torchscript"


def test_merged_weights_are_used_as_they_say(graft, predictor, tmp_path):
    """By hand: a bare encoder with these weights, and the head's formula in NumPy."""
    export(graft, "merged", tmp_path / "m")
    state = load_file(tmp_path / "m" / "model.safetensors")
    usage = json.loads((tmp_path / "m" / "medgraft.json").read_text())["usage"]
    bare = medgraft.build_encoder(predictor.facts.encoder).towers()["image"]
    before = bare(torch.from_numpy(prepared(predictor, 3))).pooled
    bare.load_state_dict({k.removeprefix("encoder."): torch.from_numpy(v) for k, v in state.items() if k[:4] == "enco"})
    with torch.no_grad():
        x = bare(torch.from_numpy(prepared(predictor, 3))).pooled.numpy()
    logits = ((x - state["head.mean"]) / state["head.deviation"]) @ state["head.linear.weight"].T
    np.testing.assert_allclose(softmax(logits + state["head.linear.bias"]), predictor.scores(images(3)), atol=1e-4)
    assert np.abs(x - before.detach().numpy()).max() > 0.01 and "head.linear.weight" in usage["head"]


def test_a_folder_for_hugging_face(graft, predictor, tmp_path):
    done = export(graft, "hf", tmp_path / "m")
    assert done.difference is not None and done.difference < 1e-4
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        *("README.md", "config.json", "graft", "medgraft.json", "model.safetensors")
    }
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["id2label"] == {"0": "a", "1": "b"} and config["model_type"] == "medgraft"
    again = medgraft.load(tmp_path / "m")
    np.testing.assert_array_equal(again.scores(images(2)), predictor.scores(images(2)))


def test_a_merged_model_of_transformers_is_opened_by_auto_model(tmp_path):
    from transformers import AutoModel, ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    torch.manual_seed(0)
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    name = f"transformers:vit@{tmp_path / 'vit'}"
    made = Predictor(kept(tmp_path / "g", encoder=name))
    done = export(tmp_path / "g", "hf", tmp_path / "m")
    assert "AutoModel" in done.note and (tmp_path / "m" / "preprocessor_config.json").is_file()
    x = torch.from_numpy(prepared(made, 2))
    with torch.no_grad():
        found = AutoModel.from_pretrained(tmp_path / "m").eval()(pixel_values=x).last_hidden_state
        bare = AutoModel.from_pretrained(tmp_path / "vit").eval()(pixel_values=x).last_hidden_state
        tokens = made.grafted(x).tokens
    assert float((found - tokens).abs().max()) < 1e-4 < float((bare - tokens).abs().max())
    head = load_file(tmp_path / "m" / "head.safetensors")
    logits = ((found[:, 0].numpy() - head["mean"]) / head["deviation"]) @ head["linear.weight"].T + head["linear.bias"]
    np.testing.assert_allclose(softmax(logits), made.scores(images(2)), atol=1e-4)
    np.testing.assert_array_equal(medgraft.load(tmp_path / "m").scores(images(2)), made.scores(images(2)))


@pytest.mark.slow
def test_numbers_and_image_with_text(tmp_path):
    import onnxruntime

    state = {"mean": 60.0, "deviation": 9.0}
    folder = kept(tmp_path / "g", "linear_probe", objective="regression", inputs=("image", "text"), state=state)
    made = Predictor(folder)
    export(folder, "onnx", tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    rows = examples(made, 2, seed=9)
    value = session.run(["value"], {name: x.numpy() for name, x in rows.items()})[0]
    np.testing.assert_allclose(np.asarray(value), made.scores_of(rows), rtol=1e-4)
    assert json.loads((tmp_path / "m.onnx.json").read_text())["inputs"]["text"]["dtype"] == "int64"


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["vpt", "ace_hgnn", "attentive_probe", "ssf", "logistic"])
def test_adapters_of_other_kinds(adapter, tmp_path):
    done = export(kept(tmp_path / "g", adapter), "onnx", tmp_path / "m.onnx")
    assert done.difference is not None and done.difference < 1e-4


@pytest.mark.slow
def test_bf16_grafts_are_written_in_single_precision(tmp_path):
    done = export(kept(tmp_path / "g", precision="bf16_frozen"), "torchscript", tmp_path / "m.pt")
    assert done.difference is not None and done.difference < 1e-5
    assert done.rounding is not None and 1e-6 < done.rounding < 0.1


@pytest.mark.parametrize(
    ("adapter", "kind", "problem"),
    [
        ("knn", "onnx", "adapter 'knn' cannot be exported: it holds the features of every training sample"),
        ("vpt", "merged", "cannot merge vpt: it has no form that is a change of the weights alone"),
        ("lora", "onnxx", "unknown kind of export 'onnxx'; did you mean onnx"),
    ],
)
def test_what_cannot_be_exported(adapter, kind, problem, tmp_path):
    folder = kept(tmp_path / "g", adapter)
    with pytest.raises(ConfigError, match=problem):
        export(folder, kind, tmp_path / "out" / "m.onnx")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda run: lambda rows: [value + 1e-3 for value in run(rows)], "differ from the graft's by 0.001"),
        (lambda run: lambda rows: [value[:1] for value in run(rows)], "differ from the graft's by inf"),
        (lambda run: lambda rows: [value * float("nan") for value in run(rows)], "differ from the graft's by inf"),
        (lambda run: lambda rows: run({"image": rows["imagee"]}), "TorchScript does not run a batch of 3"),
    ],
)
def test_a_file_that_does_not_agree_is_not_kept(graft, change, problem, tmp_path, monkeypatch):
    write = exchange.write_torchscript
    monkeypatch.setattr(writing, "write_torchscript", lambda *given: change(write(*given)))
    with pytest.raises(ConfigError, match=problem):
        export(graft, "torchscript", tmp_path / "m.pt")
    assert not list(tmp_path.iterdir())


def test_a_failing_exporter_leaves_nothing(graft, tmp_path, monkeypatch):
    def fail(*given: Any, **more: Any) -> None:
        raise RuntimeError("Dynamic control flow\nis not supported")

    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(ConfigError, match="cannot be written as ONNX: RuntimeError: Dynamic control flow is not"):
        export(graft, "onnx", tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_without_the_extra_one_sentence(graft, missing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=r"--to onnx needs .*pip install 'medgraft\[export\]'"):
        export(graft, "onnx", tmp_path / "m.onnx")


def test_results_that_depend_on_the_batch_are_refused(predictor):
    class Centred(Served):
        def forward(self, *batches):
            return tuple(value - value.mean(dim=0) for value in super().forward(*batches))

    check_rows(Served(predictor), [examples(predictor, 3)])
    with pytest.raises(ConfigError, match="with the samples beside it in the batch"):
        check_rows(Centred(predictor), [examples(predictor, 3)])


def test_apart():
    assert apart([np.array([1.0, 100.0])], [torch.tensor([1.0, 100.1])]) == pytest.approx((0.1, 0.000999), rel=1e-2)
    assert apart([np.zeros(2)], [torch.zeros(3)]) == (float("inf"), float("inf"))


def test_places_that_are_taken_or_no_file(graft, tmp_path):
    (tmp_path / "m.onnx.json").write_text("{}")
    for kind, out, problem in [
        ("onnx", "m.onnx", "m.onnx.json is there already; name another --out"),
        ("torchscript", "m", "is to be a file of TorchScript; name it .*m.pt"),
        ("hf", ".", "is there already"),
    ]:
        with pytest.raises(ConfigError, match=problem):
            export(graft, kind, tmp_path / out)


def test_from_the_command_line(graft, tmp_path):
    runner = CliRunner()
    done = runner.invoke(app, ["export", str(graft), "--to", "torchscript", "--out", str(tmp_path / "m.pt")])
    assert done.exit_code == 0 and "largest difference from the graft in float32" in done.stdout, done.output
    assert "PHANTOM" in done.stdout and (tmp_path / "m.pt.json").is_file()
    again = runner.invoke(app, ["export", str(graft), "--to", "torchscript", "--out", str(tmp_path / "m.pt")])
    assert again.exit_code == 2
    with pytest.raises(MedgraftError, match=r"holds no prediction\.json"):
        export(tmp_path, "onnx", tmp_path / "x.onnx")
