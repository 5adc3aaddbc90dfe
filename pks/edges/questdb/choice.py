"""Which store keeps the time series here: QuestDB, or Postgres where QuestDB cannot be had.

Owns that one decision, for the edge and for whoever asks about the past. It looks at the configuration and for two files; an external
QuestDB is always the one, whatever its state.
"""

from __future__ import annotations

from typing import NamedTuple

from pks.base.config import Config
from pks.edges.questdb.store import TimeSeriesStore
from pks.servers.binaries import java_binary, questdb_jar
from pks.servers.endpoints import Endpoint, endpoint, mode_of
from pks.servers.errors import ServerMissing


class Choice(NamedTuple):
    """The store's name (questdb, postgres), where it is (None: not started yet, or nowhere), and why it is not QuestDB."""

    name: str
    place: Endpoint | None
    reason: str


def choose(config: Config) -> Choice:
    """The store for time series as things stand now."""
    if mode_of(config, "questdb") == "embedded":
        try:
            java_binary(config.edges.java)
            questdb_jar(config.edges.questdb_jar)
        except ServerMissing as error:
            return Choice("postgres", endpoint(config, "postgres"), error.reason)
    return Choice("questdb", endpoint(config, "questdb"), "")


def store_of(choice: Choice) -> TimeSeriesStore:
    """The chosen store, not opened yet; the choice has a place."""
    assert choice.place is not None, "there is a server"
    if choice.name == "postgres":
        from pks.edges.questdb.standin import PostgresStore

        return PostgresStore(choice.place)
    from pks.edges.questdb.ilp import QuestdbStore

    return QuestdbStore(choice.place)
