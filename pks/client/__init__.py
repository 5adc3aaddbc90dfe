"""Readers of a running system's segments (`attach`), and producers that write its intake rings (`producer`, `border`).

A reader needs numpy and numba alone; what books needs more, and is imported by its own name.
"""

from pks.client.accounts import AccountQuantity, Accounts
from pks.client.errors import AmbiguousName, NoPosition, NotInThisBuild, UnknownName
from pks.client.host import Host, attach
from pks.client.positions import PositionHandle, Positions
from pks.client.updates import Updates
from pks.engine.positions.view import PositionView as Position
from pks.segments.errors import SegmentMissing, SegmentNotReady, StaleHost, UnstableSlot

__all__ = [
    "AccountQuantity",
    "Accounts",
    "AmbiguousName",
    "Host",
    "NoPosition",
    "NotInThisBuild",
    "Position",
    "PositionHandle",
    "Positions",
    "SegmentMissing",
    "SegmentNotReady",
    "StaleHost",
    "UnknownName",
    "UnstableSlot",
    "Updates",
    "attach",
]
