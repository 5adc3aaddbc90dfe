"""The tally of refusals in words."""

from __future__ import annotations

from collections import Counter

import pytest

from pks.workers.edges.refusals import in_words


@pytest.mark.parametrize(
    ("tally", "count", "said"),
    [
        ({}, 5, ""),
        ({("OVERSELL", "DESK"): 1}, 1, "1 OVERSELL from DESK"),
        ({("OVERSELL", "DESK"): 1, ("UNKNOWN_BOOK", "MANUAL"): 12}, 15, "12 UNKNOWN_BOOK from MANUAL, 1 OVERSELL from DESK, 2 others"),
        ({("A", "s"): 5, ("B", "s"): 4, ("C", "s"): 3, ("D", "s"): 2}, 14, "5 A from s, 4 B from s, 3 C from s, 2 others"),
        ({("A", "s"): 7}, 5, "7 A from s"),  # its counter is read a moment later
    ],
)
def test_the_most_frequent_are_named(tally: dict[tuple[str, str], int], count: int, said: str) -> None:
    assert in_words(Counter(tally), count) == said
