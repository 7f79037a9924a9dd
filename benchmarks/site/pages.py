"""Writes the site: ``index.html``, and ``rows/TABLE.html`` with a page for each row.

Every page stands alone: style and script are inside, and its policy lets in nothing else, neither from the network nor
from what a result says. Text of results is escaped by Jinja's autoescaping; characters without a glyph are written out.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from medgraft.benchmarks.board.document import Document, Row, Section, tables_of
from medgraft.benchmarks.board.rows import BoardRow
from medgraft.benchmarks.site.charts.pareto import Pareto, Point, pareto_chart
from medgraft.benchmarks.site.charts.ranks import ranks_chart
from medgraft.benchmarks.site.mean_ranks import mean_ranks
from medgraft.benchmarks.site.row_data import Shared, row_data
from medgraft.benchmarks.site.suite_page import suite_page
from medgraft.benchmarks.site.table_data import table_data
from medgraft.benchmarks.suite.ranks import SuiteBoard
from medgraft.commands.plain_text import plain

OPEN_FRONTS = 8
"""Tables up to which charts of quality against cost stand open, and all is laid out whether it is in sight or not."""
MOST_TOGETHER = 250
"""Rows of a table up to which their pages are one file; of more they are sixteen."""
PAGE_NAME = re.compile(r"[a-z0-9-]+-[0-9a-f]{6}(-[0-9a-f])?\.html")
"""Only such files are taken for pages of rows of an earlier board; a folder may hold somebody's own."""
COSTS = (
    ("trainable", "trainable parameters", False, 1.0),
    ("train_step_peak_bytes", "peak memory of a training step, MB", False, 2.0**20),
    ("train_samples_per_s", "training samples a second", True, 1.0),
    ("inference_samples_per_s", "inference samples a second", True, 1.0),
)
"""Costs with a chart: field of a row, name of the axis, whether more is better, and what it is divided by."""


def write_site(
    rows: Sequence[BoardRow],
    document: Document,
    folder: Path,
    *,
    parquet: bool = True,
    suites: Sequence[SuiteBoard] = (),
) -> Path:
    """Writes all pages; returns the path of ``index.html``. Pages of rows that are no more are removed.

    Args:
        rows: See :func:`medgraft.benchmarks.board.rows.board_rows`.
        document: The same as data.
        folder: Where to.
        parquet: ``leaderboard.parquet`` lies beside them.
        suites: Ranks over the tasks of suites.

    Raises:
        OSError: They cannot be written.
    """
    pages = folder / "rows"
    pages.mkdir(parents=True, exist_ok=True)
    known = set(_write_rows(rows, document, pages))
    for path in pages.glob("*.html"):
        if path.name not in known and PAGE_NAME.fullmatch(path.name):
            path.unlink()
    index = folder / "index.html"
    index.write_text(_index(rows, document, suites, parquet=parquet), encoding="utf-8")
    return index


def _write_rows(rows: Sequence[BoardRow], document: Document, folder: Path) -> Iterator[str]:
    """Writes the pages of rows: those of a table together, or by the first letter of their names if they are many."""
    script, template = f"{_part('charts.js')}\n{_part('row.js')}", _environment().get_template("rows.html")
    head, by_section = _head("page.css", "row.css", scripts=[script]), _by_section(document)
    for section, members in zip(document.sections, tables_of(rows).values(), strict=True):
        parts: dict[str, list[tuple[BoardRow, Row]]] = {}
        many = len(members) > MOST_TOGETHER
        for row, record in zip(members, by_section[section.id], strict=True):
            parts.setdefault(page_of(section, record.id, many=many), []).append((row, record))
        for name, part in parts.items():
            shared = Shared()
            data = {
                "title": section.title,
                "phantom": section.phantom,
                "count": len(members),
                "rows": [row_data(row, record, section, shared) for row, record in part],
                "facts": list(shared.values),
            }
            text = template.render(
                **head,
                section=section,
                version=document.medgraft,
                data=as_data(data),
                script=Markup(script),
            )
            (folder / name).write_text(text, encoding="utf-8")
            yield name


def page_of(section: Section, row: str, *, many: bool) -> str:
    """File of a row's page, in which ``#ROW`` names it.

    Args:
        section: Its table.
        row: Its ``id``.
        many: The table has more than :data:`MOST_TOGETHER` rows.
    """
    return f"{section.id}-{row[0]}.html" if many else f"{section.id}.html"


