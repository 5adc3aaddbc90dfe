"""Access tokens: what is accepted, and every way in which a false one is made."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pks.bff import tokens as module
from pks.bff.keys import TOKEN_SECONDS_USUAL_MAX, KeyRing
from pks.bff.tokens import Claims, TokenInvalid, Tokens, new_id

NOW = 1_800_000_000


class Clock:
    """Seconds since 1970, as told."""

    def __init__(self) -> None:
        self.seconds = float(NOW)

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With one key, made once."""
    made = tmp_path_factory.mktemp("keys")
    KeyRing(made).signing()
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(folder: Path, clock: Clock) -> Tokens:
    return Tokens(KeyRing(folder), clock)


def claims(**changed: Any) -> dict[str, Any]:
    made = {"iss": "pks", "aud": "pks", "sub": "anna", "sid": "s1", "jti": "j1", "iat": NOW, "exp": NOW + 900} | changed
    return {name: value for name, value in made.items() if value is not None}


def signed(tokens: Tokens, **changed: Any) -> str:
    kid, key = tokens.ring.signing()
    return jwt.encode(claims(**changed), key, algorithm="RS256", headers={"kid": kid})


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def test_a_token_says_who_and_until_when_and_nothing_of_rights(tokens: Tokens) -> None:
    jti = new_id()
    issued = tokens.issue("anna", "s1", jti, 900)
    assert tokens.verify(issued.text) == Claims("anna", "s1", jti, NOW, NOW + 900)
    assert issued.expires_at == NOW + 900
    assert jwt.decode(issued.text, options={"verify_signature": False}).keys() == {"iss", "aud", "sub", "sid", "jti", "iat", "exp"}


def test_it_ends_with_its_time_though_it_was_verified_before(tokens: Tokens, clock: Clock) -> None:
    text = tokens.issue("anna", "s1", "j1", 10).text
    clock.seconds += 9.9
    assert tokens.verify(text).user == "anna"
    clock.seconds += 0.1
    for _ in range(2):
        with pytest.raises(TokenInvalid, match="expired"):
            tokens.verify(text)


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": "other"}, {"aud": ["pks", "other"]}, {"aud": None}, {"iss": "other"}, {"iss": None}, {"exp": None}, {"iat": None},
        {"jti": None}, {"sub": None}, {"sid": None}, {"exp": NOW}, {"exp": "soon"}, {"exp": float("nan")}, {"exp": True}, {"sub": ""},
        {"sub": ["anna"]}, {"jti": 1}, {"nbf": 4_000_000_000},
    ],
    ids=str,
)  # fmt: skip
def test_one_that_is_signed_by_us_but_not_meant_so_is_refused(tokens: Tokens, changed: dict[str, Any]) -> None:
    kid, key = tokens.ring.signing()
    header, body = part({"alg": "RS256", "typ": "JWT", "kid": kid}), part(claims(**changed))
    text = f"{header}.{body}"
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    signature = key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    with pytest.raises(TokenInvalid):
        tokens.verify(f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}")


def test_false_ones_are_refused(tokens: Tokens) -> None:
    kid, key = tokens.ring.signing()
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    good = signed(tokens)
    head, body, signature = good.split(".")

    def by_secret(secret: bytes) -> str:  # by hand: the library refuses to make it
        text = part({"alg": "HS256", "typ": "JWT", "kid": kid}) + "." + body
        return text + "." + base64.urlsafe_b64encode(hmac.new(secret, text.encode(), hashlib.sha256).digest()).decode().rstrip("=")

    own = rsa.generate_private_key(65537, 2048)
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    for text in (
        by_secret(public),
        by_secret(public.strip()),
        by_secret(der),
        part({"alg": "none", "kid": kid}) + f".{body}.",
        part({"alg": "none", "kid": kid}) + f".{body}.{signature}",
        jwt.encode(claims(), own, algorithm="RS256", headers={"kid": kid}),
        jwt.encode(claims(), own, algorithm="RS256", headers={"kid": "0" * 16}),
        jwt.encode(claims(), own, algorithm="RS256", headers={"kid": "../../" + kid}),
        jwt.encode(claims(), key, algorithm="RS256"),
        jwt.encode(claims(), key, algorithm="RS512", headers={"kid": kid}),
        jwt.encode(claims(), key, algorithm="PS256", headers={"kid": kid}),
        part({"alg": "RS256", "kid": [kid]}) + f".{body}.{signature}",
        f"{head}.{part(claims(sub='root'))}.{signature}",
        f"{head}.{body}.",
        f"{head}.{body}",
        good + "x" * module.TOKEN_CHARACTERS_MAX,
        "",
        "...",
        "é.é.é",
        "\ud800.\ud800.x",
        "\0",
    ):
        with pytest.raises(TokenInvalid) as caught:
            tokens.verify(text)
        assert not text or len(text) < 4 or text not in str(caught.value), "no token in a text"
    assert tokens.verify(good).user == "anna"


def test_a_dropped_key_takes_its_tokens_along(tmp_path: Path) -> None:
    ring, other = KeyRing(tmp_path), KeyRing(tmp_path)
    tokens = Tokens(ring)
    text, kid = tokens.issue("anna", "s1", "j1", 900).text, ring.signing()[0]
    other.rotate()
    assert tokens.verify(text).jti == "j1"
    assert tokens.issue("anna", "s1", "j2", 900).text.split(".")[0] != text.split(".")[0], "another key signs"
    other.drop(kid)
    with pytest.raises(TokenInvalid, match="key is not known"):
        tokens.verify(text)


def test_a_long_token_keeps_its_key(tmp_path: Path, clock: Clock) -> None:
    ring = KeyRing(tmp_path, clock)
    tokens = Tokens(ring, clock)
    text = tokens.issue("robot", "s1", "j1", 10 * TOKEN_SECONDS_USUAL_MAX).text
    ring.rotate()
    clock.seconds += 9 * TOKEN_SECONDS_USUAL_MAX
    assert tokens.verify(text).user == "robot"


def test_what_is_remembered_is_bounded(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_MAX", 3)
    texts = [tokens.issue("anna", "s1", f"j{number}", 900).text for number in range(5)]
    for _ in range(2):
        assert [tokens.verify(text).jti for text in texts] == [f"j{number}" for number in range(5)]
        assert len(tokens._cache) <= 3
