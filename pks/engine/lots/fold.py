"""Deriving one key again from its events: which versions live, in which order, and the lots and matches that follow from them.

The same function answers a late correction, an as-of question and a what-if. Source: design.md section 4 (order, as of, verdicts).
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import numpy as np
from numba import njit

from pks.base.kernels import inlined, kernel
from pks.base.units import add_64, add_128, mul_64_checked, scale_up_128
from pks.engine.lots.apply import (
    INVERSE,
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
from pks.engine.lots.keys import key_verdict
from pks.engine.lots.money import base_fee_raw, fee_amount
from pks.engine.lots.pool import lot_insert, lot_take_row, lots_clear
from pks.engine.lots.state import ACCOUNTS_COUNT, MATCHES, REVISIONS_COUNT
from pks.engine.lots.tables import pair_find, pair_set
from pks.layouts.codes import Flag, Kind, MatchFlag, MatchKind
from pks.layouts.state import LOT

TRADE, ALLOCATION, OPENING = int(Kind.TRADE), int(Kind.ALLOCATION), int(Kind.OPENING)
AMEND, CANCEL, FEE = int(Kind.AMEND), int(Kind.CANCEL), int(Kind.FEE)
TRANSFER, ACTION, FIXING = int(Kind.TRANSFER), int(Kind.ACTION), int(Kind.FIXING)
BLOCK = int(Flag.BLOCK)
MOVED, NO_MATCH, PRIOR_PERIOD = int(MatchKind.MOVED), int(MatchKind.NO_MATCH), int(MatchFlag.PRIOR_PERIOD)
CASH = int(MatchKind.CASH)
SEQUENCE_BITS = 46
TIME_MAX = np.int64(2**63 - 1)
PLACE_MAX = np.int64(2**63 - 1)
MORE_ROOM = -3  # fold: the results are too small, go on with larger ones
PAIR, GONE, COME, MOVED_HERE = 0, 1, 2, 3  # what a row of `segments` is


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


@kernel
def take_version(state, records, mask, s, book_id, instrument_id, time_max, firsts, versions, kinds, fee_first, fees, counts):
    """Take event `s` into the entries[:counts[0]] and fees[:counts[1]] of its key."""
    if pair_find(state.refused, s) >= 0:
        return
    e = records[s & mask]
    kind = e.kind
    if kind == TRADE or kind == ALLOCATION or kind == OPENING or kind == TRANSFER or kind == ACTION or kind == FIXING:
        if not (kind == TRADE and e.flags & BLOCK) and not is_key_refused(state, e, kind, book_id, instrument_id):
            i = counts[0]
            firsts[i], versions[i], kinds[i], fee_first[i] = s, s, kind, -1
            counts[0] = i + 1
    elif kind == AMEND or kind == CANCEL or kind == FEE:
        i = entry_of(firsts, counts[0], e.original)
        if i < 0 or is_key_refused(state, e, kind, book_id, instrument_id):
            return
        if kind == CANCEL:
            versions[i] = 0
        elif kind == AMEND:
            versions[i] = s if versions[i] != 0 else 0
        elif e.trade_time_ns <= time_max:
            fee = fees[counts[1]]
            fee[0], fee[1], fee[2], fee[3], fee[4] = e.fee_raw, e.fee_scale, e.fee_currency_id, s, fee_first[i]
            fee_first[i] = counts[1]
            counts[1] += 1


@kernel
def resolve(
    state, records, mask, sequences, start, known, book_id, instrument_id, time_max, firsts, versions, kinds, fee_first, fees, counts
):
    """The versions of the events sequences[start:] (ascending) up to `known`, behind what counts[0] entries and counts[1] fees say already.

    Written, of each entry in the order of sequences: its original's sequence, the event that made it what it is (0: cancelled), its
    original's kind, the first of its fees (an index, or -1). fees: int64[m, 5], written: raw, scale, currency, sequence, next fee of the
    entry. Fees count up to `time_max`. Returns the first of `sequences` behind `known`.
    """
    at = start
    while at < sequences.shape[0] and sequences[at] <= known:
        take_version(
            state, records, mask, sequences[at], book_id, instrument_id, time_max, firsts, versions, kinds, fee_first, fees, counts
        )
        at += 1
    return at


@kernel
def keep_live(
    records, mask, count, time_max, firsts, versions, kinds, fee_first, into_firsts, into_versions, into_kinds, into_fee_first, places
):
    """Copy the entries that live and have a trade_time <= time_max, with their places; (how many, whether they are in order)."""
    keep, last, is_sorted = 0, np.int64(-1), True
    for i in range(count):
        if versions[i] == 0:
            continue
        e = records[versions[i] & mask]
        if e.trade_time_ns <= time_max:
            place = place_of(e, kinds[i], firsts[i])
            is_sorted = is_sorted and place > last
            last = place
            into_firsts[keep], into_versions[keep], into_kinds[keep] = firsts[i], versions[i], kinds[i]
            places[keep], into_fee_first[keep] = place, fee_first[i]
            keep += 1
    return keep, is_sorted


@kernel
def load_entries(records, mask, firsts, versions, kinds, instruments, instrument_id, start, stop, entries):
    """Into entries[0:stop - start] the entries start..stop - 1: the record of the version, with sequence and kind of its original, in the
    instrument's scales."""
    policy = instruments[instrument_id]
    for i in range(start, stop):
        entries[i - start] = records[versions[i] & mask]
        e = entries[i - start]
        e.sequence, e.kind = firsts[i], kinds[i]
        if e.price_scale != policy.price_scale or e.qty_scale != policy.qty_scale:
            digits = np.int64(policy.price_scale) - np.int64(e.price_scale)
            if e.kind == ACTION:
                e.fee_raw = rescale(e.fee_raw, digits)
            else:
                e.price_raw = rescale(e.price_raw, digits)
                e.qty_raw = rescale(e.qty_raw, np.int64(policy.qty_scale) - np.int64(e.qty_scale))


