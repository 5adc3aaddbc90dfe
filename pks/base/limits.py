"""Every bound in PKS, with its reason, and how the bounds relate.

Owns numbers only: queues, tables, batches, waits and texts are cut to these. Any room may import it and every room adds its own
bounds here, in its section, with the reason beside the name; nobody writes a bound as a bare number elsewhere. Reaching one is
a counted outcome with a code of `errors`, never a surprise. It imports nothing, so that anything can import it.
"""

from __future__ import annotations

# --- rings -----------------------------------------------------------------------------------------------------------------

EVENTS_CAPACITY = 1 << 18
"""Records in the events ring: 64 MB of 256 bytes, about a quarter of a second at the fastest intake, so fsync pauses pass unseen."""

EVENTS_CAPACITY_SMALL = 1 << 14
"""The same where /dev/shm is small (64 MB in a default container): 4 MB."""

MATCHES_CAPACITY = 1 << 18
"""Records in a shard's matches ring; a fill makes one or a few, and a late reader goes on in the file behind the ring."""

MATCHES_CAPACITY_SMALL = 1 << 14
"""The same in the small set."""

UPDATES_CAPACITY = 1 << 16
"""Records in a shard's updates ring; it is conflated, so its length is how far a reader may lag before it re-reads slots."""

UPDATES_CAPACITY_SMALL = 1 << 12
"""The same in the small set."""

INTAKE_RINGS = 16
"""Sources that can write at once, each with its own ring; more processes share a source's gateway."""

INTAKE_CAPACITY = 1 << 12
"""Records in one intake ring, and in its reply ring: the largest group fits, and a producer's batch is answered in one go."""

GROUP_RECORDS_MAX = 4096
"""Records of one action, journaled and recovered whole or not at all; bounds what capture holds back and a recovery cuts."""

CAPTURE_BATCH_MAX = 1024
"""Intake records that capture takes from one ring before it looks at the next: no source waits for another for long."""

DUTY_CYCLE_NS_MAX = 10_000_000
"""A compiled loop returns to Python at least this often, for signals and its heartbeat (design section 6)."""

REJECTS_CAPACITY = 1 << 13
"""Records in the ring of what capture refused: a burst and the largest group fit, and its file is written ten times a second."""

GROUP_RECORDS_TOLD_MAX = 1024
"""Records of one refused group that are told: 256 KB of original bytes, which one message carries; of a larger group its first ones."""

REJECTS_PER_SECOND = 1_000
"""Refused records a second that are told over a long time: a program that sends garbage at full speed fills neither disk nor NATS."""

REJECTS_BURST = 7_000
"""Refused records that are told at once: a file of some thousand rows for a book that is not there yet."""

REJECTS_KEPT = 1 << 20
"""Refused records that the file behind their ring keeps at least: 320 MB, a quarter of an hour at the fastest rate that is told."""

REJECTS_KEPT_STEP = 1 << 15
"""So many of the oldest are given up at once: 10 MB of the disk."""

# --- tables ----------------------------------------------------------------------------------------------------------------

SHARDS_MAX = 16
"""Accumulators: one a core; more than this many cores for matching alone is two hosts' work."""

POSITIONS_MAX = 1 << 17
"""Slots in the positions segment over all shards; 100,000 positions are promised (design section 9)."""

POSITIONS_MAX_SMALL = 1 << 13
"""The same in the small set."""

INSTRUMENTS_MAX = 1 << 17
"""Instruments in the reference data; every OTC trade may register one."""

INSTRUMENTS_MAX_SMALL = 1 << 13
"""The same in the small set."""

BOOKS_MAX = 1 << 12
"""Books in the reference data."""

BOOKS_MAX_SMALL = 1 << 10
"""The same in the small set."""

ACCOUNTS_MAX = 1 << 14
"""Accounts in the reference data."""

ACCOUNTS_MAX_SMALL = 1 << 11
"""The same in the small set."""

FEE_CURRENCIES_MAX = 4
"""Currencies of fees on one position: traded, settlement, base and the venue's token; a fifth is FEE_CURRENCY_LIMIT."""

