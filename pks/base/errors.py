"""Errors and reply codes: the one vocabulary in which PKS says no.

Owns the root of all our exceptions, the three groups under it (what the caller should do: refuse the input, retry, stop the
worker) and the reply codes that travel in records, files and on the wire. Any room may import it; each room declares its own
classes, one per thing that can go wrong, under one of the three groups. It may not log, print or know a record's layout.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import NamedTuple

SHOWN_CHARACTERS_MAX = 120
"""How much of an offending value is repeated in a text: enough to find it, too little to flood a log."""


class Decider(StrEnum):
    """Who gives a code. Only what the accumulator decides depends on the position, and so on the event's place in the order."""

    BORDER = "border"  # the client, the file reader or the gateway, before a record exists; capture checks again where it can
    CAPTURE = "capture"  # from the event, the reference data and the idempotency table alone
    ACCUMULATOR = "accumulator"  # a pure function of the sequence; the event stays in the journal and changes nothing


class Code(IntEnum):
    """Reply codes. The numbers are in journals and in other people's programs: never reused, never changed, only added to."""

    # An outcome, not a refusal.
    ACCEPTED = 0
    DUPLICATE = 1

    # The row or the text cannot be understood.
    BAD_ENCODING = 10
    BAD_ROW = 11
    BAD_RECORD = 12
    BAD_TEXT = 13
    METHOD_UNKNOWN = 14
    UNKNOWN_FIELD = 15

    # One field is missing or not what it must be.
    MISSING_FIELD = 20
    NOT_A_NUMBER = 21
    OUT_OF_RANGE = 22
    OVER_PRECISE = 23
    NOT_POSITIVE = 24
    NEGATIVE_PRICE = 25
    ZERO_PRICE = 26
    WRONG_SIDE = 27
    UNKNOWN_KIND = 28
    SCALE_MISMATCH = 29
    BAD_RATIO = 30
    CASH_PRICE_REQUIRED = 31

    # Times and dates.
    BAD_TIME = 40
    BAD_DATE = 41
    TIME_TOO_OLD = 42
    TIME_IN_FUTURE = 43
    SETTLES_BEFORE_TRADE = 44
    UNKNOWN_ZONE = 45

    # A name that the reference data does not have.
    UNKNOWN_BOOK = 60
    UNKNOWN_INSTRUMENT = 61
    UNKNOWN_ACCOUNT = 62
    UNKNOWN_CURRENCY = 63
    NO_ROUTE = 64
    SAME_BOOK = 65

    # The key, and the trade that a correction names.
    IDEMPOTENCY_CONFLICT = 80
    UNKNOWN_TRADE = 81
    AMBIGUOUS_ORIGINAL = 82
    ALREADY_CANCELLED = 83
    INVALID_TRANSITION = 84
    NOTHING_CHANGED = 85
    PERIOD_LOCKED = 86
    PARKED = 87
    PARKING_FULL = 88

    # Blocks and groups.
    ALLOCATION_MISMATCH = 100
    NOT_A_BLOCK = 101
    ALREADY_ALLOCATED = 102
    GROUP_TOO_LARGE = 103
    GROUP_REFUSED = 104

    # What the position does not allow.
    OVERSELL = 120
    INSUFFICIENT_POSITION = 121
    UNKNOWN_LOT = 122
    LOT_EXCEEDED = 123
    LOT_REQUIRED = 124
    QUANTITY_OVERFLOW = 125
    MONEY_OVERFLOW = 126
    FEE_CURRENCY_LIMIT = 127

    # The system, not the input.
    BUSY = 140
    SHUTTING_DOWN = 141


class Meaning(NamedTuple):
    """What a code tells the sender."""

    text: str
    decided_by: Decider
    retry: bool  # sending the same input again, later, can have another outcome


