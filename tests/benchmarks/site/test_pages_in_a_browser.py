"""The pages in a real Chromium: tables, filters, permalinks, charts, themes, accessibility, hostile names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import HOSTILE, browser, column, no_errors, numbers, whole_board

RULES = "['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice']"
AXE = f"() => axe.run(document, {{resultTypes: ['violations'], runOnly: {RULES}}})"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_board(tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="module")
def document(site: Path) -> dict[str, Any]:
    return json.loads((site / "leaderboard.json").read_text())


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.fixture
def context(chrome: Any) -> Iterator[Any]:
    opened = chrome.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    opened.set_default_timeout(20_000)
    yield opened
    opened.close()


@pytest.fixture
def page(context: Any, site: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The index; complaints are faults, but of the policy in the test that breaks it."""
    opened = context.new_page()
    said = no_errors(opened)
    opened.goto((site / "index.html").as_uri())
    yield opened
    assert said == [] or (
        request.node.name == "test_a_script_that_got_in_would_not_run" and "Content Security" in said[0]
    )


def section_of(document: dict[str, Any], task: str) -> dict[str, Any]:
    return next(section for section in document["sections"] if section["task"] == task)


def row_address(site: Path, document: dict[str, Any], task: str, adapter: str) -> str:
    section = section_of(document, task)
    row = next(row for row in document["rows"] if row["section"] == section["id"] and row["adapter"] == adapter)
    return f"{(site / 'rows' / section['id']).as_uri()}.html#{row['id']}"


# --- tables -----------------------------------------------------------------------------------------------------------


def test_a_column_sorts_by_mouse_and_by_keyboard_and_says_so(page, document):
    name = section_of(document, "task_00")["id"]
    head = page.locator(f"#{name} thead th", has_text="F1 macro")
    for press, sign, said in (
        (head.locator("button").click, -1, "descending"),
        (lambda: page.keyboard.press("Enter"), 1, "ascending"),
    ):
        press()
        values = numbers(column(page, name, "F1 macro"))
        assert head.get_attribute("aria-sort") == said and len(values) == 25
        assert np.all(np.diff(values) * sign >= 0)
    assert page.locator(f"#{name} [aria-sort=ascending], #{name} [aria-sort=descending]").count() == 1
    assert page.evaluate("document.activeElement.innerText") == "F1 macro"  # the keyboard stays where it was


def test_the_first_press_on_an_error_puts_the_smallest_first_and_failures_last_either_way(page, document):
    name = section_of(document, "brain_age")["id"]
    assert column(page, name, "mae")[:3] == ["4.000", "5.000", "6.000"]
    for expected in (["4.000", "5.000", "6.000", "–"], ["6.000", "5.000", "4.000", "–"]):
        page.locator(f"#{name} thead button", has_text="mae").click()
        assert column(page, name, "mae") == expected
    assert "1 of 1: oom" in page.locator(f"#{name} tbody").inner_text()


def test_rows_share_ranks_with_their_intervals_and_numbers_are_drawn(page, document):
    name = section_of(document, "task_01")["id"]
    assert column(page, name, "rank")[:4] == ["11–3", "11–4", "32–5", "33–6"]
    drawn = page.locator(f"#{name} .metric svg").first
    low, high = (float(drawn.locator("line").get_attribute(end) or "nan") for end in ("x1", "x2"))
    value = float(drawn.locator("circle").get_attribute("cx") or "nan")
    assert 0 <= low < value < high <= 84


def test_pages_of_a_long_table_turn(page, document):
    name = section_of(document, "task_00")["id"]
    assert "rows 1 to 25 of 32" in page.locator(f"#{name} caption").inner_text()
    page.locator(f"#{name} .pager .on").click()
    assert len(column(page, name, "adapter")) == 7 and page.locator(f"#{name} .pager .on").is_disabled()


# --- filters, columns, permalinks -------------------------------------------------------------------------------------


