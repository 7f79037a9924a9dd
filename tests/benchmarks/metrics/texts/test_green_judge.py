"""GREEN: answers in the published form and others, the score's equation, and the path through a language model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from language_folders import folder_of  # pyright: ignore[reportMissingImports]

from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE, as_column
from medgraft.benchmarks.metrics.texts.learned import green_model
from medgraft.benchmarks.metrics.texts.learned.green import COLUMN, Green, counts_of
from medgraft.benchmarks.metrics.texts.learned.green_model import green_counts
from medgraft.benchmarks.metrics.texts.learned.judges import judged_columns
from medgraft.benchmarks.metrics.texts.selection import fitting, misfit
from medgraft.errors import DataError
from medgraft.language_model import Generated
from medgraft.metric import Predictions, value_of

ERRORS = "Clinically Significant Errors"
KINDS = (
    "False report",
    "Missing a finding",
    "Wrong location",
    "Wrong severity",
    "Comparison made up",
    "Omitted change",
)


def answer(matched: str, *errors: int | str, letters: str = "abcdef", insignificant: int = 5) -> str:
    """An answer in the published form."""
    lines = [f"({k}) {kind}: {n}." for k, kind, n in zip(letters, KINDS, errors, strict=False)]
    other = [f"({k}) {kind}: {insignificant}. Wording." for k, kind in zip("abcdef", KINDS, strict=True)]
    before = ("[Explanation]:", "Two findings differ.", "")
    significant, insignificant_ones = ("[Clinically Significant Errors]:", *lines, ""), (*other, "")
    after = ("[Clinically Insignificant Errors]:", *insignificant_ones, "[Matched Findings]:", matched)
    return "\n".join([*before, *significant, *after])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (answer("2. Devices; Clear left lung.", 0, 2, 1, 1, 0, 0), (2, 0, 2, 1, 1, 0, 0)),
        (answer("0.", "2. Low volumes; Edema", 3, 0, 1, 0, 0), (0, 2, 3, 0, 1, 0, 0)),
        (answer("12. Many.", 10, letters="c"), (12, 0, 0, 10, 0, 0, 0)),
        (answer("1. Heart.", 1, 0, 0, 0, 0, 2, letters="123456"), (1, 1, 0, 0, 0, 0, 2)),
        (f"[{ERRORS}]:\nNo errors.\n\n[Matched Findings]:\n3. A; B; C.", (3,) + (0,) * 6),
        (f"[Matched Findings]:\nNone.\n\n[{ERRORS}]:\n(b) Missing: 1. Mass.", (0, 0, 1, 0, 0, 0, 0)),
        # Another heading ends a section where no blank line does.
        (f"[{ERRORS}]:\n(a) X: 1.\n[Clinically Insignificant Errors]:\n(a) X: 4.\n[Matched Findings]:"
         "\n1. A.", (1, 1, 0, 0, 0, 0, 0)),
        # A number in the error itself is no count.
        (answer("1. A.", "1. Nodule of 10 mm: 8. mm in truth"), (1, 1, 0, 0, 0, 0, 0)),
        ("(a) False report: 1.\n\n[Matched Findings]:\n1. A.", None),
        ("[Clinically Significant Errors]:\n(a) False report: 1.", None),
        ("[Clinically Significant Errors]:\n\n[Matched Findings]:\n1. A.", None),
        (answer("Normal heart in both.", 1), None),
        (answer("two findings", 1), None),
        (answer("", 1), None),
        (answer("1. A.", "none"), None),
        (answer("1. A.", 1, 2, letters="aa"), None),
        (answer("1. A.", "9" * 400), None),
        (answer("-1. A.", 1), None),
        ("", None),
        ("the heart is is is is is", None),
    ],
)  # fmt: skip
def test_counts_in_an_answer(text, expected):
    assert counts_of(text) == expected


def of(counts: np.ndarray) -> Predictions:
    n = len(counts)
    columns = {GENERATED: as_column(["edema"] * n), REFERENCE: as_column(["edema"] * n), COLUMN: counts}
    return Predictions(np.zeros((n, 1)), np.zeros(n, np.int64), np.arange(n), (), columns=columns)


def test_the_score_is_the_papers_and_undefined_answers_are_counted_and_not_0():
    counts = np.array(
        [[2, 0, 2, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0, 0], [0] * 7, [np.nan] * 7], float
    )
    p = of(counts)
    assert not misfit(p) and "green" in fitting(p)
    numbers = Green().statistics(p)
    assert value_of(numbers["green"], 5) == pytest.approx((2 / 6 + 0 + 1 + 0) / 4, abs=1e-12)
    assert value_of(numbers["green_undefined"], 5) == pytest.approx(1 / 5, abs=1e-12)
    weights = np.array([[0, 0, 0, 0, 3.0], [1, 0, 2, 0, 1]])
    assert numbers["green"](weights) == pytest.approx([np.nan, (2 / 6 + 2) / 3], nan_ok=True)
    assert misfit(of(counts[:, :6]))


class Scripted:
    """Answers by what the prompt has in it, and remembers what it was asked."""

    context = 4096

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers, self.asked, self.limits = answers, [], []

    def to(self, device):
        return self

    def prompts(self, texts):
        words = [text.split() for text in texts]
        return SimpleNamespace(texts=texts, length=max(map(len, words)))

    def generate(self, prompts, decoding):
        self.asked += prompts.texts
        self.limits.append(decoding.limit)
        texts = tuple(next((a for key, a in self.answers.items() if key in text), "?") for text in prompts.texts)
        return Generated(texts, tuple(() for _ in texts), tuple("end" for _ in texts))


@pytest.fixture(scope="module")
def judges(tmp_path_factory) -> Path:
    """A tiny language model with fresh weights, whose answers are nonsense, and a prompt."""
    folder = tmp_path_factory.mktemp("judges") / "green"
    folder_of("llama", folder, max_position_embeddings=96)
    (folder / "prompt.txt").write_text("Compare. Reference:\n{reference}\nCandidate:\n{candidate}\n")
    return folder.parent


def test_each_pair_is_asked_once_in_the_published_turns_with_300_words_at_most(judges, monkeypatch):
    model = Scripted({"effusion {reference}": answer("1. Heart.", 1), "edema": answer("4. All.", 0)})
    monkeypatch.setattr(green_model, "_opened", lambda folder: model)
    texts = ["effusion {reference}", "edema", "effusion {reference}", "word " * 400]
    counts = green_counts(judges / "green", texts, ["heart", "lungs", "heart", "heart"])
    assert counts[:3].tolist() == [[1, 1, 0, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0]]
    assert np.isnan(counts[3]).all() and len(model.asked) == 3
    question = "Compare. Reference:\nheart\nCandidate:\neffusion {reference}\n"
    assert f"<|user|>\n{question}</s>\n<|assistant|>\n</s>\n<|assistant|>\n" in model.asked
    assert max(text.split().count("word") for text in model.asked) == 300
    assert model.limits == [2048 - max(len(text.split()) for text in model.asked)]


def test_a_model_that_answers_nonsense_leaves_the_score_undefined_and_the_result_says_so(judges, monkeypatch):
    monkeypatch.setenv("MEDGRAFT_JUDGES", str(judges))
    texts = ["heart is normal", "no effusion", "effusion " * 90, ""]  # the third has no room for an answer
    added = judged_columns(texts, ["heart is normal", "small effusion", "clear", "clear"])
    assert added.columns[COLUMN].shape == (4, 7) and np.isnan(added.columns[COLUMN]).all()
    assert added.facts["green"].startswith("weights ") and "4 of 4 answers unreadable" in added.facts["green"]
    numbers = Green().statistics(of(added.columns[COLUMN]))
    assert np.isnan(value_of(numbers["green"], 4)) and value_of(numbers["green_undefined"], 4) == 1


def test_answers_do_not_depend_on_what_else_is_asked(judges):
    model = green_model._opened(judges / "green")
    asked = ["heart is normal", "no small effusion is seen there", "left"]
    alone = [green_model._answers(model, [text])[0] for text in asked]
    for one, other in zip(alone, green_model._answers(model, asked), strict=True):
        # One that does not end is cut where the longest prompt beside them leaves no room.
        assert one and other and one.startswith(other)


def test_what_is_missing_is_named(judges, tmp_path):
    with pytest.raises(DataError, match=r"no prompt\.txt"):
        green_counts(tmp_path, ["a"], ["b"])
    (tmp_path / "prompt.txt").write_text("Compare {reference}.")
    with pytest.raises(DataError, match="each once"):
        green_counts(tmp_path, ["a"], ["b"])
    (tmp_path / "prompt.txt").write_text("Compare {reference} with {candidate}.")
    with pytest.raises(DataError, match="cannot be opened"):
        green_counts(tmp_path, ["a"], ["b"])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-family"}))
    with pytest.raises(DataError, match="cannot be opened"):
        green_counts(tmp_path, ["a"], ["b"])
