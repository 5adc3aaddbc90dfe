"""`back_office.position_snapshot` and `back_office.shadow_state`: positions as of one event, for people and for a recovery.

Owns the SQL of both, the cursor `positions`, and the form of `state`: what a checkpoint has of the key. Used by the shadow's thread, and by
whoever makes a checkpoint of it.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from pks.base.errors import Fatal
from pks.edges.postgres.writer import MOVE_CURSOR, CursorMoved
from pks.engine.positions.view import PositionTerms, PositionView
from pks.layouts.state import ACCOUNT, KEY, LOT, STATE_LAYOUT_VERSION

EDGE = "positions"
STATE = "shadow"

HEAD = np.dtype([("layout", "<i8"), ("place", "<i8"), ("lots", "<i8"), ("accounts", "<i8")])
"""What `state` begins with; KEY, lots and accounts follow. place: the key's row in the fold."""

DIGEST_BYTES = 16

UPSERT = """
insert into back_office.position_snapshot as p (book_id, instrument_id, book, instrument, quantity, average_price, cost, realised_gross,
    realised_net, fees, open_lots, currency, last_trade_time_ns, last_trade_time, last_sequence, state)
select book_id, instrument_id, book, instrument, quantity::numeric, average_price::numeric, cost::numeric, realised_gross::numeric,
    realised_net::numeric, fees::jsonb, open_lots, currency, time_ns,
    case when time_ns <> 0 then timestamptz 'epoch' + (time_ns / 1000) * interval '1 microsecond' end, last_sequence, state
from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
    $11::integer[], $12::text[], $13::bigint[], $14::bigint[], $15::bytea[])
    as x(book_id, instrument_id, book, instrument, quantity, average_price, cost, realised_gross, realised_net, fees, open_lots, currency,
        time_ns, last_sequence, state)
on conflict (book_id, instrument_id) do update set book = excluded.book, instrument = excluded.instrument,
    currency = excluded.currency, quantity = excluded.quantity, average_price = excluded.average_price,
    cost = excluded.cost, realised_gross = excluded.realised_gross, realised_net = excluded.realised_net, fees = excluded.fees,
    open_lots = excluded.open_lots, last_trade_time_ns = excluded.last_trade_time_ns, last_trade_time = excluded.last_trade_time,
    last_sequence = excluded.last_sequence, state = excluded.state
"""

ROWS_AT_ONCE = 4096


class PositionsUnfit(Fatal):
    """What is there of the positions cannot be made into a checkpoint."""

    def __init__(self, sequence: int, reason: str) -> None:
        super().__init__(f"postgres: the positions as of event {sequence}: {reason}")
        self.sequence, self.reason = sequence, reason


class Package(Protocol):
    """What the shadow hands over: see workers.edges.snapshot.Package."""

    @property
    def before(self) -> int: ...
    @property
    def sequence(self) -> int: ...
    @property
    def checksum(self) -> int: ...
    @property
    def instance(self) -> str: ...
    @property
    def places(self) -> Any: ...
    @property
    def keys(self) -> Any: ...
    @property
    def parts(self) -> dict[str, Any]: ...
    @property
    def rest(self) -> dict[str, Any]: ...
    @property
    def terms(self) -> Sequence[PositionTerms | None]: ...


