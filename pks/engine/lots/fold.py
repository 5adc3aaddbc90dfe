"""Deriving one key again from its events: which versions live, in which order, and the lots and matches that follow from them.

The same function answers a late correction, an as-of question and a what-if. Source: design.md section 4 (order, as of, verdicts).
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import numpy as np
from numba import njit

from pks.base.units import add_64, add_128, mul_64_checked, scale_up_128
from pks.engine.lots.apply import (
    QUANTITY_OVERFLOW,
    account_add,
    fee_add,
    fee_refusal,
    give,
    is_base_fee,
    rebase,
    receive,
    settle,
    split,
    trade,
)
from pks.engine.lots.kernel import kernel
from pks.engine.lots.keys import key_verdict
from pks.engine.lots.money import base_fee_raw, fee_amount
from pks.engine.lots.pool import lot_insert, lot_take_row, lots_clear
from pks.engine.lots.state import ACCOUNTS_COUNT, MATCHES, REVISIONS_COUNT
from pks.engine.lots.tables import pair_find, pair_set
from pks.layouts.codes import Flag, Kind, MatchFlag, MatchKind
from pks.layouts.event import EVENT
from pks.layouts.state import LOT

TRADE, ALLOCATION, OPENING = int(Kind.TRADE), int(Kind.ALLOCATION), int(Kind.OPENING)
AMEND, CANCEL, FEE = int(Kind.AMEND), int(Kind.CANCEL), int(Kind.FEE)
TRANSFER, ACTION, FIXING = int(Kind.TRANSFER), int(Kind.ACTION), int(Kind.FIXING)
BLOCK = int(Flag.BLOCK)
MOVED, NO_MATCH, PRIOR_PERIOD = int(MatchKind.MOVED), int(MatchKind.NO_MATCH), int(MatchFlag.PRIOR_PERIOD)
SEQUENCE_BITS = 46
TIME_MAX = np.int64(2**63 - 1)
PLACE_MAX = np.int64(2**63 - 1)
MORE_ROOM = -3  # fold: the results are too small, start again with larger ones


@kernel
def walk(records, mask, book_id, instrument_id, key_chain, instrument_chain, before, into):
    """Sequences > `before` of the key's two chains, newest first each, into `into`; how many, or -1 when `into` is too small."""
    count = 0
    n = np.int64(key_chain)
    while n > before:
        if count == into.shape[0]:
            return -1
        into[count] = n
        count += 1
        e = records[n & mask]
        n = e.previous if e.book_id == book_id else e.previous_other
    n = np.int64(instrument_chain)
    while n > before:
        if count == into.shape[0]:
            return -1
        into[count] = n
        count += 1
        n = records[n & mask].previous_other
    return count


@kernel
def place_of(e, kind, sequence):
    """(effective date, actions of a date first, sequence) as one number."""
    later = 0 if kind == ACTION else 1
    return ((np.int64(e.effective_date) * 2 + later) << SEQUENCE_BITS) | sequence


@kernel
def rescale(raw, digits):
    """raw x 10**digits; the border has refused what would not fit."""
    for _ in range(digits):
        raw, _ = mul_64_checked(raw, 10)
    return raw


@kernel
def rescale_moves(moves, instruments, instrument_id):
    """Bring moved lots to the instrument's present scales, exactly."""
    policy = instruments[instrument_id]
    for i in range(moves.shape[0]):
        m = moves[i]
        digits = np.int64(policy.price_scale) - np.int64(m.price_scale)
        m.open_price_raw, m.close_price_raw = rescale(m.open_price_raw, digits), rescale(m.close_price_raw, digits)
        m.qty_raw = rescale(m.qty_raw, np.int64(policy.qty_scale) - np.int64(m.qty_scale))
        hi, lo, _ = scale_up_128(m.cost_hi, np.int64(m.cost_lo), np.int64(policy.money_scale) - np.int64(m.money_scale))
        m.cost_hi, m.cost_lo = hi, np.uint64(lo)
        hi, lo, _ = scale_up_128(m.realised_hi, np.int64(m.realised_lo), np.int64(policy.money_scale) - np.int64(m.money_scale))
        m.realised_hi, m.realised_lo = hi, np.uint64(lo)
        m.price_scale, m.qty_scale, m.money_scale = policy.price_scale, policy.qty_scale, policy.money_scale


