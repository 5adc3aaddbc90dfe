"""Passwords: hashed by argon2id and verified, so slowly on purpose that it is never done in the event loop.

Owns the parameters (RFC 9106, section 4, second choice: 64 MiB, three passes; one lane, since the other cores have better to do), how many
are verified at once, and how many may wait. Called by the login and by `pks user`; keeps no password.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from pks.base.errors import Retryable

T = TypeVar("T")

PASSWORD_CHARACTERS_MAX = 1024

PASSWORD_CHARACTERS_ADVISED = 12
"""A shorter one is taken, and said to be short."""

MEMORY_KIB, PASSES, LANES = 64 * 1024, 3, 1

VERIFIED_AT_ONCE = 2
"""Each takes a core for a tenth of a second and 64 MiB."""

WAITING_MAX = 32
"""Logins that wait for their turn; more are told to come again."""

_HASHER = PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES, type=Type.ID)

NOBODYS = f"$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}$bm9ib2R5IGhhcyB0aGlzLg$4HcBfKj5cWkYpYtq0hV4o0kYx0QmJQYH3nJ8m0mXy0s"
"""A hash that no password has: what is verified where there is no user, so that it takes as long."""


class TooManyLogins(Retryable):
    """WAITING_MAX logins wait already."""

    def __init__(self) -> None:
        super().__init__(f"{WAITING_MAX} logins wait for their turn")


def hash_password(password: str) -> str:
    """As it is kept. Takes a tenth of a second."""
    assert 0 < len(password) <= PASSWORD_CHARACTERS_MAX, "the caller has checked its length"
    return _HASHER.hash(_normal(password))


def verify(password_hash: str | None, password: str) -> tuple[bool, str | None]:
    """(whether it is the password, the hash to keep from now on where the old one was made with other parameters). None for a hash takes as
    long as any, and is never right.
    """
    try:
        _HASHER.verify(password_hash or NOBODYS, _normal(password))
    except (VerificationError, InvalidHashError, UnicodeEncodeError):  # the last: half a surrogate pair, which JSON can spell
        return False, None
    if password_hash is None:
        return False, None
    return True, hash_password(password) if _HASHER.check_needs_rehash(password_hash) else None


def _normal(password: str) -> str:
    """The same letters are the same password, whichever way a keyboard spells them."""
    return unicodedata.normalize("NFC", password)


class Passwords:
    """Verifies in threads of its own, VERIFIED_AT_ONCE at once. For one event loop; `close` it."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(VERIFIED_AT_ONCE, "argon2")
        self._waiting = 0

    async def verify(self, password_hash: str | None, password: str) -> tuple[bool, str | None]:
        """As the function, without holding the loop up. Raises TooManyLogins."""
        return await self._in_thread(verify, password_hash, password)

    async def hash(self, password: str) -> str:
        """As `hash_password`. Raises TooManyLogins."""
        return await self._in_thread(hash_password, password)

    async def _in_thread(self, function: Callable[..., T], *arguments: str | None) -> T:
        if self._waiting >= WAITING_MAX + VERIFIED_AT_ONCE:
            raise TooManyLogins
        self._waiting += 1
        work = asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        work.add_done_callback(self._finished)  # not where the caller ends: who is cancelled leaves his work behind
        return await asyncio.shield(work)

    def _finished(self, _: object) -> None:
        self._waiting -= 1

    def close(self) -> None:
        """Take no more; what is under way ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
