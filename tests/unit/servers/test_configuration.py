"""The texts that servers are started with: on loopback, durable, and without a gap for quotes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pks.servers.nats import USERS, nats_conf, new_seed, public_key
from pks.servers.postgres import postgres_conf, startup_message
from pks.servers.questdb import questdb_conf
from pks.servers.valkey import valkey_conf

FOLDER = Path("/data/servers/it")


def settings(text: str, separator: str) -> dict[str, str]:
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, _, value in (line.partition(separator) for line in lines)}


def test_nats_is_durable_and_lets_in_who_has_a_key() -> None:
    keys = {user.name: f"KEY-{user.name}" for user in USERS}
    text = nats_conf(FOLDER, {"client": 4222, "monitor": 8222}, keys)
    assert "sync_interval: always" in text
    assert "host: 127.0.0.1\nport: 4222\n" in text
    assert 'http: "127.0.0.1:8222"' in text
    assert 'store_dir: "/data/servers/it/jetstream"' in text
    assert all(text.count(f"nkey: KEY-{user.name},") == 1 for user in USERS)
    assert "password" not in text
    assert text.count("{") == text.count("}")
    assert text.index("KEY-pks") < text.index("SYS {") < text.index("KEY-system")


def test_only_our_own_user_may_do_everything() -> None:
    assert [user.name for user in USERS if ">" in user.publish or ">" in user.subscribe] == ["pks", "system"]
    inboxes = [subject for user in USERS for subject in user.subscribe if subject.startswith("_INBOX")]
    assert len(inboxes) == len(set(inboxes)) == 2, "nobody hears another's answers"
    algo = next(user for user in USERS if user.name == "algo")
    assert not any("DELETE" in subject or "STREAM.CREATE" in subject or "BOOKING" in subject for subject in algo.publish)


def test_keys_of_nats() -> None:
    seed = new_seed()
    assert seed.startswith("SU")
    assert re.fullmatch(r"U[A-Z2-7]{55}", public_key(seed))
    assert public_key(seed) == public_key(seed) != public_key(new_seed())
    with pytest.raises(ValueError, match="not the seed of an NKey") as caught:
        public_key("SUAB")
    assert "SUAB" not in str(caught.value)


def test_postgres_is_durable_and_on_loopback() -> None:
    found = settings(postgres_conf(FOLDER, {"client": 5432}, "18.6"), "=")
    assert found["fsync"] == found["synchronous_commit"] == found["full_page_writes"] == "on"
    assert found["listen_addresses"] == "'127.0.0.1'"
    assert found["unix_socket_directories"] == "'/data/servers/it/run'"
    assert found["port"] == "5432"
    assert found["io_method"] == "sync"
    assert "io_method" not in postgres_conf(FOLDER, {"client": 5432}, "17.2")
    assert postgres_conf(FOLDER, {"client": 5432}, "18.6").endswith("include '/data/servers/it/own.conf'\n")


def test_postgres_goes_without_a_socket_where_the_path_is_too_long() -> None:
    found = settings(postgres_conf(Path("/" + "x" * 90), {"client": 5432}, "18.6"), "=")
    assert found["unix_socket_directories"] == "''"
    assert "'/it''s \\\\here/run'" in postgres_conf(Path("/it's \\here"), {"client": 5432}, "18.6")


def test_the_first_message_of_a_client_of_postgres() -> None:
    assert startup_message("me", "it") == b"\x00\x00\x00\x1d\x00\x03\x00\x00user\x00me\x00database\x00it\x00\x00"


def test_valkey_drops_only_what_would_expire() -> None:
    found = settings(valkey_conf(FOLDER, {"client": 6379}, "s3cret"), " ")
    assert found["bind"] == "127.0.0.1"
    assert found["requirepass"] == "s3cret"
    assert found["appendonly"] == "yes"
    assert found["maxmemory-policy"] == "volatile-ttl"
    assert found["unixsocket"] == '"/data/servers/it/redis.sock"'
    assert "unixsocket" not in valkey_conf(Path("/" + "x" * 100), {"client": 6379}, "s3cret")


def test_questdb_binds_every_port_to_loopback() -> None:
    found = settings(questdb_conf({"client": 9000, "health": 9003, "sql": 8812}, "s3cret"), "=")
    assert found["cairo.commit.mode"] == "sync", "the cursor is the table's: no row may outlive one in front of it"
    bound = {value for key, value in found.items() if key.endswith("bind.to")}
    assert bound == {"127.0.0.1:9000", "127.0.0.1:9003", "127.0.0.1:8812"}
    assert found["line.tcp.enabled"] == found["telemetry.enabled"] == "false"
    assert found["http.password"] == found["pg.password"] == "s3cret"
