"""The brain phantom: template cache, latents and their closed-form ceiling, renderer, pre-training population."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medgraft.benchmarks.phantoms.brain import latents
from medgraft.benchmarks.phantoms.brain import renderer as phantom
from medgraft.benchmarks.phantoms.brain import template as template_module
from medgraft.errors import ConfigError, DataError, UnknownNameError

SPACING = 6.0


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all test modules of a session: preparing the template takes seconds."""
    return tmp_path_factory.getbasetemp() / "brain-template"


@pytest.fixture(scope="module")
def renderer(cache_dir: Path) -> phantom.BrainRenderer:
    return phantom.brain_renderer(SPACING, cache_dir)


def _render(renderer: phantom.BrainRenderer, atrophy: tuple[float, float, float], seed: int = 0):
    scanner = latents.make_scanners(latents.SETTINGS["default"])[0]
    anatomy = phantom.subject_anatomy(renderer, seed, 0, True)
    return renderer.render(phantom.visit_rng(seed, 0, 0), anatomy, atrophy, scanner)


# --- template ---------------------------------------------------------------------------------------------------------


def test_template_cache_is_reused_and_exact(cache_dir: Path, renderer: phantom.BrainRenderer, monkeypatch):
    del renderer  # its fixture has filled the cache
    monkeypatch.setattr(template_module, "prepare_template", lambda spacing: pytest.fail("prepared although cached"))
    first = template_module.load_template(SPACING, cache_dir)
    second = template_module.load_template(SPACING, cache_dir)
    assert first.shape == (32, 48, 32)
    np.testing.assert_array_equal(first.table, second.table)
    np.testing.assert_array_equal(first.basis, second.basis)
    assert first.basis.shape == (3, 3, first.points.size)
    assert first.means["csf"] < first.means["gm"] < first.means["wm"]


@pytest.mark.parametrize("damage", ["truncated", "empty", "no archive", "other archive"])
def test_damaged_cache_is_rebuilt(cache_dir, renderer, tmp_path, monkeypatch, damage):
    del renderer
    good = template_module.load_template(SPACING, cache_dir)
    good = replace(good, table=good.table[:100])  # small, so that writing it takes no time
    path = next(cache_dir.glob("*-6mm.npz"))
    copy = tmp_path / path.name
    copy.write_bytes(
        {"truncated": path.read_bytes()[:5000], "empty": b"", "no archive": b"PK?" * 50, "other archive": b""}[damage]
    )
    if damage == "other archive":
        np.savez(copy, something=np.zeros(3))
    calls = []
    monkeypatch.setattr(template_module, "prepare_template", lambda spacing: calls.append(spacing) or good)
    np.testing.assert_array_equal(template_module.load_template(SPACING, tmp_path).table, good.table)
    assert calls == [SPACING]
    assert copy.read_bytes()[:2] == b"PK"
    template_module.load_template(SPACING, tmp_path)
    assert calls == [SPACING], "the rebuilt cache is good"
    assert list(tmp_path.iterdir()) == [copy], "no temporary file stays"


def test_unusable_cache_folder_is_no_error(cache_dir, renderer, tmp_path, monkeypatch):
    del renderer
    good = template_module.load_template(SPACING, cache_dir)
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setattr(template_module, "prepare_template", lambda spacing: good)
    assert template_module.load_template(SPACING, blocked).shape == good.shape


def test_missing_nilearn_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install nilearn"):
        template_module.load_template(SPACING, tmp_path)


def test_changed_template_file_is_refused(monkeypatch, tmp_path):
    monkeypatch.setitem(template_module._SHA256, "t1", "0" * 64)
    with pytest.raises(DataError, match=r"mni_icbm152_t1.*sha256 differs"):
        template_module.load_template(SPACING, tmp_path)


@pytest.mark.parametrize("spacing", [0.5, 9.0, float("nan")])
def test_spacing_out_of_range(spacing, tmp_path):
    with pytest.raises(ConfigError, match="out of range"):
        template_module.load_template(spacing, tmp_path)


