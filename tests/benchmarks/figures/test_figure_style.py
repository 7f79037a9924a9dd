"""Every figure keeps the style: whole texts that do not touch, alternative text, and nothing that only colour tells."""

from __future__ import annotations

import io
import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from medgraft.benchmarks.board.drawn.load_figure import Load, draw_loads, load_figure
from medgraft.benchmarks.board.drawn.reliability_figure import Panel, draw_reliability, reliability_figure
from medgraft.benchmarks.calibration.reliability import Curve
from medgraft.benchmarks.explain.pictures import draw_image, image_figure, volume_figure
from medgraft.benchmarks.figures.planes import Plane, draw_planes, embedding_figure
from medgraft.benchmarks.figures.scales import SIZES, TIMES, logarithmic, plain, round_values, unit_of
from medgraft.benchmarks.figures.style import COLOURS, HATCHES, LINES, MARKERS, blank, styled
from medgraft.benchmarks.figures.titles import figure_title, panel_title, text_width, wrapped
from medgraft.benchmarks.figures.writing import svg_text
from medgraft.benchmarks.speed.scaling_curves import CURVES, Point
from medgraft.benchmarks.speed.scaling_curves import Curve as ScalingCurve
from medgraft.benchmarks.speed.scaling_figure import plot, scaling_figure

ENCODER = "pair:inflate3d:slices=6,depth_2d=4:phantom_chest|phantom_brain"
TASKS = ["diagnosis", "age", "sex", "ventricles"]
LOADS = [
    Load(("brain_prompts", encoder, adapter), TASKS[:tasks], [[0.2, 0.5, 0.3]] * tasks, True, dense)
    for encoder, adapter, dense, tasks in (
        (ENCODER, "tgh_moe: token_router text", True, 4),
        ("phantom_brain", "tgh_moe", False, 2),
        (ENCODER.replace("=4", "=0"), "tgh_moe", False, 4),
    )
]


def curve(shift: float) -> Curve:
    said = [0.1, 0.4, 0.8]
    seen = [min(1.0, s + shift) for s in said]
    return Curve(
        confidence=said, observed=seen, samples=[9, 9, 9], subjects=[9, 9, 9],
        ci_low=[max(0.0, s - 0.1) for s in seen], ci_high=[min(1.0, s + 0.1) for s in seen],
    )  # fmt: skip


CURVES_OF_A_PANEL = {
    f"timm:vit_small_patch16_dinov2, {adapter}": curve(0.03 * k) for k, adapter in enumerate(("lora", "vpt", "knn"))
}
PANELS = [
    Panel(f"chexpert_5x200: {name}", CURVES_OF_A_PANEL, True)
    for name in ("likeliest class, right", "enlarged cardiomediastinum", "no finding", "lung opacity")
]


def planes() -> list[Plane]:
    rng = np.random.default_rng(0)
    title = "PHANTOM adni_image_text, phantom_brain, brain_adapter (TLP, resnet50), seed 0\nf1_macro 0.82"
    return [
        Plane(title, ("CN", "MCI", "AD"), np.arange(30) % 3, rng.normal(size=(30, 2)), rng.normal(size=(30, 2)))
        for _ in range(2)
    ]


def measured(low: float, power: float, peak: int, sizes: tuple[int, ...]) -> list[Point]:
    return [Point(n, low * n**power, peak * n, (0.9 * low * n**power, 1.2 * low * n**power)) for n in sizes]


def scaling(low: float, power: float, peak: int, sizes: tuple[int, ...]) -> Callable[[], Figure]:
    line = ScalingCurve("Perceiver Resampler, 1 layer, 16 latents, 2 samples, width 192", "tokens", sizes, (), None)  # pyright: ignore[reportArgumentType]
    found = {"eager": measured(low, power, peak, sizes), "fused": measured(low / 2, power, peak, sizes)}
    return lambda: scaling_figure(line, found)


HEAT = np.linspace(-1, 1, 400).reshape(20, 20)
VOLUME = np.random.default_rng(0).random((12, 14, 13))

FIGURES: dict[str, Callable[[], Figure]] = {
    "expert load": lambda: load_figure(LOADS),
    "expert load of one": lambda: load_figure(LOADS[:1]),
    "reliability": lambda: reliability_figure(PANELS),
    "embedding": lambda: embedding_figure(planes()),
    "scaling in powers of two": scaling(1e-3, 1.0, 40_000, (4, 8, 16, 32)),
    "scaling over decades": scaling(1e-6, 2.0, 900, (65, 129, 257, 513, 2048, 100_000)),
    "scaling of what stays": scaling(0.02, 0.0, 1, (1, 2, 4, 8)),
    "scaling of near sizes": scaling(0.5, 0.1, 10**9, (1000, 1010, 1020, 1100)),
    "image": lambda: image_figure(HEAT, HEAT, f"chexpert, {ENCODER} lora: where it looked at", "change of the logit"),
    "volume": lambda: volume_figure(VOLUME, VOLUME - 0.5, f"adni_image, {ENCODER}", "log odds", oriented=True),
    "slices": lambda: volume_figure(VOLUME, VOLUME, "adni_image", "log odds", oriented=False),
}


