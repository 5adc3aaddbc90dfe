"""Positions as bytes of gRPC messages, each version encoded once however many clients are told of it; patches between versions.

Pure: views in, bytes out. Owns how a message is put together of parts that are encoded already, which protobuf allows: fields that follow
one another are merged. Knows no client, no stream and no segment.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pks.bff.live import Freshness, State
from pks.engine.positions.view import PositionView
from pks.proto.codec import position_fields
from pks.proto.pks.v1 import positions_service_pb2 as pb

Key = tuple[str, str]
"""Book and instrument."""

STATES = {State.LIVE: pb.LIVE, State.STALE: pb.STALE}
assert STATES.keys() == set(State), "each state has its word"

PATCHES_KEPT = 4
"""Patches of one version that are kept: clients that are told at the same pace need the same one."""

_KEY_FIELDS = ("book", "instrument")
_POSITIONS, _PATCHES = 4, 5
assert pb.InstrumentUpdate.DESCRIPTOR.fields_by_number[_POSITIONS].name == "positions", "the number of the .proto file"
assert pb.InstrumentUpdate.DESCRIPTOR.fields_by_number[_PATCHES].name == "patches", "the number of the .proto file"


class Told:
    """One position at one version, in the forms in which clients are told of it. Made of a view; encoded when it is first asked for."""

    __slots__ = ("_fields", "_patches", "_whole", "key", "view")

    def __init__(self, view: PositionView) -> None:
        self.view, self.key = view, (view.book, view.instrument)
        self._fields: dict[str, Any] | None = None
        self._whole = b""
        self._patches: list[tuple[Told | None, bytes]] = []

    @property
    def fields(self) -> dict[str, Any]:
        """By the names of PositionView's fields."""
        if self._fields is None:
            self._fields = position_fields(self.view)
        return self._fields

    @property
    def whole(self) -> bytes:
        """A PositionView without its freshness; bytes of `fresh` may follow."""
        if not self._whole:
            self._whole = pb.PositionView(**self.fields).SerializeToString()
        return self._whole

    def patch_of(self, known: Told | None) -> bytes:
        """A PositionViewPatch for who knows the position as `known`; None: for who does not know it, so it has all fields."""
        for one, patch in self._patches:
            if one is known:
                return patch
        made = self._patch(known)
        self._patches = [(known, made), *self._patches[: PATCHES_KEPT - 1]]
        return made

    def is_news_to(self, known: Told | None) -> bool:
        """Whether it shows something else than `known` does: another version of the slot, or other reference data."""
        return known is None or known.view != self.view

    def replaces(self, known: Told | None) -> bool:
        """Whether no patch leads here from `known`: a currency has no fees any more, and what is merged never takes away."""
        return known is not None and not known.fields["fees"].keys() <= self.fields["fees"].keys()

    def _patch(self, known: Told | None) -> bytes:
        if known is None:
            return bytes(pb.PositionViewPatch(**self.fields).SerializeToString())
        before = known.fields
        changed = {name: value for name, value in self.fields.items() if name in _KEY_FIELDS or value != before[name]}
        if "fees" in changed:
            changed["fees"] = {currency: fee for currency, fee in changed["fees"].items() if before["fees"].get(currency) != fee}
        return bytes(pb.PositionViewPatch(**changed).SerializeToString())


def fresh(state: State, sequence: int, durable: int) -> bytes:
    """The last fields of every answer: state, sequence and durable_sequence, under the same numbers everywhere."""
    return bytes(pb.PositionView(state=STATES[state], sequence=sequence, durable_sequence=durable).SerializeToString())


def fresh_of(freshness: Freshness) -> bytes:
    """The same of what `Live` says."""
    return fresh(freshness.state, freshness.applied, freshness.durable)


def snapshot_message(positions: Iterable[bytes], freshness: bytes, *, first: bool, last: bool) -> bytes:
    """An InstrumentUpdate: a part of a snapshot."""
    head = pb.InstrumentUpdate(kind=pb.InstrumentUpdate.SNAPSHOT, first=first, last=last).SerializeToString()
    return bytes(head) + _repeated(_POSITIONS, positions) + freshness


def patch_message(changes: Iterable[tuple[Told, Told | None]], freshness: bytes) -> bytes:
    """An InstrumentUpdate: what changed, each position with what the client knows of it."""
    whole, patches = [], []
    for told, known in changes:
        if told.replaces(known):
            whole.append(told.whole)
        else:
            patches.append(told.patch_of(known))
    return _PATCH_HEAD + _repeated(_POSITIONS, whole) + _repeated(_PATCHES, patches) + freshness


def heartbeat_message(freshness: bytes) -> bytes:
    """An InstrumentUpdate: state and sequences alone."""
    return _HEARTBEAT_HEAD + freshness


_PATCH_HEAD = bytes(pb.InstrumentUpdate(kind=pb.InstrumentUpdate.PATCH).SerializeToString())
_HEARTBEAT_HEAD = bytes(pb.InstrumentUpdate(kind=pb.InstrumentUpdate.HEARTBEAT).SerializeToString())


def _repeated(number: int, messages: Iterable[bytes]) -> bytes:
    """Encoded messages as the items of a repeated field (number below 16). Source: protobuf encoding, "Length-Delimited Records"."""
    tag = bytes([number << 3 | 2])
    return b"".join(part for message in messages for part in (tag, _varint(len(message)), message))


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


_FIELDS = {field.name: field.number for field in pb.PositionView.DESCRIPTOR.fields}
assert all(_FIELDS[field.name] == field.number for field in pb.PositionViewPatch.DESCRIPTOR.fields), "a patch may be parsed into a view"
for _message in (pb.PositionHistory, pb.InstrumentUpdate, pb.BookTradeResponse, pb.WhatIfResponse):
    _shared = {field.name: field.number for field in _message.DESCRIPTOR.fields if field.number >= _FIELDS["state"]}
    assert all(_FIELDS.get(name) == number for name, number in _shared.items()), f"{_message.DESCRIPTOR.name}: freshness has its numbers"