# --- settings, latents, ceiling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "image", "text", "both"),
    [("default", 0.873, 0.858, 0.942), ("adni", 0.634, 0.818, 0.846), ("nogap", 0.873, 0.858, 0.942)],
)
def test_bayes_ceiling(setting, image, text, both):
    score = latents.bayes_macro_f1(setting, n=60_000)
    assert score["image"] == pytest.approx(image, abs=0.008)
    assert score["text"] == pytest.approx(text, abs=0.008)
    assert score["both"] == pytest.approx(both, abs=0.008)


def test_posterior_is_calibrated():
    """Among subjects given probability p of AD, a share p has AD: the closed form is the generator's own posterior."""
    setting = latents.SETTINGS["default"]
    dx, age, _, atrophy, _ = latents.draw_latents(np.random.default_rng(1), setting, 60_000)
    logits = latents.log_posterior_image(setting, atrophy, age)
    probability = np.exp(logits - logits.max(1, keepdims=True))
    probability = (probability / probability.sum(1, keepdims=True))[:, 2]
    for low in (0.1, 0.3, 0.5, 0.7):
        chosen = (probability > low) & (probability < low + 0.2)
        assert (dx[chosen] == 2).mean() == pytest.approx(probability[chosen].mean(), abs=0.04)


def test_settings_differ_only_in_what_they_claim():
    default, adni = latents.SETTINGS["default"], latents.SETTINGS["adni"]
    assert replace(adni, name="default", mu=default.mu, cognition=default.cognition) == default
    pretrain, nogap = latents.SETTINGS["pretrain"], latents.SETTINGS["nogap"]
    assert latents.make_scanners(pretrain) == latents.make_scanners(nogap)
    assert nogap.mu == default.mu and not pretrain.diagnosed
    ours, theirs = latents.make_scanners(default), latents.make_scanners(pretrain)
    assert not {s.code for s in ours} & {s.code for s in theirs}
    assert min(s.gamma for s in ours) > max(s.gamma for s in theirs), "the contrast gap is a gap"
    assert all(900 <= scanner.code <= 999 for scanner in ours + theirs)


def test_unknown_setting_is_named():
    with pytest.raises(UnknownNameError, match="did you mean default"):
        latents.get_setting("defualt")


def test_population_without_diagnoses_has_no_ceiling_and_no_patients():
    with pytest.raises(ConfigError, match="no diagnoses"):
        latents.bayes_macro_f1("pretrain")
    with pytest.raises(ConfigError, match="without diagnoses"):
        latents.plan_subject(latents.SETTINGS["pretrain"], 0, 0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), index=st.integers(0, 5000), visits=st.integers(1, 5))
def test_any_subject_alone(seed, index, visits):
    setting = latents.SETTINGS["default"]
    subject = latents.plan_subject(setting, seed, index, max_visits=visits)
    again = latents.plan_subject(setting, seed, index, max_visits=5)
    assert replace(again, n_visits=subject.n_visits) == subject
    assert 1 <= subject.n_visits <= visits and 55 <= subject.age <= 92 and subject.apoe4 in (0, 1, 2)
    assert subject.dx_at(0) == subject.dx
    assert subject.dx_at(36) == 2 if np.isfinite(subject.conversion_month) else subject.dx_at(36) == subject.dx


def test_site_confound_moves_patients_between_sites():
    setting = latents.SETTINGS["default"]

    def site_gap(confound: float) -> float:
        plans = [latents.plan_subject(setting, 0, i, site_confound=confound) for i in range(400)]
        ad, cn = ([plan.site for plan in plans if plan.dx == dx] for dx in (2, 0))
        return float(np.mean(ad) - np.mean(cn))

    assert abs(site_gap(0.0)) < 0.5
    assert site_gap(1.0) > 2.0


@settings(max_examples=50, deadline=None)
@given(cognition=st.floats(-6, 15), female=st.booleans(), education=st.integers(6, 20), seed=st.integers(0, 2**31))
def test_scores_stay_in_their_tests_ranges(cognition, female, education, seed):
    scores = latents.clinical_scores(
        np.random.default_rng(seed), latents.SETTINGS["default"], cognition, female, education
    )
    limits = {"MMSE": 30, "ADAS13": 85, "ADAS11": 70, "CDRSB": 18, "FAQ": 30, "RAVLT_immediate": 75, "MOCA": 30}
    assert tuple(scores) == latents.SCORES
    assert all(np.isnan(value) or 0 <= value <= limits[name] for name, value in scores.items())


# --- renderer ---------------------------------------------------------------------------------------------------------


