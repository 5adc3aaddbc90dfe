"""`pks.connect` at a gateway: the shape of an attached host, over restarts and revocations, and bookings; a real server on a small host."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import pks
from pks.base.errors import Retryable
from pks.client import remote
from pks.client.bulk import Outcome
from pks.client.gateway import Booked, BookingRefused, BookingUnknown, GatewayHost, NotAllowed
from pks.client.remote import NotReached
from pks.segments.errors import StaleHost
from tests.conftest import wait_until
from tests.unit.bff.grpc_served import SECONDS, Served, principal
from tests.unit.client.small_host import SmallHost

SBER, GAZP = "SBER.MOEX", "GAZP.MOEX"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    small = SmallHost(tmp_path / "data", f"gateway{os.getpid()}")
    small.put("ALPHA", SBER, 100)
    small.put("BETA", GAZP, 7)
    served = Served(small, tmp_path / "data")
    try:
        yield served
    finally:
        served.close()
        small.close()


@pytest.fixture
def host(served: Served) -> Iterator[GatewayHost]:
    with connect(served) as host:
        yield host


def connect(served: Served, token: Any = "token-anna", timeout: float = SECONDS) -> Any:
    return pks.connect(f"localhost:{served.port}", token, ca=served.ca, timeout=timeout)


def quantities(host: GatewayHost) -> dict[tuple[str, str], Decimal]:
    return {(one.book, one.instrument): one.quantity for one in host.positions}


def test_positions_are_those_of_an_attached_host(served: Served, host: GatewayHost) -> None:
    with pks.attach(served.small.instance) as here:
        assert host.positions.to_dicts() == sorted(here.positions.to_dicts(), key=lambda one: (one["book"], one["instrument"]))
        near = here.positions["ALPHA", SBER]
    far = host.positions["ALPHA", SBER]
    for figure in ("quantity", "average_price", "cost", "fees", "clearing_cost", "last_price", "trades_count", "version", "last_sequence"):
        assert getattr(far, figure) == getattr(near, figure), figure
    assert [one.book for one in host.positions.find("BETA")] == ["BETA"]
    with pytest.raises(KeyError):
        host.positions["ALPHA", GAZP]
    assert host.heartbeat_age < remote.STALE_SECONDS
    freshness = served.live.freshness()
    assert (host.durable_sequence, host.told_sequence) == (freshness.durable, freshness.applied)


def test_changes_come_conflated(served: Served, host: GatewayHost) -> None:
    updates = host.updates(book="ALPHA", timeout=SECONDS)
    for quantity in range(50):
        served.small.put("ALPHA", SBER, quantity)
        served.small.put("BETA", GAZP, quantity)
    held = host.positions["ALPHA", SBER]
    before = held.quantity
    assert next(one for one in updates if one.quantity == 49).book == "ALPHA"
    assert held.quantity == before, "what a reader holds stays as it is"
    updates.stop()


def test_it_comes_back_by_itself_with_what_is_now(served: Served, host: GatewayHost) -> None:
    served.run(served.server.stop(0))
    served.small.put("ALPHA", SBER, 5)
    served.small.put("BETA", SBER, 6)
    served.run(served.start())
    wait_until(lambda: len(host.known) == 3 and quantities(host)["ALPHA", SBER] == 5, SECONDS, "a clean snapshot")
    assert host.connections_count == 2


def test_a_host_that_is_gone_is_stale(served: Served, host: GatewayHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "STALE_SECONDS", 1.2)
    assert host.positions["ALPHA", SBER].quantity == 100
    served.small.live(-(10**12))

    def is_stale() -> bool:
        try:
            host.check_live()
        except StaleHost as error:
            assert "stale" in str(error) and "token" not in str(error)
            return True
        return False

    wait_until(is_stale, SECONDS, "silence")
    for ask in (lambda: host.positions["ALPHA", SBER], lambda: host.durable_sequence, lambda: host.positions.find()):
        with pytest.raises(StaleHost):
            ask()
    served.small.live()
    wait_until(lambda: not is_stale(), SECONDS, "life")
    assert host.positions["ALPHA", SBER].quantity == 100


def test_a_closed_host_gives_nothing(served: Served) -> None:
    host = connect(served)
    host.close()
    with pytest.raises(StaleHost):
        host.positions["ALPHA", SBER]
    wait_until(lambda: served.streams() == 0, SECONDS, "no stream is left")


def test_a_book_that_is_not_ours_any_more_is_forgotten(served: Served, host: GatewayHost) -> None:
    waiting = host.updates(timeout=0.5)
    waiting.note(("ALPHA", SBER))
    served.become("anna", books=frozenset({"BETA"}))
    wait_until(lambda: list(host.known) == [("BETA", GAZP)], SECONDS, "BETA alone")
    assert "ALPHA" not in [one.book for one in waiting], "what waited for a reader is gone too"


def test_a_token_that_is_not_taken_is_said_at_once(served: Served) -> None:
    started = time.monotonic()
    with pytest.raises(NotAllowed) as error:
        connect(served, "token-nobody")
    assert time.monotonic() - started < SECONDS / 2 and "nobody" not in str(error.value)
    with pytest.raises(NotAllowed):
        connect(served, "")


def test_a_fresh_token_is_asked_for_when_one_is_needed(served: Served) -> None:
    given: list[str] = []

    def fresh() -> str:
        given.append(f"token-anna{len(given) + 1}")
        return given[-1]

    served.desk.users["anna1"] = principal("anna1", expires_at=time.time() + 0.7)
    served.desk.users["anna2"] = principal("anna2")
    with connect(served, fresh) as host:
        assert len(given) == 1
        wait_until(lambda: len(given) == 2 and host.connections_count == 2, SECONDS, "another connection with another token")
        served.small.put("ALPHA", SBER, 1)
        wait_until(lambda: quantities(host)["ALPHA", SBER] == 1, SECONDS, "it goes on")


def test_a_function_that_fails_is_asked_again_and_its_secret_not_told(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from pks.client import gateway

    monkeypatch.setattr(gateway, "DENIED_SECONDS", 0.05)
    answers = iter([RuntimeError("refresh token SECRET"), "token-anna"])

    def fresh() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with connect(served, fresh) as host:
        assert host.connections_count == 1
    with pytest.raises(NotReached) as error:
        connect(served, lambda: (_ for _ in ()).throw(RuntimeError("SECRET")), timeout=0.3)
    assert "RuntimeError" in str(error.value) and "SECRET" not in str(error.value)


def test_a_token_is_in_no_text(host: GatewayHost) -> None:
    assert "token" not in repr(host) and "token" not in host.last_error and "token" not in repr(next(iter(host.positions)))


def test_nobody_there_and_another_ca(served: Served, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(NotReached):
            pks.connect(f"grpc://127.0.0.1:{taken.getsockname()[1]}", "token-anna", ca=served.ca, timeout=0.5)
    other = SmallHost(tmp_path / "other", f"other{os.getpid()}")
    try:
        another = Served(other, tmp_path / "other")
        try:
            with pytest.raises(NotReached):
                pks.connect(f"localhost:{served.port}", "token-anna", ca=another.ca, timeout=1.0)
        finally:
            another.close()
    finally:
        other.close()


@pytest.mark.parametrize(
    ("url", "options"),
    [("http://localhost:1", {}), ("nats://localhost:1", {"token": "x"}), ("localhost:1", {"nkey": "f"}), ("grpc://h:1", {"origin": "a"})],
)
def test_what_does_not_fit_the_way_is_refused(url: str, options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"://|gateway"):
        pks.connect(url, **options)


# --- booking ---------------------------------------------------------------------------------------------------------------------


def test_a_trade_is_booked_amended_and_cancelled(served: Served, host: GatewayHost) -> None:
    booked = host.book(trade_id="T1", book="ALPHA", instrument=SBER, side="BUY", quantity=Decimal("1E+1"), price=Decimal("101.250"))
    assert booked == Booked("T1", "ACCEPTED", 41)
    assert host.amend("T1", price="99").status == host.cancel("T1", source="desk").status == "ACCEPTED"
    (first, _, no_key, _), (second, _, key, _), (third, _, other, _) = served.booker.asked
    assert (first.quantity, first.price, no_key) == ("10", "101.250", "")
    assert (second.kind, second.trade_id, second.price, third.kind, third.source) == ("AMEND", "T1", "99", "CANCEL", "desk")
    assert key and other and key != other, "a correction has a key, so that it may be sent again"
    served.booker.answer = Outcome(1, "T1", "WAITING", 0, "", "approval", "12", "above the limit")
    assert host.book(trade_id="T1") == Booked("T1", "WAITING", 0, 12)


def test_a_refusal_says_code_field_and_value(served: Served, host: GatewayHost) -> None:
    served.booker.answer = Outcome(1, "T1", "REFUSED", 0, "OVERSELL", "quantity", "10", "closes more than is held")
    with pytest.raises(BookingRefused) as error:
        host.book(trade_id="T1")
    found = error.value
    assert (found.code, found.field, found.value, found.reason) == ("OVERSELL", "quantity", "10", "closes more than is held")


def test_what_is_not_answered_is_sent_again_under_the_same_key(served: Served, host: GatewayHost) -> None:
    served.booker.answer = Retryable("no ring yet")
    letting = threading.Timer(0.5, lambda: setattr(served.booker, "answer", None))
    letting.start()
    assert host.cancel("T1").status == "ACCEPTED"
    keys = {key for _, _, key, _ in served.booker.asked}
    assert len(served.booker.asked) > 1 and len(keys) == 1
    served.booker.answer = Retryable("no ring")
    with pytest.raises(BookingUnknown):
        host.book(trade_id="T1", timeout=0.3)
    letting.join()


def test_a_user_without_a_token_any_more_books_nothing(served: Served, host: GatewayHost) -> None:
    served.desk.users["anna"] = replace(served.desk.users["anna"], expires_at=0.0)
    served.forget("anna")
    with pytest.raises(NotAllowed):
        host.book(trade_id="T1")
    assert served.booker.asked == []
