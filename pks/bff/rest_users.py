"""Users over REST, for admins: listed, added, changed, disabled, their sessions; what `pks user` does.

Owns the words of these calls. Each change is in Postgres with its row of the audit in one transaction; tokens that it ends are blocked
before the answer.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, Struct, UnsetType

from pks.bff.access import Access, Permission, Principal
from pks.bff.guards import asks
from pks.bff.lists import JSON
from pks.bff.logins import Logins
from pks.bff.passwords import PASSWORD_CHARACTERS_MAX, TooManyLogins
from pks.bff.problems import Problem, not_found, unavailable
from pks.bff.rest_auth import address_of
from pks.edges.postgres import users
from pks.edges.postgres.users import Audit, Blocked, LastAdmin, Session, User, UserExists, UserUnknown

TAGS = ["administration"]
ASKS = asks(Permission.ADMIN)

Name = Annotated[str, Meta(pattern=f"^{users.NAME_PATTERN}$", examples=["anna"])]
RoleName = Annotated[str, Meta(pattern=f"^({'|'.join(users.ROLES)})$", examples=["trader"])]
Book = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["ALPHA"])]
Secret = Annotated[str, Meta(min_length=1, max_length=PASSWORD_CHARACTERS_MAX, examples=["correct horse battery staple"])]
Roles = Annotated[list[RoleName], Meta(min_length=1, max_length=len(users.ROLES))]
Books = Annotated[list[Book], Meta(max_length=10_000)]


class NewUser(Struct, frozen=True, forbid_unknown_fields=True):
    """books: null for all. password: null for one who has only tokens that are issued."""

    name: Name
    roles: Roles
    books: Books | None = msgspec.field(default_factory=list)
    password: Secret | None = None

    def __repr__(self) -> str:
        """Without the password."""
        return f"NewUser(name={self.name!r})"


class UserChange(Struct, frozen=True, forbid_unknown_fields=True):
    """What is given replaces what there was. books: null for all."""

    roles: Roles | UnsetType = UNSET
    books: Books | UnsetType | None = UNSET
    is_disabled: bool | UnsetType = UNSET
    password: Secret | UnsetType = UNSET
    unlock: bool = False

    def __repr__(self) -> str:
        """Without the password."""
        return "UserChange()"


@get("/admin/users", opt=ASKS, summary="Users", tags=TAGS)
async def list_users(request: Request[Any, Any, Any]) -> Response[Any]:
    """Every user with roles, books and state, by name."""
    async with _access(request).store() as db:
        found = await users.find(db)
    return _json({"items": [as_words(one) for one in found], "next": None})


@get("/admin/users/{name:str}", opt=ASKS, summary="One user", tags=TAGS)
async def one_user(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[Any]:
    """With roles, books and state."""
    return _json(await _shown(request, name))


@post("/admin/users", status_code=201, opt=ASKS, summary="Add a user", tags=TAGS)
async def add_user(request: Request[Any, Any, Any], data: JSONBody[NewUser]) -> Response[Any]:
    """A grant for a book that is not known yet counts when it is."""
    hashed = None if data.password is None else await _hashed(request, data.password)
    async with _access(request).store() as db:
        try:
            async with db.transaction():
                await users.add(db, data.name, hashed, data.roles, data.books)
                await users.audit(db, _row(request, "USER_ADDED", data.name, roles=data.roles, books=data.books))
        except UserExists as error:
            raise Problem(409, "USER_EXISTS", str(error), field="name", value=data.name) from None
    return _json(await _shown(request, data.name), 201)


@patch("/admin/users/{name:str}", opt=ASKS, summary="Change a user", tags=TAGS)
async def change_user(request: Request[Any, Any, Any], name: FromPath[str], data: JSONBody[UserChange]) -> Response[Any]:
    """It counts at once, in running streams too. Another password, and disabling, end every session."""
    hashed = None if data.password is UNSET else await _hashed(request, data.password)
    changed: dict[str, Any] = {}
    if data.roles is not UNSET:
        changed["roles"] = data.roles
    if data.books is not UNSET:
        changed |= {"all_books": True} if data.books is None else {"books": data.books}
    if data.is_disabled is not UNSET:
        changed["is_disabled"] = data.is_disabled
    if not changed and hashed is None and not data.unlock:
        raise Problem(422, "NOTHING_CHANGED", "give roles, books, is_disabled, password or unlock")

    async def change(db: Any) -> list[Blocked]:
        blocked = await users.change(db, name, **changed) if changed else []
        if hashed is not None:
            blocked += await users.set_password(db, name, hashed)
        if data.unlock:
            await users.unlock(db, name)
        told = changed | ({"password": "changed"} if hashed is not None else {}) | ({"unlock": True} if data.unlock else {})
        await users.audit(db, _row(request, "USER_CHANGED", name, **told))
        return blocked

    await _changed(request, name, change)
    return _json(await _shown(request, name))


@delete("/admin/users/{name:str}", status_code=200, opt=ASKS, summary="Disable a user", tags=TAGS)
async def disable_user(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[Any]:
    """Every session ends now. What the user did stays under the name, so nobody is ever deleted."""

    async def change(db: Any) -> list[Blocked]:
        blocked = await users.change(db, name, is_disabled=True)
        await users.audit(db, _row(request, "USER_DISABLED", name))
        return blocked

    await _changed(request, name, change)
    return _json(await _shown(request, name))


@get("/admin/users/{name:str}/sessions", opt=ASKS, summary="A user's sessions", tags=TAGS)
async def list_sessions(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[Any]:
    """Those that are alive, the newest last."""
    await _shown(request, name)
    async with _access(request).store() as db:
        found = await users.sessions(db, name)
    return _json({"items": [_session(one) for one in found], "next": None})


@delete("/admin/users/{name:str}/sessions", status_code=204, opt=ASKS, summary="End a user's sessions", tags=TAGS)
async def end_sessions(request: Request[Any, Any, Any], name: FromPath[str]) -> None:
    """Every token is refused from now on; the user may log in again."""

    async def change(db: Any) -> list[Blocked]:
        blocked = await users.revoke_user(db, name, "ended by an admin")
        await users.audit(db, _row(request, "TOKENS_REVOKED", name))
        return blocked

    await _changed(request, name, change)


async def _changed(request: Request[Any, Any, Any], name: str, change: Any) -> None:
    """Make a change whole, and block what it ended. Raises Problem."""
    access = _access(request)
    async with access.store() as db:
        try:
            async with db.transaction():
                blocked = await change(db)
        except UserUnknown:
            raise not_found("user", name) from None
        except LastAdmin as error:
            raise Problem(409, "LAST_ADMIN", str(error), field="name", value=name) from None
    await access.block(blocked)


async def _shown(request: Request[Any, Any, Any], name: str) -> dict[str, Any]:
    async with _access(request).store() as db:
        found = await users.find(db, name) if "\0" not in name else []
    if not found:
        raise not_found("user", name)
    return as_words(found[0])


async def _hashed(request: Request[Any, Any, Any], password: str) -> str:
    logins: Logins = request.app.state.logins
    try:
        return await logins.passwords.hash(password)
    except TooManyLogins as error:
        raise unavailable(str(error), "BUSY") from None
    except UnicodeEncodeError:
        raise Problem(422, "BAD_TEXT", "the password has half a character", field="password") from None


def _row(request: Request[Any, Any, Any], action: str, subject: str, **detail: Any) -> Audit:
    principal: Principal = request.scope["user"]
    return Audit(principal.name, action, subject, address=address_of(request), session=principal.session, detail=detail)


def _access(request: Request[Any, Any, Any]) -> Access:
    found: Access = request.app.state.access
    return found


def _json(words: dict[str, Any], status: int = 200) -> Response[Any]:
    return Response(msgspec.json.encode(words), status_code=status, media_type=JSON)


def as_words(one: User) -> dict[str, Any]:
    """A user as `pks user list --json` has it."""
    return {
        "name": one.name, "roles": one.roles, "books": one.books, "is_disabled": one.is_disabled, "has_password": one.has_password,
        "failures": one.failures, "locked_until": one.locked_until, "made_at": one.made_at, "password_at": one.password_at,
        "login_at": one.login_at, "sessions": one.sessions,
    }  # fmt: skip


def _session(one: Session) -> dict[str, Any]:
    return {
        "session": one.id, "user": one.user, "origin": one.origin, "address": one.address, "made_at": one.made_at, "used_at": one.used_at,
        "expires_at": one.expires_at,
    }  # fmt: skip


HANDLERS = [list_users, one_user, add_user, change_user, disable_user, list_sessions, end_sessions]
