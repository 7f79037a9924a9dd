"""What a sweep expects of its cells' time, in which order they start, and what it may spend."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.benchmarks.cell.job import RESULT, Job, failure
from medgraft.benchmarks.cohorts.places import Cohort
from medgraft.benchmarks.launch.cells import Events, Runs
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.schedule.allowance import Allowance
from medgraft.benchmarks.schedule.durations import START, Durations, earlier_durations
from medgraft.benchmarks.schedule.order import ordered
from medgraft.benchmarks.schedule.remaining import BETWEEN, Remaining
from medgraft.benchmarks.watch.journal import Journal, planned
from medgraft.launcher import Exit, Handle, Launcher, LauncherConfig, Resources
from medgraft.launcher import Job as LaunchedJob

COHORT = {"name": "adni", "revision": "r", "phantom": True}


def cell(
    adapter: str = "lora", seed: int = 0, task: str = "adni_image", encoder: str = "e", epochs: int = 10
) -> CellSpec:
    fields = {"task": task, "encoder": encoder, "adapter": adapter, "seed": seed, "cohort": COHORT}
    return CellSpec.model_validate({**fields, "train": {"epochs": epochs}})


def took(spec: CellSpec, train: float = 8.0, prefix: float = 0.0, rest: float = 2.0) -> CellResult:
    result = failure(Job(spec=spec, root=Path("/data")), "error", "")
    timing = {"load": rest, "prefix": prefix, "train": train}
    return result.model_copy(update={"status": "success", "message": "", "stage": "", "timing": timing})


def known(*results: CellResult) -> Durations:
    durations = Durations()
    for result in results:
        durations.add(result)
    return durations


def test_seeds_of_a_row_take_what_the_row_took_and_its_prefix_is_computed_once():
    durations = known(took(cell(seed=0), prefix=60.0), took(cell(seed=1), prefix=0.5), took(cell("vpt"), train=100.0))
    assert durations.seconds(cell(seed=7)) == START + 0.5 + 8.0 + 2.0


def test_training_is_in_proportion_to_the_epochs():
    durations = known(took(cell(epochs=10), train=8.0))
    assert durations.seconds(cell(epochs=25)) == START + 20.0 + 2.0
    assert known(took(cell(epochs=0), train=1.0)).seconds(cell(epochs=5)) == START + 1.0 + 2.0


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (cell("lora", task="t", encoder="f"), 10.0),
        (cell("new", task="t", encoder="f"), 10.0),  # others on that encoder and task
        (cell("vpt", task="t", encoder="g"), 20.0),  # that adapter on that task
        (cell("vpt", task="u", encoder="h"), 30.0),  # that adapter on that encoder
        (cell("new", task="none", encoder="none"), 15.0),  # the median of all
    ],
)
def test_the_closest_earlier_cells_decide(asked, seconds):
    durations = known(
        took(cell("lora", task="t", encoder="f", epochs=0), 10.0, rest=0.0),
        took(cell("vpt", task="t", encoder="x", epochs=0), 20.0, rest=0.0),
        took(cell("vpt", task="s", encoder="h", epochs=0), 30.0, rest=0.0),
        took(cell("other", task="s", encoder="y", epochs=0), 1.0, rest=0.0),
    )
    assert durations.seconds(asked) == START + seconds


def test_nothing_is_known_of_failures_and_of_nothing():
    failed = failure(Job(spec=cell(), root=Path("/data")), "oom", "").model_copy(update={"timing": {"failed": 99.0}})
    assert not known(failed) and known(failed).seconds(cell()) is None
    assert known().until_all_end([cell()], 2) is None and known(took(cell())).until_all_end([], 2) == 0.0


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.1, 100.0), min_size=1, max_size=12), st.integers(1, 4))
def test_a_sweep_takes_no_longer_than_one_after_another_and_no_shorter_than_its_share(times, at_once):
    cells = [cell(f"a{i}", epochs=0) for i in range(len(times))]
    durations = known(*(took(each, time, rest=0.0) for each, time in zip(cells, times, strict=True)))
    total, until = sum(times) + START * len(times), durations.until_all_end(cells, at_once)
    assert until is not None
    assert max(total / at_once, max(times) + START) - 1e-6 <= until <= total + 1e-6
    if at_once == 1:
        assert until == pytest.approx(total)


def test_cheapest_first_keeps_the_seeds_of_a_row_together():
    slow, fast = [cell("slow", seed) for seed in range(3)], [cell("fast", seed) for seed in range(3)]
    durations = known(took(slow[0], 50.0), took(fast[0], 5.0))
    assert ordered([*slow, *fast], "cheapest-first", durations) == [*fast, *slow]
    assert ordered([*slow, *fast], "plan", durations) == [*slow, *fast]
    assert ordered([*slow, *fast], "cheapest-first", Durations()) == [*slow, *fast]


def test_what_is_left_shrinks_with_time_and_with_what_has_ended():
    cells = [cell("lora", seed, epochs=0) for seed in range(4)]
    left = Remaining(cells, 2, known(took(cells[0], 10.0, rest=0.0)))
    each = 10.0 + START
    assert left.seconds({}, 0.0) == pytest.approx(4 * each / 2)
    assert left.seconds({}, BETWEEN / 2) == pytest.approx(4 * each / 2 - BETWEEN / 2)
    left.ended(took(cells[0], 10.0, rest=0.0))
    assert len(left) == 3
    assert left.seconds({cells[1].key(): 4.0, cells[2].key(): 1000.0}, 100.0) == pytest.approx((2 * each - 4.0) / 2)
    assert Remaining(cells, 2, Durations()).seconds({}, 0.0) is None


def test_earlier_results_and_journals_of_a_folder_tell(tmp_path):
    store = ResultStore(tmp_path)
    for seed in range(6):
        path = store.put(took(cell(seed=seed, epochs=0), 10.0 + seed, rest=0.0), None, None)
        os.utime(path, (seed, seed))
    broken = path.parent / "0123456789abcdef.json"
    broken.write_text("{")
    os.utime(broken, (0, 0))
    log = Journal(tmp_path, planned([cell()], {}, [], launcher="local", at_once=1, work=".work-1-0"))
    log.cell(took(cell(), 10.0, rest=0.0), 13.5)
    log.path.open("a").write('{"status": "success", "seconds": "x", "took": 3}\n[')
    durations = earlier_durations(tmp_path)
    assert durations.start == 3.5
    assert durations.seconds(cell(seed=9, epochs=0)) == 3.5 + 13.5, "the median of the four newest"
    assert not earlier_durations(tmp_path / "none")


class Instant(Launcher):
    """A worker that has ended at once; those of ``hangs`` never do."""

    def __init__(self, hangs: str = "", at_once: int = 2) -> None:
        super().__init__(LauncherConfig(), Resources(jobs=at_once))
        self.hangs, self.cancelled = hangs, list[str]()

    def submit(self, job: LaunchedJob) -> Handle:
        spec = Job.model_validate_json((job.folder / "job.json").read_text()).spec
        handle = Handle()
        hanging = spec.adapter == self.hangs
        if not hanging:
            (job.folder / RESULT).write_text(took(spec).model_dump_json())
        handle.poll = lambda: None if hanging else Exit(0)
        return handle

    def wait(self, handles, seconds) -> None:
        pass


def run(root: Path, cells, allowance: Allowance, hangs: str = "", turns=None) -> tuple[Runs, list[CellResult]]:
    cohorts = {"adni": Cohort(cells[0].cohort, root)}
    runs = Runs(ResultStore(root), cohorts, Instant(hangs), "instant", allowance=allowance, turns=turns)
    return runs, runs.run(cells, Events(lambda running: None, lambda result, seconds: None))


def test_no_more_cells_start_than_may(tmp_path):
    cells = [cell(seed=seed) for seed in range(7)]
    allowance = Allowance(cells=3)
    runs, done = run(tmp_path, cells, allowance)
    assert [result.key for result in done] == [each.key() for each in cells[:3]]
    assert runs.left == cells[3:] and allowance.in_words() == "--max-cells 3"


def test_a_cell_that_would_end_too_late_does_not_start_and_others_do(tmp_path):
    slow, fast = cell("slow"), cell("fast")
    allowance = Allowance(60.0, durations=known(took(slow, 500.0), took(fast, 1.0)))
    runs, done = run(tmp_path, [slow, fast, cell("unknown", task="t", encoder="u")], allowance)
    assert runs.left[0] == slow and fast.key() in {result.key for result in done}
    assert allowance.in_words() == f"--max-hours {60 / 3600:g}"


class AllMine:
    """Turns that give every cell here, and note which ones they were asked for."""

    def __init__(self) -> None:
        self.claimed: list[CellSpec] = []

    def next_of(self, waiting):
        self.claimed.append(waiting[0])
        return waiting[0], None


def test_a_cell_that_would_end_too_late_is_not_kept_from_other_sweeps(tmp_path):
    slow, fast, turns = cell("slow"), cell("fast"), AllMine()
    allowance = Allowance(60.0, durations=known(took(slow, 500.0), took(fast, 1.0)))
    runs, done = run(tmp_path, [slow, fast], allowance, turns=turns)
    assert (runs.left, turns.claimed, [result.key for result in done]) == ([slow], [fast], [fast.key()])


def test_what_is_at_work_when_the_time_is_up_is_ended_and_left(tmp_path):
    cells = [cell("hangs"), cell("fast"), cell("hangs", seed=1), cell("fast", seed=1)]
    runs, done = run(tmp_path, cells, Allowance(0.3), hangs="hangs")
    assert {result.spec.adapter for result in done} == {"fast"}
    assert {each.key() for each in runs.left} | {result.key for result in done} == {each.key() for each in cells}
    assert not list(tmp_path.glob(".work-*")), "its folders of work are gone"


def test_a_journal_says_that_its_sweep_was_ended_by_what_it_may_spend(tmp_path):
    log = Journal(tmp_path, planned([cell()], {}, [], launcher="local", at_once=1, work=".work-1-0"))
    with log.ending([cell()]):
        pass
    assert json.loads(log.path.read_text().splitlines()[-1])["end"] == "allowance"
