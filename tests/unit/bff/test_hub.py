"""The hub over a small host: everyone gets what he may see, once, in order, and without a gap, however slow, late or cut off he is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pks.base.errors import Code
from pks.bff import hub as hub_module
from pks.bff.feed import Positions
from pks.bff.hub import BEHIND_SECONDS_MAX, CATCH_UP_ITEMS, HEARTBEAT_SECONDS, HISTORY_FRAMES, RESUME_SECONDS, TooManyClients
from pks.edges.chat.alerts import Alert, AlertClass, Delivery
from pks.edges.chat.keep import AlertFile
from pks.layouts.codes import Flag
from pks.layouts.segment import WorkerState
from pks.segments.errors import StaleHost, UnstableSlot
from tests.unit.bff.streams import MS, Listener, Scene
from tests.unit.client.small_host import BOOKS, INSTRUMENTS, SIZES

KEYS = [(book, instrument) for book in BOOKS for instrument in INSTRUMENTS]


def test_a_snapshot_then_patches(scene: Scene) -> None:
    scene.core.put("ALPHA", "SBER.MOEX", 5)
    scene.core.put("BETA", "GAZP.MOEX", 7)
    one = scene.join("positions")
    scene.settle()
    first = one.read()
    assert [message["type"] for message in first] == ["welcome", "state", "snapshot"]
    assert (first[-1]["state"], first[-1]["topic"], first[-1]["more"]) == ("snapshot", "positions", False)
    assert one.positions == scene.state()
    scene.core.put("ALPHA", "SBER.MOEX", 6)
    scene.settle()
    (frame,) = one.read()
    assert (frame["type"], frame["state"]) == ("positions", "live")
    assert frame["data"] == [{"book": "ALPHA", "instrument": "SBER.MOEX", "quantity": "6", "cost": "6", "last_sequence": 3}]
    assert one.positions == scene.state()


def test_many_changes_of_a_window_are_one_message(scene: Scene) -> None:
    one = scene.join("positions")
    scene.settle()
    one.read()
    for quantity in range(20):
        for key in KEYS:
            scene.core.put(*key, quantity)
    scene.turn()
    (frame,) = one.read()
    assert len(frame["data"]) == len(KEYS), "each position once, at its latest"
    assert one.positions == scene.state()


def test_clients_with_one_view_share_bytes_and_others_see_their_books(scene: Scene) -> None:
    everything, again = scene.join("positions"), scene.join("positions")
    alpha, nothing = scene.join("positions", books=frozenset({"ALPHA", "GHOST"})), scene.join("positions", books=frozenset())
    scene.settle()
    for key in KEYS:
        scene.core.put(*key, 3)
    scene.settle()
    assert everything.wire.said[-1].split(b",", 2)[2] == again.wire.said[-1].split(b",", 2)[2]
    for one in (everything, again, alpha, nothing):
        one.read()
    assert everything.positions == again.positions == scene.state()
    assert alpha.positions == scene.state("ALPHA")
    assert nothing.positions == {}
    assert nothing.types().count("positions") == 0


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(KEYS), st.integers(-3, 3)), max_size=60))
def test_whatever_happens_every_client_ends_with_the_state(steps) -> None:
    """0-2: a change; 3: a window; 4: a new client; 5: a client's connection sticks, or is free again."""
    scene = Scene(Path(os.environ.get("PYTEST_TMP", "/tmp")) / f"bff-laws-{os.getpid()}", f"laws{os.getpid()}")
    try:
        listeners = [scene.join("positions")]
        for what, key, quantity in steps:
            if what < 3:
                scene.core.put(*key, quantity)
            elif what == 3:
                scene.turn()
            elif what == 4:
                listeners.append(scene.join("positions", books=frozenset({key[0]}) if quantity < 0 else None))
            else:
                wire = listeners[quantity % len(listeners)].wire
                wire.stuck = 0 if wire.stuck else 1 << 30
        for one in listeners:
            one.wire.stuck = 0
        scene.settle()
        for one in listeners:
            one.read()
            assert one.client is not None
            assert one.positions == scene.state(*(one.client.books or ()))
    finally:
        scene.close()


def test_a_topic_that_only_shows_what_is(scene: Scene) -> None:
    scene.core.put("ALPHA", "SBER.MOEX", 5)
    one = scene.join("snapshot")
    scene.settle()
    scene.core.put("ALPHA", "SBER.MOEX", 6)
    scene.settle()
    one.read()
    assert one.types().count("snapshot") == 1 and "positions" not in one.types()
    assert one.client is not None and one.client.links == {}


