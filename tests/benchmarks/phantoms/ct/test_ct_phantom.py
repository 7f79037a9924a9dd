"""The chest-CT phantom: who is drawn, where findings are in the voxels, and reports that say what is there."""

from __future__ import annotations

import filecmp

import numpy as np
import pytest

from medgraft.benchmarks.cohorts.ct.ct_rate import CT_RATE_LABELS, read_ct_rate
from medgraft.benchmarks.metrics.texts.statements import statements_of
from medgraft.benchmarks.phantoms.ct.anatomy import LOBES, lobe_of
from medgraft.benchmarks.phantoms.ct.canvas import Canvas
from medgraft.benchmarks.phantoms.ct.ct_rate import write_ct_rate
from medgraft.benchmarks.phantoms.ct.findings import KINDS, Finding, Room, labels_of
from medgraft.benchmarks.phantoms.ct.painting import PAINTERS
from medgraft.benchmarks.phantoms.ct.questions import choices_on, region_answers
from medgraft.benchmarks.phantoms.ct.renderer import Person, render, sample_person
from medgraft.benchmarks.phantoms.ct.reports import statements, write_report
from medgraft.errors import ConfigError

SHAPE = (48, 48, 32)


@pytest.fixture(scope="module")
def people() -> list[Person]:
    return [sample_person(5, "train", index) for index in range(40)]


@pytest.fixture(scope="module")
def bare() -> Person:
    return Person(sample_person(0, "train", 3).body, ())


@pytest.fixture(scope="module")
def empty(bare) -> np.ndarray:
    return render(bare, SHAPE)


def changed(bare: Person, empty: np.ndarray, finding: Finding) -> np.ndarray:
    return render(Person(bare.body, (finding,)), SHAPE) - empty


def test_a_person_is_the_same_alone_and_another_in_every_other_stream(people):
    assert sample_person(5, "train", 7) == people[7]
    others = [sample_person(5, "valid", 7), sample_person(6, "train", 7), sample_person(5, "train", 8)]
    assert len({people[7].body.seed, *(other.body.seed for other in others)}) == 4


def test_the_same_exposure_has_the_same_voxels_in_hounsfield_units(bare, empty):
    assert np.array_equal(render(bare, SHAPE), empty)
    other = render(bare, SHAPE, exposure=1) - empty
    assert 0.5 * bare.body.noise < other.std() < 2 * bare.body.noise  # two draws of noise, partly clipped at air
    assert empty.min() >= -1024
    assert empty.max() > 250  # bone
    assert -900 < np.median(empty[(empty < -600) & (empty > -960)]) < -780  # lung


def test_every_kind_of_finding_is_painted_and_has_a_label_but_air_in_the_pleura():
    by_body = {"cardiomegaly", "peribronchial thickening"}
    assert set(PAINTERS) | by_body == set(KINDS)
    assert {kind.label for kind in KINDS.values()} - {""} == set(CT_RATE_LABELS)
    assert sum(labels_of({"pneumothorax"}).values()) == 0


@pytest.mark.parametrize("name", ["lung nodule", "consolidation", "lung opacity"])
def test_a_finding_of_a_lobe_is_seen_in_that_lobe(bare, empty, name):
    x, y, z = Canvas(SHAPE).grid()
    where = lobe_of(x, y, z)
    for number, lobe in enumerate(LOBES):
        place = Room(bare.body).place_in(lobe, 36.0, 0.4)
        finding = Finding(name, lobe.split()[0], lobe, 36.0, place)
        brighter = changed(bare, empty, finding) > 100
        assert brighter.sum() > 20
        assert (where[brighter] == number).mean() > 0.8