@kernel
def common(old_firsts, old_versions, old_fee_first, old_fees, new_firsts, new_versions, new_fee_first, new_fees, new_places, place_max):
    """How many entries from the first on are the same in both, up to that place: what was folded of them before still holds."""
    same = 0
    while same < old_firsts.shape[0] and same < new_firsts.shape[0] and new_places[same] <= place_max:
        if old_versions[same] != new_versions[same] or old_firsts[same] != new_firsts[same]:
            break
        a, b = old_fee_first[same], new_fee_first[same]
        while a >= 0 and b >= 0:
            a, b = old_fees[a, 4], new_fees[b, 4]
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
def fees_of(state, keys, fee, fees):
    """What the later FEE events of a trade add: (traded asset at qty_scale, cost hi, cost lo at FEE_SCALE, overflow)."""
    policy = state.instruments[keys[0].instrument_id]
    in_cost = state.books[keys[0].book_id].fees_in_cost
    base, hi, lo, over = np.int64(0), np.int64(0), np.int64(0), 0
    while fee >= 0:
        raw, scale, currency_id = fees[fee, 0], fees[fee, 1], fees[fee, 2]
        if is_base_fee(policy, currency_id):
            base, more = add_64(base, base_fee_raw(raw, scale, np.int64(policy.qty_scale)))
            over |= more
        elif in_cost and currency_id == policy.pnl_currency_id:
            more_hi, more_lo = fee_amount(raw, scale)
            hi, lo, more = add_128(hi, lo, more_hi, more_lo)
            over |= more
        fee = fees[fee, 4]
    return base, hi, lo, over


@kernel
def fees_add(keys, fee, fees, after):
    """Add the later FEE events of a trade, of a sequence > `after`, to the key; 0, or code and sequence of the first that cannot be."""
    while fee >= 0:
        if fees[fee, 0] != 0 and fees[fee, 3] > after:
            hi, lo = fee_amount(fees[fee, 0], fees[fee, 1])
            code = fee_refusal(keys, 0, fees[fee, 2], hi, lo)
            if code != 0:
                return np.int64(code), fees[fee, 3]
            fee_add(keys, 0, fees[fee, 2], hi, lo)
        fee = fees[fee, 4]
    return np.int64(0), np.int64(0)


@kernel
def add_later_fees(keys, records, mask, versions, kinds, fee_first, fees, entries, after):
    """Add to key row 0 what FEE events > `after` add to the first `entries` entries; (code, sequence) as `fees_add`."""
    for i in range(entries):
        if fee_first[i] >= 0 and (kinds[i] != TRANSFER or records[versions[i] & mask].book_id == keys[0].book_id):
            code, blamed = fees_add(keys, fee_first[i], fees, after)
            if code != 0:
                return code, blamed
    return np.int64(0), np.int64(0)


