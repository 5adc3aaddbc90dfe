"""How far something long has come: a bar that is told of steps, and who makes one.

Owns the two types and the bar that nobody watches. A command shows bars on a terminal, the worker of this room beats its heart by them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Bar(Protocol):
    """A progress bar."""

    def update(self, n_steps: int) -> None:
        """So much more is done."""


Progress = Callable[[int, str], AbstractContextManager[Bar]]
"""Called with (length, label) before something long."""


class _Unseen:
    """A bar that shows nothing."""

    def update(self, n_steps: int) -> None:
        """Nobody looks."""


def unseen(length: int, label: str) -> AbstractContextManager[Bar]:
    """For questions that nobody watches."""
    return nullcontext(_Unseen())
