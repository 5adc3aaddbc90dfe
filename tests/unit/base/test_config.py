"""Four layers in order, every setting reachable from each, and errors that name the place and the key."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pks.base import limits
from pks.base.config import SIZES, Config, ConfigError, Edges, Journal, Shm, Sizes, load_config, resolve_sizes, settings, variable_of
from pks.base.errors import Fatal

HOME = {"XDG_DATA_HOME": "/data"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pks.toml"


def refusal(file: Path | None = None, environ: dict[str, str] | None = None, flags: dict[str, object] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ or {}, flags)
    assert isinstance(caught.value, Fatal)
    assert "\n" not in str(caught.value)
    return caught.value


def test_defaults() -> None:
    loaded = load_config(environ=HOME)
    assert loaded.config == Config(data_dir="/data/pks/default")
    assert (loaded.origins, loaded.notes) == ({}, ())
    config = loaded.config
    assert (config.shards, config.wait, config.edges.mode, config.stop_timeout) == (1, "auto", "embedded", 30)
    assert (config.shm, config.journal, config.edges) == (Shm(), Journal(), Edges())


def test_flags_over_environment_over_file_over_defaults(file: Path) -> None:
    file.write_text('shards = 2\nwait = "park"\nstop_timeout = 5\ncheckpoint_events = 4096\n')
    loaded = load_config(file, {"PKS_SHARDS": "4", "PKS_WAIT": "yield", "PKS_STOP_TIMEOUT": "6", **HOME}, {"shards": 8, "wait": "spin"})
    config = loaded.config
    assert (config.shards, config.wait, config.stop_timeout, config.checkpoint_events) == (8, "spin", 6, 4096)
    assert loaded.origins == {"shards": "flag", "wait": "flag", "stop_timeout": "PKS_STOP_TIMEOUT", "checkpoint_events": f"file {file}"}


def test_a_flag_that_was_not_given_changes_nothing() -> None:
    loaded = load_config(None, {"PKS_SHARDS": "4", **HOME}, {"shards": None, "shm.events": None})
    assert (loaded.config.shards, loaded.origins) == (4, {"shards": "PKS_SHARDS"})


def test_sections_merge_key_by_key(file: Path) -> None:
    file.write_text('[shm]\ngroup = "traders"\nsizes = "small"\n[journal]\nsegment_records = 8192\n')
    config = load_config(file, {"PKS_SHM_SIZES": "normal", "PKS_JOURNAL_RETENTION_DAYS": "7"}, {"shm.positions": 1024}).config
    assert config.shm == Shm(group="traders", sizes="normal", positions=1024)
    assert config.journal == Journal(segment_records=8192, retention_days=7)


def test_tables_by_worker(file: Path) -> None:
    file.write_text('[cores]\ncapture = 2\n"accumulator-0" = 3\n[wait_of]\nshadow = "park"\n')
    config = load_config(file, {}).config
    assert config.cores == {"capture": 2, "accumulator-0": 3}
    assert config.wait_of == {"shadow": "park"}
    config = load_config(file, {"PKS_CORES": "capture=4, accumulator-0=5,", "PKS_WAIT_OF": "journal=spin"}).config
    assert config.cores == {"capture": 4, "accumulator-0": 5}
    assert config.wait_of == {"journal": "spin"}


def test_every_setting_has_its_variable_and_its_place_in_the_file(file: Path) -> None:
    values: dict[str, object] = {
        "data_dir": "/x", "instance": "x", "shards": 2, "wait": "park", "wait_of": {"a": "spin"}, "cores": {"a": 1},
        "desk": "demo", "demo_rate": 2.5,
        "stop_timeout": 9, "checkpoint_events": 2048, "dedup_keys": 8192, "shm.group": "g", "shm.sizes": "small", "shm.events": 1 << 15,
        "shm.matches": 64, "shm.updates": 64, "shm.positions": 64, "shm.instruments": 64, "shm.books": 64, "shm.accounts": 64,
        "journal.segment_records": 1 << 14, "journal.retention_days": 1,
        "edges.mode": "external", "edges.nats_url": "nats://h", "edges.nats_nkey": "/n", "edges.postgres_url": "postgresql://h/d",
        "edges.redis_url": "redis://h", "edges.questdb_url": "http://h", "edges.tls_ca": "/c", "edges.nats_bin": "/n",
        "edges.postgres_bin": "/p", "edges.valkey_bin": "/v", "edges.questdb_jar": "/q", "edges.java": "/j",
        "alerts.channels": {"ops": "json://h/p"}, "alerts.rules": {"edge_down": {"severity": "CRITICAL", "channels": ["ops"], "window": 9}},
        "alerts.down_seconds": 1, "alerts.lag_seconds": 2, "alerts.disk_free_mb": 3,
        "gateway.bind": "0.0.0.0", "gateway.rest_port": 1, "gateway.grpc_port": 2, "gateway.tls_cert": "/c", "gateway.tls_key": "/k",
        "gateway.trusted_proxies": ["10.0.0.1", "10.1.0.0/16"], "gateway.cors_origins": ["https://h"], "gateway.rate_limit": 3,
        "gateway.body_mb": 4, "gateway.clients_max": 5, "gateway.access_minutes": 6, "gateway.refresh_days": 17,
        "gateway.lockout_failures": 8, "gateway.lockout_minutes": 9, "gateway.four_eyes": {"USD": "1000000", "*": "5.5"},
    }  # fmt: skip
    assert values.keys() == set(settings())
    as_text = {
        key: ",".join(f"{k}={v}" for k, v in value.items())
        if isinstance(value, dict)
        else ",".join(value)
        if isinstance(value, list)
        else str(value)
        for key, value in values.items()
    }
    as_text["alerts.rules"] = msgspec.json.encode(values["alerts.rules"]).decode()
    by_environ = load_config(None, {variable_of(key): text for key, text in as_text.items()})
    by_flags = load_config(None, {}, values)
    lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in values.items() if not isinstance(value, dict)]
    lines += [
        f'{key}."{worker}" = {msgspec.json.encode(inner).decode()}'
        for key in ("cores", "wait_of", "alerts.channels", "gateway.four_eyes")
        for worker, inner in values[key].items()  # type: ignore[attr-defined]
    ]
    rule = values["alerts.rules"]["edge_down"]  # type: ignore[index]
    lines += [f"alerts.rules.edge_down.{name} = {msgspec.json.encode(inner).decode()}" for name, inner in rule.items()]
    file.write_text("\n".join(lines))
    by_file = load_config(file, {})
    assert by_environ.config == by_flags.config == by_file.config
    assert by_flags.origins.keys() == values.keys()
    flat = msgspec.to_builtins(by_flags.config)
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        found = flat[section][name] if section else flat[name]
        assert msgspec.json.decode(msgspec.json.encode(found)) == value
        assert value != getattr(getattr(Config(), section) if section else Config(), name), f"{key}: a default shows nothing"


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("shrads = 2", "shrads", "no such setting; did you mean shards?"),
        ("[journal]\nretention = 2", "journal.retention", "no such setting; did you mean journal.retention_days?"),
        ("[bogus]\nx = 1", "bogus", "no such setting"),
        ("shards = 0", "shards", ">= 1"),
        ("shards = 17", "shards", "<= 16"),
        ('shards = "2"', "shards", "Expected `int`, got `str`"),
        ("shards = 2.0", "shards", "float"),
        ("shards = true", "shards", "bool"),
        ('wait = "sleep"', "wait", "sleep"),
        ('instance = "../x"', "instance", "../x"),
        ('instance = "UPPER"', "instance", "UPPER"),
        (f'instance = "{"x" * 33}"', "instance", "32"),
        ("shm = 3", "shm", "must be a section [shm]"),
        ("[cores]\ncapture = -1", "cores", ">= 0"),
        ("[wait_of]\ncapture = 'nap'", "wait_of", "nap"),
        ("dedup_keys = 5000", "dedup_keys", "5000 is not a power of two"),
        ("[journal]\nsegment_records = 10000", "journal.segment_records", "10000 is not a power of two"),
        ("[shm]\npositions = 3", "shm.positions", "3 is not a power of two"),
        ("[shm]\nevents = 1024", "shm.events", "1024 is under 16384"),
        ("stop_timeout = 0", "stop_timeout", ">= 1"),
        ("edges = 3", "edges", "must be a section [edges]"),
        ('edges = "some"', "edges.mode", "some"),
        ('[edges]\nmode = "some"', "edges.mode", "some"),
        ('[edges]\nnats_url = "http://host"', "edges.nats_url", "must start with nats:// or tls://"),
    ],
)
def test_a_bad_setting_is_named_with_its_file(file: Path, text: str, key: str, reason: str) -> None:
    file.write_text(text)
    error = refusal(file)
    assert (error.where, error.key) == (f"file {file}", key)
    assert reason in str(error)


@pytest.mark.parametrize("content", [b"shards = ", b"\xff\xfe", b"\0\1\2", b"shards = 1\nshards = 2"])
def test_a_file_that_is_not_toml_is_named(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    error = refusal(file)
    assert str(file) in str(error)
    assert "is not TOML" in str(error)


def test_a_file_that_cannot_be_read_is_named(file: Path, tmp_path: Path) -> None:
    assert str(refusal(file)) == f"configuration, file {file}: cannot be read: No such file or directory"
    assert "Is a directory" in str(refusal(tmp_path))
    file.write_bytes(b"#" * (limits.CONFIG_FILE_BYTES_MAX + 1))
    assert "is larger than" in str(refusal(file))


def test_the_environment_may_name_the_file_and_an_argument_wins(file: Path, tmp_path: Path) -> None:
    file.write_text("shards = 2")
    assert load_config(environ={"PKS_CONFIG": str(file)}).config.shards == 2
    other = tmp_path / "other.toml"
    other.write_text("shards = 4")
    assert load_config(other, {"PKS_CONFIG": str(file)}).config.shards == 4


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PKS_SHARDS", "two"),
        ("PKS_SHARDS", ""),
        ("PKS_SHARDS", "2.5"),
        ("PKS_SHM_SIZES", "huge"),
        ("PKS_CORES", "capture"),
        ("PKS_CORES", "=2"),
        ("PKS_CORES", "capture=two"),
        ("PKS_CORES", "capture=" + "1" * 5000),
    ],
)
def test_a_bad_variable_is_named(variable: str, text: str) -> None:
    error = refusal(environ={variable: text})
    assert (error.where, error.key) == ("environment", variable)


def test_a_variable_that_is_no_setting_is_noted_and_others_are_left_alone() -> None:
    loaded = load_config(environ={"PKS_SHRADS": "2", "PKS_CACHE_DIR": "/c", "HOME": "/root", **HOME})
    assert loaded.notes == ("the variable PKS_SHRADS is not a setting of PKS and was not looked at",)


def test_an_unknown_flag_is_a_mistake() -> None:
    assert refusal(flags={"shard": 2}).where == "flag"


def test_data_dir_is_absolute_and_each_instance_has_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/trader")
    assert load_config(environ={}).config.data_dir == "/home/trader/.local/share/pks/default"
    assert load_config(environ={"PKS_INSTANCE": "x", **HOME}).config.data_dir == "/data/pks/x"
    assert load_config(environ={"PKS_DATA_DIR": "here"}).config.data_dir == f"{tmp_path}/here"
    assert load_config(environ={"PKS_DATA_DIR": "~/d"}).config.data_dir == "/home/trader/d"


def test_a_configuration_travels_to_workers_whole() -> None:
    config = load_config(environ={"PKS_CORES": "capture=1", **HOME}).config
    assert msgspec.json.decode(msgspec.json.encode(config), type=Config) == config


def test_auto_takes_and_says_the_small_set_where_shm_is_small() -> None:
    small = resolve_sizes(Shm(), limits.SHM_SMALL_BYTES - 1)
    assert small[:-1] == SIZES["small"]
    assert small.said == "segment sizes: small (511 MB free in /dev/shm; small below 512 MB)"
    normal = resolve_sizes(Shm(), limits.SHM_SMALL_BYTES)
    assert normal[:-1] == SIZES["normal"]
    assert "normal" in normal.said


def test_a_configured_set_wins_over_the_room_and_a_capacity_over_the_set() -> None:
    assert resolve_sizes(Shm(sizes="normal"), 0)[:-1] == SIZES["normal"]
    sizes = resolve_sizes(Shm(sizes="small", positions=1 << 20), 1 << 40)
    assert sizes.positions == 1 << 20
    assert sizes.events == limits.EVENTS_CAPACITY_SMALL
    assert sizes.said == "segment sizes: small (as configured; 1048576 MB free in /dev/shm), with positions=1048576"


def test_both_sets_are_powers_of_two_in_the_order_of_the_fields() -> None:
    assert all(limits.is_power_of_two(value) for values in SIZES.values() for value in values)
    assert all(small <= normal for small, normal in zip(SIZES["small"], SIZES["normal"], strict=True))
    assert len(SIZES["small"]) == len(Sizes._fields) - 1


def test_edges_have_a_short_form_and_variables_that_say_what_they_are(file: Path) -> None:
    file.write_text('edges = "external"\n')
    assert load_config(file, {}).config.edges == Edges(mode="external")
    file.write_text('[edges]\nmode = "external"\nredis_url = "redis://other"\n')
    assert load_config(file, {"PKS_EDGES": "none", "PKS_PG_URL": "postgresql://host/db"}).config.edges == Edges(
        mode="none", redis_url="redis://other", postgres_url="postgresql://host/db"
    )
    assert load_config(file, {}, {"edges": "embedded"}).origins["edges.mode"] == "flag"
    assert load_config(None, {"PKS_EDGES_NATS_URL": "nats://host"}).notes, "it has one variable only"


def test_no_text_of_the_configuration_holds_a_password(file: Path) -> None:
    secret = "postgresql://me:s3cret@host/db"
    config = load_config(None, {"PKS_PG_URL": secret, "PKS_NATS_URL": "nats://s3cret@host"}).config
    assert config.edges.postgres_url == secret
    assert "postgresql://me:***@host/db" in repr(config)
    assert "s3cret" not in f"{config!r} {config} {config.edges}"
    for environ in ({"PKS_NATS_URL": secret}, {"PKS_PG_URL": "postgresql://me:s3cret@"}, {"PKS_REDIS_URL": "redis://:s3cret@host:0"}):
        assert "s3cret" not in str(refusal(environ=environ))
    file.write_text(f'[edges]\nquestdb_url = "{secret}"\n')
    assert "s3cret" not in str(refusal(file))


def test_alerts_name_channels_that_are_there_and_keep_their_urls_secret() -> None:
    settings = {"alerts.channels": {"ops": "json://user:hush@h/p"}, "alerts.rules": {"edge_down": {"channels": ["ops"]}}}
    config = load_config(None, {}, settings).config
    assert config.alerts.rules["edge_down"].channels == ("ops",)
    assert "hush" not in repr(config)
    with pytest.raises(ConfigError, match=r"alerts\.channels has no 'chat'"):
        load_config(None, {}, settings | {"alerts.rules": {"edge_down": {"channels": ["chat"]}}})
    with pytest.raises(ConfigError) as caught:
        load_config(None, {}, {"alerts.channels": {"ops": ["hush"]}})
    assert "hush" not in str(caught.value)
    with pytest.raises(ConfigError, match="is not JSON"):
        load_config(None, {"PKS_ALERTS_RULES": "edge_down"})
    with pytest.raises(ConfigError, match=r"alerts\.rules"):
        load_config(None, {}, {"alerts.rules": {"storms": {}}})


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ('[gateway]\nbind = "0.0.0.0"', "gateway.bind", "reached from outside"),
        ('[gateway]\nbind = "pks.example"', "gateway.bind", "reached from outside"),
        ('[gateway]\ntls_cert = "/c"', "gateway.tls_cert", "tls_key beside it"),
        ('[gateway]\ntls_key = "/k"', "gateway.tls_key", "tls_cert beside it"),
        ('[gateway]\nfour_eyes = {USD = "-1"}', "gateway.four_eyes", "-1"),
    ],
)
def test_a_gateway_is_not_open_by_mistake(file: Path, text: str, key: str, reason: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=reason) as error:
        load_config(file, {})
    assert error.value.key == key


@pytest.mark.parametrize("bind", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_a_gateway_on_this_machine_needs_no_certificate(file: Path, bind: str) -> None:
    file.write_text(f'[gateway]\nbind = "{bind}"')
    assert load_config(file, {}).config.gateway.bind == bind