@kernel
def entry_of(firsts, count, sequence):
    """Index of `sequence` in the ascending firsts[:count], or -1."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if firsts[middle] < sequence:
            low = middle + 1
        else:
            high = middle
    return low if low < count and firsts[low] == sequence else -1


@kernel
def is_key_refused(state, e, kind, book_id, instrument_id):
    """Did this key refuse an event that is judged by each key: an instrument's, or a transfer by its receiver?"""
    by_key = kind == ACTION or kind == FIXING or (e.to_book_id != 0 and e.to_book_id == book_id)
    return by_key and pair_find(state.refused, key_verdict(book_id, instrument_id, e.sequence)) >= 0


@njit(cache=True)
def resolve(state, records, mask, sequences, book_id, instrument_id, known, time_max):
    """The live versions of the events at `sequences` (ascending), as known at `known` and with trade_time <= time_max.

    Returns (entries EVENT[n] in order, versions int64[n], fee_first int64[n], fee_next int64[m], fees EVENT[m]): an entry has its
    original's sequence and kind; `versions` is the event that made it what it is; fees of entry i are chained from fee_first[i].
    """
    policy = state.instruments[instrument_id]
    size = sequences.shape[0]
    firsts, versions = np.empty(size, np.int64), np.empty(size, np.int64)
    alive = np.empty(size, np.uint8)
    fee_rows, fee_next = np.empty(size, np.int64), np.empty(size, np.int64)
    fee_first = np.full(size, -1, np.int64)
    count, fee_count = 0, 0
    for s in sequences:
        if s > known:
            break
        if pair_find(state.refused, s) >= 0:
            continue
        e = records[s & mask]
        kind = e.kind
        if kind == TRADE or kind == ALLOCATION or kind == OPENING or kind == TRANSFER or kind == ACTION or kind == FIXING:
            if (kind == TRADE and e.flags & BLOCK) or is_key_refused(state, e, kind, book_id, instrument_id):
                continue
            firsts[count] = s
            versions[count] = s
            alive[count] = 1
            count += 1
        elif kind == AMEND or kind == CANCEL or kind == FEE:
            i = entry_of(firsts, count, e.original)
            if i < 0 or is_key_refused(state, e, kind, book_id, instrument_id):
                continue
            if kind == CANCEL:
                alive[i] = 0
            elif kind == AMEND:
                versions[i] = s
            elif e.trade_time_ns <= time_max:
                fee_rows[fee_count] = s
                fee_next[fee_count] = fee_first[i]
                fee_first[i] = fee_count
                fee_count += 1
    keep, last, is_sorted = 0, np.int64(-1), True
    places = np.empty(count, np.int64)
    for i in range(count):
        e = records[versions[i] & mask]
        if alive[i] and e.trade_time_ns <= time_max:
            place = place_of(e, records[firsts[i] & mask].kind, firsts[i])
            is_sorted = is_sorted and place > last
            last = place
            places[keep] = place
            firsts[keep], versions[keep], fee_first[keep] = firsts[i], versions[i], fee_first[i]
            keep += 1
    order = np.arange(keep) if is_sorted else np.argsort(places[:keep], kind="mergesort")
    entries = np.empty(keep, EVENT)
    for j in range(keep):
        i = order[j]
        entries[j] = records[versions[i] & mask]
        e = entries[j]
        e.sequence, e.kind = firsts[i], records[firsts[i] & mask].kind
        if e.price_scale != policy.price_scale or e.qty_scale != policy.qty_scale:
            digits = np.int64(policy.price_scale) - np.int64(e.price_scale)
            if e.kind == ACTION:
                e.fee_raw = rescale(e.fee_raw, digits)
            else:
                e.price_raw = rescale(e.price_raw, digits)
                e.qty_raw = rescale(e.qty_raw, np.int64(policy.qty_scale) - np.int64(e.qty_scale))
    fees = np.empty(fee_count, EVENT)
    for j in range(fee_count):
        fees[j] = records[fee_rows[j] & mask]
    return entries, versions[order], fee_first[order], fee_next[:fee_count], fees


