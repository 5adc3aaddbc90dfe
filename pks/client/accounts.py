"""What each account holds: the quantity of each (account, instrument), summed over books and by book.

Owns the sums. Lots and money belong to (book, instrument) and are in `positions`; over all accounts the quantities add up to the
position's. Reads slots through `segments`, and may not write.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pks.base.units import format_scaled
from pks.client.errors import UnknownName
from pks.client.names import Names
from pks.client.rows import KeyedRows
from pks.engine.positions.view import plain, total
from pks.layouts.codes import Subject
from pks.segments.slots import SlotTable

Records = NDArray[Any]


@dataclass(frozen=True, slots=True)
class AccountQuantity:
    """What an account holds of an instrument. by_book: part of each book, zero ones too. last_sequence: the latest event of any part."""

    account: str
    instrument: str
    quantity: Decimal
    by_book: dict[str, Decimal]
    last_sequence: int

    def as_dict(self) -> dict[str, Any]:
        """Texts instead of decimals, as in JSON."""
        return {
            "account": self.account,
            "instrument": self.instrument,
            "quantity": plain(self.quantity),
            "by_book": {book: plain(quantity) for book, quantity in self.by_book.items()},
            "last_sequence": self.last_sequence,
        }


class Accounts:
    """All account quantities of the host. `accounts["NSD-RU-01", "SBER"]`, `for held in accounts`."""

    def __init__(self, table: SlotTable, names: Names) -> None:
        self._table, self._names = table, names
        self._keyed = KeyedRows(table, ("book_id", "instrument_id", "account_id"))

    def __getitem__(self, key: tuple[str, str]) -> AccountQuantity:
        """What (account, instrument) holds. Raises UnknownName (a KeyError), also where nothing was ever booked; StaleHost."""
        account, instrument = key
        ids = {"account_id": self._names.account_id(account), "instrument_id": self._names.instrument_id(instrument)}
        found = self._quantities(self._table.snapshot(self._keyed.choose(**ids)))
        if not found:
            raise UnknownName("quantity of (account, instrument)", key)
        return found[0]

    def find(self, account: str | None = None, instrument: str | None = None, book: str | None = None) -> list[AccountQuantity]:
        """Quantities of one account, instrument or book (None: of all), one an (account, instrument). Raises UnknownName, StaleHost."""
        names = self._names
        rows = self._keyed.choose(
            account_id=None if account is None else names.account_id(account),
            instrument_id=None if instrument is None else names.instrument_id(instrument),
            book_id=None if book is None else names.book_id(book),
        )
        return self._quantities(self._table.snapshot(rows))

    def __iter__(self) -> Iterator[AccountQuantity]:
        return iter(self.find())

    def __len__(self) -> int:
        """Pairs of (account, instrument)."""
        return len(self.find())

    def to_numpy(self) -> Records:
        """Raw slots: ACCOUNT_SLOT[n], one an (account, book, instrument)."""
        return self._table.snapshot(self._keyed.choose())

    def to_dicts(self) -> list[dict[str, Any]]:
        """Every quantity in texts."""
        return [held.as_dict() for held in self]

    def _quantities(self, records: Records) -> list[AccountQuantity]:
        names, found = self._names, []
        order = np.lexsort((records["book_id"], records["instrument_id"], records["account_id"]))
        groups: dict[tuple[int, int], list[Any]] = {}
        for record in records[order]:
            groups.setdefault((int(record["account_id"]), int(record["instrument_id"])), []).append(record)
        for (account_id, instrument_id), parts in groups.items():
            by_book = {
                names.code_of(Subject.BOOK, int(part["book_id"])): Decimal(format_scaled(int(part["qty_raw"]), int(part["qty_scale"])))
                for part in parts
            }
            found.append(
                AccountQuantity(
                    account=names.code_of(Subject.ACCOUNT, account_id) if account_id else "",
                    instrument=names.code_of(Subject.INSTRUMENT, instrument_id),
                    quantity=total(by_book.values()),
                    by_book=by_book,
                    last_sequence=max(int(part["last_sequence"]) for part in parts),
                )
            )
        return found
