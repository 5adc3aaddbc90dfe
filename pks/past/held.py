"""What each account holds of each position, and whether the accounts of a position add up to it.

Owns the words of `pks positions --by account --json`. Takes positions and account quantities of one moment, from slots or from a fold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from pks.base.units import format_scaled
from pks.engine.positions.view import PositionView, plain, total
from pks.layouts.codes import Subject


@dataclass(frozen=True)
class Picture:
    """Positions and account quantities of one moment. positions: flat ones too. held: ACCOUNT_SLOT[n] of their (book, instrument)s."""

    positions: list[PositionView]
    held: Any
    names: Any


def held_of(held: Any, slots: Iterable[PositionView]) -> Any:
    """The account quantities of these positions."""
    keys = np.array([int(slot.record["book_id"]) << 32 | int(slot.record["instrument_id"]) for slot in slots], np.int64)
    return held[np.isin(held["book_id"].astype(np.int64) << 32 | held["instrument_id"].astype(np.int64), keys)]


@dataclass(frozen=True)
class Difference:
    """A (book, instrument) whose accounts do not add up to its position."""

    book: str
    instrument: str
    accounts: Decimal
    position: Decimal


def account_differences(picture: Picture) -> list[Difference]:
    """Where the accounts' quantities of a (book, instrument) do not add up to the position."""
    found: dict[tuple[int, int], list[Decimal]] = {}
    for part in picture.held:
        found.setdefault((int(part["book_id"]), int(part["instrument_id"])), []).append(_quantity(part))
    differences = []
    for slot in picture.positions:
        accounts = total(found.get((int(slot.record["book_id"]), int(slot.record["instrument_id"])), []))
        if accounts != slot.quantity:
            differences.append(Difference(slot.book, slot.instrument, accounts, slot.quantity))
    return differences


def held_rows(held: Any, names: Any, accounts: set[int] | None, with_flat: bool) -> Iterator[dict[str, Any]]:
    """A row for each (account, instrument), with its parts by book. held: ACCOUNT_SLOT[n]; accounts: only these ids, None for all."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for part in held:
        account_id = int(part["account_id"])
        if accounts is None or account_id in accounts:
            account = names.code_of(Subject.ACCOUNT, account_id) if account_id else ""
            groups.setdefault((account, names.code_of(Subject.INSTRUMENT, int(part["instrument_id"]))), []).append(part)
    for (account, instrument), parts in sorted(groups.items()):
        books = {names.code_of(Subject.BOOK, int(part["book_id"])): _quantity(part) for part in parts}
        books = {book: books[book] for book in sorted(books) if books[book] or with_flat}
        if books:
            yield {
                "account": account,
                "instrument": instrument,
                "quantity": plain(total(books.values())),
                "books": {book: plain(quantity) for book, quantity in books.items()},
                "last_sequence": max(int(part["last_sequence"]) for part in parts),
            }


def _quantity(part: Any) -> Decimal:
    return Decimal(format_scaled(int(part["qty_raw"]), int(part["qty_scale"])))
