"""Configuration: defaults, then a TOML file, then the environment, then flags; checked once, at the start.

Owns the names, types and bounds of every setting and where each value came from. The command line and the supervisor load it;
workers are handed the result. It opens no file but the configuration's and reads no environment but what it is given.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

import msgspec
from msgspec import Meta, Struct

from pks.base import limits
from pks.base.errors import Fatal, shown
from pks.base.urls import is_loopback, url_fault, without_secret

WaitSetting = Literal["auto", "spin", "yield", "park"]
EdgesSetting = Literal["embedded", "external", "none"]
SizesSetting = Literal["auto", "small", "normal"]
AlertClassName = Literal["dead_letters", "rejections", "shadow_differences", "edge_down", "edge_lag", "disk_space"]

InstanceName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]*$|^$", max_length=limits.INSTANCE_CHARACTERS_MAX)]
Core = Annotated[int, Meta(ge=0, le=1 << 16)]
Capacity = Annotated[int, Meta(ge=0, le=1 << 28)]


class ConfigError(Fatal):
    """A setting is unknown, of the wrong type, out of bounds, or the file cannot be read; names where and which."""

    def __init__(self, where: str, key: str, reason: str) -> None:
        super().__init__(f"configuration, {where}: {key}: {reason}" if key else f"configuration, {where}: {reason}")
        self.where, self.key, self.reason = where, key, reason


class Shm(Struct, frozen=True, kw_only=True):
    """`[shm]`: shared memory. A capacity of 0 takes the one of the set; others must be powers of two."""

    group: str = ""  # group that may read the segments; "" is the user's own
    sizes: SizesSetting = "auto"  # auto: small where /dev/shm has little room, and that is said
    events: Capacity = 0  # records in the events ring
    matches: Capacity = 0  # records in a shard's matches ring
    updates: Capacity = 0  # records in a shard's updates ring
    positions: Capacity = 0  # slots over all shards
    instruments: Capacity = 0  # rows of the reference data
    books: Capacity = 0
    accounts: Capacity = 0


class Journal(Struct, frozen=True, kw_only=True):
    """`[journal]`: the files of events."""

    segment_records: Annotated[int, Meta(ge=limits.SEGMENT_RECORDS_MIN, le=limits.SEGMENT_RECORDS_MAX)] = limits.SEGMENT_RECORDS
    retention_days: Annotated[int, Meta(ge=0, le=36_500)] = 30  # age from which `pks journal archive` packs a closed file; none is deleted


class Edges(Struct, frozen=True, kw_only=True):
    """`[edges]`: the systems outside of the core. `edges = "none"` is short for its `mode`. What has a URL is external."""

    mode: EdgesSetting = "embedded"  # embedded: we run what has no URL; external: only what has one; none: nothing
    nats_url: str = ""  # nats:// or tls://, several with commas
    nats_nkey: str = ""  # file with the seed of the NKey by which we are known to nats_url
    postgres_url: str = ""  # postgresql://user:password@host/database?sslmode=...
    redis_url: str = ""  # redis:// or rediss://
    questdb_url: str = ""  # http(s)://user:password@host:9000?sql_port=8812
    tls_ca: str = ""  # PEM file of the authorities by which external servers are judged; "" is the system's
    nats_bin: str = ""  # another nats-server than the one that pip installed
    postgres_bin: str = ""  # another postgres, or its folder
    valkey_bin: str = ""  # another valkey-server, or a redis-server
    questdb_jar: str = ""  # another jar than the one of set-up
    java: str = ""  # another Java, for QuestDB

    def __repr__(self) -> str:
        """Without passwords: settings stand in logs and in errors."""
        shown = {name: without_secret(getattr(self, name)) for name in self.__struct_fields__}
        return f"Edges({', '.join(f'{name}={value!r}' for name, value in shown.items() if value)})"


class AlertRule(Struct, frozen=True, kw_only=True):
    """`[alerts.rules.<class>]`: how alerts of a class are told. Without channels they are kept and shown."""

    severity: Literal["INFO", "WARNING", "CRITICAL"] = "WARNING"
    channels: tuple[str, ...] = ()  # names in `alerts.channels`
    window: Annotated[int, Meta(ge=1, le=86_400)] = 300  # seconds in which what happens again is counted, not told


class Alerts(Struct, frozen=True, kw_only=True):
    """`[alerts]`: what is told to people, and by which ways."""

    channels: dict[str, str] = {}  # name -> apprise's URL of a chat, a mailbox, a webhook; it may hold a password
    rules: dict[AlertClassName, AlertRule] = {}
    down_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 30  # an edge is down for so long
    lag_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 60  # what an edge lacks is so old
    disk_free_mb: Annotated[int, Meta(ge=0, le=1 << 30)] = 1024  # less is free where the data are; 0: never told

    def __repr__(self) -> str:
        """Without the channels' URLs."""
        return f"Alerts(channels={sorted(self.channels)}, rules={self.rules})"


