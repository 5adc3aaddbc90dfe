"""The journal as the oracle reads it: verdicts, corrections, transfers between keys, and the state at any (as of T, known at K).

Owns the list of what stands (each TRADE, OPENING, ALLOCATION, TRANSFER, ACTION, FIXING as last amended) and folds it key by key, in order
(effective date, corporate actions first, sequence), again from there whenever something earlier changed. Used by tests and by `calc`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

from .key import Event, KeyState, Lot, Taken, rank
from .money import FEE_SCALE, ZERO, Instrument, decimal, exact

Key = tuple[str, str]  # book, instrument
Place = tuple[str, int, int]  # effective date, 0 for corporate actions else 1, sequence

START: Place = ("", 0, 0)
ANCHOR_EVERY = 25  # events of a key between two kept copies of its state, from which a later fold may start

ALREADY_CANCELLED = "ALREADY_CANCELLED"
INVALID_TRANSITION = "INVALID_TRANSITION"
FILLS = ("TRADE", "OPENING", "ALLOCATION")
OF_INSTRUMENT = ("ACTION", "FIXING")
FROM_BLOCK = ("account", "instrument", "side", "trade_time_ns", "effective_date")
WITHOUT_EFFECT = ("PERIOD_LOCK", "RULES", "EPOCH", "TICK", "CASHFLOW", "DETAIL")


@dataclass(frozen=True)
class Fee:
    """One FEE event."""

    sequence: int
    currency: str
    amount: Fraction
    trade_time_ns: int


@dataclass(eq=False)
class Entry:
    """An event that was accepted, as last amended. Its sequence and trade id stay the original's."""

    sequence: int
    kind: str
    trade_id: str
    event: Event
    added_fees: list[Fee] = field(default_factory=list)
    cancelled: bool = False
    corrections: list[int] = field(default_factory=list)  # sequences of accepted amends and cancels
    refused_on: set[Key] = field(default_factory=set)  # ACTION: keys that refused it

    @property
    def place(self) -> Place:
        """Where it is folded. (`in_sequence`: `pks calc lots` has splits without a time, which keep their place in the array.)"""
        first = self.kind == "ACTION" and not self.event.get("in_sequence")
        return self.event["effective_date"], 0 if first else 1, self.sequence

    @property
    def keys(self) -> list[Key]:
        """The keys it books on, the giver first; empty for a block, and for events of an instrument (those are on all its keys)."""
        if self.kind in OF_INSTRUMENT or "BLOCK" in self.event["flags"]:
            return []
        giver = (self.event["book"], self.event["instrument"])
        return [giver] if not self.moves_lots else [giver, (self.event["to_book"], self.event["instrument"])]

    @property
    def moves_lots(self) -> bool:
        return self.kind == "TRANSFER" and self.event.get("to_book") not in (None, self.event["book"])

    def fees(self, time_ns: int | None) -> dict[str, Fraction]:
        """Its own fee (the latest amend's) and all FEE events, by currency, 0 where they cancel out; with a time, FEE events up to it."""
        parts: list[tuple[str, Fraction]] = []
        if self.event.get("fee") is not None:
            parts.append((self.event["fee_currency"], exact(self.event["fee"])))
        parts += [(fee.currency, fee.amount) for fee in self.added_fees if time_ns is None or fee.trade_time_ns <= time_ns]
        total: dict[str, Fraction] = {}
        for currency, amount in parts:
            if amount:
                total[currency] = total.get(currency, ZERO) + amount
        return total

    def known_by(self, time_ns: int | None) -> bool:
        return time_ns is None or int(self.event["trade_time_ns"]) <= time_ns


@dataclass(frozen=True)
class PolicyRow:
    """A REFDATA row that changes the policy of keys in the middle of their history."""

    sequence: int
    effective_date: str
    trade_time_ns: int
    definition: dict[str, Any]

    @property
    def place(self) -> Place:
        return self.effective_date, 1, self.sequence


@dataclass(frozen=True)
class Position:
    """What a reader sees of one key. Money with the multiplier; average_price without, in the price's own unit."""

    quantity: Decimal
    cost: Decimal
    average_price: Fraction | None
    realised_gross: Decimal
    realised_net: Decimal
    fees: dict[str, Decimal]
    open_lots: list[Lot]
    last_sequence: int
    clearing_cost: Decimal | None  # None on inverse instruments
    variation_margin: Decimal | None
    method: str
    pnl_currency: str


