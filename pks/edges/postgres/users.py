"""Users in Postgres: who there is, what each may see and do, their sessions and tokens, and the audit of what was done.

Owns the SQL of schema `auth`. Takes an open connection (role `pks_gateway`) and talks to no other server; passwords come hashed, refresh
tokens go in and out as text and are kept as SHA-256. What a role may do, whether a book exists, and the judgement of a token are the
caller's. Every change commits whole or not at all, and each that takes or gives a right is told on the channel CHANNEL.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from pks.base.errors import Fatal, PksError

ROLE = "pks_gateway"
"""The database role with the rights that these statements need."""

CHANNEL = "pks_auth"

ROLES = ("viewer", "trader", "operations", "approver", "admin")

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"

REFRESH_BYTES = 32
"""Of chance in a refresh token: too much to be guessed, so a plain hash keeps it."""

SESSIONS_SHOWN_MAX = 1000
PRUNE_DAYS = 30
"""A session that ended so long ago is forgotten; the audit keeps that it was."""


class UserUnknown(Fatal):
    """There is no such user."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no user {name!r}")
        self.name = name


class UserExists(Fatal):
    """There is one of that name, or of one that differs in upper and lower case only."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a user {name!r} already")
        self.name = name


class LastAdmin(Fatal):
    """Nobody would be left who may change users over the gateway."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} is the last admin who is not disabled")
        self.name = name


@dataclass(frozen=True, slots=True)
class Blocked:
    """An access token that is refused until it expires."""

    jti: str
    seconds: int  # that it would still be valid, at least 1


class RefreshRefused(PksError):
    """The refresh token gives nothing. reason: UNKNOWN, EXPIRED, REVOKED, DISABLED, or REUSED: then its whole family was revoked just now,
    and `blocked` are the access tokens of it. user and session: "" where the token is unknown.
    """

    def __init__(self, reason: str, user: str = "", session: str = "", blocked: Iterable[Blocked] = ()) -> None:
        super().__init__(f"the refresh token is refused: {reason}")
        self.reason, self.user, self.session, self.blocked = reason, user, session, tuple(blocked)


@dataclass(frozen=True, slots=True)
class Grants:
    """What a user may do and see now. books: None for all."""

    name: str
    roles: frozenset[str]
    books: frozenset[str] | None
    is_disabled: bool


@dataclass(frozen=True, slots=True)
class Mirror:
    """All that decides about a token, of one moment."""

    version: int
    users: dict[str, Grants]
    blocked: dict[str, datetime]  # jti -> when the token expires


@dataclass(frozen=True, slots=True)
class User:
    """A user as people list them."""

    name: str
    roles: tuple[str, ...]
    books: tuple[str, ...] | None  # None: all
    is_disabled: bool
    has_password: bool
    failures: int
    locked_until: datetime | None
    made_at: datetime
    password_at: datetime | None
    login_at: datetime | None
    sessions: int  # that are alive


@dataclass(frozen=True, slots=True)
class Account:
    """What a login needs to know."""

    name: str
    password: str | None
    is_disabled: bool
    is_locked: bool