def texts(figure: Figure) -> list[tuple[Text, Any]]:
    """What is written, with its place; ticks that are switched off or outside of their axis are not."""
    figure.canvas.draw()
    shown = []
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_text().strip() and text.get_visible():
            shown.append((text, text.get_window_extent()))
    ticks = {
        id(label)
        for axis in figure.axes
        for part in (axis.xaxis, axis.yaxis)
        for tick in [*part.get_major_ticks(), *part.get_minor_ticks()]
        for label in (tick.label1, tick.label2)
    }
    seen = [axis for axis in figure.axes if axis.axison]
    drawn = {id(label) for axis in seen for part in (axis.xaxis, axis.yaxis) for label in _drawn_labels(part)}
    return [(text, place) for text, place in shown if id(text) not in ticks or id(text) in drawn]


def _drawn_labels(part: Any) -> list[Text]:
    low, high = sorted(part.get_view_interval())
    ticks = [*part.get_major_ticks(), *part.get_minor_ticks()]
    return [tick.label1 for tick in ticks if low <= tick.get_loc() <= high and tick.label1.get_visible()]


def test_the_faults_of_former_figures_would_be_found():
    """What the checks below are there for: the old scaling plot had both."""
    figure = blank(2.5, 2)
    axis = figure.subplots()
    axis.plot([4, 8, 16, 32], [4, 8, 16, 33])
    axis.set(xscale="log", yscale="log")
    axis.set_title("Experts, 2 per token, 8 x 65 tokens, width 192, 64 inside")
    shown = texts(figure)
    assert overlapping(shown) and outside(figure, shown)
    assert any("10^" in text.get_text() for text, _ in shown)


def overlapping(shown: list[tuple[Text, Any]]) -> list[tuple[str, str]]:
    return [
        (a.get_text(), b.get_text())
        for (a, first), (b, second) in itertools.combinations(shown, 2)
        if min(first.x1, second.x1) - max(first.x0, second.x0) > 1
        and min(first.y1, second.y1) - max(first.y0, second.y0) > 1
    ]


def outside(figure: Figure, shown: list[tuple[Text, Any]]) -> list[str]:
    width, height = figure.bbox.width, figure.bbox.height
    return [
        text.get_text()
        for text, place in shown
        if place.x0 < -1 or place.y0 < -1 or place.x1 > width + 1 or place.y1 > height + 1
    ]


@pytest.mark.parametrize("name", FIGURES)
def test_texts_neither_touch_nor_leave_the_figure_and_are_large_enough(name):
    with styled():
        figure = FIGURES[name]()
        shown = texts(figure)
        assert shown and overlapping(shown) == [] and outside(figure, shown) == []
        assert min(text.get_fontsize() for text, _ in shown) >= 9.5, "at half size nobody can read it"
        assert not any("10^" in text.get_text() or "times" in text.get_text() for text, _ in shown)


@pytest.mark.parametrize("name", FIGURES)
def test_logarithmic_axes_have_ticks_and_plain_numbers(name):
    with styled():
        figure = FIGURES[name]()
        figure.canvas.draw()
    for axis in figure.axes:
        for part in (axis.xaxis, axis.yaxis):
            if part.get_scale() == "log":
                labels = [label.get_text() for label in _drawn_labels(part)]
                assert len(labels) >= 2 and all(re.fullmatch(r"[\d,]+(\.\d+)?", text) for text in labels), labels


def in_grey(colour: Any) -> float:
    from matplotlib.colors import to_rgb

    return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))


@pytest.mark.parametrize("name", FIGURES)
def test_what_colour_tells_is_told_in_grey_too(name):
    """Lines differ by dashes and markers, bars by hatching, groups of points by their markers."""
    with styled():
        figure = FIGURES[name]()
    for axis in figure.axes:
        lines = [line for line in axis.lines if line.get_marker() not in ("", "None", None, "_", "|")]
        marks = [(line.get_linestyle(), line.get_marker()) for line in lines]
        assert len(set(marks)) == len(marks)
        groups = [paths.get_paths()[0].vertices.tobytes() for paths in axis.collections if len(paths.get_offsets()) > 1]
        assert len(set(groups)) == len(groups)
        bars = {bar.get_hatch() for bar in axis.patches}
        assert len(bars) == len({bar.get_facecolor() for bar in axis.patches})


def test_styles_are_as_many_as_colours_and_none_is_another():
    for styles in (LINES, MARKERS, HATCHES):
        assert len(styles) == len(COLOURS) == len(set(styles))


