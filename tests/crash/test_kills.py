"""kill -9 at random times under load, of everything that runs: nothing acknowledged is lost, nothing is doubled, no slot steps back."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.system import Feeder, LiveDay, System, Watcher, a_system, judge

VICTIMS = {"capture": 4, "journal": 4, "accumulator": 5, "shadow": 3, "zygote": 2, "supervisor": 1, "all": 1}
"""How often each is chosen; the last two cost a whole start."""


def choose_victims(chance: random.Random, kills: int, shards: int) -> list[str]:
    """Everybody at least once, in random order."""
    everyone = [*(name for name in VICTIMS if name != "accumulator"), *(f"accumulator-{k}" for k in range(shards))]
    weights = [VICTIMS.get(name, VICTIMS["accumulator"]) for name in everyone]
    assert kills >= len(everyone), "enough kills for everybody"
    victims = everyone + chance.choices(everyone, weights, k=kills - len(everyone))
    chance.shuffle(victims)
    return victims


def kill_through_a_day(system: System, seed: int, kills: int) -> str:
    """Book random events and kill; what the end was like, in words. Fails when anything is not as it must be."""
    chance = random.Random(seed)
    system.start()
    feeder, watcher = Feeder(system, seed), Watcher(system)
    try:
        day = LiveDay(seed, feeder)
        victims = choose_victims(chance, kills, system.shards)
        for victim in victims:
            for _ in range(chance.randint(20, 160)):
                day.step()
            if chance.random() < 0.5:
                feeder.pump()
            time.sleep(chance.random() * 0.02)  # any moment will do: this one is not waited for, it is drawn
            system.kill(victim)
            if victim in ("supervisor", "all"):
                system.start()
                feeder.connect()
            elif chance.random() < 0.5:
                system.wait_whole()
            feeder.repeat(chance.randint(0, 8))
        system.wait_whole()
        counts = judge(system, feeder)
        watched = watcher.stop()
    finally:
        watcher.kill()
        feeder.close()
    assert watched["went_back"] == [], watched["went_back"][:5]
    assert watched["changes"] > 100, "the watcher saw the slots move"
    assert system.stop() == 0
    return f"seed {seed}: {dict(Counter(victims))}, {counts}, watched {watched['samples']} times in {watched['lives']} lives"


@pytest.fixture
def system(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[System]:
    shards = getattr(request, "param", 2)
    yield from a_system(tmp_path, f"kill{shards}", shards=str(shards))


@pytest.mark.timeout(600)
def test_twenty_kills(system: System, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    said = kill_through_a_day(system, seed, 20)
    with capsys.disabled():
        print(f"\n20 kills: {said}")


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("run", range(4))
@pytest.mark.parametrize("system", [1, 2, 4], indirect=True)
def test_many_kills(system: System, run: int, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """216 kills in twelve days: a day of its own for each, since the model is slow with long ones."""
    said = kill_through_a_day(system, seed, 18)
    assert system.late_kernels() == [], "the zygote has called every kernel, whatever a day brings"
    with capsys.disabled():
        print(f"\n18 kills, {system.shards} shards: {said}")
