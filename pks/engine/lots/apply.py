"""One event on one key: a fill that opens, closes or flips; lots that leave or come with a transfer; a split; a clearing.

Each function either does all of its event and returns 0, or changes nothing and returns the code of its refusal. The caller has
made sure that a lot row, an account row and room for `open_lots + 2` match records are free.
Source: design.md sections 3 and 4; backoffice.md section 2.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import numpy as np

from pks.base.errors import Code
from pks.base.kernels import forced, inlined, kernel
from pks.base.units import (
    add_64,
    add_128,
    div_half_even_128_64,
    divmod_128_64,
    fits_64,
    inverse_value_128,
    mul_64,
    mul_64_checked,
    neg_128,
    ratio_128,
    share_128,
    sub_64,
    sub_128,
    value_128,
)
from pks.engine.lots.money import (
    base_fee_raw,
    fee_amount,
    fee_in_money,
    part_cost,
    quotient_128,
    size_of,
    sum_fits,
    ten_to_the,
    trade_value,
)
from pks.engine.lots.pool import heap_pop, lot_find, lot_held, lot_insert, lot_remove, lot_take_row, lots_reorder
from pks.engine.lots.state import ACCOUNTS_COUNT, CHANGED_ACCOUNTS, MATCHES
from pks.layouts.codes import Contract, Flag, Kind, LotFlag, MatchKind, Method, Oversell, PositionFlag

AVERAGE, FIFO, HIFO, LIFO, SPECIFIC = (int(m) for m in (Method.AVERAGE, Method.FIFO, Method.HIFO, Method.LIFO, Method.SPECIFIC))
INVERSE = int(Contract.INVERSE)
REJECT = int(Oversell.REJECT)
OPENING = int(Kind.OPENING)
TRANSFER = int(Kind.TRANSFER)
EXACT, POOL = int(LotFlag.EXACT), int(LotFlag.POOL)
MATCH_KIND, MOVED, FLAGGED, CASH = int(MatchKind.MATCH), int(MatchKind.MOVED), int(MatchKind.FLAGGED), int(MatchKind.CASH)
FORCED_POSITION = int(PositionFlag.FORCED)
FEE_UNKNOWN_POSITION = int(PositionFlag.FEE_UNKNOWN)
HAS_FEE, GROUP_LEG, AT_MARKET, REENTRY = int(Flag.HAS_FEE), int(Flag.GROUP_LEG), int(Flag.AT_MARKET), int(Flag.REENTRY)
KEPT = GROUP_LEG | REENTRY  # flags of an event that no policy refuses
FEE_UNKNOWN, WHOLE_UNITS, HAS_CASH_PRICE, HAS_PRICE = (
    int(Flag.FEE_UNKNOWN),
    int(Flag.WHOLE_UNITS),
    int(Flag.HAS_CASH_PRICE),
    int(Flag.HAS_PRICE),
)
QUANTITY_OVERFLOW, MONEY_OVERFLOW, OVERSELL = int(Code.QUANTITY_OVERFLOW), int(Code.MONEY_OVERFLOW), int(Code.OVERSELL)
LOT_REQUIRED, UNKNOWN_LOT, LOT_EXCEEDED = int(Code.LOT_REQUIRED), int(Code.UNKNOWN_LOT), int(Code.LOT_EXCEEDED)
FEE_CURRENCY_LIMIT, INSUFFICIENT_POSITION = int(Code.FEE_CURRENCY_LIMIT), int(Code.INSUFFICIENT_POSITION)
CASH_PRICE_REQUIRED = int(Code.CASH_PRICE_REQUIRED)
QTY_MIN = np.int64(-(2**63))
NOTHING, AT_PRICE, AT_COST = 0, 1, 2  # what `consume` realises: nothing, against the event's price, against a moved lot's cost


@inlined
def add_cost(keys, k, hi, lo):
    """cost += (hi, lo)."""
    keys[k].cost_hi, lo, _ = add_128(keys[k].cost_hi, np.int64(keys[k].cost_lo), hi, lo)
    keys[k].cost_lo = lo


@inlined
def add_realised(keys, k, hi, lo):
    """realised += (hi, lo)."""
    keys[k].realised_hi, lo, _ = add_128(keys[k].realised_hi, np.int64(keys[k].realised_lo), hi, lo)
    keys[k].realised_lo = lo


@inlined
def add_clearing(keys, k, hi, lo):
    """clearing_cost += (hi, lo)."""
    keys[k].clearing_cost_hi, lo, _ = add_128(keys[k].clearing_cost_hi, np.int64(keys[k].clearing_cost_lo), hi, lo)
    keys[k].clearing_cost_lo = lo


@forced
def fee_place(keys, k, currency_id):
    """Where the key keeps fees of that currency: the cell, or -1 when all four are taken by others."""
    for cell in range(4):
        if keys[k].fee_currency_id[cell] == currency_id or keys[k].fee_currency_id[cell] == 0:
            return cell
    return -1


@forced
def fee_refusal(keys, k, currency_id, hi, lo):
    """Code why this fee cannot be added to the key, or 0."""
    cell = fee_place(keys, k, currency_id)
    if cell < 0:
        return FEE_CURRENCY_LIMIT
    if not sum_fits(keys[k].fees_hi[cell], np.int64(keys[k].fees_lo[cell]), hi, lo):
        return MONEY_OVERFLOW
    return 0


@forced
def fee_add(keys, k, currency_id, hi, lo):
    """Add a fee that `fee_refusal` let through. Cells ascend by currency, so that they lie as in any other fold of the same events."""
    cell = fee_place(keys, k, currency_id)
    key = keys[k]
    while key.fee_currency_id[cell] == 0 and cell > 0 and key.fee_currency_id[cell - 1] > currency_id:
        key.fee_currency_id[cell], key.fees_hi[cell], key.fees_lo[cell] = (
            key.fee_currency_id[cell - 1],
            key.fees_hi[cell - 1],
            key.fees_lo[cell - 1],
        )
        cell -= 1
        key.fee_currency_id[cell], key.fees_hi[cell], key.fees_lo[cell] = 0, 0, 0
    key.fee_currency_id[cell] = currency_id
    hi, lo, _ = add_128(key.fees_hi[cell], np.int64(key.fees_lo[cell]), hi, lo)
    key.fees_hi[cell] = hi
    key.fees_lo[cell] = np.uint64(lo)


@forced
def account_row(state, k, account_id):
    """Row of the key's quantity in that account, made if there is none; the list is ascending by account id."""
    accounts = state.accounts
    before, row = np.int64(-1), np.int64(state.keys[k].accounts)
    while row >= 0 and accounts[row].account_id < account_id:
        before, row = row, np.int64(accounts[row].next)
    if row >= 0 and accounts[row].account_id == account_id:
        return row
    made = state.meta[ACCOUNTS_COUNT]
    state.meta[ACCOUNTS_COUNT] = made + 1
    accounts[made].account_id = account_id
    accounts[made].qty_raw = 0
    accounts[made].next = row
    accounts[made].slot = -1
    if before >= 0:
        accounts[before].next = made
    else:
        state.keys[k].accounts = made
    return made