@kernel
def common(old, old_versions, old_fee_first, old_fee_next, new, new_versions, new_fee_first, new_fee_next, changes, judged):
    """How many entries from the first on are the same in both: what was folded of them before still holds."""
    place_max = PLACE_MAX
    for i in range(changes.shape[0]):
        if changes[i, 1] > judged:
            place_max = min(place_max, change_place(changes, i))
    same = 0
    while same < old.shape[0] and same < new.shape[0]:
        if old_versions[same] != new_versions[same] or old[same].sequence != new[same].sequence:
            break
        if place_of(new[same], new[same].kind, new[same].sequence) > place_max:
            break
        a, b = old_fee_first[same], new_fee_first[same]
        while a >= 0 and b >= 0:
            a, b = old_fee_next[a], new_fee_next[b]
        if a != b:
            break
        same += 1
    return same


@kernel
def change_place(changes, i):
    """Place of a change of policy in the order; one that holds since ever comes first."""
    return ((max(changes[i, 0], np.int64(0)) * 2 + 1) << SEQUENCE_BITS) | changes[i, 1]


@kernel
def take_changes(state, changes, at, place):
    """Let the key of the scratch `state` go by every change of policy from `at` on up to that place; the first one behind it."""
    while at < changes.shape[0] and change_place(changes, at) <= place:
        book = state.books[state.keys[0].book_id]
        book.oversell, book.fees_in_cost = changes[at, 3], changes[at, 4]
        rebase(state, 0, changes[at, 2])
        at += 1
    return at


@kernel
def fees_of(state, keys, e, fee, fee_next, fees):
    """What the later FEE events of a trade add: (traded asset at qty_scale, cost hi, cost lo at FEE_SCALE, overflow)."""
    policy = state.instruments[keys[0].instrument_id]
    in_cost = state.books[keys[0].book_id].fees_in_cost
    base, hi, lo, over = np.int64(0), np.int64(0), np.int64(0), 0
    while fee >= 0:
        f = fees[fee]
        if is_base_fee(policy, f.fee_currency_id):
            base, more = add_64(base, base_fee_raw(f.fee_raw, np.int64(f.fee_scale), np.int64(policy.qty_scale)))
            over |= more
        elif in_cost and f.fee_currency_id == policy.pnl_currency_id:
            more_hi, more_lo = fee_amount(f.fee_raw, f.fee_scale)
            hi, lo, more = add_128(hi, lo, more_hi, more_lo)
            over |= more
        fee = fee_next[fee]
    return base, hi, lo, over


@kernel
def fees_add(keys, fee, fee_next, fees):
    """Add the later FEE events of a trade to the key; 0, or the code of the first that cannot be and its sequence."""
    while fee >= 0:
        f = fees[fee]
        if f.fee_raw != 0:
            hi, lo = fee_amount(f.fee_raw, f.fee_scale)
            code = fee_refusal(keys, 0, f.fee_currency_id, hi, lo)
            if code != 0:
                return np.int64(code), f.sequence
            fee_add(keys, 0, f.fee_currency_id, hi, lo)
        fee = fee_next[fee]
    return np.int64(0), np.int64(0)


