"""A modality of another distribution from its table to a result, and modalities that no built-in encoder reads yet."""

from __future__ import annotations

from pathlib import Path
from unittest import SkipTest

import numpy as np
import pytest
import torch
from distributions import install, install_groups
from sweeping import Toy, command
from torch import Tensor, nn

from medgraft import Grafted, plugins
from medgraft.adapters.lora import Lora
from medgraft.benchmarks.results.reading import read_results
from medgraft.encoder import Encoder, EncoderSpec, MultimodalEncoder
from medgraft.encoder.attention import AttentionLayout
from medgraft.errors import ConfigError, DataError, PluginError, UnknownNameError
from medgraft.features import Features
from medgraft.losses import label_guided_info_nce
from medgraft.modalities.signal import Recording
from medgraft.modality import find_modality
from medgraft.objective import modalities, pair_of
from medgraft.task import Task, TaskData
from medgraft.testing import check_encoder

SOURCE = '''
"""Spectra: their modality, an encoder that reads them, and a task."""

import numpy as np
import torch
from medgraft.encoder.attention import AttentionLayout
from medgraft.encoder import Encoder, EncoderSpec
from medgraft.features import Features
from medgraft.modality import Modality
from medgraft.task import RawInputs
from medgraft_toy import ToyTask
from torch import nn


class Spectrum(Modality):
    """Counts by energy."""

    name, raw, rank = "spectrum", "a spectrum, float32 [64]", 1

    def example(self, random):
        return random.random(64, dtype=np.float32)

    def augmentation(self):
        return {"gain": 0.1}

    def view(self, x, index, view):
        return x * (1 + 0.1 * view)


class SpectrumEncoder(Encoder):
    api_version, has_cls = 1, False
    models = staticmethod(lambda: {"tiny": "one layer of attention"})

    def __init__(self):
        facts = {"modality": "spectrum", "input_size": (64,), "dim": 16, "heads": 2, "weights": "random"}
        super().__init__(EncoderSpec(name="spectra:tiny", pooling="mean", **facts))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.patches = nn.Linear(8, 16)
            self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.attention = [AttentionLayout("mha", "attend", 2, 16)]

    def prepare(self, raw):
        return torch.as_tensor(raw)[None]

    def encode(self, x, *, start=0):
        x = self.patches(x.squeeze(1).unflatten(-1, (8, 8)))
        x = x + self.attend(x, x, x, need_weights=False)[0]
        return Features(x, x.mean(dim=1), 0, (8,))

    def block_paths(self):
        return ["attend"]

    @classmethod
    def build(cls, model, weights="default", sha256=None):
        return cls().freeze()


class Spectra(ToyTask):
    """Dull or bright, as spectra."""

    inputs = ("spectrum",)

    def load(self, root):
        data = super().load(root)
        films = data.inputs["image"]
        read = lambda i: films.read(i).ravel().astype(np.float32) / 255
        data.inputs = {"spectrum": RawInputs(read, films.count, "s")}
        return data


class Misspelt(Spectra):
    inputs = ("spectrumm",)

    def load(self, root):
        raise AssertionError("nothing may be read before names are right")
'''
ENTRY_POINTS = """
[medgraft.modalities]
spectrum = medgraft_spectra:Spectrum
[medgraft.encoders]
spectra = medgraft_spectra:SpectrumEncoder
[medgraft.tasks]
spectra = medgraft_spectra:Spectra
misspelt_spectra = medgraft_spectra:Misspelt
"""


