"""The kernels that questions about the past call, called once in the zygote so that the worker finds them compiled.

Books a small day as the core would, writes it as a journal into a temporary folder, and asks everything of it.
"""

from __future__ import annotations

import numpy as np

from pks.layouts.event import EVENT
from pks.workers.accumulator_loop import last_end
from pks.workers.warm import warm_booking, warm_fold


def warm_past() -> None:
    """Every kernel of folds, of capture's fold, and of reading a journal."""
    warm_fold()
    warm_booking()
    journal = np.zeros(1, EVENT)
    journal.flags.writeable = False
    last_end(journal, -1, 0, 0)