@njit(cache=True)
def fold_key(
    state, out, entries, versions, fee_first, fee_next, fees, changes, moves, move_first, move_count, judged, sets, start, stop, change_at
):
    """Fold entries start..stop - 1 onto key row 0 of the scratch `state`, whose books are its own.

    judged: events up to this sequence have their verdicts and are booked whatever they meet now.
    changes, change_at: the book's changes of policy (keys.changes_of) and the first that is not taken.
    moves, move_first, move_count: the lots that came with each TRANSFER whose receiver this key is.
    sets: int64[n + 1], written: the match records of entry i are out.matches[sets[i]:sets[i + 1]].
    Returns (entries folded, change_at, code, sequence): code 0, or that of the event that must be refused, or MORE_ROOM.
    """
    keys = state.keys
    book_id = np.int64(keys[0].book_id)
    for i in range(start, stop):
        e = entries[i]
        sets[i] = out.counts[MATCHES]
        if out.counts[MATCHES] + keys[0].open_lots + move_count[i] + 2 > out.matches.shape[0]:
            return i, change_at, np.int64(MORE_ROOM), np.int64(0)
        change_at = take_changes(state, changes, change_at, place_of(e, e.kind, e.sequence))
        forced = versions[i] <= judged
        code = np.int64(0)
        if e.kind == TRANSFER:
            if e.book_id == book_id:
                code = np.int64(give(state, out, 0, e, forced))
            else:
                code = np.int64(receive(state, out, 0, e, moves, move_first[i], move_count[i]))
        elif e.kind == ACTION:
            code = np.int64(split(state, out, 0, e, forced))
        elif e.kind == FIXING:
            code = np.int64(settle(state, 0, e))
        else:
            base, hi, lo, over = fees_of(state, keys, e, fee_first[i], fee_next, fees)
            code = np.int64(QUANTITY_OVERFLOW if over else 0)
            if code == 0:
                code = np.int64(trade(state, out, 0, e, base, hi, lo, forced))
        blamed = versions[i]
        if code == 0 and fee_first[i] >= 0 and (e.kind != TRANSFER or e.book_id == book_id):
            code, blamed = fees_add(keys, fee_first[i], fee_next, fees)
        if code != 0:
            return i, change_at, code, blamed
        sets[i + 1] = out.counts[MATCHES]
    return stop, change_at, np.int64(0), np.int64(0)


@kernel
def same_set(a, a_first, a_count, b, b_first, b_count):
    """Do two match sets say the same, cause and revision apart?"""
    if a_count != b_count:
        return False
    for i in range(a_count):
        x, y = a[a_first + i], b[b_first + i]
        if (
            x.open_sequence != y.open_sequence
            or x.open_leg != y.open_leg
            or x.qty_raw != y.qty_raw
            or x.open_price_raw != y.open_price_raw
            or x.close_price_raw != y.close_price_raw
            or x.cost_hi != y.cost_hi
            or x.cost_lo != y.cost_lo
            or x.realised_hi != y.realised_hi
            or x.realised_lo != y.realised_lo
            or x.open_date != y.open_date
            or x.effective_date != y.effective_date
            or x.kind != y.kind
        ):
            return False
    return True


@njit(cache=True)
def order_of(sequences):
    """np.argsort, quick where there is nothing to sort."""
    for i in range(1, sequences.shape[0]):
        if sequences[i] < sequences[i - 1]:
            return np.argsort(sequences)
    return np.arange(sequences.shape[0])


