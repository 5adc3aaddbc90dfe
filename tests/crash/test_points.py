"""Death at named points: before and after each publish, between the copies of a slot, before a cursor, in mid-batch, in a checkpoint.

Each point is armed once, is proved to have been hit, and what is left is judged like any other day.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pks.workers.points import VARIABLE, points_hit
from tests.conftest import wait_until
from tests.crash.system import SECONDS, Feeder, LiveDay, System, Watcher, a_system, judge

CAPTURE = {"before_publish": 40, "after_publish": 90, "before_finish": 140, "after_answer": 60}
JOURNAL = {"before_new_file": 2, "before_write": 30, "in_write": 60, "before_flush": 90, "after_flush": 120, "after_cursor": 150}
ACCUMULATOR = {
    "before_matches": 20,
    "after_matches": 50,
    "before_transfers": 5,
    "after_transfers": 12,
    "before_verdicts": 4,
    "after_verdicts": 10,
    "before_slots": 40,
    "between_copies": 100,
    "after_slots": 80,
    "before_cursor": 70,
    "after_cursor": 110,
}
SHADOW = {"before_checkpoint": 1, "in_checkpoint": 1, "before_rename": 1, "after_checkpoint": 1}
POINTS = {"capture": CAPTURE, "journal": JOURNAL, "accumulator-0": ACCUMULATOR, "accumulator-1": ACCUMULATOR, "shadow": SHADOW}
STEPS_MAX = 12_000


def armed(points: dict[str, dict[str, int]]) -> str:
    """The switch for these points."""
    return ",".join(f"{worker}:{point}:{count}" for worker, own in points.items() for point, count in own.items())


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    yield from a_system(tmp_path, "point", shards="2")


@pytest.mark.timeout(600)
def test_every_point_is_hit_and_survived(system: System, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    switch = armed(POINTS)
    system.start(**{VARIABLE: switch})
    feeder, watcher = Feeder(system, seed), Watcher(system)
    try:
        day = LiveDay(seed, feeder)
        for step in range(STEPS_MAX):
            day.step()
            if step % 100 == 0:
                feeder.repeat(2)
                if all(points_hit(system.paths.run, switch).values()):
                    break
        hits = points_hit(system.paths.run, switch)
        assert set(hits.values()) == {1}, f"not hit: {[point for point, count in hits.items() if not count]}"
        system.wait_whole()
        counts = judge(system, feeder)
        watched = watcher.stop()
    finally:
        watcher.kill()
        feeder.close()
    assert watched["went_back"] == [], watched["went_back"][:5]
    deaths = {name: facts.restarts_count for name, facts in system.workers().items()}
    assert deaths == {worker: len(points) for worker, points in POINTS.items()}, "each point killed once, and nothing else did"
    with capsys.disabled():
        print(f"\n{len(hits)} points: {deaths}, {counts}, {len(system.late_kernels())} kernels late")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "point", ["in_write", pytest.param("before_flush", marks=pytest.mark.long), pytest.param("after_flush", marks=pytest.mark.long)]
)
def test_everything_dies_with_the_journal_in_mid_batch(system: System, seed: int, point: str) -> None:
    """Nobody writes the batch again: the start finds it half there, or whole and never acknowledged."""
    switch = f"journal:{point}:300"
    system.start(**{VARIABLE: switch})
    feeder = Feeder(system, seed)
    try:
        day = LiveDay(seed, feeder)
        os.kill(system.children()["zygote"], signal.SIGSTOP)  # for two seconds nobody can restart the journal
        assert not any(points_hit(system.paths.run, switch).values()), "the reference data takes fewer batches"

        def is_hit() -> bool:
            day.trade()
            return bool(points_hit(system.paths.run, switch)[f"journal:{point}"])

        wait_until(is_hit, SECONDS, "the journal's death")
        system.kill("all")
        system.start()
        feeder.connect()
        judge(system, feeder)
    finally:
        feeder.close()
    cut = [line for line in system.log("supervisor") if line["event"].startswith("the journal's last batch was never acknowledged")]
    assert len(cut) == (point == "in_write"), "a half batch is cut, and said; a whole one stands"
