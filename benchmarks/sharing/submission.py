"""What must hold of results before somebody publishes them, one check after the other, each with its remedy."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from medgraft.benchmarks.results.duplicates import COPIED, OTHER_NAME
from medgraft.benchmarks.results.migrations import OTHER_VERSION
from medgraft.benchmarks.results.reading import WRONG_KEY
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import NUMBERS_VERSION
from medgraft.benchmarks.results.store import safe_name
from medgraft.benchmarks.results.verification import FALSE_PHANTOM, OTHER_METRICS
from medgraft.benchmarks.sharing.identifiers import Identifiers, known_forms
from medgraft.benchmarks.sharing.material import Material
from medgraft.benchmarks.suite.membership import misfit
from medgraft.commands.plain_text import one_line
from medgraft.errors import UnknownNameError
from medgraft.suites import find_suite
from medgraft.task.names import name_in_keys

Outcome = Literal["pass", "warn", "fail"]

SHOWN = 5
"""Files that a check names; the others are counted."""

ABSOLUTE = re.compile(r"(?:^|(?<=[\s'\"=@:,|(\[<]))(?:(?:/[^/\s'\",;:<>|]+){2,}|~/[^\s'\",;]+|[A-Za-z]:\\[^\s'\",;]+)")
"""An absolute path in a text: at its start, or behind what separates words from places."""

BUILT_AT = re.compile(r"\(Triggered internally at [^)]*\)")
"""What PyTorch's warnings say of the machine that compiled it, which is nobody's."""

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Finding:
    """What one check came to.

    Attributes:
        name: Of the check.
        outcome: A ``warn`` may be published and a reader will see it; a ``fail`` should not be.
        told: What was found, in a sentence.
        remedy: What to do about it; empty for a pass.
        files: The first few files, or rows, that it is about.
        count: How many it is about.
    """

    name: str
    outcome: Outcome
    told: str
    remedy: str = ""
    files: tuple[str, ...] = ()
    count: int = 0


def _finding(name: str, problems: Sequence[str], good: str, remedy: str, *, warn: bool = False) -> Finding:
    if not problems:
        return Finding(name, "pass", good)
    shown = tuple(one_line(text, 300) for text in problems[:SHOWN])
    told = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return Finding(name, "warn" if warn else "fail", told, remedy, shown, len(problems))


def _broken(material: Material, kinds: Iterable[str] | None, *, but: Iterable[str] = ()) -> list[str]:
    return [
        f"{material.shown(path)}: {text}"
        for path, (text, kind) in material.broken.items()
        if (kinds is None or kind in kinds) and kind not in but
    ]


def _left_out(material: Material, *kinds: str) -> list[str]:
    """Files that are good alone, and that a board leaves out for what other files say."""
    return [
        f"{material.shown(path)}: {error}"
        for path, error in material.left_out.files
        if path in material.checked and error.kind in kinds
    ]


def check_readable(material: Material) -> Iterator[Finding]:
    """Files are whole, of a known version of the schema, and hold what it says."""
    problems = _broken(material, None, but=(OTHER_VERSION, WRONG_KEY, OTHER_METRICS, FALSE_PHANTOM))
    yield _finding(
        "readable", problems, f"{len(material.results)} results can be read",
        "copy these files again, or delete them and run the same command, which makes them anew",
    )  # fmt: skip
    yield _finding(
        "schema", _broken(material, (OTHER_VERSION,)), "all are of a known version of the schema",
        "update medgraft, or write the results with this version",
    )  # fmt: skip


def check_keys(material: Material) -> Iterator[Finding]:
    """Keys follow from what they are of, and files lie under their names."""
    yield _finding(
        "key", _broken(material, (WRONG_KEY,)), "every key is that of its specification",
        "a specification was edited; run the cell with the options that are wanted",
    )  # fmt: skip
    problems = []
    for path, cell in material.results.items():
        tasks = {safe_name(cell.spec.task), safe_name(name_in_keys(cell.spec.task))}
        wanted = (safe_name(cell.spec.encoder), safe_name(cell.spec.adapter))
        if path.stem != cell.key or path.parent.name not in tasks or path.parts[-4:-2] != wanted:
            problems.append(f"{material.shown(path)} holds {'/'.join(wanted)}/{min(tasks)}/{cell.key}")
    yield _finding(
        "place", problems, "every file lies at encoder/adapter/task/key.json",
        "move each with its predictions to the folder of its encoder, adapter and task, under its key",
    )  # fmt: skip


def check_numbers(material: Material) -> Iterator[Finding]:
    """Metrics are those of the predictions."""
    yield _finding(
        "metrics", _broken(material, (OTHER_METRICS,)), "every number that could be computed again is right",
        "numbers or predictions were edited; run these cells again",
    )  # fmt: skip
    unverified = [
        f"{material.shown(path)}: {each.unverified}" for path, each in material.checked.items() if each.unverified
    ]
    yield _finding(
        "predictions", unverified, "predictions lie beside every result", "copy KEY.npz to KEY.json; rows without are "
        "published as unverified", warn=True,
    )  # fmt: skip
    versions = sorted({cell.spec.numbers_version for cell in material.results.values()} - {NUMBERS_VERSION})
    old = [f"numbers version {version}, this medgraft has {NUMBERS_VERSION}" for version in versions]
    yield _finding(
        "numbers version", old, f"all are of numbers version {NUMBERS_VERSION}",
        "run the cells again with this medgraft, so that they can stand beside others'", warn=True,
    )  # fmt: skip


def check_phantoms(material: Material) -> Iterator[Finding]:
    """Generated data are marked."""
    problems = _broken(material, (FALSE_PHANTOM,))
    problems += _left_out(material, FALSE_PHANTOM)
    phantoms = sum(cell.phantom for cell in material.results.values())
    yield _finding(
        "phantoms", problems, f"{phantoms} of {len(material.results)} results are phantoms and say so",
        "the mark was edited; run these cells again",
    )  # fmt: skip


def check_splits(material: Material) -> Iterator[Finding]:
    """Results of one task on one cohort are of one split."""
    problems = []
    hashes: dict[tuple[Any, ...], dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path, cell in material.good.items():
        split, spec = str(cell.data.get("split_hash", "")), cell.spec
        if not SHA256.fullmatch(split):
            problems.append(f"{material.shown(path)} has no split hash")
            continue
        asked = json.dumps([spec.task_options, spec.task_version], sort_keys=True)
        hashes[(spec.task, spec.cohort.name, spec.cohort.revision, asked)][split].append(path)
    for (task, *_), by_split in hashes.items():
        if len(by_split) > 1:
            counts = ", ".join(f"{split[:12]} ({len(paths)})" for split, paths in by_split.items())
            problems.append(f"{task}: results of one cohort and one set of options have the splits {counts}")
    yield _finding(
        "splits", problems, f"{len(hashes)} task{'s' if len(hashes) != 1 else ''}, each of one split",
        "results of different splits cannot stand in one table; run all with one version of the task and its cohort",
    )  # fmt: skip


def check_plugins(material: Material) -> Iterator[Finding]:
    """The code that made a number is known."""
    problems, dirty = [], []
    for path, cell in material.good.items():
        shown = material.shown(path)
        kinds = {each.get("kind") for each in cell.plugins}
        if missing := sorted({"adapter", "encoder", "task"} - kinds):
            problems.append(f"{shown} does not say what {missing[0]} it is of")
        for each in cell.plugins:
            facts = [each.get(name, "") for name in ("name", "distribution", "version")]
            if not all(facts) or "unknown" in facts[1:]:
                problems.append(f"{shown}: the {each.get('kind')} {each.get('name')} is of no known distribution")
            elif facts[1] != "medgraft" and cell.spec.plugins.get(facts[1]) != facts[2]:
                problems.append(f"{shown}: {facts[1]} {facts[2]} took part and its specification does not say so")
        if cell.env.get("dirty"):
            dirty.append(f"{shown}: commit {str(cell.env.get('commit'))[:10]} with changes that nobody else has")
    yield _finding(
        "plugins", problems, "every plugin has a name, a distribution and a version",
        "install the plugin as a package with a version (pip install -e .) and run the cell again",
    )  # fmt: skip
    yield _finding(
        "checkout", dirty, "no result is of a checkout with changes", "commit the changes, and run these cells again",
        warn=True,
    )  # fmt: skip


def check_complete(material: Material) -> Iterator[Finding]:
    """No cell failed, and the rows of a table have the same seeds."""
    failed = [
        f"{material.shown(path)}: {cell.status}: {cell.message}"
        for path, cell in material.results.items()
        if cell.status != "success" and path in material.checked
    ]
    yield _finding(
        "failed cells", failed, "no cell failed", "run the same command again, which tries them anew, or delete them"
    )
    seeds: dict[str, set[int]] = defaultdict(set)
    first: dict[str, CellResult] = {}
    for cell in material.good.values():
        seeds[cell.spec.row()].add(cell.spec.seed)
        first[cell.spec.row()] = cell
    tables: dict[tuple[Any, ...], set[int]] = defaultdict(set)
    for row, cell in first.items():
        tables[_table(cell)] |= seeds[row]
    missing = [
        f"{cell.spec.task} / {cell.spec.encoder} / {cell.spec.adapter} has no seed "
        f"{', '.join(map(str, sorted(tables[_table(cell)] - seeds[row])))}"
        for row, cell in first.items()
        if cell.spec.train.epochs > 0 and tables[_table(cell)] - seeds[row]
    ]
    yield _finding(
        "seeds", missing, "all rows of a table have the same seeds", "run the missing seeds with --seeds",
    )  # fmt: skip


def _table(cell: CellResult) -> tuple[Any, ...]:
    spec = cell.spec
    return spec.task, spec.cohort.name, spec.cohort.revision, spec.limit, json.dumps(spec.task_options, sort_keys=True)


def check_copies(material: Material) -> Iterator[Finding]:
    """Nothing counts twice."""
    problems = _left_out(material, COPIED, OTHER_NAME)
    problems += [each.conflict for each in material.together if each.conflict]
    yield _finding(
        "copies", problems, "no result is there twice", "keep one of each, the one that was not edited",
    )  # fmt: skip


def check_suites(material: Material) -> Iterator[Finding]:
    """What cites a suite is one of its results."""
    problems: list[str] = []
    cited: set[str] = set()
    for path, cell in material.results.items():
        for name in cell.suites:
            cited.add(name)
            try:
                suite = find_suite(name)
            except UnknownNameError as error:
                problems.append(f"{material.shown(path)}: {error}")
                continue
            if reason := misfit(suite, cell):
                problems.append(f"{material.shown(path)} is not of {name}: {reason}")
    named = ", ".join(sorted(cited))
    yield _finding(
        "suites", problems, f"every result that cites {named} is of it" if cited else "no result cites a suite",
        "run the suite as it is (medgraft run --suite NAME), or take the citation out of these results",
    )  # fmt: skip


def check_paths(material: Material) -> Iterator[Finding]:
    """No text names a place of the machine, whose folders may name people and projects."""
    problems = []
    for path, cell in material.results.items():
        found = [text for text in _texts(cell.model_dump(mode="json")) if ABSOLUTE.search(text)]
        log = path.with_suffix(".log")
        if log.is_file():
            lines = BUILT_AT.sub("", log.read_text("utf-8", "replace")).splitlines()
            found += [line for line in lines if ABSOLUTE.search(line)]
        if found and (match := ABSOLUTE.search(found[0])):
            problems.append(f"{material.shown(path)}: {match.group()}")
    yield _finding(
        "paths", problems, "no result or log names a path of a machine",
        "delete these logs, and name encoders by a hub or a relative path; then run the cells again",
    )  # fmt: skip


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield str(name)
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def check_identifiers(material: Material, identifiers: Identifiers) -> Iterator[Finding]:
    """No file holds an identifier of a subject: those of the cohorts at hand, and what looks like one."""
    problems = []
    for path in material.files():
        try:
            found = [*identifiers.leaks(path), *known_forms(path)]
        except OSError as error:
            problems.append(f"{material.shown(path)} cannot be read: {error.strerror}")
            continue
        # The identifier itself is not repeated: this list is pasted into issues.
        problems += [
            f"{material.shown(path)}{f' ({leak.inside})' if leak.inside else ''}: {leak.form}" for leak in found[:1]
        ]
    searched = f" ({len(identifiers.names)} known ones, and what looks like one, were searched for)"
    yield _finding(
        "identifiers", problems, f"no file holds an identifier of a subject{searched}",
        "do not publish these files; delete logs, and tell the authors of the plugin that wrote them",
    )  # fmt: skip


def check_others(material: Material) -> Iterator[Finding]:
    """Nothing lies there by accident."""
    problems = [material.shown(path) for path in material.others]
    yield _finding(
        "other files", problems, "there are no other files", "publish only what belongs to results: KEY.json, KEY.npz, "
        "KEY.log, KEY.texts.parquet", warn=True,
    )  # fmt: skip


CHECKS: tuple[Callable[[Material], Iterator[Finding]], ...] = (
    check_readable, check_keys, check_numbers, check_phantoms, check_splits, check_plugins, check_complete,
    check_copies, check_suites, check_paths, check_others,
)  # fmt: skip


def check_submission(material: Material, identifiers: Identifiers) -> list[Finding]:
    """Runs every check.

    Args:
        material: The results.
        identifiers: Of subjects that must not be in them.
    """
    if not material.results and not material.broken:
        folders = ", ".join(map(str, material.folders))
        return [Finding("readable", "fail", f"there is no result below {folders}", "name the folder of a sweep")]
    findings = [finding for each in CHECKS for finding in each(material)]
    return [*findings, *check_identifiers(material, identifiers)]


def as_json(findings: Sequence[Finding]) -> str:
    """The findings for a program."""
    passed = not any(each.outcome == "fail" for each in findings)
    return json.dumps({"passed": passed, "checks": [asdict(each) for each in findings]}, indent=1)


def identifiers_of(material: Material, roots: Mapping[str, Path]) -> Identifiers:
    """The subjects and files of the cohorts that results are of, where they are at hand.

    Args:
        material: The results.
        roots: Cohort -> its folder.

    Raises:
        MedgraftError: A cohort cannot be read, or no result is of it.
    """
    from medgraft.benchmarks.cohorts.places import data_files
    from medgraft.task.names import build_task

    read = dict.fromkeys(cell.spec.cohort.name for cell in material.results.values())
    if unread := [name for name in roots if name not in read]:
        raise UnknownNameError("cohort in --data", unread[0], read, "It must be one that a result is of.")
    names: set[str] = set()
    seen: set[str] = set()
    for cell in material.results.values():
        spec = cell.spec
        asked = json.dumps([spec.task, spec.task_options], sort_keys=True)
        if spec.cohort.name not in roots or asked in seen:
            continue
        seen.add(asked)
        root = roots[spec.cohort.name]
        data = build_task(spec.task, spec.task_options).load(root)
        names |= {str(subject) for subject in data.subjects}
        stems = Counter(Path(name).name.partition(".")[0] for name in data_files(root))
        # What recurs, as view1_frontal, or has no number, names a kind of file and nobody.
        names |= {stem for stem, count in stems.items() if count == 1 and re.search(r"\d", stem)}
    return Identifiers(names)
