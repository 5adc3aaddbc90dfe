"""The compiled loop of an accumulator: events in sequence onto keys, until something needs more than a kernel.

What falls last in its key's order is matched as it arrives; anything else marks its key, and `fold` derives it again. No event is
applied twice, none is skipped. Source: design.md section 4.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import numpy as np

from pks.base.errors import Code
from pks.base.kernels import forced, kernel
from pks.engine.lots.apply import fee_add, fee_refusal, is_base_fee, trade
from pks.engine.lots.keys import key_at, key_find, locked_until, mark_changed, mark_dirty, refuse, shard_of
from pks.engine.lots.money import fee_amount
from pks.engine.lots.state import (
    ACCOUNTS_COUNT,
    ANCHOR_EVENTS,
    CANCELLED_COUNT,
    CHANGED,
    CHANGED_ACCOUNTS,
    DIRTY_COUNT,
    KEYS_COUNT,
    LOTS_USED,
    MATCHES,
    METHODS_COUNT,
    REFUSED_COUNT,
    RUN,
    SEQUENCE,
    VERDICTS,
)
from pks.engine.lots.tables import pair_find, pair_set
from pks.layouts.codes import Flag, Kind, MatchFlag, Method, Oversell

TRADE, ALLOCATION, OPENING = int(Kind.TRADE), int(Kind.ALLOCATION), int(Kind.OPENING)
AMEND, CANCEL, FEE = int(Kind.AMEND), int(Kind.CANCEL), int(Kind.FEE)
TICK, EPOCH, DETAIL, CASHFLOW = int(Kind.TICK), int(Kind.EPOCH), int(Kind.DETAIL), int(Kind.CASHFLOW)
BLOCK, END_OF_BATCH = int(Flag.BLOCK), int(Flag.END_OF_BATCH)
PRIOR_PERIOD = int(MatchFlag.PRIOR_PERIOD)
REJECT, SPECIFIC = int(Oversell.REJECT), int(Method.SPECIFIC)
ALREADY_CANCELLED, INVALID_TRANSITION = int(Code.ALREADY_CANCELLED), int(Code.INVALID_TRANSITION)

DONE = 0  # every event up to `last` is in
DERIVE = 1  # keys wait for a re-derivation, now
SPECIAL = 2  # the event at `next` acts on many keys or on reference data: apply it, then go on behind it
ROOM = 3  # a table is too small for the event at `next`: grow it, then go on
FULL = 4  # the results are full: take them, then go on
ANCHOR = 5  # the event at `next` is the first of a later date on a key with many: keep a copy of the key, then go on
JUDGE = 6  # the event at `next` corrects one that waits for its verdict: derive its key, then go on


@forced
def has_room(state, open_lots, out):
    """0, or ROOM or FULL: can one more event be applied to a key with that many open lots?"""
    if (
        state.meta[LOTS_USED] + 2 > state.lots.shape[0]
        or state.meta[KEYS_COUNT] + 1 > state.keys.shape[0]
        or state.meta[ACCOUNTS_COUNT] + 2 > state.accounts.shape[0]
        or 2 * (state.meta[REFUSED_COUNT] + 1) > state.refused.shape[0]
        or 2 * (state.meta[CANCELLED_COUNT] + 1) > state.cancelled.shape[0]
        or open_lots + 2 > out.matches.shape[0]
    ):
        return ROOM
    if (
        out.counts[MATCHES] + open_lots + 2 > out.matches.shape[0]
        or out.counts[CHANGED] + 2 > out.changed.shape[0]
        or out.counts[VERDICTS] + 1 > out.verdicts.shape[0]
        or out.counts[CHANGED_ACCOUNTS] + 2 > out.changed_accounts.shape[0]
    ):
        return FULL
    return 0


@forced
def wants_anchor(state, k, date):
    """Is an event of that date the first of a later one, and were there many since the last anchor?"""
    key = state.keys[k]
    return date > key.last_date and key.dirty == 0 and key.trades_count - key.anchor >= state.meta[ANCHOR_EVENTS]


@kernel
def may_refuse(state, k):
    """Can an event of the key be refused for what it meets there? Then each is judged before the next one is looked at."""
    for i in range(state.meta[METHODS_COUNT]):
        if state.methods[i].book_id == state.keys[k].book_id and (state.rules[i, 0] == REJECT or state.methods[i].method == SPECIFIC):
            return True
    return False


@forced
def place_trade(state, out, k, e):
    """A TRADE, ALLOCATION or OPENING: applied if it falls last in its key's order. True if the key must be derived at once."""
    key = state.keys[k]
    key.chain = e.sequence
    if key.dirty or e.effective_date < key.last_date:
        mark_dirty(state, k, e.effective_date, e.sequence)
        return may_refuse(state, k)
    key.last_date = e.effective_date
    first = out.counts[MATCHES]
    code = trade(state, out, k, e, np.int64(0), np.int64(0), np.int64(0), False)
    if code != 0:
        refuse(state, out, e, e.sequence, code)
    else:
        mark_changed(state, out, k, e)
        if e.effective_date <= locked_until(state, e.book_id):
            for i in range(first, out.counts[MATCHES]):
                out.matches[i].flags |= PRIOR_PERIOD
    key.judged = e.sequence
    return False


