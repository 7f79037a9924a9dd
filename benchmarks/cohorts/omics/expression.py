"""Expression tables: a row for each sample and a column for each gene, from CSV, TSV or h5ad.

A table may also lie on its side, a row for each gene, as tables of arrays often do; it is known by the name of its
first column (``gene``, ``symbol``, ``probe``, ``id_ref``). A gene that several columns measure is the one of them with
the highest mean, as MaxMean of Miller et al., "Strategies for aggregating gene expression data", BMC Bioinformatics 12
(2011). Whether values are logarithms already is told by GEO2R's rule (Barrett et al., Nucleic Acids Research 41, 2013).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.tables.reading import ReadReport, read_table
from medgraft.benchmarks.cohorts.tables.table_rows import dialect_of
from medgraft.errors import DataError

Logarithm = Literal["auto", "yes", "no"]

SIDEWAYS = frozenset({"gene", "genes", "symbol", "gene_symbol", "gene_id", "probe", "probeset", "probe_id", "id_ref"})
SYMBOLS = ("gene_symbols", "gene_symbol", "feature_name", "gene_name", "symbol")
"""Columns of an h5ad's ``var`` that hold names of genes, where its index does not."""
MOST_NUMBERS = 2_000_000_000
"""Samples times columns that are read; more would not fit into the memory of most machines."""


@dataclass(frozen=True)
class Expression:
    """Expression of genes.

    Attributes:
        values: ``float32 [n, P]``, ``nan`` where a number is missing.
        genes: Name of each column; none twice.
        samples: Name of each row, not stored in any result.
        report: What was left out or repaired.
    """

    values: np.ndarray
    genes: tuple[str, ...]
    samples: tuple[str, ...] = field(repr=False)
    report: ReadReport = field(default_factory=ReadReport)


def read_expression(path: Path) -> Expression:
    """Reads a table by its suffix.

    Args:
        path: ``.csv``, ``.tsv``, ``.txt`` (tabs) or ``.h5ad``, text perhaps with ``.gz`` behind.

    Raises:
        DataError: It is none of them, holds no number, or no names of genes.
    """
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".h5ad"):
        return _of_h5ad(path)
    if not name.endswith((".csv", ".tsv", ".txt")):
        raise DataError(f"{path.name} is no table of expression that is read here; give a .csv, .tsv, .txt or .h5ad")
    sep = "," if name.endswith(".csv") else "\t"
    table = read_table(path, (), sep=sep)
    if table.shape[1] < 2 or table.empty:
        raise DataError(f"{path.name} is {len(table)} x {table.shape[1]}; a table of expression has names and numbers")
    first = str(table.columns[0]).strip().lower().replace(" ", "_")
    labels = [str(each).strip() for each in table.iloc[:, 0]]
    report = ReadReport()
    values = numbers_of(table.iloc[:, 1:], report)
    others = _names(path, sep, table)
    if first in SIDEWAYS:
        return one_column_each(values.T, labels, others, report)
    return one_column_each(values, others, labels, report)


def _names(path: Path, sep: str, table: pd.DataFrame) -> list[str]:
    """Names behind the first one as the file has them, of which pandas numbers those that come twice."""
    dialect = dialect_of(path, sep)
    how: dict[str, Any] = {"sep": dialect.sep, "skiprows": dialect.skipped, "encoding": dialect.encoding}
    how |= {"compression": "gzip" if dialect.packed else None, "encoding_errors": "replace"}
    header = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, **how)
    names = header.iloc[0] if header.shape[1] == table.shape[1] else table.columns
    return [str(each).strip() for each in names[1:]]


def numbers_of(table: pd.DataFrame, report: ReadReport) -> np.ndarray:
    """A table's cells as ``float32 [n, P]``; what is no number or has no end is missing, and noted.

    Raises:
        DataError: No cell is a number.
    """
    columns: list[Any] = [pd.to_numeric(table.iloc[:, k], errors="coerce") for k in range(table.shape[1])]
    values = np.stack([column.to_numpy(float) for column in columns], axis=1)
    odd = int((~np.isfinite(values)).sum() - table.isna().to_numpy().sum())
    if odd:
        report.note("an expression that is no number; treated as missing", odd)
    values[~np.isfinite(values)] = np.nan
    if np.isnan(values).all():
        raise DataError("the table of expression holds no number")
    return values.astype(np.float32)


