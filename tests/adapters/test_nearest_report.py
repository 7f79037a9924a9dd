"""nearest_report and blind: what a table of generated reports must beat."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medgraft import graft
from medgraft.adapter.protocols import Asked
from medgraft.adapters.nearest_report import NearestReport
from medgraft.errors import ConfigError, DataError, IncompatibleError
from medgraft.testing.tiny_language import LANGUAGE_ENCODERS

TEXTS = ["Klare Lungen. µ", "", "Left effusion."]


def test_it_copies_the_text_of_the_nearest_sample():
    adapter = NearestReport()
    keys = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    adapter.fit_reports(keys, TEXTS)
    assert adapter.reports_for(keys[[2, 0, 1]] * 7) == [TEXTS[2], TEXTS[0], TEXTS[1]]
    assert adapter.reports_for(keys + 1e-3) == TEXTS


def test_a_saved_one_copies_the_same(tmp_path):
    first, second = (graft(LANGUAGE_ENCODERS["language-2d"](), "nearest_report") for _ in range(2))
    adapter = first.adapters["nearest_report"]
    with pytest.raises(ConfigError, match="seen no training report"):
        adapter.reports_for(torch.ones(1, 4))
    adapter.fit_reports(torch.eye(3, 4), TEXTS)
    first.save(tmp_path)
    second.load(tmp_path)
    assert second.adapters["nearest_report"].reports_for(torch.eye(3, 4)) == TEXTS


SIDE, SIZE = Asked("which side", "open:side"), Asked("how large", "open:size")
ANSWERS = ["left", "right", "small", "large"]


@pytest.fixture
def asked() -> NearestReport:
    """Four films, each asked one of two questions; the first two lie near each other, as the last two do."""
    adapter = NearestReport()
    keys = torch.tensor([[1, 0], [0, 1], [1, 0.1], [0.1, 1]])
    adapter.fit_reports(keys, ANSWERS, [SIDE, SIDE, SIZE, SIZE])
    return adapter


@pytest.mark.parametrize(
    ("question", "answers", "chosen"),
    [
        (SIDE, ["left", "right"], "the same question"),
        (SIZE, ["small", "large"], "the same question"),
        (Asked("how big", "open:size"), ["small", "large"], "the same kind"),
        (Asked("how large", "open:side"), ["small", "large"], "the same question"),  # words come before kinds
        (Asked("which lobe", "open:lobe"), ["left", "right"], "any"),
        (Asked("which lobe"), ["left", "right"], "any"),
    ],
)
def test_an_answer_is_copied_from_whoever_was_asked_the_same(asked, question, answers, chosen):
    films = torch.tensor([[5, 0.0], [0, 5]])
    assert asked.reports_for(films, [question] * 2) == answers
    assert asked.copied_from([question]) == [chosen]


def test_all_training_samples_count_where_the_question_shall_not_matter():
    other = NearestReport(NearestReport.Config(same_question=False))
    other.fit_reports(torch.tensor([[1, 0], [0, 1], [1, 0.1], [0.1, 1]]), ANSWERS, [SIDE, SIDE, SIZE, SIZE])
    assert other.reports_for(torch.tensor([[5, 0.5], [0.5, 5]]), [SIDE] * 2) == ["small", "large"]
    assert other.copied_from([SIDE]) == ["any"]


def test_each_row_of_a_batch_is_asked_its_own_question(asked):
    films = torch.tensor([[5, 0.1], [5, 0.1], [0.1, 5], [0.1, 5]])
    assert asked.reports_for(films, [SIZE, SIDE, SIDE, SIZE]) == ["small", "left", "right", "large"]
    assert asked.reports_for(films) == ["left", "left", "right", "right"]


def test_a_saved_one_knows_what_was_asked(asked, tmp_path):
    first, second = (graft(LANGUAGE_ENCODERS["language-2d"](), "nearest_report") for _ in range(2))
    first.adapters["nearest_report"].fit_reports(torch.eye(2), ["left", "small"], [SIDE, SIZE])
    first.save(tmp_path)
    second.load(tmp_path)
    loaded = second.adapters["nearest_report"]
    assert loaded.reports_for(torch.eye(2), [SIZE, SIDE]) == ["small", "left"]
    assert loaded.copied_from([SIZE, Asked("", "open:side")]) == ["the same question", "the same kind"]
    loaded.fit_reports(torch.eye(2), ["left", "small"])
    assert loaded.copied_from([SIZE]) == ["any"]


def test_there_must_be_something_to_copy_and_to_see():
    with pytest.raises(DataError, match="no training report to copy"):
        NearestReport().fit_reports(torch.zeros(0, 4), [])
    with pytest.raises(IncompatibleError, match="visual tower"):
        graft(LANGUAGE_ENCODERS["language-2d"]().towers()["text"], "nearest_report")


def test_blind_gives_every_image_the_same_vectors_and_trains_them_alone():
    torch.manual_seed(0)
    grafted = graft(LANGUAGE_ENCODERS["language-2d"](), "blind", tokens=3)
    adapter = grafted.adapters["blind"]
    outputs = grafted.encode({"image": torch.rand(2, 1, 16, 24)})
    soft, mask = adapter.soft_tokens(outputs)
    assert soft.shape[:2] == (2, 3) and mask is None and torch.equal(soft[0], soft[1])
    assert [name for name, _ in adapter.named_parameters()] == ["prompt"]
    assert grafted.trainable_count() == {"blind": adapter.prompt.numel()}
    assert np.isfinite(soft.detach().numpy()).all()
