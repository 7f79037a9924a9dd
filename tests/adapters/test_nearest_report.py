"""nearest_report and blind: what a table of generated reports must beat."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medgraft import graft
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
