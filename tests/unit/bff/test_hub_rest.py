"""A hub that rests with nobody there shows the next one its snapshot at once."""

from __future__ import annotations

import asyncio

import pytest

from pks.bff import hub as hub_module
from tests.unit.bff.streams import Listener, Scene


async def test_who_comes_while_the_hub_rests_does_not_wait_for_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.hub._channel("positions", None)  # kept for somebody who may come again, with whom the hub rests
    monkeypatch.setattr(hub_module, "FRESH_SECONDS_AT_REST", 30.0)
    running = asyncio.create_task(scene.hub.run())
    try:
        await asyncio.sleep(0.05)
        listener = Listener()
        listener.client = scene.hub.join("ann", listener.wire)
        scene.hub.subscribe(listener.client, ["positions"], None, None)
        async with asyncio.timeout(20):
            while "snapshot" not in listener.types():
                await asyncio.sleep(0.005)
                listener.read()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
