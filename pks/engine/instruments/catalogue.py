"""The reference data at one sequence: a fold of definitions, with look-ups by every name that people use.

Owns the maps from code to id and from identifier to instrument, the routing rules, the zones in use, and the rule of what a later
definition may change. Capture, loaders, readers and screens each fold their own from REFDATA events. Gives no ids: the caller does,
once each. It may not look at a file, a record or a clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pks.base.errors import Code
from pks.engine.instruments.class_defaults import CLASSES, UNLISTED_CLASS_BIT, asset_class_id
from pks.engine.instruments.definitions import (
    ANY,
    Account,
    AnyDefinition,
    Book,
    ClassMethod,
    Currency,
    Definition,
    Entity,
    Instrument,
    Route,
    Source,
    check,
    subject_of,
)
from pks.engine.instruments.errors import AmbiguousInstrument, FixedField, IdTaken
from pks.engine.instruments.rows import required_id
from pks.layouts.codes import Subject

_IDENTIFIERS = ("isin", "figi", "ric", "cusip", "symbol", "other_id")
"""Where an instrument's name is looked for after its code, in this order: what is unique in the world first."""

_FIXED: dict[type[Definition], tuple[str, ...]] = {
    Instrument: ("asset_class", "currency", "settle_ccy", "contract", "base_currency", "traded_asset", "money_factor", "cleared"),
    Book: ("entity",),
    Account: ("entity", "currency"),
    Entity: ("functional_currency",),
    Currency: (),
    Source: ("recurs",),
    ClassMethod: ("book", "asset_class"),
    Route: ("venue", "account", "source"),
}
_FINER_ONLY = ("price_scale", "qty_scale", "money_scale")


