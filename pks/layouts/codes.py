"""The small closed vocabularies that stand as numbers in records: kinds, sides, methods, flags.

Owns the numbers; a number is never reused and never changes its meaning, since journals are read for ever. Any room may import
it. Reply codes are elsewhere (`base.errors`), because people see those too.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag


class Kind(IntEnum):
    """What an EVENT says happened (design section 2)."""

    TRADE = 1
    AMEND = 2
    CANCEL = 3
    FEE = 4
    OPENING = 5
    ALLOCATION = 6
    TRANSFER = 7
    ACTION = 8
    CASHFLOW = 9
    FIXING = 10
    REFDATA = 11
    PERIOD_LOCK = 12
    RULES = 13
    EPOCH = 14
    TICK = 15
    DETAIL = 16


class Side(IntEnum):
    """Sign of a trade's quantity."""

    SELL = -1
    NONE = 0
    BUY = 1


class Flag(IntFlag):
    """`flags` of an EVENT: 16 bits."""

    END_OF_BATCH = 1  # keys that wait for a re-derivation get it after this event
    BLOCK = 2  # an unallocated block: no position, no fee
    FEE_UNKNOWN = 4  # the fee is null, not zero
    GROUP_LEG = 8  # one leg of a group: never refused alone, booked as a flip instead
    REENTRY = 16  # an AMEND that an accumulator sent because a correction changed moved lots
    AT_MARKET = 32  # a TRANSFER at the event's price, not at cost
    WHOLE_UNITS = 64  # a split rounds to whole units, the fraction is paid in cash
    HAS_CASH_PRICE = 128  # fee_raw of a split is the price of a fraction
    HAS_PRICE = 256  # price_raw was given (a TRANSFER at cost may have none)
    HAS_FEE = 512  # fee_raw and fee_currency_id were given
    HAS_DETAIL = 1024  # DETAIL records follow in the same group
    HAS_BUSINESS_DATE = 2048  # effective_date was given, not taken from trade_time in the book's zone


class Method(IntEnum):
    """Which open lots a closing trade consumes (design section 4)."""

    FIFO = 1
    LIFO = 2
    HIFO = 3
    AVERAGE = 4
    SPECIFIC = 5


class Oversell(IntEnum):
    """What happens to a close of more than is held."""

    FLIP = 1
    REJECT = 2


class Contract(IntEnum):
    """How a price turns into money: quantity x price, or quantity / price."""

    LINEAR = 1
    INVERSE = 2


class Subject(IntEnum):
    """What kind of row a REFDATA event defines."""

    CURRENCY = 1
    ENTITY = 2
    BOOK = 3
    ACCOUNT = 4
    INSTRUMENT = 5
    SOURCE = 6
    CLASS_METHOD = 7
    ROUTE = 8


class MatchKind(IntEnum):
    """What a record of the matches stream says."""

    MATCH = 1  # part of a closing event's set: one lot that it consumed
    NO_MATCH = 2  # a re-issued set that is now empty
    MOVED = 3  # one lot part that a TRANSFER took from the giver
    REFUSED = 4  # the accumulator's verdict on an event; `code` says why
    FLAGGED = 5  # booked although the policy would now forbid it
    CASH = 6  # cash in lieu of a fraction


class PositionFlag(IntFlag):
    """`flags` of a position: 8 bits."""

    FORCED = 1  # some event was booked as a flip because its verdict had been given before
    FEE_UNKNOWN = 2  # at least one live trade's fee is not known yet
    INVERSE = 4  # cost = quantity / price, in the base coin


class LotFlag(IntFlag):
    """`flags` of a lot."""

    EXACT = 1  # cost is quantity x open price to the digit, so parts of it need no division
    POOL = 2  # the one lot of an average-cost key


class MatchFlag(IntFlag):
    """`flags` of a match record, beside those of its lot."""

    PRIOR_PERIOD = 128  # its event's date lies in a locked period: the ledger books the difference on the first open date


class Recurs(IntFlag):
    """Over what a source's ids recur, so that equal ids there are different trades (design section 2)."""

    ACCOUNT = 1
    INSTRUMENT = 2
    SIDE = 4
    DATE = 8