@forced
def account_overflows(state, k, account_id, qty_raw):
    """Would `qty_raw` more in that account leave int64? (Accounts of both signs may each hold more than the key.)"""
    row = np.int64(state.keys[k].accounts)
    while row >= 0:
        if state.accounts[row].account_id == account_id:
            after, over = add_64(state.accounts[row].qty_raw, qty_raw)
            return over != 0 or after == QTY_MIN
        row = np.int64(state.accounts[row].next)
    return False


@forced
def account_add(state, out, k, account_id, qty_raw, sequence):
    """The account holds `qty_raw` more of the key's instrument for the key's book."""
    row = account_row(state, k, account_id)
    state.accounts[row].qty_raw += qty_raw
    state.accounts[row].last_sequence = sequence
    at = out.counts[CHANGED_ACCOUNTS]
    if at < out.changed_accounts.shape[0]:
        out.changed_accounts[at, 0] = row
        out.changed_accounts[at, 1] = k
        out.counts[CHANGED_ACCOUNTS] = at + 1


@forced
def match_add(state, out, k, e, kind, lot, taken, open_price_raw, close_price_raw, cost_hi, cost_lo, gain_hi, gain_lo):
    """Write one match record: `taken` (signed as the lot) units of `lot`."""
    at = out.counts[MATCHES]
    out.counts[MATCHES] = at + 1
    keys, m = state.keys, out.matches[at]
    m.sequence, m.cause, m.recorded_ns = e.sequence, e.sequence, e.recorded_ns
    m.open_sequence, m.open_leg, m.open_date = lot.open_sequence, lot.open_leg, lot.open_date
    m.book_id, m.instrument_id = keys[k].book_id, keys[k].instrument_id
    m.qty_raw, m.open_price_raw, m.close_price_raw = taken, open_price_raw, close_price_raw
    m.cost_hi, m.cost_lo, m.realised_hi, m.realised_lo = cost_hi, np.uint64(cost_lo), gain_hi, np.uint64(gain_lo)
    m.effective_date, m.index, m.count, m.revision = e.effective_date, 0, 0, 0
    m.kind, m.flags, m.code = kind, lot.flags, 0
    m.price_scale, m.qty_scale, m.money_scale = keys[k].price_scale, keys[k].qty_scale, keys[k].money_scale


@forced
def matches_number(out, first):
    """Number the records of one set from `first` on."""
    count = out.counts[MATCHES] - first
    for i in range(count):
        out.matches[first + i].index = i
        out.matches[first + i].count = count


@forced
def lot_pick(state, k, named):
    """Row of the lot that the key's method closes next; a named lot first, and for SPECIFIC without one the oldest."""
    if named >= 0:
        return named
    if state.keys[k].method == LIFO:
        return np.int64(state.keys[k].newest)
    if state.keys[k].method == HIFO:
        return np.int64(state.keys[k].heap)
    return np.int64(state.keys[k].oldest)


