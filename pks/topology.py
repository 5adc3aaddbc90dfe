"""The one page of the flow: every channel with its one writer and its readers, every worker with its core, and the host that holds them.

Owns the names of segments, who writes and who may hold whom back, capacities, and the layout of each segment's body. The supervisor makes
a Host from it, workers inherit that Host, clients and commands open their own. It starts no process, takes no lock and knows no rule
of the domain; readers and writers of channels belong to the workers. Data moves down the list of channels; what moves up (`upward`) goes in
at the top as a new event through an intake ring.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from pks.base.config import Config, Sizes, resolve_sizes
from pks.base.limits import EVENTS_CAPACITY, INTAKE_CAPACITY, INTAKE_RINGS, REJECTS_CAPACITY, SHARDS_MAX
from pks.layouts.event import EVENT, EVENT_LAYOUT_VERSION, REPLY
from pks.layouts.match import MATCH, MATCH_LAYOUT_VERSION, VERDICT
from pks.layouts.refdata import REFDATA_LAYOUT_VERSION
from pks.layouts.reject import REJECT, REJECT_LAYOUT_VERSION
from pks.layouts.segment import CELL_NAME, SEGMENT_HEADER_BYTES, WORKER_REPORT, WORKER_WATCH, CellKind
from pks.layouts.slots import (
    ACCOUNT_LAYOUT_VERSION,
    ACCOUNT_SLOT,
    POSITION_LAYOUT_VERSION,
    POSITION_SLOT,
    REFDATA_SLOT,
    UPDATE,
    UPDATE_LAYOUT_VERSION,
)
from pks.segments.atomics import WORD_BYTES, read_word, write_word
from pks.segments.counters import Cell, Control, control_bytes
from pks.segments.ring import PLACES_MAX, Place, Ring, ring_bytes
from pks.segments.shm import Segment, list_segments, retire, segment_name
from pks.segments.slots import SlotTable, table_bytes
from pks.segments.stream import FILE_PLACE, StreamLayout, StreamReader, StreamWriter
from pks.segments.wait import make_semaphores, remove_semaphores

Words = NDArray[np.int64]

SHARD = "{shard}"

SOURCES_SMALL = 8
"""Intake rings for sources in the small set: each is 1.3 MB, and 64 MB is all there is."""

REENTRY_FIRST = INTAKE_RINGS
"""Number of accumulator 0's own intake ring; sources have those below, accumulator k has REENTRY_FIRST + k."""

REENTRY_CAPACITY = 1 << 10
"""Records in an accumulator's re-entry ring: amendments for moved lots, one at a time; its own list keeps what does not fit."""

TRANSFERS_CAPACITY = 1 << 12
"""Records in a shard's transfers ring: moved lots are rare, and a late reader goes on in the file behind the ring."""

VERDICTS_CAPACITY = 1 << 12
"""Records in a shard's verdicts ring: refusals are rare, and a late reader goes on in the file behind the ring."""

REFDATA_OTHER_ROWS = 1 << 10
"""Rows for currencies, entities, sources, class methods and routes together."""

ACCOUNTS_A_POSITION = 2
"""Account quantities that a position has on average; most are held in one account, some in several."""

UNEVEN_SHARDS = 2
"""How much more than its even part of the positions one shard has room for: books are few, so they fall unevenly."""

DOOR_WORDS = 16
_DOOR_BYTES = DOOR_WORDS * WORD_BYTES
_DOOR_OPEN = 1

SYSTEM_STATE_CELL = "system_state"

NOTICE_ENDING = ".txt"
"""Of a whole line in `Paths.notices`, named WORKER@TIME."""

assert REENTRY_FIRST + SHARDS_MAX <= 1 << 16, "an EVENT names its intake ring in 16 bits"


class SystemState(enum.IntEnum):
    """Life of the whole system; the supervisor's gauge `system_state` in the control segment."""

    STARTING = 1
    READY = 2
    STOPPING = 3


SYSTEM_MOVES = {
    SystemState.STARTING: {SystemState.READY, SystemState.STOPPING},
    SystemState.READY: {SystemState.STOPPING},
    SystemState.STOPPING: set[SystemState](),
}
assert SYSTEM_MOVES.keys() == set(SystemState), "every state has its moves"