MEANINGS: dict[Code, Meaning] = {
    Code.ACCEPTED: Meaning("booked at the sequence given, durable and applied", Decider.CAPTURE, False),
    Code.DUPLICATE: Meaning("already booked with equal content; the sequence is the first one's", Decider.CAPTURE, False),
    Code.BAD_ENCODING: Meaning("the file or text is not UTF-8", Decider.BORDER, False),
    Code.BAD_ROW: Meaning("the row is not a row of this file: wrong number of columns, broken quoting or JSON", Decider.BORDER, False),
    Code.BAD_RECORD: Meaning("a record in the intake ring breaks its layout's rules", Decider.CAPTURE, False),
    Code.BAD_TEXT: Meaning("a text is too long, or has control characters", Decider.BORDER, False),
    Code.METHOD_UNKNOWN: Meaning("not a lot method: FIFO, LIFO, HIFO, AVERAGE or SPECIFIC", Decider.BORDER, False),
    Code.UNKNOWN_FIELD: Meaning("a column or key that no input of this kind has", Decider.BORDER, False),
    Code.MISSING_FIELD: Meaning("a field that this kind requires is absent or empty", Decider.BORDER, False),
    Code.NOT_A_NUMBER: Meaning("not a plain decimal number; NaN and infinity are not numbers", Decider.BORDER, False),
    Code.OUT_OF_RANGE: Meaning("the number does not fit 64 bits at the instrument's scale", Decider.BORDER, False),
    Code.OVER_PRECISE: Meaning("more decimal places than the instrument's scale, or than a nanosecond", Decider.BORDER, False),
    Code.NOT_POSITIVE: Meaning("must be greater than zero; the direction is in the side", Decider.CAPTURE, False),
    Code.NEGATIVE_PRICE: Meaning("the instrument does not allow a negative price", Decider.CAPTURE, False),
    Code.ZERO_PRICE: Meaning("the instrument does not allow a price of zero", Decider.CAPTURE, False),
    Code.WRONG_SIDE: Meaning("side must be BUY or SELL, and fit what the event does", Decider.CAPTURE, False),
    Code.UNKNOWN_KIND: Meaning("not a kind of event that can be entered", Decider.CAPTURE, False),
    Code.SCALE_MISMATCH: Meaning("the record was made with other scales than the instrument has now", Decider.CAPTURE, True),
    Code.BAD_RATIO: Meaning("a ratio's numerator and denominator must be greater than zero, and different", Decider.CAPTURE, False),
    Code.CASH_PRICE_REQUIRED: Meaning("the split leaves a fraction, and no price to pay it at was given", Decider.ACCUMULATOR, False),
    Code.BAD_TIME: Meaning("not an RFC 3339 time with a zone", Decider.BORDER, False),
    Code.BAD_DATE: Meaning("not an ISO date, or not one that exists", Decider.BORDER, False),
    Code.TIME_TOO_OLD: Meaning("before 1990-01-01", Decider.CAPTURE, False),
    Code.TIME_IN_FUTURE: Meaning("more than five minutes ahead of the clock", Decider.CAPTURE, True),
    Code.SETTLES_BEFORE_TRADE: Meaning("the settlement date lies before the trade's date", Decider.CAPTURE, False),
    Code.UNKNOWN_ZONE: Meaning("not a time zone: UTC, UTC+3, UTC-05:30 or an IANA name", Decider.BORDER, False),
    Code.UNKNOWN_BOOK: Meaning("no such book", Decider.CAPTURE, True),
    Code.UNKNOWN_INSTRUMENT: Meaning("no such instrument, by any of its names", Decider.CAPTURE, True),
    Code.UNKNOWN_ACCOUNT: Meaning("no such account", Decider.CAPTURE, True),
    Code.UNKNOWN_CURRENCY: Meaning("no such currency", Decider.CAPTURE, True),
    Code.NO_ROUTE: Meaning("no book was given and no routing rule finds one", Decider.CAPTURE, True),
    Code.SAME_BOOK: Meaning("a transfer must name two different books", Decider.CAPTURE, False),
    Code.IDEMPOTENCY_CONFLICT: Meaning("the key is taken by an event with other content", Decider.CAPTURE, False),
    Code.UNKNOWN_TRADE: Meaning("the trade that this corrects is not known, or did not come in time", Decider.CAPTURE, True),
    Code.AMBIGUOUS_ORIGINAL: Meaning("two trades fit the id; give source or account as well", Decider.CAPTURE, False),
    Code.ALREADY_CANCELLED: Meaning("the trade was cancelled before", Decider.ACCUMULATOR, False),
    Code.INVALID_TRANSITION: Meaning("the event that is named cannot be corrected in this way", Decider.ACCUMULATOR, False),
    Code.NOTHING_CHANGED: Meaning("the amendment gives no new value", Decider.CAPTURE, False),
    Code.PERIOD_LOCKED: Meaning("the effective date lies in a locked period", Decider.CAPTURE, False),
    Code.PARKED: Meaning("waits for the trade that it corrects; the final reply follows", Decider.CAPTURE, False),
    Code.PARKING_FULL: Meaning("too many corrections wait for their trades already", Decider.CAPTURE, True),
    Code.ALLOCATION_MISMATCH: Meaning("the parts do not add up to the block, or differ in what they must share", Decider.CAPTURE, False),
    Code.NOT_A_BLOCK: Meaning("the trade that is to be allocated is not a block", Decider.CAPTURE, False),
    Code.ALREADY_ALLOCATED: Meaning("the block was allocated before", Decider.CAPTURE, False),
    Code.GROUP_TOO_LARGE: Meaning("one action of more records than a group may have", Decider.CAPTURE, False),
    Code.GROUP_REFUSED: Meaning("another leg of the same action was refused, so this one was too", Decider.CAPTURE, False),
    Code.OVERSELL: Meaning("closes more than is held, in a book that rejects that", Decider.ACCUMULATOR, True),
    Code.INSUFFICIENT_POSITION: Meaning("the transfer asks for more than the giving book holds", Decider.ACCUMULATOR, True),
    Code.UNKNOWN_LOT: Meaning("no open lot of this name in the position", Decider.ACCUMULATOR, True),
    Code.LOT_EXCEEDED: Meaning("closes more than the named lot has left", Decider.ACCUMULATOR, True),
    Code.LOT_REQUIRED: Meaning("the book matches specific lots, and none was named", Decider.ACCUMULATOR, False),
    Code.QUANTITY_OVERFLOW: Meaning("the position's quantity would not fit 64 bits", Decider.ACCUMULATOR, True),
    Code.MONEY_OVERFLOW: Meaning("cost or P&L would not fit 128 bits", Decider.ACCUMULATOR, True),
    Code.FEE_CURRENCY_LIMIT: Meaning("the position has fees in as many currencies as it can hold", Decider.ACCUMULATOR, False),
    Code.BUSY: Meaning("no room at the moment; nothing was taken, send it again", Decider.CAPTURE, True),
    Code.SHUTTING_DOWN: Meaning("the system is stopping; nothing was taken, send it again after the start", Decider.CAPTURE, True),
}
"""Every code with its meaning; `pks codes` prints this table."""
assert MEANINGS.keys() == set(Code), "every code has a meaning"
assert all(0 <= code <= 0xFFFF for code in Code), "codes travel in 16 bits"

CODES: dict[Code, str] = {code: meaning.text for code, meaning in MEANINGS.items()}
"""The texts alone."""


class PksError(Exception):
    """Root of every exception that PKS raises on purpose."""


class Refused(PksError):
    """The input is bad: tell the sender which field, which value and why; go on with the next one.

    Attributes: code (Code), field (as the sender spells it, "" for the whole input), value (as it came), reason (a sentence).
    """

    def __init__(self, code: Code, field: str, value: object, reason: str = "") -> None:
        reason = reason or CODES[code]
        subject = f"{field} = {shown(value)}: " if field else ""
        super().__init__(f"{code.name}: {subject}{reason}")
        self.code, self.field, self.value, self.reason = code, field, value, reason


class Retryable(PksError):
    """Nothing is wrong with the request, and nothing was done: the same call can succeed later."""


class Fatal(PksError):
    """The worker or command cannot go on: say so in one clear line and stop."""


def shown(value: object) -> str:
    """`value` as it may stand in a text of one line: quoted if it is text, control characters escaped, cut at a bound."""
    text = repr(value)
    if len(text) <= SHOWN_CHARACTERS_MAX:
        return text
    return f"{text[:SHOWN_CHARACTERS_MAX]}... ({len(text)} characters)"
