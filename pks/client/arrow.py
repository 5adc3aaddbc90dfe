"""Positions as a pyarrow table. The only module of the client that needs more than numpy and numba; imported when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from pks.engine.positions.view import PositionView, plain

DECIMAL128_DIGITS = 38


def positions_table(positions: Sequence[PositionView]) -> Any:
    """pa.Table: texts, decimals (decimal128 where a column fits, else string), fees as map<string, string>, times in ns UTC."""
    return pa.table(
        {
            "book": pa.array([position.book for position in positions], pa.string()),
            "instrument": pa.array([position.instrument for position in positions], pa.string()),
            "quantity": decimals([position.quantity for position in positions]),
            "average_price": decimals([position.average_price for position in positions]),
            "cost": decimals([position.cost for position in positions]),
            "realised_gross": decimals([position.realised_gross for position in positions]),
            "realised_net": decimals([position.realised_net for position in positions]),
            "fees": pa.array(
                [[(code, plain(fee)) for code, fee in position.fees.items()] for position in positions], pa.map_(pa.string(), pa.string())
            ),
            "open_lots": pa.array([position.open_lots for position in positions], pa.uint32()),
            "currency": pa.array([position.currency for position in positions], pa.string()),
            "last_trade_time": pa.array([position.last_trade_time_ns or None for position in positions], pa.timestamp("ns", "UTC")),
            "last_sequence": pa.array([position.last_sequence for position in positions], pa.int64()),
        }
    )


def decimals(values: Sequence[Decimal | None]) -> Any:
    """A column that holds every value exactly: decimal128 of the places that the finest needs, or texts where 38 digits are too few."""
    scale = whole = 0
    for value in values:
        if value is not None:
            _, digits, exponent = value.as_tuple()
            assert isinstance(exponent, int), "a figure is a number"
            scale, whole = max(scale, -exponent), max(whole, len(digits) + exponent)
    if max(whole, 1) + scale > DECIMAL128_DIGITS:
        return pa.array([None if value is None else plain(value) for value in values], pa.string())
    return pa.array(values, pa.decimal128(max(whole, 1) + scale, scale))
