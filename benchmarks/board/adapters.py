"""What a board says of the adapters in it: titles, recipes, where they come from; and tables without empty columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from medgraft.benchmarks.results.result import CellResult

HEADS = ("adapter", "title", "from", "trained", "licence", "paper")


def title(cell: CellResult) -> str:
    """Title of a result's adapter, of several joined by ``+``; empty where nobody gave one."""
    return " + ".join(facts["title"] for facts in cell.adapters.values() if facts.get("title"))


def recipe(cell: CellResult) -> str:
    """How a result's adapter was trained, in words.

    Example: ``6 epochs, lr 0.001, head lr 0.003, batch 32, weight decay 0.01, warm-up 0.1``.
    """
    train, head = cell.spec.train, cell.training.get("head", {})
    if train.epochs == 0:
        return "nothing trained"
    if head.get("folds") and head.get("C") is not None:
        name = head.get("regression", "logistic regression")
        return f"{name}, C {head['C']:g} by {head['folds']}-fold cross-validation over training subjects"
    epochs = f"{train.epochs} epoch{'s' if train.epochs > 1 else ''}"
    keep = "" if train.keep == "last" else ", keeps the epoch of lowest loss"
    return (
        f"{epochs}, lr {train.lr:g}, head lr {train.head_lr:g}, batch {train.batch_size}, "
        f"weight decay {train.weight_decay:g}, warm-up {train.warmup:g}{keep}"
    )


def adapter_rows(cells: Sequence[CellResult]) -> list[list[str]]:
    """One line of text per adapter and recipe, in the order of :data:`HEADS`, each once.

    Args:
        cells: Results, one of each row of the board.
    """
    lines: dict[tuple[str, ...], None] = {}
    for cell in cells:
        home = {p.get("name"): f"{p.get('distribution', '?')} {p.get('version', '')}".strip() for p in cell.plugins}
        homes = dict.fromkeys(home[name] for name in _plugins(cell) if name in home)
        said = {key: [facts[key] for facts in cell.adapters.values() if facts.get(key)] for key in ("licence", "paper")}
        texts = ("; ".join(dict.fromkeys(said[key])) or "-" for key in ("licence", "paper"))
        lines[(cell.spec.adapter, title(cell) or "-", ", ".join(homes) or "-", recipe(cell), *texts)] = None
    return [list(each) for each in sorted(lines)]


def _plugins(cell: CellResult) -> list[str]:
    parts = [part.strip() for part in cell.spec.adapter.split("+")]
    return [name for part in parts for name in (part, part.partition(":")[0])]


def without_dashes(
    heads: Sequence[str], rows: Sequence[Sequence[str]], keep: Collection[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """A table without the columns that hold nothing but dashes.

    Args:
        heads: Names of the columns.
        rows: Texts, ``-`` where there is nothing.
        keep: Columns that stay whatever they hold.

    Example:
        >>> without_dashes(["a", "b"], [["1", "-"], ["2", "-"]])
        (['a'], [['1'], ['2']])
    """
    shown = [
        column for column, head in enumerate(heads) if head in keep or any(row[column] not in ("-", "") for row in rows)
    ]
    return [heads[column] for column in shown], [[row[column] for column in shown] for row in rows]
