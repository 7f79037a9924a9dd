"""The label of a row: what it adds to an encoder, what that costs and what it reached, as Markdown and as a picture.

Like the label on a packet of food it has the same lines for everything, so that two can be held side by side. A picture
is an SVG without scripts, styles or links, with its text as text and once more as an alternative for screen readers.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from medgraft.benchmarks.board.adapters import title
from medgraft.benchmarks.board.rows import BoardRow, median
from medgraft.benchmarks.board.text import count, with_interval
from medgraft.benchmarks.sharing.finding import Found
from medgraft.benchmarks.sharing.showing import environment_of
from medgraft.commands.plain_text import markdown_text, one_line
from medgraft.errors import ConfigError, MedgraftError

WIDTH, MARGIN, LINE = 400, 16, 19
CHARACTERS = 54
"""Characters of 12 pixels in a line of the picture; wider letters than the average still fit."""

PHANTOM = "PHANTOM: generated data, no evidence about people"


@dataclass(frozen=True)
class Label:
    """What a label says.

    Attributes:
        title: The adapter.
        subtitle: Where it was put and what for.
        phantom: Measured on generated data.
        parts: Heading -> lines of name and value.
    """

    title: str
    subtitle: str
    phantom: bool
    parts: dict[str, list[tuple[str, str]]]


def label_of(found: Found) -> Label:
    """The label of a row.

    Raises:
        ConfigError: No cell of it succeeded.
    """
    row = found.row
    if not row.metrics:
        raise ConfigError(f"{found.named()} has no numbers to put on a label: {row.status}")
    spec = row.first.spec
    name = title(row.first)
    return Label(
        f"{name} ({row.adapter})" if name and name != row.adapter else row.adapter,
        f"on {spec.encoder}, for {spec.task}",
        row.first.phantom,
        {
            "Parameters": list(_parameters(row)),
            "Memory and speed": list(_costs(row)),
            "Quality, test split": list(_quality(row)),
            "Made of": list(_origin(found)),
        },
    )


def _parameters(row: BoardRow) -> Iterator[tuple[str, str]]:
    costs = row.first.efficiency
    if costs is None:
        return
    total = sum(costs.trainable.values())
    share = f" ({total / costs.encoder_parameters:.2%} of the encoder's)" if costs.encoder_parameters else ""
    yield "trainable", f"{count(total)}{share}"
    for name, number in costs.trainable.items():
        yield f"  in {name}", count(number)
    for facts in row.first.adapters.values():
        if coverage := facts.get("coverage"):
            yield "  at sites", ", ".join(f"{pattern} x {hits}" for pattern, hits in coverage.items())
    yield "frozen", count(costs.encoder_parameters)


def _costs(row: BoardRow) -> Iterator[tuple[str, str]]:
    if (peak := median(row, "train_step_peak_bytes")) is not None:
        yield "peak of a training step", f"{peak / 2**20:,.0f} MiB"
    for name, head in (("train_samples_per_s", "training"), ("inference_samples_per_s", "inference")):
        if (value := median(row, name)) is not None:
            yield head, f"{count(float(f'{value:.3g}'))} samples/s"
    if (flops := median(row, "forward_flops")) is not None:
        yield "forward pass", f"{count(flops)} FLOPs a sample"
    cell = row.first
    machine = cell.env.get("gpu") if cell.spec.device == "cuda" else cell.env.get("cpu")
    threads = f", {cell.spec.threads} thread{'s' if cell.spec.threads > 1 else ''}" if cell.spec.device == "cpu" else ""
    yield "on", f"{machine or cell.spec.device}{threads}, {cell.spec.precision}"


def _quality(row: BoardRow) -> Iterator[tuple[str, str]]:
    primary = row.first.primary
    yield primary, with_interval(row.metrics[primary])
    for name in ("ece", "worst"):
        if name in row.metrics and name != primary:
            yield name, with_interval(row.metrics[name])
    for attribute, groups in row.first.groups.items():
        if groups.worst and groups.metric == primary and groups.worst in groups.groups:
            worst = groups.groups[groups.worst]
            value = with_interval((worst.value, worst.ci_low, worst.ci_high))
            yield f"worst by {attribute}", f"{value} ({groups.worst}{', one seed' if len(row.cells) > 1 else ''})"
    estimate = row.first.metrics[primary]
    seeds = f"{len(row.cells)} seed{'s' if len(row.cells) > 1 else ''}"
    yield "from", f"{estimate.n_subjects} subjects, {seeds}; 95% intervals"
    if row.status != "success":
        yield "status", row.status
    if row.warning:
        yield "careful", row.warning


def _origin(found: Found) -> Iterator[tuple[str, str]]:
    cell = found.row.first
    yield "data", f"{cell.spec.cohort.name}{' (PHANTOM)' if cell.phantom else ''}, revision {cell.spec.cohort.revision}"
    homes = dict.fromkeys(f"{each['distribution']} {each['version']}" for each in cell.plugins)
    if homes:
        yield "code", ", ".join(homes)
    if cell.env:
        yield "environment", environment_of(cell)
    yield "key", found.key


def as_markdown(label: Label) -> str:
    """The label as a Markdown table."""
    lines = [f"## {markdown_text(label.title)}", "", f"{markdown_text(label.subtitle)}", ""]
    if label.phantom:
        lines += [f"**{PHANTOM}**", ""]
    for heading, facts in label.parts.items():
        if facts:
            lines += [f"| {heading} | |", "|---|---|"]
            lines += [f"| {markdown_text(name.strip())} | {markdown_text(value)} |" for name, value in facts]
            lines.append("")
    return "\n".join(lines)


def as_svg(label: Label) -> str:
    """The label as a picture, 400 pixels wide."""
    drawn: list[str] = []
    y = _heading(label, drawn)
    for heading, facts in label.parts.items():
        if not facts:
            continue
        y += 8
        drawn.append(f'<rect x="{MARGIN}" y="{y}" width="{WIDTH - 2 * MARGIN}" height="3" fill="#111"/>')
        y += LINE + 2
        drawn.append(_text(MARGIN, y, heading, weight="bold", size=13))
        for name, value in facts:
            y = _fact(name, value, y, drawn)
    height = y + MARGIN
    told = escape(_told(label))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-labelledby="title desc" font-family="Helvetica, Arial, sans-serif">\n'
        f'<title id="title">{escape(_safe(f"Label of {label.title}"))}</title>\n<desc id="desc">{told}</desc>\n'
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" fill="#fff" stroke="#111" stroke-width="2"/>\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )


def _heading(label: Label, drawn: list[str]) -> int:
    """Title, subtitle and the mark of a phantom; gives where they end."""
    y = 12
    for line in _wrapped(label.title, 30, 3):
        y += 24
        drawn.append(_text(MARGIN, y, line, weight="bold", size=20))
    for line in _wrapped(label.subtitle, CHARACTERS, 3):
        y += LINE
        drawn.append(_text(MARGIN, y, line))
    if label.phantom:
        y += 10
        drawn.append(f'<rect x="{MARGIN}" y="{y}" width="{WIDTH - 2 * MARGIN}" height="24" fill="#111"/>')
        drawn.append(_text(WIDTH // 2, y + 17, PHANTOM, weight="bold", fill="#fff", anchor="middle"))
        y += 24
    return y


def _fact(name: str, value: str, y: int, drawn: list[str]) -> int:
    """One line of name and value, of several lines where they are long."""
    inner = name.startswith(" ")
    name = _wrapped(name.strip(), CHARACTERS // 2, 1)[0]
    room = max(16, CHARACTERS - len(name) - (4 if inner else 2))
    lines = _wrapped(value, room, 4)
    y += 5
    drawn.append(f'<rect x="{MARGIN}" y="{y}" width="{WIDTH - 2 * MARGIN}" height="0.5" fill="#777"/>')
    for i, line in enumerate(lines):
        y += LINE - 4 if i == 0 else LINE - 3
        if i == 0:
            drawn.append(_text(MARGIN + (14 if inner else 0), y, name, weight="normal" if inner else "bold"))
        drawn.append(_text(WIDTH - MARGIN, y, line, anchor="end"))
    return y


def _wrapped(text: str, room: int, most: int) -> list[str]:
    """A text in lines of so many characters, at most ``most`` of them; the last one then ends in an ellipsis."""
    lines = textwrap.wrap(_safe(text), room) or ["-"]
    return lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1][: room - 1]}…"]


def _text(
    x: int, y: float, text: str, *, weight: str = "normal", size: int = 12, fill: str = "#111", anchor: str = "start"
) -> str:
    attributes = f'x="{x}" y="{y:g}" font-size="{size}" font-weight="{weight}" fill="{fill}" text-anchor="{anchor}"'
    return f"<text {attributes}>{escape(text)}</text>"


def _safe(text: str) -> str:
    return one_line(text, 300)


def _told(label: Label) -> str:
    """The label in a few sentences, for whoever does not see it."""
    facts = [
        f"{heading}: {'; '.join(f'{name.strip()} {value}' for name, value in lines)}."
        for heading, lines in label.parts.items()
        if lines
    ]
    mark = [f"{PHANTOM}."] if label.phantom else []
    return one_line(" ".join([f"{label.title} {label.subtitle}.", *mark, *facts]))


def write_label(found: Found, folder: Path) -> Sequence[Path]:
    """Writes ``label.md`` and ``label.svg``.

    Raises:
        ConfigError: The row has no numbers.
        MedgraftError: The folder cannot be written.
    """
    label = label_of(found)
    texts = {folder / "label.md": as_markdown(label), folder / "label.svg": as_svg(label)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MedgraftError(f"the label cannot be written to {folder}: {error}; choose another --out") from error
    return list(texts)