class Kind(enum.Enum):
    """How a channel's body is laid out."""

    CONTROL = "reports, watches, metrics"
    RING = "ring"
    STREAM = "ring and the file behind it"
    SLOTS = "sequence-latched slots"
    INTAKE = "door, request ring, reply ring"


class Per(enum.Enum):
    """How many segments a channel has."""

    SYSTEM = "one"
    SHARD = "one a shard"
    SOURCE = "one a source"


class SlowReader(enum.Enum):
    """What becomes of a reader that cannot keep up."""

    GATES_WRITER = "the writer waits for the readers in `gates`"
    READS_FILE = "goes on in the file until it has caught up"
    READS_LATEST = "skips to the latest state"
    IS_TOLD_BUSY = "the writer is told that the ring is full"


@dataclass(frozen=True, slots=True)
class Layout:
    """Name, version and dtypes of a segment's content; `hash` is in the header and a reader refuses another one."""

    name: str
    version: int
    dtypes: tuple[np.dtype[Any], ...]

    @property
    def hash(self) -> int:
        """64-bit hash of names, types and places of all fields."""
        text = ""
        for dtype in self.dtypes:
            assert dtype.fields is not None, "layouts are structured"
            text += ";".join(f"{name}:{part[0].str}{part[0].shape}@{part[1]}" for name, part in dtype.fields.items()) + "\n"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class Channel:
    """One way of records or values from one writer to its readers. Worker names may contain {shard}."""

    name: str
    kind: Kind
    layout: Layout
    capacity: str | int  # a name in Sizes, or the number of records (SLOTS: rows over all shards)
    writer: str
    slow_reader: SlowReader
    gates: tuple[str, ...] = ()  # readers that hold the writer back
    readers: tuple[str, ...] = ()  # free ones with a place, so that they can park
    per: Per = Per.SYSTEM
    answers: str = ""  # INTAKE: who writes the reply ring
    upward: bool = False  # goes back in at the top

    def segment_base(self, index: int) -> str:
        """Base name of its segment `index` (0 for a channel that has one)."""
        if self.kind is Kind.INTAKE:
            return f"pks-intake-{index + (REENTRY_FIRST if self.upward else 0)}-v1"
        stem = f"pks-{self.name}-v1"
        return stem if self.per is Per.SYSTEM else f"{stem}-{index}"

    def label(self, index: int) -> str:
        """Short name of its instance `index`, as in files, claims and texts: events, matches-0."""
        return self.name if self.per is Per.SYSTEM else f"{self.name}-{index}"


CONTROL_LAYOUT = Layout("control", 1, (WORKER_REPORT, WORKER_WATCH, CELL_NAME))
REFDATA_LAYOUT = Layout("refdata", REFDATA_LAYOUT_VERSION, (REFDATA_SLOT,))
INTAKE_LAYOUT = Layout("intake", EVENT_LAYOUT_VERSION, (EVENT, REPLY))
EVENT_LAYOUT = Layout("event", EVENT_LAYOUT_VERSION, (EVENT,))
MATCH_LAYOUT = Layout("match", MATCH_LAYOUT_VERSION, (MATCH,))
VERDICT_LAYOUT = Layout("verdict", MATCH_LAYOUT_VERSION, (VERDICT,))
REJECT_LAYOUT = Layout("reject", REJECT_LAYOUT_VERSION, (REJECT,))
UPDATE_LAYOUT = Layout("update", UPDATE_LAYOUT_VERSION, (UPDATE,))
POSITION_LAYOUT = Layout("position", POSITION_LAYOUT_VERSION, (POSITION_SLOT,))
ACCOUNT_LAYOUT = Layout("account", ACCOUNT_LAYOUT_VERSION, (ACCOUNT_SLOT,))

