"""Describing by every name that a thing goes by; the rest of the command line is tested beside the harness."""

from __future__ import annotations

import re

import pytest
from distributions import install
from typer.testing import CliRunner

from medgraft.benchmarks.commands.main import app
from medgraft.commands import console


@pytest.fixture
def run(monkeypatch):
    """Runs the command in this process, with a wide terminal and pytest's own logging left alone."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(console.logging, "basicConfig", lambda **options: None)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("name", ["embedded", "embedded:chest@random", "phantom_chest", "phantom_brain@random"])
def test_an_encoder_is_described_by_its_source_its_name_and_its_alias(run, name):
    done = run("describe", name)
    assert done.exit_code == 0 and "embedded:chest" in done.stdout


def test_a_variant_is_described_by_its_family(run):
    assert "the name says it: vera" in run("describe", "peft:vera").stdout


def test_an_encoder_is_described_where_an_adapter_attaches_to_it(run):
    done = run("describe", "lora", "--encoder", "embedded:brain@random")
    assert "lora: q hits 6 sites: volume.blocks.0.attn.q" in done.stdout


def test_the_trainable_numbers_of_an_adapter_of_parts_are_shown_by_part_and_tower(run):
    text = run("describe", "ace_lora", "--encoder", "embedded:chest@random").stdout
    shown = re.findall(r"^( *)([\w ]+): ([\d,]+)(?: trainable parameters)?$", text, re.MULTILINE)
    lines = [(len(indent) // 2, name, int(number.replace(",", ""))) for indent, name, number in shown]
    assert [name for _, name, _ in lines] == ["ace_lora", "lora", "image", "text", "hgnn", "image", "text", "scale"]
    total, parts, towers = (sum(n for depth, _, n in lines if depth == wanted) for wanted in range(3))
    assert total == parts == towers + 1 and lines[-1] == (1, "scale", 1)


@pytest.mark.slow
def test_ace_lora_on_biomedclip_has_the_published_number_of_parameters(run):
    text = run("describe", "ace_lora", "--encoder", "biomedclip@random").stdout
    wanted = """
ace_lora: 969,217 trainable parameters
  lora: 442,368
    image: 221,184
    text: 221,184
  hgnn: 526,848
    image: 263,424
    text: 263,424
  scale: 1
"""
    assert wanted.strip() in text


def test_an_adapter_of_one_part_is_one_line(run):
    text = run("describe", "lora", "--encoder", "embedded:brain@random").stdout
    assert text.rstrip().endswith("trainable parameters")


def test_brackets_in_a_docstring_are_no_markup(run, tmp_path, monkeypatch):
    source = 'class Source:\n    """Maps [b, n] to [/b] as it is."""\n    api_version = 1\n    models = build = dict\n'
    install(tmp_path, "acme", {"acme_doc": "acme_doc:Source"}, {"acme_doc": source}, group="medgraft.encoders")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "Maps [b, n] to [/b] as it is." in run("describe", "acme_doc").stdout
