"""Everything in README and docs that looks like code is code: Python runs, commands parse, files are what they say."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
import typing
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest import SkipTest

import pytest
import typer
from typer.testing import CliRunner

from medgraft import plugins
from medgraft.adapter import Attachment, protocols
from medgraft.benchmarks.cohorts.places import data_of, write_phantom
from medgraft.benchmarks.commands.main import app
from medgraft.benchmarks.sweep.checks import check_names
from medgraft.benchmarks.sweep.request import Sweep, read_sweep
from medgraft.commands.site_picture import pages
from medgraft.encoder.sites import SiteKind
from medgraft.files.documents import parse_yaml
from medgraft.suites import GROUP as SUITES
from medgraft.task.names import is_task, task_class
from medgraft.testing import check_adapter

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"", "python", "yaml", "toml", "json", "text"}
MADE_UP = re.compile(r"my_\w+|gain_adapter|other-package:gain")
"""Plugins that a page has its reader make."""


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}-{self.line}"


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text()
        for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.S | re.M):
            yield Block(page, text[: found.start()].count("\n") + 2, found[1], found[2])


BLOCKS = list(blocks())


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def commands() -> Iterator[Any]:
    """Every command of the unmarked blocks, on one line: (block, words)."""
    for block in of(""):
        text = re.sub(r"\\\n\s*", " ", block.text)
        text = re.sub(r'python -c "\n.*?"$', "", text, flags=re.S | re.M)
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S+", words[0]):
                words = words[1:]
            if words and words[-1] != "...":
                yield pytest.param(words, id=f"{block}-{'-'.join(words[:3])}"[:60])


def scripts() -> Iterator[Any]:
    """Every ``python -c`` of the unmarked blocks."""
    for block in of(""):
        for code in re.findall(r'python -c "\n(.*?)"$', block.text, re.S | re.M):
            yield pytest.param(code, id=str(block))


def test_every_block_is_of_a_language_that_is_checked():
    assert {block.language for block in BLOCKS} <= LANGUAGES
    assert len(of("python")) > 8 and len(of("")) > 15 and of("yaml") and of("toml")


# --- Python -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in of("python")}), ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    space: dict[str, Any] = {"__name__": "page"}
    for block in of("python"):
        if block.page == page:
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec", dont_inherit=True), space)


@pytest.mark.slow
@pytest.mark.parametrize("code", list(scripts()))
def test_what_a_page_measures_by_can_be_run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0 and re.search(r"\d", done.stdout), done.stderr[-2000:]


@pytest.mark.slow
def test_the_plugin_of_the_readme_keeps_every_rule(tmp_path, monkeypatch):
    (code,) = (block.text for block in of("python") if "class GainAdapter" in block.text)
    (tmp_path / "gain_adapter.py").write_text(code)
    spec = importlib.util.spec_from_file_location("gain_adapter", tmp_path / "gain_adapter.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gain_adapter", module)
    spec.loader.exec_module(module)
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 25, "README says how long it is"
    for check in check_adapter(module.GainAdapter):
        with suppress(SkipTest):  # a rule that does not apply
            check()


def contract(real: type, method: str) -> Any:
    """A method of a base class, or of the protocol that offers it to adapters."""
    owners = (real, *(each for each in vars(protocols).values() if inspect.isclass(each)))
    return next(getattr(owner, method) for owner in owners if hasattr(owner, method))


def test_the_signatures_in_the_guide_are_the_codes():
    """Parameters, their kinds, defaults and annotations; a guide may leave out what a source need not have."""
    from medgraft.adapter import Adapter
    from medgraft.encoder import Encoder
    from medgraft.encoders.embedded import EmbeddedSource
    from medgraft.metric import Metric
    from medgraft.objective import Objective
    from medgraft.task import Task

    (code,) = (block.text for block in of("python") if "class MyAdapter" in block.text)
    space: dict[str, Any] = {}
    exec(compile(code, "guide", "exec", dont_inherit=True), space)
    pairs = {
        "MyAdapter": Adapter,
        "MyEncoder": Encoder,
        "MySource": EmbeddedSource,
        "MyTask": Task,
        "MyObjective": Objective,
        "MyMetric": Metric,
    }
    compared = 0
    for name, real in pairs.items():
        for method, shown in vars(space[name]).items():
            if (
                method.startswith("_")
                or method in protocols.EARLIER_NAMES  # which a class has beside today's
                or not (callable(shown) or isinstance(shown, staticmethod | classmethod))
                or inspect.isclass(shown)
            ):
                continue
            told, true = inspect.signature(getattr(space[name], method)), inspect.signature(contract(real, method))
            assert [(p.name, p.kind, p.default) for p in told.parameters.values()] == [
                (p.name, p.kind, p.default) for p in true.parameters.values()
            ], f"{name}.{method}"
            if real is not EmbeddedSource:  # whose build() says which encoder it is
                kinds = typing.get_type_hints(getattr(space[name], method), space)
                assert kinds == typing.get_type_hints(contract(real, method), None, space), f"{name}.{method}"
            compared += 1
    assert compared >= 25


def test_the_pictures_of_sites_are_the_encoders_own():
    assert pages() in (ROOT / "docs" / "sites.md").read_text(), "run python -m medgraft.commands.site_picture"


@pytest.mark.parametrize("kind", typing.get_args(SiteKind))
def test_every_kind_of_site_is_in_the_guide(kind):
    text = (ROOT / "docs" / "plugins.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith(f"| `{kind}` |"))
    for method in re.findall(r"`(\w+)`", row.rpartition("|")[0].rpartition("|")[2]):
        assert hasattr(Attachment, method), method


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_sweep_files_are_sweeps(block):
    values = parse_yaml(block.text, "the page")
    if MADE_UP.search(block.text):
        Sweep.model_validate(values)
        return
    check_names(Sweep.model_validate(values))


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_json_is_json(block):
    text = block.text.strip()
    json.loads(text if text[0] in "[{" else f"{{{text}}}")  # some entries of a larger one


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_toml_declares_what_exists(block):
    (groups,) = (each["entry-points"] for each in [tomllib.loads(block.text)["project"]])
    assert set(groups) <= {*plugins.GROUPS.values(), SUITES}
    for group, targets in groups.items():
        form = r"[\w.]+" if group == SUITES else r"[\w.]+:\w+"
        assert all(re.fullmatch(form, target) for target in targets.values())


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parser() -> Any:
    return typer.main.get_command(app)


def in_medgraft(words: list[str]) -> list[str] | None:
    """The words behind ``medgraft`` for a command of it; ``None`` for another program."""
    if words[0] == "medgraft":
        return words[1:]
    return ["run", *words[3:]] if words[:3] == ["python", "-m", "benchmarks.run"] else None


@pytest.mark.parametrize("words", list(commands()))
def test_every_command_is_one(parser, words, own_data):
    inner = in_medgraft(words)
    if inner is None:
        check_program(words)
        return
    with parser.make_context("medgraft", list(inner)) as context:
        name, command, rest = parser.resolve_command(context, list(inner))
        with command.make_context(name, list(rest), parent=context) as own:
            values = dict(own.params)
    if name == "run":
        check_run(values, own_data)
    if name in ("describe", "check") and not MADE_UP.match(str(values["name"])):
        suite = [values["suite"]] if values.get("suite") else []
        assert CliRunner().invoke(app, ["describe", values["name"], *suite]).exit_code == 0


def check_program(words: list[str]) -> None:
    """Programs that are not medgraft's: make's targets exist, modules can be found."""
    if words[0] == "make":
        targets = [word for word in words[1:] if not re.match(r"[A-Z]+=", word)]
        assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M) for target in targets)
    elif words[:2] == ["python", "-m"]:
        place = ROOT / words[2].removeprefix("medgraft.").replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()
    else:
        assert words[0] in ("pip", "pytest", "cd", "git"), words


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small table and a small folder, in the place of a reader's."""
    folder = tmp_path_factory.mktemp("own")
    write_phantom("folder", folder / "own", {"patients": 12, "size": 16}, 1)
    write_phantom("table", folder / "table", {"patients": 12, "size": 16}, 1)
    return {"table": next((folder / "table").glob("*.csv")), "folder": folder / "own"}


