"""What edges are fed with: the streams of a run, a fold of our own, and the two one after another say the same of every event."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pks.layouts.codes import Kind, MatchKind
from pks.topology import Host
from pks.workers.edges.feed import Feed, Slice
from tests.conftest import wait_until
from tests.crash.system import Feeder, LiveDay, System, a_system, judge

STEPS = 250


@pytest.fixture(params=[1, 2])
def system(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[System]:
    yield from a_system(tmp_path, f"feed{request.param}", shards=str(request.param))


def open_feed(system: System, cursor: int) -> Feed:
    """A feed behind event `cursor` of a running system, when it is ready for one."""
    feed = Feed(Host.open(system.instance, system.data_dir), system.paths, lambda: None)
    wait_until(lambda: feed.open(cursor), 60, "a feed")
    return feed


def slices(feed: Feed, last: int, most: int) -> list[Slice]:
    """All slices up to event `last`; each is finished as an edge does it."""
    made: list[Slice] = []

    def done() -> bool:
        if (one := feed.take(most)) is not None:
            one = one._replace(events=one.events.copy())
            made.append(one)
            feed.finish(one.last)
        return feed.cursor >= last

    wait_until(done, 120, f"event {last}")
    return made


def told(made: list[Slice]) -> tuple[Any, dict[int, int], Any]:
    """(events without what the journal adds, refused, matches) of all slices together."""
    events = np.concatenate([one.events for one in made])
    refused = {sequence: code for one in made for sequence, code in one.refused.items()}
    matches = np.concatenate([one.matches for one in made])
    return (
        events,
        refused,
        matches[np.lexsort((matches["index"], matches["instrument_id"], matches["book_id"], matches["sequence"], matches["cause"]))],
    )


def check(made: list[Slice], first: int) -> None:
    """Slices follow each other, hold whole groups, and name what lies in them."""
    at = first
    for one in made:
        assert one.first == at and len(one.events) == one.last - one.first + 1
        assert int(one.events[0]["group_index"]) == 0
        assert int(one.events[-1]["group_index"]) == int(one.events[-1]["group_count"]) - 1
        assert all(one.first <= sequence <= one.last for sequence in one.refused)
        assert ((one.matches["cause"] >= one.first) & (one.matches["cause"] <= one.last)).all()
        at = one.last + 1


def same_upto(ours: tuple[Any, dict[int, int], Any], theirs: tuple[Any, dict[int, int], Any], last: int) -> None:
    """Ours may go beyond event `last` of the day: later starts add events of their own."""
    events, refused, matches = ours
    assert events[events["sequence"] <= last].tobytes() == theirs[0].tobytes()
    assert {sequence: code for sequence, code in refused.items() if sequence <= last} == theirs[1]
    assert matches[matches["cause"] <= last].tobytes() == theirs[2].tobytes()


@pytest.mark.timeout(600)
def test_streams_and_a_fold_say_the_same(system: System, seed: int) -> None:
    system.start()
    feeder = Feeder(system, seed)
    day = LiveDay(seed, feeder)
    for _ in range(STEPS):
        day.step()
    judge(system, feeder)
    feeder.close()
    live = open_feed(system, 0)
    last = live.limit()
    from_streams = slices(live, last, 64)
    check(from_streams, 1)
    live.close()
    streams = told(from_streams)
    assert streams[1], "the day had refusals"
    assert (streams[2]["kind"] == MatchKind.MATCH).any()
    assert np.isin((Kind.AMEND, Kind.CANCEL), streams[0]["kind"]).all()

    assert system.stop() == 0
    for checkpoint in system.paths.checkpoints.iterdir():
        checkpoint.unlink()  # the next start folds all again, and its streams begin at the first event
    system.start()
    again = open_feed(system, 0)
    made = slices(again, last, 1 << 13)
    check(made, 1)
    same_upto(told(made), streams, last)
    again.close()

    assert system.stop() == 0
    system.start()  # from a checkpoint at the end: what an edge lacks is folded
    half = from_streams[len(from_streams) // 2].last
    for cursor in (0, half):
        behind = open_feed(system, cursor)
        made = slices(behind, last, 128)
        check(made, cursor + 1)
        expected = told([one for one in from_streams if one.first > cursor])
        same_upto(told(made), expected, last)
        behind.close()
    assert system.stop() == 0
