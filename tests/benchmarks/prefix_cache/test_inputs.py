"""The cache of prepared inputs and frozen prefixes: built once, whole or absent, and equal to a direct run."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from medgraft_toy import ToyEncoder
from torch import Tensor

from medgraft.benchmarks.prefix_cache import inputs as cache
from medgraft.benchmarks.prefix_cache.inputs import prepare, tower_inputs
from medgraft.benchmarks.prefix_cache.rows import TowerInputs, drawn_batch, hit_rate
from medgraft.benchmarks.prefix_cache.store import cache_root, entry, make_room
from medgraft.encoder import Encoder, EncoderSpec
from medgraft.errors import DataError
from medgraft.features import Features
from medgraft.grafting import graft
from medgraft.registry import build_encoder
from medgraft.task import RawInputs

HALF = 1e-3
"""Real numbers are kept in half precision: 11 bits, a relative error of 2^-11 = 5e-4."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))


def images(count: int = 5, broken: tuple[int, ...] = (), fingerprint: str = "a") -> RawInputs:
    def read(i: int) -> np.ndarray:
        if i in broken:
            raise DataError(f"film-{i}.png is not a readable image")
        return np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)

    return RawInputs(read, count, fingerprint)


class Count:
    """Counts how often a tower prepares and runs."""

    def __init__(self, tower: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prepared = self.prefixes = 0
        prepare_, prefix = tower.prepare, tower.prefix

        def counted_prepare(raw: Any) -> Tensor:
            self.prepared += 1
            return prepare_(raw)

        def counted_prefix(x: Tensor, stop: int) -> Tensor:
            self.prefixes += 1
            return prefix(x, stop)

        monkeypatch.setattr(tower, "prepare", counted_prepare)
        monkeypatch.setattr(tower, "prefix", counted_prefix)


# --- entries ----------------------------------------------------------------------------------------------------------


def _build_slowly(log: Path, together: Any) -> None:
    def build(folder: Path) -> None:
        with log.open("a") as handle:
            handle.write("built\n")
        time.sleep(0.5)
        (folder / "content").write_text("whole")

    together.wait()
    if (entry({"a": 1}, build).folder / "content").read_text() != "whole":
        os._exit(1)


def test_two_processes_build_an_entry_once(tmp_path):
    fork, log = multiprocessing.get_context("fork"), tmp_path / "log"
    together = fork.Barrier(2)
    both = [fork.Process(target=_build_slowly, args=(log, together)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert log.read_text() == "built\n"


def _killed_while_building() -> None:
    def build(folder: Path) -> None:
        (folder / "content").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    entry({"a": 1}, build)


def test_nothing_of_a_killed_builder_is_read(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_killed_while_building)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    built = []

    def build(folder: Path) -> None:
        built.append(sorted(path.name for path in folder.iterdir()))
        (folder / "content").write_text("whole")

    assert (entry({"a": 1}, build).folder / "content").read_text() == "whole"
    assert built == [[]]


def test_a_builder_that_raises_leaves_no_entry():
    def fail(folder: Path) -> None:
        raise DataError("no")

    with pytest.raises(DataError):
        entry({"a": 1}, fail)
    assert (entry({"a": 1}, lambda folder: (folder / "x").touch()).folder / "x").exists()


def test_the_order_of_facts_does_not_matter():
    first = entry({"a": 1, "b": 2}, lambda folder: None).folder
    assert entry({"b": 2, "a": 1}, lambda folder: pytest.fail("built twice")).folder == first


def test_an_entry_says_what_it_was_made_of():
    assert json.loads((entry({"a": 1}, lambda folder: None).folder / "facts.json").read_text()) == {"a": 1}


# --- prepared inputs --------------------------------------------------------------------------------------------------


def test_prepared_rows_equal_what_the_tower_prepares():
    tower, raw = ToyEncoder(), images()
    found = prepare(raw, tower, "toy").batch(np.array([3, 1]))
    expected = torch.stack([tower.prepare(raw.read(i)) for i in (3, 1)])
    torch.testing.assert_close(found, expected, rtol=HALF, atol=HALF)


def test_unreadable_samples_are_marked_and_the_others_stay_in_place():
    tower = ToyEncoder()
    damaged, whole = prepare(images(broken=(0, 3)), tower, "toy"), prepare(images(fingerprint="b"), tower, "toy")
    assert damaged.usable.tolist() == [False, True, True, False, True]
    assert np.array_equal(damaged.array[[1, 2, 4]], whole.array[[1, 2, 4]])


def test_a_cohort_of_unreadable_samples_is_an_error_that_says_how_to_see_more():
    with pytest.raises(DataError, match=r"none of the 2 image samples could be read.*--verbose"):
        prepare(images(2, broken=(0, 1)), ToyEncoder(), "toy")


def test_unreadable_samples_are_named_in_the_verbose_log_only(caplog):
    with caplog.at_level(logging.WARNING):
        prepare(images(broken=(2,)), ToyEncoder(), "toy")
    assert "film-2" not in caplog.text
    with caplog.at_level(logging.INFO):  # the entry exists by now, and the name is still there
        prepare(images(broken=(2,)), ToyEncoder(), "toy")
    assert "film-2.png is not a readable image" in caplog.text


def test_samples_are_prepared_once(monkeypatch):
    tower = ToyEncoder()
    prepare(images(), tower, "toy")
    count = Count(tower, monkeypatch)
    prepare(images(), tower, "toy")
    assert count.prepared <= 1  # a probe, and no sample


class Halved(ToyEncoder):
    """Another preprocessing under the same name, as a local folder's settings may bring about."""

    def prepare(self, raw: Any) -> Tensor:
        return super().prepare(raw) / 2


def test_another_preprocessing_under_one_name_is_another_entry():
    one, other = prepare(images(), ToyEncoder(), "toy"), prepare(images(), Halved(), "toy")
    assert float(other.array.max()) == pytest.approx(float(one.array.max()) / 2, rel=HALF)


def test_another_vocabulary_under_one_name_is_another_entry():
    from medgraft.encoders.embedded import TextTower

    spec = EncoderSpec(name="words", modality="text", input_size=(6,), dim=8, heads=2, weights="random")
    notes = ["mild oedema", "no effusion"]
    raw = RawInputs(notes.__getitem__, 2, "a")
    found = [
        prepare(raw, TextTower(spec, ("[pad]", "[cls]", "[unk]", *words)), "words").array
        for words in (("mild", "oedema"), ("effusion", "mild", "no", "oedema"))
    ]
    assert not np.array_equal(found[0], found[1])


def test_changed_data_are_prepared_again():
    tower = ToyEncoder()
    first = prepare(images(5, fingerprint="a"), tower, "toy")
    assert prepare(images(5, broken=(0,), fingerprint="b"), tower, "toy").usable.sum() < first.usable.sum()


class Loud(ToyEncoder):
    """Inputs, hidden states and features beyond half precision, for bright images alone."""

    def prepare(self, raw: Any) -> Tensor:
        return super().prepare(raw) * (1e6 if np.mean(raw) > 128 else 1)


def bright_last() -> RawInputs:
    return RawInputs(lambda i: np.full((8, 8), 250 if i == 39 else 10 + i, np.uint8), 40, "a")


@torch.no_grad()
def test_no_value_becomes_infinite_in_the_cache_and_the_result_says_what_is_float32(caplog):
    tower, index = Loud(), np.array([39, 3])
    direct = torch.stack([tower.prepare(bright_last().read(int(i))) for i in index])
    for turn in range(2):
        prepared = prepare(bright_last(), tower, "toy")
        torch.testing.assert_close(prepared.batch(index), direct, rtol=HALF, atol=HALF)
        assert prepared.use.to_dict()["float32"] == ["x"] and prepared.use.hit == (turn == 1)
        for stage, arrays in ((1, ["x"]), (2, ["pooled", "tokens"])):
            source = tower_inputs(prepared, tower, stage, "w")
            found, expected = tower(source.batch(index), start=stage), tower(prepared.batch(index))
            torch.testing.assert_close(found.tokens, expected.tokens, rtol=0.01, atol=0.01)
            assert source.use and source.use.to_dict()["float32"] == arrays and expected.tokens.abs().max() > 1e5
        # Three entries with four arrays, told once, when they are written.
        assert caplog.text.count("beyond half precision; it is kept in float32") == 4


def test_quiet_entries_say_that_nothing_is_float32():
    prepared = prepare(images(), ToyEncoder(), "toy")
    assert prepared.array.dtype == np.float16 and prepared.use.to_dict()["float32"] == []


def test_rows_of_a_loud_view_stay_finite_beside_those_of_a_quiet_one():
    views = [TowerInputs(0, {"x": np.array([[1.0], [value]], kind)}) for value, kind in ((2, "f2"), (1e5, "f4"))]
    assert drawn_batch(views, np.array([1, 1]), np.array([0, 1])).tolist() == [[2.0], [1e5]]  # pyright: ignore


# --- frozen prefixes --------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_hidden_state_from_the_cache_gives_the_features_of_a_direct_run():
    tower = build_encoder("embedded:chest@random").towers()["image"]
    raw = RawInputs(lambda i: np.random.default_rng(i).integers(0, 256, (64, 64), np.uint8), 3, "a")
    prepared = prepare(raw, tower, "chest")
    for stage in range(1, tower.n_stages):
        source = tower_inputs(prepared, tower, stage, "w")
        resumed = tower(source.batch(np.arange(3)), start=stage)
        direct = tower(prepared.batch(np.arange(3)))
        # Half precision of the hidden state, spread by the blocks that follow and their norms.
        torch.testing.assert_close(resumed.tokens, direct.tokens, rtol=0.02, atol=0.02)


@torch.no_grad()
def test_features_from_the_cache_are_those_of_a_direct_run_with_their_scores():
    tower = build_encoder("embedded:chest@random").towers()["image"]
    raw = RawInputs(lambda i: np.random.default_rng(i).integers(0, 256, (64, 64), np.uint8), 3, "a")
    prepared = prepare(raw, tower, "chest")
    found = tower_inputs(prepared, tower, tower.n_stages, "w").batch(np.array([2, 0]))
    direct = tower(prepared.batch(np.array([2, 0])), scores=True)
    assert isinstance(found, Features) and (found.n_prefix, found.grid) == (direct.n_prefix, direct.grid)
    for name in ("tokens", "pooled", "cls_scores", "cls_probs"):
        torch.testing.assert_close(getattr(found, name), getattr(direct, name), rtol=HALF, atol=HALF)


@torch.no_grad()
def test_what_is_condensed_is_kept_beside_the_features_it_is_made_of(monkeypatch):
    grafted = graft(build_encoder("embedded:chest@random"), "linear_probe", pooling="cls+mean")
    tower = grafted.towers()["image"]
    raw = RawInputs(lambda i: np.random.default_rng(i).integers(0, 256, (64, 64), np.uint8), 40, "a")
    prepared = prepare(raw, tower, "chest")
    whole = tower_inputs(prepared, tower, tower.n_stages, "w")
    monkeypatch.setattr(tower, "forward", None)  # nothing runs the encoder again
    condenser = grafted.condensers()["image"]
    small = tower_inputs(prepared, tower, tower.n_stages, "w", condenser=condenser)
    index = np.array([39, 0, 7])
    found, expected = small.batch(index), condenser.apply(whole.batch(index))  # pyright: ignore[reportArgumentType]
    assert isinstance(found, Features) and found.condensed == condenser.key and small.use.kind == "condensed"
    torch.testing.assert_close(found.pooled, expected.pooled, rtol=HALF, atol=HALF)
    assert small.use.size < whole.use.size / 10 and not small.use.hit
    assert tower_inputs(prepared, tower, tower.n_stages, "w", condenser=condenser).use.hit


@pytest.fixture
def probe():
    """Reads condensed features of 40 images, and the features themselves."""
    grafted = graft(build_encoder("embedded:chest@random"), "linear_probe", pooling="cls+mean")
    tower, condenser = grafted.towers()["image"], grafted.condensers()["image"]
    raw = RawInputs(lambda i: np.random.default_rng(i).integers(0, 256, (64, 64), np.uint8), 40, "a")
    prepared = prepare(raw, tower, "chest")
    return lambda condensed: tower_inputs(
        prepared, tower, tower.n_stages, "w", condenser=condenser if condensed else None
    )


@pytest.mark.parametrize("ran", [True, False])
def test_what_is_condensed_tells_whether_the_encoder_ran(probe, ran):
    if not ran:
        probe(condensed=False)
    use = probe(condensed=True).use
    use.served = 160
    told, source = use.to_dict(), use.to_dict()["source"]
    assert (told["kind"], told["hit"]) == ("condensed", False)
    assert (source["kind"], source["hit"], source["served"], source["samples"]) == ("prefix", not ran, 40, 40)
    assert source["source"] is None and json.loads(json.dumps(told)) == told
    # Read: 160 condensed rows and 40 to make them. Computed: 40 condensed rows, and 40 of the encoder where it ran.
    assert hit_rate([use]) == pytest.approx(1 - (80 if ran else 40) / 200)


def test_what_was_condensed_before_has_no_source(probe):
    probe(condensed=True)
    use = probe(condensed=True).use
    use.served = 160
    assert use.hit and use.to_dict()["source"] is None and hit_rate([use]) == 1


def test_features_may_go_once_they_are_condensed(probe):
    small = probe(condensed=True)
    assert make_room(cache_root(), 0) > small.use.size
    assert small.use.entry.folder.is_dir() and not probe(condensed=False).use.hit


def held(tower: Encoder) -> Encoder:
    tower.hold_in_bf16()
    return tower


@torch.no_grad()
def test_an_encoder_in_bf16_has_prefixes_of_its_own():
    tower = build_encoder("embedded:chest@random").towers()["image"]
    raw = RawInputs(lambda i: np.random.default_rng(i).integers(0, 256, (64, 64), np.uint8), 3, "a")
    prepared = prepare(raw, tower, "chest")
    exact = tower_inputs(prepared, tower, 3, "w").batch(np.arange(3))
    rough = tower_inputs(prepared, held(tower), 3, "w").batch(np.arange(3))
    assert isinstance(exact, Tensor) and isinstance(rough, Tensor) and not torch.equal(exact, rough)
    # bf16 holds 8 bits, spread by the blocks.
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.1)


@torch.no_grad()
def test_text_keeps_its_padding_mask_and_integer_ids():
    tower = build_encoder("embedded:chest@random").towers()["text"]
    notes = ["no effusion.", "mild oedema is seen in both lungs."]
    prepared = prepare(RawInputs(notes.__getitem__, 2, "a"), tower, "chest")
    assert prepared.batch(np.arange(2)).dtype == torch.int64
    found = tower_inputs(prepared, tower, tower.n_stages, "w").batch(np.arange(2))
    assert isinstance(found, Features) and found.mask is not None
    assert torch.equal(found.mask, tower.tokenize(notes) != tower.pad_id)  # pyright: ignore


def test_stage_zero_hands_out_the_prepared_inputs():
    prepared = prepare(images(), ToyEncoder(), "toy")
    assert tower_inputs(prepared, ToyEncoder(), 0, "w").arrays["x"] is prepared.array


def test_a_prefix_is_computed_once(monkeypatch):
    tower = ToyEncoder()
    prepared = prepare(images(), tower, "toy")
    count = Count(tower, monkeypatch)
    for _ in range(2):
        tower_inputs(prepared, tower, 1, "w")
    assert count.prefixes == 1


def _folders() -> int:
    return len(list(Path(os.environ["MEDGRAFT_CACHE"]).rglob("facts.json")))


@pytest.mark.parametrize("change", ["weights", "stage", "data"])
def test_another_entry_where_weights_stage_or_data_differ(change):
    tower = ToyEncoder()
    prepared = prepare(images(), tower, "toy")
    tower_inputs(prepared, tower, 1, "w")
    before = _folders()
    other = prepare(images(fingerprint="b"), tower, "toy") if change == "data" else prepared
    tower_inputs(other, tower, 2 if change == "stage" else 1, "v" if change == "weights" else "w")
    assert _folders() == before + (2 if change == "data" else 1)


def test_another_number_of_threads_is_another_prefix():
    tower, threads = ToyEncoder(), torch.get_num_threads()
    prepared = prepare(images(), tower, "toy")
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            tower_inputs(prepared, tower, 1, "w")
    finally:
        torch.set_num_threads(threads)
    assert _folders() == 3


class Elsewhere(ToyEncoder):
    """Says that it is on a device that holds no numbers."""

    @property
    def device(self) -> torch.device:
        return torch.device("meta")


@pytest.mark.filterwarnings("ignore:User provided device_type")
def test_another_kind_of_device_is_another_prefix(monkeypatch):
    prepared = prepare(images(), ToyEncoder(), "toy")
    here = tower_inputs(prepared, ToyEncoder(), 1, "w")
    ran: list[str] = []

    def run(prepared, tower, *rest):
        ran.append(tower.device.type)
        return original(prepared, ToyEncoder(), *rest)

    original = cache._run
    monkeypatch.setattr(cache, "_run", run)
    there = tower_inputs(prepared, Elsewhere(), 1, "w")
    assert here.use and there.use and not there.use.hit and ran == ["meta"]
    assert tower_inputs(prepared, ToyEncoder(), 1, "w").use.hit  # pyright: ignore[reportOptionalMemberAccess]
