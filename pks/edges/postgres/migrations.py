"""Migrations: numbered SQL files of this package, each applied once, whole, in order.

Owns `public.pks_migration`, the list of what was applied with each file's SHA-256. An applied file that reads otherwise now is refused by
name: history is not edited. Many workers may ask at once; an advisory lock lets one work. Called at each connect by whoever owns tables.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from pks.base.errors import Fatal

LOCK = 0x706B_735F_6D69_6772
"""Key of the advisory lock: "pks_migr"."""

TABLE = "public.pks_migration"


class MigrationEdited(Fatal):
    """A file that was applied is not what it was, or is gone."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"postgres migration {name} {reason}: applied files never change, add a new one")
        self.name, self.reason = name, reason


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    number: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Of its text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """The package's files in order. Numbers are 1, 2, 3 and so on."""
    folder = resources.files("pks.edges.postgres") / "sql"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    found = [Migration(int(name.partition("_")[0]), name, (folder / name).read_text(encoding="utf-8")) for name in names]
    assert [one.number for one in found] == list(range(1, len(found) + 1)), "numbered without a gap"
    return found


async def migrate(connection: Any, files: list[Migration] | None = None) -> list[str]:
    """Apply what is missing; the names of what was applied now. connection: asyncpg's, as the owner. Raises MigrationEdited.

    A database with migrations newer than ours is another version's, and refused too.
    """
    files = migrations() if files is None else files
    await connection.execute("select pg_advisory_lock($1)", LOCK)
    try:
        await connection.execute(
            f"create table if not exists {TABLE} (number integer primary key, name text not null, sha256 text not null, "
            "applied_at timestamptz not null default now())"
        )
        applied = {row["number"]: row for row in await connection.fetch(f"select number, name, sha256 from {TABLE}")}
        known = {file.number: file for file in files}
        for number, row in sorted(applied.items()):
            if number not in known:
                raise MigrationEdited(row["name"], "was applied by another version of this program")
            if known[number].sha256 != row["sha256"]:
                raise MigrationEdited(row["name"], "was edited after it was applied")
        done = []
        for file in files:
            if file.number not in applied:
                async with connection.transaction():
                    await connection.execute(file.text)
                    await connection.execute(
                        f"insert into {TABLE} (number, name, sha256) values ($1, $2, $3)", file.number, file.name, file.sha256
                    )
                done.append(file.name)
        return done
    finally:
        await connection.execute("select pg_advisory_unlock($1)", LOCK)