def test_a_snapshot_of_many_comes_in_parts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "CATCH_UP_ITEMS", 3)
    monkeypatch.setattr(hub_module, "CATCH_UP_NEW_ITEMS", 2)
    for key in KEYS:
        scene.core.put(*key, 3)
    one, two = scene.join("positions"), scene.join("positions")
    for quantity in range(4, 8):
        scene.turn()
        scene.core.put(*KEYS[quantity], quantity)
    scene.settle()
    for listener in (one, two):
        parts = [message for message in listener.read() if message["type"] == "snapshot"]
        assert [part["more"] for part in parts] == [True] * (len(parts) - 1) + [False] and len(parts) > 2
        assert listener.positions == scene.state()


# slow clients


def test_a_slow_client_is_conflated_and_others_do_not_notice(scene: Scene) -> None:
    slow, quick = scene.join("positions"), scene.join("positions")
    scene.settle()
    slow.wire.stuck = 1 << 30
    for quantity in range(1, 100):
        scene.core.put("ALPHA", "SBER.MOEX", quantity)
        scene.core.put("BETA", "GAZP.MOEX", quantity)
        scene.turn()
    quick.read()
    assert quick.types().count("positions") == 99
    assert scene.hub.figures.conflated == 1
    slow.wire.stuck = 0
    scene.settle()
    behind = [message for message in slow.read() if message["type"] == "positions"]
    assert len(behind) == 1 and len(behind[0]["data"]) == 2, "what it lacks, once, and at its latest"
    assert slow.positions == quick.positions == scene.state()
    scene.core.put("ALPHA", "SBER.MOEX", 1000)
    scene.settle()
    assert slow.read()[-1]["data"] == quick.read()[-1]["data"], "it is in step again"


def test_a_client_that_takes_nothing_is_dropped(scene: Scene) -> None:
    slow, quick = scene.join("positions"), scene.join("positions")
    scene.settle()
    slow.wire.stuck = 1 << 30
    scene.core.put("ALPHA", "SBER.MOEX", 1)
    scene.turn(2)
    scene.turn(after_ns=int((BEHIND_SECONDS_MAX - 1) * 1e9))
    assert slow.wire.closed is None
    scene.turn(after_ns=int(1.1e9))
    assert slow.wire.closed is not None and slow.wire.closed[0] == 1013
    assert quick.wire.closed is None
    assert scene.hub.figures.dropped == 1
    assert scene.hub.resume(*_fresh(scene, slow)) is None, "who was dropped begins anew"


def _fresh(scene: Scene, listener: Listener):
    """What `resume` takes, for a new connection of the same user."""
    other = scene.join()
    return other.client, listener.stream or listener.client.stream, listener.seq, lambda wanted: wanted


# trades


def test_trades_are_told_when_they_are_durable_and_judged(scene: Scene) -> None:
    one = scene.join("trades")
    scene.settle()
    first = scene.core.trade("ALPHA", "SBER.MOEX", 5, b'{"venue":"MOEX","order_id":"o-1"}')
    second = scene.core.trade("BETA", "GAZP.MOEX", 6, flags=Flag.HAS_PRICE | Flag.HAS_FEE, fee_raw=12, fee_scale=1, fee_currency_id=2)
    scene.settle()
    one.read()
    assert one.trades == []
    scene.core.settle(first)  # its DETAIL is not on disk yet
    scene.settle()
    one.read()
    assert one.trades == []
    scene.core.refuse(0, second, int(Code.OVERSELL))
    scene.core.settle()
    scene.settle()
    one.read()
    assert [trade["sequence"] for trade in one.trades] == [first, second]
    told, refused = one.trades
    assert told.items() >= {
        "trade_id": f"T-{first}", "kind": "TRADE", "state": "BOOKED", "book": "ALPHA", "instrument": "SBER.MOEX", "side": "BUY",
        "quantity": "5", "price": "101.25", "venue": "MOEX", "order_id": "o-1",
    }.items()  # fmt: skip
    assert (refused["status"], refused["code"], refused["fees"]) == ("REFUSED OVERSELL", "OVERSELL", {"USD": "1.2"})


