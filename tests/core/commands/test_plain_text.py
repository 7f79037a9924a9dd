"""Foreign text is shown as it is: no terminal, spreadsheet or Markdown page obeys it."""

from __future__ import annotations

import logging

import pytest

from medgraft.commands.plain_text import PlainFormatter, markdown_code, markdown_text, one_line, plain, spreadsheet_text

HOSTILE = "\x1b[31mred\x07\x00 \u202eevil\u2066 \u200bzero \x9b2J \u2028line \ud800 \r\n end"


@pytest.mark.parametrize("show", [plain, one_line, markdown_text, markdown_code, spreadsheet_text])
def test_nothing_without_a_glyph_is_left(show):
    shown = show(HOSTILE)
    assert shown.isprintable() and "red" in shown and "evil" in shown and "end" in shown


@pytest.mark.parametrize("text", ["lora", "timm:vit_base@random", "größer, 日本語, é", "a b"])
@pytest.mark.parametrize("show", [plain, one_line, markdown_text, spreadsheet_text])
def test_ordinary_names_stay_as_they_are(show, text):
    assert show(text) == text


def test_one_line_has_an_end():
    assert one_line("a\nb\tc") == "a b c" and len(one_line("x" * 999, 40)) == 40


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "  =1", "＝1", "=cmd|'/c calc'!A1"])
def test_a_spreadsheet_sees_text(text):
    assert spreadsheet_text(text).startswith("'")


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("[x](http://y)", "](h"), ("![x](y)", "](y"), ("[x][y]", "]["), ("a|b", "a|"), ("`code`", " `"),
        ("<script>", "<"), ("<b>", ">"), ("&lt;", "&lt;"), ("**bold**", "**b"), ("http://x.org", "http://"),
        ("www.x.org", "www.x"), ("me@x.org", "e@x"), ("$x$", " $"), ("~~s~~", "~~s"), ("a\n# b", "\n"),
    ],
)  # fmt: skip
def test_a_page_follows_no_markup(text, gone):
    assert gone in f" {text} " and gone not in f" {markdown_text(text)} "


def test_an_interval_reads_well_on_a_page():
    assert markdown_text("0.500 [0.400, 0.600]") == "0.500 [0.400, 0.600]"


@pytest.mark.parametrize("text", ["a", "a`b", "``", "`a``b"])
def test_code_ends_where_it_should(text):
    shown = markdown_code(text)
    fence = shown[: len(shown) - len(shown.lstrip("`"))]
    assert shown.endswith(fence) and fence not in shown[len(fence) : -len(fence)].split()


def test_log_records_are_plain_and_tracebacks_keep_their_lines():
    record = logging.LogRecord("x", logging.WARNING, "x.py", 1, "%s\nsecond", ("\x1b[2J",), None)
    assert PlainFormatter("%(message)s").format(record) == "\\x1b[2J\nsecond"
