"""Logging in and out: a password for a pair of tokens, a refresh token for the next pair, and the end of a session.

Owns the order of things: what is answered is in Postgres first, with its row of the audit; who is unknown, wrong, locked out or disabled is
told the same, after about the same time. Called by REST; knows no request.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from pks.base.config import Gateway
from pks.base.errors import PksError
from pks.bff.access import Access, AccessUnavailable, Principal
from pks.bff.passwords import Passwords
from pks.bff.tokens import new_id
from pks.edges.postgres import users
from pks.edges.postgres.users import AccessToken, Account, Audit, RefreshRefused

_NAME = re.compile(users.NAME_PATTERN)


class LoginRefused(PksError):
    """User or password is wrong, or the user may not come in now. reason: for the audit, never for the caller."""

    def __init__(self, reason: str) -> None:
        super().__init__("user or password is wrong, or the user is locked out for a while")
        self.reason = reason


class TokenPair(msgspec.Struct, frozen=True):
    """What a login gives."""

    access_token: str
    refresh_token: str
    expires_in: int  # seconds that the access token is good for
    token_type: str = "Bearer"


class Logins:
    """One per gateway, for its event loop; `close` it."""

    def __init__(self, access: Access, settings: Gateway) -> None:
        self.access = access
        self.passwords = Passwords()
        self.access_seconds = settings.access_minutes * 60
        self.session_seconds = settings.refresh_days * 86_400
        self.failures_max, self.lock_seconds = settings.lockout_failures, settings.lockout_minutes * 60

    def close(self) -> None:
        """No more passwords are verified."""
        self.passwords.close()

    async def login(self, name: str, password: str, address: str) -> TokenPair:
        """A new session. Raises LoginRefused, TooManyLogins, AccessUnavailable."""
        is_name = _NAME.fullmatch(name) is not None
        async with self.access.store() as db:
            account = await users.account(db, name) if is_name else None
        # No connection is held while the password is verified: there are fewer of them than logins that may wait.
        is_right, rehashed = await self.passwords.verify(None if account is None else account.password, password)
        shown = name if is_name else "?"  # what cannot be a name may be a password in the wrong field
        session, token = new_id(), AccessToken(new_id(), self.access_seconds)
        refresh = text = ""
        async with self.access.store() as db, db.transaction():
            reason = await self._counted(db, shown, account, is_right, rehashed)
            if reason:
                await users.audit(db, Audit(shown, "LOGIN", shown, "REFUSED", reason, address))
            else:
                text = self.access.tokens.issue(name, session, token.jti, token.seconds).text
                refresh = await users.open_session(db, session, name, token, self.session_seconds, address)
                await users.audit(db, Audit(name, "LOGIN", name, address=address, session=session))
        if reason:
            raise LoginRefused(reason)
        return TokenPair(text, refresh, self.access_seconds)

    async def _counted(self, db: Any, name: str, account: Account | None, is_right: bool, rehashed: str | None) -> str:
        """Write down how it went; why the user may not come in, "" if he may. The same statements whatever the reason."""
        if is_right and account is not None and account.password is not None:
            if await users.login_succeeded(db, name, account.password, rehashed):
                return ""
            return "DISABLED" if account.is_disabled else "LOCKED"
        is_locked_now = await users.login_failed(db, name, self.failures_max, self.lock_seconds)
        if account is None:
            return "UNKNOWN_USER"
        if account.is_disabled:
            return "DISABLED"
        return "LOCKED" if account.is_locked else "LOCKED_NOW" if is_locked_now else "WRONG_PASSWORD"

    async def refresh(self, refresh: str, address: str) -> TokenPair:
        """The next pair of the same session. Raises RefreshRefused, AccessUnavailable."""
        async with self.access.store() as db:
            owner = await users.owner_of(db, refresh)
            try:
                if owner is None:
                    raise RefreshRefused("UNKNOWN")
                token = AccessToken(new_id(), self.access_seconds)
                issued = self.access.tokens.issue(owner.user, owner.session, token.jti, token.seconds)
                made = await users.rotate(db, refresh, token, self.session_seconds)
            except RefreshRefused as error:
                await self.access.block(error.blocked)
                await users.audit(db, Audit(error.user, "REFRESH", error.user, "REFUSED", error.reason, address, error.session))
                raise
            await users.audit(db, Audit(owner.user, "REFRESH", owner.user, address=address, session=owner.session))
        return TokenPair(issued.text, made, self.access_seconds)

    async def logout(self, principal: Principal, address: str) -> None:
        """End the session. Raises AccessUnavailable: then its token is refused here, and by Redis if that answers, but not yet for good."""
        try:
            async with self.access.store() as db:
                blocked = await users.revoke_session(db, principal.session, "logout") or []
                await users.audit(db, Audit(principal.name, "LOGOUT", principal.name, address=address, session=principal.session))
        except AccessUnavailable:
            await self.access.block([users.Blocked(principal.jti, max(1, int(principal.expires_at - self.access.now()) + 1))])
            raise
        await self.access.block(blocked)