@forced
def consume(state, out, k, e, left, price_raw, kind, realises, by_id, fee_hi, fee_lo, paid_hi, paid_lo):
    """Take `left` (> 0, at most the position's size) units off the key's lots by its method, one record a lot.

    by_id: parts of the lot that `e` names first. realises: NOTHING, AT_PRICE, or AT_COST: against the cost (paid_hi, paid_lo) of what
    comes in, signed as that, of which each part takes its share. fee_hi, fee_lo: money that lowers the gain, split by quantity.
    """
    keys, lots = state.keys, state.lots
    policy = state.instruments[keys[k].instrument_id]
    total = left
    has_fee = fee_hi != 0 or fee_lo != 0
    fee_left_hi, fee_left_lo = fee_hi, fee_lo
    while left > 0:
        row = np.int64(-1)
        if by_id:
            row = lot_find(state, k, e.lot, e.lot_leg)
            by_id = row >= 0
        row = lot_pick(state, k, row)
        lot = lots[row]
        size = size_of(lot.qty_raw)
        taken = min(size, left)
        signed = taken if lot.qty_raw > 0 else -taken
        cost_hi, cost_lo = part_cost(policy, lot, taken)
        gain_hi, gain_lo = np.int64(0), np.int64(0)
        if realises != NOTHING:
            if realises == AT_PRICE:
                value_hi, value_lo, _ = trade_value(policy, signed, price_raw)
            else:
                part_hi, part_lo, _ = share_128(paid_hi, paid_lo, taken, left)
                paid_hi, paid_lo, _ = sub_128(paid_hi, paid_lo, part_hi, part_lo)
                value_hi, value_lo, _ = neg_128(part_hi, part_lo)
            if policy.contract == INVERSE:
                gain_hi, gain_lo, _ = sub_128(cost_hi, cost_lo, value_hi, value_lo)
            else:
                gain_hi, gain_lo, _ = sub_128(value_hi, value_lo, cost_hi, cost_lo)
            if has_fee:
                part_hi, part_lo = fee_left_hi, fee_left_lo
                if taken < left:
                    part_hi, part_lo, _ = share_128(fee_hi, fee_lo, taken, total)
                fee_left_hi, fee_left_lo, _ = sub_128(fee_left_hi, fee_left_lo, part_hi, part_lo)
                gain_hi, gain_lo, _ = sub_128(gain_hi, gain_lo, part_hi, part_lo)
            add_realised(keys, k, gain_hi, gain_lo)
        open_raw = shown_price(state, k, row) if lot.flags & (POOL | EXACT) == POOL else lot.price_raw
        match_add(state, out, k, e, kind, lot, signed, open_raw, price_raw, cost_hi, cost_lo, gain_hi, gain_lo)
        rest_hi, rest_lo, _ = sub_128(keys[k].cost_hi, np.int64(keys[k].cost_lo), cost_hi, cost_lo)
        keys[k].cost_hi = rest_hi
        keys[k].cost_lo = np.uint64(rest_lo)
        keys[k].qty_raw -= signed
        if taken == size:
            lot_remove(state, k, row)
        else:
            rest_hi, rest_lo, _ = sub_128(lot.cost_hi, lot.cost_lo, cost_hi, cost_lo)
            lots[row].cost_hi = rest_hi
            lots[row].cost_lo = rest_lo
            lots[row].qty_raw -= signed
        left -= taken


@kernel
def lot_refusal(state, k, e, size):
    """SPECIFIC: code why the lot that `e` names cannot give `size` units, or 0."""
    if e.lot == 0:
        return LOT_REQUIRED
    held = lot_held(state, k, e.lot, e.lot_leg)
    if held == 0:
        return UNKNOWN_LOT
    return LOT_EXCEEDED if size > held else 0


@forced
def lot_open(state, k, qty_raw, cost_hi, cost_lo, price_raw, exact, open_sequence, open_leg, open_date, order_sequence):
    """Add a lot to the key's side, or to its pool when the method is AVERAGE."""
    keys, lots = state.keys, state.lots
    keys[k].qty_raw += qty_raw
    add_cost(keys, k, cost_hi, cost_lo)
    row = np.int64(keys[k].oldest)
    if keys[k].method == AVERAGE and keys[k].open_lots > 0:
        if not (exact and lots[row].flags & EXACT and lots[row].price_raw == price_raw):
            lots[row].flags = POOL
        lots[row].qty_raw += qty_raw
        hi, lo, _ = add_128(lots[row].cost_hi, lots[row].cost_lo, cost_hi, cost_lo)
        lots[row].cost_hi = hi
        lots[row].cost_lo = lo
        return
    row = lot_take_row(state)
    lots[row].qty_raw = qty_raw
    lots[row].cost_hi = cost_hi
    lots[row].cost_lo = cost_lo
    lots[row].price_raw = price_raw
    lots[row].flags = (EXACT if exact else 0) | (POOL if keys[k].method == AVERAGE else 0)
    lots[row].open_sequence = open_sequence
    lots[row].open_leg = open_leg
    lots[row].open_date = open_date
    lots[row].order_sequence = order_sequence
    lot_insert(state, k, row)


