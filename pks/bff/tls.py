"""The certificate that the gateway shows: the one that is configured, or one of a development CA that is made here.

Owns `<data>/secrets/tls`: the CA's and the leaf's key, each in one file with its certificate, so that a pair is replaced whole. The CA's
certificate alone is copied to `<data>/run/gateway-ca.pem`, by which clients judge the server. Whoever serves TLS asks `server_certificate`;
who may connect is not its affair. What is wrong with a file is said by its name, never by its content.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pks.base.config import Gateway
from pks.base.errors import Fatal
from pks.servers.files import write_private
from pks.topology import Paths

CA_NAME, LEAF_NAME = "PKS development CA", "PKS gateway"
CA_FILE, LEAF_FILE = "ca.pem", "gateway.pem"
PUBLIC_CA_FILE = "gateway-ca.pem"

CA_DAYS, LEAF_DAYS = 3650, 397
"""How long they are valid; clients refuse leaves that live longer than 398 days."""

RENEW_DAYS = 30
"""A leaf is made anew so long before it expires; a CA so long before it would expire ahead of a leaf."""

CLOCK_SKEW = datetime.timedelta(hours=1)
"""A client's clock may be so far behind ours."""

ANY_ADDRESS = ("", "0.0.0.0", "::")

Now = Callable[[], datetime.datetime]


class TlsUnusable(Fatal):
    """A certificate or key that cannot be used, and why."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file, self.reason = file, reason


class ServerCertificate(NamedTuple):
    """What a TLS server needs, as PEM; no part of it may be logged."""

    chain: bytes  # the leaf first
    key: bytes
    ca_file: Path | None  # by which clients judge it; None: it is configured, and clients know who signed it

    def __repr__(self) -> str:
        return f"<ServerCertificate of {self.ca_file or 'the configuration'}>"


class _Pair(NamedTuple):
    """A certificate with its key."""

    certificate: x509.Certificate
    key: PrivateKeyTypes

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def server_certificate(gateway: Gateway, data_dir: Path, now: Now = _utc_now) -> ServerCertificate:
    """The certificate to serve with, made or renewed where it is ours. Raises TlsUnusable."""
    public = Paths(data_dir).run / PUBLIC_CA_FILE
    if gateway.tls_cert or gateway.tls_key:
        found = configured(gateway.tls_cert, gateway.tls_key, now)
        public.unlink(missing_ok=True)  # of an earlier run: it judges nothing now
        return found
    return _development(data_dir / "secrets" / "tls", public, names_of(gateway.bind), now)


# --- configured --------------------------------------------------------------------------------------------------------------


def configured(tls_cert: str, tls_key: str, now: Now = _utc_now) -> ServerCertificate:
    """The configured pair, checked: readable, nobody else's to read, of one another, valid now. Raises TlsUnusable."""
    if not tls_cert:
        raise TlsUnusable(Path(tls_key), "gateway.tls_key is set without gateway.tls_cert")
    if not tls_key:
        raise TlsUnusable(Path(tls_cert), "gateway.tls_cert is set without gateway.tls_key")
    cert_file, key_file = Path(tls_cert), Path(tls_key)
    chain, key_pem = _read(cert_file), _read_secret(key_file)
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
    except ValueError as error:
        raise TlsUnusable(cert_file, "holds no certificate in PEM form") from error
    if leaf.public_key() != _load_key(key_file, key_pem).public_key():
        raise TlsUnusable(key_file, f"is not the key of {cert_file}")
    if leaf.not_valid_after_utc <= now():
        raise TlsUnusable(cert_file, f"expired at {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")
    if leaf.not_valid_before_utc > now():
        raise TlsUnusable(cert_file, f"is not valid before {leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}")
    return ServerCertificate(chain, key_pem, None)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise TlsUnusable(file, f"cannot be read: {error.strerror}") from error


def _read_secret(file: Path) -> bytes:
    content = _read(file)
    mode = file.stat().st_mode & 0o777
    if mode & 0o077:
        raise TlsUnusable(file, f"has mode {mode:04o}: a key may be read by its owner alone, chmod 600 it")
    return content