def test_a_blotter_has_both(scene: Scene) -> None:
    alpha = scene.join("blotter", books=frozenset({"ALPHA"}))
    scene.settle()
    for book in ("ALPHA", "BETA"):
        scene.core.put(book, "SBER.MOEX", 5)
        scene.core.trade(book, "SBER.MOEX", 5)
    scene.core.settle()
    scene.settle()
    frames = [message for message in alpha.read() if message["type"] == "blotter"]
    assert len(frames) == 1
    assert [trade["book"] for trade in alpha.trades] == ["ALPHA"]
    assert alpha.positions == scene.state("ALPHA")


def test_a_transfer_is_seen_from_both_books(scene: Scene) -> None:
    listeners = {book: scene.join("trades", books=frozenset({book})) for book in BOOKS}
    scene.settle()
    scene.core.trade("ALPHA", "SBER.MOEX", 5, to_book_id=BOOKS["BETA"], kind=7)
    scene.core.settle()
    scene.settle()
    for listener in listeners.values():
        listener.read()
        assert [trade["kind"] for trade in listener.trades] == ["TRANSFER"]


def test_a_slow_client_gets_every_trade(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "CATCH_UP_ITEMS", 4)
    one = scene.join("trades")
    scene.settle()
    one.wire.stuck = 1 << 30
    for quantity in range(1, 31):
        scene.core.trade("ALPHA", "SBER.MOEX", quantity)
        scene.core.settle()
        scene.turn()
    one.wire.stuck = 0
    scene.settle()
    one.read()
    assert [trade["quantity"] for trade in one.trades] == [str(quantity) for quantity in range(1, 31)]


def test_trades_that_went_by_unread_are_a_new_beginning(scene: Scene) -> None:
    one = scene.join("trades")
    scene.settle()
    one.read()
    for quantity in range(1, 2 * SIZES.events):
        scene.core.trade("ALPHA", "SBER.MOEX", quantity)
        scene.core.settle()
    scene.settle()
    (told,) = one.read()
    assert told["type"] == "snapshot" and one.trades == []
    scene.core.trade("ALPHA", "SBER.MOEX", 7)
    scene.core.settle()
    scene.settle()
    one.read()
    assert [trade["quantity"] for trade in one.trades] == ["7"]


# resuming


def cut(scene: Scene, listener: Listener) -> None:
    assert listener.client is not None
    scene.hub.leave(listener.client, listener.wire)


def come_back(scene: Scene, listener: Listener, owner: str = "ann", see=lambda wanted: wanted) -> bool | None:
    """A new connection that resumes where the listener is; whether nothing was missed, None where the stream is unknown."""
    fresh = scene.join(owner=owner)
    client = scene.hub.resume(fresh.client, listener.stream, listener.seq, see)
    if client is None:
        return None
    said = [json.loads(text) for text in fresh.wire.said if not text.startswith(b'{"type":"welcome"')]
    fresh.wire.said.clear()
    listener.wire = fresh.wire
    for message in said:
        listener.take(message)
    return [message for message in said if message["type"] == "resumed"][-1]["data"]["resumed"]


def test_a_client_that_comes_back_gets_what_it_missed(scene: Scene) -> None:
    one, other = scene.join("blotter"), scene.join("positions")
    scene.settle()
    one.read()
    cut(scene, one)
    for quantity in range(1, 11):
        scene.core.put("ALPHA", "SBER.MOEX", quantity)
        scene.core.trade("ALPHA", "SBER.MOEX", quantity)
        scene.core.settle()
        scene.turn()
    seq = one.seq
    assert come_back(scene, one) is True
    assert one.messages[-11]["type"] == "resumed" and one.messages[-11]["seq"] == seq + 1
    scene.core.put("BETA", "SBER.MOEX", 1)
    scene.settle()
    one.read()
    other.read()
    assert one.positions == other.positions == scene.state()
    assert [trade["quantity"] for trade in one.trades] == [str(quantity) for quantity in range(1, 11)]
    assert one.types().count("snapshot") == 1


def test_a_client_that_lost_its_last_messages_on_the_way(scene: Scene) -> None:
    one = scene.join("positions")
    scene.settle()
    for quantity in range(1, 6):
        scene.core.put("ALPHA", "SBER.MOEX", quantity)
        scene.turn()
    lost = one.wire.said[-3:]
    del one.wire.said[-3:]
    one.read()
    assert come_back(scene, one) is True, "its old connection is not known to be gone"
    scene.settle()
    one.read()
    assert len(lost) == 3 and one.positions == scene.state()


