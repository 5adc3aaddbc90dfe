"""Access tokens: made and verified. RS256 and nothing else, so that a public key is never taken for a shared secret.

Owns the form of a token: it says who somebody is (user, session, id of the token) and until when, never what he may do, since that is
looked up each time. Called by `access`, by the login and by `pks token`; whether a token was revoked is not known here.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import jwt

from pks.base.errors import PksError
from pks.bff.keys import TOKEN_SECONDS_USUAL_MAX, KeyRing

ALGORITHM = "RS256"
ISSUER = "pks"
AUDIENCE = "pks"

TOKEN_CHARACTERS_MAX = 4096
"""Ours have some 700; a longer text is refused before anything is done with it."""

CACHE_MAX = 10_000
"""Verified tokens that are remembered: more than there are clients."""

REQUIRED = ["exp", "iat", "jti", "sub", "sid", "aud", "iss"]

ID_BYTES = 16


class TokenInvalid(PksError):
    """The text is no token of ours that is still good. reason: for logs, without the token."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the token is not valid: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says. Times in seconds since 1970."""

    user: str
    session: str
    jti: str
    issued_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Issued:
    """A token that was just made."""

    text: str
    jti: str
    expires_at: float


class Tokens:
    """Makes and verifies the tokens of one ring of keys."""

    def __init__(self, ring: KeyRing, now: Callable[[], float] = time.time) -> None:
        self.ring, self.now = ring, now
        self._cache: dict[str, Claims] = {}
        self._generation = 0

    def issue(self, user: str, session: str, jti: str, seconds: int) -> Issued:
        """A token for `user` in `session`, good for so many seconds from now. jti: a `new_id`, not used before. Raises KeyRingBroken,
        KeyFileUnsafe.
        """
        assert seconds > 0, "a token is good for some time"
        kid, key = self.ring.signing()
        now = int(self.now())
        expires_at = now + seconds
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": user, "sid": session, "jti": jti, "iat": now, "exp": expires_at}
        text = jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": kid})
        if seconds > TOKEN_SECONDS_USUAL_MAX:
            self.ring.note_token(kid, expires_at)
        return Issued(text, jti, float(expires_at))

    def verify(self, text: str) -> Claims:
        """What a token says. One that was verified is known until it expires or the ring changes. Raises TokenInvalid, KeyRingBroken,
        KeyFileUnsafe.
        """
        self.ring.refresh()
        if self.ring.generation != self._generation:
            self._cache.clear()
            self._generation = self.ring.generation
        known = self._cache.get(text)
        if known is None:
            known = self._verified(text)
            self._remember(text, known)
        if known.expires_at <= self.now():
            self._cache.pop(text, None)
            raise TokenInvalid("it has expired")
        return known

    def _verified(self, text: str) -> Claims:
        if len(text) > TOKEN_CHARACTERS_MAX:
            raise TokenInvalid("it is too long")
        if not text.isascii():
            raise TokenInvalid("it is not ASCII")
        try:
            kid = jwt.get_unverified_header(text).get("kid")
            key = self.ring.verifying(kid) if isinstance(kid, str) else None
            if key is None:
                raise TokenInvalid("its key is not known")
            claims = jwt.decode(
                text, key, algorithms=[ALGORITHM], audience=AUDIENCE, issuer=ISSUER,
                options={"require": REQUIRED, "verify_exp": False, "verify_iat": False, "strict_aud": True},
            )  # fmt: skip
        except jwt.InvalidTokenError as error:
            raise TokenInvalid(type(error).__name__) from error
        user, session, jti, issued_at, expires_at = (claims[name] for name in ("sub", "sid", "jti", "iat", "exp"))
        if not all(isinstance(text, str) and text for text in (user, session, jti)):
            raise TokenInvalid("sub, sid and jti must be texts")
        if not all(type(at) in (int, float) and math.isfinite(at) for at in (issued_at, expires_at)):
            raise TokenInvalid("iat and exp must be numbers")
        return Claims(user, session, jti, float(issued_at), float(expires_at))

    def _remember(self, text: str, claims: Claims) -> None:
        if len(self._cache) >= CACHE_MAX:
            now = self.now()
            self._cache = {text: claims for text, claims in self._cache.items() if claims.expires_at > now}
            if len(self._cache) >= CACHE_MAX:
                self._cache.clear()
        self._cache[text] = claims


def new_id() -> str:
    """An id of a token or of a session, that nobody can guess and no other has."""
    return secrets.token_hex(ID_BYTES)