DEDUP_KEYS_MAX = 1 << 24
"""Idempotency keys held in memory, so the most trades of one date: 32 bytes each, in a table that grows with its day to twice as many."""

DEDUP_KEYS_MIN = 1 << 12
"""The least that `dedup_keys` may be: one full group has its keys in memory."""

DEDUP_DATES_IN_MEMORY = 256
"""Effective dates whose keys stay in memory while the table has room; older ones lie in a sorted file a date beside the journal. More than
the ten of the design, so that a file with a year of unsorted dates does not move a date out with each row."""

PARKED_TRADES_MAX = 10_000
"""Corrections that wait for their trades; one more is PARKING_FULL."""

PARK_SECONDS = 60
"""How long a correction waits for its trade before it is UNKNOWN_TRADE."""

# --- input -----------------------------------------------------------------------------------------------------------------

TIME_MIN_NS = 631_152_000_000_000_000
"""1990-01-01T00:00:00Z: an older trade is a broken clock or a wrong unit of time."""

DATE_MIN = 7305
"""1990-01-01 as days since 1970-01-01."""

DATE_MAX = 65_535
"""Last effective date, 2149-06-06: the place of an event in its key's order has 16 bits for the date."""

FUTURE_SECONDS_MAX = 300
"""How far ahead of our clock a venue's may be."""

TRADE_ID_BYTES_MAX = 256
"""A trade's, lot's or order's external id in UTF-8; FIX and crypto venues stay under 100."""

NAME_BYTES_MAX = 64
"""Names of books, accounts, instruments, currencies and sources in UTF-8."""

NOTE_BYTES_MAX = 4096
"""A free text beside an event in UTF-8: a page."""

ROW_BYTES_MAX = 1 << 16
"""One row of an input file; a longer one is not a trade but a file without line ends."""

# --- journal and recovery --------------------------------------------------------------------------------------------------

SEGMENT_RECORDS = 1 << 18
"""Records in one journal file: 64 MB, pre-written while the one before it fills."""

SEGMENT_RECORDS_MIN = 1 << 13
"""The least that `[journal] segment_records` may be: no group is split over more than two files."""

SEGMENT_RECORDS_MAX = 1 << 24
"""The most: 4 GB a file."""

CHECKPOINT_EVENTS = 1 << 20
"""Events between checkpoints: at two million events replayed a second, half a second of a restart."""

CHECKPOINT_EVENTS_MIN = 1 << 10
"""The least that `checkpoint_events` may be: below it, checkpoints are the main work."""

# --- waits and watch -------------------------------------------------------------------------------------------------------

HEARTBEAT_STALE_NS = 1_000_000_000
"""A segment whose heartbeat is older belongs to a system that is gone: StaleHost (design section 5)."""

BOOKING_STALE_NS = 10_000_000_000
"""Who books waits so long for a late heartbeat, while the program that gives it lives: a busy host is no reason to end a file half way."""

HEARTBEAT_EVERY_NS = 100_000_000
"""How often a worker's housekeeping writes its heartbeat: ten may be lost before it counts as gone."""

SLOT_READ_NS_MAX = 1_000_000
"""How long a reader tries for a stable copy of a slot before it gives a named error."""

PARK_NS_MAX = 10_000_000
"""The longest sleep of a parked program that books, and the supervisor's tick while anything starts, ends or fails."""

REST_NS_MAX = 100_000_000
"""The longest sleep of the supervisor and of a worker of the core that have had nothing to do for a while: a record wakes them at once."""

EDGE_REST_NS_MAX = 250_000_000
"""The same for those that nobody waits for in milliseconds, edges and shadow: they look instead of being woken."""

STEP_LOOK_NS = 1_000_000_000
"""How often the supervisor wakes every sleeper even though no clock was stepped."""

STOP_TIMEOUT_SECONDS = 30
"""How long an orderly stop may take before SIGKILL; `stop_timeout` of the configuration changes it."""

STOP_TIMEOUT_SECONDS_MAX = 3600
"""The most that `stop_timeout` may be."""

