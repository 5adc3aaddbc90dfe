"""An edge's pauses: short while there is something, rare at rest, and then all of a process at the same moments."""

from __future__ import annotations

import pytest

from pks.workers.edges.edge import REST_SECONDS, RESTS_AFTER_SECONDS, Pace, until_rest_ends


def test_pauses_by_how_long_there_was_nothing() -> None:
    now = [100.0]
    pace = Pace((1.0, 0.002), (RESTS_AFTER_SECONDS, 0.01), now=lambda: now[0])
    assert pace.pause() == 0.002
    now[0] += 1.0
    assert pace.pause() == 0.01
    assert not pace.rests
    now[0] += RESTS_AFTER_SECONDS - 1.0
    assert pace.rests
    assert 0 < pace.pause() <= REST_SECONDS
    pace.worked()
    assert pace.pause() == 0.002
    assert not pace.rests


def test_rests_end_together() -> None:
    ends = {now + until_rest_ends(now) for now in (7 * REST_SECONDS, 7.25 * REST_SECONDS, 7.9 * REST_SECONDS)}
    assert max(ends) == pytest.approx(min(ends)) == 8 * REST_SECONDS
