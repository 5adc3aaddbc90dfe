"""The chains that an event's two backward links make: of its (book, instrument), and of the receiver's key or the instrument.

Source: design.md section 2, "Events on many keys".
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import numpy as np

from pks.base.kernels import kernel
from pks.base.units import mix_64
from pks.layouts.codes import Flag, Kind

ACTION, FIXING, REFDATA, DETAIL = int(Kind.ACTION), int(Kind.FIXING), int(Kind.REFDATA), int(Kind.DETAIL)
BLOCK = int(Flag.BLOCK)


@kernel
def chain_home(chains, book_id, instrument_id):
    """Row at which the search for the key in `chains` begins."""
    return mix_64((np.int64(book_id) << 32) | np.int64(instrument_id)) & (chains.shape[0] - 1)


@kernel
def chain_swap(chains, counts, book_id, instrument_id, sequence):
    """Make `sequence` the last event of the key in `chains` (int64[slots, 2]); the one before it, or 0."""
    key = (np.int64(book_id) << 32) | np.int64(instrument_id)
    mask = chains.shape[0] - 1
    at = chain_home(chains, book_id, instrument_id)
    while chains[at, 0] != 0 and chains[at, 0] != key:
        at = (at + 1) & mask
    if chains[at, 0] == 0:
        chains[at, 0] = key
        counts[0] += 1
    before = chains[at, 1]
    chains[at, 1] = sequence
    return before


@kernel
def link(chains, counts, instrument_chain, e):
    """Write both links of event `e`, whose sequence is set, and move the chains on to it. counts[0]: keys in `chains`."""
    if e.kind == DETAIL:  # its text lies where an event has its links
        return
    e.previous = 0
    e.previous_other = 0
    if e.kind == ACTION or e.kind == FIXING:
        e.previous_other = instrument_chain[e.instrument_id]
        instrument_chain[e.instrument_id] = e.sequence
        return
    if e.instrument_id == 0 or e.book_id == 0 or e.kind == REFDATA:
        return
    e.previous = chain_swap(chains, counts, e.book_id, e.instrument_id, e.sequence)
    if e.to_book_id != 0:
        e.previous_other = chain_swap(chains, counts, e.to_book_id, e.instrument_id, e.sequence)
