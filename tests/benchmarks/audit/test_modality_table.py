"""Adapters on encoders of recordings, runs, rows and graphs: the page says what they say, and what they say holds."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from medgraft.benchmarks.audit import modality_table
from medgraft.benchmarks.audit.graft_table import Cell, build
from medgraft.benchmarks.audit.modality_table import ENCODERS, MERGES, adapters, cell, fits, main
from medgraft.errors import ConfigError, IncompatibleError

pytestmark = pytest.mark.filterwarnings("ignore")
PAGE = Path(__file__).parents[3] / "docs" / "connectomes.md"


@functools.cache
def encoder(column):
    return build(*ENCODERS[column])


def on_the_page() -> dict[str, dict[str, str]]:
    """Adapter -> encoder -> cell of the page's table."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    start = next(i for i, line in enumerate(lines) if line.startswith("| adapter |"))
    table = [[part.strip() for part in line.strip("|").split("|")] for line in lines[start:]]
    return {row[0].strip("`"): dict(zip(table[0][1:], row[1:], strict=True)) for row in table[2:]}


@pytest.mark.parametrize("column", ENCODERS)
def test_the_page_says_what_every_adapter_says(column):
    page = on_the_page()
    found = {adapter for adapter in adapters() if fits(adapter, encoder(column))}
    assert found == {adapter for adapter, cells in page.items() if cells[column]}
    assert {"lora", "houlsby", "adaptformer", "bitfit", "perceiver_resampler"} <= found


@pytest.mark.parametrize("column", ["swift", "diver", "connectome"])
@pytest.mark.parametrize("adapter", ["lora", "vpt", "st_adapter", "perceiver_resampler"])
def test_what_fits_trains_and_leaves_the_encoder_as_it_was(adapter, column):
    assert cell(adapter, encoder(column)) == on_the_page()[adapter][column]


def test_what_reads_the_embedding_takes_its_width_and_not_that_of_the_tokens():
    assert cell("clip_adapter", encoder("bendr")) == on_the_page()["clip_adapter"]["bendr"] != ""


def test_lora_merges_everywhere():
    assert set(on_the_page()["lora"].values()) == {MERGES}


def test_a_promise_that_does_not_hold_is_an_error(monkeypatch):
    monkeypatch.setattr(modality_table, "attempt", lambda *_: Cell("wrong", "after ungraft(), it has changed"))
    with pytest.raises(IncompatibleError, match="lora on diver:tiny: after ungraft"):
        cell("lora", encoder("diver"))


def test_the_command_writes_a_table_of_the_encoders_that_are_named(capsys, monkeypatch):
    monkeypatch.setattr(modality_table, "adapters", lambda: ["lora", "coop"])
    main(["--encoders", "connectome"])
    assert capsys.readouterr().out.splitlines() == ["| adapter | connectome |", "| --- | --- |", "| `lora` | merges |"]
    with pytest.raises(ConfigError, match="no encoder 'eeg' in this table"):
        main(["--encoders", "eeg"])