@forced
def fill(state, out, k, e, qty_raw, fee_hi, fee_lo, fee_code, forced):
    """A trade or an opening lot of `qty_raw` (signed, base fee already taken off) on key `k`.

    fee_hi, fee_lo: the part of the fees that goes into cost, at FEE_SCALE (0 unless the book has fees_in_cost).
    fee_code: why the fees cannot be added, 0 if they can; said only of an event that the policy lets through.
    forced: the verdict was given before (or this is a leg of a group): what the policy forbids is booked all the same, and flagged.
    """
    keys = state.keys
    policy = state.instruments[keys[k].instrument_id]
    held = keys[k].qty_raw
    after, over = add_64(held, qty_raw)
    if over or after == QTY_MIN or qty_raw == QTY_MIN or account_overflows(state, k, e.account_id, qty_raw):
        return QUANTITY_OVERFLOW
    size = size_of(qty_raw)
    closes = min(size_of(held), size) if (held > 0) != (qty_raw > 0) and held != 0 else np.int64(0)
    forbidden = (
        OVERSELL
        if state.books[keys[k].book_id].oversell == REJECT
        and e.kind != OPENING
        and ((qty_raw < 0 and after < 0) or (held < 0 and after > 0))
        else 0
    )
    by_id = keys[k].method == SPECIFIC and closes > 0 and e.kind != OPENING
    if by_id and forbidden == 0:
        forbidden = lot_refusal(state, k, e, size)
    if forbidden != 0 and not forced:
        return forbidden
    if fee_code != 0:
        return fee_code
    value_hi, value_lo, over = trade_value(policy, qty_raw, e.price_raw)
    money_hi, money_lo, fee_over = np.int64(0), np.int64(0), 0
    if fee_hi != 0 or fee_lo != 0:
        money_hi, money_lo, fee_over = fee_in_money(policy, fee_hi, fee_lo)
    if over or fee_over or not money_fits(keys, k, value_hi, value_lo, money_hi, money_lo):
        return MONEY_OVERFLOW
    if forbidden != 0:
        keys[k].flags |= FORCED_POSITION
    part_hi, part_lo = money_hi, money_lo
    if closes > 0:
        if closes < size and (fee_hi != 0 or fee_lo != 0):
            part_hi, part_lo, _ = share_128(fee_hi, fee_lo, closes, size)
            part_hi, part_lo, _ = fee_in_money(policy, part_hi, part_lo)
        first = out.counts[MATCHES]
        consume(state, out, k, e, closes, e.price_raw, MATCH_KIND, AT_PRICE, by_id, part_hi, part_lo, np.int64(0), np.int64(0))
        matches_number(out, first)
        part_hi, part_lo, _ = sub_128(money_hi, money_lo, part_hi, part_lo)
    opens = size - closes
    if opens > 0:
        signed = opens if qty_raw > 0 else -opens
        cost_hi, cost_lo, _ = trade_value(policy, signed, e.price_raw)
        if policy.cleared:
            add_clearing(keys, k, cost_hi, cost_lo)
        exact = policy.contract != INVERSE and part_hi == 0 and part_lo == 0
        if policy.contract == INVERSE:
            cost_hi, cost_lo, _ = sub_128(cost_hi, cost_lo, part_hi, part_lo)
        else:
            cost_hi, cost_lo, _ = add_128(cost_hi, cost_lo, part_hi, part_lo)
        leg = 2 if closes > 0 else 0
        lot_open(state, k, signed, cost_hi, cost_lo, e.price_raw, exact, e.sequence, leg, e.lot_date, e.sequence)
    if policy.cleared and closes > 0:
        value_hi, value_lo, _ = trade_value(policy, closes if qty_raw > 0 else -closes, e.price_raw)
        add_clearing(keys, k, value_hi, value_lo)
    account_add(state, out, k, e.account_id, qty_raw, e.sequence)
    return 0


@forced
def money_fits(keys, k, value_hi, value_lo, fee_hi, fee_lo):
    """Is there headroom: |cost| + |realised| + |value| + |fee| and |clearing cost| + |variation| + |value| below 2**127?"""
    cost_hi, cost_lo = keys[k].cost_hi, np.int64(keys[k].cost_lo)
    gain_hi, gain_lo = keys[k].realised_hi, np.int64(keys[k].realised_lo)
    return fits_all(cost_hi, cost_lo, gain_hi, gain_lo, value_hi, value_lo, fee_hi, fee_lo) and fits_all(
        keys[k].clearing_cost_hi,
        np.int64(keys[k].clearing_cost_lo),
        keys[k].variation_hi,
        np.int64(keys[k].variation_lo),
        value_hi,
        value_lo,
        np.int64(0),
        np.int64(0),
    )


@forced
def fits_all(a_hi, a_lo, b_hi, b_lo, c_hi, c_lo, d_hi, d_lo):
    """Does the sum of the four magnitudes fit in 127 bits?"""
    a_hi, a_lo = (a_hi, a_lo) if a_hi >= 0 else flip(a_hi, a_lo)
    b_hi, b_lo = (b_hi, b_lo) if b_hi >= 0 else flip(b_hi, b_lo)
    c_hi, c_lo = (c_hi, c_lo) if c_hi >= 0 else flip(c_hi, c_lo)
    d_hi, d_lo = (d_hi, d_lo) if d_hi >= 0 else flip(d_hi, d_lo)
    if a_hi < 0 or b_hi < 0 or c_hi < 0 or d_hi < 0:
        return False
    a_hi, a_lo, over1 = add_128(a_hi, a_lo, b_hi, b_lo)
    c_hi, c_lo, over2 = add_128(c_hi, c_lo, d_hi, d_lo)
    a_hi, a_lo, over3 = add_128(a_hi, a_lo, c_hi, c_lo)
    return (over1 | over2 | over3) == 0


@inlined
def flip(hi, lo):
    """-(hi, lo); the least 128-bit integer stays negative, which callers take for an overflow."""
    hi, lo, _ = sub_128(np.int64(0), np.int64(0), hi, lo)
    return hi, lo


@forced
def touch(keys, k, e):
    """The position now reflects this trade."""
    keys[k].event_time_ns = e.trade_time_ns
    keys[k].last_price_raw = e.price_raw
    keys[k].trades_count += 1
    if e.flags & FEE_UNKNOWN:
        keys[k].flags |= FEE_UNKNOWN_POSITION


@kernel
def is_base_fee(policy, currency_id):
    """Is a fee in that currency taken in the traded asset?"""
    return policy.base_currency_id != 0 and currency_id == policy.base_currency_id and currency_id != policy.pnl_currency_id