CHANNELS = (
    # The state of the workers: each writes its own rows and cells, the supervisor the watches and its own cells.
    Channel("control", Kind.CONTROL, CONTROL_LAYOUT, 0, "supervisor", SlowReader.READS_LATEST, readers=("*",)),
    # Input. One ring a source; 0 is for the loader of reference data and the command line.
    Channel(
        "intake", Kind.INTAKE, INTAKE_LAYOUT, INTAKE_CAPACITY, "source", SlowReader.IS_TOLD_BUSY,
        gates=("capture",), per=Per.SOURCE, answers="capture",
    ),
    # The order of everything.
    Channel(
        "events", Kind.RING, EVENT_LAYOUT, "events", "capture", SlowReader.GATES_WRITER,
        gates=("journal", f"accumulator-{SHARD}"), readers=("shadow",),
    ),
    Channel("refdata", Kind.SLOTS, REFDATA_LAYOUT, "refdata", "capture", SlowReader.READS_LATEST, readers=("*",)),
    # What never becomes an event: said to its source, and here to everybody else.
    Channel("rejects", Kind.STREAM, REJECT_LAYOUT, REJECTS_CAPACITY, "capture", SlowReader.READS_FILE, readers=("*",)),
    # What the accumulators make of it.
    Channel(
        "matches", Kind.STREAM, MATCH_LAYOUT, "matches", f"accumulator-{SHARD}", SlowReader.READS_FILE,
        readers=("shadow",), per=Per.SHARD,
    ),
    Channel(
        "transfers", Kind.STREAM, MATCH_LAYOUT, TRANSFERS_CAPACITY, f"accumulator-{SHARD}", SlowReader.READS_FILE,
        readers=("accumulator-*",), per=Per.SHARD,
    ),
    Channel("updates", Kind.RING, UPDATE_LAYOUT, "updates", f"accumulator-{SHARD}", SlowReader.READS_LATEST, readers=(), per=Per.SHARD),
    Channel("positions", Kind.SLOTS, POSITION_LAYOUT, "positions", f"accumulator-{SHARD}", SlowReader.READS_LATEST, readers=("*",)),
    Channel("accounts", Kind.SLOTS, ACCOUNT_LAYOUT, "accounts", f"accumulator-{SHARD}", SlowReader.READS_LATEST, readers=("*",)),
    # Back up: verdicts are answered to the source, corrections of moved lots become new events.
    Channel(
        "verdicts", Kind.STREAM, VERDICT_LAYOUT, VERDICTS_CAPACITY, f"accumulator-{SHARD}", SlowReader.READS_FILE,
        readers=("capture",), per=Per.SHARD, upward=True,
    ),
    Channel(
        "reentries", Kind.INTAKE, INTAKE_LAYOUT, REENTRY_CAPACITY, f"accumulator-{SHARD}", SlowReader.IS_TOLD_BUSY,
        gates=("capture",), per=Per.SHARD, answers="capture", upward=True,
    ),
)  # fmt: skip
"""Every channel, in the order in which data moves."""

_BY_NAME = {channel.name: channel for channel in CHANNELS}
assert len(_BY_NAME) == len(CHANNELS), "a channel's name is its own"


def channel(name: str) -> Channel:
    """The channel of this name."""
    return _BY_NAME[name]


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """One worker: what it runs, and how it is treated. Its place in the plan is its number: owner of cells, semaphore."""

    name: str
    make: str  # "module:function", called as function(context) in the worker's process; the module also has warm()
    hot: bool  # runs compiled loops: counts for cores and waiting, has no cyclic collection
    shard: int = 0
    stop_phase: int = 0  # an orderly stop ends phase 0, then 1, ...
    silent_seconds: float = 5.0  # without a heartbeat for so long, it is killed


EDGE_WORKERS: dict[str, str] = {"nats": "bus", "postgres": "records", "questdb": "timeseries"}
"""Edge -> the worker that carries to its server. Redis has none: it holds what its users put there. Dead letters have the reaper."""