def one_column_each(values: np.ndarray, genes: Sequence[str], samples: Sequence[str], report: ReadReport) -> Expression:
    """The table with one column for each gene, that of the highest mean, in the order of their first columns.

    Args:
        values: ``float32 [n, P]``.
        genes: Gene of each column; a column without one is left out.
        samples: Name of each row.
        report: Takes counts.

    Raises:
        DataError: No column names a gene, or two rows are of one sample.
    """
    if len(set(samples)) != len(samples):
        twice = len(samples) - len(set(samples))
        raise DataError(f"{twice} rows are of a sample that has one already; name each sample once")
    with np.errstate(all="ignore"):
        seen = np.isfinite(values).any(axis=0)
    means = np.full(values.shape[1], -np.inf)
    means[seen] = np.nanmean(values[:, seen], axis=0)
    best: dict[str, int] = {}
    nameless = 0
    for column, gene in enumerate(genes):
        if not gene or gene.lower() in ("nan", "none", "---"):
            nameless += 1
        elif gene not in best or means[column] > means[best[gene]]:
            best[gene] = column
    if not best:
        raise DataError("no column of the table of expression has the name of a gene")
    if nameless:
        report.skip("a column without the name of a gene", count=nameless)
    if repeated := len(genes) - nameless - len(best):
        report.skip("a further column of a gene; the one with the highest mean is kept", count=repeated)
    return Expression(values[:, list(best.values())], tuple(best), tuple(samples), report)


def _of_h5ad(path: Path) -> Expression:
    try:
        anndata: Any = importlib.import_module("anndata")
    except ImportError as error:
        raise DataError(f"{path.name} needs anndata to be read; pip install medgraft[omics], or give a .csv") from error
    try:
        data: Any = anndata.read_h5ad(path)
    except Exception as error:  # whatever h5py raises of a damaged file
        raise DataError(f"{path.name} could not be read as h5ad ({type(error).__name__}: {error})") from error
    if data.X is None or not data.n_obs or not data.n_vars:
        raise DataError(f"{path.name} holds no matrix X of samples and genes")
    if data.n_obs * data.n_vars > MOST_NUMBERS:
        raise DataError(
            f"{path.name} holds {data.n_obs} x {data.n_vars} numbers, more than {MOST_NUMBERS} that are read"
        )
    genes = [str(each).strip() for each in data.var_names]
    if all(each.isdigit() for each in genes):  # anndata's own numbering
        named = [name for name in SYMBOLS if name in data.var]
        if not named:
            raise DataError(
                f"{path.name} has no names of genes: var_names are numbers, and no column of var is "
                f"{' or '.join(SYMBOLS)}"
            )
        genes = [str(each).strip() for each in data.var[named[0]]]
    report = ReadReport()
    matrix = data.X.toarray() if hasattr(data.X, "toarray") else np.asarray(data.X)
    return one_column_each(
        numbers_of(pd.DataFrame(np.asarray(matrix, float)), report),
        genes,
        [str(each) for each in data.obs_names],
        report,
    )


def looks_logged(values: np.ndarray) -> bool:
    """Whether values ``[n, P]`` are logarithms already: GEO2R's rule on their quantiles.

    They are not where the 99th percentile is over 100, or where their range is over 50 and the 25th percentile over 0.

    Example:
        >>> looks_logged(np.array([[2.0, 9.5, 13.0]])), looks_logged(np.array([[4.0, 700.0, 8000.0]]))
        (True, False)
    """
    low, quarter, high, most = np.nanquantile(values, [0.0, 0.25, 0.99, 1.0])
    return not (high > 100 or (most - low > 50 and quarter > 0))


def in_logarithms(table: Expression, log: Logarithm) -> tuple[Expression, str]:
    """The table in logarithms, ``log2(1 + x)`` where it is not yet, and what was done, in words.

    Raises:
        DataError: Logarithms are asked for, and the values are negative or look like logarithms already.
    """
    logged, negative = looks_logged(table.values), bool(np.nanmin(table.values) < 0)
    if log == "no" or (log == "auto" and logged):
        return table, "as given"
    if negative:
        raise DataError("the table of expression has negative values, which have no logarithm; set log: no")
    if logged:
        raise DataError("the values of the table of expression look like logarithms already; set log: no, or auto")
    return replace(table, values=np.log2(1 + table.values)), "log2(1 + x)"