@forced
def trade(state, out, k, e, extra_base_raw, extra_hi, extra_lo, forced):
    """A whole TRADE, ALLOCATION or OPENING with its fee.

    extra_base_raw, extra_hi, extra_lo: what later FEE events add in the traded asset (qty_scale) and to cost (FEE_SCALE).
    """
    keys = state.keys
    policy = state.instruments[keys[k].instrument_id]
    base_raw, cost_hi, cost_lo = extra_base_raw, extra_hi, extra_lo
    fee_hi, fee_lo, fee_code = np.int64(0), np.int64(0), 0
    has_fee = (e.flags & HAS_FEE) != 0 and e.fee_raw != 0
    if has_fee:
        fee_hi, fee_lo = fee_amount(e.fee_raw, e.fee_scale)
        fee_code = fee_refusal(keys, k, e.fee_currency_id, fee_hi, fee_lo)
        if is_base_fee(policy, e.fee_currency_id):
            base_raw, over = add_64(base_raw, base_fee_raw(e.fee_raw, np.int64(e.fee_scale), np.int64(policy.qty_scale)))
            if over:
                return QUANTITY_OVERFLOW
        elif state.books[keys[k].book_id].fees_in_cost and e.fee_currency_id == policy.pnl_currency_id:
            cost_hi, cost_lo, over = add_128(cost_hi, cost_lo, fee_hi, fee_lo)
            if over:
                return MONEY_OVERFLOW
    qty_raw, over = sub_64(np.int64(e.side) * e.qty_raw, base_raw)
    if over:
        return QUANTITY_OVERFLOW
    code = fill(state, out, k, e, qty_raw, cost_hi, cost_lo, fee_code, forced or (e.flags & KEPT) != 0)
    if code != 0:
        return code
    if has_fee:
        fee_add(keys, k, e.fee_currency_id, fee_hi, fee_lo)
    touch(keys, k, e)
    return 0


@kernel
def give(state, out, k, e, forced):
    """The giver's half of a TRANSFER: lots leave by the book's method, one MOVED record each, at cost or realised at the event's price.

    A MOVED record has the cost that left; the receiver of a transfer at market makes his own from the price. A fee is the giver's.
    """
    keys = state.keys
    policy = state.instruments[keys[k].instrument_id]
    held = keys[k].qty_raw
    size = size_of(held)
    side = np.int64(1) if held >= 0 else np.int64(-1)
    forced = forced or (e.flags & KEPT) != 0
    if not forced:
        if e.qty_raw > size:
            return INSUFFICIENT_POSITION
        if keys[k].method == SPECIFIC:
            code = lot_refusal(state, k, e, e.qty_raw)
            if code != 0:
                return code
    after, over = add_64(held, -side * e.qty_raw)
    if over or after == QTY_MIN or account_overflows(state, k, e.account_id, -side * e.qty_raw):
        return QUANTITY_OVERFLOW
    fee_hi, fee_lo = np.int64(0), np.int64(0)
    has_fee = (e.flags & HAS_FEE) != 0 and e.fee_raw != 0
    if has_fee:
        fee_hi, fee_lo = fee_amount(e.fee_raw, e.fee_scale)
        code = fee_refusal(keys, k, e.fee_currency_id, fee_hi, fee_lo)
        if code != 0:
            return code
    at_market = (e.flags & AT_MARKET) != 0
    leaves = min(e.qty_raw, size)
    short = e.qty_raw - leaves
    if at_market or e.flags & HAS_PRICE:
        value_hi, value_lo, over = trade_value(policy, e.qty_raw, e.price_raw)
        if over or not money_fits(keys, k, value_hi, value_lo, np.int64(0), np.int64(0)):
            return MONEY_OVERFLOW
    first = out.counts[MATCHES]
    if leaves > 0:
        realises = AT_PRICE if at_market else NOTHING
        by_id = keys[k].method == SPECIFIC
        zero = np.int64(0)
        consume(state, out, k, e, leaves, e.price_raw, MOVED, realises, by_id, zero, zero, zero, zero)
    if short > 0:
        price_raw = e.price_raw
        if not e.flags & HAS_PRICE:
            price_raw = out.matches[out.counts[MATCHES] - 1].open_price_raw if leaves > 0 else np.int64(0)
        force_short(state, out, k, e, -side * short, price_raw)
    if policy.cleared:
        for i in range(first, out.counts[MATCHES]):
            m = out.matches[i]
            hi, lo = m.cost_hi, np.int64(m.cost_lo)
            if at_market:
                hi, lo, _ = trade_value(policy, m.qty_raw, e.price_raw)
            hi, lo, _ = neg_128(hi, lo)
            add_clearing(keys, k, hi, lo)
    matches_number(out, first)
    account_add(state, out, k, e.account_id, -side * e.qty_raw, e.sequence)
    if has_fee:
        fee_add(keys, k, e.fee_currency_id, fee_hi, fee_lo)
    keys[k].event_time_ns = e.trade_time_ns
    return 0