@dataclass(frozen=True, slots=True)
class Session:
    """A session as people list them."""

    id: str
    user: str
    origin: str
    address: str
    made_at: datetime
    used_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token that is about to be given out: its id and for how long it is valid."""

    jti: str
    seconds: int


@dataclass(frozen=True, slots=True)
class Audit:
    """One row of the audit."""

    actor: str
    action: str
    subject: str = ""
    outcome: str = "OK"  # or REFUSED
    code: str = ""
    address: str = ""
    session: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


# users


async def add(
    connection: asyncpg.Connection, name: str, password_hash: str | None, roles: Iterable[str], books: Iterable[str] | None
) -> None:
    """A new user. books: None for all. Raises UserExists."""
    async with connection.transaction():
        try:
            await connection.execute(
                """insert into auth."user" (name, password, all_books, password_at)
                   values ($1, $2, $3, case when $2::text is null then null else now() end)""",
                name, password_hash, books is None,
            )  # fmt: skip
        except asyncpg.UniqueViolationError as error:
            raise UserExists(name) from error
        await _put_roles(connection, name, roles)
        await _put_books(connection, name, books or ())


async def change(
    connection: asyncpg.Connection,
    name: str,
    *,
    roles: Iterable[str] | None = None,
    books: Iterable[str] | None = None,
    all_books: bool | None = None,
    is_disabled: bool | None = None,
) -> list[Blocked]:
    """Replace what is given and leave the rest. all_books: True takes the single grants away. A user who is disabled loses every session;
    what is blocked by that comes back. Raises UserUnknown, LastAdmin.
    """
    blocked: list[Blocked] = []
    async with connection.transaction():
        await _lock(connection, name)
        await connection.execute("select number from auth.version for update")  # two who take each other's role away see each other
        had_admin = await _has_admin(connection)
        if roles is not None:
            await connection.execute("delete from auth.user_role where user_name = $1", name)
            await _put_roles(connection, name, roles)
        if books is not None or all_books:
            await connection.execute("delete from auth.book_grant where user_name = $1", name)
            await _put_books(connection, name, books or ())
        if books is not None or all_books is not None:
            await connection.execute("""update auth."user" set all_books = $2 where name = $1""", name, bool(all_books))
        if is_disabled is not None:
            await connection.execute("""update auth."user" set is_disabled = $2 where name = $1""", name, is_disabled)
            if is_disabled:
                blocked = await _revoke(connection, await _alive(connection, name), "disabled")
        if had_admin and not await _has_admin(connection):
            raise LastAdmin(name)
    return blocked


async def set_password(connection: asyncpg.Connection, name: str, password_hash: str | None) -> list[Blocked]:
    """Another password, or none; the lock is taken off and every session ends. What is blocked by that comes back. Raises UserUnknown."""
    async with connection.transaction():
        await _lock(connection, name)
        await connection.execute(
            """update auth."user" set password = $2, password_at = now(), failures = 0, locked_until = null where name = $1""",
            name, password_hash,
        )  # fmt: skip
        return await _revoke(connection, await _alive(connection, name), "password changed")


async def unlock(connection: asyncpg.Connection, name: str) -> None:
    """Forget the wrong passwords. Raises UserUnknown."""
    done = await connection.fetchval("""update auth."user" set failures = 0, locked_until = null where name = $1 returning true""", name)
    if not done:
        raise UserUnknown(name)


async def find(connection: asyncpg.Connection, name: str | None = None) -> list[User]:
    """Every user, or the one of that name, by name."""
    rows = await connection.fetch(
        """select name, password is not null as has_password, all_books, is_disabled, failures, made_at, password_at, login_at,
               case when locked_until > now() then locked_until end as locked_until,
               array(select role from auth.user_role where user_name = name order by role) as roles,
               array(select book from auth.book_grant where user_name = name order by book) as books,
               (select count(*) from auth.session where user_name = name and revoked_at is null and expires_at > now()) as sessions
           from auth."user" where $1::text is null or name = $1 order by name""",
        name,
    )
    return [_user(row) for row in rows]


async def is_empty(connection: asyncpg.Connection) -> bool:
    """Whether nobody was added yet."""
    return not await connection.fetchval("""select exists (select from auth."user")""")


def _user(row: asyncpg.Record) -> User:
    values: dict[str, Any] = dict(row)
    books = tuple(values.pop("books"))
    return User(books=None if values.pop("all_books") else books, roles=tuple(values.pop("roles")), **values)


async def _lock(connection: asyncpg.Connection, name: str) -> None:
    """Changes of one user come one after the other."""
    if not await connection.fetchval("""select true from auth."user" where name = $1 for update""", name):
        raise UserUnknown(name)


async def _put_roles(connection: asyncpg.Connection, name: str, roles: Iterable[str]) -> None:
    wanted = sorted(set(roles))
    assert set(wanted) <= set(ROLES), f"the caller has checked that {wanted} are roles"
    await connection.execute("insert into auth.user_role (user_name, role) select $1, unnest($2::text[])", name, wanted)


async def _put_books(connection: asyncpg.Connection, name: str, books: Iterable[str]) -> None:
    await connection.execute("insert into auth.book_grant (user_name, book) select $1, unnest($2::text[])", name, sorted(set(books)))


async def _has_admin(connection: asyncpg.Connection) -> bool:
    return bool(
        await connection.fetchval(
            """select exists (select from auth."user" join auth.user_role on user_name = name where role = 'admin' and not is_disabled)"""
        )
    )


# logins


async def account(connection: asyncpg.Connection, name: str) -> Account | None:
    """What a login of that name is judged by; None: there is no such user."""
    row = await connection.fetchrow(
        """select name, password, is_disabled, coalesce(locked_until > now(), false) as is_locked from auth."user" where name = $1""", name
    )
    return None if row is None else Account(**dict(row))


async def login_failed(connection: asyncpg.Connection, name: str, failures_max: int, lock_seconds: int) -> bool:
    """Count a wrong password; whether the user is locked out by this one. While a lock lasts nothing is counted."""
    return bool(
        await connection.fetchval(
            """update auth."user" set
                   failures = case when failures + 1 >= $2 then 0 else failures + 1 end,
                   locked_until = case when failures + 1 >= $2 then now() + make_interval(secs => $3) else locked_until end
               where name = $1 and (locked_until is null or locked_until <= now())
               returning locked_until is not null and locked_until > now()""",
            name, failures_max, float(lock_seconds),
        )
    )  # fmt: skip


async def login_succeeded(connection: asyncpg.Connection, name: str, password_hash: str, rehashed: str | None = None) -> bool:
    """The password was right: forget the wrong ones. rehashed: the same password, hashed as it is done now. False: in the meantime the
    user was locked out or disabled, or has another password, and may not come in.
    """
    return bool(
        await connection.fetchval(
            """update auth."user" set failures = 0, locked_until = null, login_at = now(), password = coalesce($3, password)
               where name = $1 and password = $2 and not is_disabled and (locked_until is null or locked_until <= now()) returning true""",
            name, password_hash, rehashed,
        )
    )  # fmt: skip


# sessions


async def open_session(
    connection: asyncpg.Connection, session: str, user: str, access: AccessToken, session_seconds: int, address: str = ""
) -> str:
    """A login: the refresh token, which is nowhere else. Raises UserUnknown."""
    refresh = secrets.token_urlsafe(REFRESH_BYTES)
    await _insert_session(connection, session, user, "LOGIN", access, session_seconds, address, refresh_sha256(refresh))
    return refresh


async def issue_session(connection: asyncpg.Connection, session: str, user: str, access: AccessToken) -> None:
    """A token issued by command, without a refresh token. Raises UserUnknown."""
    await _insert_session(connection, session, user, "ISSUED", access, access.seconds, "", None)


async def _insert_session(
    connection: asyncpg.Connection,
    session: str,
    user: str,
    origin: str,
    access: AccessToken,
    seconds: int,
    address: str,
    sha256: bytes | None,
) -> None:
    async with connection.transaction():
        try:
            await connection.execute(
                """insert into auth.session (id, user_name, origin, address, expires_at)
                   values ($1, $2, $3, $4, now() + make_interval(secs => $5))""",
                session, user, origin, address, float(seconds),
            )  # fmt: skip
        except asyncpg.ForeignKeyViolationError as error:
            raise UserUnknown(user) from error
        await _insert_token(connection, session, access, sha256)


async def _insert_token(connection: asyncpg.Connection, session: str, access: AccessToken, sha256: bytes | None) -> None:
    await connection.execute(
        "insert into auth.token (jti, session, refresh_sha256, expires_at) values ($1, $2, $3, now() + make_interval(secs => $4))",
        access.jti, session, sha256, float(access.seconds),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose refresh token it is."""

    session: str
    user: str


