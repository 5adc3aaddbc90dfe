"""The gRPC service as a client sees it: each call, who may make it, how streams live and end. A real server with TLS over a real host."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from pks.base.errors import Code, Retryable
from pks.bff import grpc_feed, grpc_server, grpc_service
from pks.bff.access import Permission
from pks.bff.problems import Problem, refused
from pks.client.bulk import Outcome
from pks.layouts.codes import Subject
from pks.proto.codec import position_words
from pks.proto.pks.v1 import positions_service_pb2 as pb
from tests.conftest import wait_until
from tests.unit.bff.grpc_served import SECONDS, Served, bearer, said
from tests.unit.client.small_host import SmallHost

ANNA, BETA = bearer("anna"), bearer("beta")
SBER, GAZP = "SBER.MOEX", "GAZP.MOEX"
Status = grpc.StatusCode


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallHost]:
    small = SmallHost(tmp_path / "data", f"grpc{os.getpid()}")
    small.put("ALPHA", SBER, 100)
    small.put("BETA", GAZP, 7)
    try:
        yield small
    finally:
        small.close()


@pytest.fixture
def served(small: SmallHost, tmp_path: Path) -> Iterator[Served]:
    served = Served(small, tmp_path / "data")
    try:
        yield served
        assert served.failures == [], "nothing happened that nobody foresaw"
    finally:
        served.close()


def denied(call: Any, request: Any, metadata: Any = ANNA, **options: Any) -> Any:
    """The error that a call ends with."""
    with pytest.raises(grpc.RpcError) as error:
        answer = call(request, metadata=metadata, timeout=SECONDS, **options)
        if hasattr(answer, "__next__"):
            for _ in answer:
                pass
    return error.value


def ended(stream: Any) -> Any:
    """The error that a running stream ends with."""
    with pytest.raises(grpc.RpcError) as error:
        for _ in stream:
            pass
    return error.value


def get(book: str, instrument: str) -> pb.GetPositionRequest:
    return pb.GetPositionRequest(book=book, instrument=instrument)


def watch(served: Served, metadata: Any = ANNA, **asked: Any) -> Any:
    return served.stub().WatchInstrumentUpdates(pb.WatchInstrumentUpdatesRequest(**asked), metadata=metadata)


def take(stream: Any, kind: Any) -> Any:
    """The next message of a kind."""
    return next(message for message in stream if message.kind == kind)


# --- one answer ------------------------------------------------------------------------------------------------------------------


def test_one_position_in_the_words_of_pks_positions(served: Served) -> None:
    stub = served.stub()
    view = stub.GetPosition(get("ALPHA", SBER), metadata=ANNA)
    assert position_words(view) == served.live.host.positions["ALPHA", SBER].as_dict()
    assert (view.state, view.sequence) == (pb.LIVE, served.live.freshness().applied)
    by_isin = stub.GetPosition(get("ALPHA", "RU00021"), metadata=ANNA)
    assert by_isin.instrument == SBER


def test_who_may_not_see_a_book_reads_what_he_would_of_one_that_is_not(served: Served) -> None:
    stub = served.stub()
    calls = {
        "GetPosition": lambda book: (stub.GetPosition, pb.GetPositionRequest(book=book, instrument=SBER)),
        "no such instrument": lambda book: (stub.GetPosition, pb.GetPositionRequest(book=book, instrument="NOTHING")),
        "GetPositionHistory": lambda book: (stub.GetPositionHistory, pb.GetPositionHistoryRequest(book=book, instrument=SBER)),
        "StreamPositions": lambda book: (stub.StreamPositions, pb.StreamPositionsRequest(book=book)),
        "books": lambda book: (stub.StreamPositions, pb.StreamPositionsRequest(books=["BETA", book])),
        "WatchInstrumentUpdates": lambda book: (stub.WatchInstrumentUpdates, pb.WatchInstrumentUpdatesRequest(books=[book])),
    }
    for name, call in calls.items():
        hidden, absent = denied(*call("ALPHA"), BETA), denied(*call("NOWHERE"), BETA)
        assert hidden.code() is absent.code() is Status.NOT_FOUND, name
        assert hidden.details() == absent.details().replace("NOWHERE", "ALPHA"), name
        assert said(hidden) == {**said(absent), "pks-value": "ALPHA"}, name
    assert stub.GetPosition(get("BETA", GAZP), metadata=BETA).quantity == "7"


def test_what_is_not_there_is_said_with_its_field(served: Served) -> None:
    stub = served.stub()
    instrument = denied(stub.GetPosition, get("ALPHA", "ВОЛГА"))
    assert (instrument.code(), said(instrument)["pks-field"]) == (Status.NOT_FOUND, "instrument")
    assert said(instrument)["pks-value"].isascii(), "metadata are ASCII"
    assert denied(stub.GetPosition, get("ALPHA", GAZP)).code() is Status.NOT_FOUND
    missing = denied(stub.GetPosition, get("ALPHA", ""))
    assert (missing.code(), said(missing)) == (Status.INVALID_ARGUMENT, {"pks-code": "MISSING_FIELD", "pks-field": "instrument"})


@pytest.mark.parametrize(
    "metadata",
    [(), bearer("nobody"), (("authorization", "Basic token-anna"),), (("authorization", "token-anna"),), (*ANNA, *ANNA),
     (("authorization", "Bearer " + "x" * 9000),)],
    ids=["none", "unknown", "basic", "bare", "two", "long"],
)  # fmt: skip
def test_without_a_good_token_every_call_is_refused_alike(served: Served, metadata: Any) -> None:
    stub = served.stub()
    for name in ("GetPosition", "GetPositionHistory", "BookTrade", "WhatIf", "StreamPositions", "WatchInstrumentUpdates"):
        request = {
            "GetPosition": pb.GetPositionRequest, "GetPositionHistory": pb.GetPositionHistoryRequest, "BookTrade": pb.BookTradeRequest,
            "WhatIf": pb.WhatIfRequest, "StreamPositions": pb.StreamPositionsRequest,
            "WatchInstrumentUpdates": pb.WatchInstrumentUpdatesRequest,
        }[name]()  # fmt: skip
        error = denied(getattr(stub, name), request, metadata)
        assert (error.code(), said(error)) == (Status.UNAUTHENTICATED, {"pks-code": "NOT_AUTHENTICATED"}), name
        assert "token-anna" not in error.details() and "nobody" not in error.details()
    assert served.booker.asked == [] and served.streams() == 0


def test_while_nobody_can_judge_no_door_opens(served: Served) -> None:
    served.desk.is_away = True
    assert denied(served.stub().GetPosition, get("ALPHA", SBER)).code() is Status.UNAVAILABLE


def test_roles_cut_what_may_be_called(served: Served) -> None:
    served.become("anna", permissions=frozenset({Permission.APPROVE}))
    stub = served.stub()
    for call, request in ((stub.GetPosition, get("ALPHA", SBER)), (stub.StreamPositions, pb.StreamPositionsRequest()),
                          (stub.WhatIf, pb.WhatIfRequest())):  # fmt: skip
        error = denied(call, request)
        assert (error.code(), said(error)["pks-code"]) == (Status.PERMISSION_DENIED, "FORBIDDEN")


def test_more_calls_than_the_limit_are_refused(small: SmallHost, tmp_path: Path) -> None:
    served = Served(small, tmp_path / "data", rate_limit=1)
    try:
        stub = served.stub()
        errors = []
        for _ in range(4):
            try:
                stub.GetPosition(get("ALPHA", SBER), metadata=ANNA)
            except grpc.RpcError as error:
                errors.append((error.code(), said(error)["pks-code"]))
        assert errors and set(errors) == {(Status.RESOURCE_EXHAUSTED, "TOO_MANY_REQUESTS")}
    finally:
        served.close()


# --- booking and the past --------------------------------------------------------------------------------------------------------


def trade(**words: str) -> pb.BookTradeRequest:
    usual = {"trade_id": "T1", "book": "ALPHA", "instrument": SBER, "side": "BUY", "quantity": "10", "price": "101.25"}
    return pb.BookTradeRequest(**{**usual, "trade_time": "2026-11-25T10:00:00Z", **words})


def test_a_trade_is_booked_as_the_row_that_it_is(served: Served) -> None:
    answer = served.stub().BookTrade(
        trade(idempotency_key="K-1", instrument="", instrument_terms='{"type": "FORWARD", "strike": 1.50}'), metadata=ANNA
    )
    assert (answer.trade_id, answer.status, answer.sequence, answer.state) == ("T1", "ACCEPTED", 41, pb.LIVE)
    row, name, key, address = served.booker.asked[0]
    assert (name, key, address) == ("anna", "K-1", "127.0.0.1") or address == "::1"
    assert (row.quantity, row.price, row.side, row.trade_time) == ("10", "101.25", "BUY", "2026-11-25T10:00:00Z")
    assert row.instrument_terms == '{"strike":"1.50","type":"FORWARD"}', "numbers of the terms keep their digits"


@pytest.mark.parametrize(
    ("code", "field", "status"),
    [
        (Code.NOT_A_NUMBER, "quantity", Status.INVALID_ARGUMENT), (Code.UNKNOWN_BOOK, "book", Status.NOT_FOUND),
        (Code.OVERSELL, "quantity", Status.FAILED_PRECONDITION), (Code.IDEMPOTENCY_CONFLICT, "trade_id", Status.ALREADY_EXISTS),
        (Code.BUSY, "", Status.UNAVAILABLE), (Code.ALREADY_CANCELLED, "trade_id", Status.FAILED_PRECONDITION),
    ],
)  # fmt: skip
def test_a_refusal_is_a_status_with_code_field_and_value(served: Served, code: Code, field: str, status: Any) -> None:
    served.booker.answer = Outcome(1, "T1", "REFUSED", 0, code.name, field, "x", "because")
    error = denied(served.stub().BookTrade, trade())
    assert (error.code(), error.details()) == (status, "because")
    expected = {"pks-code": code.name, "pks-field": field, "pks-value": "x"}
    assert said(error) == {name: value for name, value in expected.items() if value}


def test_what_commands_raise_is_said_as_it_is(served: Served) -> None:
    stub = served.stub()
    served.booker.answer = Problem(403, "FORBIDDEN", "none of your roles")
    assert denied(stub.BookTrade, trade()).code() is Status.PERMISSION_DENIED
    served.booker.answer = Retryable("no ring")
    assert denied(stub.BookTrade, trade()).code() is Status.UNAVAILABLE
    served.booker.answer = RuntimeError("secret details")
    error = denied(stub.BookTrade, trade())
    assert error.code() is Status.INTERNAL and "secret" not in error.details()
    assert [str(one) for one in served.failures] == ["secret details"]
    served.failures.clear()


def test_rows_that_cannot_be_read_are_refused_before_anything(served: Served) -> None:
    stub = served.stub()
    for request, field in (
        (trade(instrument="", instrument_terms="[1]"), "instrument_terms"),
        (trade(instrument="", instrument_terms="[" * 100_000), "instrument_terms"),
        (trade(instrument_terms="{}"), "instrument_terms"),
        (trade(trade_id="a\u0007b"), "trade_id"),
        (trade(idempotency_key="two words"), "Idempotency-Key"),
    ):
        error = denied(stub.BookTrade, request)
        assert (error.code(), said(error)["pks-field"]) == (Status.INVALID_ARGUMENT, field)
    assert served.booker.asked == []


def test_what_waits_for_a_second_person_says_so(served: Served) -> None:
    served.booker.answer = Outcome(1, "T1", "WAITING", 0, "", "approval", "12", "above the limit")
    answer = served.stub().BookTrade(trade(), metadata=ANNA)
    assert (answer.status, answer.value, answer.reason) == ("WAITING", "12", "above the limit")


def test_history_and_what_if_come_from_the_past(served: Served) -> None:
    stub = served.stub()
    match = {"open_trade_id": "T0", "quantity": "5", "realised_gross": "1.5"}
    row = {"sequence": 3, "trade_id": "T1", "fees": {"USD": "0.1"}, "price": None, "unknown word": 1, "matches": [match]}
    served.memory.answer = {"events": [row], "next": 3, "sequence": 9}
    page = stub.GetPositionHistory(pb.GetPositionHistoryRequest(book="ALPHA", instrument="RU00021", after=2, limit=7), metadata=ANNA)
    assert served.memory.asked[-1] == ("history", "ALPHA", SBER, 2, 7, None)
    assert (page.next, page.sequence, page.state, page.events[0].fees["USD"]) == (3, 9, pb.LIVE, "0.1")
    assert page.events[0].matches[0].open_trade_id == "T0"
    served.memory.answer = {"outcomes": [{"line": 1, "status": "ACCEPTED"}], "after": [{"book": "BETA", "quantity": "8"}], "sequence": 9}
    imagined = stub.WhatIf(pb.WhatIfRequest(trades=[trade(book="BETA")], marks={SBER: "102"}), metadata=BETA)
    kind, rows, marks, books = served.memory.asked[-1]
    assert (kind, rows[0]["book"], marks, books) == ("what if", "BETA", {SBER: "102"}, frozenset({"BETA"}))
    assert (imagined.outcomes[0].status, imagined.after[0].quantity) == ("ACCEPTED", "8")
    served.memory.answer = Retryable("away")
    assert denied(stub.WhatIf, pb.WhatIfRequest()).code() is Status.UNAVAILABLE
    served.memory.answer = refused(Code.NOT_A_NUMBER, "marks", "x")
    assert denied(stub.WhatIf, pb.WhatIfRequest()).code() is Status.INVALID_ARGUMENT
    too_long = pb.GetPositionHistoryRequest(book="ALPHA", instrument=SBER, limit=grpc_service.HISTORY_EVENTS_MAX + 1)
    assert said(denied(stub.GetPositionHistory, too_long))["pks-field"] == "limit"


def test_a_deadline_ends_the_call_on_the_server_too(served: Served) -> None:
    served.booker.held = asyncio.Event()
    with pytest.raises(grpc.RpcError) as error:
        served.stub().BookTrade(trade(), metadata=ANNA, timeout=0.3)
    assert error.value.code() is Status.DEADLINE_EXCEEDED
    assert served.booker.cancelled.wait(SECONDS)


# --- streams ---------------------------------------------------------------------------------------------------------------------


def test_positions_stream_first_as_they_are_then_as_they_change(served: Served) -> None:
    stream = served.stub().StreamPositions(pb.StreamPositionsRequest(), metadata=ANNA)
    first = {view.book: view.quantity for view in (next(stream), next(stream))}
    assert first == {"ALPHA": "100", "BETA": "7"}
    served.small.put("ALPHA", SBER, 90)
    served.small.put("ALPHA", GAZP, 5)
    changed = [next(stream), next(stream)]
    assert [(view.instrument, view.quantity, view.state) for view in changed] == [(SBER, "90", pb.LIVE), (GAZP, "5", pb.LIVE)]
    stream.cancel()
    wait_until(lambda: served.streams() == 0 and not served.server.service.feed.watchers, SECONDS, "nothing left of it")


def test_a_stream_of_one_book_or_instrument_is_of_nothing_else(served: Served) -> None:
    stub = served.stub()
    of_book = stub.StreamPositions(pb.StreamPositionsRequest(book="BETA"), metadata=ANNA)
    of_instrument = stub.StreamPositions(pb.StreamPositionsRequest(instrument="RU00021"), metadata=ANNA)
    of_user = stub.StreamPositions(pb.StreamPositionsRequest(), metadata=BETA)
    assert (next(of_book).book, next(of_instrument).instrument, next(of_user).book) == ("BETA", SBER, "BETA")
    served.small.put("ALPHA", SBER, 1)
    served.small.put("BETA", SBER, 2)
    assert (next(of_book).quantity, next(of_user).quantity) == ("2", "2")
    assert [next(of_instrument).book, next(of_instrument).book] == ["ALPHA", "BETA"]


def test_patches_on_a_snapshot_are_the_position(served: Served) -> None:
    stream = watch(served)
    snapshot = take(stream, pb.InstrumentUpdate.SNAPSHOT)
    assert (snapshot.first, snapshot.last, len(snapshot.positions)) == (True, True, 2)
    views = {(view.book, view.instrument): view for view in snapshot.positions}
    served.small.put("ALPHA", SBER, 0)
    patch = take(stream, pb.InstrumentUpdate.PATCH).patches[0]
    assert patch.HasField("average_price") and patch.average_price == "" and not patch.HasField("currency"), "what changed, no more"
    view = views["ALPHA", SBER]
    view.MergeFromString(patch.SerializeToString())
    assert position_words(view) == served.live.host.positions["ALPHA", SBER].as_dict()
    served.small.put("BETA", SBER, 3)
    new = take(stream, pb.InstrumentUpdate.PATCH).patches[0]
    assert new.HasField("currency") and new.quantity == "3", "who does not know a position is told all"


def test_many_positions_come_in_parts_without_a_gap(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_feed, "SNAPSHOT_POSITIONS", 1)
    messages, stream = [], watch(served)
    while not (messages and messages[-1].last):
        messages.append(take(stream, pb.InstrumentUpdate.SNAPSHOT))
    assert [(one.first, one.last, len(one.positions)) for one in messages] == [(True, False, 1), (False, True, 1)]


def test_a_change_between_snapshot_and_look_is_told_once_and_right(served: Served) -> None:
    """20 clients join while positions change all the time: each ends with what the host shows."""
    stop = threading.Event()

    def fill() -> None:
        quantity = 0
        while not stop.is_set():
            quantity += 1
            served.small.put("ALPHA", SBER, quantity)
            served.small.put("BETA", GAZP, -quantity)
            time.sleep(0.0005)
        served.small.put("ALPHA", SBER, 777_777)
        served.small.put("BETA", GAZP, -777_777)

    ends: list[Any] = [None] * 20

    def follow(number: int) -> None:
        views: dict[Any, Any] = {}
        for update in watch(served):
            for view in update.positions:
                views[view.book] = view
            for patch in update.patches:
                views.setdefault(patch.book, pb.PositionView()).MergeFromString(patch.SerializeToString())
            if len(views) == 2 and all(view.quantity in ("777777", "-777777") for view in views.values()):
                ends[number] = {book: position_words(view) for book, view in views.items()}
                return

    filling = threading.Thread(target=fill)
    filling.start()
    following = [threading.Thread(target=follow, args=(number,), daemon=True) for number in range(20)]
    for one in following:
        one.start()
    wait_until(lambda: served.streams() == 20, SECONDS, "20 streams")
    time.sleep(0.2)
    stop.set()
    filling.join()
    for one in following:
        one.join(SECONDS)
    positions = served.live.host.positions
    assert ends == [{"ALPHA": positions["ALPHA", SBER].as_dict(), "BETA": positions["BETA", GAZP].as_dict()}] * 20


def test_a_change_of_reference_data_is_told_though_no_event_came(served: Served) -> None:
    stream = watch(served)
    view = next(one for one in take(stream, pb.InstrumentUpdate.SNAPSHOT).positions if one.instrument == SBER)
    terms = {"multiplier_numerator": 10, "multiplier_denominator": 1}
    served.small.define(Subject.INSTRUMENT, 21, SBER, symbol="SBER", pnl_currency="RUB", pnl_currency_id=1, **terms)
    patch = take(stream, pb.InstrumentUpdate.PATCH).patches[0]
    assert (patch.instrument, Decimal(patch.cost)) == (SBER, 10 * Decimal(view.cost))
    view.MergeFromString(patch.SerializeToString())
    assert position_words(view) == served.live.host.positions["ALPHA", SBER].as_dict()


def test_heartbeats_say_state_and_sequences(served: Served) -> None:
    beat = take(watch(served), pb.InstrumentUpdate.HEARTBEAT)
    assert (beat.state, beat.sequence, beat.durable_sequence) == (pb.LIVE, *served.live.freshness()[1:])
    stream = served.stub().StreamPositions(pb.StreamPositionsRequest(heartbeats=True), metadata=ANNA)
    assert next(view for view in stream if not view.book).state == pb.LIVE


def test_a_host_that_goes_away_is_said_and_followed_by_a_clean_snapshot(served: Served) -> None:
    stream = watch(served)
    take(stream, pb.InstrumentUpdate.SNAPSHOT)
    served.small.live(-(10**12))
    assert next(one for one in stream if one.state == pb.STALE).kind == pb.InstrumentUpdate.HEARTBEAT
    assert denied(served.stub().GetPosition, get("ALPHA", SBER)).code() is Status.UNAVAILABLE
    served.small.put("ALPHA", SBER, 55)
    served.small.live()
    again = take(stream, pb.InstrumentUpdate.SNAPSHOT)
    assert again.first and {view.book: view.quantity for view in again.positions} == {"ALPHA": "55", "BETA": "7"}
    assert again.state == pb.LIVE


def test_a_stream_ends_when_its_token_is_revoked(served: Served) -> None:
    stream = watch(served)
    take(stream, pb.InstrumentUpdate.SNAPSHOT)
    served.forget("anna")
    error = ended(stream)
    assert (error.code(), said(error)["pks-code"]) == (Status.UNAUTHENTICATED, "NOT_AUTHENTICATED")
    wait_until(lambda: served.streams() == 0, SECONDS, "no stream")


def test_a_stream_ends_when_its_token_ends(served: Served) -> None:
    served.become("anna", expires_at=time.time() + 0.5)
    assert ended(watch(served)).code() is Status.UNAUTHENTICATED


def test_a_grant_that_goes_is_gone_for_running_streams(served: Served) -> None:
    everything, named, lacks = watch(served), watch(served, books=["ALPHA"]), watch(served, books=["BETA"])
    for stream in (everything, named, lacks):
        take(stream, pb.InstrumentUpdate.SNAPSHOT)
    served.become("anna", books=frozenset({"BETA"}))
    again = take(everything, pb.InstrumentUpdate.SNAPSHOT)
    assert again.first and [view.book for view in again.positions] == ["BETA"]
    assert ended(named).code() is Status.NOT_FOUND
    served.small.put("ALPHA", SBER, 1)
    served.small.put("BETA", GAZP, 8)
    assert [patch.book for patch in take(everything, pb.InstrumentUpdate.PATCH).patches] == ["BETA"]
    assert take(lacks, pb.InstrumentUpdate.SNAPSHOT).first, "what he may see has changed, so it begins anew"
    served.become("anna", permissions=frozenset())
    assert ended(everything).code() is Status.PERMISSION_DENIED


def test_while_nobody_can_judge_streams_end(served: Served) -> None:
    stream = watch(served)
    take(stream, pb.InstrumentUpdate.SNAPSHOT)
    served.desk.is_away = True
    assert ended(stream).code() is Status.UNAVAILABLE


def test_a_client_that_never_reads_is_conflated_then_ended(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_service, "SLOW_SECONDS", 0.3)
    small_window = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
    lazy = served.stub(*small_window).StreamPositions(pb.StreamPositionsRequest(), metadata=ANNA)
    next(lazy)
    read: list[Any] = []
    stream = watch(served)

    def keep_reading() -> None:
        with contextlib.suppress(grpc.RpcError):  # cancelled below
            read.extend(stream)

    quick = threading.Thread(target=keep_reading)
    quick.start()
    wait_until(lambda: served.streams() == 2 and bool(read), SECONDS, "both streams")
    quantity, most, deadline = 0, 0, time.monotonic() + SECONDS
    while served.streams() == 2 and time.monotonic() < deadline:
        quantity += 1
        served.small.put("ALPHA", SBER, quantity)
        served.small.put("BETA", GAZP, quantity)
        most = max(most, *(len(one.pending) for one in list(served.server.service.feed.watchers)))
    assert served.streams() == 1, "the one that reads stays"
    assert most <= 2, "one entry a position, however often it changed"
    error = ended(lazy)
    assert (error.code(), said(error)["pks-code"]) == (Status.RESOURCE_EXHAUSTED, "SLOW_CONSUMER")
    served.small.put("ALPHA", SBER, 999_999)
    wait_until(lambda: any(patch.quantity == "999999" for patch in read[-1].patches), SECONDS, "the last change")
    stream.cancel()
    quick.join(SECONDS)


def test_streams_beyond_the_limit_are_refused(small: SmallHost, tmp_path: Path) -> None:
    served = Served(small, tmp_path / "data", clients_max=2)
    try:
        streams = [watch(served) for _ in range(2)]
        for stream in streams:
            take(stream, pb.InstrumentUpdate.SNAPSHOT)
        error = ended(watch(served))
        assert (error.code(), said(error)["pks-code"]) == (Status.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
        streams[0].cancel()
        wait_until(lambda: served.streams() == 1, SECONDS, "room")
        take(watch(served), pb.InstrumentUpdate.SNAPSHOT)
    finally:
        served.close()


# --- the server ------------------------------------------------------------------------------------------------------------------


def test_health_follows_the_core_and_needs_no_token(served: Served) -> None:
    checks = health_pb2_grpc.HealthStub(served.channel())

    def status(service: str) -> int:
        return int(checks.Check(health_pb2.HealthCheckRequest(service=service)).status)

    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    for service in ("", "pks.v1.PositionsSimulatorService"):
        wait_until(lambda service=service: status(service) == serving, SECONDS, "serving")
    served.small.live(-(10**12))
    wait_until(lambda: status("") == not_serving, SECONDS, "not serving while the core is away")
    served.small.live()
    wait_until(lambda: status("") == serving, SECONDS, "serving again")


def test_reflection_shows_the_service(served: Served) -> None:
    database = ProtoReflectionDescriptorDatabase(served.channel())
    assert "pks.v1.PositionsSimulatorService" in database.get_services()
    file = database.FindFileContainingSymbol("pks.v1.PositionsSimulatorService")
    calls = [method.name for service in file.service for method in service.method]
    assert calls == [method.name for method in pb.DESCRIPTOR.services_by_name["PositionsSimulatorService"].methods]


def test_a_call_that_does_not_exist_is_unimplemented(served: Served) -> None:
    call = served.channel().unary_unary("/pks.v1.PositionsSimulatorService/DropEverything")
    assert denied(call, b"").code() is Status.UNIMPLEMENTED


def test_a_server_that_begins_again_takes_its_port(served: Served) -> None:
    port = served.port
    served.run(served.server.stop(0))
    served.run(served.start())
    assert served.port == port
    assert served.stub().GetPosition(get("ALPHA", SBER), metadata=ANNA).quantity == "100"


def test_a_renewed_certificate_is_shown_without_a_restart(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown() -> str:
        return ssl.get_server_certificate(("127.0.0.1", served.port))

    first = shown()
    (served.folder / "secrets" / "tls" / "gateway.pem").unlink()
    monkeypatch.setattr(grpc_server, "CERTIFICATE_SECONDS", 0.0)
    wait_until(lambda: shown() != first, SECONDS, "another certificate")
    assert served.stub().GetPosition(get("ALPHA", SBER), metadata=ANNA).quantity == "100"
