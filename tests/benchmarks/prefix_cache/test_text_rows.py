"""The frozen pass over texts: shortest first, cut to their batch's longest, each result in the place of its sample."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.benchmarks.prefix_cache import inputs as module
from medgraft.benchmarks.prefix_cache.inputs import PreparedInputs, prepare, tower_inputs
from medgraft.benchmarks.prefix_cache.text_rows import text_rows
from medgraft.encoder import TextEncoder
from medgraft.errors import DataError
from medgraft.features import Features
from medgraft.registry import build_encoder
from medgraft.task import RawInputs

NOTES = [" ".join(["no", "effusion", "in", "both", "lungs"][: 1 + i % 5] * (1 + i % 3)) for i in range(11)] + [""]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))


def chest_text() -> TextEncoder:
    tower = build_encoder("embedded:chest@random").towers()["text"]
    assert isinstance(tower, TextEncoder)
    return tower


@functools.cache
def shared_text() -> TextEncoder:
    return chest_text()


def prepared(tower: TextEncoder, notes: list[str] = NOTES) -> PreparedInputs:
    return prepare(RawInputs(notes.__getitem__, len(notes), "|".join(notes)), tower, "chest")


def features(tower: TextEncoder, notes: list[str] = NOTES, padding: int | None = 0) -> Features:
    rows = tower_inputs(prepared(tower, notes), tower, tower.n_stages, "w", padding=padding)
    found = rows.batch(np.arange(len(notes)))
    assert isinstance(found, Features)
    return found


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30), st.integers(1, 8), st.integers(0, 13))
@settings(deadline=None)
def test_batches_hold_every_text_once_and_enough_of_it(lengths, size, padding):
    tower = shared_text()
    ids = np.zeros((len(lengths), 12), np.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = 5
    rows = text_rows(ids, np.ones(len(ids), bool), tower, padding)
    batches = list(rows.batches(size))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(ids)))
    assert rows.width == min(max(lengths) + padding, 12)
    seen = 0
    for index in batches:
        cut = rows.cut(torch.from_numpy(ids[index]), index)
        assert cut.shape[1] == min(max(lengths[i] for i in index) + padding, 12) >= seen
        seen = cut.shape[1]


def test_what_is_kept_is_what_a_direct_run_gives_in_the_order_of_the_samples(monkeypatch):
    monkeypatch.setattr(module, "LARGEST_BATCH", 3)
    tower = chest_text()
    found = features(tower)
    with torch.no_grad():
        whole = tower(tower.tokenize(NOTES), scores=True)
    width = found.tokens.shape[1]
    assert width == 1 + max(len(note.split()) for note in NOTES) < 96
    assert found.grid == (width - 1,) and found.mask is not None and whole.mask is not None
    assert torch.equal(found.mask, whole.mask[:, :width])
    close = functools.partial(torch.testing.assert_close, rtol=1e-3, atol=1e-3)  # kept in half precision
    close(found.pooled, whole.pooled)
    close(found.tokens[found.mask], whole.tokens[whole.mask])
    assert not found.tokens[~found.mask][:, 0].isnan().any()
    assert found.cls_probs is not None and whole.cls_probs is not None and found.cls_scores is not None
    close(found.cls_probs, whole.cls_probs[..., : width - 1])
    assert found.cls_scores[~found.mask[:, None, 1:].expand_as(found.cls_scores)].isneginf().all()


@pytest.mark.parametrize("notes", [["no effusion"] * 4, ["lungs " * 200, "no"]])
def test_texts_of_one_length_and_of_the_whole_context(notes):
    tower = chest_text()
    found = features(tower, notes)
    with torch.no_grad():
        whole = tower(tower.tokenize(notes))
    assert found.tokens.shape[1] == (3 if len(notes) == 4 else 96)
    torch.testing.assert_close(found.pooled, whole.pooled, rtol=1e-3, atol=1e-3)


def test_fewer_tokens_are_computed(monkeypatch):
    tower, seen = chest_text(), []
    monkeypatch.setattr(
        tower, "encode", lambda x, **options: (seen.append(x.shape[1]), type(tower).encode(tower, x))[1]
    )
    monkeypatch.setattr(module, "LARGEST_BATCH", 4)
    features(tower)
    assert seen == sorted(seen) and seen[0] < seen[-1] < 96
    seen.clear()
    features(tower, padding=None)
    assert set(seen) == {96}, "an adapter that reads padding gets all of it, from an entry of its own"
    seen.clear()
    monkeypatch.setenv("MEDGRAFT_PLAIN", "1")
    features(tower)
    assert set(seen) == {96}, "nothing is cut without shortcuts"


def test_a_tower_that_does_not_say_so_gets_its_whole_context():
    tower = chest_text()
    tower.any_length = False
    assert features(tower).tokens.shape[1] == 96


def test_a_text_that_could_not_be_read_makes_no_row_longer():
    tower = chest_text()
    tower.pad_id = 1  # rows of zeros then look like texts that fill the context

    def read(index: int) -> str:
        if index == 1:
            raise DataError("unreadable")
        return ["no effusion", "", "no"][index]

    rows = prepare(RawInputs(read, 3, "a"), tower, "chest")
    assert not rows.usable[1]
    found = text_rows(rows.array, rows.usable, tower, 0)
    assert found.width == 3