def workers_of(shards: int, loads_desk: bool = False, edges: Sequence[str] = ()) -> tuple[WorkerPlan, ...]:
    """The workers of a system of `shards`, by number, which is also the order of cores for hot ones: a loader where there is a desk, a
    worker for each of `edges` that has one, alerts with any of them, and with Postgres, where users live, the gateway and who answers for
    the past.
    """
    loader = (WorkerPlan("loader", "pks.workers.loader:make", hot=False, stop_phase=0, silent_seconds=30.0),) if loads_desk else ()
    return (
        WorkerPlan("capture", "pks.workers.capture:make", hot=True, stop_phase=0),
        WorkerPlan("journal", "pks.workers.journal:make", hot=True, stop_phase=1, silent_seconds=30.0),  # a disk may pause
        *(
            WorkerPlan(f"accumulator-{shard}", "pks.workers.accumulator:make", hot=True, shard=shard, stop_phase=2, silent_seconds=10.0)
            for shard in range(shards)
        ),
        WorkerPlan("shadow", "pks.workers.shadow:make", hot=False, stop_phase=3, silent_seconds=30.0),
        *loader,
        *(
            WorkerPlan(worker, f"pks.workers.edges.{worker}:make", hot=False, stop_phase=4, silent_seconds=60.0)
            for edge, worker in EDGE_WORKERS.items()
            if edge in edges
        ),
        *(
            (WorkerPlan("reaper", "pks.workers.edges.reaper:make", hot=False, stop_phase=4, silent_seconds=60.0),)
            if {"nats", "postgres"} <= set(edges)
            else ()
        ),
        *((WorkerPlan("past", "pks.past.worker:make", hot=False, stop_phase=4, silent_seconds=60.0),) if "postgres" in edges else ()),
        *((WorkerPlan("alerts", "pks.workers.edges.alerts:make", hot=False, stop_phase=4, silent_seconds=60.0),) if edges else ()),
        *(
            (WorkerPlan("bff", "pks.bff.worker:make", hot=False, stop_phase=4, silent_seconds=60.0),)  # users live in Postgres
            if "postgres" in edges
            else ()
        ),
    )


