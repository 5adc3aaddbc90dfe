"""Which trades are asked for.

Owns the kinds that count as trades and the mask over records. Light: a command's options are made of it before anything is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pks.layouts.codes import Kind

TRADE_KINDS = (Kind.TRADE, Kind.OPENING, Kind.ALLOCATION, Kind.TRANSFER)
INSTRUMENT_KINDS = (Kind.ACTION, Kind.FIXING)
KINDS = (*TRADE_KINDS, *INSTRUMENT_KINDS)
CORRECTIONS = (Kind.AMEND, Kind.CANCEL, Kind.FEE)


@dataclass(frozen=True)
class Wanted:
    """What was asked for; empty is any. Ids, but kinds and texts."""

    books: Any = None
    instruments: Any = None
    accounts: Any = None
    sources: Any = None
    kinds: tuple[int, ...] = ()
    first_ns: int | None = None
    last_ns: int | None = None
    trade_ids: tuple[bytes, ...] = ()
    unallocated: bool = False

    def mask(self, e: Any) -> Any:
        """bool[n]: which of the records (EVENT[n], the latest versions) fit."""
        fits = np.ones(len(e), np.bool_)
        if self.books is not None:
            fits &= np.isin(e["book_id"], self.books) | np.isin(e["to_book_id"], self.books)
        if self.accounts is not None:
            fits &= np.isin(e["account_id"], self.accounts) | np.isin(e["to_account_id"], self.accounts)
        for name, ids in (("instrument_id", self.instruments), ("source_id", self.sources)):
            if ids is not None:
                fits &= np.isin(e[name], ids)
        if self.first_ns is not None:
            fits &= e["trade_time_ns"] >= self.first_ns
        if self.last_ns is not None:
            fits &= e["trade_time_ns"] <= self.last_ns
        if self.trade_ids:
            ids = e["trade_id"]
            fits &= np.logical_or.reduce([ids == trade_id for trade_id in self.trade_ids])  # np.isin sorts texts: thirty times as long
        return fits
