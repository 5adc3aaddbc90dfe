"""For tests of the gateway: one Postgres and one Valkey, each behind a proxy that can cut it off, a fresh database a test; and a small
host of this process with a hub that looks at it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis

from pks.base.config import Config, load_config
from pks.bff.access import Access, make_access
from pks.edges.postgres import users
from pks.edges.postgres.connection import connect
from pks.servers.endpoints import Endpoint
from pks.workers.log import Log
from tests.crash.keep_servers import SECONDS, kept, why_missing
from tests.fault_proxy import Fault, FaultProxy
from tests.unit.bff.streams import Scene

NOT_WANTED = {"edges.nats_url": "nats://127.0.0.1:1", "edges.questdb_url": "http://127.0.0.1:1"}
NUMBERS = count(1)


@dataclasses.dataclass
class Stores:
    """Where Postgres and Valkey are, and what stands between."""

    postgres: Endpoint
    valkey: Endpoint
    to_postgres: FaultProxy
    to_valkey: FaultProxy


@dataclasses.dataclass
class AuthSystem:
    """A data directory with its own database, as a gateway is configured."""

    config: Config
    data_dir: Path
    stores: Stores
    owner: Any  # a connection as the gateway's role, not through the proxy
    valkey: Any

    def make(self) -> Access:
        """A gateway's access, not started."""
        return make_access(self.config, Log(self.data_dir / "log", "bff", lambda: 0))


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    if reason := why_missing("postgres") or why_missing("redis"):
        pytest.skip(reason)
    with kept(tmp_path_factory.mktemp("auth") / "data", **NOT_WANTED) as made:
        made.start("postgres", "redis")
        postgres, valkey = made.place("postgres"), made.place("redis")
        with FaultProxy(port_of(postgres)) as first, FaultProxy(port_of(valkey)) as second:
            yield Stores(postgres, valkey, first, second)


@pytest.fixture
async def system(stores: Stores, tmp_path: Path) -> AsyncIterator[AuthSystem]:
    name = f"auth_{next(NUMBERS)}"
    root = await asyncpg.connect(stores.postgres.url)
    await root.execute(f"create database {name}")
    stores.to_postgres.fault = stores.to_valkey.fault = Fault.NONE
    database = dataclasses.replace(stores.postgres, url=f"{stores.postgres.url.rpartition('/')[0]}/{name}")
    settings = NOT_WANTED | {
        "data_dir": str(tmp_path),
        "edges.postgres_url": database.url.replace(f":{port_of(database)}/", f":{stores.to_postgres.port}/"),
        "edges.redis_url": stores.valkey.url.replace(f":{port_of(stores.valkey)}", f":{stores.to_valkey.port}"),
        "gateway.lockout_failures": 3,
    }
    owner = await connect(database, users.ROLE)
    with redis.Redis.from_url(stores.valkey.url, decode_responses=True) as valkey:
        valkey.flushall()
        yield AuthSystem(load_config(None, {}, settings).config, tmp_path, stores, owner, valkey)
    await owner.close()
    await root.execute(f"drop database {name} with (force)")
    await root.close()


@pytest.fixture
async def access(system: AuthSystem) -> AsyncIterator[Access]:
    """Started, and looking at both."""
    made = system.make()
    await made.start()
    await until(lambda: made.age() is not None and bool(system.valkey.exists("jwt:blocklist-whole")))
    yield made
    await made.close()


def port_of(endpoint: Endpoint) -> int:
    return int(endpoint.url.rpartition(":")[2].partition("/")[0])


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    """Return as soon as it is true."""
    end = asyncio.get_running_loop().time() + SECONDS
    while True:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        assert asyncio.get_running_loop().time() < end, "in time"
        await asyncio.sleep(0.01)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, f"bff{os.getpid()}")
    try:
        yield made
    finally:
        made.close()