def place_cores(plans: Sequence[WorkerPlan], cores: Sequence[int], wanted: Mapping[str, int]) -> dict[str, int]:
    """Core of each worker that is pinned: the configured ones, and, with a core for every hot worker and one over, a core each."""
    placed = {plan.name: wanted[plan.name] for plan in plans if plan.name in wanted}
    free = [core for core in cores if core not in placed.values()]
    hot = [plan.name for plan in plans if plan.hot and plan.name not in placed]
    if len(hot) < len(free):
        placed.update(zip(hot, free, strict=False))
    return placed


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things lie under the data directory."""

    data_dir: Path

    @property
    def journal(self) -> Path:
        """Files of events; what must never be lost."""
        return self.data_dir / "journal"

    @property
    def keys(self) -> Path:
        """Idempotency keys of older dates."""
        return self.data_dir / "keys"

    @property
    def checkpoints(self) -> Path:
        """States with their sequences."""
        return self.data_dir / "checkpoints"

    @property
    def streams(self) -> Path:
        """Files behind recorded streams; all but rejects can be derived again."""
        return self.data_dir / "streams"

    @property
    def run(self) -> Path:
        """Locks and the run file of the running system."""
        return self.data_dir / "run"

    @property
    def log(self) -> Path:
        """One file a process."""
        return self.data_dir / "log"

    @property
    def servers(self) -> Path:
        """A folder an embedded server; made by its first start."""
        return self.data_dir / "servers"

    @property
    def notices(self) -> Path:
        """Lines that workers want said where `pks run` is watched; the supervisor says them and takes them away."""
        return self.run / "notices"

    @property
    def run_file(self) -> Path:
        """Who runs here: JSON, replaced whole at each change."""
        return self.run / "pks.json"

    def stream_file(self, label: str) -> Path:
        """The file behind stream `label` (matches-0)."""
        return self.streams / f"{label}.stream"

    def make(self) -> None:
        """Make what is missing; readable by the group."""
        for folder in (self.journal, self.keys, self.checkpoints, self.streams, self.run, self.notices, self.log):
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)


@dataclass(frozen=True, slots=True)
class Starts:
    """Where the rings of a new start begin: cursors before the first record."""

    events: int = 0  # the journal's last sequence
    streams: Mapping[str, int] = field(default_factory=dict)  # label -> last record that stays in the file; -1: all is derived again


# Sizes.


def sources_of(sizes: Sizes) -> int:
    """Intake rings that sources may claim."""
    return INTAKE_RINGS if sizes.events >= EVENTS_CAPACITY else SOURCES_SMALL


def instances_of(channel: Channel, shards: int, sources: int) -> int:
    """How many segments the channel has."""
    return {Per.SYSTEM: 1, Per.SHARD: shards, Per.SOURCE: sources}[channel.per]


def capacity_of(channel: Channel, sizes: Sizes) -> int:
    """Records of its ring, or rows of its table over all shards if they were even."""
    if isinstance(channel.capacity, int):
        return channel.capacity
    if channel.capacity == "refdata":
        return sizes.instruments + sizes.books + sizes.accounts + REFDATA_OTHER_ROWS
    if channel.capacity == "accounts":
        return sizes.positions * ACCOUNTS_A_POSITION
    return int(getattr(sizes, channel.capacity))


def table_shape(channel: Channel, sizes: Sizes, shards: int) -> tuple[int, int]:
    """(ranges, rows of each) of a table: a range a shard, each with room for more than its even part."""
    rows = capacity_of(channel, sizes)
    if SHARD not in channel.writer:
        return 1, rows
    return shards, min(rows, -(-rows * UNEVEN_SHARDS // shards))


class Shape(NamedTuple):
    """One segment to be made."""

    channel: Channel
    number: int
    body_bytes: int
    sizes: tuple[int, ...]  # in its header: CONTROL (owners, shards, sources), SLOTS (ranges, rows), rings (capacity, ...)


def segments_of(sizes: Sizes, shards: int, workers: int) -> Iterator[Shape]:
    """Every segment of a system of `workers` workers, with its size."""
    sources = sources_of(sizes)
    for one in CHANNELS:
        if one.kind is Kind.CONTROL:
            yield Shape(one, 0, control_bytes(workers + 1), (workers + 1, shards, sources))
            continue
        for index in range(instances_of(one, shards, sources)):
            yield Shape(one, index, *_body_of(one, sizes, shards))


def _body_of(one: Channel, sizes: Sizes, shards: int) -> tuple[int, tuple[int, ...]]:
    if one.kind is Kind.SLOTS:
        ranges, rows = table_shape(one, sizes, shards)
        return table_bytes(ranges, rows, one.layout.dtypes[0].itemsize), (ranges, rows)
    capacity = capacity_of(one, sizes)
    if one.kind is Kind.INTAKE:
        return _DOOR_BYTES + ring_bytes(capacity, EVENT.itemsize) + ring_bytes(capacity, REPLY.itemsize), (capacity, capacity)
    return ring_bytes(capacity, one.layout.dtypes[0].itemsize), (capacity,)


def total_bytes(sizes: Sizes, shards: int, workers: int) -> int:
    """What all segments take of /dev/shm, header pages included."""
    return sum(shape.body_bytes + SEGMENT_HEADER_BYTES for shape in segments_of(sizes, shards, workers))


def choose_sizes(config: Config, shm_free_bytes: int, workers: int) -> Sizes:
    """The sizes in force: the configured ones, or, left to us, the small set also where the normal one would not fit with these shards."""
    sizes = resolve_sizes(config.shm, shm_free_bytes)
    wanted = total_bytes(sizes, config.shards, workers)
    if config.shm.sizes != "auto" or wanted <= shm_free_bytes:
        return sizes
    small = resolve_sizes(msgspec.structs.replace(config.shm, sizes="small"), shm_free_bytes)
    said = f"{small.said}; the normal set wants {wanted >> 20} MB for {config.shards} shard(s)"
    return small._replace(said=said.replace("as configured", "auto"))


# Who.


def written_by(worker: str, shards: int) -> list[str]:
    """Claims that `worker` takes: the label of each channel, or of its range of a table, that it alone writes."""
    found = []
    for one in CHANNELS:
        for shard in range(shards if SHARD in one.writer else 1):
            if one.writer.format(shard=shard) == worker:
                found.append(f"{one.name}-{shard}" if SHARD in one.writer else one.name)
    return found


def writers_of(one: Channel, index: int, shards: int) -> list[str]:
    """Names of the workers that write segment `index` of a channel."""
    if SHARD not in one.writer:
        return [one.writer]
    return [one.writer.format(shard=index)] if one.per is Per.SHARD else [one.writer.format(shard=shard) for shard in range(shards)]


def readers_of(names: Iterable[str], shards: int, but: str = "") -> list[str]:
    """Names with {shard} (each shard) and accumulator-* (each accumulator but `but`) written out; "*" is anyone and has no place."""
    found: list[str] = []
    for name in names:
        if name == "accumulator-*":
            found += [f"accumulator-{shard}" for shard in range(shards) if f"accumulator-{shard}" != but]
        elif SHARD in name:
            found += [name.format(shard=shard) for shard in range(shards)]
        elif name != "*":
            found.append(name)
    return found


def semaphores_of(workers: int, sources: int) -> int:
    """Semaphores of a system: one a worker, then one a source."""
    return workers + sources


# The host.


class Intake:
    """One intake ring with its reply ring and its door. `requests` holds EVENT, `replies` REPLY whose ticket is the request's cursor.

    Capture reads requests at place "capture"; the source reads replies at place "source". Both gate.
    """

    def __init__(self, number: int, segment: Segment, capacity: int) -> None:
        self.number, self.segment = number, segment
        self._door = segment.words(0, _DOOR_BYTES)
        first, second = ring_bytes(capacity, EVENT.itemsize), ring_bytes(capacity, REPLY.itemsize)
        self._request_area = segment.words(_DOOR_BYTES, first)
        self._reply_area = segment.words(_DOOR_BYTES + first, second)
        self._capacity = capacity

    def format(self, source_semaphore: int | None, capture_semaphore: int | None) -> None:
        """Lay out both rings, door closed; the supervisor does this once."""
        name = f"intake-{self.number}"
        Ring.format(self._request_area, name, EVENT, self._capacity, places=[Place("capture", True, capture_semaphore)])
        Ring.format(self._reply_area, f"{name} replies", REPLY, self._capacity, places=[Place("source", True, source_semaphore)])

    @property
    def requests(self) -> Ring:
        """The ring that the source writes."""
        return Ring.attach(self._request_area, f"intake-{self.number}", EVENT)

    @property
    def replies(self) -> Ring:
        """The ring that capture writes."""
        return Ring.attach(self._reply_area, f"intake-{self.number} replies", REPLY)

    @property
    def is_open(self) -> bool:
        """False while the system starts or stops: a source then answers SHUTTING_DOWN itself. Accumulators' own rings have no say here."""
        return int(read_word(self._door, 0)) == _DOOR_OPEN

    def set_open(self, is_open: bool) -> None:
        """Open or close the door; only the supervisor does."""
        write_word(self._door, 0, _DOOR_OPEN if is_open else 0)


