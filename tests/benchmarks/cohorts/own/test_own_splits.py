"""Splits by subject of small data: nobody in two of them, and every class in each."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.benchmarks.cohorts.own.splits import joined_subjects, new_splits

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_subject_is_parted_and_no_class_is_missing(data):
    sizes = data.draw(st.lists(st.integers(3, 30), min_size=1, max_size=4))
    subjects = [f"s{c}_{k}" for c, size in enumerate(sizes) for k in range(size)]
    samples = subjects + data.draw(st.lists(st.sampled_from(subjects), max_size=30))
    order = data.draw(st.permutations(range(len(samples))))
    keys = np.array([samples[k] for k in order])
    strata = np.array([key.partition("_")[0] for key in keys])
    parts = new_splits(keys, strata, SHARES, seed=data.draw(st.integers(0, 9)))
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(keys)))
    homes = {name: set(keys[index]) for name, index in parts.items()}
    assert sum(map(len, homes.values())) == len(set(keys))
    for index in parts.values():
        assert set(strata[index]) == set(strata)
    for name, share in SHARES.items():
        assert abs(len(homes[name]) - share * len(set(keys))) <= 1.5 * len(sizes)


def test_the_order_of_samples_does_not_matter():
    keys = np.array([f"s{k}" for k in range(40)])
    one = new_splits(keys, np.zeros(40), SHARES, 3)
    two = new_splits(keys[::-1], np.zeros(40), SHARES, 3)
    assert {name: set(keys[index]) for name, index in one.items()} == {
        name: set(keys[::-1][index]) for name, index in two.items()
    }


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["", *"abcdef"])), min_size=1, max_size=20))
def test_equal_files_are_of_one_subject(pairs):
    subjects, digests = [f"s{s}" for s, _ in pairs], [digest for _, digest in pairs]
    joined, count = joined_subjects(subjects, digests)
    for i, (subject, digest) in enumerate(zip(subjects, digests, strict=True)):
        for j in range(i):
            if subject == subjects[j] or (digest and digest == digests[j]):
                assert joined[i] == joined[j]
    assert len(set(joined)) == len(set(subjects)) - count
