"""The page of the flow holds together: one writer a channel, readers that exist, sizes that fit, segments by their promised names."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pks.base.config import Config, Shm, load_config, resolve_sizes
from pks.base.limits import SHARDS_MAX
from pks.layouts.event import EVENT, REPLY
from pks.layouts.refdata import ROW
from pks.layouts.segment import SegmentState
from pks.layouts.slots import POSITION_SLOT, REFDATA_SLOT
from pks.segments.errors import SegmentExists, SegmentMissing, SegmentNotReady, StaleHost
from pks.segments.ring import PLACES_MAX, RingReader, RingWriter
from pks.segments.shm import list_segments, retire
from pks.segments.wait import remove_semaphores
from pks.topology import (
    CHANNELS,
    REENTRY_FIRST,
    SYSTEM_MOVES,
    Host,
    Kind,
    Layout,
    Per,
    SlowReader,
    Starts,
    SystemState,
    channel,
    choose_sizes,
    place_cores,
    readers_of,
    segments_of,
    semaphores_of,
    sources_of,
    table_shape,
    total_bytes,
    workers_of,
    writers_of,
    written_by,
)

SMALL = resolve_sizes(Shm(sizes="small"), 1 << 40)
NORMAL = resolve_sizes(Shm(sizes="normal"), 1 << 40)


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    instance = f"topo{os.getpid()}"
    yield load_config(None, {}, {"data_dir": str(tmp_path), "instance": instance, "shards": 2, "shm.sizes": "small"}).config
    for facts in list_segments(instance):
        retire(facts.name)
    remove_semaphores(64, instance)


def make(config: Config, starts: Starts | None = None) -> Host:
    return Host.create(config, SMALL, workers_of(config.shards), starts or Starts())


# --- who ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 2, 4, SHARDS_MAX])
def test_every_segment_has_one_writer_or_one_a_range(shards: int) -> None:
    workers = {plan.name for plan in workers_of(shards)}
    for one in CHANNELS:
        for index in range(shards if one.per is Per.SHARD else 1):
            writers = writers_of(one, index, shards)
            assert len(set(writers)) == len(writers)
            if one.kind is Kind.SLOTS and len(writers) > 1:
                assert len(writers) == table_shape(one, SMALL, shards)[0], f"{one.name}: a range a writer"
            else:
                assert len(writers) == 1, one.name
            assert set(writers) <= workers | {"supervisor", "source"}, one.name


@pytest.mark.parametrize("shards", [1, 2, SHARDS_MAX])
def test_no_two_workers_take_one_claim(shards: int) -> None:
    claims = [label for plan in workers_of(shards) for label in written_by(plan.name, shards)]
    assert len(set(claims)) == len(claims)
    assert {"events", "refdata", "matches-0", "positions-0", f"accounts-{shards - 1}"} <= set(claims)


@pytest.mark.parametrize("shards", [1, 2, SHARDS_MAX])
def test_readers_with_a_place_are_workers_and_fit(shards: int) -> None:
    workers = {plan.name for plan in workers_of(shards)}
    for one in CHANNELS:
        gates, free = readers_of(one.gates, shards), readers_of(one.readers, shards)
        assert set(gates) | set(free) <= workers, one.name
        assert not set(gates) & set(free), one.name
        assert len(gates) + len(free) + (one.kind is Kind.STREAM) <= PLACES_MAX, one.name
        assert (SlowReader.GATES_WRITER is one.slow_reader) <= bool(gates), f"{one.name}: someone gates it"
        assert one.writer.format(shard=0) not in gates, f"{one.name}: nobody waits for itself"


def test_only_journal_and_the_accumulators_hold_the_events_back() -> None:
    assert readers_of(channel("events").gates, 2) == ["journal", "accumulator-0", "accumulator-1"]


def test_a_shard_does_not_read_its_own_transfers() -> None:
    assert readers_of(channel("transfers").readers, 3, but="accumulator-1") == ["accumulator-0", "accumulator-2"]


def test_what_goes_up_ends_at_capture() -> None:
    upward = [one for one in CHANNELS if one.upward]
    assert [one.name for one in upward] == ["verdicts", "reentries"]
    assert all(set(one.gates) | set(one.readers) == {"capture"} for one in upward)
    order = {"source": 0, "capture": 1, "accumulator-{shard}": 2}
    for one in CHANNELS:
        readers = [name for name in (*one.gates, *one.readers) if name in order]
        if one.kind is not Kind.CONTROL and not one.upward:
            assert all(order[reader] > order[one.writer] for reader in readers), f"{one.name} moves down"


def test_an_orderly_stop_ends_each_writer_before_those_who_wait_for_it() -> None:
    phase = {plan.name: plan.stop_phase for plan in workers_of(2)}
    assert phase["capture"] < phase["journal"] < phase["accumulator-0"] == phase["accumulator-1"] < phase["shadow"]


def test_cores_are_given_when_there_is_one_over() -> None:
    plans = workers_of(1)
    assert place_cores(plans, (0, 1), {}) == {}
    assert place_cores(plans, (0, 1, 2), {}) == {}
    assert place_cores(plans, (4, 5, 6, 7), {}) == {"capture": 4, "journal": 5, "accumulator-0": 6}
    assert place_cores(plans, (0, 1, 2, 3), {"journal": 3}) == {"journal": 3, "capture": 0, "accumulator-0": 1}
    assert place_cores(plans, (0, 1), {"shadow": 1}) == {"shadow": 1}


def test_system_states_move_one_way() -> None:
    for state, moves in SYSTEM_MOVES.items():
        assert all(following > state for following in moves)
    assert SYSTEM_MOVES[SystemState.STOPPING] == set()


# --- sizes and names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_the_small_set_fits_a_containers_shared_memory(shards: int) -> None:
    assert total_bytes(SMALL, shards, shards + 3) < 62 << 20, "64 MB, with a page or two for semaphores and the lock"


def test_the_normal_set_fits_where_it_is_taken() -> None:
    assert total_bytes(NORMAL, 1, 4) < 512 << 20


def test_small_is_taken_where_the_normal_set_of_many_shards_would_not_fit(tmp_path: Path) -> None:
    def sizes(free_mb: int, **flags: object) -> tuple[int, str]:
        config = load_config(None, {}, {"data_dir": str(tmp_path), **flags}).config
        chosen = choose_sizes(config, free_mb << 20, config.shards + 3)
        return chosen.events, chosen.said

    assert sizes(520)[0] == NORMAL.events
    assert sizes(520, shards=4)[0] == SMALL.events
    assert "the normal set wants" in sizes(520, shards=4)[1]
    assert sizes(520, shards=4, **{"shm.sizes": "normal"})[0] == NORMAL.events, "what is asked for is not second-guessed"


def test_segments_have_their_promised_names() -> None:
    names = [shape.channel.segment_base(shape.number) for shape in segments_of(SMALL, 2, 5)]
    assert len(set(names)) == len(names)
    promised = ("control-v1", "refdata-v1", "intake-0-v1", "events-v1", "matches-v1-0", "matches-v1-1", "updates-v1-1", "positions-v1")
    assert {f"pks-{name}" for name in promised} <= set(names)
    assert f"pks-intake-{REENTRY_FIRST + 1}-v1" in names


def test_a_table_of_shards_has_room_for_uneven_books() -> None:
    assert table_shape(channel("positions"), NORMAL, 1) == (1, NORMAL.positions)
    assert table_shape(channel("positions"), NORMAL, 2) == (2, NORMAL.positions)
    assert table_shape(channel("positions"), NORMAL, 8) == (8, NORMAL.positions // 4)
    assert table_shape(channel("refdata"), NORMAL, 8)[0] == 1


def test_the_hash_of_a_layout_sees_names_types_and_places() -> None:
    fields = [("a", "<i8"), ("b", "<u4")]
    plain = Layout("one", 1, (np.dtype(fields),))
    assert plain.hash == Layout("two", 2, (np.dtype(fields),)).hash
    renamed, retyped, shaped = [("a", "<i8"), ("c", "<u4")], [("a", "<i8"), ("b", "<i4")], [("a", "<i8"), ("b", "<u4", (2,))]
    for other in (renamed, retyped, fields[::-1], shaped):
        assert Layout("one", 1, (np.dtype(other),)).hash != plain.hash


def test_a_refdata_slot_is_a_row_behind_its_version() -> None:
    assert REFDATA_SLOT.names is not None and ROW.names is not None and REFDATA_SLOT.fields is not None and ROW.fields is not None
    assert REFDATA_SLOT.names == ("version", *ROW.names)
    for name in ROW.names:
        assert REFDATA_SLOT.fields[name][1] == ROW.fields[name][1] + 8, name


# --- the host -------------------------------------------------------------------------------------------------------------------


def test_what_the_supervisor_makes_others_open(config: Config) -> None:
    made = make(config, Starts(events=41, streams={"matches-1": 6}))
    with pytest.raises(SegmentNotReady):
        _ = Host.open(config.instance).events
    assert made.system_state is SystemState.STARTING
    made.go_live()
    seen = Host.open(config.instance, Path(config.data_dir))
    assert (seen.shards, seen.sources, seen.owners) == (2, sources_of(SMALL), 6)
    assert (seen.events.start, seen.matches(0).ring.start, seen.matches(1).ring.start) == (41, -1, 6)
    assert seen.durable_sequence == 41, "journal begins where the journal ends"
    assert [place.name for place in seen.events.places if place.gating] == ["journal", "accumulator-0", "accumulator-1"]
    assert [place.semaphore for place in seen.events.places] == [1, 2, 3, 4]
    assert not seen.events.records.flags.writeable

    record = np.zeros(1, EVENT)
    record["sequence"] = 42
    assert RingWriter(made.events).publish(record) == 1
    assert RingReader(seen.events, position=41).read(8)["sequence"].tolist() == [42]

    position = np.zeros(1, POSITION_SLOT)
    position["book_id"], position["qty_raw"] = 7, -3
    made.positions.append(1, (7, 9), position[0])
    made.beat(time.monotonic_ns())  # the first calls above may have compiled for seconds
    found = seen.positions.find((7, 9))
    assert found is not None and int(seen.positions.read(found)["qty_raw"]) == -3


def test_an_intake_ring_has_two_directions_and_a_door(config: Config) -> None:
    made = make(config)
    assert not made.intake(3).is_open
    made.go_live()
    source = Host.open(config.instance, produces=True).intake(3)
    assert source.is_open
    request, reply = np.zeros(1, EVENT), np.zeros(1, REPLY)
    request["trade_id"], reply["sequence"] = b"T1", 8
    RingWriter(source.requests).publish(request)
    capture = RingReader(made.intake(3).requests, "capture")
    assert capture.read(4)["trade_id"].tolist() == [b"T1"]
    RingWriter(made.intake(3).replies).publish(reply)
    assert RingReader(source.replies, "source").read(4)["sequence"].tolist() == [8]
    workers = 5
    assert [place.semaphore for place in source.replies.places] == [workers + 3]
    assert [place.semaphore for place in made.reentry(1).replies.places] == [3], "accumulator-1's own"
    made.set_doors(False)
    assert not source.is_open
    assert [intake.number for intake in made.intakes()] == [*range(sources_of(SMALL)), REENTRY_FIRST, REENTRY_FIRST + 1]


def test_a_host_is_alive_while_it_is_beaten_and_none_is_held(config: Config) -> None:
    made = make(config)
    made.go_live()
    later = 10**18
    made.beat(later, held=frozenset({"accumulator-1"}))
    for name, index in (("events", 0), ("matches", 0), ("control", 0), ("intake", 0)):
        made.segment(name, index).check_live(later)
    for name, index in (("positions", 0), ("accounts", 0), ("matches", 1), ("updates", 1)):
        with pytest.raises(StaleHost):
            made.segment(name, index).check_live(later)


def test_the_end_is_seen_by_who_still_maps_it_and_leaves_nothing(config: Config) -> None:
    made = make(config)
    made.go_live()
    seen = Host.open(config.instance)
    events = seen.segment("events")
    made.close_all()
    assert events.state == SegmentState.CLOSED
    with pytest.raises(SegmentMissing):
        Host.open(config.instance)
    assert not list(Path("/dev/shm").glob(f"*{config.instance}*"))


def test_a_making_that_fails_leaves_nothing_new_behind(config: Config) -> None:
    first = make(config)
    with pytest.raises(SegmentExists):
        make(config)
    assert first.segment("control").state == SegmentState.LIVE


def test_semaphores_are_one_a_worker_and_one_a_source(config: Config) -> None:
    make(config)
    found = list(Path("/dev/shm").glob(f"sem.pks-wake-*.{config.instance}"))
    assert len(found) == semaphores_of(5, sources_of(SMALL)) == 13
