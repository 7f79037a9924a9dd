"""``docs/schema/*.json`` and the tables of ``docs/schema.md``: what result files hold, from the code's types.

``python -m benchmarks.audit.schema`` writes both; a test says when they are no longer what the code is. A schema is
JSON Schema, draft 2020-12, and has the version of its files in its name, so the schemas of earlier versions stay where
they are. What a field means comes from the docstrings.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from medgraft.benchmarks.external.results import SCHEMA_VERSION as EXTERNAL_VERSION
from medgraft.benchmarks.external.results import ExternalResult
from medgraft.benchmarks.kernels.results import OperationResult
from medgraft.benchmarks.results.migrations import SCHEMA_VERSION
from medgraft.benchmarks.results.result import CellResult
from medgraft.commands.plain_text import markdown_text
from medgraft.options import allowed_by, attributes_in, in_words, kind_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, FOLDER = DOCS / "schema.md", DOCS / "schema"
_OTHER_CODE = re.compile(r",? see :\w+:`[^`]*`")
"""Where a docstring sends readers of the code to."""
START, END = "<!-- fields: python -m benchmarks.audit.schema -->", "<!-- end of fields -->"

ROOTS: dict[str, type[BaseModel]] = {
    f"result-v{SCHEMA_VERSION}": CellResult,
    f"external-v{EXTERNAL_VERSION}": ExternalResult,
    f"operation-v{OperationResult.model_fields['schema_version'].default}": OperationResult,
}
"""Name of a schema -> what its files hold."""


def records_of(root: type) -> list[type]:
    """A record and all records inside of it, each once, from the outside in."""
    found: dict[type, None] = {root: None}
    for annotation in _annotations(root):
        for part in _parts(annotation):
            if part not in found:
                found |= dict.fromkeys(records_of(part))
    return list(found)


def _annotations(record: type) -> list[Any]:
    if issubclass(record, BaseModel):
        return [info.annotation for info in record.model_fields.values()]
    return list(typing.get_type_hints(record).values())


def _parts(annotation: Any) -> Iterator[type]:
    if inspect.isclass(annotation) and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _parts(inner)


def meanings_of(record: type) -> dict[str, str]:
    """What each field of a record means, in words.

    Raises:
        ValueError: A field has no meaning in the docstring of the record.
    """
    said: dict[str, str] = {}
    for cls in reversed(record.__mro__):
        said |= attributes_in(cls.__doc__ or "")
    names = record.model_fields if issubclass(record, BaseModel) else typing.get_type_hints(record)
    if missing := [name for name in names if name not in said]:
        raise ValueError(f"{record.__name__}.{missing[0]} is not described under Attributes: in its docstring")
    return {name: in_words(_OTHER_CODE.sub("", said[name])) for name in names}


def schema_of(root: type[BaseModel], name: str) -> dict[str, Any]:
    """The JSON schema of a file."""
    schema = root.model_json_schema()
    for record in records_of(root):
        part = schema if record is root else schema["$defs"][record.__name__]
        part["description"] = _summary(record)
        for field, meaning in meanings_of(record).items():
            part["properties"][field]["description"] = meaning
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"{name}.json"}
    return {**head, **schema, "title": name}


def _summary(record: type) -> str:
    first = inspect.cleandoc(record.__doc__ or "").split("\n\n")[0]
    return in_words(first)


def tables() -> str:
    """The fields of every record as Markdown, one table for each."""
    lines: list[str] = []
    told: set[type] = set()
    for name, root in ROOTS.items():
        lines += [f"## {_title(name)}", "", f"Schema: [{name}.json](schema/{name}.json). {_summary(root)}", ""]
        for record in records_of(root):
            if record in told:
                continue
            told.add(record)
            if record is not root:
                lines += [f"### {record.__name__}", "", _summary(record), ""]
            lines += ["| field | type | meaning |", "|---|---|---|", *_rows(record), ""]
    return "\n".join(lines)


def _title(name: str) -> str:
    kind, _, version = name.rpartition("-v")
    words = {"result": "Results of cells", "external": "Tests on another cohort", "operation": "Operations"}
    endings = {"result": "KEY.json", "external": "KEY.MARK.external.json", "operation": "*.ops.json"}
    return f"{words[kind]} (`{endings[kind]}`), version {version}"


def _rows(record: type) -> Iterator[str]:
    meanings, hints = meanings_of(record), typing.get_type_hints(record)
    for name, meaning in meanings.items():
        kind = kind_of(hints[name])
        if issubclass(record, BaseModel):
            info = record.model_fields[name]
            kind = kind_of(info.annotation)
            if (allowed := allowed_by(info.annotation, info.metadata)) and allowed not in kind:
                kind = f"one of {allowed}" if kind == "choice" else f"{kind}, {allowed}"
        yield f"| `{name}` | {_linked(hints[name], kind)} | {markdown_text(meaning.replace(' -> ', ': '))} |"


def _linked(annotation: Any, kind: str) -> str:
    """A type in words, and the records that it is made of as links to their tables."""
    records = list(dict.fromkeys(_parts(annotation)))
    links = ", ".join(f"[{each.__name__}](#{each.__name__.lower()})" for each in records)
    if not records:
        return markdown_text(kind)
    several = typing.get_origin(annotation) in (dict, list, tuple)
    return f"{'several ' if several else ''}{links}"


def page(text: str) -> str:
    """A page with the tables in their place."""
    return re.sub(f"{re.escape(START)}.*{re.escape(END)}", lambda _: f"{START}\n\n{tables()}\n{END}", text, flags=re.S)


def files() -> dict[Path, str]:
    """Path -> what should be there."""
    schemas = {
        FOLDER / f"{name}.json": json.dumps(schema_of(root, name), indent=1, sort_keys=False) + "\n"
        for name, root in ROOTS.items()
    }
    return {**schemas, PAGE: page(PAGE.read_text(encoding="utf-8"))}


def main() -> None:
    """Writes all of them."""
    FOLDER.mkdir(exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
