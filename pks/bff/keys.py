"""The keys by which access tokens are signed and checked: RSA, one that signs, the older ones until their last token has expired.

Owns `<data>/secrets/jwt/`: `ring.json` says which keys count, `<kid>.pem` is the private key of the one that signs, `<kid>.pub` the public
key of each. Who can read the private key can be anybody, so the folder is 0700, the files are 0600, and anything wider is refused by name.
Gateway and commands share the folder: a lock file lets one change it at a time, and `ring.json`, written last and replaced at once, is the
moment of the change. Called by `tokens` and by `pks key`; knows no token and no user.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pks.base.errors import Fatal
from pks.servers.files import write_private

KEY_BITS = 2048
PUBLIC_EXPONENT = 65537

TOKEN_SECONDS_USUAL_MAX = 86_400
"""No access token of a login lives longer (`gateway.access_minutes`); one that is issued by command may, and is noted in the ring."""

KEYS_MAX = 64
"""Keys in a ring; who rotates more often than tokens expire drops some first."""

READS_MAX = 5
"""Attempts at a ring that others change while it is read."""

_KID = re.compile(r"[0-9a-f]{16}")


class KeyFileUnsafe(Fatal):
    """A file of the ring can be read or written by somebody else, or is no plain file."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


class KeyRingBroken(Fatal):
    """The ring names a key whose file is missing or unreadable, or cannot be read itself."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


class KeyNotDropped(Fatal):
    """There is no such key, or it is the one that signs."""

    def __init__(self, kid: str, reason: str) -> None:
        super().__init__(f"key {kid}: {reason}")
        self.kid, self.reason = kid, reason


class KeyRingFull(Fatal):
    """KEYS_MAX keys still verify tokens."""

    def __init__(self) -> None:
        super().__init__(f"the ring has {KEYS_MAX} keys whose tokens have not expired: `pks key drop KID` makes room")


class Key(msgspec.Struct, frozen=True):
    """What the ring says of a key. Times in seconds since 1970."""

    kid: str
    made_at: float
    expires_at: float = 0.0  # its last token has expired by then; 0 while it signs
    latest_token: float = 0.0  # when the longest of the tokens issued by command expires


class _Ring(msgspec.Struct, frozen=True):
    """`ring.json`."""

    signing: str
    keys: tuple[Key, ...]


class KeyRing:
    """The keys of one data directory, as they are on disk now. Not for several threads at once."""

    def __init__(self, data_dir: Path, now: Callable[[], float] = time.time) -> None:
        """Makes nothing yet."""
        self.folder = data_dir / "secrets" / "jwt"
        self.now = now
        self.generation = 0  # grows when the ring was read anew: what was verified before may no longer be
        self._file, self._lock = self.folder / "ring.json", self.folder / "lock"
        self._read_of: tuple[int, int, int] | None = None
        self._ring = _Ring("", ())
        self._public: dict[str, rsa.RSAPublicKey] = {}
        self._private: rsa.RSAPrivateKey | None = None

    def signing(self) -> tuple[str, rsa.RSAPrivateKey]:
        """(kid, key) that signs; the first call of all makes it. Raises KeyFileUnsafe, KeyRingBroken."""
        self.refresh()
        if not self._ring.signing:
            self._make_first()
        assert self._private is not None, "a ring that was read has the key that signs"
        return self._ring.signing, self._private

    def verifying(self, kid: str) -> rsa.RSAPublicKey | None:
        """The key by which a token is checked; None: unknown, dropped, or all its tokens have expired. Raises as `signing`."""
        self.refresh()
        key = next((key for key in self._ring.keys if key.kid == kid), None)
        return None if key is None or self._is_over(key) else self._public[kid]

    def keys(self) -> list[tuple[Key, bool]]:
        """(key, whether it signs), the newest first."""
        self.refresh()
        return [(key, key.kid == self._ring.signing) for key in sorted(self._ring.keys, key=lambda key: -key.made_at)]

    def rotate(self) -> str:
        """Sign with a new key from now on; its kid. The one before verifies until its last token has expired. Raises KeyRingFull."""
        with self._locked():
            self.refresh()
            now = self.now()
            keys = [self._retired(key, now) if key.kid == self._ring.signing else key for key in self._ring.keys if not self._is_over(key)]
            if len(keys) >= KEYS_MAX:
                raise KeyRingFull
            kid = self._new_files()
            self._write(_Ring(kid, (*keys, Key(kid, now))))
        return kid

    def drop(self, kid: str) -> None:
        """Refuse every token of a key that no longer signs, at once. Raises KeyNotDropped."""
        with self._locked():
            self.refresh()
            if kid not in {key.kid for key in self._ring.keys}:
                raise KeyNotDropped(kid, "there is no such key")
            if kid == self._ring.signing:
                raise KeyNotDropped(kid, "it signs; `pks key rotate` puts another in its place first")
            self._write(_Ring(self._ring.signing, tuple(key for key in self._ring.keys if key.kid != kid)))

    def note_token(self, kid: str, expires_at: float) -> None:
        """A token that lives longer than a login's was signed with this key: it verifies as long as that one lives."""
        with self._locked():
            self.refresh()
            keys = tuple(_noted(key, expires_at) if key.kid == kid else key for key in self._ring.keys)
            if keys != self._ring.keys:
                self._write(_Ring(self._ring.signing, keys))

    def refresh(self) -> None:
        """Read the ring again if it is another one by now. Raises KeyFileUnsafe, KeyRingBroken."""
        for left in reversed(range(READS_MAX)):
            seen = self._seen()
            if seen == self._read_of:
                return
            try:
                self._read()
            except KeyRingBroken:
                if not left or self._seen() == seen:  # else somebody else changed it meanwhile, and took away what it names no more
                    raise
            else:
                self._read_of = seen
                self.generation += 1
                return

    def _seen(self) -> tuple[int, int, int] | None:
        """What tells one `ring.json` from another; None before there is one."""
        try:
            facts = self._file.stat(follow_symlinks=False)
        except FileNotFoundError:
            if self._ring.keys:
                raise KeyRingBroken(self._file, "is gone") from None
            return None
        return facts.st_ino, facts.st_mtime_ns, facts.st_size

    def _read(self) -> None:
        _check_folder(self.folder)
        try:
            ring = msgspec.json.decode(_read_private(self._file), type=_Ring)
        except msgspec.DecodeError as error:
            raise KeyRingBroken(self._file, f"cannot be understood: {error}") from error
        if ring.signing not in {key.kid for key in ring.keys} or not all(_KID.fullmatch(key.kid) for key in ring.keys):
            raise KeyRingBroken(self._file, "names no key that signs, or one with a name that is not ours")
        public = {key.kid: self._read_public(key.kid) for key in ring.keys}
        self._private = self._read_key(ring.signing)
        self._ring, self._public = ring, public

    def _is_over(self, key: Key) -> bool:
        return bool(key.expires_at) and key.expires_at <= self.now()

    def _retired(self, key: Key, now: float) -> Key:
        return msgspec.structs.replace(key, expires_at=max(now + TOKEN_SECONDS_USUAL_MAX, key.latest_token))

    def _make_first(self) -> None:
        with self._locked():
            self.refresh()
            if not self._ring.signing:  # nobody else was quicker
                kid = self._new_files()
                self._write(_Ring(kid, (Key(kid, self.now()),)))

    def _new_files(self) -> str:
        kid = secrets.token_hex(8)
        key = rsa.generate_private_key(PUBLIC_EXPONENT, KEY_BITS)
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        write_private(self.folder / f"{kid}.pem", private.decode())
        write_private(self.folder / f"{kid}.pub", public.decode())
        return kid

    def _write(self, ring: _Ring) -> None:
        """The files of `ring` are there; let it count, then forget what it does not name."""
        _sync(self.folder)
        write_private(self._file, msgspec.json.format(msgspec.json.encode(ring)).decode() + "\n")
        _sync(self.folder)
        self.refresh()
        kept = {f"{key.kid}.pub" for key in ring.keys} | {f"{ring.signing}.pem"}
        for path in self.folder.iterdir():
            if path.suffix in (".pem", ".pub") and _KID.fullmatch(path.stem) and path.name not in kept:
                path.unlink(missing_ok=True)

    def _read_public(self, kid: str) -> rsa.RSAPublicKey:
        path = self.folder / f"{kid}.pub"
        try:
            key = serialization.load_pem_public_key(_read_private(path))
        except ValueError as error:
            raise KeyRingBroken(path, f"is no key: {error}") from error
        if not isinstance(key, rsa.RSAPublicKey):
            raise KeyRingBroken(path, "is no RSA key")
        return key

    def _read_key(self, kid: str) -> rsa.RSAPrivateKey:
        path = self.folder / f"{kid}.pem"
        try:
            key = serialization.load_pem_private_key(_read_private(path), None)
        except (ValueError, TypeError) as error:  # TypeError: it wants a password
            raise KeyRingBroken(path, f"is no key: {error}") from error
        if not isinstance(key, rsa.RSAPrivateKey):
            raise KeyRingBroken(path, "is no RSA key")
        return key

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time, over all processes."""
        for folder in (self.folder.parent, self.folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_folder(self.folder)
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _noted(key: Key, expires_at: float) -> Key:
    return msgspec.structs.replace(
        key, latest_token=max(key.latest_token, expires_at), expires_at=max(key.expires_at, expires_at) if key.expires_at else 0.0
    )


def _check_folder(folder: Path) -> None:
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        raise KeyFileUnsafe(folder, "is no folder of our own")
    _check_rights(folder, facts)


def _check_rights(path: Path, facts: os.stat_result) -> None:
    if facts.st_mode & 0o077:
        wanted = 0o700 if stat.S_ISDIR(facts.st_mode) else 0o600
        raise KeyFileUnsafe(
            path, f"others may use it (mode {facts.st_mode & 0o777:o}): keys that are not secret are refused; chmod {wanted:o}"
        )
    if facts.st_uid not in (os.getuid(), 0):
        raise KeyFileUnsafe(path, f"belongs to the user {facts.st_uid}, not to us")


def _read_private(path: Path) -> bytes:
    """A file that is ours alone. What is checked is what is read: the descriptor."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise KeyRingBroken(path, f"cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise KeyFileUnsafe(path, "is no plain file")
        _check_rights(path, facts)
        return file.read()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
