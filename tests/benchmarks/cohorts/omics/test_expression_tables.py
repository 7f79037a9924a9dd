"""Tables of expression: layouts, names, logarithms, and what is no table."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medgraft.benchmarks.cohorts.omics.expression import (
    Expression,
    in_logarithms,
    looks_logged,
    one_column_each,
    read_expression,
)
from medgraft.benchmarks.cohorts.omics.scaling import GeneScaling
from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.errors import DataError

PLAIN = "sample,TP53,APOE,TP53\na,1.5,2.0,9.5\nb,2.5,,8.5\n"


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("e.csv", PLAIN),
        ("e.tsv", PLAIN.replace(",", "\t")),
        ("e.csv", PLAIN.replace(".", ",").replace(",5", "!5").replace(",0", "!0").replace(",", ";").replace("!", ",")),
        ("e.txt", "ID_REF\ta\tb\nTP53\t1.5\t2.5\nAPOE\t2.0\t\nTP53\t9.5\t8.5\n"),
    ],
    ids=["csv", "tsv", "semicolons", "on its side"],
)
def test_layouts_give_the_same_table_with_the_brightest_column_of_a_gene(tmp_path, name, content):
    found = read_expression(write(tmp_path / name, content))
    assert found.genes == ("TP53", "APOE") and found.samples == ("a", "b")
    np.testing.assert_array_equal(found.values, np.array([[9.5, 2.0], [8.5, np.nan]], np.float32))
    assert found.report.skipped == {"a further column of a gene; the one with the highest mean is kept": 1}


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("e.xlsx", "", "is no table of expression that is read here"),
        ("e.csv", "sample\na\n", "has names and numbers"),
        ("e.csv", "sample,TP53\na,x\n", "holds no number"),
        ("e.csv", "sample,TP53\na,1\na,2\n", "1 rows are of a sample that has one already"),
        ("e.tsv", "gene\ta\n---\t1\n\t2\n", "no column of the table of expression has the name of a gene"),
    ],
)
def test_what_is_no_table_of_expression_is_refused_in_a_sentence(tmp_path, name, content, why):
    with pytest.raises(DataError, match=why):
        read_expression(write(tmp_path / name, content))


def test_what_is_no_number_is_missing_and_counted(tmp_path):
    found = read_expression(write(tmp_path / "e.csv", "sample,TP53,APOE\na,inf,1\nb,low,2\n"))
    assert np.isnan(found.values[:, 0]).all() and found.report.notes.total() == 2


def table(values: np.ndarray) -> Expression:
    genes, samples = tuple("abcdefg"[: values.shape[1]]), tuple(map(str, range(len(values))))
    return Expression(values.astype(np.float32), genes, samples)


def test_logarithms_are_taken_where_they_are_not_yet():
    raw = np.random.default_rng(0).lognormal(6, 1.5, (20, 5))
    logged, said = in_logarithms(table(raw), "auto")
    assert said == "log2(1 + x)" and looks_logged(logged.values)
    np.testing.assert_allclose(logged.values, np.log2(1 + raw), rtol=1e-5)
    again, said = in_logarithms(logged, "auto")
    assert said == "as given" and again is logged
    with pytest.raises(DataError, match="look like logarithms already"):
        in_logarithms(logged, "yes")
    with pytest.raises(DataError, match="negative values"):
        in_logarithms(table(raw - 500), "yes")


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(float, (9, 6), elements=st.floats(-50, 50)), st.integers(1, 6))
def test_scaling_knows_the_training_rows_alone(values, most):
    train, other = values[:6], values[6:]
    try:
        scaling = GeneScaling.of(train, most)
    except DataError:
        assert (train.std(axis=0) == 0).all()
        return
    chosen = set(scaling.columns.tolist())
    assert len(chosen) == min(most, int((np.nanvar(train, axis=0) > 0).sum()))
    rest = [k for k in range(6) if k not in chosen]
    assert all(train[:, k].var() <= train[:, list(chosen)].var(axis=0).min() + 1e-9 for k in rest)
    again = GeneScaling.of(np.vstack([train]), most)
    np.testing.assert_array_equal(scaling.apply(other), again.apply(other))
    if scaling.deviation.min() > 1e-3:
        scaled = scaling.apply(train)
        np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-3)
        np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-3)


def test_genes_that_few_have_or_that_never_vary_are_not_read():
    values = np.random.default_rng(1).standard_normal((10, 4))
    values[:3, 0], values[:, 1] = np.nan, 7.0
    assert GeneScaling.of(values, 4).columns.tolist() == [2, 3]
    with pytest.raises(DataError, match="nothing is left"):
        GeneScaling.of(values[:, :2], 4)


def test_of_equal_means_the_first_column_stays():
    found = one_column_each(np.array([[1.0, 1.0]], np.float32), ["x", "x"], ["a"], ReadReport())
    assert found.values.tolist() == [[1.0]]


H5AD = """
import sys
import anndata, numpy as np, pandas as pd, scipy.sparse as sp
from pathlib import Path
from medgraft.benchmarks.cohorts.omics.expression import read_expression
from medgraft.errors import DataError
folder = Path(sys.argv[1])
x = np.array([[1.0, 0.0, 3.0], [2.0, 5.0, 4.0]], np.float32)
obs, var = pd.DataFrame(index=["a", "b"]), pd.DataFrame(index=["TP53", "APOE", "TP53"])
for k, matrix in enumerate((x, sp.csr_matrix(x))):
    anndata.AnnData(matrix, obs, var).write_h5ad(folder / f"{k}.h5ad")
    found = read_expression(folder / f"{k}.h5ad")
    assert found.genes == ("TP53", "APOE") and found.values.tolist() == [[3.0, 0.0], [4.0, 5.0]], found
nameless = pd.DataFrame(index=["0", "1", "2"])
anndata.AnnData(x, obs, nameless).write_h5ad(folder / "nameless.h5ad")
named = nameless.assign(gene_symbols=["A", "B", "C"])
anndata.AnnData(x, obs, named).write_h5ad(folder / "named.h5ad")
assert read_expression(folder / "named.h5ad").genes == ("A", "B", "C")
(folder / "torn.h5ad").write_bytes((folder / "0.h5ad").read_bytes()[:900])
for name, why in (("nameless", "no names of genes"), ("torn", "could not be read as h5ad")):
    try:
        read_expression(folder / f"{name}.h5ad")
    except DataError as error:
        assert why in str(error), error
    else:
        raise AssertionError(name)
"""


@pytest.mark.slow
def test_h5ad_is_read_by_anndata(tmp_path):
    """In an environment of its own: anndata holds pandas below 3 so far, which the other tests shall not be held to."""
    venv.create(tmp_path / "env", system_site_packages=False, with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    here = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    (next((tmp_path / "env" / "lib").glob("python*/site-packages")) / "ours.pth").write_text(
        f"import site; site.addsitedir({str(here)!r})\n"
    )
    install = [python, "-m", "pip", "install", "--quiet", "--no-input", "anndata>=0.11"]
    subprocess.run(install, check=True, capture_output=True, timeout=280)
    done = subprocess.run([python, "-c", H5AD, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_without_anndata_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(DataError, match=r"pip install medgraft\[omics\]"):
        read_expression(write(tmp_path / "e.h5ad", ""))
