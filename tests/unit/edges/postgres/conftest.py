"""One Postgres for these tests, with a fresh database each."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator
from itertools import count

import asyncpg
import pytest

from pks.servers.endpoints import Endpoint
from tests.crash.keep_servers import kept, why_missing

NUMBERS = count(1)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A running Postgres."""
    if reason := why_missing("postgres"):
        pytest.skip(reason)
    with kept(tmp_path_factory.mktemp("postgres") / "data", only="postgres") as made:
        made.start("postgres")
        yield made.place("postgres")


@pytest.fixture
async def database(server: Endpoint) -> AsyncIterator[Endpoint]:
    """An empty database."""
    name = f"test_{next(NUMBERS)}"
    owner = await asyncpg.connect(server.url)
    try:
        await owner.execute(f"create database {name}")
        yield dataclasses.replace(server, url=f"{server.url.rpartition('/')[0]}/{name}")
        await owner.execute(f"drop database {name} with (force)")
    finally:
        await owner.close()