def svg(write: Callable[..., None], *arguments: Any, out: Any) -> ET.Element:
    write(*arguments, out)
    again = out.with_name("again.svg")
    write(*arguments, again)
    assert out.read_bytes() == again.read_bytes(), "the same numbers give the same file"
    text = out.read_text()
    assert not re.search(r"20\d\d-\d\d-\d\d|Matplotlib v", text), "no date, no version"
    return ET.fromstring(text)


@pytest.mark.parametrize("kind", ["load", "reliability", "embedding", "scaling"])
def test_an_svg_can_be_heard_and_searched(kind, tmp_path):
    found = {form: measured(1e-3, 1, 40_000, (4, 8, 16, 32)) for form in ("eager", "fused")}
    writers: dict[str, tuple[Any, ...]] = {
        "load": (draw_loads, LOADS), "reliability": (draw_reliability, PANELS), "embedding": (draw_planes, planes()),
        "scaling": (lambda each, out: plot(CURVES["lora_rank"], each, out), found),
    }  # fmt: skip
    root = svg(*writers[kind], out=tmp_path / "figure.svg")
    space = "{http://www.w3.org/2000/svg}"
    title, said = root[0], root[1]
    assert (title.tag, said.tag, root.get("role")) == (f"{space}title", f"{space}desc", "img")
    assert root.get("aria-labelledby") == f"{title.get('id')} {said.get('id')}"
    words = {
        "load": ("tgh_moe", "20%, 50%, 30%", "PHANTOM"), "reliability": ("enlarged cardiomediastinum", "95% interval"),
        "embedding": ("f1_macro 0.82", "30 samples", "MCI"), "scaling": ("4.00 ms and 0.16 MB at 4", "rank"),
    }[kind]  # fmt: skip
    assert title.text and said.text and all(word in said.text for word in words)
    assert len(list(root.iter(f"{space}text"))) > 4, "text stays text"


def test_foreign_names_are_text_in_an_svg():
    with styled():
        figure = blank(3, 2)
        figure_title(figure, "$x$ <script>alert(1)</script>")
        text = svg_text(figure, "<b>&amp;\x1b[31m", 'a "quoted" ]]> name')
    root = ET.fromstring(text)
    assert root[0].text == "<b>&amp;\\x1b[31m" and root[1].text == 'a "quoted" ]]> name'
    assert "".join(each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}text")).startswith("$x$")
    assert "<script" not in text


def test_a_png_says_what_it_shows():
    image = Image.open(io.BytesIO(draw_image(HEAT, HEAT, "a title", "a unit")))
    assert image.info["Title"] == "a title" and "a unit" in image.info["Description"]


@pytest.mark.parametrize("inches", [1.0, 2.0, 8.0])
@pytest.mark.parametrize("text", [ENCODER, f"brain_prompts {ENCODER} tgh_moe: token_router text", "x" * 80, "word"])
def test_titles_stay_whole(text, inches):
    """Nothing is lost; a line break stands at a space or behind a separator."""
    lines = wrapped(text, inches, 10)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    at = 0
    for line in lines[:-1]:
        at += len(line)
        assert text[at : at + 1] == " " or text[at - 1] in ":|,/+_=@.-"
        at += text[at : at + 1] == " "
    with styled():
        figure = blank(inches + 0.5, 2)
        axis = figure.subplots()
        panel_title(axis, text, inches)
        assert "…" not in axis.get_title()
        size = axis.title.get_fontsize()
        assert max(text_width(line, float(size)) for line in axis.get_title().split("\n")) <= inches


def test_the_style_leaves_no_trace_and_no_file_of_the_user_changes_it():
    import matplotlib

    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 40}):
        with styled():
            assert matplotlib.rcParams["font.size"] == 11
        assert matplotlib.rcParams["font.size"] == 40
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("values", "units", "name"),
    [
        ([3e-7], TIMES, "ns"), ([2e-6, 1e-4], TIMES, "µs"), ([0.999], TIMES, "ms"), ([1.0], TIMES, "s"),
        ([7200], TIMES, "h"), ([999], SIZES, "B"), ([1e6], SIZES, "MB"), ([3e9, 1], SIZES, "GB"), ([], SIZES, "B"),
        ([0.0], TIMES, "ns"),
    ],
)  # fmt: skip
def test_units_fit_the_largest_value(values, units, name):
    assert unit_of(values, units)[0] == name


@pytest.mark.parametrize("low", [1e-6, 0.03, 0.9, 1.0, 7.0, 1e7])
@pytest.mark.parametrize("factor", [4.0, 9.0, 11.0, 1e3, 1e7])
def test_an_axis_of_any_range_has_ticks_inside(low, factor):
    values = round_values(low, low * factor)
    assert len(values) >= 2 and values == sorted(set(values)) and low <= values[0] and values[-1] <= low * factor
    with styled():
        axis = blank(4, 3).subplots()
        logarithmic(axis, "y", [low, low * factor], 2.2)
        assert len(axis.get_yticks()) >= 2
        assert [float(plain(tick).replace(",", "")) for tick in axis.get_yticks()] == pytest.approx(
            list(axis.get_yticks())
        )