@kernel
def force_short(state, out, k, e, qty_raw, price_raw):
    """More was transferred than is there now: the giver opens the other side, the receiver gets a lot of it (leg 2). Flagged."""
    keys = state.keys
    policy = state.instruments[keys[k].instrument_id]
    hi, lo, over = trade_value(policy, qty_raw, price_raw)
    if over:  # an inverse contract without any price
        hi, lo = np.int64(0), np.int64(0)
    exact = policy.contract != INVERSE
    lot_open(state, k, qty_raw, hi, lo, price_raw, exact, e.sequence, 2, e.effective_date, e.sequence)
    row = np.int64(keys[k].newest)
    back_hi, back_lo, _ = neg_128(hi, lo)
    match_add(state, out, k, e, MOVED, state.lots[row], -qty_raw, price_raw, e.price_raw, back_hi, back_lo, np.int64(0), np.int64(0))
    m = out.matches[out.counts[MATCHES] - 1]
    m.open_sequence, m.open_leg, m.open_date = e.sequence, 2, e.effective_date
    m.flags = EXACT if exact else 0
    keys[k].flags |= FORCED_POSITION


@kernel
def receive_refusal(state, k, e, moves, first, count):
    """Code why the key cannot hold the moved lots, or 0: the sum of all magnitudes must fit."""
    keys = state.keys
    policy = state.instruments[keys[k].instrument_id]
    total = keys[k].qty_raw
    hi, lo = np.int64(0), np.int64(0)
    change = np.int64(0)
    for i in range(first, first + count):
        m = moves[i]
        total, over = add_64(total, m.qty_raw)
        change, more = add_64(change, m.qty_raw)
        if over or more or total == QTY_MIN:
            return QUANTITY_OVERFLOW
        part_hi, part_lo = m.cost_hi, np.int64(m.cost_lo)
        if e.flags & AT_MARKET:
            part_hi, part_lo, over = trade_value(policy, m.qty_raw, e.price_raw)
            if over:
                return MONEY_OVERFLOW
        if part_hi < 0:
            part_hi, part_lo, _ = neg_128(part_hi, part_lo)
        hi, lo, over = add_128(hi, lo, part_hi, part_lo)
        if over:
            return MONEY_OVERFLOW
    if account_overflows(state, k, e.to_account_id, change):
        return QUANTITY_OVERFLOW
    if not money_fits(keys, k, hi, lo, np.int64(0), np.int64(0)):
        return MONEY_OVERFLOW
    return 0


@kernel
def receive(state, out, k, e, moves, first, count):
    """The receiver's half: lots come in with their ids and dates, at their cost or at the event's price.

    Against an open other side each closes it, at its cost (of which each closed part takes its share), else it opens.
    """
    keys = state.keys
    policy = state.instruments[keys[k].instrument_id]
    code = receive_refusal(state, k, e, moves, first, count)
    if code != 0:
        return code
    first_match = out.counts[MATCHES]
    total = np.int64(0)
    for i in range(first, first + count):
        m = moves[i]
        held = keys[k].qty_raw
        left = m.qty_raw
        cost_hi, cost_lo, price_raw, exact = m.cost_hi, np.int64(m.cost_lo), m.open_price_raw, (m.flags & EXACT) != 0
        if e.flags & AT_MARKET:
            cost_hi, cost_lo, _ = trade_value(policy, left, e.price_raw)
            price_raw, exact = e.price_raw, policy.contract != INVERSE
        if policy.cleared:
            add_clearing(keys, k, cost_hi, cost_lo)
        closes = min(size_of(held), size_of(left)) if held != 0 and (held > 0) != (left > 0) else np.int64(0)
        if closes > 0:
            part_hi, part_lo, _ = share_128(cost_hi, cost_lo, closes, size_of(left))
            consume(state, out, k, e, closes, price_raw, MATCH_KIND, AT_COST, False, np.int64(0), np.int64(0), part_hi, part_lo)
            cost_hi, cost_lo, _ = sub_128(cost_hi, cost_lo, part_hi, part_lo)
            left -= closes if left > 0 else -closes
        if left != 0:
            lot_open(state, k, left, cost_hi, cost_lo, price_raw, exact, m.open_sequence, m.open_leg, m.open_date, e.sequence)
        total += m.qty_raw
    matches_number(out, first_match)
    account_add(state, out, k, e.to_account_id, total, e.sequence)
    keys[k].event_time_ns = e.trade_time_ns
    return 0


@kernel
def settle(state, k, e):
    """A clearing of a future at `price_raw`: variation margin since the last one, and a new cost. Linear contracts only."""
    keys = state.keys
    policy = state.instruments[keys[k].instrument_id]
    if not policy.cleared:
        return 0
    hi, lo, over = trade_value(policy, keys[k].qty_raw, e.price_raw)
    if over or not money_fits(keys, k, hi, lo, np.int64(0), np.int64(0)):
        return MONEY_OVERFLOW
    gain_hi, gain_lo, _ = sub_128(hi, lo, keys[k].clearing_cost_hi, np.int64(keys[k].clearing_cost_lo))
    gain_hi, gain_lo, _ = add_128(keys[k].variation_hi, np.int64(keys[k].variation_lo), gain_hi, gain_lo)
    keys[k].variation_hi = gain_hi
    keys[k].variation_lo = np.uint64(gain_lo)
    keys[k].clearing_cost_hi = hi
    keys[k].clearing_cost_lo = np.uint64(lo)
    return 0


@kernel
def pool_lots(state, k):
    """To AVERAGE: one pool of all lots, with the id and the date of the earliest."""
    keys, lots = state.keys, state.lots
    first = np.int64(keys[k].oldest)
    while keys[k].open_lots > 1:
        row = np.int64(keys[k].newest)
        if lots[row].price_raw != lots[first].price_raw or not lots[row].flags & lots[first].flags & EXACT:
            lots[first].flags &= ~EXACT
        lots[first].qty_raw += lots[row].qty_raw
        hi, lo, _ = add_128(lots[first].cost_hi, lots[first].cost_lo, lots[row].cost_hi, lots[row].cost_lo)
        lots[first].cost_hi = hi
        lots[first].cost_lo = lo
        lot_remove(state, k, row)
    if first >= 0:
        lots[first].flags |= POOL


