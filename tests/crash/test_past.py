"""The worker `past` of a running system: the commands' answers, what-if, kills in the midst of questions, garbage on its socket."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pks.bff.ask_past import AskPast, PastUnavailable
from pks.cli.group import main
from pks.edges.files.desk import packaged_desk, read_desk
from pks.past.door import HEAD, SOCKET_FILE, at_directory
from pks.past.questions import AnyAnswer, AnyQuestion, Failed, Held, History, Imagined, LotsOf, Page, PositionsAt, TradeOf, Trades, WhatIf
from tests.conftest import wait_until
from tests.crash.system import SECONDS, Feeder, LiveDay, System, a_system, judge, quiesce, running

pytestmark = pytest.mark.timeout(900)

NOWHERE = "postgresql://pks:pks@127.0.0.1:1/pks"
SETTINGS = {"edges": "external", "edges.postgres_url": NOWHERE, "without": "records,alerts,bff"}
AS_OF, AS_OF_NS = "2025-03-14T11:15:10Z", 1_741_950_910_000_000_000

ROW = {"book": "RU-EQ", "instrument": "SBER.MOEX", "account": "NSD-RU-01", "side": "BUY", "quantity": "10", "price": "300"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system with the packaged desk, its opening lots and its trades; the tests leave it as it was."""
    for system in a_system(tmp_path_factory.mktemp("past"), "past", desk="demo", **SETTINGS):
        system.start()
        wait_loaded(system)
        trades = system.data_dir / "trades.csv"
        trades.write_bytes((packaged_desk() / "trades.csv").read_bytes())
        result = CliRunner().invoke(main, ["book", str(trades)], env=environ(system))
        assert result.exit_code == 0, result.output
        yield system
        assert system.stop() == 0
        assert not (system.paths.run / SOCKET_FILE).exists()
        assert not [kernel for kernel in system.late_kernels() if kernel.startswith("past:")], "warm() calls every kernel"


def wait_loaded(system: System) -> None:
    """Until the loader has booked every opening lot."""
    lots = len(read_desk(packaged_desk()).opening_lots)
    wait_until(lambda: len(rows(system, Trades(kinds=("OPENING",)))) == lots, SECONDS, "the opening lots")


def environ(system: System) -> dict[str, str]:
    return {"PKS_DATA_DIR": str(system.data_dir), "PKS_INSTANCE": system.instance}


def said(system: System, *words: str) -> Any:
    """What a command says, as JSON."""
    result = CliRunner().invoke(main, [*words, "--json"], env=environ(system))
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def ask(system: System, *questions: AnyQuestion) -> list[AnyAnswer]:
    """Answers, asked again while the worker is away."""

    async def run() -> list[AnyAnswer]:
        asker = AskPast(system.paths.run)
        try:
            return [await insist(asker, question) for question in questions]
        finally:
            await asker.close()

    return asyncio.run(run())


async def insist(asker: AskPast, question: AnyQuestion, seconds: float = SECONDS) -> AnyAnswer:
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await asker.ask(question)
            except PastUnavailable:
                await asyncio.sleep(0.01)


def rows(system: System, question: AnyQuestion) -> list[dict[str, Any]]:
    (found,) = ask(system, question)
    assert isinstance(found, Page), found
    return found.rows


def past_pid(system: System) -> int:
    return int(system.workers()["past"].pid)


def test_the_same_as_the_commands(desk: System) -> None:
    positions = said(desk, "positions", "--all", "--as-of", AS_OF)
    assert rows(desk, PositionsAt(flat=True, as_of=AS_OF_NS)) == positions != []
    now = said(desk, "positions", "--all")
    assert rows(desk, PositionsAt(flat=True)) == now, "what the slots say"
    assert rows(desk, Held()) == said(desk, "positions", "--by", "account")
    assert rows(desk, Trades()) == said(desk, "trades") != []
    for row in now:
        assert rows(desk, LotsOf(book=row["book"], instrument=row["instrument"])) == said(desk, "lots", row["book"], row["instrument"])
    (sber,) = (row for row in now if (row["book"], row["instrument"]) == ("RU-EQ", "SBER.MOEX"))
    history = rows(desk, History(book=sber["book"], instrument=sber["instrument"]))
    matched = [match for row in history for match in row["matches"]]
    told = said(desk, "trades", "--matches", "--book", sber["book"], "--instrument", sber["instrument"])
    assert matched == [{name: row[name] for name in row if name not in ("revision", "cause")} for row in told] != []


def test_what_would_be_is_not(desk: System) -> None:
    before, sequence = said(desk, "positions", "--all"), said(desk, "status")["sequence"]["accepted"]
    pid = past_pid(desk)
    found, again = ask(desk, *2 * [WhatIf(rows=(ROW, {"kind": "CANCEL", "trade_id": "NEVER"}), marks={"SBER.MOEX": "310"})])
    assert isinstance(found, Imagined), found
    assert isinstance(again, Imagined), again
    assert [outcome["status"] for outcome in found.outcomes] == ["ACCEPTED", "REFUSED"]
    assert [row["quantity"] for row in found.changes] == ["10"]
    assert found.after == again.after or found.after[0]["last_trade_time"] != again.after[0]["last_trade_time"]
    assert found.after[0]["quantity"] == again.after[0]["quantity"], "the second knows nothing of the first"
    assert rows(desk, PositionsAt(flat=True)) == before == said(desk, "positions", "--all")
    kinds = [row["kind"] for row in rows(desk, Trades(newest_first=True, limit=3))]
    assert kinds
    assert said(desk, "status")["sequence"]["accepted"] >= sequence
    assert past_pid(desk) == pid, "its child has ended, not the worker"