@dataclass(frozen=True)
class Match:
    """One lot part that a closing event consumed. Quantity and cost are signed like the lot."""

    kind: str  # CLOSE, MOVE, CASH_IN_LIEU, CUT
    lot_id: str
    opening: int
    lot_leg: int
    open_date: str
    close_date: str
    quantity: Decimal
    open_price: Fraction
    close_price: Fraction
    cost: Decimal
    realised_gross: Decimal
    leg: int  # 1 if the closing fill also opened the other side


@dataclass(frozen=True)
class MatchSet:
    """All that one closing event consumed on one key, in the order it was taken."""

    closing: int
    book: str
    instrument: str
    trade_id: str
    matches: tuple[Match, ...]


class Snapshot:
    """The folded keys at one (T, K)."""

    def __init__(self, states: dict[Key, KeyState], last_sequences: dict[Key, int]) -> None:
        self.states = states
        self.last_sequences = last_sequences

    def positions(self) -> dict[Key, Position]:
        """Every key that an accepted event has touched, flat ones too."""
        return {key: self._position(self.states[key], last) for key, last in self.last_sequences.items()}

    def accounts(self) -> dict[tuple[str, str, str], Decimal]:
        """(book, account, instrument) -> quantity. An event without account counts on the account ""."""
        return {
            (book, account, instrument): decimal(quantity, state.instrument.qty_scale)
            for (book, instrument), state in self.states.items()
            if (book, instrument) in self.last_sequences
            for account, quantity in state.accounts.items()
        }

    def matches(self) -> list[MatchSet]:
        """The current match sets, by key, then in the order of the fold."""
        sets: list[MatchSet] = []
        for (book, instrument), state in sorted(self.states.items()):
            by_closing: dict[int, list[Taken]] = {}
            for taken in state.taken:
                by_closing.setdefault(taken.closing, []).append(taken)
            sets += [
                MatchSet(closing, book, instrument, rows[0].trade_id, tuple(_match(row, state.instrument) for row in rows))
                for closing, rows in by_closing.items()
            ]
        return sets

    @staticmethod
    def _position(state: KeyState, last_sequence: int) -> Position:
        instrument = state.instrument
        money_scale = instrument.money_scale

        def money(raw: Fraction) -> Decimal:
            return decimal(raw * instrument.multiplier, money_scale)

        fees_outside = state.fees.get(instrument.pnl_currency, ZERO) - state.fees_in_lots
        return Position(
            quantity=decimal(state.quantity, instrument.qty_scale),
            cost=money(state.cost),
            average_price=instrument.price_of(state.quantity, state.cost) if state.lots else None,
            realised_gross=money(state.realised),
            realised_net=decimal(state.realised * instrument.multiplier - fees_outside, money_scale),
            fees={currency: decimal(amount, FEE_SCALE) for currency, amount in sorted(state.fees.items())},
            open_lots=[replace(lot, price=state.price_of(lot)) for lot in sorted(state.lots, key=rank)],
            last_sequence=last_sequence,
            clearing_cost=None if instrument.inverse else money(state.clearing_cost),
            variation_margin=None if instrument.inverse else money(state.variation_margin),
            method=state.method,
            pnl_currency=instrument.pnl_currency,
        )