async def owner_of(connection: asyncpg.Connection, refresh: str) -> Owner | None:
    """The session of a refresh token and its user, whatever their state; None: there is none."""
    row = await connection.fetchrow(
        "select s.id, s.user_name from auth.token t join auth.session s on s.id = t.session where t.refresh_sha256 = $1",
        refresh_sha256(refresh),
    )
    return None if row is None else Owner(row["id"], row["user_name"])


async def rotate(connection: asyncpg.Connection, refresh: str, access: AccessToken, session_seconds: int) -> str:
    """Use a refresh token: the next one of its family. access: the token that is given out with it. Raises RefreshRefused."""
    sha256 = refresh_sha256(refresh)
    async with connection.transaction():  # it is left by a return where a family is revoked: that must be committed
        refused = await _use(connection, sha256)
        if refused is None:
            made = secrets.token_urlsafe(REFRESH_BYTES)
            session = await connection.fetchval(
                """update auth.session set used_at = now(), expires_at = now() + make_interval(secs => $2)
                   where id = (select session from auth.token where refresh_sha256 = $1) returning id""",
                sha256, float(session_seconds),
            )  # fmt: skip
            await _insert_token(connection, session, access, refresh_sha256(made))
    if refused is not None:
        raise refused
    return made


async def _use(connection: asyncpg.Connection, sha256: bytes) -> RefreshRefused | None:
    """Mark a refresh token as used, or say why not. The session's row is locked, so that of two who use one token the second sees it."""
    session = await connection.fetchrow(
        """select s.id, s.user_name, s.revoked_at is not null as is_revoked, s.expires_at <= now() as is_expired, u.is_disabled
           from auth.session s join auth."user" u on u.name = s.user_name
           where s.id = (select session from auth.token where refresh_sha256 = $1) for update of s""",
        sha256,
    )
    if session is None:
        return RefreshRefused("UNKNOWN")
    found, user = session["id"], session["user_name"]
    # read after the lock: another use of the same token may have been committed while this one waited
    is_used = await connection.fetchval("select used_at is not null from auth.token where refresh_sha256 = $1", sha256)
    for reason in ("revoked", "expired"):
        if session[f"is_{reason}"]:
            return RefreshRefused(reason.upper(), user, found)
    if is_used:
        return RefreshRefused("REUSED", user, found, await _revoke(connection, [found], "refresh token used twice"))
    if session["is_disabled"]:
        return RefreshRefused("DISABLED", user, found)
    await connection.execute("update auth.token set used_at = now() where refresh_sha256 = $1", sha256)
    return None


