"""The compiled way of a plain trade through capture: check every field, look for its key, place it, link it, seal it, write it down.

Anything but a plain trade (corrections, transfers, groups of several events, reference data, routed trades, old dates) stops the loop:
`admit` takes it in Python. The records come from other programs; nothing in them is believed. Source: design.md section 2.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import numpy as np

from pks.base.errors import Code
from pks.base.kernels import kernel
from pks.base.limits import DATE_MAX, DATE_MIN, FUTURE_SECONDS_MAX, TIME_MIN_NS
from pks.base.zones import local_date
from pks.engine.booking.dedup import dedup_add, dedup_find
from pks.engine.booking.keys import ID_WORD, discriminator
from pks.engine.booking.links import link
from pks.engine.booking.tables import CHAINS_COUNT, IN_MEMORY, KEYS_COUNT, KEYS_LIMIT
from pks.layouts.codes import Contract, Flag, Kind
from pks.layouts.event import CHECKED_WORDS, EVENT_WORDS, FIELD_NUMBER
from pks.layouts.slots import FEE_SCALE

DONE, SLOW, RING_FULL, TABLE_FULL = 0, 1, 2, 3

TRADE, DETAIL = int(Kind.TRADE), int(Kind.DETAIL)
INVERSE = int(Contract.INVERSE)
END_OF_BATCH, HAS_DETAIL, HAS_FEE, HAS_BUSINESS_DATE = (
    int(Flag.END_OF_BATCH),
    int(Flag.HAS_DETAIL),
    int(Flag.HAS_FEE),
    int(Flag.HAS_BUSINESS_DATE),
)
PLAIN_FLAGS = int(Flag.FEE_UNKNOWN | Flag.HAS_DETAIL | Flag.HAS_FEE | Flag.HAS_BUSINESS_DATE | Flag.HAS_PRICE)
NS_PER_SECOND = 1_000_000_000
BAD_RECORD, WRONG_SIDE, NOT_POSITIVE = int(Code.BAD_RECORD), int(Code.WRONG_SIDE), int(Code.NOT_POSITIVE)
UNKNOWN_INSTRUMENT, UNKNOWN_BOOK, UNKNOWN_ACCOUNT = int(Code.UNKNOWN_INSTRUMENT), int(Code.UNKNOWN_BOOK), int(Code.UNKNOWN_ACCOUNT)
UNKNOWN_CURRENCY, SCALE_MISMATCH = int(Code.UNKNOWN_CURRENCY), int(Code.SCALE_MISMATCH)
NEGATIVE_PRICE, ZERO_PRICE, MISSING_FIELD = int(Code.NEGATIVE_PRICE), int(Code.ZERO_PRICE), int(Code.MISSING_FIELD)
TIME_TOO_OLD, TIME_IN_FUTURE, BAD_DATE = int(Code.TIME_TOO_OLD), int(Code.TIME_IN_FUTURE), int(Code.BAD_DATE)
SETTLES_BEFORE_TRADE, OVER_PRECISE, OUT_OF_RANGE = int(Code.SETTLES_BEFORE_TRADE), int(Code.OVER_PRECISE), int(Code.OUT_OF_RANGE)
ACCEPTED, DUPLICATE, CONFLICT = int(Code.ACCEPTED), int(Code.DUPLICATE), int(Code.IDEMPOTENCY_CONFLICT)

F_SIDE, F_QTY, F_PRICE, F_FEE = FIELD_NUMBER["side"], FIELD_NUMBER["qty_raw"], FIELD_NUMBER["price_raw"], FIELD_NUMBER["fee_raw"]
F_INSTRUMENT, F_BOOK, F_ACCOUNT = FIELD_NUMBER["instrument_id"], FIELD_NUMBER["book_id"], FIELD_NUMBER["account_id"]
F_CURRENCY, F_TIME, F_ID = FIELD_NUMBER["fee_currency_id"], FIELD_NUMBER["trade_time_ns"], FIELD_NUMBER["trade_id"]
F_DATE, F_SETTLE, F_SCALE, F_KIND = (
    FIELD_NUMBER["effective_date"],
    FIELD_NUMBER["settle_date"],
    FIELD_NUMBER["price_scale"],
    FIELD_NUMBER["kind"],
)
F_SOURCE, F_GROUP = FIELD_NUMBER["source_id"], FIELD_NUMBER["group_count"]


@kernel
def check_trade(t, e, now_ns):
    """(code, field number) of the first thing wrong with the trade record `e`, or (0, 0). Fills nothing in."""
    if e.instrument_id >= t.instruments.shape[0] or not t.instruments[e.instrument_id].known:
        return UNKNOWN_INSTRUMENT, F_INSTRUMENT
    policy = t.instruments[e.instrument_id]
    if e.book_id >= t.books.shape[0] or not t.books[e.book_id].known:
        return UNKNOWN_BOOK, F_BOOK
    if e.account_id != 0 and (e.account_id >= t.accounts.shape[0] or not t.accounts[e.account_id]):
        return UNKNOWN_ACCOUNT, F_ACCOUNT
    if e.source_id >= t.sources.shape[0] or t.sources[e.source_id] == 0:
        return BAD_RECORD, F_SOURCE
    if e.price_scale != policy.price_scale or e.qty_scale != policy.qty_scale:
        return SCALE_MISMATCH, F_SCALE
    return check_values(t, policy, e, now_ns)


@kernel
def check_values(t, policy, e, now_ns):
    """The part of `check_trade` that looks at numbers and times."""
    if e.side != 1 and e.side != -1:
        return WRONG_SIDE, F_SIDE
    if e.qty_raw <= 0:
        return NOT_POSITIVE, F_QTY
    if e.price_raw < 0 and (not policy.negative_price or policy.contract == INVERSE):
        return NEGATIVE_PRICE, F_PRICE
    if e.price_raw == 0 and (not policy.zero_price or policy.contract == INVERSE):
        return ZERO_PRICE, F_PRICE
    if e.trade_time_ns < TIME_MIN_NS:
        return TIME_TOO_OLD, F_TIME
    if e.trade_time_ns > now_ns + FUTURE_SECONDS_MAX * NS_PER_SECOND:
        return TIME_IN_FUTURE, F_TIME
    if e.flags & HAS_FEE:
        code = check_fee(t, policy, e)
        if code != 0:
            return code, F_CURRENCY if code == UNKNOWN_CURRENCY else F_FEE
    return 0, 0


@kernel
def check_fee(t, policy, e):
    """Code of what is wrong with the fee, or 0. One in the traded asset must be exact at qty_scale and less than what is bought."""
    if e.fee_currency_id == 0 or e.fee_currency_id >= t.currencies.shape[0] or not t.currencies[e.fee_currency_id]:
        return UNKNOWN_CURRENCY
    if e.fee_scale > FEE_SCALE:
        return OVER_PRECISE
    if policy.base_currency_id != e.fee_currency_id or policy.pnl_currency_id == e.fee_currency_id:
        return 0
    raw, scale = e.fee_raw, np.int64(e.fee_scale)
    while scale > policy.qty_scale:
        if raw % 10 != 0:
            return OVER_PRECISE
        raw //= 10
        scale -= 1
    while scale < policy.qty_scale:
        if abs(raw) > 900_000_000_000_000_000:
            return OUT_OF_RANGE
        raw *= 10
        scale += 1
    if e.side > 0 and raw >= e.qty_raw:
        return NOT_POSITIVE
    return 0


@kernel
def place_date(t, e):
    """Write effective_date and lot_date of a trade; (code, field) when the dates are wrong."""
    if not e.flags & HAS_BUSINESS_DATE:
        zone = t.books[e.book_id].zone_id
        e.effective_date = local_date(e.trade_time_ns, zone, t.zone_starts, t.zone_stops, t.zone_utc_ns, t.zone_offset_s)
    if e.effective_date < DATE_MIN or e.effective_date > DATE_MAX:
        return BAD_DATE, F_DATE
    if e.settle_date != 0 and e.settle_date < e.effective_date:
        return SETTLES_BEFORE_TRADE, F_SETTLE
    e.lot_date = e.effective_date
    return 0, 0


@kernel
def same_trade(a, b):
    """Do two trade records with one key say the same? (A record without a book takes the book that the rules gave the first.)"""
    return (
        a.kind == b.kind
        and a.side == b.side
        and a.qty_raw == b.qty_raw
        and a.price_raw == b.price_raw
        and a.price_scale == b.price_scale
        and a.qty_scale == b.qty_scale
        and a.instrument_id == b.instrument_id
        and a.account_id == b.account_id
        and (a.book_id == b.book_id or a.book_id == 0)
        and a.to_book_id == b.to_book_id
        and a.trade_time_ns == b.trade_time_ns
        and a.fee_raw == b.fee_raw
        and a.fee_scale == b.fee_scale
        and a.fee_currency_id == b.fee_currency_id
    )


@kernel
def answer(answers, at, ticket, sequence, code, field, value):
    """Write one answer; the worker sends it when `sequence` is durable and applied."""
    a = answers[at]
    a.ticket, a.sequence, a.code, a.field, a.value, a.other = ticket, sequence, code, field, value, 0


@kernel
def offending(e, field):
    """The value of the offending field, where a number says it."""
    if field == F_QTY:
        return e.qty_raw
    if field == F_PRICE:
        return e.price_raw
    if field == F_FEE:
        return e.fee_raw
    if field == F_SIDE:
        return np.int64(e.side)
    if field == F_TIME:
        return e.trade_time_ns
    if field == F_INSTRUMENT:
        return np.int64(e.instrument_id)
    if field == F_BOOK:
        return np.int64(e.book_id)
    if field == F_ACCOUNT:
        return np.int64(e.account_id)
    if field == F_CURRENCY:
        return np.int64(e.fee_currency_id)
    if field == F_DATE:
        return np.int64(e.effective_date)
    if field == F_SETTLE:
        return np.int64(e.settle_date)
    return np.int64(0)


@kernel
def is_plain(e, batch, first, count):
    """Is the record at batch[first] a trade that this loop may take: alone, or with DETAIL records that are all there?"""
    if e.kind != TRADE or e.flags & ~PLAIN_FLAGS or e.book_id == 0 or e.to_book_id != 0 or e.lot != 0 or e.original != 0:
        return False
    if e.group_index != 0 or e.group_count == 0 or first + e.group_count > count or e.second_key_lo != 0 or e.second_key_hi != 0:
        return False
    if (e.group_count > 1) != ((e.flags & HAS_DETAIL) != 0):
        return False
    for i in range(1, e.group_count):
        d = batch[first + i]
        if d.kind != DETAIL or d.group_index != i or d.group_count != e.group_count:
            return False
    return True


@kernel
def take_trades(
    t, batch, words, keys, count, ring, ring_words, mask, oldest, sequence, room, recorded_ns, now_ns, epoch, intake, ticket, answers
):
    """Take plain trades batch[:count] into the ring behind `sequence`; at most `room` records.

    batch, words: a private copy of intake records (EVENT[n] and int64[n, 32] over the same bytes); keys: int64[n, 2], their `trade_key`;
    ring, ring_words: as the first two the events ring, record n at n & mask, written but neither sealed nor published; oldest: records
    behind it are in the ring; ticket: of batch[0]; answers: REPLY[>= count].
    Returns (records consumed, last sequence, answers written, reason).
    """
    at, said = np.int64(0), 0
    before = sequence
    while at < count:
        e = batch[at]
        if not is_plain(e, batch, at, count):
            return at, sequence, said, SLOW
        code, field = check_trade(t, e, now_ns) if words[at, ID_WORD] != 0 else (MISSING_FIELD, F_ID)
        if code == 0:
            code, field = place_date(t, e)
        if code != 0:
            answer(answers, said, ticket + at, 0, code, field, offending(e, field))
            said += 1
            at += e.group_count
            continue
        if t.dates[e.effective_date] != IN_MEMORY:
            return at, sequence, said, SLOW
        if sequence + e.group_count - before > room:
            return at, sequence, said, RING_FULL
        if t.counts[KEYS_COUNT] >= t.counts[KEYS_LIMIT] or 2 * (t.counts[CHAINS_COUNT] + 1) > t.chains.shape[0]:
            return at, sequence, said, TABLE_FULL
        hi, lo = keys[at, 0], keys[at, 1]
        disc = discriminator(
            np.int64(e.source_id),
            t.sources[e.source_id] - 1,
            np.int64(e.account_id),
            np.int64(e.instrument_id),
            np.int64(e.side),
            np.int64(e.effective_date),
        )
        known = dedup_find(t.dedup, hi, lo, disc)
        if known != 0:
            if known <= oldest:  # not in the ring: the journal has it
                return at, sequence, said, SLOW
            same = same_trade(e, ring[known & mask])
            answer(answers, said, ticket + at, known, DUPLICATE if same else CONFLICT, 0 if same else F_ID, 0)
            said += 1
            at += e.group_count
            continue
        group = np.int64(e.group_count)
        for i in range(group):
            sequence += 1
            for w in range(CHECKED_WORDS):
                ring_words[sequence & mask, w] = words[at + i, w]
            for w in range(CHECKED_WORDS, EVENT_WORDS):
                ring_words[sequence & mask, w] = 0
            r = ring[sequence & mask]
            r.sequence, r.recorded_ns, r.epoch, r.intake = sequence, recorded_ns, epoch, intake
            r.flags &= ~END_OF_BATCH
        r = ring[(sequence - group + 1) & mask]
        r.key_hi, r.key_lo, r.discriminator = np.uint64(hi), np.uint64(lo), disc
        r.money_scale = t.instruments[r.instrument_id].money_scale
        link(t.chains, t.counts, t.instrument_chain, r)
        dedup_add(t.dedup, hi, lo, disc, np.int64(e.effective_date), r.sequence)
        t.counts[KEYS_COUNT] += 1
        answer(answers, said, ticket + at, r.sequence, ACCEPTED, 0, 0)
        said += 1
        at += group
    return at, sequence, said, DONE
