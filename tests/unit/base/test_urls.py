"""Addresses: what is refused, and that no shown form holds a secret."""

from __future__ import annotations

import pytest

from pks.base.urls import url_fault, without_secret


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://host:4222", "nats://host:4222"),
        ("nats://me:s3cret@host:4222", "nats://me:***@host:4222"),
        ("nats://s3cret@host", "nats://***@host"),
        ("nats://a:s3cret@one:4222,nats://b:s3cret@two:4222", "nats://a:***@one:4222,nats://b:***@two:4222"),
        ("redis://:s3cret@host:6379/0", "redis://:***@host:6379/0"),
        ("postgresql://me:s3cret@host/db?sslmode=require&password=s3cret", "postgresql://me:***@host/db?sslmode=require"),
        ("postgresql:///db?host=/run/pg&user=me&sslpassword=s3cret", "postgresql:///db?host=/run/pg&user=me"),
        ("http://me:s3%40cret@host:9000?sql_port=8812&token=s3cret", "http://me:***@host:9000?sql_port=8812"),
        ("tls://me:s3@cret@host#s3cret", "tls://me:***@host"),
        ("me:s3cret@host", "***"),
        ("postgresql://me:s3,s3cret@one:1,two:2/db", "postgresql://me:***@one:1,two:2/db"),
        ("postgresql://me:s3/cret?@host/db", "postgresql://***"),
        ("https://host:9000?x=a@b&password=s3cret", "https://***"),
        ("/bin/nats-server", "/bin/nats-server"),
        ("//me:s3cret@[host", "***"),
        ("", ""),
    ],
)
def test_what_is_shown(url: str, shown: str) -> None:
    assert without_secret(url) == shown
    assert "cret" not in without_secret(url)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("nats://host:4222", ""),
        ("tls://user:password@host", ""),
        ("nats://one:1,nats://two:2", ""),
        ("nats:x", "must start with nats:// or tls://"),
        ("nats://one:1,http://two:2", "must start with nats:// or tls://"),
        ("host:4222", "must start with nats:// or tls://"),
        ("nats://", "names no host"),
        ("nats://host:0", "port 0 is no port"),
        ("nats://host:70000", "Port out of range 0-65535"),
        ("nats://[host", "is not a URL"),
    ],
)
def test_what_is_refused(url: str, fault: str) -> None:
    assert url_fault(url, ("nats", "tls")) == fault


def test_a_socket_is_a_host() -> None:
    assert url_fault("postgresql:///db?host=/run/pg", ("postgresql",)) == ""
    assert url_fault("postgresql://me:pass,word@one:1,two:2/db", ("postgresql",)) == ""
