"""The confusion of labels: a hand-worked table, and what putting labels together keeps."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsernn.tasks.confusion_counts import OTHER, confusion


def test_the_least_mistaken_labels_stand_together():
    """A and D are mistaken for each other, B once for C; E never; F does not occur."""
    counts = torch.tensor(
        [
            [10, 0, 0, 4, 0, 0],
            [0, 6, 1, 0, 0, 0],
            [0, 0, 3, 0, 0, 0],
            [2, 0, 0, 1, 0, 0],
            [0, 0, 0, 0, 20, 0],
            [0, 0, 0, 0, 0, 0],
        ]
    )
    found = confusion(counts, list("ABCDEF"), most=3)
    assert found == {
        "tags": ["A", "D", OTHER],
        "counts": [[10, 4, 0], [2, 1, 0], [0, 0, 30]],
        "together": 3,
    }
    whole = confusion(counts, list("ABCDEF"))
    assert (whole["tags"], whole["together"]) == (["E", "A", "B", "C", "D"], 0)


def test_no_words_at_all_are_an_empty_table():
    nothing = torch.zeros(3, 3, dtype=torch.int64)
    assert confusion(nothing, list("ABC")) == {"tags": [], "counts": [], "together": 0}


@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 10**6))
def test_no_word_is_lost(labels, most, seed):
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 4, (labels, labels), generator=generator)
    names = [f"tag {k}" for k in range(labels)]
    found = confusion(counts, names, most)
    assert sum(map(sum, found["counts"])) == counts.sum()
    assert len(found["tags"]) == len(found["counts"]) <= most
    for name, row in zip(found["tags"], found["counts"], strict=True):
        if name != OTHER:
            right = names.index(name)
            assert sum(row) == counts[right].sum()
            assert row[found["tags"].index(name)] == counts[right, right]