@njit(cache=True)
def changed_sets(old, old_sequences, old_sets, new, new_sequences, new_sets, into):
    """Which sets differ: rows (sequence, first and count in `new`, first and count in `old`) into `into` (int64[n, 5]); how many."""
    old_order, new_order = order_of(old_sequences), order_of(new_sequences)
    i, j, count = 0, 0, 0
    while i < old_order.shape[0] or j < new_order.shape[0]:
        a = old_sequences[old_order[i]] if i < old_order.shape[0] else np.int64(2**62)
        b = new_sequences[new_order[j]] if j < new_order.shape[0] else np.int64(2**62)
        a_first, a_count, b_first, b_count = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
        if a <= b:
            a_first = old_sets[old_order[i]]
            a_count = old_sets[old_order[i] + 1] - a_first
            i += 1
        if b <= a:
            b_first = new_sets[new_order[j]]
            b_count = new_sets[new_order[j] + 1] - b_first
            j += 1
        if not same_set(old, a_first, a_count, new, b_first, b_count):
            into[count, 0] = min(a, b)
            into[count, 1] = b_first
            into[count, 2] = b_count
            into[count, 3] = a_first
            into[count, 4] = a_count
            count += 1
    return count


@njit(cache=True)
def lots_of(state, k):
    """LOT[open_lots]: copies of the key's lots, oldest first."""
    lots = np.empty(state.keys[k].open_lots, LOT)
    row = np.int64(state.keys[k].oldest)
    for i in range(lots.shape[0]):
        lots[i] = state.lots[row]
        row = np.int64(state.lots[row].newer)
    return lots


@kernel
def put_key(state, key, lots, accounts):
    """Make key row 0 of the empty scratch `state` what an anchor kept: numbers, lots and account quantities."""
    state.keys[0] = key
    new = state.keys[0]
    new.oldest, new.newest, new.heap, new.accounts, new.open_lots = -1, -1, -1, -1, 0
    for i in range(lots.shape[0]):
        row = lot_take_row(state)
        state.lots[row] = lots[i]
        lot_insert(state, 0, row)
    for i in range(accounts.shape[0]):
        state.accounts[i] = accounts[i]
        state.accounts[i].next = i + 1 if i + 1 < accounts.shape[0] else -1
    new.accounts = 0 if accounts.shape[0] > 0 else -1
    state.meta[ACCOUNTS_COUNT] = accounts.shape[0]


@kernel
def holds(records, mask, sequences, changes, date, sequence):
    """Does an anchor taken before the first event (at `sequence`) of `date` still hold? sequences: the key's events from there on.

    It does when none of them reaches behind it: each has that date or a later one, and corrects nothing older than the anchor.
    """
    for s in sequences:
        e = records[s & mask]
        is_correction = e.kind == AMEND or e.kind == CANCEL or e.kind == FEE
        if e.effective_date < date or (is_correction and e.original < sequence):
            return False
    for i in range(changes.shape[0]):
        if changes[i, 1] >= sequence and changes[i, 0] < date:
            return False
    return True


@kernel
def account_qty(state, k, account_id):
    """What the account holds of the key."""
    row = np.int64(state.keys[k].accounts)
    while row >= 0:
        if state.accounts[row].account_id == account_id:
            return state.accounts[row].qty_raw
        row = np.int64(state.accounts[row].next)
    return np.int64(0)


@kernel
def accounts_of(state, k):
    """How many accounts the key has rows of."""
    count, row = 0, np.int64(state.keys[k].accounts)
    while row >= 0:
        count += 1
        row = np.int64(state.accounts[row].next)
    return count