class Catalogue:
    """Definitions by (subject, id) and by name. Implements rows.Ids."""

    def __init__(self) -> None:
        self._by_id: dict[Subject, dict[int, AnyDefinition]] = {subject: {} for subject in Subject}
        self._ids: dict[Subject, dict[str, int]] = {subject: {} for subject in Subject}
        self._sequences: dict[tuple[Subject, int], int] = {}
        self._named: dict[str, dict[str, list[int]]] = {identifier: {} for identifier in _IDENTIFIERS}
        self._routes: dict[tuple[str, str, str], list[Route]] = {}
        self._unlisted_classes: dict[int, str] = {}
        self._zone_ids: dict[str, int] = {"UTC": 0}
        self.last_sequence = 0

    # --- the fold ---------------------------------------------------------------------------------------------------------

    def check_change(self, subject: Subject, row_id: int, definition: AnyDefinition) -> None:
        """Raises Refused where `apply` would refuse; changes nothing."""
        assert subject_of(definition) is subject, "a definition is of one subject"
        check(definition)
        known_id = self._ids[subject].get(definition.code, 0)
        if row_id <= 0 or row_id >= 2**32:
            raise IdTaken(Code.OUT_OF_RANGE, "row_id", row_id, "a row id is from 1 to 2**32 - 1")
        if known_id and known_id != row_id:
            raise IdTaken(Code.INVALID_TRANSITION, "code", definition.code, f"it has the row id {known_id}, not {row_id}")
        old = self._by_id[subject].get(row_id)
        if old is not None and old.code != definition.code:
            raise IdTaken(Code.INVALID_TRANSITION, "row_id", row_id, f"it belongs to {old.code!r}; ids are never reused")
        self._check_references(definition)
        self._check_class(definition)
        if old is not None:
            _check_allowed(old, definition)

    def apply(self, subject: Subject, row_id: int, definition: AnyDefinition, sequence: int) -> None:
        """Take one definition, first or later; sequence: of its event, never before the last one's.

        Raises Refused, and then changes nothing.
        """
        assert sequence >= self.last_sequence, "events are applied in order"
        self.check_change(subject, row_id, definition)
        old = self._by_id[subject].get(row_id)
        self._by_id[subject][row_id] = definition
        self._ids[subject][definition.code] = row_id
        self._sequences[subject, row_id] = sequence
        self.last_sequence = sequence
        match definition:
            case Instrument():
                self._index(row_id, definition, old if isinstance(old, Instrument) else None)
                self._remember_class(definition.asset_class)
            case ClassMethod():
                self._remember_class(definition.asset_class)
            case Book():
                self._zone_ids.setdefault(definition.zone, len(self._zone_ids))
            case Route():
                self._set_route(definition)

    def _check_references(self, definition: AnyDefinition) -> None:
        match definition:
            case Entity():
                required_id(self, Subject.CURRENCY, definition.functional_currency, "functional_currency")
            case Book():
                required_id(self, Subject.ENTITY, definition.entity, "entity")
                required_id(self, Subject.CURRENCY, definition.report_currency, "report_currency")
            case Account():
                required_id(self, Subject.ENTITY, definition.entity, "entity")
                required_id(self, Subject.CURRENCY, definition.currency, "currency")
            case Instrument():
                for field in ("currency", "settle_ccy", "base_currency"):
                    required_id(self, Subject.CURRENCY, getattr(definition, field), field)
            case ClassMethod():
                required_id(self, Subject.BOOK, definition.book, "book")
            case Route():
                required_id(self, Subject.BOOK, definition.book, "book")
                for subject, field in ((Subject.ACCOUNT, "account"), (Subject.SOURCE, "source")):
                    name = getattr(definition, field)
                    required_id(self, subject, "" if name == ANY else name, field)

    def _check_class(self, definition: AnyDefinition) -> None:
        if isinstance(definition, Instrument | ClassMethod):
            other = self._unlisted_classes.get(asset_class_id(definition.asset_class), definition.asset_class)
            if other != definition.asset_class:
                raise IdTaken(Code.BAD_TEXT, "asset_class", definition.asset_class, f"its number is that of {other!r}: choose another name")

    def _remember_class(self, asset_class: str) -> None:
        if asset_class not in CLASSES:
            class_id = asset_class_id(asset_class)
            assert class_id & UNLISTED_CLASS_BIT, "only listed classes have small numbers"
            self._unlisted_classes[class_id] = asset_class

    def _index(self, row_id: int, instrument: Instrument, old: Instrument | None) -> None:
        for identifier in _IDENTIFIERS:
            named = self._named[identifier]
            before, after = getattr(old, identifier, ""), getattr(instrument, identifier)
            if before == after:
                continue
            if before:
                named[before].remove(row_id)
            if after:
                named.setdefault(after, []).append(row_id)

    # --- look-ups ---------------------------------------------------------------------------------------------------------

    def id_of(self, subject: Subject, code: str) -> int:
        """The row id of a code, 0 when there is none."""
        return self._ids[subject].get(code, 0)

    def ids(self, subject: Subject) -> Mapping[str, int]:
        """All ids of a subject by code, in the order of their first definitions; not to be changed."""
        return self._ids[subject]

    def zone_id(self, zone: str) -> int:
        """The place of a zone in `zones`; 0, UTC, for one that no book has."""
        return self._zone_ids.get(zone, 0)

    @property
    def zones(self) -> tuple[str, ...]:
        """The zones of the books by id, for zones.zone_tables."""
        return tuple(self._zone_ids)

    def get(self, subject: Subject, row_id: int) -> AnyDefinition | None:
        """The latest definition of a row, None when there is none."""
        return self._by_id[subject].get(row_id)

    def sequence_of(self, subject: Subject, row_id: int) -> int:
        """The event that the row reflects, 0 when there is no such row."""
        return self._sequences.get((subject, row_id), 0)

    def rows(self, subject: Subject) -> Iterator[tuple[int, AnyDefinition]]:
        """(row id, definition) of a subject, in the order of their first definitions."""
        return iter(self._by_id[subject].items())

    def next_id(self, subject: Subject) -> int:
        """The id for a row that is not there yet: one more than the highest ever given here."""
        return max(self._by_id[subject], default=0) + 1

    def instrument(self, row_id: int) -> Instrument:
        """The instrument of an id; KeyError when there is none."""
        definition = self._by_id[Subject.INSTRUMENT][row_id]
        assert isinstance(definition, Instrument), "rows of a subject are of its type"
        return definition

    def book(self, row_id: int) -> Book:
        """The book of an id; KeyError when there is none."""
        definition = self._by_id[Subject.BOOK][row_id]
        assert isinstance(definition, Book), "rows of a subject are of its type"
        return definition

    def find_instrument(self, text: str, venue: str = "") -> int:
        """The id of an instrument by code, else ISIN, FIGI, RIC, CUSIP, symbol or other id; 0 when nothing fits.

        venue: a MIC, taken to choose among several that fit. Raises AmbiguousInstrument with the candidates.
        """
        row_id = self._ids[Subject.INSTRUMENT].get(text, 0)
        if row_id or not text:
            return row_id
        for identifier in _IDENTIFIERS:
            found = self._named[identifier].get(text)
            if not found:
                continue
            if len(found) > 1 and venue:
                found = [row for row in found if self.instrument(row).mic == venue] or found
            if len(found) > 1:
                raise AmbiguousInstrument(text, identifier, [self.instrument(row).code for row in found])
            return found[0]
        return 0

    def method_of(self, book_id: int, asset_class: str) -> str:
        """The lot method that holds now for a class in a book: the override, else the book's own."""
        book = self.book(book_id)
        override = self._by_id[Subject.CLASS_METHOD].get(self.id_of(Subject.CLASS_METHOD, f"{book.code}:{asset_class}"))
        return override.method if isinstance(override, ClassMethod) and override.method else book.method

    # --- routing ----------------------------------------------------------------------------------------------------------

    def _set_route(self, route: Route) -> None:
        key = (route.venue, route.account, route.source)
        others = [other for other in self._routes.get(key, []) if other.code != route.code]
        # The highest priority first; of equal ones the first by code, so that the order of loading does not matter.
        self._routes[key] = sorted([*others, route], key=lambda rule: (-rule.priority, rule.code))

    def route(self, venue: str, account: str, source: str) -> int:
        """The book id that the rules give a trade without a book, 0 when none fits.

        The most specific rule wins: one that names more of (venue, account, source); of equally many, account before venue before
        source; of the same three, the highest priority. Empty fields of the trade fit only "*".
        """
        for named_venue, named_account, named_source in _BY_SPECIFICITY:
            if (named_venue and not venue) or (named_account and not account) or (named_source and not source):
                continue
            key = (venue if named_venue else ANY, account if named_account else ANY, source if named_source else ANY)
            for rule in self._routes.get(key, ()):
                if rule.book:
                    return self.id_of(Subject.BOOK, rule.book)
        return 0


_BY_SPECIFICITY = (
    (True, True, True),
    (True, True, False),
    (False, True, True),
    (True, False, True),
    (False, True, False),
    (True, False, False),
    (False, False, True),
    (False, False, False),
)
assert len(set(_BY_SPECIFICITY)) == 8, "every way to name three fields"


def _check_allowed(old: AnyDefinition, new: AnyDefinition) -> None:
    for field in _FIXED[type(new)]:
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            raise FixedField(new.code, field, before, after, "positions were built on it; define a new one")
    if isinstance(old, Instrument) and isinstance(new, Instrument):
        for field in _FINER_ONLY:
            before, after = getattr(old, field), getattr(new, field)
            if after < before:
                raise FixedField(new.code, field, before, after, "a scale can become finer, never coarser")
