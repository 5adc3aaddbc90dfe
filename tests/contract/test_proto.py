"""The .proto files against the code generated from them, and against the words that they carry."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

import pks
from pks.edges.files.rows import FIELDS
from pks.engine.positions.view import TEXT_FIELDS
from pks.proto.codec import TEXT_WORDS
from pks.proto.pks.v1 import booking_pb2, event_pb2, position_pb2, positions_service_pb2

FOLDER = Path(pks.__file__).parent / "proto"
PROTOS = sorted(FOLDER.rglob("*.proto"))
MESSAGES = [
    message
    for module in (booking_pb2, event_pb2, position_pb2, positions_service_pb2)
    for message in module.DESCRIPTOR.message_types_by_name.values()
]  # fmt: skip


def test_the_generated_code_is_that_of_the_proto_files(tmp_path: Path) -> None:
    from grpc_tools import protoc

    names = [str(path) for path in PROTOS]
    assert names, "there are proto files"
    assert protoc.main(["protoc", f"-I{FOLDER}", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", *names]) == 0
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2*"))
    assert made == sorted(path.relative_to(FOLDER) for path in FOLDER.rglob("*_pb2*"))
    for name in made:
        assert (FOLDER / name).read_text() == (tmp_path / name).read_text(), f"{name}: run make proto"


def test_a_trade_carries_every_word_of_the_trade_input() -> None:
    assert set(FIELDS) == {*TEXT_WORDS, "leg", "trade_time"}
    fields = booking_pb2.Trade.DESCRIPTOR.fields_by_name
    assert set(FIELDS) - set(fields.keys()) == {"trade_time"}
    assert fields["trade_time_ns"].type == FieldDescriptor.TYPE_INT64


def test_a_position_carries_every_word_of_pks_positions() -> None:
    fields = position_pb2.PositionUpdated.DESCRIPTOR.fields_by_name
    assert set(TEXT_FIELDS) - set(fields.keys()) == {"last_trade_time"}


def test_a_position_of_the_gateway_is_one_of_the_bus_and_a_patch_fits_it() -> None:
    view, patch = (positions_service_pb2.DESCRIPTOR.message_types_by_name[name] for name in ("PositionView", "PositionViewPatch"))
    told = {field.number: (field.name, field.type) for field in position_pb2.PositionUpdated.DESCRIPTOR.fields}
    for message in (view, patch):
        assert {field.number: (field.name, field.type) for field in message.fields if field.number <= max(told)} == told, message.name
    assert all(field.has_presence or field.name in ("book", "instrument", "fees") for field in patch.fields), (
        "what changed to nothing is told"
    )


def test_a_trade_at_the_gateway_has_every_word_of_the_trade_input() -> None:
    fields = positions_service_pb2.BookTradeRequest.DESCRIPTOR.fields_by_name
    assert set(fields.keys()) == {*FIELDS, "instrument_terms", "idempotency_key"}


@pytest.mark.parametrize("message", MESSAGES, ids=[message.name for message in MESSAGES])
def test_no_number_is_a_float(message: object) -> None:
    kinds = {field.name: field.type for field in message.fields}  # type: ignore[attr-defined]
    assert FieldDescriptor.TYPE_DOUBLE not in kinds.values() and FieldDescriptor.TYPE_FLOAT not in kinds.values()
