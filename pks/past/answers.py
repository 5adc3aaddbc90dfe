"""Answers to questions about the past, from what a keeper holds.

Owns how each question is answered and how the errors of the domain become answers. It keeps nothing itself, reads no socket and never
changes a fold: what-if questions are `whatif`'s, which wants a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from pks.base.errors import Code, PksError, Refused, Retryable
from pks.client.errors import AmbiguousName, UnknownName
from pks.engine.booking.keys import inline_id
from pks.engine.lots.keys import key_find
from pks.engine.lots.state import KEYS_COUNT
from pks.engine.positions.view import PositionView
from pks.layouts.codes import Kind, Subject
from pks.past.held import held_rows
from pks.past.journal import BeyondJournal, NoJournal, Past
from pks.past.keeper import Keeper
from pks.past.lots import lot_row
from pks.past.moment import lots_as_of, lots_now
from pks.past.names import CatalogueNames
from pks.past.questions import (
    BEYOND_JOURNAL,
    NO_JOURNAL,
    ROWS_MAX,
    AnyAnswer,
    Failed,
    Held,
    History,
    LotsOf,
    Page,
    PositionsAt,
    Question,
    Row,
    TradeOf,
    Trades,
)
from pks.past.trades import SHOWN_MATCHES, match_row, page, trade_rows
from pks.past.wanted import KINDS, TRADE_KINDS, Wanted
from pks.workers.history import fold_together, givers_of, key_alone
from pks.workers.positions import Positions

Sets = dict[int, Any]


def answer(keeper: Keeper, question: Question) -> AnyAnswer:
    """The answer; an error of the domain is one too."""
    try:
        past = keeper.now()
        upto = past.upto(question.known_at)
        match question:
            case PositionsAt():
                return _positions(keeper, past, upto, question)
            case LotsOf():
                return _lots(keeper, past, upto, question)
            case Trades():
                return _trades(keeper, past, upto, question)
            case TradeOf():
                return _trade(keeper, past, upto, question)
            case History():
                return _of_position(keeper, past, upto, question)
            case Held():
                return _held(keeper, past, upto, question)
            case _:
                raise AssertionError(f"{type(question).__name__} is no question that is answered here")
    except (PksError, OSError) as error:
        return failed(error)


def failed(error: Exception) -> Failed:
    """An error of the domain as an answer. No text names what the asker did not name: he may not be allowed to see it."""
    match error:
        case AmbiguousName():
            return Failed(code="AMBIGUOUS_INSTRUMENT", field=error.what, value=str(error.name), reason=str(error))
        case UnknownName():
            code = f"UNKNOWN_{error.what.upper()}" if error.what in ("book", "instrument", "account", "source") else "UNKNOWN_NAME"
            return Failed(code=code, field=error.what, value=str(error.name), reason=f"no {error.what} {error.name!r}")
        case BeyondJournal():
            return Failed(code=BEYOND_JOURNAL, field="known_at", value=str(error.wanted), reason=str(error), retry=True)
        case NoJournal():
            return Failed(code=NO_JOURNAL, reason="there is no event yet", retry=True)
        case Refused():
            return Failed(code=error.code.name, field=error.field, value=str(error.value), reason=error.reason)
        case _:
            return Failed(code=type(error).__name__, reason=str(error), retry=isinstance(error, Retryable | OSError))


def _limited(limit: int) -> int:
    return max(1, min(limit, ROWS_MAX))


def _ids(names: CatalogueNames, subject: Subject, codes: Iterable[str] | None) -> set[int] | None:
    """Ids of codes, None for all. A book that is not known then has no rows. Raises UnknownName."""
    if codes is None:
        return None
    if subject is Subject.BOOK:
        return set(_known_books(names, codes))
    read = {Subject.INSTRUMENT: names.instrument_id, Subject.ACCOUNT: names.account_id}[subject]
    return {read(code) for code in codes}


def _known_books(names: CatalogueNames, codes: Iterable[str]) -> list[int]:
    """Ids of those books that there are: a grant may name one that is yet to come."""
    return [row_id for code in codes if (row_id := names.catalogue.id_of(Subject.BOOK, code))]


def _mask(column: Any, ids: set[int] | None) -> Any:
    return np.ones(len(column), np.bool_) if ids is None else np.isin(column, np.array(sorted(ids), np.int64))


# Positions.


def _positions(keeper: Keeper, past: Past, upto: int, asked: PositionsAt) -> Page:
    folded = keeper.positions(past, upto)
    names = keeper.names(past, upto)
    if asked.as_of is None:
        keys = folded.shard.state.keys[: folded.shard.state.meta[KEYS_COUNT]]
        keys = keys[keys["last_sequence"] > 0]
    else:
        keys = keeper.moment(past, asked.as_of, upto).keys
    fits = _mask(keys["book_id"], _ids(names, Subject.BOOK, asked.books))
    fits &= _mask(keys["instrument_id"], _ids(names, Subject.INSTRUMENT, asked.instruments or None))
    if not asked.flat:
        fits &= keys["qty_raw"] != 0
    found = keys[fits]
    pairs = zip(found["book_id"].tolist(), found["instrument_id"].tolist(), strict=True)
    books, instruments = _codes(names, Subject.BOOK, found["book_id"]), _codes(names, Subject.INSTRUMENT, found["instrument_id"])
    order = sorted((books[book], instruments[instrument], row) for row, (book, instrument) in enumerate(pairs))
    if asked.after is not None:
        order = [one for one in order if one[:2] > asked.after]
    limit = _limited(asked.limit)
    rows = []
    for _, _, row in order[:limit]:
        key = found[row]
        rows.append(PositionView.from_record(key, names.terms(int(key["book_id"]), int(key["instrument_id"]))).as_dict())
    return Page(rows=rows, sequence=upto, next=order[limit - 1][:2] if len(order) > limit else None)


def _codes(names: CatalogueNames, subject: Subject, column: Any) -> dict[int, str]:
    return {row_id: names.code_of(subject, row_id) for row_id in np.unique(column).tolist()}


def _held(keeper: Keeper, past: Past, upto: int, asked: Held) -> Page:
    names = keeper.names(past, upto)
    held = keeper.moment(past, asked.as_of, upto).held
    held = held[_mask(held["book_id"], _ids(names, Subject.BOOK, asked.books))]
    held = held[_mask(held["instrument_id"], _ids(names, Subject.INSTRUMENT, asked.instruments or None))]
    rows = list(held_rows(held, names, _ids(names, Subject.ACCOUNT, asked.accounts or None), asked.flat))
    return _cut(rows, asked.after, asked.limit, upto)


def _lots(keeper: Keeper, past: Past, upto: int, asked: LotsOf) -> Page:
    folded, names = keeper.positions(past, upto), keeper.names(past, upto)
    book_id, instrument_id = names.book_id(asked.book), names.instrument_id(asked.instrument)
    if asked.as_of is None:
        lots = lots_now(folded, book_id, instrument_id)
    else:
        lots = lots_as_of(folded, book_id, instrument_id, asked.as_of)
    limit = _limited(asked.limit)
    terms = names.catalogue.instrument(instrument_id)
    rows = [lot_row(past, terms, lot) for lot in lots[asked.after : asked.after + limit]]
    return Page(rows=rows, sequence=upto, next=asked.after + limit if len(lots) > asked.after + limit else None)


def _cut(rows: list[Row], after: int, limit: int, upto: int) -> Page:
    limit = _limited(limit)
    return Page(rows=rows[after : after + limit], sequence=upto, next=after + limit if len(rows) > after + limit else None)


# Trades.


def _trades(keeper: Keeper, past: Past, upto: int, asked: Trades) -> Page:
    names, history = keeper.names(past, upto), keeper.history(past, upto)
    past = replace(past, last=upto)

    def ids(read: Any, codes: Iterable[str] | None) -> Any:
        return None if codes is None else np.array([read(code) for code in codes], np.int64)

    wanted = Wanted(
        books=None if asked.books is None else np.array(_known_books(names, asked.books), np.int64),
        instruments=ids(names.instrument_id, asked.instruments or None),
        accounts=ids(names.account_id, asked.accounts or None),
        sources=ids(names.source_id, asked.sources or None),
        kinds=tuple(_kind(kind) for kind in asked.kinds) or TRADE_KINDS,
        first_ns=asked.first_ns,
        last_ns=min((end for end in (asked.last_ns, asked.as_of) if end is not None), default=None),
        trade_ids=tuple(inline_id(trade_id) for trade_id in asked.trade_ids),
        unallocated=asked.unallocated,
    )
    limit = _limited(asked.limit)
    chosen = page(past, wanted, history, after=asked.after, limit=limit + 1, newest_first=asked.newest_first)
    rows = list(trade_rows(past, names, history, chosen[:limit]))
    return Page(rows=rows, sequence=upto, next=chosen[limit - 1] if len(chosen) > limit else None)


def _kind(name: str) -> Kind:
    found = next((kind for kind in KINDS if kind.name == name.upper()), None)
    if found is None:
        raise Refused(Code.UNKNOWN_KIND, "kind", name)
    return found


def _trade(keeper: Keeper, past: Past, upto: int, asked: TradeOf) -> Page:
    names, history = keeper.names(past, upto), keeper.history(past, upto)
    past = replace(past, last=upto)
    if asked.sequence is not None:
        chosen = [asked.sequence] if 1 <= asked.sequence <= upto and int(past.records[asked.sequence]["kind"]) in KINDS else []
    else:
        chosen = page(past, Wanted(kinds=KINDS, trade_ids=(inline_id(asked.trade_id),)), history, after=None, limit=ROWS_MAX)
    rows = list(trade_rows(past, names, history, chosen))
    if asked.books is not None:
        rows = [row for row in rows if {row["book"], row["to_book"]} & set(asked.books)]
    if asked.sequence is None:
        rows = [row for row in rows if row["trade_id"] == asked.trade_id]  # a long id has only its beginning in the record
    if not rows:
        value = asked.trade_id if asked.sequence is None else str(asked.sequence)
        raise Refused(Code.UNKNOWN_TRADE, "trade_id" if asked.sequence is None else "sequence", value, "no such trade")
    folded = keeper.positions(past if upto == keeper.sequence else replace(past, last=keeper.sequence), upto)
    sets: dict[tuple[int, int], Sets] = {}
    for row in rows:
        e = past.records[history.latest(row["sequence"])]
        key = int(e["book_id"]), int(e["instrument_id"])
        if key not in sets:
            sets[key] = matches_of(folded, *key, asked.as_of)
        row["matches"] = _match_rows(past, names, sets[key].get(row["sequence"], ()))
    return Page(rows=rows, sequence=upto)


def _of_position(keeper: Keeper, past: Past, upto: int, asked: History) -> Page:
    folded, names, history = keeper.positions(past, upto), keeper.names(past, upto), keeper.history(past, upto)
    book_id, instrument_id = names.book_id(asked.book), names.instrument_id(asked.instrument)
    past = replace(past, last=upto)
    limit = _limited(asked.limit)
    k = int(key_find(folded.shard.state, book_id, instrument_id))
    if k < 0:
        return Page(rows=[], sequence=upto)
    sequences = folded.shard.sequences_of(k)
    sequences = sequences[(sequences > 0) & (sequences <= upto)]
    sequences = sequences[np.isin(past.records[sequences]["kind"], KINDS)]
    if asked.as_of is not None:
        latest = np.array([history.latest(sequence) for sequence in sequences.tolist()], np.int64)
        timed = past.records[latest]["trade_time_ns"] <= asked.as_of
        sequences = sequences[timed]
    chosen = sequences[sequences > asked.after][: limit + 1].tolist()
    sets = matches_of(folded, book_id, instrument_id, asked.as_of)
    rows = list(trade_rows(past, names, history, chosen[:limit]))
    for row in rows:
        row["matches"] = _match_rows(past, names, sets.get(row["sequence"], ()))
    return Page(rows=rows, sequence=upto, next=chosen[limit - 1] if len(chosen) > limit else None)


def matches_of(folded: Positions, book_id: int, instrument_id: int, as_of: int | None) -> Sets:
    """By trade: MATCH[n], the lots of this position that it closed or moved, as the position stands (as of a trade time)."""
    shard = folded.shard
    k = int(key_find(shard.state, book_id, instrument_id))
    if k < 0:
        return {}
    if as_of is None:
        told = [key_alone(shard, k)]
    else:
        told = [
            one
            for one in fold_together(shard, as_of, shard.beat, givers_of(shard, k))
            if (int(one.key["book_id"]), int(one.key["instrument_id"])) == (book_id, instrument_id)
        ]
    sets: Sets = {}
    for one in told:
        sequences = one.matches["sequence"]
        edges = np.flatnonzero(np.diff(sequences)) + 1
        for part in np.split(one.matches, edges):
            if len(part):
                sets[int(part[0]["sequence"])] = part
    return sets


def _match_rows(past: Past, names: CatalogueNames, records: Any) -> list[Row]:
    """The matches of one trade. A fold on the side knows no revisions: those are of `pks trades --matches`."""
    rows = [match_row(past, names, record) for record in records if int(record["kind"]) in SHOWN_MATCHES]
    return [{name: value for name, value in row.items() if name not in ("revision", "cause")} for row in rows]