class PositionsWriter:
    """One connection's way of writing packages."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._rest_digest = b""

    async def begin(self) -> tuple[int, int, Any]:
        """(cursor, checksum of its event, KEY[n] of every key that is there)."""
        async with self.connection.transaction(isolation="repeatable_read"):
            row = await self.connection.fetchrow("select sequence, checksum from back_office.edge_cursor where edge = $1", EDGE)
            first = HEAD.itemsize + 1
            found = await self.connection.fetch(f"select substr(state, {first}, {KEY.itemsize}) from back_office.position_snapshot")
        cursor, checksum = (int(row["sequence"]), int(row["checksum"])) if row is not None else (0, 0)
        return cursor, checksum, np.frombuffer(b"".join(one[0] for one in found), KEY)

    async def write(self, package: Package) -> None:
        """All of a package or nothing. Raises CursorMoved and what asyncpg raises."""
        blob = packed(package.rest)
        digest = hashlib.blake2b(blob, digest_size=DIGEST_BYTES).digest()
        connection = self.connection
        async with connection.transaction():
            await connection.execute(
                "insert into back_office.edge_cursor (edge, sequence, checksum, instance) values ($1, 0, 0, $2) on conflict do nothing",
                EDGE, package.instance,
            )  # fmt: skip
            if await connection.execute(MOVE_CURSOR, EDGE, package.before, package.sequence, package.checksum) != "UPDATE 1":
                raise CursorMoved(EDGE, package.before)
            rows = list(_rows(package))
            for start in range(0, len(rows), ROWS_AT_ONCE):
                await connection.execute(UPSERT, *map(list, zip(*rows[start : start + ROWS_AT_ONCE], strict=True)))
            changed = "" if digest == self._rest_digest else ", state = excluded.state"
            await connection.execute(
                "insert into back_office.shadow_state (name, sequence, state) values ($1, $2, $3) "
                f"on conflict (name) do update set sequence = excluded.sequence{changed}",
                STATE, package.sequence, zlib.compress(blob, 1) if changed else b"",
            )  # fmt: skip
        self._rest_digest = digest


def _rows(package: Package) -> Any:
    """The arguments of UPSERT, row by row."""
    lots, lot_ends = package.parts["lots"], package.parts["lot_ends"].tolist()
    accounts, account_ends = package.parts["accounts"], package.parts["account_ends"].tolist()
    lot, account = 0, 0
    for i, (key, terms) in enumerate(zip(package.keys, package.terms, strict=True)):
        head = np.array((STATE_LAYOUT_VERSION, package.places[i], lot_ends[i] - lot, account_ends[i] - account), HEAD)
        state = head.tobytes() + key.tobytes() + lots[lot : lot_ends[i]].tobytes() + accounts[account : account_ends[i]].tobytes()
        lot, account = lot_ends[i], account_ends[i]
        book_id, instrument_id = int(key["book_id"]), int(key["instrument_id"])
        if terms is None:  # seen by refused events only
            yield book_id, instrument_id, "", "", "0", None, "0", "0", "0", "{}", 0, "", 0, 0, state
            continue
        view = PositionView.from_record(key, terms)
        said = view.as_dict()
        yield (
            book_id, instrument_id, said["book"], said["instrument"], said["quantity"], said["average_price"], said["cost"],
            said["realised_gross"], said["realised_net"], msgspec.json.encode(said["fees"]).decode(), said["open_lots"], said["currency"],
            view.last_trade_time_ns, said["last_sequence"], state,
        )  # fmt: skip


def packed(arrays: Mapping[str, Any]) -> bytes:
    """Arrays as bytes, the same for the same arrays."""
    out = io.BytesIO()
    for name, array in sorted(arrays.items()):
        body = io.BytesIO()
        np.save(body, array)
        head = msgspec.msgpack.encode((name, len(body.getbuffer())))
        out.write(len(head).to_bytes(4, "little") + head + body.getbuffer())
    return out.getvalue()


def unpacked(blob: bytes) -> dict[str, Any]:
    """What `packed` was given."""
    arrays, at = {}, 0
    while at < len(blob):
        size = int.from_bytes(blob[at : at + 4], "little")
        name, length = msgspec.msgpack.decode(blob[at + 4 : at + 4 + size], type=tuple[str, int])
        at += 4 + size
        arrays[name] = np.load(io.BytesIO(blob[at : at + length]))
        at += length
    return arrays


async def read_positions(connection: Any) -> tuple[int, dict[str, Any]]:
    """(event, arrays of the fold as of it: `workers.checkpoint.positions_arrays`); (0, {}) if there are none. Raises PositionsUnfit."""
    async with connection.transaction(isolation="repeatable_read"):
        row = await connection.fetchrow("select sequence, state from back_office.shadow_state where name = $1", STATE)
        found = [one[0] for one in await connection.fetch("select state from back_office.position_snapshot")]
    if row is None:
        return 0, {}
    sequence = int(row["sequence"])
    heads = np.frombuffer(b"".join(one[: HEAD.itemsize] for one in found), HEAD)
    if (heads["layout"] != STATE_LAYOUT_VERSION).any():
        raise PositionsUnfit(sequence, "the positions are of another version of this program")
    order = np.argsort(heads["place"], kind="stable")
    if not np.array_equal(heads["place"][order], np.arange(len(heads))):
        raise PositionsUnfit(sequence, "some positions are missing")
    key_end = HEAD.itemsize + KEY.itemsize
    keys, lots, accounts = [], [], []
    for i in order.tolist():
        state, lots_end = found[i], key_end + int(heads["lots"][i]) * LOT.itemsize
        keys.append(state[HEAD.itemsize : key_end])
        lots.append(state[key_end:lots_end])
        accounts.append(state[lots_end:])
    arrays = {name if name in ("set_heads", "set_moves", "reentries") else f"state_{name}": value for name, value in
              unpacked(zlib.decompress(row["state"])).items()}  # fmt: skip
    arrays["state_keys"] = np.frombuffer(b"".join(keys), KEY)
    arrays["state_lots"], arrays["state_lot_ends"] = np.frombuffer(b"".join(lots), LOT), np.cumsum(heads["lots"][order])
    arrays["state_accounts"] = np.frombuffer(b"".join(accounts), ACCOUNT)
    arrays["state_account_ends"] = np.cumsum(heads["accounts"][order])
    arrays["state_sequence"] = np.array([sequence], np.int64)
    return sequence, arrays