class Model:
    """The live state after the events applied so far, that is: known at the last one's sequence."""

    def __init__(self) -> None:
        self.instruments: dict[str, Instrument] = {}
        self.policy_rows: list[PolicyRow] = []  # the first row of a book has the date 1970-01-01: it holds since ever
        self.rescales: list[tuple[int, str]] = []  # (sequence, instrument) of rows that gave an instrument finer scales
        self.entries: dict[int, Entry] = {}  # in sequence order
        self.first_sequence: dict[Key, int] = {}  # the first event that named the key, refused or not
        self.entries_on: dict[Key, list[Entry]] = {}  # those that book on a key, or did before an amend
        self.entries_of: dict[str, list[Entry]] = {}  # ACTION and FIXING by instrument
        self.handed: dict[int, list[Lot]] = {}  # transfer -> lots the receiver was given, as last known
        self.states: dict[Key, KeyState] = {}
        self.anchors: dict[Key, list[tuple[Place, KeyState]]] = {}
        self.refused: dict[int, str] = {}
        self.sequence = 0

    # -- input -------------------------------------------------------------------------------------------------------------------------

    def apply(self, event: Event) -> None:
        """Take the next event of the journal. A refused one is noted in `refused` and changes nothing."""
        assert event["sequence"] > self.sequence, "events come in sequence order"
        self.sequence = event["sequence"]
        kind = event["kind"]
        if kind == "REFDATA":
            self._define(event)
        elif kind in FILLS or kind == "TRANSFER":
            self._book(event)
        elif kind in OF_INSTRUMENT:
            self._book_on_instrument(event)
        elif kind in ("AMEND", "CANCEL", "FEE"):
            self._correct(event)
        else:
            assert kind in WITHOUT_EFFECT, f"no such kind: {kind}"

    def positions(self) -> dict[Key, Position]:
        return self.snapshot().positions()

    def matches(self) -> list[MatchSet]:
        return self.snapshot().matches()

    def accounts(self) -> dict[tuple[str, str, str], Decimal]:
        return self.snapshot().accounts()

    @staticmethod
    def as_of(events: Iterable[Event], time_ns: int | None = None, known_at: int | None = None) -> Snapshot:
        """The state as of T (trade time, ns), known at sequence K; None: without that bound."""
        model = Model()
        for event in events:
            if known_at is None or event["sequence"] <= known_at:
                model.apply(event)
        return model.snapshot(time_ns)

    def snapshot(self, time_ns: int | None = None) -> Snapshot:
        """Without T the live keys. With T one fold over all keys, in which transferred lots flow from giver to receiver at once."""
        last = {key: sequence for key in self.states if (sequence := self._last_sequence(key, time_ns)) is not None}
        if time_ns is None:
            return Snapshot(self.states, last)
        states = {key: self._empty(key) for key in self.states}
        items: dict[Place, Entry | PolicyRow] = {}
        for key in states:
            items |= {item.place: item for item in self._items(key, time_ns)}
        for place in sorted(items):
            self._fold_one(states, items[place], time_ns, strict=False, handed=None)
        return Snapshot(states, last)

    # -- one event's kind each ---------------------------------------------------------------------------------------------------------

    def _define(self, event: Event) -> None:
        definition = event["definition"]
        if definition["type"] == "instrument":
            old, new = self.instruments.get(definition["id"]), Instrument.of(definition)
            self.instruments[definition["id"]] = new
            if old is not None and (old.price_scale, old.qty_scale, old.money_scale) != (new.price_scale, new.qty_scale, new.money_scale):
                self.rescales.append((event["sequence"], new.id))
            since, keys = START, [key for key in self.states if key[1] == definition["id"]]
        elif definition["type"] in ("book", "class_method"):
            row = PolicyRow(event["sequence"], event["effective_date"], int(event["trade_time_ns"]), definition)
            self.policy_rows.append(row)
            since, keys = row.place, [key for key in self.states if self._concerns(row, key)]
        else:
            return
        for key in keys:
            self._fold(key, since)

    def _book(self, event: Event) -> None:
        """A TRADE, OPENING, ALLOCATION or TRANSFER."""
        if event["kind"] == "ALLOCATION":
            block = self.entries.get(event["original"])
            if block is not None:  # a child takes what it does not say itself from its block
                event = {**event, **{name: block.event[name] for name in FROM_BLOCK if event.get(name) is None}}
        entry = Entry(event["sequence"], event["kind"], event["trade_id"], event)
        self.entries[entry.sequence] = entry
        self._index(entry, entry.keys)
        refusal = self._derive(entry, entry.keys, entry.place, entry, strict=not _forced(event))
        if refusal:
            self.refused[entry.sequence] = refusal
            del self.entries[entry.sequence]
            for key in entry.keys:
                self.entries_on[key].remove(entry)
            self._derive(entry, entry.keys, entry.place, hand_over=False)

    def _book_on_instrument(self, event: Event) -> None:
        """An ACTION or FIXING: one event, judged by each key of the instrument; a key that refuses it goes on without it."""
        event = {**event, "qty_scale": self.instruments[event["instrument"]].qty_scale}  # a finer one later restates no split
        entry = Entry(event["sequence"], event["kind"], event["trade_id"], event)
        self.entries[entry.sequence] = entry
        self.entries_of.setdefault(event["instrument"], []).append(entry)
        for key in self._instrument_keys(event["instrument"]):
            refusal = self._fold(key, entry.place, judged=entry)
            if refusal:
                self.refused[entry.sequence] = refusal
                entry.refused_on.add(key)
                self._fold(key, entry.place)

    def _correct(self, event: Event) -> None:
        """AMEND, CANCEL or FEE of an entry that stands. Judged with it in place; refused, the entry is what it was before."""
        sequence = event["sequence"]
        entry = self.entries.get(event["original"])
        if entry is None or entry.cancelled:
            self.refused[sequence] = ALREADY_CANCELLED if entry is not None else INVALID_TRANSITION
            return
        old_event, old_keys, old_handed, old_place = entry.event, self._keys(entry), self.handed.get(entry.sequence), entry.place
        judged: Entry | None = entry
        strict = not _forced(event)
        if event["kind"] == "CANCEL":
            entry.cancelled = True
            judged = None  # taking something away is never refused
        elif event["kind"] == "AMEND":
            block = ["BLOCK"] if "BLOCK" in old_event["flags"] else []
            entry.event = {**event, "flags": [*event["flags"], *block], "in_sequence": old_event.get("in_sequence")}
        else:
            fee = Fee(sequence, event["fee_currency"], exact(event["fee"]), int(event["trade_time_ns"]))
            entry.added_fees.append(fee)
            strict = False  # a fee is a fact of the venue's, and was no part of what the policy judged
        keys = list(dict.fromkeys([*self._keys(entry), *old_keys]))
        if entry.kind not in OF_INSTRUMENT:
            self._index(entry, keys)
        since = min(old_place, entry.place)
        refusal = self._derive(entry, keys, since, judged, strict, hand_over=event["kind"] != "FEE")
        if not refusal:
            if event["kind"] != "FEE":
                entry.corrections.append(sequence)
            return
        self.refused[sequence] = refusal
        entry.event = old_event
        if event["kind"] == "FEE":
            entry.added_fees.pop()
        if old_handed is not None:
            self.handed[entry.sequence] = old_handed
        self._derive(entry, keys, since, hand_over=False)

    # -- deriving ----------------------------------------------------------------------------------------------------------------------

    def _derive(
        self, entry: Entry, keys: list[Key], since: Place, judged: Entry | None = None, strict: bool = True, hand_over: bool = True
    ) -> str | None:
        """Fold `keys` again; for a transfer the giver first, whose lots, as they now stand, are handed to the receiver."""
        for key in keys:
            refusal = self._fold(key, since, judged, strict)
            if refusal:
                return refusal
            if hand_over and entry.moves_lots and key == entry.keys[0]:
                self.handed[entry.sequence] = self.states[key].given.get(entry.sequence, [])
        return None

    def _fold(self, key: Key, since: Place, judged: Entry | None = None, strict: bool = True) -> str | None:
        """Fold the key again from `since` on, before which nothing changed (START: from its first event).

        Every event is folded with its verdict kept, but for `judged`: if that is refused the fold stops there and says why, and the key
        must be folded again without it. A new event that falls last continues the state that stands.
        """
        anchors = self.anchors.setdefault(key, [])
        while anchors and anchors[-1][0] >= since:
            anchors.pop()
        items = sorted(self._items(key, None), key=lambda item: item.place)
        if key in self.states and judged is not None and judged.sequence == self.sequence and items[-1] is judged:
            done, state = len(items) - 1, self.states[key]
        elif anchors:
            place, anchor = anchors[-1]
            done, state = sum(item.place <= place for item in items), anchor.copy()
        else:
            done, state = 0, self._empty(key)
        self.states[key] = state
        for count, item in enumerate(items[done:], start=done + 1):
            refusal = self._fold_one({key: state}, item, None, strict and item is judged, self.handed)
            if item is judged and not refusal:
                refusal = state.overflow()
            if refusal:
                return refusal
            if count % ANCHOR_EVERY == 0:
                anchors.append((item.place, state.copy()))
        state.check_state()
        return state.too_many_fees() if judged is not None else None

    def _fold_one(
        self, states: dict[Key, KeyState], item: Entry | PolicyRow, time_ns: int | None, strict: bool, handed: dict[int, list[Lot]] | None
    ) -> str | None:
        """One event on those of its keys that are in `states`. handed None: a transfer's lots flow on to the receiver within this fold."""
        if isinstance(item, PolicyRow):
            for key, state in states.items():
                if self._concerns(item, key):
                    state.set_policy(item.definition)
            return None
        event, sequence = item.event, item.sequence
        if item.kind in OF_INSTRUMENT:
            for key, state in states.items():
                if key[1] != event["instrument"] or key in item.refused_on:
                    continue
                if item.kind == "FIXING":
                    state.fixing(event)
                else:
                    refusal = state.split(sequence, event, strict)
                    if refusal:
                        return refusal
            return None
        fees = item.fees(time_ns)
        state_of_giver = states.get(item.keys[0])
        if item.kind in FILLS:
            assert state_of_giver is not None, "a fill is folded on its own key"
            if item.kind == "OPENING":  # never refused for policy, and names no lot to close
                strict, event = False, {**event, "lot": None}
            return state_of_giver.trade(sequence, item.trade_id, event, fees, strict)
        if not item.moves_lots:
            assert state_of_giver is not None, "a give-up is folded on its own key"
            return state_of_giver.give_up(event, fees, strict)
        if state_of_giver is not None:
            refusal = state_of_giver.give(sequence, item.trade_id, event, fees, strict)
            if refusal:
                return refusal
        state_of_receiver = states.get(item.keys[1])
        if state_of_receiver is not None:
            if handed is not None:
                moved = handed[sequence]
            else:
                assert state_of_giver is not None, "the fold over all keys has both"
                moved = state_of_giver.given[sequence]
            state_of_receiver.receive(sequence, item.trade_id, event, moved)
        return None

    def _empty(self, key: Key) -> KeyState:
        """A key before its first event."""
        return KeyState(key[0], self.instruments[key[1]])

    def _items(self, key: Key, time_ns: int | None) -> list[Entry | PolicyRow]:
        """What is folded on a key: its own entries, those of its instrument, and later changes of policy."""
        booked = [entry for entry in self.entries_on.get(key, []) if key in entry.keys]
        of_instrument = [entry for entry in self.entries_of.get(key[1], []) if key not in entry.refused_on]
        items: list[Entry | PolicyRow] = [entry for entry in booked + of_instrument if not entry.cancelled and entry.known_by(time_ns)]
        items += [row for row in self.policy_rows if self._concerns(row, key) and (time_ns is None or row.trade_time_ns <= time_ns)]
        return items

    def _index(self, entry: Entry, keys: list[Key]) -> None:
        for key in keys:
            self.first_sequence.setdefault(key, self.sequence)
            listed = self.entries_on.setdefault(key, [])
            if entry not in listed:
                listed.append(entry)

    def _keys(self, entry: Entry) -> list[Key]:
        if entry.kind in OF_INSTRUMENT:
            return self._instrument_keys(entry.event["instrument"])
        return entry.keys

    def _instrument_keys(self, instrument: str) -> list[Key]:
        return [key for key in self.first_sequence if key[1] == instrument]

    def _concerns(self, row: PolicyRow, key: Key) -> bool:
        book, definition = key[0], row.definition
        if definition["type"] == "book":
            return bool(definition["id"] == book)
        return bool(definition["book"] == book and definition["asset_class"] == self.instruments[key[1]].asset_class)

    def _came_later(self, row: PolicyRow, key: Key) -> bool:
        """Whether the row came when the key had events already, and so counts as an event of the key."""
        return self._concerns(row, key) and row.sequence > self.first_sequence[key]

    def _last_sequence(self, key: Key, time_ns: int | None) -> int | None:
        """The highest sequence of an accepted event that touched the key, None if none of its own did."""
        own: list[int] = []
        others: list[int] = []
        for entry in self.entries_on.get(key, []) + self.entries_of.get(key[1], []):
            if not entry.known_by(time_ns):
                continue
            touched = [
                entry.sequence,
                *entry.corrections,
            ]
            if not entry.moves_lots or key == entry.keys[0]:  # a transfer's fee is the giver's
                touched += [fee.sequence for fee in entry.added_fees if time_ns is None or fee.trade_time_ns <= time_ns]
            if entry.kind not in OF_INSTRUMENT:
                own += touched
            elif key not in entry.refused_on:
                others += touched
        others += [
            row.sequence for row in self.policy_rows if self._came_later(row, key) and (time_ns is None or row.trade_time_ns <= time_ns)
        ]
        others += [sequence for sequence, name in self.rescales if name == key[1] and sequence > self.first_sequence[key]]
        return max(own + others) if own else None


def _forced(event: Event) -> bool:
    """Legs of a group and our own re-entries are never refused for policy."""
    return "GROUP_LEG" in event["flags"] or "REENTRY" in event["flags"]


def _match(row: Taken, instrument: Instrument) -> Match:
    part, scale = row.part, instrument.money_scale
    return Match(
        kind=row.kind,
        lot_id=part.lot_id,
        opening=part.opening,
        lot_leg=part.leg,
        open_date=part.date,
        close_date=row.date,
        quantity=decimal(part.quantity, instrument.qty_scale),
        open_price=part.price,
        close_price=row.price,
        cost=decimal(part.cost * instrument.multiplier, scale),
        realised_gross=decimal(row.realised * instrument.multiplier, scale),
        leg=row.leg,
    )