Port = Annotated[int, Meta(ge=0, le=65535)]
Notional = Annotated[str, Meta(pattern=r"^\d{1,30}(\.\d{1,18})?$")]


class Gateway(Struct, frozen=True, kw_only=True):
    """`[gateway]`: REST, WebSocket and gRPC for users. It runs where there is a Postgres, in which users live."""

    bind: str = "127.0.0.1"  # another address asks for a certificate or for trusted proxies
    rest_port: Port = 8080  # REST and WebSocket; 0 is any free one, and the usual one gives way to a free one where it is taken
    grpc_port: Port = 8443  # as rest_port
    tls_cert: str = ""  # PEM file of the certificate with its chain; "": gRPC has one of the development CA, REST speaks plain HTTP
    tls_key: str = ""  # PEM file of its key, mode 0600
    trusted_proxies: tuple[str, ...] = ()  # addresses or networks whose X-Forwarded-For is believed
    cors_origins: tuple[str, ...] = ()  # other sites whose pages may call us; none by default
    rate_limit: Annotated[int, Meta(ge=0, le=1_000_000)] = 200  # requests a second of one user or one address; 0: any number
    body_mb: Annotated[int, Meta(ge=1, le=1024)] = 16  # a request is no longer than this
    clients_max: Annotated[int, Meta(ge=1, le=100_000)] = 1000  # WebSockets and gRPC streams at once
    access_minutes: Annotated[int, Meta(ge=1, le=1440)] = 15  # an access token's life
    refresh_days: Annotated[int, Meta(ge=1, le=366)] = 7  # a session's life since its last refresh
    lockout_failures: Annotated[int, Meta(ge=1, le=1000)] = 5  # wrong passwords in a row that lock a user out
    lockout_minutes: Annotated[int, Meta(ge=1, le=1440)] = 15
    four_eyes: dict[str, Notional] = {}  # currency -> notional above which a manual trade waits for a second person; "*": any other one


class Config(Struct, frozen=True, kw_only=True):
    """Every setting, as the configuration file spells it."""

    data_dir: str = ""  # "" is pks/<instance or "default"> under XDG_DATA_HOME or ~/.local/share; always absolute once loaded
    instance: InstanceName = ""  # ends the names of segments, so that several systems share a host
    shards: Annotated[int, Meta(ge=1, le=limits.SHARDS_MAX)] = 1
    wait: WaitSetting = "auto"
    wait_of: dict[str, WaitSetting] = {}  # worker -> its own, as [wait_of]
    cores: dict[str, Core] = {}  # worker -> core that it is pinned to, as [cores]; the others are placed by the supervisor
    desk: str = ""  # folder of reference data and opening lots that is loaded at each start; "demo" is the packaged desk
    demo_rate: Annotated[float, Meta(ge=0, le=1e6)] = 0.0  # fills a second of a generated trading day; 0: nothing streams
    stop_timeout: Annotated[int, Meta(ge=1, le=limits.STOP_TIMEOUT_SECONDS_MAX)] = limits.STOP_TIMEOUT_SECONDS  # seconds
    checkpoint_events: Annotated[int, Meta(ge=limits.CHECKPOINT_EVENTS_MIN, le=1 << 40)] = limits.CHECKPOINT_EVENTS
    dedup_keys: Annotated[int, Meta(ge=limits.DEDUP_KEYS_MIN, le=1 << 30)] = limits.DEDUP_KEYS_MAX  # a power of two
    shm: Shm = Shm()
    journal: Journal = Journal()
    edges: Edges = Edges()
    alerts: Alerts = Alerts()
    gateway: Gateway = Gateway()