@pytest.fixture
def spectra(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    site = tmp_path / "site"
    install_groups(site, "medgraft-spectra", ENTRY_POINTS, {"medgraft_spectra": SOURCE})
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", f"{site}:{toy.site}")
    return toy


def swept(toy: Toy, task: str, out: Path, *more: str):
    options = ["--adapters", "linear_probe,lora", "--tasks", task, "--encoders", "spectra:tiny"]
    data = ["--data", f"toy={toy.cohort}", "--epochs", "2", "--seeds", "0", "--no-baselines"]
    return command("run", *options, *data, "--results", str(out), *more)


@pytest.mark.slow
def test_a_foreign_modality_is_cached_trained_on_and_judged(spectra, tmp_path):
    done = swept(spectra, "spectra", tmp_path / "out", "--augment-views", "2")
    assert done.exit_code == 0, done.output
    cells = {cell.spec.adapter: cell for _, cell in read_results([tmp_path / "out"])}
    assert set(cells) == {"linear_probe", "lora"} and {cell.status for cell in cells.values()} == {"success"}
    for cell in cells.values():
        value = cell.metrics["f1_macro"]
        assert 0 <= value.value <= 1
        assert cell.efficiency.inference_samples_per_s > 0


def test_a_misspelt_modality_is_refused_before_anything_is_read(spectra, tmp_path):
    done = swept(spectra, "misspelt_spectra", tmp_path / "out")
    text = " ".join(done.output.split())
    assert done.exit_code == 2 and "unknown modality 'spectrumm'; did you mean spectrum" in text, text


def test_the_kit_knows_a_foreign_modality(spectra):
    from medgraft_spectra import SpectrumEncoder  # pyright: ignore[reportMissingImports]  # installed by the fixture

    ran = 0
    for check in check_encoder(lambda: SpectrumEncoder.build("tiny")):
        try:
            check()
            ran += 1
        except SkipTest:
            pass
    assert ran > 10


def test_names_that_clash(spectra, tmp_path, monkeypatch):
    entry_points = "[medgraft.modalities]\nspectrum = twin:Spectrum\nimage = twin:Spectrum\n"
    install_groups(tmp_path / "twin", "twin", entry_points, {"twin": SOURCE})
    monkeypatch.syspath_prepend(str(tmp_path / "twin"))
    find_modality.cache_clear()
    with pytest.raises(UnknownNameError, match="several distributions offer it"):
        find_modality("spectrum")
    assert plugins.find("modality", "image").builtin


def test_a_modality_under_another_name_than_its_own_is_refused(toy, tmp_path, monkeypatch):
    install(tmp_path / "other", "other", {"waves": "other:Spectrum"}, {"other": SOURCE}, group="medgraft.modalities")
    monkeypatch.syspath_prepend(str(tmp_path / "other"))
    with pytest.raises(PluginError, match="has name = 'spectrum'; give the class the name of its entry point"):
        find_modality("waves")


# --- built in, and read by no built-in encoder yet --------------------------------------------------------------------


class TinyTokens(Encoder):
    """One block of attention on tokens cut from the last axes, whatever the sample's axes."""

    has_cls = False

    def __init__(self, modality: str, size: tuple[int, ...], channels: int = 1) -> None:
        facts = {"modality": modality, "input_size": size, "channels": channels, "dim": 16, "heads": 2}
        super().__init__(EncoderSpec(name=f"tiny:{modality}", pooling="mean", weights="random", **facts))
        shape = find_modality(modality).input_shape(self.spec)
        self.length = int(np.prod(shape))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.patches = nn.Linear(self.length // 4, 16)
            self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.attention = [AttentionLayout("mha", "attend", 2, 16)]

    def prepare(self, raw) -> Tensor:
        find_modality(self.spec.modality).check(raw)
        values = raw.values if isinstance(raw, Recording) else raw
        flat = torch.nan_to_num(torch.as_tensor(np.asarray(values, np.float32))).flatten()
        values = nn.functional.interpolate(flat[None, None], self.length)[0, 0]
        return values.reshape(find_modality(self.spec.modality).input_shape(self.spec))

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        x = self.patches(x.flatten(1).unflatten(1, (4, -1)))
        x = x + self.attend(x, x, x, need_weights=False)[0]
        return Features(x, x.mean(dim=1), 0, (4,))

    def block_paths(self) -> list[str]:
        return ["attend"]


READERS = {
    "signal": lambda: TinyTokens("signal", (40,), 3),
    "volume_sequence": lambda: TinyTokens("volume_sequence", (4, 4, 4, 4)),
    "table": lambda: TinyTokens("table", (32,)),
}


@pytest.mark.parametrize("name", plugins.discover("modality"))
def test_a_built_in_modality_keeps_its_own_rules(name):
    modality = find_modality(name)
    assert modality.name == name and modality.measure_batch > 0
    for raw in (modality.example(np.random.default_rng(1)), modality.blank(), *modality.probes()):
        modality.check(raw)
    with pytest.raises(DataError, match=f"a raw sample of modality '{name}' is"):
        modality.check(object())


@pytest.mark.parametrize("name", READERS)
def test_it_is_grafted_trained_and_given_views(name):
    encoder, modality = READERS[name]().freeze(), find_modality(name)
    raws = [modality.example(np.random.default_rng(i)) for i in range(3)]
    x = torch.stack([encoder.prepare(raw) for raw in raws])
    assert x.shape[1:] == modality.input_shape(encoder.spec)
    before = encoder(x).pooled
    grafted = Grafted(encoder, {"lora": Lora(Lora.Config(rank=2))})  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(grafted.trainable_parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        grafted(x).pooled.square().sum().backward()
        optimizer.step()
    assert not torch.equal(grafted(x).pooled, before)
    grafted.ungraft()
    assert torch.equal(encoder(x).pooled, before)
    view = modality.view(x, np.arange(3), 1)
    assert view.shape == x.shape and torch.equal(view, modality.view(x, np.arange(3), 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_the_kit_checks_an_encoder_of_it(name):
    ran = 0
    for check in check_encoder(lambda: READERS[name]().freeze()):
        try:
            check()
            ran += 1
        except SkipTest:
            pass
    assert ran > 10


# --- pairs ------------------------------------------------------------------------------------------------------------


class Pairs(Task):
    inputs, objective, cohort = ("signal", "table"), "contrastive", "none"
    pair = ("signal", "table")


def test_a_contrastive_task_names_its_pair():
    assert pair_of(Pairs) == ("signal", "table")
    Pairs.pair = ()
    try:
        with pytest.raises(ConfigError, match="signal and table, and names the pair signal"):
            pair_of(Pairs)
    finally:
        Pairs.pair = ("signal", "table")
    with pytest.raises(ConfigError, match="names the pair image and text"):
        pair_of(type("Wrong", (Pairs,), {"pair": ("image", "text")}))
    with pytest.raises(ConfigError, match="names the modality signal twice"):
        modalities(type("Twice", (Pairs,), {"inputs": ("signal", "signal")}))


def test_the_loss_compares_the_pair_that_is_named():
    towers = {name: READERS[name]().freeze() for name in ("signal", "volume_sequence", "table")}
    spec = towers["signal"].spec.model_copy(update={"modality": "signal+volume_sequence+table"})
    encoder = MultimodalEncoder(spec, towers, 10.0).freeze()
    n = np.arange(6)
    parts = {"train": n[:2], "val": n[2:4], "test": n[4:]}
    data = TaskData({}, np.zeros(6, int), np.array(list("abcdef")), parts, ("a",), prompts=(("one",),))
    from medgraft.benchmarks.objectives.contrastive import ContrastiveObjective

    objective = ContrastiveObjective(data, ("signal", "volume_sequence", "table"))
    grafted = Grafted(encoder, {})
    raws = {k: [find_modality(k).example(np.random.default_rng(i)) for i in range(3)] for k in towers}
    x = {k: torch.stack([towers[k].prepare(raw) for raw in rows]) for k, rows in raws.items()}
    outputs = grafted.encode(x)
    from medgraft.objective import Batch

    losses = {}
    for pair in (("signal", "table"), ("signal", "volume_sequence")):
        objective.pair = pair
        losses[pair] = objective.loss(grafted, outputs, Batch(torch.zeros(3), labels=torch.eye(3)))
        first, second = (nn.functional.normalize(outputs[k].pooled, dim=-1) for k in pair)
        assert losses[pair] == pytest.approx(float(label_guided_info_nce(first, second, 10.0, torch.eye(3))), rel=1e-5)
    assert losses["signal", "table"] != losses["signal", "volume_sequence"]