async def revoke_session(connection: asyncpg.Connection, session: str, reason: str) -> list[Blocked] | None:
    """End a session; its access tokens that are still valid, which are blocked from now on. None: there is no such session."""
    async with connection.transaction():
        if not await connection.fetchval("select true from auth.session where id = $1", session):
            return None
        return await _revoke(connection, [session], reason)


async def revoke_user(connection: asyncpg.Connection, name: str, reason: str) -> list[Blocked]:
    """End every session of a user. Raises UserUnknown."""
    async with connection.transaction():
        await _lock(connection, name)
        return await _revoke(connection, await _alive(connection, name), reason)


async def revoke_token(connection: asyncpg.Connection, jti: str) -> list[Blocked] | None:
    """Block one access token; its session goes on. Nothing comes back where it has expired. None: there is no such token."""
    async with connection.transaction():
        if not await connection.fetchval("select true from auth.token where jti = $1", jti):
            return None
        return _blocked(await connection.fetch(_BLOCK.format(which="jti = any($1::text[])"), [jti]))


async def _alive(connection: asyncpg.Connection, name: str) -> list[str]:
    """Sessions of a user of which something may still be valid."""
    rows = await connection.fetch(
        """select id from auth.session s where user_name = $1 and (
               (revoked_at is null and expires_at > now())
               or exists (select from auth.token t where t.session = s.id and t.blocked_at is null and t.expires_at > now()))""",
        name,
    )
    return [row["id"] for row in rows]


_BLOCK = """update auth.token set blocked_at = coalesce(blocked_at, now()) where {which} and expires_at > now()
            returning jti, ceil(extract(epoch from expires_at - now()))::bigint as seconds"""


async def _revoke(connection: asyncpg.Connection, sessions: list[str], reason: str) -> list[Blocked]:
    """Within a transaction."""
    if not sessions:
        return []
    await connection.execute(
        "update auth.session set revoked_at = now(), reason = $2 where id = any($1::text[]) and revoked_at is null", sessions, reason
    )
    return _blocked(await connection.fetch(_BLOCK.format(which="session = any($1::text[])"), sessions))