@dataclass(frozen=True, slots=True)
class Stream:
    """A recorded stream: its ring, and where its file is."""

    ring: Ring
    path: Path
    layout: StreamLayout

    def writer(self) -> StreamWriter:
        """For its one writer. Raises StreamDamaged, LayoutUnknown."""
        return StreamWriter(self.ring, self.path, self.layout)

    def reader(self, position: int = -1, place: str | None = None) -> StreamReader:
        """A reader behind record `position`."""
        return StreamReader(self.ring, self.path, self.layout, position, place=place)


class Host:
    """All segments of one system. Made by the supervisor and inherited by its workers (all writable), or opened read-only by others.

    Attributes: instance, shards, sources (intake rings that sources may claim), owners (workers, then the supervisor). Segments of an
    opened host are mapped when they are first asked for: SegmentMissing, SegmentNotReady (the system starts), StaleHost, LayoutUnknown.
    """

    def __init__(self, instance: str, paths: Paths | None, produces: bool, made: dict[tuple[str, int], Segment]) -> None:
        self.instance, self.paths = instance, paths
        self._produces, self._segments = produces, made
        self._parts: dict[tuple[str, int], Any] = {}
        self.owners, self.shards, self.sources = self.segment("control").counts[:3]

    @classmethod
    def create(cls, config: Config, sizes: Sizes, plans: Sequence[WorkerPlan], starts: Starts, epoch: int = 0) -> Host:
        """Make every segment and semaphore, the control segment LIVE, the others CREATING. Earlier ones must be retired.

        Raises SegmentExists, SegmentNoSpace; then nothing is left behind.
        """
        paths, instance = Paths(Path(config.data_dir)), config.instance
        names = [plan.name for plan in plans]
        made: dict[tuple[str, int], Segment] = {}
        try:
            for shape in segments_of(sizes, config.shards, len(names)):
                made[shape.channel.name, shape.number] = _make_segment(shape, config, epoch)
            host = cls(instance, paths, True, made)
            make_semaphores(semaphores_of(len(names), host.sources), instance)
            for shape in segments_of(sizes, config.shards, len(names)):
                host._format(shape, names, starts)
        except BaseException:
            for segment in made.values():
                segment.mark_closed()
                retire(segment.name)
            remove_semaphores(semaphores_of(len(names), sources_of(sizes)), instance)
            raise
        host.segment("control").go_live()
        return host

    def _format(self, shape: Shape, names: list[str], starts: Starts) -> None:
        one, index = shape.channel, shape.number
        segment, seats = self._segments[one.name, index], {name: number for number, name in enumerate(names)}
        if one.kind is Kind.INTAKE:
            source = seats.get(one.writer.format(shard=index)) if one.upward else len(names) + index
            self._intake(one, index).format(source, seats.get("capture"))
        elif one.kind in (Kind.RING, Kind.STREAM):
            label = one.label(index)
            places = [FILE_PLACE] if one.kind is Kind.STREAM else []
            places += [Place(name, True, seats.get(name)) for name in readers_of(one.gates, self.shards)]
            places += [Place(name, False, seats.get(name)) for name in readers_of(one.readers, self.shards, one.writer.format(shard=index))]
            assert len(places) <= PLACES_MAX, f"{label} has more readers with a place than a ring holds"
            start = starts.events if one.name == "events" else starts.streams.get(label, -1)
            Ring.format(segment.body, label, one.layout.dtypes[0], shape.sizes[0], start=start, places=places)

    @classmethod
    def open(cls, instance: str = "", data_dir: Path | None = None, *, produces: bool = False) -> Host:
        """The running system of this name. data_dir: needed to read streams behind their rings. produces: intake rings are mapped writable.

        Raises SegmentMissing (nothing runs), StaleHost (its last segments), LayoutUnknown (another version runs).
        """
        return cls(instance, None if data_dir is None else Paths(data_dir), produces, {})

    def segment(self, name: str, index: int = 0) -> Segment:
        """Segment `index` of channel `name`, mapped now if it was not."""
        key = (name, index)
        if key not in self._segments:
            one = channel(name)
            self._segments[key] = Segment.open(
                segment_name(one.segment_base(index), self.instance),
                layout_name=one.layout.name,
                layout_version=one.layout.version,
                layout_hash=one.layout.hash,
                writable=self._produces and one.kind is Kind.INTAKE,
            )
        return self._segments[key]

    @property
    def control(self) -> Control:
        """Workers and metrics; owner numbers are the plan's, the supervisor has the last."""
        return cast(Control, self._part("control", 0, lambda segment: Control(segment, self.owners)))

    @property
    def events(self) -> Ring:
        """The events ring: record n is event n."""
        return self._ring("events", 0)

    @property
    def durable_sequence(self) -> int:
        """Last event that is on disk: what journal has finished."""
        return self.events.cursor("journal")

    def matches(self, shard: int) -> Stream:
        """Match sets of a shard."""
        return self._stream("matches", shard)

    def transfers(self, shard: int) -> Stream:
        """Lots that transfers took from books of a shard, for the receivers' shards."""
        return self._stream("transfers", shard)

    def verdicts(self, shard: int) -> Stream:
        """What the accumulator says to events that it refused; a file too, so that a new capture reads them again."""
        return self._stream("verdicts", shard)

    @property
    def rejects(self) -> Stream:
        """What capture refused, as it came."""
        return self._stream("rejects", 0)

    def updates(self, shard: int) -> Ring:
        """Rows of `positions` that changed."""
        return self._ring("updates", shard)

    def intake(self, number: int) -> Intake:
        """Intake ring of source `number`."""
        assert 0 <= number < self.sources, f"there are {self.sources} intake rings for sources, not one of number {number}"
        return self._intake(channel("intake"), number)

    def reentry(self, shard: int) -> Intake:
        """Accumulator `shard`'s own intake ring, number REENTRY_FIRST + shard."""
        return self._intake(channel("reentries"), shard)

    def intakes(self) -> list[Intake]:
        """Every intake ring that capture reads: the sources', then the accumulators'."""
        return [self.intake(number) for number in range(self.sources)] + [self.reentry(shard) for shard in range(self.shards)]

    @property
    def positions(self) -> SlotTable:
        """POSITION_SLOT by (book_id, instrument_id), a range a shard."""
        return self._table("positions")

    @property
    def accounts(self) -> SlotTable:
        """ACCOUNT_SLOT, a range a shard."""
        return self._table("accounts")

    @property
    def refdata(self) -> SlotTable:
        """REFDATA_SLOT by (subject, row_id)."""
        return self._table("refdata")

    @property
    def supervisor(self) -> int:
        """The supervisor's owner number."""
        return self.owners - 1

    @property
    def system_state(self) -> SystemState:
        """What the supervisor says of the whole."""
        cells = {cell.name: cell for cell in self._supervisor_cells()}
        value = cells[SYSTEM_STATE_CELL].value if SYSTEM_STATE_CELL in cells else 0
        assert isinstance(value, int), "the state is a gauge"
        return SystemState(value or SystemState.STARTING)  # 0: it has a name and no value yet

    def _supervisor_cells(self) -> list[Cell]:
        return [cell for cell in self.control.read_cells() if cell.owner == self.supervisor and cell.kind is CellKind.GAUGE]

    # for the supervisor

    def go_live(self) -> None:
        """Let readers in everywhere, and open the doors of the sources' rings."""
        for (name, _), segment in self._segments.items():
            if name != "control":
                segment.go_live()
        self.set_doors(True)

    def set_doors(self, is_open: bool) -> None:
        """Open or close every source's ring."""
        for number in range(self.sources):
            self.intake(number).set_open(is_open)

    def beat(self, now_ns: int, held: frozenset[str] = frozenset()) -> None:
        """Renew every segment's heartbeat, except of those that a worker in `held` should be writing."""
        for (name, index), segment in self._segments.items():
            if not held or held.isdisjoint(writers_of(channel(name), index, self.shards)):
                segment.beat(now_ns)

    def close_all(self) -> None:
        """Mark every segment CLOSED and remove segments and semaphores; for the supervisor's orderly stop."""
        for segment in self._segments.values():
            segment.mark_closed()
            retire(segment.name)
        remove_semaphores(semaphores_of(self.owners - 1, self.sources), self.instance)

    # parts

    def _part(self, name: str, index: int, make: Any) -> Any:
        key = (name, index)
        if key not in self._parts:
            self._parts[key] = make(self.segment(name, index))
        return self._parts[key]

    def _ring(self, name: str, index: int) -> Ring:
        one = channel(name)
        return cast(Ring, self._part(name, index, lambda segment: Ring.attach(segment.body, one.label(index), one.layout.dtypes[0])))

    def _stream(self, name: str, index: int) -> Stream:
        one = channel(name)
        assert self.paths is not None, "to read a stream's file the data directory is needed"
        return Stream(self._ring(name, index), self.paths.stream_file(one.label(index)), stream_layout(one))

    def _intake(self, one: Channel, index: int) -> Intake:
        number = index + (REENTRY_FIRST if one.upward else 0)
        return cast(Intake, self._part(one.name, index, lambda segment: Intake(number, segment, segment.counts[0])))

    def _table(self, name: str) -> SlotTable:
        one = channel(name)
        return cast(SlotTable, self._part(name, 0, lambda segment: _map_table(segment, one)))


def stream_layout(one: Channel) -> StreamLayout:
    """What the file behind a recorded stream says of itself."""
    return StreamLayout(one.layout.name, one.layout.version, one.layout.hash, one.layout.dtypes[0])


def _make_segment(shape: Shape, config: Config, epoch: int) -> Segment:
    one = shape.channel
    return Segment.create(
        segment_name(one.segment_base(shape.number), config.instance),
        layout_name=one.layout.name,
        layout_version=one.layout.version,
        layout_hash=one.layout.hash,
        body_bytes=shape.body_bytes,
        mode=0o660 if one.kind is Kind.INTAKE and not one.upward else 0o640,
        group=config.shm.group or None,
        epoch=epoch,
        counts=shape.sizes,
    )


def _map_table(segment: Segment, one: Channel) -> SlotTable:
    ranges, rows = segment.counts[:2]
    return SlotTable(segment, one.name, one.layout.dtypes[0], ranges, rows)


def retire_all(instance: str) -> list[str]:
    """Mark every segment of a dead run CLOSED and unlink it; their names. For the holder of the instance's lock."""
    return [facts.name for facts in list_segments(instance) if retire(facts.name)]