def sweep_of(values: dict[str, Any], own_data: dict[str, Path]) -> Sweep | None:
    """What a command asks for; of plugins that the reader makes and weights that he has the built-in ones, and
    phantoms, which are not made, for his data. ``None`` where it names a file that the page has its reader write.
    """
    from medgraft.benchmarks.commands.arguments import listed, listed_encoders, parse_data, parse_match, parse_seeds

    if values["config"] is not None or ".yaml" in str(values["tasks"]):
        return None
    kept = {name: values[name] for name in ("adapters", "tasks", "encoders", "test_on")}
    parts = {
        name: listed_encoders(text, name) if name == "encoders" else listed(text, name) for name, text in kept.items()
    }
    known = {name: [part for part in found or () if not MADE_UP.match(part)] or None for name, found in parts.items()}
    if known["adapters"] is None and values["adapters"]:
        known["adapters"] = ["lora"]
    if values["encoders"] and any(word in values["encoders"] for word in NOT_ON_DISK):
        known["encoders"] = None
    mine = {name: own_data[kind] for name in parse_data(values["data"]) or {} if (kind := data_name(name)) in own_data}
    overrides: dict[str, Any] = {
        **{name: values[name] for name in SHARED},
        **known,
        "launcher": None if MADE_UP.match(str(values["launcher"])) else values["launcher"],
        "seeds": parse_seeds(values["seeds"]),
        "match": parse_match(values["match"]),
        "sets_by_class": values["sets_by_class"] or None,
        "data": mine or None,
        "device": "cpu",
    }
    return read_sweep(None, overrides, values.get("set_") or ())


NOT_ON_DISK = ("...", "FOLDER", "FILE", "M3D-CLIP/", "Llama-2-7b-hf")
"""What stands in the name of an encoder for files of the reader's; ``test_docs_runs.py`` puts small ones there."""


def data_name(name: str) -> str:
    """The name of a cohort in ``--data``, without a variant's."""
    return name.partition(":")[0]


def check_run(values: dict[str, Any], own_data: dict[str, Path]) -> None:
    """Names of a run exist, its options hold, its tasks read what ``--data`` names; ``test_docs_runs.py`` plans it."""
    from medgraft.benchmarks.commands.arguments import parse_data

    sweep = sweep_of(values, own_data)
    if sweep is None:
        return  # the walk of the quickstart is run as a whole
    check_names(sweep)
    if sweep.tasks and not any(mark in task for task in sweep.tasks for mark in ("*", "tag:")):
        others = [name for name in sweep.test_on or () if not is_task(name)]
        tasks = [task for task in (*sweep.tasks, *(sweep.test_on or ())) if is_task(task)]
        read = {task_class(task).cohort for task in tasks} | set(others) | set(own_data)
        named = parse_data(values["data"]) or {}
        unread = {name for name in named if data_name(name) not in {*read, *map(data_of, read)}}
        assert not {name for name in unread if not MADE_UP.match(name)}, f"no chosen task reads {unread}"


SHARED = (
    *("epochs", "backend", "precision", "jobs", "preset", "limit", "augment_views", "timeout", "threads", "calibrate"),
    *("sets", "coverage", "keep", "baselines", "suite", "tune", "budget"),
)
"""Options that a request has by the name and in the form of the command line."""