def test_two_topics_of_which_one_came_through_are_a_snapshot(scene: Scene) -> None:
    one = scene.join("positions", "trades")
    scene.settle()
    one.read()
    scene.core.put("ALPHA", "SBER.MOEX", 3)
    scene.core.trade("ALPHA", "SBER.MOEX", 3)
    scene.core.settle()
    scene.turn()
    assert len(one.wire.said) == 2
    del one.wire.said[-1]
    one.read()
    assert come_back(scene, one) is False
    scene.settle()
    one.read()
    assert one.positions == scene.state() and one.types().count("snapshot") == 4


def test_what_is_not_kept_any_more_is_a_clean_snapshot(scene: Scene) -> None:
    one = scene.join("positions")
    scene.settle()
    one.read()
    cut(scene, one)
    for quantity in range(HISTORY_FRAMES + 5):
        scene.core.put("ALPHA", "SBER.MOEX", quantity)
        scene.turn(after_ns=1000)
    assert come_back(scene, one) is False
    scene.settle()
    one.read()
    assert one.types().count("snapshot") == 2 and one.positions == scene.state()


def test_a_stream_is_its_owners_and_not_for_ever(scene: Scene) -> None:
    one = scene.join("positions")
    scene.settle()
    one.read()
    cut(scene, one)
    assert come_back(scene, one, owner="bob") is None
    one.seq += 1000
    assert come_back(scene, one) is None, "it was never told so much"
    one.seq -= 1000
    scene.turn(after_ns=int((RESUME_SECONDS + 1) * 1e9))
    scene.turn()
    assert come_back(scene, one) is None
    assert not scene.hub._channels and not scene.hub._known.keys() & {one.stream}, "nothing of it is left"


def test_grants_that_changed_meanwhile_are_a_snapshot_of_what_is_seen_now(scene: Scene) -> None:
    for key in KEYS:
        scene.core.put(*key, 3)
    one = scene.join("positions")
    scene.settle()
    one.read()
    cut(scene, one)
    assert come_back(scene, one, see=lambda wanted: frozenset({"ALPHA"})) is False
    scene.settle()
    one.read()
    assert one.positions == scene.state("ALPHA")


def test_a_client_in_mid_snapshot_is_not_resumed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "CATCH_UP_ITEMS", 2)
    for key in KEYS:
        scene.core.put(*key, 3)
    one = scene.join("positions")
    scene.turn()
    one.read()
    assert one.in_snapshot
    cut(scene, one)
    one.in_snapshot = False
    assert come_back(scene, one) is False
    scene.settle()
    one.read()
    assert one.positions == scene.state()


# the core's life


def test_the_core_goes_and_comes_back(scene: Scene) -> None:
    scene.core.put("ALPHA", "SBER.MOEX", 5)
    scene.core.put("BETA", "SBER.MOEX", 6)
    one, gone = scene.join("positions"), scene.join("positions")
    scene.settle()
    one.read()
    gone.read()
    cut(scene, gone)
    scene.core.close()
    scene.turn(after_ns=100 * MS)
    (said,) = one.read()
    assert (said["type"], said["state"]) == ("state", "stale") and said["data"]["reason"]
    scene.turn(20, after_ns=100 * MS)
    assert one.read() == [], "it is said once"
    late = scene.join("positions")
    scene.start_core()
    scene.core.put("ALPHA", "GAZP.MOEX", 7)
    scene.turn(after_ns=100 * MS)
    scene.settle()
    assert come_back(scene, gone) is False, "what it missed is void"
    scene.settle()
    for listener in (one, late, gone):
        listener.read()
        assert listener.messages[-1]["state"] == "snapshot" or listener.messages[-1]["state"] == "live"
        assert listener.positions == scene.state() and len(listener.positions) == 1
    assert one.types()[-2:] == ["state", "snapshot"]


def test_a_core_that_was_replaced_between_two_looks(scene: Scene) -> None:
    scene.core.put("ALPHA", "SBER.MOEX", 5)
    one = scene.join("positions")
    scene.settle()
    scene.core.close()
    scene.start_core()
    scene.core.put("ALPHA", "GAZP.MOEX", 7)
    with pytest.raises(Exception, match="no figures"):
        _ = scene.live.host  # another part of the gateway sees it first
    assert scene.live.host is not None
    scene.turn(2, after_ns=100 * MS)
    scene.settle()
    one.read()
    assert one.positions == scene.state() and len(one.positions) == 1


