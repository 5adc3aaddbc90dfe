"""Texts of figures on the screen: thousands apart, cut to a column's width in the open, ages and times short.

Owns how a number looks, and nothing of what it is. Pure.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction

from pks.base.clock import NS_PER_SECOND, format_time
from pks.engine.positions.view import plain

ROUNDED = "~"
"""Stands before a figure that the column was too narrow to show whole."""

MONEY_PLACES, COIN_PLACES = 2, 8

NOTHING = "·"
"""Stands where there is no figure."""

_CONTEXT = Context(prec=200, rounding=ROUND_HALF_EVEN)
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def figure(value: Decimal | None, width: int, places_min: int = 0) -> str:
    """`value` in at most `width` characters: whole, else rounded half-even with ROUNDED in front, else in powers of ten.

    places_min: decimal places shown at least; more are shown where the value has them.
    """
    if value is None:
        return NOTHING
    whole = _apart(_trimmed(value, places_min))
    if len(whole) <= width:
        return whole
    _, _, fraction = plain(value).partition(".")
    for places in range(len(fraction) - 1, -1, -1):
        cut = ROUNDED + _apart(plain(value.quantize(Decimal(1).scaleb(-places), context=_CONTEXT)))
        if len(cut) <= width:
            return cut
    for digits in range(width, 0, -1):
        power = f"{ROUNDED}{value:.{digits}e}".replace("e+", "e")
        if len(power) <= width:
            return power
    return ROUNDED + "#" * (width - 1)


def cut(value: Decimal, places: int) -> Decimal:
    """`value` with at most `places` decimal places, half-even."""
    return value if -_exponent(value) <= places else value.quantize(Decimal(1).scaleb(-places), context=_CONTEXT)


def money(value: Decimal, width: int) -> str:
    """Money in at most `width` characters: to MONEY_PLACES from 100 on, to COIN_PLACES below, with ROUNDED in front where there is more."""
    shown = cut(value, MONEY_PLACES if abs(value) >= 100 else COIN_PLACES)
    text = figure(shown, width - 1, MONEY_PLACES)
    return text if shown == value or text.startswith(ROUNDED) else ROUNDED + text


def rounded(amount: Fraction, places: int = MONEY_PLACES, width: int = 40) -> str:
    """A roll-up at `places` decimal places, half-even, in at most `width` characters: its size, not its last digit."""
    raw = round(amount * 10**places)
    return figure(Decimal(raw).scaleb(-places, context=_CONTEXT), width, places)


def age(duration_ns: int) -> str:
    """A duration in at most four characters: 0.4s, 37s, 12m, 5h, 80d; one below zero (clocks differ) is 0."""
    seconds = max(0, duration_ns) // NS_PER_SECOND
    if seconds < 10:
        return f"{seconds}.{max(0, duration_ns) % NS_PER_SECOND // (NS_PER_SECOND // 10)}s"
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "m")):
        if seconds >= unit:
            return f"{seconds // unit}{name}"
    return f"{seconds}s"


def moment(time_ns: int, now_ns: int) -> str:
    """A time in UTC in at most 14 characters: of today with milliseconds, of this year with its day, else the date and the hour."""
    if not time_ns:
        return NOTHING
    text, now = format_time(time_ns, 3)[:-1], format_time(now_ns)
    if text[:10] == now[:10]:
        return text[11:]
    return f"{text[5:10]} {text[11:19]}" if text[:4] == now[:4] else f"{text[2:10]} {text[11:16]}"


def nanoseconds(value_ns: int) -> str:
    """A latency: 850ns, 12.3µs, 4.56ms, 1.20s."""
    for unit, name in ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs")):
        if value_ns >= unit:
            return f"{value_ns / unit:.3g}{name}"
    return f"{value_ns}ns"


def sign(value: object) -> int:
    """-1, 0 or 1 of a number, 0 of anything else."""
    return (value > 0) - (value < 0) if isinstance(value, (int, Decimal, Fraction)) else 0


def _exponent(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int), "a figure is a number"
    return exponent


def _trimmed(value: Decimal, places_min: int) -> str:
    """Plain notation without trailing zeros, but with `places_min` places."""
    whole, _, fraction = plain(value).partition(".")
    fraction = fraction.rstrip("0").ljust(places_min, "0")
    return f"{whole}.{fraction}" if fraction else whole


def _apart(text: str) -> str:
    """Thousands apart."""
    whole, point, fraction = text.partition(".")
    digits = whole.lstrip("-")
    return ("-" if whole.startswith("-") else "") + f"{int(digits):,}" + point + fraction
