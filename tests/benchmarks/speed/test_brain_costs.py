"""The costs of Brain-Adapter beside full fine-tuning: what is measured, and what the table says of a claim."""

from __future__ import annotations

import pytest

from medgraft.benchmarks.speed.brain_costs import REFERENCE, WAYS, Subject, main, measure, table


def test_every_row_is_measured_each_round_and_trains_what_it_says():
    found = measure("embedded:brain@random", 2, 2)
    assert list(found) == list(WAYS)
    for numbers in found.values():
        assert numbers["memory"][0] > 0 and len(numbers["training time"]) == len(numbers["inference time"]) == 2
    trained = {row: numbers["trainable"][0] for row, numbers in found.items()}
    assert trained[REFERENCE] > 10 * trained["brain_adapter"] > 10 * trained["linear_probe"]
    # a gradient and two moments of every weight
    assert found[REFERENCE]["memory"][0] > 12 * trained[REFERENCE] > found["linear_probe"]["memory"][0]


def test_a_step_moves_what_is_trained_and_nothing_else():
    subject = Subject("embedded:brain@random", "brain_adapter", {}, 2)
    chosen = {id(parameter) for parameter in subject.parameters}
    before = [(p, p.detach().clone()) for p in subject.grafted.parameters()]
    subject.step()
    subject.step()  # the last map of the bottleneck is zero at first
    assert all(p.equal(old) for p, old in before if id(p) not in chosen)
    assert any(not p.equal(old) for p, old in before if id(p) in chosen)


@pytest.mark.parametrize(("step", "said"), [(3.0, "0.30 met"), (3.1, "0.31 **not met**")])
def test_a_claim_is_judged_by_the_median_over_rounds(step, said):
    def row(seconds: float) -> dict[str, list[float]]:
        times = [seconds, seconds, 100 * seconds]
        return {"trainable": [1.0], "memory": [1e9], "training time": times, "inference time": times}

    lines = table({REFERENCE: row(10.0), "brain_adapter": row(step)})
    assert said in lines[3] and "met" not in lines[2]


def test_the_command_writes_the_table(capsys):
    assert main(["--encoder", "embedded:brain@random", "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 1 + len(WAYS)