def _blocked(rows: Iterable[asyncpg.Record]) -> list[Blocked]:
    return [Blocked(row["jti"], max(1, row["seconds"])) for row in rows]


async def sessions(connection: asyncpg.Connection, user: str | None = None, *, ended: bool = False) -> list[Session]:
    """Sessions that are alive, of a user or of all, the newest last. ended: the others too."""
    rows = await connection.fetch(
        """select * from (
               select id, user_name as "user", origin, address, made_at, used_at, expires_at, revoked_at, coalesce(reason, '') as reason
               from auth.session where ($1::text is null or user_name = $1) and ($2 or (revoked_at is null and expires_at > now()))
               order by made_at desc, id limit $3) as newest
           order by made_at, id""",
        user, ended, SESSIONS_SHOWN_MAX,
    )  # fmt: skip
    return [Session(**dict(row)) for row in rows]


async def prune(connection: asyncpg.Connection, days: int = PRUNE_DAYS) -> int:
    """Forget sessions of which nothing has been valid for so long; how many."""
    return len(
        await connection.fetch(
            """delete from auth.session s where s.expires_at < now() - make_interval(days => $1)
               and not exists (select from auth.token t where t.session = s.id and t.expires_at > now()) returning 1""",
            days,
        )
    )


def refresh_sha256(refresh: str) -> bytes:
    """What is kept of a refresh token."""
    return hashlib.sha256(refresh.encode(errors="replace")).digest()


# what decides about a token


async def version(connection: asyncpg.Connection) -> int:
    """A number that grows with every change of what somebody may do, and of the blocklist."""
    return int(await connection.fetchval("select number from auth.version"))


async def mirror(connection: asyncpg.Connection) -> Mirror:
    """All grants and the blocklist, of one moment."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        number = await version(connection)
        rows = await connection.fetch(
            """select name, all_books, is_disabled, array(select role from auth.user_role where user_name = name) as roles,
                   array(select book from auth.book_grant where user_name = name) as books from auth."user" """
        )
        blocked = await connection.fetch("select jti, expires_at from auth.token where blocked_at is not null and expires_at > now()")
    users = {
        row["name"]: Grants(row["name"], frozenset(row["roles"]), None if row["all_books"] else frozenset(row["books"]), row["is_disabled"])
        for row in rows
    }
    return Mirror(number, users, {row["jti"]: row["expires_at"] for row in blocked})


# the audit


async def audit(connection: asyncpg.Connection, *rows: Audit) -> None:
    """Add rows to the audit; they stay."""
    await connection.executemany(
        """insert into auth.audit (actor, action, subject, outcome, code, address, session, detail)
           values ($1, $2, $3, $4, $5, $6, $7, $8::jsonb)""",
        [(*(getattr(one, name) for name in _AUDIT_TEXTS), json.dumps(dict(one.detail))) for one in rows],
    )  # fmt: skip


async def audited(connection: asyncpg.Connection, most: int = 100) -> list[tuple[datetime, Audit]]:
    """The newest rows of the audit, the newest last."""
    rows = await connection.fetch(
        """select * from (select id, at, actor, action, subject, outcome, code, address, session, detail from auth.audit
                          order by id desc limit $1) as newest order by id""",
        most,
    )
    return [(row["at"], _audit_of(row)) for row in rows]


async def audited_of(
    connection: asyncpg.Connection, action: str, actor: str | None, before: int, most: int
) -> list[tuple[int, datetime, Audit]]:
    """Rows of one action (of one actor; None: of all) before row `before` (0: from the end), the newest first: (id, at, row)."""
    rows = await connection.fetch(
        """select id, at, actor, action, subject, outcome, code, address, session, detail from auth.audit
           where action = $1 and ($2::text is null or actor = $2) and ($3 = 0 or id < $3) order by id desc limit $4""",
        action, actor, before, most,
    )  # fmt: skip
    return [(row["id"], row["at"], _audit_of(row)) for row in rows]


def _audit_of(row: asyncpg.Record) -> Audit:
    return Audit(detail=json.loads(row["detail"]), **{name: row[name] for name in _AUDIT_TEXTS})


_AUDIT_TEXTS = ("actor", "action", "subject", "outcome", "code", "address", "session")