@kernel
def had_fees_in_cost(state, book_id):
    """Did the book ever put fees in cost? Then a later fee of an older trade may change lots, whatever the policy is now."""
    for i in range(state.meta[METHODS_COUNT]):
        if state.methods[i].book_id == book_id and state.rules[i, 1] == 1:
            return True
    return False


@kernel
def place_fee(state, out, k, e):
    """A FEE that changes no quantity and no cost: judged and added where it comes."""
    hi, lo = fee_amount(e.fee_raw, e.fee_scale)
    code = fee_refusal(state.keys, k, e.fee_currency_id, hi, lo) if e.fee_raw != 0 else 0
    if code != 0:
        refuse(state, out, e, e.sequence, code)
    else:
        if e.fee_raw != 0:
            fee_add(state.keys, k, e.fee_currency_id, hi, lo)
        mark_changed(state, out, k, e)
    state.keys[k].judged = e.sequence


@kernel
def place_correction(state, out, k, e):
    """An AMEND, CANCEL or FEE of a trade on key `k`. True if the key must be derived at once."""
    key = state.keys[k]
    key.chain = e.sequence
    if pair_find(state.cancelled, e.original) >= 0:
        refuse(state, out, e, e.sequence, ALREADY_CANCELLED)
        return False
    if pair_find(state.refused, e.original) >= 0:
        refuse(state, out, e, e.sequence, INVALID_TRANSITION)
        return False
    if e.kind == CANCEL:
        pair_set(state.cancelled, e.original, e.sequence)
        state.meta[CANCELLED_COUNT] += 1
    elif e.kind == FEE and not key.dirty:
        policy = state.instruments[key.instrument_id]
        in_cost = e.fee_currency_id == policy.pnl_currency_id and had_fees_in_cost(state, key.book_id)
        if not in_cost and not is_base_fee(policy, e.fee_currency_id):
            place_fee(state, out, k, e)
            return False
    mark_dirty(state, k, e.effective_date, e.sequence)
    return may_refuse(state, k)


@kernel
def run(state, out, events, mask, first, last, shard, shards):
    """Apply events first..last (record n at `events[n & mask]`) that belong to `shard` of `shards`.

    Returns (next sequence, reason); reasons are the constants above. `out` keeps what was said until it is cleared.
    """
    state.meta[RUN] += 1
    n = first
    while n <= last:
        e = events[n & mask]
        kind = e.kind
        derive = False
        if kind == TRADE or kind == ALLOCATION or kind == OPENING:
            if not e.flags & BLOCK and (shards == 1 or shard_of(e.book_id, shards) == shard):
                k = key_find(state, e.book_id, e.instrument_id)
                lack = has_room(state, state.keys[k].open_lots if k >= 0 else 0, out)
                if lack != 0:
                    return n, lack
                if k >= 0 and wants_anchor(state, k, np.int64(e.effective_date)):
                    return n, ANCHOR
                if k < 0:
                    k = key_at(state, e.book_id, e.instrument_id)
                derive = place_trade(state, out, k, e)
        elif (kind == AMEND or kind == CANCEL or kind == FEE) and e.to_book_id == 0:
            if e.book_id != 0 and (shards == 1 or shard_of(e.book_id, shards) == shard):
                k = key_find(state, e.book_id, e.instrument_id)
                if k >= 0:
                    lack = has_room(state, state.keys[k].open_lots, out)
                    if lack != 0:
                        return n, lack
                    if state.keys[k].dirty and e.original > state.keys[k].judged:
                        return n, JUDGE
                    derive = place_correction(state, out, k, e)
        elif kind != TICK and kind != EPOCH and kind != DETAIL and kind != CASHFLOW:
            return n, SPECIAL
        state.meta[SEQUENCE] = n
        n += 1
        if state.meta[DIRTY_COUNT] > 0 and (derive or e.flags & END_OF_BATCH):
            return n, DERIVE
    return n, DONE
