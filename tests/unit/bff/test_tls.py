"""The certificate of the gateway: made, kept, renewed and judged by a real TLS handshake; and what is wrong with a configured one."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from pathlib import Path

import pytest

from pks.base.config import Gateway
from pks.bff.tls import CA_DAYS, CA_FILE, LEAF_DAYS, LEAF_FILE, RENEW_DAYS, ServerCertificate, TlsUnusable, server_certificate

NOW = datetime.datetime.now(datetime.UTC)


def later(days: float) -> datetime.datetime:
    return NOW + datetime.timedelta(days=days)


def made(folder: Path, days: float = 0, bind: str = "127.0.0.1") -> ServerCertificate:
    return server_certificate(Gateway(bind=bind), folder, lambda: later(days))


def pair(folder: Path, source: ServerCertificate) -> tuple[Path, Path]:
    """The certificate as somebody would configure it."""
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(source.chain)
    key_file.write_bytes(source.key)
    key_file.chmod(0o600)
    return cert_file, key_file


def wrong(cert_file: Path | str, key_file: Path | str, folder: Path, days: float = 0) -> TlsUnusable:
    with pytest.raises(TlsUnusable) as error:
        server_certificate(Gateway(tls_cert=str(cert_file), tls_key=str(key_file)), folder, lambda: later(days))
    return error.value


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_a_client_that_knows_the_ca_accepts_it_by_every_name(tmp_path: Path, name: str) -> None:
    found = made(tmp_path)
    assert found.ca_file == tmp_path / "run" / "gateway-ca.pem"
    cert_file, key_file = pair(tmp_path, found)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert_file, key_file)
    client = ssl.create_default_context(cafile=str(found.ca_file))
    here, there = socket.socketpair()

    def serve() -> None:
        with server.wrap_socket(there, server_side=True) as secured:
            secured.sendall(b"hello")

    serving = threading.Thread(target=serve)
    serving.start()
    with client.wrap_socket(here, server_hostname=name) as secured:
        assert secured.recv(5) == b"hello"
    serving.join()


def test_keys_are_the_owner_s_alone_and_the_ca_is_everybody_s(tmp_path: Path) -> None:
    found = made(tmp_path)
    folder = tmp_path / "secrets" / "tls"
    assert [path.stat().st_mode & 0o777 for path in (folder.parent, folder, folder / CA_FILE, folder / LEAF_FILE)] == [0o700] * 2 + [
        0o600
    ] * 2
    assert found.ca_file is not None and found.ca_file.stat().st_mode & 0o777 == 0o644
    assert b"PRIVATE" not in found.ca_file.read_bytes() and "PRIVATE" not in repr(found)


def test_it_is_kept_until_a_month_before_its_end(tmp_path: Path) -> None:
    first = made(tmp_path)
    assert made(tmp_path, LEAF_DAYS - RENEW_DAYS - 1) == first
    renewed = made(tmp_path, LEAF_DAYS - RENEW_DAYS + 1)
    assert renewed.chain != first.chain and renewed.ca_file is not None
    ca = renewed.ca_file.read_bytes()
    assert first.chain.endswith(ca) and renewed.chain.endswith(ca), "the same CA signed both: clients go on"


def test_a_ca_is_renewed_before_a_leaf_could_outlive_it(tmp_path: Path) -> None:
    first = made(tmp_path)
    assert first.ca_file is not None
    old = first.ca_file.read_bytes()
    renewed = made(tmp_path, CA_DAYS - LEAF_DAYS)
    assert renewed.ca_file is not None and renewed.ca_file.read_bytes() != old
    assert renewed.chain.endswith(renewed.ca_file.read_bytes())


def test_another_address_gets_another_leaf(tmp_path: Path) -> None:
    first = made(tmp_path)
    assert made(tmp_path, bind="0.0.0.0") == first
    assert made(tmp_path, bind="192.0.2.7").chain != first.chain
    assert made(tmp_path, bind="desk.example").chain != first.chain


def test_a_leaf_that_another_ca_signed_is_not_shown(tmp_path: Path) -> None:
    first, other = made(tmp_path / "a"), made(tmp_path / "b")
    (tmp_path / "a" / "secrets" / "tls" / CA_FILE).write_bytes((tmp_path / "b" / "secrets" / "tls" / CA_FILE).read_bytes())
    again = made(tmp_path / "a")
    assert again.chain != first.chain and other.ca_file is not None
    assert again.chain.endswith(other.ca_file.read_bytes())


def test_what_lies_open_or_is_damaged_is_refused_by_name(tmp_path: Path) -> None:
    made(tmp_path)
    ca = tmp_path / "secrets" / "tls" / CA_FILE
    ca.chmod(0o640)
    with pytest.raises(TlsUnusable, match=r"ca\.pem: has mode 0640"):
        made(tmp_path)
    ca.chmod(0o600)
    ca.write_text("nothing")
    with pytest.raises(TlsUnusable, match=r"ca\.pem: is damaged"):
        made(tmp_path)


def test_a_configured_pair_is_served_as_it_is(tmp_path: Path) -> None:
    source = made(tmp_path / "other")
    cert_file, key_file = pair(tmp_path, source)
    made(tmp_path)
    found = server_certificate(Gateway(tls_cert=str(cert_file), tls_key=str(key_file)), tmp_path)
    assert found == ServerCertificate(source.chain, source.key, None)
    assert not (tmp_path / "run" / "gateway-ca.pem").exists(), "the CA of before judges nothing now"


def test_what_is_wrong_with_a_configured_pair_is_said(tmp_path: Path) -> None:
    cert_file, key_file = pair(tmp_path, made(tmp_path / "other"))
    (tmp_path / "third").mkdir()
    _, other_key = pair(tmp_path / "third", made(tmp_path / "another"))
    assert "without gateway.tls_cert" in wrong("", key_file, tmp_path).reason
    assert "without gateway.tls_key" in wrong(cert_file, "", tmp_path).reason
    assert "cannot be read" in wrong(tmp_path / "absent.pem", key_file, tmp_path).reason
    assert "is not the key of" in wrong(cert_file, other_key, tmp_path).reason
    assert "holds no certificate" in wrong(key_file, key_file, tmp_path).reason
    assert "expired at" in wrong(cert_file, key_file, tmp_path, LEAF_DAYS + 1).reason
    assert "not valid before" in wrong(cert_file, key_file, tmp_path, -2).reason
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nothing")
    nonsense.chmod(0o600)
    assert "no private key" in wrong(cert_file, nonsense, tmp_path).reason
    key_file.chmod(0o644)
    assert "chmod 600" in wrong(cert_file, key_file, tmp_path).reason