class Loaded(NamedTuple):
    """A configuration and what a person may ask about it."""

    config: Config
    origins: dict[str, str]  # "shm.events" -> "file /etc/pks.toml", "PKS_SHM_EVENTS", "flag"; what is absent is a default
    notes: tuple[str, ...]  # lines to log: variables that look like settings and are none


class Sizes(NamedTuple):
    """Capacities in force, and the line that says why."""

    events: int
    matches: int
    updates: int
    positions: int
    instruments: int
    books: int
    accounts: int
    said: str


SIZES: dict[Literal["small", "normal"], tuple[int, int, int, int, int, int, int]] = {
    "normal": (
        limits.EVENTS_CAPACITY,
        limits.MATCHES_CAPACITY,
        limits.UPDATES_CAPACITY,
        limits.POSITIONS_MAX,
        limits.INSTRUMENTS_MAX,
        limits.BOOKS_MAX,
        limits.ACCOUNTS_MAX,
    ),
    "small": (
        limits.EVENTS_CAPACITY_SMALL,
        limits.MATCHES_CAPACITY_SMALL,
        limits.UPDATES_CAPACITY_SMALL,
        limits.POSITIONS_MAX_SMALL,
        limits.INSTRUMENTS_MAX_SMALL,
        limits.BOOKS_MAX_SMALL,
        limits.ACCOUNTS_MAX_SMALL,
    ),
}
"""The two sets, in the order of `Sizes`."""

OTHER_VARIABLES = {"PKS_CONFIG", "PKS_CACHE_DIR", "PKS_TEST_SEED", "PKS_KILL_AT"}
"""Variables of the environment that start with PKS_ and are not settings."""


def load_config(file: Path | None = None, environ: Mapping[str, str] = os.environ, flags: Mapping[str, object] | None = None) -> Loaded:
    """The configuration in force: defaults < file < environment < flags.

    file: a TOML file; None takes the one that PKS_CONFIG names, if any. environ: setting `a.b` is the variable PKS_A_B; tables by
    worker (`cores`, `wait_of`) are written "capture=2,journal=3". flags: dotted setting -> value; None is a flag that was not given.
    Raises ConfigError.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if file is None and environ.get("PKS_CONFIG"):
        file = Path(environ["PKS_CONFIG"])
    if file is not None:
        where = f"file {file}"
        for key, value in _flattened(_parsed(file), where):
            _set(merged, origins, key, value, where, f"file {file}", strict=True)
    notes = []
    for variable, text in environ.items():
        if not variable.startswith("PKS_") or variable in OTHER_VARIABLES:
            continue
        setting = _VARIABLES.get(variable)
        if setting is None:
            notes.append(f"the variable {variable} is not a setting of PKS and was not looked at")
            continue
        given: Any = text
        if setting in _TABLES:
            given = _table_of(text, variable, setting)
        elif setting in _LISTS:
            given = [part.strip() for part in text.split(",") if part.strip()]
        elif setting in _JSON:
            given = _json_of(text, variable)
        _set(merged, origins, setting, given, "environment", variable, strict=False, named=variable)
    for key, value in (flags or {}).items():
        if value is not None:
            _set(merged, origins, key, value, "flag", "flag", strict=False)
    config = _with_data_dir(_built(merged), environ)
    _check_together(config, origins)
    return Loaded(config, origins, tuple(notes))


def settings() -> tuple[str, ...]:
    """Every setting's dotted name, in the order of the classes."""
    return tuple(_TYPES)


def resolve_sizes(shm: Shm, shm_free_bytes: int) -> Sizes:
    """The capacities in force on a host with `shm_free_bytes` free in /dev/shm; single settings win over the set."""
    free = f"{shm_free_bytes >> 20} MB free in /dev/shm"
    chosen: Literal["small", "normal"]
    if shm.sizes == "auto":
        chosen = "small" if shm_free_bytes < limits.SHM_SMALL_BYTES else "normal"
        said = f"segment sizes: {chosen} ({free}; small below {limits.SHM_SMALL_BYTES >> 20} MB)"
    else:
        chosen = shm.sizes
        said = f"segment sizes: {chosen} (as configured; {free})"
    given = (shm.events, shm.matches, shm.updates, shm.positions, shm.instruments, shm.books, shm.accounts)
    events, matches, updates, positions, instruments, books, accounts = (
        own or common for own, common in zip(given, SIZES[chosen], strict=True)
    )
    changed = [f"{name}={value}" for name, value in zip(Sizes._fields, given, strict=False) if value]
    if changed:
        said += ", with " + ", ".join(changed)
    return Sizes(events, matches, updates, positions, instruments, books, accounts, said)