# --- the host --------------------------------------------------------------------------------------------------------------

SHM_SMALL_BYTES = 512 << 20
"""With less than this free in /dev/shm the small set of sizes is taken, and said."""

INSTANCE_CHARACTERS_MAX = 32
"""An instance's name, which ends every segment's name (NAME_MAX is 255) and is part of socket paths (107 bytes)."""

CACHE_FOLDERS_MAX = 16
"""Folders of compiled code kept, one a version of the sources; the ones longest unused go first."""

CONFIG_FILE_BYTES_MAX = 1 << 20
"""A configuration file; a larger one is some other file."""


def is_power_of_two(value: int) -> bool:
    """Whether a ring of `value` slots can find a slot by masking the sequence."""
    return value > 0 and value & (value - 1) == 0


for _capacity in (EVENTS_CAPACITY, EVENTS_CAPACITY_SMALL, MATCHES_CAPACITY, MATCHES_CAPACITY_SMALL, INTAKE_CAPACITY):
    assert is_power_of_two(_capacity), "a ring's slot is found by masking the sequence"
for _capacity in (UPDATES_CAPACITY, UPDATES_CAPACITY_SMALL, POSITIONS_MAX, POSITIONS_MAX_SMALL, SEGMENT_RECORDS, SEGMENT_RECORDS_MAX):
    assert is_power_of_two(_capacity), "a row is found by masking or shifting the sequence or the hash"
assert is_power_of_two(DEDUP_KEYS_MAX), "the key table is found by masking the hash"
assert GROUP_RECORDS_MAX <= INTAKE_CAPACITY, "a group is claimed at once in an intake ring"
assert 2 * GROUP_RECORDS_MAX <= EVENTS_CAPACITY_SMALL, "a group is claimed at once while the one before it is still read"
assert 2 * GROUP_RECORDS_MAX <= SEGMENT_RECORDS_MIN, "a group lies in at most two journal files"
assert SEGMENT_RECORDS_MIN <= SEGMENT_RECORDS <= SEGMENT_RECORDS_MAX
assert is_power_of_two(REJECTS_CAPACITY), "a ring's slot is found by masking the sequence"
assert REJECTS_BURST + GROUP_RECORDS_TOLD_MAX <= REJECTS_CAPACITY, "a burst finds room, and a group behind it"
assert REJECTS_PER_SECOND <= REJECTS_BURST, "a second's worth may come at once"
assert GROUP_RECORDS_TOLD_MAX <= GROUP_RECORDS_MAX
assert CAPTURE_BATCH_MAX <= INTAKE_CAPACITY, "a batch comes out of one ring"
assert GROUP_RECORDS_MAX <= DEDUP_KEYS_MIN <= DEDUP_KEYS_MAX, "the keys of one group are in memory together"
assert 2 * PARKED_TRADES_MAX <= DEDUP_KEYS_MAX, "parked corrections leave room for the trades that they wait for"
assert CHECKPOINT_EVENTS_MIN <= CHECKPOINT_EVENTS
assert DUTY_CYCLE_NS_MAX <= HEARTBEAT_EVERY_NS, "a compiled loop comes back in time for its heartbeat"
assert PARK_NS_MAX <= REST_NS_MAX <= HEARTBEAT_EVERY_NS, "a worker at rest wakes in time for its heartbeat"
assert REST_NS_MAX <= EDGE_REST_NS_MAX <= HEARTBEAT_STALE_NS // 2, "who looks now and then is no dead worker"
assert 5 * HEARTBEAT_EVERY_NS <= HEARTBEAT_STALE_NS, "some lost heartbeats do not look like a dead host"
assert STOP_TIMEOUT_SECONDS <= STOP_TIMEOUT_SECONDS_MAX
assert DATE_MIN * 86_400 * 10**9 == TIME_MIN_NS, "one and the same day"
assert NAME_BYTES_MAX <= TRADE_ID_BYTES_MAX <= NOTE_BYTES_MAX <= ROW_BYTES_MAX