def test_garbage_costs_only_its_sender(desk: System, seed: int) -> None:
    chance, pid = random.Random(seed), past_pid(desk)
    for _ in range(20):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(SECONDS)
            with at_directory(desk.paths.run) as near:
                client.connect(f"{near}/{SOCKET_FILE}")
            body = chance.randbytes(chance.randint(0, 200))
            client.sendall(HEAD.pack(len(body)) + body)
            assert client.recv(1) == b"", "closed"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as half:
        with at_directory(desk.paths.run) as near:
            half.connect(f"{near}/{SOCKET_FILE}")
        half.sendall(HEAD.pack(100) + b"torn")
        assert rows(desk, PositionsAt(limit=1))
    assert past_pid(desk) == pid


def test_killed_under_questions(desk: System) -> None:
    """Askers are told at once, and are answered again as soon as the worker is back."""
    expected = rows(desk, PositionsAt())

    async def run() -> tuple[int, int]:
        asker, answered, away = AskPast(desk.paths.run), 0, 0
        for _ in range(3):
            pid = past_pid(desk)
            os.kill(pid, 9)
            until = time.monotonic() + SECONDS
            while True:
                assert time.monotonic() < until, "an answer of the next life"
                found = await asyncio.gather(*(asker.ask(PositionsAt()) for _ in range(8)), return_exceptions=True)
                away += sum(isinstance(one, PastUnavailable) for one in found)
                pages = [one for one in found if isinstance(one, Page)]
                assert len(pages) + sum(isinstance(one, PastUnavailable) for one in found) == 8, found
                assert all(page.rows == expected for page in pages)
                answered += len(pages)
                if len(pages) == 8 and past_pid(desk) != pid:
                    break
                await asyncio.sleep(0.005)
        await asker.close()
        return answered, away

    answered, away = asyncio.run(run())
    assert answered >= 24
    assert away > 0, "a kill is noticed"
    assert desk.state() == "READY"


def test_killed_in_the_midst_of_what_if(desk: System) -> None:
    """A child never outlives the worker, and the next worker gets the claim."""
    many = WhatIf(rows=tuple(ROW for _ in range(5000)))
    before = rows(desk, PositionsAt(flat=True))

    async def run() -> None:
        asker = AskPast(desk.paths.run)
        asking = asyncio.create_task(asker.ask(many))
        pid = past_pid(desk)
        children = Path(f"/proc/{pid}/task/{pid}/children")
        async with asyncio.timeout(SECONDS):
            while not (found := children.read_text().split()) and not asking.done():
                await asyncio.sleep(0.001)
        assert found, "a child is at work"
        os.kill(pid, 9)
        with pytest.raises(PastUnavailable):
            await asking
        wait_until(lambda: not any(Path("/proc", child).exists() for child in found), SECONDS, "the child's end")
        assert isinstance(await insist(asker, PositionsAt(limit=1)), Page)
        await asker.close()

    asyncio.run(run())
    assert rows(desk, PositionsAt(flat=True)) == before


def test_a_question_amiss_is_an_answer(desk: System) -> None:
    found = ask(desk, LotsOf(book="NOPE", instrument="SBER.MOEX"), TradeOf(trade_id="NOPE"), PositionsAt(known_at=10**12))
    assert [one.code for one in found if isinstance(one, Failed)] == ["UNKNOWN_BOOK", "UNKNOWN_TRADE", "BEYOND_JOURNAL"]


@pytest.mark.long
def test_kills_while_fills_go_on(tmp_path: Path, seed: int) -> None:
    """Questions of every kind while a day of all kinds of events is booked and the worker is killed again and again; the end is judged."""
    with running(tmp_path, "pastkill", **SETTINGS) as system:
        system.start()
        feeder = Feeder(system, seed)
        day, chance = LiveDay(seed, feeder), random.Random(seed)
        for number in range(12):
            for _ in range(40):
                day.step()
            if number % 3 == 2:
                os.kill(past_pid(system), 9)
            found = ask(system, PositionsAt(flat=True), Trades(newest_first=True, limit=50), Held(), WhatIf(rows=()))
            assert all(isinstance(one, Page | Imagined) for one in found), found
            page = found[0]
            assert isinstance(page, Page)
            for row in chance.sample(page.rows, min(3, len(page.rows))):
                for question in (History, LotsOf):
                    (one,) = ask(system, question(book=row["book"], instrument=row["instrument"]))
                    assert isinstance(one, Page), one
        feeder.settle()
        quiesce(system, feeder)
        assert rows(system, PositionsAt(flat=True)) == said(system, "positions", "--all")
        assert rows(system, Trades()) == said(system, "trades")
        judge(system, feeder)
        assert not [kernel for kernel in system.late_kernels() if kernel.startswith("past:")], "warm() calls every kernel"