@pytest.mark.parametrize("error", [UnstableSlot("positions", 1, 10**6), StaleHost("/positions", "state CLOSED", 0)])
def test_a_core_that_cannot_be_read_while_it_is_found(scene: Scene, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    scene.core.put("ALPHA", "SBER.MOEX", 5)
    whole, failures = Positions.rows_of, [error]

    def rows_of(self, books):
        if failures:
            raise failures.pop()
        return whole(self, books)

    monkeypatch.setattr(Positions, "rows_of", rows_of)
    one = scene.join("positions")
    scene.turn()
    failures.append(error)
    assert one.client is not None
    scene.turn(3, after_ns=100 * MS)
    scene.hub.show(one.client, frozenset({"ALPHA"}))
    scene.turn(3, after_ns=100 * MS)
    one.read()
    assert not failures and one.positions == scene.state()


def test_a_worker_that_is_away_is_said(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.core.put("ALPHA", "SBER.MOEX", 5)
    one = scene.join("positions")
    scene.settle()
    one.read()
    worker = next(worker for worker in scene.core.host.control.workers() if worker.name == "accumulator-0")
    scene.core.host.control.watch(worker.owner, state=WorkerState.DEAD)
    scene.live._looked_at -= 1
    scene.turn(after_ns=100 * MS)
    assert [(message["type"], message["state"]) for message in one.read()] == [("state", "stale")]


def test_reference_data_that_changes_what_is_shown(scene: Scene) -> None:
    scene.core.put("ALPHA", "SBER.MOEX", 5)
    one = scene.join("positions")
    scene.settle()
    one.read()
    from pks.layouts.codes import Subject

    scene.core.define(
        Subject.INSTRUMENT, INSTRUMENTS["SBER.MOEX"], "SBER.MOEX", pnl_currency="RUB", pnl_currency_id=1, multiplier_numerator=10,
        multiplier_denominator=1,
    )  # fmt: skip
    scene.turn(after_ns=int(1.1e9))
    scene.settle()
    one.read()
    assert one.positions == scene.state() and one.positions["ALPHA", "SBER.MOEX"]["cost"] == "50"


# the rest


def test_heartbeats(scene: Scene) -> None:
    one = scene.join()
    scene.turn(4, after_ns=int(HEARTBEAT_SECONDS / 2 * 1e9))
    assert [message["type"] for message in one.read()].count("heartbeat") == 2


def test_alerts_and_their_changes(scene: Scene) -> None:
    one, other = scene.join("alerts"), scene.join("positions")
    scene.settle()
    assert [message["data"] for message in one.read() if message["type"] == "alerts"] == [[]]
    alert = Alert(
        alert_class=AlertClass.EDGE_DOWN, severity="WARNING", window_start_ns=1, count=1, text="nats", channels=[], state=Delivery.MUTED
    )  # fmt: skip
    AlertFile(scene.folder).put([alert])
    scene.turn(2, after_ns=int(1.1e9))
    assert [found["class"] for found in one.read()[-1]["data"]] == ["edge_down"]
    assert "alerts" not in [message["type"] for message in other.read()]
    scene.turn(3, after_ns=int(1.1e9))
    assert one.read() == []


def test_no_more_streams_than_allowed(scene: Scene) -> None:
    scene.hub.clients_max = 2
    one = scene.join("positions")
    scene.join()
    with pytest.raises(TooManyClients):
        scene.join()
    cut(scene, one)
    scene.join()


def test_the_end_of_the_gateway_closes_everyone(scene: Scene) -> None:
    one = scene.join("positions")
    scene.hub.close()
    assert one.wire.closed is not None and one.wire.closed[0] == 1001
    assert not scene.hub.clients


def test_other_books_from_now_on(scene: Scene) -> None:
    for key in KEYS:
        scene.core.put(*key, 3)
    one = scene.join("positions")
    scene.settle()
    one.read()
    assert one.client is not None
    scene.hub.subscribe(one.client, [], frozenset({"BETA"}), frozenset({"BETA"}))
    scene.settle()
    one.read()
    assert one.positions == scene.state("BETA")
    scene.hub.unsubscribe(one.client, ["positions", "trades"])
    scene.core.put("BETA", "SBER.MOEX", 99)
    scene.settle()
    assert one.read() == []


assert CATCH_UP_ITEMS > len(KEYS), "a small host's snapshot is one message"