def test_a_nodule_is_as_large_as_is_said(bare, empty):
    place = Room(bare.body).place_in("right lower lobe", 29.0, 0.5)
    volumes = []
    for millimetres in (16.0, 29.0):
        change = changed(bare, empty, Finding("lung nodule", "right", "right lower lobe", millimetres, place))
        full = 38.0 - bare.body.lung_hu
        voxel = float(np.prod(Canvas(SHAPE).spacing))
        volumes.append(np.cbrt(change.sum() / full * voxel * 6 / np.pi))
    assert volumes == pytest.approx([16.0, 29.0], rel=0.25)  # edges are blurred over a voxel of 8 mm, vessels covered


@pytest.mark.parametrize(("name", "brighter"), [("pleural effusion", True), ("pneumothorax", False)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_fluid_and_air_of_the_pleura_are_on_their_side(bare, empty, name, brighter, side):
    change = changed(bare, empty, Finding(name, side, "", 30.0))
    seen = change > 200 if brighter else change < -60
    columns = np.nonzero(seen)[0]
    assert len(columns) > 20
    assert ((columns >= SHAPE[0] // 2) == (side == "right")).mean() > 0.95  # the first axis points to the right
    assert np.nonzero(change > 200)[1].mean() < SHAPE[1] / 2 or not brighter, "fluid lies at the back"


def test_reports_say_nothing_that_is_not_there_and_get_every_place_and_size_right(people):
    negatives = 0
    for index, person in enumerate(people):
        report, facts = write_report(person, 5, "train", index), {each.finding: each for each in statements(person)}
        read = statements_of(report.findings)
        assert {each.finding for each in read if each.present} == set(report.said) <= person.kinds
        for each in read:
            true = facts[each.finding]
            negatives += not each.present
            assert each.present == true.present
            assert each.side in ("", true.side)
            assert each.size in ("", true.size)
            assert each.place in ("", true.place)
            assert each.millimetres in (None, true.millimetres)
    assert negatives > 40
    words = {write_report(people[1], 5, "train", 1, scan).findings for scan in range(4)}
    assert len(words) > 1, "each scan is reported in words of its own"


def test_a_minor_finding_is_passed_over_now_and_then(people):
    unsaid = [p.kinds - write_report(p, 5, "train", i).said for i, p in enumerate(people)]
    assert 0 < sum(map(len, unsaid)) < 0.2 * sum(len(person.kinds) for person in people)


def test_questions_have_one_right_answer(people):
    rng = np.random.default_rng(0)
    for person in people:
        answers = region_answers(person, rng)
        for _, finding, said in answers.presence:
            assert (finding in person.kinds) == (said == "Yes.")
        for choice in choices_on(person, "Axial", rng):
            real = [option for option in choice.options if option != "NA"]
            assert len(set(real)) == len(real)
            if "abnormality is seen" in choice.question:
                assert [option.lower() in person.kinds for option in choice.options].count(True) == 1
            if choice.question.startswith("Is "):
                asked = choice.question.removeprefix("Is ").removesuffix(" present in this image?")
                assert choice.options[choice.answer] == ("Yes" if asked in person.kinds else "No")


def test_a_cohort_has_the_same_bytes_and_says_that_it_is_no_person(tmp_path):
    for name in "ab":
        write_ct_rate(tmp_path / name, n_train=2, n_valid=1, seed=4, size=16, slices=8)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", files, shallow=False)[0] == files
    table = read_ct_rate(tmp_path / "a")
    assert table.phantom
    assert (table.frame["subject"].str.split("_").str[1].astype(int) > 900_000).all()
    # The table of metadata makes HU of what the file stores.
    person = sample_person(4, "train", 0)
    first = table.read(0)
    assert first == pytest.approx(np.rint(render(person, (16, 16, 8), exposure=1)), abs=0.51)
    assert first.spacing == pytest.approx((24.0, 24.0, 39.0))


@pytest.mark.parametrize("wrong", [{"n_train": -1}, {"size": 8}, {"slices": 2}, {"seed": -1}])
def test_numbers_that_no_cohort_can_have_are_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match="must"):
        write_ct_rate(tmp_path / "x", **{"n_train": 1, "n_valid": 1, "seed": 0} | wrong)