@kernel
def install(state, out, k, scratch, sequence):
    """Put the derived key (row 0 of `scratch`) in place of key `k`: numbers, lots, accounts. `sequence`: the event that changes them."""
    keys, lots = state.keys, state.lots
    lots_clear(state, k)
    new, key = scratch.keys[0], keys[k]
    key.qty_raw, key.cost_hi, key.cost_lo = new.qty_raw, new.cost_hi, new.cost_lo
    key.realised_hi, key.realised_lo = new.realised_hi, new.realised_lo
    key.clearing_cost_hi, key.clearing_cost_lo = new.clearing_cost_hi, new.clearing_cost_lo
    key.variation_hi, key.variation_lo = new.variation_hi, new.variation_lo
    key.event_time_ns, key.last_price_raw, key.trades_count = new.event_time_ns, new.last_price_raw, new.trades_count
    key.price_scale, key.qty_scale, key.money_scale, key.flags = new.price_scale, new.qty_scale, new.money_scale, new.flags
    for cell in range(4):
        key.fee_currency_id[cell] = new.fee_currency_id[cell]
        key.fees_hi[cell] = new.fees_hi[cell]
        key.fees_lo[cell] = new.fees_lo[cell]
    key.method = new.method
    row = np.int64(new.oldest)
    while row >= 0:
        made = lot_take_row(state)
        following = np.int64(scratch.lots[row].newer)
        lots[made] = scratch.lots[row]
        lot_insert(state, k, made)
        row = following
    row = np.int64(key.accounts)
    while row >= 0:
        account_id = state.accounts[row].account_id
        change = account_qty(scratch, 0, account_id) - state.accounts[row].qty_raw
        if change != 0:
            account_add(state, out, k, account_id, change, sequence)
        row = np.int64(state.accounts[row].next)
    row = np.int64(new.accounts)
    while row >= 0:
        account_id = scratch.accounts[row].account_id
        change = scratch.accounts[row].qty_raw - account_qty(state, k, account_id)
        if change != 0:
            account_add(state, out, k, account_id, change, sequence)
        row = np.int64(scratch.accounts[row].next)


@njit(cache=True)
def reissue(state, out, k, changed, first, count, new, old, judged, cause, recorded_ns, locked, moved):
    """Say the sets changed[first:count] (rows of `changed_sets`) of key `k`; new, old: the match records that the rows point into.

    moved: int64[n + 1], written: how many transfers moved other lots than before, then their sequences. Returns the first row that was
    not said, because `out` or the table of revisions has no room for it; `count` when all were.
    """
    keys = state.keys
    for row in range(first, count):
        sequence, at, size = changed[row, 0], changed[row, 1], changed[row, 2]
        said = max(size, 1)
        if out.counts[MATCHES] + said > out.matches.shape[0] or 2 * (state.meta[REVISIONS_COUNT] + 2) > state.revisions.shape[0]:
            return row
        revision = np.int64(0)
        if sequence <= judged:
            name = key_verdict(np.int64(keys[k].book_id), np.int64(keys[k].instrument_id), sequence)
            revision = max(np.int64(0), pair_find(state.revisions, name)) + 1
            if pair_set(state.revisions, name, revision):
                state.meta[REVISIONS_COUNT] += 1
        kind = new[at].kind if size else old[changed[row, 3]].kind
        for i in range(said):
            place = out.counts[MATCHES] + i
            if size:
                out.matches[place] = new[at + i]
            m = out.matches[place]
            if not size:
                clear_match(m)
                m.sequence, m.kind, m.count = sequence, NO_MATCH, 1
                m.effective_date = old[changed[row, 3]].effective_date
                m.book_id, m.instrument_id = keys[k].book_id, keys[k].instrument_id
                m.price_scale, m.qty_scale, m.money_scale = keys[k].price_scale, keys[k].qty_scale, keys[k].money_scale
            if sequence <= judged:
                m.revision, m.cause, m.recorded_ns = revision, cause, recorded_ns
            if m.effective_date <= locked:
                m.flags |= PRIOR_PERIOD
        out.counts[MATCHES] += said
        if kind == MOVED and sequence <= judged:
            moved[0] += 1
            moved[moved[0]] = sequence
    return count


@njit(cache=True)
def clear_match(m):
    """Every number of a match record that an empty set does not have."""
    m.cause, m.recorded_ns, m.open_sequence, m.qty_raw = 0, 0, 0, 0
    m.open_price_raw, m.close_price_raw, m.cost_hi, m.cost_lo = 0, 0, 0, np.uint64(0)
    m.realised_hi, m.realised_lo, m.open_date, m.index, m.revision = 0, np.uint64(0), 0, 0, 0
    m.flags, m.code, m.open_leg = 0, 0, 0