@kernel
def rebase(state, k, method):
    """The key's lots go by another method from here on; realised P&L is never restated. Source: backoffice.md section 2."""
    if state.keys[k].method == method:
        return
    if state.keys[k].method == HIFO or state.keys[k].method == SPECIFIC:
        lots_reorder(state, k, FIFO)
    if method == AVERAGE:
        pool_lots(state, k)
    elif state.keys[k].open_lots > 0:
        row = np.int64(state.keys[k].oldest)
        if state.lots[row].flags & POOL:
            state.lots[row].flags &= ~POOL
            if not state.lots[row].flags & EXACT:
                state.lots[row].price_raw = shown_price(state, k, row)
    lots_reorder(state, k, method)


@kernel
def shown_price(state, k, row):
    """Open price of a pool: cost / quantity (inverse: quantity / cost), half-even at price_scale."""
    lot = state.lots[row]
    policy = state.instruments[state.keys[k].instrument_id]
    hi, lo, over = ten_to_the(lot.qty_raw, policy.value_digits)
    if over:
        return lot.price_raw
    if policy.contract == INVERSE:
        return quotient_128(hi, lo, lot.cost_hi, lot.cost_lo)
    return quotient_128(lot.cost_hi, lot.cost_lo, hi, lo)


@kernel
def split_total(qty_raw, numerator, denominator, unit):
    """(qty x numerator / denominator truncated to whole `unit`s, remainder over denominator x unit, overflow)."""
    hi, lo = mul_64(qty_raw, numerator)
    divisor, over = mul_64_checked(denominator, unit)
    if over:
        return np.int64(0), np.int64(0), 1
    count_hi, count, rest = divmod_128_64(hi, lo, divisor)
    over = 0 if count_hi == (count >> 63) else 1
    total, more = mul_64_checked(count, unit)
    return total, rest, over | more


@kernel
def lots_chain(state, k):
    """First lot that the key's method would close, or -1. The key goes by FIFO then; `lot_following` knows the order that it had."""
    keys, lots = state.keys, state.lots
    if keys[k].method != HIFO:
        first = np.int64(keys[k].newest if keys[k].method == LIFO else keys[k].oldest)
        lots_reorder(state, k, FIFO)
        return first
    first, before = np.int64(keys[k].heap), np.int64(-1)
    row = first
    while row >= 0:
        following = heap_pop(lots, row)
        if before >= 0:
            lots[before].child = row
        lots[row].child = -1
        before, row = row, following
    keys[k].method, keys[k].heap = FIFO, -1
    return first


@kernel
def lot_following(state, row, method):
    """The lot behind `row` in the order of the method that the key had before `lots_chain`, or -1."""
    if method == HIFO:
        return np.int64(state.lots[row].child)
    return np.int64(state.lots[row].older if method == LIFO else state.lots[row].newer)


@kernel
def split_refusal(state, k, e, unit):
    """Code why not every number of the key can be split, or 0."""
    lots = state.lots
    numerator, denominator = e.qty_raw, e.price_raw
    row = np.int64(state.keys[k].oldest)
    while row >= 0:
        hi, lo = mul_64(lots[row].price_raw, denominator)
        hi, lo = div_half_even_128_64(hi, lo, numerator)
        if not fits_64(hi, lo):
            return MONEY_OVERFLOW
        row = np.int64(lots[row].newer)
    total = np.int64(0)
    row = np.int64(state.keys[k].accounts)
    while row >= 0:
        total, over = add_64(total, state.accounts[row].qty_raw)
        _, _, more = split_total(total, numerator, denominator, unit)
        if over or more:
            return QUANTITY_OVERFLOW
        row = np.int64(state.accounts[row].next)
    return 0