def test_filters_and_search_join_and_tell_how_many_rows_are_left(page, document):
    total = len(document["rows"])
    assert page.locator("#shown").inner_text().startswith(f"All {total} rows")
    page.select_option("#encoder", "timm:encoder_1")
    assert page.locator("#shown").inner_text() == f"48 of {total} rows in 3 tables"
    page.fill("#q", "ADAPTER_3 low")  # in the name, and in the title
    page.locator("#shown", has_text=f"3 of {total}").wait_for()
    page.select_option("#task", "task_02")
    assert page.locator("#shown").inner_text() == f"1 of {total} rows in 1 table"
    assert page.locator(".task:visible").count() == 1
    page.fill("#q", "nothing has this")
    page.locator("#shown", has_text="No row").wait_for()
    page.click("#reset")
    assert page.locator("#shown").inner_text().startswith(f"All {total} rows")


def test_generated_and_real_cohorts_are_told_apart(page):
    page.select_option("#data", "real")
    assert page.locator(".task:visible h2").all_inner_texts() == ["adni_image"]
    page.select_option("#data", "phantom")
    assert all("PHANTOM" in text for text in page.locator(".task:visible h2").all_inner_texts())


def test_an_address_restores_what_is_shown(page, context, site, document):
    name = section_of(document, "task_01")["id"]
    page.select_option("#encoder", "timm:encoder_0")
    page.fill("#q", "adapter_1")
    page.wait_for_url("**#*q=adapter_1*")
    page.locator(f"#{name} thead button", has_text="trainable").click()
    page.click("summary:has-text('Columns')")
    page.uncheck("#choices [data-key=f1_weighted]")
    page.check("#choices [data-key=accuracy]")
    shown = page.locator(f"#{name} table").inner_text()
    assert "accuracy" in shown and "F1 weighted" not in shown
    other = context.new_page()
    other.goto(page.url)
    assert other.locator(f"#{name} table").inner_text() == shown
    assert other.locator("#shown").inner_text() == page.locator("#shown").inner_text()
    assert other.input_value("#q") == "adapter_1" and other.input_value("#encoder") == "timm:encoder_0"
    assert not other.is_checked("#choices [data-key=f1_weighted]")
    other.goto(f"{(site / 'index.html').as_uri()}#q=%E0%A4%A&sort=x:up:nothing,{name}&cols=,!&task=gone")  # damaged
    assert other.locator("#shown").inner_text().startswith("No row of")


# --- themes and charts ------------------------------------------------------------------------------------------------


def test_the_theme_follows_the_system_and_a_button_overrules_it(chrome, site):
    context = chrome.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto((site / "index.html").as_uri())

    def paper() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    dark = paper()
    page.click("#theme")
    assert page.inner_text("#theme") == "Theme: light" and paper() == "rgb(255, 255, 255)" != dark
    page.click("#theme")
    assert page.inner_text("#theme") == "Theme: dark" and paper() == dark
    page.reload()
    assert page.inner_text("#theme") == "Theme: dark"
    context.close()


def test_quality_stands_against_cost_with_words_for_it(page, document):
    name = section_of(document, "task_00")["id"]
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    labels = page.locator(f"#{name} figure svg").evaluate_all("all => all.map((svg) => svg.getAttribute('aria-label'))")
    assert len(labels) == 4 and all("on the front:" in label for label in labels)
    assert "AUC against trainable parameters. 32 rows" in labels[0]
    ticks = page.locator(f"#{name} figure svg .tick").all_text_contents()
    assert any(tick.endswith("k") for tick in ticks) and not any("e" in tick for tick in ticks)
    overall = page.locator(".over svg").get_attribute("aria-label")
    assert "Mean ranks over 3 tasks" in overall and "adapter_0" in overall