def _index(rows: Sequence[BoardRow], document: Document, suites: Sequence[SuiteBoard], *, parquet: bool) -> str:
    script, by_section = _part("board.js"), _by_section(document)
    classes = {
        record.section: row.first.data.get("classes", ())
        for row, record in zip((row for each in tables_of(rows).values() for row in each), document.rows, strict=True)
        if row.metrics
    }
    template = _environment().get_template("index.html")
    return template.render(
        **_head("page.css", "board.css", scripts=[script]),
        document=document,
        phantom=any(section.phantom for section in document.sections),
        ranked=any(row.standing for row in document.rows),
        parquet=parquet,
        few=len(document.sections) <= OPEN_FRONTS,
        fronts={section.id: list(_fronts(section, by_section[section.id])) for section in document.sections},
        ranks=list(_ranks(document)),
        suites=[suite_page(board) for board in suites],
        data=as_data(table_data(document, classes, MOST_TOGETHER)),
        script=Markup(script),
    )


def _by_section(document: Document) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {section.id: [] for section in document.sections}
    for row in document.rows:
        found[row.section].append(row)
    return found


def _fronts(section: Section, rows: Sequence[Row]) -> Iterator[Pareto]:
    """The charts of quality against cost of a table, those for which two rows have numbers."""
    several = len({row.encoder for row in rows}) > 1
    for name, axis, up, unit in COSTS:
        points = [
            Point(
                _point_name(row, several=several),
                cost / unit,
                quality,
                f"rows/{page_of(section, row.id, many=len(rows) > MOST_TOGETHER)}#{row.id}",
            )
            for row in rows
            if (cost := getattr(row, name)) is not None
            and (quality := row.metrics.get(section.primary, (None,))[0]) is not None
        ]
        label = section.labels.get(section.primary, section.primary)
        down = section.primary in section.lower_is_better
        title = f"{label} against {axis}"
        if chart := pareto_chart(title, points, axis, label, cost_up=up, quality_up=not down):
            yield chart


def _point_name(row: Row, *, several: bool) -> str:
    name = f"{row.adapter} ({row.note})" if row.note else row.adapter
    return f"{name} on {row.encoder}" if several else name


def _ranks(document: Document) -> Iterator[tuple[str, Markup | None, str]]:
    """For real and for generated cohorts where there are any: heading, diagram, and what it says."""
    for phantom in (False, True):
        if not any(section.phantom == phantom for section in document.sections):
            continue
        found = mean_ranks(document, phantom=phantom)
        title = "Generated cohorts (PHANTOM)" if phantom else "Real cohorts"
        if isinstance(found, str):
            yield title, None, found
            continue
        p = "" if found.p_value is None else f" Friedman's test: p = {found.p_value:.2g}."
        left = (
            f" Left out, since they did not run on all of these: {', '.join(found.left_out)}." if found.left_out else ""
        )
        said = (
            f"Mean ranks of {len(found.names)} adapters over {len(found.tasks)} tasks ({', '.join(found.tasks)}). "
            "Those that an upright joins lie within Nemenyi's critical difference at 5%: the tasks do not tell them "
            "apart "
            f"(Demsar, JMLR 2006).{p}{left}"
        )
        yield title, ranks_chart(found), said


# --- templates --------------------------------------------------------------------------------------------------------


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("medgraft.benchmarks.site"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """What a page shows of a value: text whose characters without a glyph are written out."""
    return plain(value, keep="\n") if isinstance(value, str) and not isinstance(value, Markup) else value


def as_data(value: Any) -> Markup:
    """Data as JSON that may stand in a page: no ``<``, ``>`` or ``&``, and nothing that is not ASCII."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@functools.cache
def _part(name: str) -> str:
    """A style or a script, of our own, as it stands in a page."""
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0].strip()


def _head(*styles: str, scripts: Sequence[str] = ()) -> dict[str, Any]:
    """Style, first script and policy of a page: it runs and wears what has these digests, and loads nothing."""
    style, theme = "\n".join(map(_part, styles)), _part("theme.js")
    allowed = " ".join(map(_digest, [theme, *scripts]))
    policy = (
        f"default-src 'none'; style-src {_digest(style)}; script-src {allowed}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    return {"style": Markup(style), "theme": Markup(theme), "policy": Markup(policy)}


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
