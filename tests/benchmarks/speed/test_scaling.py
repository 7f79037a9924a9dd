"""Scaling curves: slopes, tables and plots, and that every curve can be measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgraft.benchmarks.speed import scaling
from medgraft.benchmarks.speed.scaling import measure, slope, table
from medgraft.benchmarks.speed.scaling_curves import CURVES, Curve, Point
from medgraft.benchmarks.speed.scaling_figure import plot, read_page


@given(st.floats(-2, 3), st.floats(0.01, 100))
def test_the_slope_of_a_power_is_its_exponent(power, factor):
    sizes = [1, 2, 4, 8]
    assert slope(sizes, [factor * n**power for n in sizes]) == pytest.approx(power, abs=1e-6)


def points(power: int) -> list[Point]:
    return [Point(n, 1e-3 * n**power, 1000 * n) for n in (2, 4, 8)]


LINE = Curve("A line", "tokens", (2, 4, 8), ("eager", "fused"), lambda form, size: lambda: None)


def test_a_table_ends_with_the_slopes():
    lines = table(LINE, {"eager": points(2), "fused": points(1)})
    assert lines[2] == "| tokens | eager ms | fused ms | eager MB | fused MB |"
    assert lines[4] == "| 2 | 4.00 | 2.00 | 0.00 | 0.00 |" and lines[-2] == "| slope | 2.00 | 1.00 | 1.00 | 1.00 |"


def test_what_allocates_nothing_has_no_slope():
    lines = table(LINE, {"eager": [Point(n, 1.0, 0) for n in (2, 4)]})
    assert lines[-2] == "| slope | 0.00 | - |"


def test_equal_numbers_give_equal_plots(tmp_path):
    found = {"eager": points(2), "fused": points(1)}
    for name in ("a", "b"):
        plot(LINE, found, tmp_path / name / "line.svg")
    first, second = ((tmp_path / name / "line.svg").read_text() for name in ("a", "b"))
    assert first == second and first.count("<svg") == 1


def test_a_table_gives_its_points_back():
    curve = CURVES["lora_rank"]
    found = {form: [Point(n, k * 1e-3 * n, 250_000 * n) for n in curve.sizes] for k, form in enumerate(curve.forms, 1)}
    page = "\n".join(
        ["# A page", "", *table(curve, found), "## Another part", "| rank | no |", "|---|---|", "| 4 | 1 |"]
    )
    assert read_page(page) == {"lora_rank": found}
    assert read_page("# A page without tables") == {}


@pytest.mark.parametrize("name", sorted(CURVES))
def test_every_curve_can_be_measured_at_its_smallest_size(name, monkeypatch):
    monkeypatch.setattr(scaling, "LEAST_SECONDS", 0.0)
    curve = CURVES[name]
    found = measure(curve, 1, curve.sizes[:1])
    assert list(found) == list(curve.forms) and list(curve.sizes) == sorted(curve.sizes)
    assert all(each[0].seconds > 0 and each[0].peak > 0 for each in found.values())


def test_the_command_writes_a_table_and_a_plot(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scaling, "LEAST_SECONDS", 0.0)
    assert scaling.main(["--quick", "--curve", "lora_rank", "--out", str(tmp_path)]) == 0
    assert "| slope |" in capsys.readouterr().out and (tmp_path / "lora_rank.svg").is_file()
