"""The modality ``graph``: what is one, and files of a subject's weights."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medgraft.errors import DataError
from medgraft.modalities.graph import Graph, read_graph

NAMES = ["Precuneus L", "Hippocampus R", "3", "Cuneus"]
WEIGHTS = np.array([[0, 1.5, -2, 0], [1.5, 0, 0.25, 0], [-2, 0.25, 0, 7], [0, 0, 7, 0]], np.float32)


def write(path, values, **options):
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        separator = {".csv": ",", ".tsv": "\t", ".txt": " "}[path.suffix]
        pd.DataFrame(values, index=NAMES, columns=NAMES).to_csv(path, sep=separator, **options)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".npy"])
@pytest.mark.parametrize(("index", "header"), [(False, False), (True, True), (True, False), (False, True)])
def test_a_matrix_with_or_without_names_is_read(suffix, index, header, tmp_path):
    options = {} if suffix == ".npy" else {"index": index, "header": header}
    found = read_graph(write(tmp_path / f"sub-01{suffix}", WEIGHTS, **options))
    assert found.dtype == np.float32 and np.array_equal(found, WEIGHTS[None])


def test_text_with_blanks_between_numbers_is_read(tmp_path):
    np.savetxt(tmp_path / "matrix.txt", WEIGHTS)
    assert np.array_equal(read_graph(tmp_path / "matrix.txt"), WEIGHTS[None])


@pytest.mark.parametrize("diagonal", [1.0, np.inf, np.nan])
def test_the_diagonal_is_set_to_0(diagonal, tmp_path):
    values = WEIGHTS.copy()
    np.fill_diagonal(values, diagonal)
    assert np.array_equal(read_graph(write(tmp_path / "fisher.npy", values)), WEIGHTS[None])


def test_kinds_stand_in_one_file_or_in_several(tmp_path):
    one = write(tmp_path / "both.npy", np.stack([WEIGHTS, 2 * WEIGHTS]))
    first = write(tmp_path / "sc.csv", WEIGHTS, index=False, header=False)
    second = write(tmp_path / "fc.npy", 2 * WEIGHTS)
    assert np.array_equal(read_graph([first, second]), read_graph(one))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (WEIGHTS[:3], r"holds \[1, 3, 4\]|holds"),
        (WEIGHTS[:, :, None], "holds"),
        (np.triu(WEIGHTS), "take their mean"),
        (np.array([["a", "b"], ["c", "d"]]), "cannot be read as a matrix"),
        (np.zeros((0, 0)), "holds"),
        (np.array([[0, np.nan, 1], [np.nan, 0, np.nan], [1, np.nan, 0]], np.float32), "of regions 2;"),
    ],
)
def test_what_is_no_graph_is_refused_in_one_sentence(values, words, tmp_path):
    np.save(tmp_path / "bad.npy", values)
    with pytest.raises(DataError, match=words) as caught:
        read_graph(tmp_path / "bad.npy")
    assert "\n" not in str(caught.value)


def test_files_that_do_not_go_together_or_are_not_there_are_refused(tmp_path):
    whole, part = write(tmp_path / "a.npy", WEIGHTS), write(tmp_path / "b.npy", WEIGHTS[:3, :3])
    with pytest.raises(DataError, match="matrices of 3 and 4 regions"):
        read_graph([whole, part])
    with pytest.raises(DataError, match="cannot be read"):
        read_graph(tmp_path / "absent.csv")
    with pytest.raises(DataError, match=r"give \.npy"):
        read_graph(tmp_path / "scan.nii.gz")
    (tmp_path / "words.csv").write_text("a,b,c\n0,1,x\n1,0,2\n")
    with pytest.raises(DataError, match="cannot be read"):
        read_graph(tmp_path / "words.csv")


def test_an_example_is_a_graph():
    for seed in range(3):
        Graph().check(Graph().example(np.random.default_rng(seed)))
    assert not Graph().blank().any()
