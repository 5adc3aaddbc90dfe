"""How long an idle worker sleeps."""

from __future__ import annotations

from pks.base.limits import EDGE_REST_NS_MAX, REST_NS_MAX
from pks.workers.runtime import IDLE_NS, rest_after


def test_sleeps_double_and_are_bounded() -> None:
    assert [rest_after(count, REST_NS_MAX) for count in range(4)] == [IDLE_NS, 2 * IDLE_NS, 4 * IDLE_NS, REST_NS_MAX]
    assert rest_after(10**6, EDGE_REST_NS_MAX) == EDGE_REST_NS_MAX
    assert rest_after(0, 1_000) == 1_000
