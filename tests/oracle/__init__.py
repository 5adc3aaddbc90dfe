"""A slow, obvious model of lots and positions: the judge of the engine.

Written from the text alone (design.md sections 3 and 4, backoffice.md section 2) in exact fractions, lists and dicts.
It imports nothing from `pks`; the tests that compare the two live beside the engine's own. `key` holds the lots of one
(book, instrument), `model` the journal above them, `calc` the answer to `pks calc lots`; `desk` turns the desk's files
into events, `script` writes events by hand.

Readings, where the text leaves room:
- A policy (method, oversell, fees_in_cost) acts at its place (effective date, sequence); a book's first definition has
  the date 1970-01-01 and so holds since ever. An instrument's row acts on the whole history at once, but a split is cut
  at the scale that it was made with.
- REJECT forbids a trade (quantity with its fee in the asset) that crosses zero, and a sale that leaves less than
  nothing. It is checked before the lot checks of SPECIFIC; a transfer checks the held quantity first too. An opening is
  never refused for policy. A lot named in SPECIFIC must be open, else UNKNOWN_LOT; a lot that was used up is unknown. A
  trade that only opens may name any lot.
- A correction of an event that was refused is INVALID_TRANSITION. A FEE is never refused for policy. An AMEND is judged
  whole, as if new. A re-entry is never judged by policy. The fee currency limit looks at the whole key, overflow at the
  event's place.
- FEE counts as of T from its own trade time. Moved lots are ranked (lot date, transfer, id).
- A transfer's fee is the giver's. Within one book it moves account quantities only. What moves at cost leaves and
  enters clearing cost at cost, and closes the receiver's other side at its cost, of which each part takes its share.
- A fee in cost becomes money once, as a whole; the opening part takes what the closing part's money leaves.
- The part of a kept transfer that nobody holds is lot "<trade id>/2" (leg 2, dated the transfer) on both sides; from a
  flat giver it moves long.
- Inverse with fees_in_cost: the fee lowers the cost (the coins at open), so that it lowers the gain. Average price is
  quantity / cost.
- Whole units: the fraction leaves the last lot in method order, with all of its cost when nothing else is left of it.
  SPECIFIC splits in FIFO order. A kept split without a cash price pays 0. A lot's price after a split and a pool's price
  are half-even at price_scale.
"""

from __future__ import annotations

from .calc import calc
from .key import Event, Lot
from .model import Match, MatchSet, Model, Position, Snapshot

__all__ = ["Event", "Lot", "Match", "MatchSet", "Model", "Position", "Snapshot", "calc"]