@kernel
def fold_key(
    state, out, entries, base, versions, places, fee_first, fees, changes, taken, moves, move_first, move_count, judged, sets, start, stop
):
    """Fold entries start..stop - 1 onto key row 0 of the scratch `state`, whose books are its own. Entry i is entries[i - base].

    judged: events up to this sequence have their verdicts and are booked whatever they meet now.
    changes: the book's changes of policy (keys.changes_of); the first `taken` of them are.
    moves, move_first, move_count: the lots that came with each TRANSFER whose receiver this key is.
    sets: int64[n + 1], written: the match records of entry i are out.matches[sets[i]:sets[i + 1]].
    Returns (entries folded, changes taken, code, sequence): code 0, or that of the event that must be refused, or MORE_ROOM.
    """
    keys = state.keys
    book_id = np.int64(keys[0].book_id)
    for i in range(start, stop):
        e = entries[i - base]
        sets[i] = out.counts[MATCHES]
        if out.counts[MATCHES] + keys[0].open_lots + move_count[i] + 2 > out.matches.shape[0]:
            return i, taken, np.int64(MORE_ROOM), np.int64(0)
        taken = take_changes(state, changes, taken, places[i])
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
            more, hi, lo, over = fees_of(state, keys, fee_first[i], fees)
            code = np.int64(QUANTITY_OVERFLOW if over else 0)
            if code == 0:
                code = np.int64(trade(state, out, 0, e, more, hi, lo, forced))
        blamed = versions[i]
        if code == 0 and fee_first[i] >= 0 and (e.kind != TRANSFER or e.book_id == book_id):
            code, blamed = fees_add(keys, fee_first[i], fees, np.int64(-1))
        if code != 0:
            return i, taken, code, blamed
        sets[i + 1] = out.counts[MATCHES]
    return stop, taken, np.int64(0), np.int64(0)


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


@kernel
def segments(old_places, new_places, new_firsts, i, j, judged, stops, size, into):
    """How the entries of two folds from i and j on go together, in the order of the fold: rows (what, i, j, n) into int64[., 4]; how many.

    PAIR: n entries that both have at the same place. GONE: old ones that are not there any more. COME: new ones of events > judged.
    MOVED_HERE: old ones that had another place. No row has more than `size` entries or goes over one of the new places in `stops`.
    """
    count, stop = 0, 0
    while i < old_places.shape[0] or j < new_places.shape[0]:
        what = PAIR
        if j == new_places.shape[0] or (i < old_places.shape[0] and old_places[i] < new_places[j]):
            what = GONE
        elif i == old_places.shape[0] or new_places[j] < old_places[i]:
            what = COME if new_firsts[j] > judged else MOVED_HERE
        while stop < stops.shape[0] and stops[stop] <= j:
            stop += 1
        until = stops[stop] if stop < stops.shape[0] else new_places.shape[0]
        n = 0
        if what == PAIR:
            while n < size and j + n < until and i + n < old_places.shape[0] and old_places[i + n] == new_places[j + n]:
                n += 1
        elif what == GONE:
            while n < size and i + n < old_places.shape[0] and (j == new_places.shape[0] or old_places[i + n] < new_places[j]):
                n += 1
        else:
            while n < size and j + n < until and (i == old_places.shape[0] or new_places[j + n] < old_places[i]):
                if (new_firsts[j + n] > judged) != (what == COME):
                    break
                n += 1
        into[count, 0], into[count, 1], into[count, 2], into[count, 3] = what, i, j, n
        count += 1
        i += n if what == PAIR or what == GONE else 0
        j += n if what != GONE else 0
    return count


@kernel
def differing(old, old_sets, i, new, new_sets, j, n, firsts, keys, rows, said):
    """Which of n sets of entries from i (-1: there are none) and j on differ: rows (sequence, records, kind) into int64[., 3], and the new
    records, or one NO_MATCH where a set is gone, into `said`. Returns (rows, records)."""
    count, at = 0, 0
    for step in range(n):
        a_first, a_count = np.int64(0), np.int64(0)
        if i >= 0:
            a_first = old_sets[i + step]
            a_count = old_sets[i + step + 1] - a_first
        b_first = new_sets[j + step]
        b_count = new_sets[j + step + 1] - b_first
        if same_set(old, a_first, a_count, new, b_first, b_count):
            continue
        rows[count, 0], rows[count, 1] = firsts[j + step], max(b_count, 1)
        rows[count, 2] = new[b_first].kind if b_count else old[a_first].kind
        count += 1
        for record in range(b_count):
            said[at] = new[b_first + record]
            at += 1
        if b_count == 0:
            no_match(said[at], firsts[j + step], old[a_first].effective_date, keys)
            at += 1
    return count, at


@kernel
def no_match(m, sequence, date, keys):
    """Make `m` say that event `sequence` of key row 0 closes nothing any more."""
    key = keys[0]
    m.cause, m.recorded_ns, m.open_sequence, m.qty_raw = 0, 0, 0, 0
    m.open_price_raw, m.close_price_raw, m.cost_hi, m.cost_lo = 0, 0, 0, np.uint64(0)
    m.realised_hi, m.realised_lo, m.open_date, m.index, m.revision = 0, np.uint64(0), 0, 0, 0
    m.flags, m.code, m.open_leg = 0, 0, 0
    m.sequence, m.kind, m.count, m.effective_date = sequence, NO_MATCH, 1, date
    m.book_id, m.instrument_id = key.book_id, key.instrument_id
    m.price_scale, m.qty_scale, m.money_scale = key.price_scale, key.qty_scale, key.money_scale


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