def _types_of(struct: type[Struct], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and type of every setting."""
    hints = get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        kind = hints[field.name]
        if isinstance(kind, type) and issubclass(kind, Struct):
            yield from _types_of(kind, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, kind


_TYPES: dict[str, Any] = dict(_types_of(Config))
_SECTIONS = {name.partition(".")[0] for name in _TYPES if "." in name}
_TABLES = {"cores", "wait_of", "alerts.channels", "gateway.four_eyes"}
_LISTS = {"gateway.trusted_proxies", "gateway.cors_origins"}  # written with commas in the environment
_JSON = {"alerts.rules"}  # written as JSON in the environment
_SECRET = {"alerts.channels"}
_SHORT = {"edges": "edges.mode"}
_URL_SCHEMES = {
    "edges.nats_url": ("nats", "tls"),
    "edges.postgres_url": ("postgresql", "postgres"),
    "edges.redis_url": ("redis", "rediss"),
    "edges.questdb_url": ("http", "https"),
}
_OWN_VARIABLES = {
    "edges.mode": "PKS_EDGES",
    "edges.nats_url": "PKS_NATS_URL",
    "edges.nats_nkey": "PKS_NATS_NKEY",
    "edges.postgres_url": "PKS_PG_URL",
    "edges.redis_url": "PKS_REDIS_URL",
    "edges.questdb_url": "PKS_QUESTDB_URL",
    "edges.nats_bin": "PKS_NATS_BIN",
    "edges.postgres_bin": "PKS_PG_BIN",
    "edges.valkey_bin": "PKS_VALKEY_BIN",
    "edges.questdb_jar": "PKS_QUESTDB_JAR",
    "edges.java": "PKS_JAVA",
    "gateway.rest_port": "PKS_REST_PORT",
    "gateway.grpc_port": "PKS_GRPC_PORT",
    "gateway.rate_limit": "PKS_RATE_LIMIT",
}
"""Settings whose variable is not made of their name."""
assert {*_SHORT.values(), *_URL_SCHEMES, *_OWN_VARIABLES} <= _TYPES.keys(), "they are settings"


def variable_of(setting: str) -> str:
    """The variable of the environment that sets it."""
    return _OWN_VARIABLES.get(setting) or "PKS_" + setting.replace(".", "_").upper()


_VARIABLES = {variable_of(name): name for name in _TYPES}
assert len(_VARIABLES) == len(_TYPES), "no two settings share a variable"
assert not OTHER_VARIABLES & _VARIABLES.keys(), "a variable is a setting or it is not"
_POWERS_OF_TWO = ("dedup_keys", "journal.segment_records", *(f"shm.{name}" for name in Sizes._fields if name != "said"))
assert set(_POWERS_OF_TWO) <= _TYPES.keys(), "they are settings"


def _parsed(file: Path) -> dict[str, Any]:
    where = f"file {file}"
    try:
        with file.open("rb") as stream:
            raw = stream.read(limits.CONFIG_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(where, "", f"cannot be read: {error.strerror}") from error
    if len(raw) > limits.CONFIG_FILE_BYTES_MAX:
        raise ConfigError(where, "", f"is larger than {limits.CONFIG_FILE_BYTES_MAX} bytes")
    try:
        return tomllib.loads(raw.decode())
    except ValueError as error:  # not UTF-8, or not TOML
        raise ConfigError(where, "", f"is not TOML: {error}") from error


def _flattened(tree: dict[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    """Sections opened to dotted names; tables by worker stay whole."""
    for key, value in tree.items():
        if key not in _SECTIONS or (key in _SHORT and isinstance(value, str)):
            yield key, value
        elif isinstance(value, dict):
            yield from ((f"{key}.{inner}", inner_value) for inner, inner_value in value.items())
        else:
            raise ConfigError(where, key, f"must be a section [{key}]")


def _set(
    merged: dict[str, Any], origins: dict[str, str], key: str, value: object, where: str, origin: str, *, strict: bool, named: str = ""
) -> None:
    """Check one value by itself, so that the error names the place that it came from, and lay it over the lower ones."""
    key = _SHORT.get(key, key)
    if key not in _TYPES:
        raise ConfigError(where, key, "no such setting" + _nearest(key))
    if key in _URL_SCHEMES and isinstance(value, str) and value and (fault := url_fault(value, _URL_SCHEMES[key])):
        raise ConfigError(where, named or key, f"{shown(without_secret(value))}: {fault}")
    try:
        merged[key] = msgspec.convert(value, _TYPES[key], strict=strict)
    except msgspec.ValidationError as error:
        told = "a value that may be secret" if key in _SECRET else shown(value)
        raise ConfigError(where, named or key, f"{told}: {error}") from error
    origins[key] = origin


def _nearest(key: str) -> str:
    from difflib import get_close_matches  # only on the way to an error

    close = get_close_matches(key, _TYPES, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _table_of(text: str, variable: str, setting: str) -> dict[str, Any]:
    """ "capture=2,journal=3" as a table."""
    table: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        worker, equals, value = part.partition("=")
        if not equals or not worker.strip():
            told = "a value that may be secret" if setting in _SECRET else shown(text)
            raise ConfigError("environment", variable, f"{told}: write it as worker=value,worker=value")
        table[worker.strip()] = int(value) if setting == "cores" and re.fullmatch(r"\s*\d{1,9}\s*", value) else value.strip()
    return table


def _json_of(text: str, variable: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ConfigError("environment", variable, f"{shown(text)}: is not JSON: {error}") from error


def _built(merged: dict[str, Any]) -> Config:
    top = {key: value for key, value in merged.items() if "." not in key}
    sections: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
    for key, value in merged.items():
        section, dot, name = key.partition(".")
        if dot:
            sections[section][name] = value
    return Config(
        **top,
        shm=Shm(**sections["shm"]),
        journal=Journal(**sections["journal"]),
        edges=Edges(**sections["edges"]),
        alerts=Alerts(**sections["alerts"]),
        gateway=Gateway(**sections["gateway"]),
    )


def _with_data_dir(config: Config, environ: Mapping[str, str]) -> Config:
    """The folder made absolute: what is relative counts from the working directory."""
    if config.data_dir:
        folder = Path(config.data_dir).expanduser()
    elif environ.get("XDG_DATA_HOME"):
        folder = Path(environ["XDG_DATA_HOME"], "pks", config.instance or "default")
    else:
        folder = Path(os.path.expanduser("~"), ".local", "share", "pks", config.instance or "default")
    return msgspec.structs.replace(config, data_dir=str(folder.absolute()))


def _check_together(config: Config, origins: dict[str, str]) -> None:
    """What no single value shows."""
    for alert, rule in config.alerts.rules.items():
        for unknown in set(rule.channels) - config.alerts.channels.keys():
            raise ConfigError(origins["alerts.rules"], "alerts.rules", f"{alert}: alerts.channels has no {unknown!r}")
    gateway = config.gateway
    if bool(gateway.tls_cert) != bool(gateway.tls_key):
        missing, given = ("tls_key", "tls_cert") if gateway.tls_cert else ("tls_cert", "tls_key")
        raise ConfigError(origins[f"gateway.{given}"], f"gateway.{given}", f"needs gateway.{missing} beside it")
    if not is_loopback(gateway.bind) and not gateway.tls_cert and not gateway.trusted_proxies:
        raise ConfigError(
            origins["gateway.bind"], "gateway.bind", f"{gateway.bind} is reached from outside: give tls_cert or trusted_proxies"
        )
    flat = msgspec.to_builtins(config)
    for key in _POWERS_OF_TWO:
        section, _, name = key.rpartition(".")
        value = flat[section][name] if section else flat[name]
        if value and not limits.is_power_of_two(value):
            raise ConfigError(origins.get(key, "default"), key, f"{value} is not a power of two")
    if config.shm.events and config.shm.events < limits.EVENTS_CAPACITY_SMALL:
        least = limits.EVENTS_CAPACITY_SMALL
        raise ConfigError(origins["shm.events"], "shm.events", f"{config.shm.events} is under {least}, which two groups need")