@kernel
def split(state, out, k, e, forced):
    """A split of `qty_raw` (new) for `price_raw` (old) on every lot of the key, by cumulated truncation. Source: design.md section 4."""
    keys, lots = state.keys, state.lots
    policy = state.instruments[keys[k].instrument_id]
    numerator, denominator = e.qty_raw, e.price_raw
    whole = (e.flags & WHOLE_UNITS) != 0
    unit = np.int64(1)
    for _ in range(np.int64(policy.qty_scale) if whole else np.int64(policy.qty_scale) - np.int64(e.qty_scale)):
        unit *= 10  # a scale that became finer later does not restate what was cut
    old_total = keys[k].qty_raw
    new_total, rest, over = split_total(old_total, numerator, denominator, unit)
    if over:
        return QUANTITY_OVERFLOW
    paid = whole and rest != 0
    if paid and not e.flags & HAS_CASH_PRICE and not forced:
        return CASH_PRICE_REQUIRED
    code = split_refusal(state, k, e, unit)
    if code != 0:
        return code
    cash_hi, cash_lo, over = np.int64(0), np.int64(0), 0
    if paid and e.flags & HAS_CASH_PRICE:
        cash_hi, cash_lo, over = cash_value(policy, rest, denominator, e.fee_raw)
    if over or not money_fits(keys, k, cash_hi, cash_lo, np.int64(0), np.int64(0)):
        return MONEY_OVERFLOW
    method = keys[k].method
    row = lots_chain(state, k)
    account_split(state, out, k, e, numerator, denominator, unit)
    old_sum, new_sum = np.int64(0), np.int64(0)
    carry_hi, carry_lo = np.int64(0), np.int64(0)
    kept = np.int64(-1)
    first = out.counts[MATCHES]
    while row >= 0:
        lot = lots[row]
        following = lot_following(state, row, method)
        old_qty = lot.qty_raw
        old_sum += old_qty
        total, _, _ = split_total(old_sum, numerator, denominator, unit)
        new_qty = total - new_sum
        new_sum = total
        hi, lo, _ = add_128(lot.cost_hi, lot.cost_lo, carry_hi, carry_lo)
        carry_hi, carry_lo = np.int64(0), np.int64(0)
        if paid and following < 0:
            cost_hi, cost_lo = fraction_cost(new_qty, hi, lo, rest, denominator, unit)
            pay(state, out, k, e, row, cost_hi, cost_lo, cash_hi, cash_lo)
            hi, lo, _ = sub_128(hi, lo, cost_hi, cost_lo)
        price_hi, price_lo = mul_64(lot.price_raw, denominator)
        _, price_raw = div_half_even_128_64(price_hi, price_lo, numerator)
        if new_qty == 0 and following < 0 and kept < 0 and (hi != 0 or lo != 0):  # nothing is left to bear it: lost
            pay(state, out, k, e, row, hi, lo, np.int64(0), np.int64(0))
            hi, lo = np.int64(0), np.int64(0)
        if new_qty == 0:
            carry_hi, carry_lo = hi, lo
            lot_remove(state, k, row)
            row = following
            continue
        lots[row].flags &= ~EXACT
        lots[row].qty_raw = new_qty
        lots[row].cost_hi = hi
        lots[row].cost_lo = lo
        lots[row].price_raw = price_raw
        kept, row = row, following
    if kept >= 0:
        hi, lo, _ = add_128(lots[kept].cost_hi, lots[kept].cost_lo, carry_hi, carry_lo)
        lots[kept].cost_hi = hi
        lots[kept].cost_lo = lo
    keys[k].qty_raw = new_total
    matches_number(out, first)
    lots_reorder(state, k, method)
    return 0


@kernel
def cash_value(policy, rest, denominator, price_raw):
    """(hi, lo, overflow) of the fraction rest / denominator (raw units) at `price_raw`, rounded once, half-even."""
    if policy.contract == INVERSE:
        divisor, over = mul_64_checked(price_raw, denominator)
        if over or price_raw == 0:
            return np.int64(0), np.int64(0), over
        return inverse_value_128(rest, divisor, policy.value_digits)
    hi, lo, over = value_128(rest, price_raw, policy.value_digits)
    if over:
        return hi, lo, over
    return ratio_128(hi, lo, np.int64(1), denominator)


@kernel
def fraction_cost(new_qty, hi, lo, rest, denominator, unit):
    """(hi, lo): share of the last lot's cost that leaves with the fraction rest / (denominator x unit); all when nothing else is left."""
    if new_qty == 0:
        return hi, lo
    whole_hi, whole_lo = mul_64(new_qty // unit, denominator * unit)
    whole_hi, whole_lo, _ = add_128(whole_hi, whole_lo, rest >> 63, rest)
    while not fits_64(whole_hi, whole_lo):  # so many units that the fraction's share is nothing but its leading digits
        whole_hi, whole_lo, _ = divmod_128_64(whole_hi, whole_lo, np.int64(2))
        rest //= 2
    hi, lo, _ = share_128(hi, lo, size_of(rest), size_of(whole_lo))
    return hi, lo


@kernel
def pay(state, out, k, e, row, cost_hi, cost_lo, cash_hi, cash_lo):
    """Cash in lieu: a fraction of lot `row` leaves with `cost`, and brings `cash`."""
    keys, lots = state.keys, state.lots
    policy = state.instruments[keys[k].instrument_id]
    price_raw = e.fee_raw if e.flags & HAS_CASH_PRICE else np.int64(0)
    if policy.contract == INVERSE:
        gain_hi, gain_lo, _ = sub_128(cost_hi, cost_lo, cash_hi, cash_lo)
    else:
        gain_hi, gain_lo, _ = sub_128(cash_hi, cash_lo, cost_hi, cost_lo)
    add_realised(keys, k, gain_hi, gain_lo)
    match_add(state, out, k, e, CASH, lots[row], np.int64(0), lots[row].price_raw, price_raw, cost_hi, cost_lo, gain_hi, gain_lo)
    back_hi, back_lo, _ = neg_128(cost_hi, cost_lo)
    add_cost(keys, k, back_hi, back_lo)
    if policy.cleared:
        back_hi, back_lo, _ = neg_128(cash_hi, cash_lo)
        add_clearing(keys, k, back_hi, back_lo)


@kernel
def account_split(state, out, k, e, numerator, denominator, unit):
    """Account quantities after a split: cumulated truncation in ascending account id, so that they sum to the position."""
    row = np.int64(state.keys[k].accounts)
    old_sum, new_sum = np.int64(0), np.int64(0)
    while row >= 0:
        old_sum += state.accounts[row].qty_raw
        total, _, _ = split_total(old_sum, numerator, denominator, unit)
        change = total - new_sum - state.accounts[row].qty_raw
        new_sum = total
        account_add(state, out, k, state.accounts[row].account_id, change, e.sequence)
        row = np.int64(state.accounts[row].next)