def _load_key(file: Path, content: bytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(content, None)
    except TypeError as error:
        raise TlsUnusable(file, "is locked by a passphrase, which nobody types at a start") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TlsUnusable(file, "holds no private key in PEM form") from error


# --- the development CA ------------------------------------------------------------------------------------------------------


def names_of(bind: str) -> tuple[x509.GeneralName, ...]:
    """The names that clients of this host may call it by, in one order."""
    addresses = ["127.0.0.1", "::1", *([] if bind in ANY_ADDRESS else [bind])]
    hosts = ["localhost", socket.gethostname()]
    found: list[x509.GeneralName] = []
    for text in addresses:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(text)))
        except ValueError:
            hosts.append(text)
    named = [x509.DNSName(host) for host in hosts if host.isascii()]  # another name has no place in a certificate
    return tuple(dict.fromkeys([*named, *found]))


def _development(folder: Path, public: Path, names: tuple[x509.GeneralName, ...], now: Now) -> ServerCertificate:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for made in (folder.parent, folder):
        os.chmod(made, 0o700)
    ca, leaf = _kept(folder / CA_FILE), _kept(folder / LEAF_FILE)
    if ca is None or _days_left(ca, now) < LEAF_DAYS + RENEW_DAYS:
        ca, leaf = _new_ca(now), None
        _keep(folder / CA_FILE, ca)
    if leaf is None or _days_left(leaf, now) < RENEW_DAYS or not _is_signed_by(leaf, ca) or _names_in(leaf) != set(names):
        leaf = _new_leaf(ca, names, now)
        _keep(folder / LEAF_FILE, leaf)
    if not public.exists() or public.read_bytes() != ca.certificate_pem:
        public.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        write_private(public, ca.certificate_pem.decode(), 0o644)
    return ServerCertificate(leaf.certificate_pem + ca.certificate_pem, leaf.key_pem, public)


def _kept(file: Path) -> _Pair | None:
    """The pair that was made earlier, None where none was. Raises TlsUnusable for a file that is damaged or open to others."""
    if not file.exists():
        return None
    content = _read_secret(file)
    try:
        certificate = x509.load_pem_x509_certificate(content)
    except ValueError as error:
        raise TlsUnusable(file, "is damaged; move it away and another is made") from error
    return _Pair(certificate, _load_key(file, content))


def _keep(file: Path, pair: _Pair) -> None:
    write_private(file, (pair.key_pem + pair.certificate_pem).decode())


def _days_left(pair: _Pair, now: Now) -> float:
    return (pair.certificate.not_valid_after_utc - now()).total_seconds() / 86_400


def _is_signed_by(leaf: _Pair, ca: _Pair) -> bool:
    try:
        leaf.certificate.verify_directly_issued_by(ca.certificate)
    except Exception:  # of three kinds; whatever it is, the leaf is not this CA's
        return False
    return leaf.certificate.public_key() == leaf.key.public_key()


def _names_in(leaf: _Pair) -> set[x509.GeneralName]:
    return set(leaf.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def _new_ca(now: Now) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    # Two CAs of one name, an old and a new one, would be taken for one another by their name.
    serial = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{CA_NAME} {serial:x}"[:64])])
    usage = x509.KeyUsage(False, False, False, False, False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False)
    extensions = [(x509.BasicConstraints(ca=True, path_length=0), True), (usage, True)]
    return _Pair(_signed(key, name, name, key, serial, CA_DAYS, extensions, now), key)


def _new_leaf(ca: _Pair, names: Iterable[x509.GeneralName], now: Now) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(True, False, False, False, False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False)
    extensions = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.SubjectAlternativeName(names), False),
        (usage, True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
    ]
    assert isinstance(ca.key, ec.EllipticCurvePrivateKey), "the CA is of our making"
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, LEAF_NAME)])
    issuer, serial = ca.certificate.subject, x509.random_serial_number()
    return _Pair(_signed(key, subject, issuer, ca.key, serial, LEAF_DAYS, extensions, now), key)


def _signed(
    key: ec.EllipticCurvePrivateKey,
    subject: x509.Name,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    serial: int,
    days: int,
    extensions: Iterable[tuple[x509.ExtensionType, bool]],
    now: Now,
) -> x509.Certificate:
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), serial, now() - CLOCK_SKEW, now() + datetime.timedelta(days=days))
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = builder.add_extension(issuer_id, critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


assert RENEW_DAYS < LEAF_DAYS < CA_DAYS, "a new leaf is not renewed at once, and its CA outlives it"
