"""Addresses of outside systems: checked when they come in, shown without what is secret in them.

Owns the parts of a URL that PKS looks at. An address may name several servers, with commas between; the text of an error never holds a
password. Standard library alone; opens nothing and asks no name server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlencode, urlsplit

SECRET_WORDS = ("password", "passwd", "token", "secret", "nkey", "seed")
"""Parameters whose names hold one of these are left out where an address is shown."""


_NEXT = re.compile(r",\s*(?=[a-z]+://)")
"""Between two servers of one address; a comma elsewhere belongs to a password, or to a list of hosts."""

_END = re.compile(r"([^/?#]*)(.*)", re.DOTALL)
"""User, host and port; and the rest."""


def url_fault(url: str, schemes: Iterable[str]) -> str:
    """Why `url` cannot be used, "" when it can: its scheme is one of `schemes`, and each part names a host or a socket."""
    for part in _NEXT.split(url):
        try:
            split = urlsplit(part)
            port = None if "," in split.netloc else split.port
        except ValueError as error:
            return str(error) if "range" in str(error) else "is not a URL"
        if split.scheme not in schemes or "://" not in part:
            return f"must start with {' or '.join(f'{scheme}://' for scheme in schemes)}"
        if port == 0:
            return "port 0 is no port"
        if not split.hostname and "host=" not in split.query:
            return "names no host"
    return ""


def without_secret(url: str) -> str:
    """`url` as it may be shown: passwords, and a user that stands alone before the @ (a token), as ***. Other texts stay as they are."""
    return ",".join(_shown(part) for part in _NEXT.split(url))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to which a server is bound."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(part: str) -> str:
    scheme, separator, rest = part.partition("://")
    if not separator:
        return "***" if "@" in part else part
    authority, rest = _END.match(rest).groups()  # type: ignore[union-attr]  # it matches every text
    if "@" in rest:
        return f"{scheme}://***"  # a password that was not quoted, or an @ elsewhere: who can tell
    user, at, place = authority.rpartition("@")
    split = urlsplit("x://x" + rest)
    query = [(key, value) for key, value in parse_qsl(split.query, keep_blank_values=True) if not _is_secret(key)]
    name, colon, _ = user.partition(":")
    known = f"{name}:***@" if colon else "***@" if at else ""
    return f"{scheme}://{known}{place}{split.path}" + (f"?{urlencode(query, safe='/')}" if query else "")


def _is_secret(key: str) -> bool:
    return any(word in key.lower() for word in SECRET_WORDS)