@kernel
def reissue(state, out, k, rows, first, said, at, judged, cause, recorded_ns, locked, moved):
    """Say the sets of rows[first:] (as `differing` left them, their records from said[at] on) of key `k`.

    moved: int64[n + 1], written: how many transfers moved other lots than before, then their sequences. Returns the first row and record
    that were not said, because `out` or the table of revisions has no room for them; (rows, records) when all were.
    """
    keys = state.keys
    for row in range(first, rows.shape[0]):
        sequence, size = rows[row, 0], rows[row, 1]
        if out.counts[MATCHES] + size > out.matches.shape[0] or 2 * (state.meta[REVISIONS_COUNT] + 2) > state.revisions.shape[0]:
            return row, at
        revision = np.int64(0)
        if sequence <= judged:
            name = key_verdict(np.int64(keys[k].book_id), np.int64(keys[k].instrument_id), sequence)
            revision = max(np.int64(0), pair_find(state.revisions, name)) + 1
            if pair_set(state.revisions, name, revision):
                state.meta[REVISIONS_COUNT] += 1
        for i in range(size):
            out.matches[out.counts[MATCHES] + i] = said[at + i]
            m = out.matches[out.counts[MATCHES] + i]
            if sequence <= judged:
                m.revision, m.cause, m.recorded_ns = revision, cause, recorded_ns
            elif m.kind == CASH and sequence < cause:  # of an earlier split, on a position that a backdated trade has opened now
                m.cause, m.recorded_ns = cause, recorded_ns
            if m.effective_date <= locked:
                m.flags |= PRIOR_PERIOD
        out.counts[MATCHES] += size
        at += size
        if rows[row, 2] == MOVED and sequence <= judged:
            moved[0] += 1
            moved[moved[0]] = sequence
    return rows.shape[0], at


@inlined
def finer(to_scale, from_scale):
    """10 ** (to_scale - from_scale) as a float64."""
    return 1.0 if to_scale == from_scale else 10.0 ** (np.int64(to_scale) - np.int64(from_scale))


@kernel
def may_be_refused(state, records, mask, sequences, moves, instrument_id):
    """Could an event of the key be refused for a number that does not fit, or for a fifth fee currency? False only when none can.

    An upper bound of every sum in float64, over all versions at once, so that no event has to be judged alone: it enters no number.
    """
    policy = state.instruments[instrument_id]
    digits = 10.0 ** np.int64(policy.value_digits)
    qty, price_max, value, fee_sum = 0.0, 0.0, 0.0, 0.0
    growth, shrink, cash_max, clearings = 1.0, 1.0, 0.0, 0.0
    a, b, c, d = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    scale, in_fees, in_asset = np.uint8(255), 1.0, 1.0
    for at in range(sequences.shape[0]):
        if pair_find(state.refused, sequences[at]) >= 0:
            continue
        e = records[sequences[at] & mask]
        if e.kind == ACTION:
            growth *= max(1.0, float(e.qty_raw))
            shrink *= max(1.0, float(e.price_raw))
            cash_max = max(cash_max, abs(float(e.fee_raw)) * finer(policy.price_scale, e.price_scale))
            clearings += 1.0
            continue
        price = abs(float(e.price_raw)) * finer(policy.price_scale, e.price_scale)
        price_max = max(price_max, price)
        if e.kind == FIXING:
            clearings += 1.0
            continue
        size = abs(float(e.qty_raw)) * finer(policy.qty_scale, e.qty_scale)
        fee = np.int64(e.fee_currency_id)
        if e.fee_raw != 0:
            if e.fee_scale != scale:
                scale, in_fees, in_asset = e.fee_scale, 10.0 ** (18 - np.int64(e.fee_scale)), finer(policy.qty_scale, e.fee_scale)
            fee_sum += abs(float(e.fee_raw)) * in_fees
            size += abs(float(e.fee_raw)) * in_asset
            if fee != a and fee != b and fee != c and fee != d:
                if d != 0:
                    return True
                a, b, c, d = fee, a, b, c
        qty += size
        value += size * digits * (1.0 if policy.contract == INVERSE else max(1.0, price))
    for i in range(moves.shape[0]):
        qty += abs(float(moves[i].qty_raw))
        value += (abs(float(moves[i].cost_hi)) + 1.0) * 2.0**64
        price_max = max(price_max, abs(float(moves[i].open_price_raw)))
    fee_money = fee_sum * max(1.0, 10.0 ** (np.int64(policy.money_scale) - 18))
    fee_money *= float(policy.multiplier_denominator) * float(policy.multiplier_numerator)
    at_price = qty * growth * digits * max(price_max, cash_max, 1.0)
    money = 4.0 * value + 2.0 * clearings * at_price + 2.0 * fee_money
    return qty * growth >= 2.0**62 or (price_max + 1.0) * shrink >= 2.0**62 or money >= 2.0**125 or fee_sum >= 2.0**125
