"""A lot as a row in the words of `pks lots --json`.

Owns the lot's name, its price where lots are pooled, and money with the multiplier. Takes lots of a `moment`.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from pks.base.clock import format_date
from pks.base.units import format_scaled, round_half_even, to_int
from pks.engine.instruments.definitions import Instrument
from pks.engine.positions.view import AVERAGE_EXTRA_DIGITS, MULTIPLIER_DIGITS, places_of
from pks.layouts.codes import Contract, LotFlag
from pks.past.journal import Past


def lot_row(past: Past, instrument: Instrument, lot: Any) -> dict[str, Any]:
    """A lot in the words of `pks calc lots`."""
    quantity = Fraction(int(lot["qty_raw"]), 10**instrument.qty_scale)
    cost = Fraction(to_int(int(lot["cost_hi"]), int(lot["cost_lo"])), 10**instrument.money_scale)
    averaged = int(lot["flags"]) & LotFlag.POOL and not int(lot["flags"]) & LotFlag.EXACT
    return {
        "lot_id": past.lot_id(int(lot["open_sequence"]), int(lot["open_leg"])),
        "date": format_date(int(lot["open_date"])),
        "quantity": format_scaled(int(lot["qty_raw"]), instrument.qty_scale),
        "price": _average(instrument, quantity, cost) if averaged else format_scaled(int(lot["price_raw"]), instrument.price_scale),
        "cost": plain_money(cost, instrument),
    }


def plain_money(amount: Fraction, instrument: Instrument) -> str:
    """Money of the position with multiplier and quote factor, rounded where PositionView rounds it."""
    factor = instrument.money_factor
    return _plain(amount * factor, instrument.money_scale + max(MULTIPLIER_DIGITS, places_of(factor.denominator)))


def _average(instrument: Instrument, quantity: Fraction, cost: Fraction) -> str:
    """Average price of a pool: cost has no multiplier here."""
    if not cost:
        return "0"
    average = quantity / cost if instrument.contract is Contract.INVERSE else cost / quantity
    return _plain(average, instrument.price_scale + AVERAGE_EXTRA_DIGITS)


def _plain(value: Fraction, digits: int) -> str:
    """Exact where `digits` places allow, else half-even to them."""
    return format_scaled(round_half_even(value.numerator * 10**digits, value.denominator), digits)
