"""What an asset class implies where an instrument's row says nothing: scales, price rules, quote factor, default tick.

Owns the classes' numbers in `asset_class_id` and the table that `pks ref classes` prints. The loader of reference data calls it
once, when a definition is made: the definition then carries every figure itself, so a change of this table changes no history.
It may not look at an instrument, a file or a record.

The scales are generous on purpose, since a finer one costs an event and a coarser one is refused: with int64 raw values, 8 decimal
places leave 92 thousand million whole units, 6 leave 9 million million, 4 leave 900 million million.
"""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

MONEY_SCALE_MIN = 18
"""The default money scale, unless price_scale + qty_scale is more (design section 3)."""

UNLISTED_CLASS_BIT = 1 << 31
"""Set in the id of a class that the table does not have, whose other bits are a hash of its name."""


class ClassDefaults(NamedTuple):
    """Figures of one asset class."""

    class_id: int  # never reused
    price_scale: int
    qty_scale: int
    tick_size: str
    negative_price: bool  # a price below zero is accepted
    zero_price: bool  # a price of exactly zero is accepted
    cleared: bool  # keeps a second cost, since the last clearing
    quote_factor: str  # price x quote factor x multiplier x quantity is money
    traded_asset: bool  # its base currency is what changes hands, so a fee in it changes the quantity
    why: str

    @property
    def money_scale(self) -> int:
        """max(price_scale + qty_scale, 18)."""
        return max(self.price_scale + self.qty_scale, MONEY_SCALE_MIN)


def _row(
    class_id: int,
    price_scale: int,
    qty_scale: int,
    tick_size: str,
    why: str,
    *,
    negative_price: bool = False,
    zero_price: bool = False,
    cleared: bool = False,
    quote_factor: str = "1",
    traded_asset: bool = False,
) -> ClassDefaults:
    return ClassDefaults(class_id, price_scale, qty_scale, tick_size, negative_price, zero_price, cleared, quote_factor, traded_asset, why)


GENERIC = _row(1, 8, 6, "0.01", "any class not listed here", negative_price=True, zero_price=True)
"""For a class that nobody foresaw: accepts every price, since nothing is known that would forbid one."""

CLASSES: dict[str, ClassDefaults] = {
    "GENERIC": GENERIC,
    "EQUITY": _row(2, 6, 6, "0.01", "fractional shares to six places; prices to 0.0001 and averages of blocks"),
    "ETF": _row(3, 6, 6, "0.01", "as EQUITY"),
    "FUND": _row(4, 6, 6, "0.0001", "net asset values to six places; a worthless class is written off at 0", zero_price=True),
    "WARRANT": _row(5, 6, 6, "0.01", "as EQUITY, and expires at 0", zero_price=True),
    "FUTURE": _row(
        10,
        8,
        4,
        "0.01",
        "Treasury futures need 1/512; spreads, power below zero",
        negative_price=True,
        zero_price=True,
        cleared=True,
    ),
    "CRYPTO_FUTURE": _row(11, 8, 8, "0.01", "quantity in coins; settled by margin, not by a daily clearing"),
    "EQUITY_OPTION": _row(20, 6, 6, "0.01", "expires at 0; quantities stay exact after adjustments", zero_price=True),
    "INDEX_OPTION": _row(21, 6, 6, "0.01", "as EQUITY_OPTION", zero_price=True),
    "FUTURE_OPTION": _row(22, 8, 4, "0.01", "prices as FUTURE, but never below 0", zero_price=True),
    "FX_OPTION": _row(23, 8, 4, "0.00001", "premium per unit of the base currency", zero_price=True),
    "CRYPTO_OPTION": _row(24, 8, 8, "0.0001", "premium in coins to eight places", zero_price=True),
    "BOND": _row(30, 8, 4, "0.001", "price in % of face, 1/256 has eight places; defaulted at 0", zero_price=True, quote_factor="1/100"),
    "BILL": _row(31, 8, 4, "0.001", "as BOND", quote_factor="1/100"),
    "FX_SPOT": _row(40, 8, 4, "0.00001", "amounts of 900 million million in the base currency", traded_asset=True),
    "FX_FORWARD": _row(41, 8, 4, "0.0001", "as FX_SPOT; a non-deliverable one has no traded asset", traded_asset=True),
    "FX_SWAP": _row(42, 8, 4, "0.0001", "points may be negative or zero", negative_price=True, zero_price=True, traded_asset=True),
    "IRS": _row(
        50, 8, 4, "0.01", "up-front price in % of notional, either sign", negative_price=True, zero_price=True, quote_factor="1/100"
    ),
    "CDS": _row(51, 8, 4, "0.01", "points up front in % of notional", negative_price=True, zero_price=True, quote_factor="1/100"),
    "COMMODITY_SPOT": _row(60, 8, 6, "0.01", "power and gas trade below zero", negative_price=True, zero_price=True),
    "CRYPTO_SPOT": _row(70, 8, 8, "0.00000001", "a venue's usual eight places; a finer token says so in its row", traded_asset=True),
    "CRYPTO_PERP": _row(71, 8, 8, "0.01", "a venue's usual eight places in price and size"),
    "PREDICTION_TOKEN": _row(80, 8, 6, "0.001", "tokens have six places; pays 0 or 1", zero_price=True),
}

_IDS = [defaults.class_id for defaults in CLASSES.values()]
assert len(set(_IDS)) == len(_IDS), "class ids are never shared"
assert 0 not in _IDS, "0 stands for the book's own method in METHOD_CHANGE"
assert all(class_id < UNLISTED_CLASS_BIT for class_id in _IDS), "the high bit marks a hashed name"


def defaults_of(asset_class: str) -> ClassDefaults:
    """The class's own row, or GENERIC's for a class that the table does not have."""
    return CLASSES.get(asset_class, GENERIC)


def asset_class_id(asset_class: str) -> int:
    """The number of a class in records: 1 .. 2**32 - 1.

    A class outside the table gets a hash of its name under UNLISTED_CLASS_BIT; the catalogue refuses two names that share one.
    """
    known = CLASSES.get(asset_class)
    return known.class_id if known is not None else UNLISTED_CLASS_BIT | crc32(asset_class.encode())
