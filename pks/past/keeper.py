"""The past kept at hand: a view of the journal, a fold of all books at its durable end, and what corrections did to trades.

Owns what is kept between questions and when it is given up again. The worker `past` has one; whoever asks much may have one. It reads
only; where the durable end is, and what is to happen meanwhile in anything long, it is told.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from pks.layouts.codes import Kind
from pks.past.journal import FOLD_STEP, NoJournal, Past, advance
from pks.past.moment import Moment, moment_as_of, moment_of
from pks.past.names import CatalogueNames
from pks.past.progress import Bar
from pks.past.trades import SCAN_STEP, History
from pks.segments.journal_view import JournalView
from pks.topology import Paths
from pks.workers.accumulator_loop import last_end
from pks.workers.checkpoint import load_positions
from pks.workers.positions import Positions

RELEASED_EVENTS = 1 << 20
"""Pages of the journal that were read may count as ours for so many events: 256 MB of shared memory at most."""


class Keeper:
    """Holds what questions need. `beat` is called every few ten milliseconds of anything long."""

    def __init__(self, data_dir: Path, durable: Callable[[], int], beat: Callable[[], None] = lambda: None) -> None:
        """durable: the last event on the disk, now."""
        self.data_dir, self.paths, self.durable, self.beat = data_dir, Paths(data_dir), durable, beat
        self.forget()

    def forget(self) -> None:
        """Give up all that is kept; the next question makes it again."""
        self._view: JournalView | None = None
        self._kept: Positions | None = None
        self._names: CatalogueNames | None = None
        self._history, self._history_at = History({}), 0
        self._earlier: tuple[int, Positions] | None = None  # the fold that a question with known_at wanted last
        self._moment: tuple[tuple[int | None, int], Moment] | None = None
        self._refused_count = -1
        self._touched = 0

    def forget_moments(self) -> bool:
        """Give up what only the next page of an earlier question would need; whether there was any."""
        had = self._earlier is not None or self._moment is not None
        self._earlier = self._moment = None
        return had

    @property
    def sequence(self) -> int:
        """The event up to which the kept fold has come; 0 while nothing is kept."""
        return self._kept.shard.sequence if self._kept is not None else 0

    def now(self) -> Past:
        """The journal up to the end of the last whole batch on the disk, the fold with it. Raises NoJournal."""
        past = self._past()
        if self._kept is None:
            self._kept = self._folded(past, past.last)
            self._names = None
        elif past.last > self.sequence:
            first = self.sequence
            advance(self._kept, past.records, first, past.last, progress=self.progress)
            if (past.records[first + 1 : past.last + 1]["kind"] == Kind.REFDATA).any():
                self._names = None
        if past.last - self._touched > RELEASED_EVENTS:
            past.view.release(past.last)
            self._touched = past.last
        return past

    def behind(self) -> int:
        """Events that the kept fold lacks; 0 while nothing is kept."""
        return max(0, self.durable() - self.sequence) if self._kept is not None else 0

    def positions(self, past: Past, upto: int) -> Positions:
        """A fold of all books after event `upto` <= past.last. Of this keeper: not to be changed."""
        if upto == past.last:
            assert self._kept is not None, "made by now()"
            return self._kept
        if self._earlier is None or self._earlier[0] != upto:
            self._earlier = None
            self._earlier = upto, past.fold(upto)
        return self._earlier[1]

    def moment(self, past: Past, as_of: int | None, upto: int) -> Moment:
        """Positions of all books at a moment."""
        key = as_of, upto
        if self._moment is None or self._moment[0] != key:
            self._moment = None
            folded = self.positions(past, upto)
            self._moment = key, (moment_of(folded) if as_of is None else moment_as_of(folded, as_of, self.progress))
        return self._moment[1]

    def names(self, past: Past, upto: int) -> CatalogueNames:
        """Names by the reference data after event `upto`."""
        if upto != past.last:
            earlier = self._earlier is not None and self._earlier[0] == upto
            return CatalogueNames(self.positions(past, upto).catalogue if earlier else past.catalogue(upto))
        if self._names is None:
            self._names = CatalogueNames(self.positions(past, upto).catalogue)
        return self._names

    def history(self, past: Past, upto: int) -> History:
        """What corrections up to event `upto` did to trades."""
        assert self._kept is not None, "made by now()"
        table = self._kept.shard.state.refused
        refused = table[table[:, 0] > 0]
        if len(refused) != self._refused_count:
            self._refused_count = len(refused)
            self._history.refused = dict(refused.tolist())
        for first in range(self._history_at + 1, past.last + 1, SCAN_STEP):
            last = min(past.last, first + SCAN_STEP - 1)
            self._history.learn_all(past.records[first : last + 1])
            self._history_at = last
            self.beat()
        return self._history if upto == past.last else self._history.upto(upto)

    def progress(self, length: int, label: str) -> AbstractContextManager[Bar]:
        """A bar that beats."""
        return nullcontext(_Beating(self))

    def _past(self) -> Past:
        if not self.paths.journal.is_dir():
            raise NoJournal(self.data_dir)
        if self._view is None:
            self._view = JournalView(self.paths.journal)
        view, durable = self._view, self.durable()
        if durable > view.extent[1]:
            view.refresh()
        at = self.sequence
        last = max(at, int(last_end(view.records, -1, at + 1, min(durable, view.extent[1]))))
        return Past(self.data_dir, view, last, None, self.progress)

    def _folded(self, past: Past, upto: int) -> Positions:
        """A fold that can go on: no key is derived before its batch ends."""
        positions = Positions(past.records, keys=1 << 12, lots=1 << 14)
        positions.shard.beat = lambda: self.beat()  # in a child it is another one
        checkpoint = past.checkpoint(upto)
        if checkpoint is not None:
            load_positions(positions, checkpoint)
        return advance(positions, past.records, checkpoint.sequence if checkpoint else 0, upto, progress=self.progress)


class _Beating:
    """A progress bar whose steps are beats."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def update(self, n_steps: int) -> None:
        """Beat."""
        self._keeper.beat()


assert FOLD_STEP <= 1 << 16, "a step of a fold is short against a worker's patience"
