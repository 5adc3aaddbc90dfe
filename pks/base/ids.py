"""Keys of events: what makes two inputs the same trade.

Owns the 128-bit hash of (source, external id, leg) and the 32-bit discriminator. Border code and capture call it, once per
input. The values are in journals and key files for ever, so what is hashed, and in which order, may not change. It may not
look anything up.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct

from pks.base.errors import Code, Refused
from pks.base.limits import NAME_BYTES_MAX, TRADE_ID_BYTES_MAX

# Domain separation (BLAKE2, RFC 7693, personalisation): the same bytes under another purpose give unrelated values.
_KEY_DOMAIN = b"pks key v1"
_DISCRIMINATOR_DOMAIN = b"pks discrim v1"

_TWO_WORDS = Struct("<qq")
_KEY_HEAD = Struct("<HHI")
_LEG_MAX = 0xFFFF_FFFF


def key_of(source: str, external_id: bytes | str, leg: int) -> tuple[int, int]:
    """Hash of (source, external id, leg) as (hi, lo), two signed 64-bit words, never (0, 0), which marks an empty row of a table.

    The lengths are hashed before the texts, so ("ab", "c") and ("a", "bc") differ; leg: 0 to 2**32 - 1.
    Raises Refused: BAD_ENCODING (text that UTF-8 cannot hold), BAD_TEXT (over the limit), OUT_OF_RANGE (leg).
    """
    source_bytes = _encoded(source, "source", NAME_BYTES_MAX)
    id_bytes = _encoded(external_id, "trade_id", TRADE_ID_BYTES_MAX)
    if not 0 <= leg <= _LEG_MAX:
        raise Refused(Code.OUT_OF_RANGE, "leg", leg, f"a leg is between 0 and {_LEG_MAX}")
    head = _KEY_HEAD.pack(len(source_bytes), len(id_bytes), leg)
    digest = blake2b(head + source_bytes + id_bytes, digest_size=16, person=_KEY_DOMAIN, usedforsecurity=False).digest()
    hi, lo = _TWO_WORDS.unpack(digest)
    return (hi, lo) if hi or lo else (0, 1)


def discriminator_of(account: str | None = None, instrument: str | None = None, side: int | None = None, date: int | None = None) -> int:
    """Hash (1 to 2**32 - 1) of those fields over which the source's ids recur; 0 when there are none, so ids never recur.

    None leaves a field out and differs from every value of it. side: a number of `layouts.codes.Side`; date: days since
    1970-01-01. Source: design section 2. Raises Refused as `key_of`.
    """
    if account is None and instrument is None and side is None and date is None:
        return 0
    parts = bytearray()
    for text, field in ((account, "account"), (instrument, "instrument")):
        encoded = b"" if text is None else _encoded(text, field, NAME_BYTES_MAX)
        parts += (0 if text is None else len(encoded) + 1).to_bytes(2, "little") + encoded
    for number in (side, date):
        parts += b"\0" if number is None else b"\1" + number.to_bytes(8, "little", signed=True)
    digest = blake2b(parts, digest_size=4, person=_DISCRIMINATOR_DOMAIN, usedforsecurity=False).digest()
    return int.from_bytes(digest, "little") or 1


def _encoded(text: bytes | str, field: str, bytes_max: int) -> bytes:
    if isinstance(text, str):
        try:
            text = text.encode()
        except UnicodeEncodeError as error:
            raise Refused(Code.BAD_ENCODING, field, text, "the text holds half of a UTF-16 pair") from error
    if len(text) > bytes_max:
        raise Refused(Code.BAD_TEXT, field, text, f"{len(text)} bytes, at most {bytes_max} are allowed")
    return text