def test_the_page_of_a_row_has_its_charts_tables_and_command(context, site, document):
    page = context.new_page()
    said = no_errors(page)
    page.goto((site / "index.html").as_uri())
    page.locator(f"#{section_of(document, 'adni_image')['id']} tbody a", has_text="lora").click()
    page.wait_for_url("**/rows/adni-image-*.html#*")
    titles = page.locator("figure h3").all_inner_texts()
    assert {"Seeds", "Confusion matrix", "ROC curves", "Precision and recall"} <= set(titles)
    assert all(
        page.locator("figure svg[role=img]").evaluate_all(
            "all => all.map((svg) => svg.getAttribute('aria-label').length > 20)"
        )
    )
    assert page.locator("h1").inner_text() == "lora" and "medgraft run" in page.locator("pre").inner_text()
    assert "lora on phantom_brain" in page.title()
    counts = page.locator(".heat title").all_text_contents()
    assert sum(float(text.split(": ")[1].split(" of ")[0]) for text in counts) == 40  # scans of the test split
    page.goto(row_address(site, document, "task_00", "adapter_5"))
    titles = page.locator("figure h3").all_inner_texts()
    assert titles == ["Seeds", "Training loss by epoch", "Calibration", "By sex", "Where the time went"]
    tables = page.locator("caption").all_inner_texts()
    assert any(text.startswith("By class") for text in tables) and any("groups of test subjects" in t for t in tables)
    text = page.locator("main").inner_text()
    assert "Hu et al., 2021" in text and "worst" in text and "adapter_5.targets=q,v" in text and "c2c2c2" in text
    page.goto(page.url.partition("#")[0])
    assert page.locator("main li").count() == 32  # without a row's name, all of the table
    assert said == []


# --- accessibility ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 1280)])
def test_nothing_stands_in_a_readers_way(chrome, site, document, scheme, width):
    axe = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
    context = chrome.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    for address in (
        (site / "index.html").as_uri(), row_address(site, document, "adni_image", "lora"),
        row_address(site, document, "hostile", "<script>alert(1)</script>"),
    ):  # fmt: skip
        page.goto("about:blank")
        page.goto(address)
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        page.evaluate(axe)
        found = page.evaluate(AXE)["violations"]
        bad = [(v["id"], v["nodes"][0]["target"]) for v in found if v["impact"] in ("serious", "critical", "moderate")]
        assert bad == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width  # tables scroll in boxes of their own
    context.close()


def test_a_suites_ranks_stand_on_the_page_with_who_was_left_out(page):
    suite = page.locator("section.suite")
    assert "PHANTOM" in suite.locator("h2").inner_text()
    rows = suite.locator("tbody tr")
    assert rows.count() == 2 and rows.nth(0).locator("th").inner_text() == "lora"
    assert rows.nth(0).locator("td").nth(0).inner_text().split() == ["1.25", "[1.0,", "2.0]"]
    assert rows.nth(1).locator("th").inner_text() == HOSTILE[0]
    assert "Left out: 2 results of ssf on adni: of another split." in suite.inner_text()


def test_the_keyboard_reaches_the_tables_by_the_first_link(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


# --- what means ill ---------------------------------------------------------------------------------------------------


def test_hostile_names_are_text_on_both_pages(context, site, document):
    page = context.new_page()
    said = no_errors(page)
    page.goto((site / "index.html").as_uri())
    name = section_of(document, "hostile")["id"]
    shown = page.locator(f"#{name}").inner_text()
    assert "<script>alert(1)</script>" in shown and "\\x1b[31mred\\x07" in shown and "\\u202etxt.exe" in shown
    assert page.locator(f"#{name} tbody :is(script, img, b:not(.metric b))").count() == 0
    rows = [row for row in document["rows"] if row["section"] == name]
    assert len(rows) == len(HOSTILE)
    for row in rows:
        page.goto(f"{(site / 'rows' / name).as_uri()}.html#{row['id']}")
        assert page.locator("h1").inner_text() == row["adapter"]
        assert page.locator("main :is(script, img, b)").count() == 0
        assert "someone" not in page.content() and "secret" not in page.content()
    assert said == []


def test_a_script_that_got_in_would_not_run(page):
    page.evaluate(
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)"
    )
    assert page.evaluate("window.ran") is None
    said = page.evaluate("fetch('https://example.org').then(() => 'reached', () => 'refused')")
    assert said == "refused"