def test_image_is_a_skull_stripped_brain(renderer):
    image, volumes = _render(renderer, (0.0, 0.0, 0.0))
    assert image.shape == renderer.shape and image.dtype == np.float32
    assert np.isfinite(image).all() and image.min() == 0 and 0.8 < image.max() < 3
    assert 0.15 < (image > 0).mean() < 0.35
    assert not image[0].any() and not image[-1].any() and not image[:, 0].any() and not image[..., -1].any()
    assert 1.3e6 < volumes["ICV"] < 2.6e6 and volumes["Hippocampus"] < volumes["Ventricles"] < volumes["WholeBrain"]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.floats(-1, 3),
    step=st.floats(0.7, 2),
    seed=st.integers(0, 1000),
    latent=st.sampled_from([(0, "Hippocampus", -1), (1, "Ventricles", 1)]),
)
def test_each_latent_moves_its_structure(renderer, start, step, seed, latent):
    index, name, sign = latent
    atrophy = [0.5, 0.5, 0.5]
    atrophy[index] = start
    _, before = _render(renderer, (atrophy[0], atrophy[1], atrophy[2]), seed)
    atrophy[index] = start + step
    _, after = _render(renderer, (atrophy[0], atrophy[1], atrophy[2]), seed)
    assert sign * (after[name] - before[name]) > 0
    assert after["ICV"] == pytest.approx(before["ICV"], rel=0.01)


def test_visit_changes_pose_not_anatomy(renderer):
    scanner = latents.make_scanners(latents.SETTINGS["default"])[0]
    anatomy = phantom.subject_anatomy(renderer, 4, 7, False)
    assert torch.equal(anatomy.warp, phantom.subject_anatomy(renderer, 4, 7, False).warp)
    a, va = renderer.render(phantom.visit_rng(4, 7, 0), anatomy, (1, 1, 1), scanner)
    b, vb = renderer.render(phantom.visit_rng(4, 7, 6), anatomy, (1, 1, 1), scanner)
    assert not np.array_equal(a, b)
    assert va["ICV"] == pytest.approx(vb["ICV"], rel=0.01)


# --- pre-training population ------------------------------------------------------------------------------------------


def test_ageing_population(cache_dir):
    volumes, targets, names = phantom.generate_ageing(6, 11, spacing=SPACING, cache_dir=cache_dir)
    assert volumes.dtype == np.uint8 and volumes.shape == (6, 32, 48, 32)
    assert targets.dtype == np.float32 and targets.shape == (6, 6) and len(names) == 6
    table = dict(zip(names, targets.T, strict=True))
    assert ((table["age"] >= 45) & (table["age"] <= 80)).all(), "ages above 80 are held out"
    assert set(table["sex"]) <= {0.0, 1.0}
    assert (table["hippocampus_icv"] < table["ventricles_icv"]).all()
    assert ((table["brain_icv"] > 0.8) & (table["brain_icv"] < 1)).all()


def test_ageing_subject_does_not_depend_on_the_others(cache_dir):
    before = torch.get_num_threads()
    few, few_targets, _ = phantom.generate_ageing(2, 11, spacing=SPACING, cache_dir=cache_dir)
    more, more_targets, _ = phantom.generate_ageing(3, 11, spacing=SPACING, cache_dir=cache_dir)
    other, _, _ = phantom.generate_ageing(2, 12, spacing=SPACING, cache_dir=cache_dir)
    np.testing.assert_array_equal(few, more[:2])
    np.testing.assert_array_equal(few_targets, more_targets[:2])
    assert not np.array_equal(few, other)
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_ageing_is_the_same_from_two_processes(cache_dir):
    one = phantom.generate_ageing(5, 3, spacing=SPACING, cache_dir=cache_dir)
    two = phantom.generate_ageing(5, 3, spacing=SPACING, jobs=2, cache_dir=cache_dir)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [({"n": 0, "seed": 0}, "1 or more"), ({"n": 1, "seed": -1}, "seed"), ({"n": 1, "seed": 0, "jobs": 0}, "jobs")],
)
def test_bad_arguments_are_named(kwargs, words, cache_dir):
    with pytest.raises(ConfigError, match=words):
        phantom.generate_ageing(**kwargs, spacing=SPACING, cache_dir=cache_dir)
