"""Who is refused what: codes and sources of refusals since it was asked last, for people who are told of them.

A free reader of what capture refused and of the accumulators' verdicts, from the present on. Owns the tally; who counts windows and tells
anybody is the caller. Counts what it could read: the counters of capture and the accumulators say how many there were.
"""

from __future__ import annotations

from collections import Counter

from pks.base.errors import Code
from pks.layouts.codes import Subject
from pks.layouts.event import EVENT
from pks.segments.journal_view import JournalView
from pks.segments.table import RefdataTable
from pks.topology import Host, Paths
from pks.workers.rejects import RejectsReader

VERDICTS_A_LOOK = 4096
SAID_MAX = 3
"""Pairs of code and source that a text names."""

UNKNOWN_SOURCE = "no known source"


class RefusalTally:
    """Refusals by code and source. `look` often, `take` when somebody is told."""

    def __init__(self, host: Host, paths: Paths) -> None:
        self._host = host
        self._rejects = RejectsReader(host.rejects, host.rejects.ring.head)
        self._verdicts = [host.verdicts(shard).reader(host.verdicts(shard).ring.head) for shard in range(host.shards)]
        self._refdata = RefdataTable(host.refdata)
        self._journal = JournalView(paths.journal)
        self._names: dict[int, str] = {}
        self._fresh: Counter[tuple[str, str]] = Counter()

    def look(self) -> None:
        """Read what has been refused since the last look."""
        while self._rejects.lag:
            for refusal in self._rejects.read():
                head = refusal.records[0]
                source = int(head["original"].view(EVENT)["source_id"][0])
                self._count(int(head["code"]), source)
        for reader in self._verdicts:
            while len(records := reader.read(VERDICTS_A_LOOK)):
                for sequence, code in zip(records["sequence"].tolist(), records["code"].tolist(), strict=True):
                    self._count(code, self._source_at(sequence))

    def take(self) -> Counter[tuple[str, str]]:
        """(code, source) -> how many since the last take."""
        fresh, self._fresh = self._fresh, Counter()
        return fresh

    def _count(self, code: int, source_id: int) -> None:
        self._fresh[Code(code).name, self._name(source_id)] += 1

    def _name(self, source_id: int) -> str:
        if source_id not in self._names:
            row = self._refdata.read(int(Subject.SOURCE), source_id)
            if row is None:
                return UNKNOWN_SOURCE
            self._names[source_id] = bytes(row["code"]).decode(errors="replace")
        return self._names[source_id]

    def _source_at(self, sequence: int) -> int:
        """The source of an event, which may lie in the ring alone or in the journal alone; 0 where it is in neither."""
        ring = self._host.events
        record = ring.records[sequence & (ring.capacity - 1)].copy().view(EVENT)[0]
        if int(record["sequence"]) == sequence and sequence > ring.oldest:
            return int(record["source_id"])
        if sequence > self._journal.extent[1]:
            self._journal.refresh()
        first, last = self._journal.extent
        return int(self._journal.records[sequence]["source_id"]) if first <= sequence <= last else 0


def in_words(tally: Counter[tuple[str, str]], count: int) -> str:
    """The most frequent of a tally of `count` refusals, as a text: "12 UNKNOWN_BOOK from MANUAL, 1 OVERSELL from DESK, 3 others"."""
    said = [f"{number} {code} from {source}" for (code, source), number in tally.most_common(SAID_MAX)]
    others = count - sum(number for _, number in tally.most_common(SAID_MAX))
    return ", ".join([*said, f"{others} others"] if said and others > 0 else said)
