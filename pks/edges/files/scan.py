"""Compiled reading of a CSV file's bytes into columns: one pass, no text objects, no allocation.

Owns the kernels of the quick way. Only `columns` calls it. A row in which anything is out of the ordinary (a character outside printable
ASCII, an escape in a quote, a number in exponent form, a time with an offset, a kind other than TRADE, a lot id, a long name) is only
marked SLOW: the reader row by row then says what it is, so the two never have to agree on an error text. Numbers come out as mantissa
and decimal places, exactly, because the scale belongs to the instrument and that is looked up behind.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from pks.base.limits import NAME_BYTES_MAX, ROW_BYTES_MAX
from pks.base.units import POWERS_OF_TEN, hash_words, mul_64_checked

ID_BYTES = 40
"""The trade id of an EVENT; a longer one needs a DETAIL and goes the slow way."""

NAME_WORDS = NAME_BYTES_MAX // 8
NAMES_MAX = 1 << 16
"""Different names in one column; a row with one more goes the slow way."""

TABLE_SIZE = 1 << 17
assert TABLE_SIZE >= 2 * NAMES_MAX, "open addressing stays short"

DATE_NONE = -(2**31)
"""A date that was not given."""

MANTISSA_DIGITS_MAX = 18
TIME_YEAR_MIN, TIME_YEAR_MAX = 1970, 2261
MILLISECONDS_MAX = 9_223_372_036_854
MICROSECONDS_MAX = 9_223_372_036_854_775


class Name(IntEnum):
    """The dictionary-encoded columns: places in `Arrays.names`."""

    BOOK = 0
    INSTRUMENT = 1
    ACCOUNT = 2
    SOURCE = 3
    FEE_CURRENCY = 4
    VENUE = 5


class Cell(IntEnum):
    """What a cell of the file is. The first ones are Name + 1."""

    IGNORED = 0
    BOOK = 1
    INSTRUMENT = 2
    ACCOUNT = 3
    SOURCE = 4
    FEE_CURRENCY = 5
    VENUE = 6
    TRADE_ID = 7
    LEG = 8
    KIND = 9
    SIDE = 10
    QUANTITY = 11
    PRICE = 12
    FEE = 13
    TRADE_TIME = 14
    BUSINESS_DATE = 15
    SETTLE_DATE = 16
    ORDER_ID = 17
    DETAIL = 18  # a text that goes into a DETAIL: only that there is one is noted
    SLOW = 19  # a field of other kinds of events: a row that has it goes the slow way
    PRINT_ID = 20
    PRINT_TIME = 21
    PRINT_SIDE = 22
    PRINT_MAKER = 23
    ROW = 24  # as the offending cell: the row as a whole


assert all(Cell[name.name] == name + 1 for name in Name), "a name's cell is its place plus one"


class Arrays(NamedTuple):
    """Room for a batch of rows. Rows of `names` and the arrays of a SLOW row are not to be used."""

    line: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]  # of the row's first byte in the file
    length: npt.NDArray[np.int64]  # of the row in bytes, without its end
    slow: npt.NDArray[np.uint8]  # 0, or the Cell that sends the row the slow way
    trade_id: npt.NDArray[np.uint8]  # [rows, 40], zeros behind the text
    order_id: npt.NDArray[np.uint8]  # [rows, 40]
    leg: npt.NDArray[np.uint16]
    side: npt.NDArray[np.int8]
    qty: npt.NDArray[np.int64]  # mantissa: value = qty / 10**qty_digits, no trailing zeros
    qty_digits: npt.NDArray[np.int64]
    price: npt.NDArray[np.int64]
    price_digits: npt.NDArray[np.int64]
    fee: npt.NDArray[np.int64]
    fee_digits: npt.NDArray[np.int64]
    has_fee: npt.NDArray[np.bool_]
    trade_time_ns: npt.NDArray[np.int64]
    business_date: npt.NDArray[np.int32]
    settle_date: npt.NDArray[np.int32]
    has_detail: npt.NDArray[np.bool_]  # a counterparty or a note
    names: npt.NDArray[np.int32]  # [rows, 6], codes by Name; 0 is no name


class NameTables(NamedTuple):
    """Dictionaries of names, one a column; code c of column n has the bytes words[n, c]."""

    table: npt.NDArray[np.int32]  # [6, TABLE_SIZE], code or 0
    counts: npt.NDArray[np.int64]  # [6], the highest code
    last: npt.NDArray[np.int64]  # [6], the code found last
    words: npt.NDArray[np.int64]  # [6, NAMES_MAX, NAME_WORDS]
    scratch: npt.NDArray[np.int64]  # [NAME_WORDS]


def new_arrays(rows_max: int) -> Arrays:
    """Zeroed room for `rows_max` rows."""
    int64 = [np.zeros(rows_max, np.int64) for _ in range(10)]
    return Arrays(
        line=int64[0],
        offset=int64[1],
        length=int64[2],
        slow=np.zeros(rows_max, np.uint8),
        trade_id=np.zeros((rows_max, ID_BYTES), np.uint8),
        order_id=np.zeros((rows_max, ID_BYTES), np.uint8),
        leg=np.zeros(rows_max, np.uint16),
        side=np.zeros(rows_max, np.int8),
        qty=int64[3],
        qty_digits=int64[4],
        price=int64[5],
        price_digits=int64[6],
        fee=int64[7],
        fee_digits=int64[8],
        has_fee=np.zeros(rows_max, np.bool_),
        trade_time_ns=int64[9],
        business_date=np.zeros(rows_max, np.int32),
        settle_date=np.zeros(rows_max, np.int32),
        has_detail=np.zeros(rows_max, np.bool_),
        names=np.zeros((rows_max, len(Name)), np.int32),
    )


def new_names() -> NameTables:
    """Empty dictionaries."""
    return NameTables(
        table=np.zeros((len(Name), TABLE_SIZE), np.int32),
        counts=np.zeros(len(Name), np.int64),
        last=np.zeros(len(Name), np.int64),
        words=np.zeros((len(Name), NAMES_MAX, NAME_WORDS), np.int64),
        scratch=np.zeros(NAME_WORDS, np.int64),
    )


# Codes that kernels compare with; numba takes module-level integers as constants.
_CELL_NAMES_LAST = int(Cell.VENUE)
_CELL_TRADE_ID, _CELL_LEG, _CELL_KIND, _CELL_SIDE = int(Cell.TRADE_ID), int(Cell.LEG), int(Cell.KIND), int(Cell.SIDE)
_CELL_QUANTITY, _CELL_PRICE, _CELL_FEE, _CELL_TIME = int(Cell.QUANTITY), int(Cell.PRICE), int(Cell.FEE), int(Cell.TRADE_TIME)
_CELL_BUSINESS_DATE, _CELL_SETTLE_DATE, _CELL_ORDER_ID = int(Cell.BUSINESS_DATE), int(Cell.SETTLE_DATE), int(Cell.ORDER_ID)
_CELL_DETAIL, _CELL_SLOW, _CELL_ROW = int(Cell.DETAIL), int(Cell.SLOW), int(Cell.ROW)
_CELL_PRINT_ID, _CELL_PRINT_TIME = int(Cell.PRINT_ID), int(Cell.PRINT_TIME)
_CELL_PRINT_SIDE, _CELL_PRINT_MAKER, _CELL_INSTRUMENT = int(Cell.PRINT_SIDE), int(Cell.PRINT_MAKER), int(Cell.INSTRUMENT)
_BOOK, _INSTRUMENT, _FEE_CURRENCY = int(Name.BOOK), int(Name.INSTRUMENT), int(Name.FEE_CURRENCY)

_COMMA, _QUOTE, _LF, _CR, _TAB, _BLANK = 44, 34, 10, 13, 9, 32
_DOT, _MINUS, _ZERO, _NINE = 46, 45, 48, 57
_UPPER_T, _UPPER_Z, _COLON = 84, 90, 58

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.int64]

# What split_line says of a line.
PLAIN, BLANK_LINE, ODD, QUOTED = 0, 1, 2, 3


@njit(cache=True)
def split_line(data: Bytes, start: int, columns_count: int, begins: Words, ends: Words) -> tuple[int, int, int]:
    """Split the line at `start` (data: uint8[bytes]) into cells begins[i] .. ends[i] (int64[columns_count]), blanks around them left out.

    Returns (PLAIN, BLANK_LINE, ODD or QUOTED; the line's end without its CR LF or LF; where the next line begins). ODD: a character outside
    printable ASCII, a quote within a quoted cell, or not columns_count cells. QUOTED: a quote that does not close in its line or stands
    elsewhere; where such a record ends is not said.
    """
    total = data.size
    outcome = PLAIN
    at = start
    column = 0
    blank = True
    cell_begin = start
    while True:
        if at < total and data[at] == _QUOTE and at == cell_begin:
            close = at + 1
            while close < total and data[close] != _LF:
                if data[close] == _QUOTE:
                    if close + 1 >= total or data[close + 1] != _QUOTE:
                        break
                    outcome = ODD  # a quote within a quoted cell: the slow way takes it out
                    close += 1
                elif data[close] < 32 or data[close] > 126:
                    outcome = ODD
                close += 1
            if close >= total or data[close] != _QUOTE:
                return QUOTED, start, start
            after = close + 1
            ends_line = after >= total or data[after] == _LF or (data[after] == _CR and after + 1 < total and data[after + 1] == _LF)
            if not ends_line and data[after] != _COMMA:
                return QUOTED, start, start
            blank = False
            cell_begin, cell_end = at + 1, close
            at = after
        else:
            while at < total and data[at] != _COMMA and data[at] != _LF:
                character = data[at]
                if character < 32 or character > 126:
                    if not (character == _CR and at + 1 < total and data[at + 1] == _LF):
                        outcome = ODD
                elif character == _QUOTE:
                    return QUOTED, start, start
                if character != _BLANK and (character < 9 or character > 13):
                    blank = False
                at += 1
            cell_end = at
            if at < total and data[at] == _LF and cell_end > start and data[cell_end - 1] == _CR:
                cell_end -= 1
        if column < columns_count:
            while cell_begin < cell_end and (data[cell_begin] == _BLANK or data[cell_begin] == _TAB):
                cell_begin += 1
            while cell_end > cell_begin and (data[cell_end - 1] == _BLANK or data[cell_end - 1] == _TAB):
                cell_end -= 1
            begins[column], ends[column] = cell_begin, cell_end
        column += 1
        if at < total and data[at] == _CR:  # only behind a closing quote, and then LF follows
            at += 1
        if at < total and data[at] == _COMMA:
            blank = False
            at += 1
            cell_begin = at
            continue
        break
    end = at
    if at < total:
        if end > start and data[end - 1] == _CR:
            end -= 1
        at += 1
    if blank:
        return BLANK_LINE, end, at
    if column != columns_count or end - start > ROW_BYTES_MAX:
        outcome = ODD
    return outcome, end, at


@njit(cache=True)
def parse_decimal(data: Bytes, begin: int, end: int) -> tuple[bool, int, int]:
    """(good, mantissa, digits) of a plain decimal of up to 18 significant digits, trailing zeros of the fraction gone."""
    at = begin
    negative = at < end and data[at] == _MINUS
    if negative:
        at += 1
    mantissa = 0
    significant = 0
    digits = 0
    seen_dot = False
    seen_digit = False
    while at < end:
        character = int(data[at])
        if character == _DOT and not seen_dot:
            seen_dot = True
        elif _ZERO <= character <= _NINE:
            seen_digit = True
            if significant > 0 or character != _ZERO:
                significant += 1
            if significant > MANTISSA_DIGITS_MAX or digits >= 18:
                return False, 0, 0
            mantissa = mantissa * 10 + (character - _ZERO)
            if seen_dot:
                digits += 1
        else:
            return False, 0, 0
        at += 1
    if not seen_digit:
        return False, 0, 0
    while digits > 0 and mantissa % 10 == 0:
        mantissa //= 10
        digits -= 1
    return True, -mantissa if negative else mantissa, digits


@njit(cache=True)
def parse_count(data: Bytes, begin: int, end: int, digits_max: int) -> tuple[bool, int]:
    """(good, value) of a cell of 1 to `digits_max` <= 18 digits."""
    if end <= begin or end - begin > digits_max:
        return False, 0
    value = 0
    for at in range(begin, end):
        character = int(data[at])
        if character < _ZERO or character > _NINE:
            return False, 0
        value = value * 10 + (character - _ZERO)
    return True, value


@njit(cache=True)
def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 of a date of the Gregorian calendar. Source: H. Hinnant, chrono-compatible low-level date algorithms."""
    if month <= 2:
        year -= 1
    era = year // 400
    year_of_era = year - era * 400
    shifted = month - 3 if month > 2 else month + 9
    day_of_year = (153 * shifted + 2) // 5 + day - 1
    return era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468


@njit(cache=True)
def parse_iso_date(data: Bytes, begin: int, end: int) -> tuple[bool, int]:
    """(good, days since 1970-01-01) of YYYY-MM-DD, years 1970 to 2261."""
    if end - begin != 10 or data[begin + 4] != _MINUS or data[begin + 7] != _MINUS:
        return False, 0
    good_year, year = parse_count(data, begin, begin + 4, 4)
    good_month, month = parse_count(data, begin + 5, begin + 7, 2)
    good_day, day = parse_count(data, begin + 8, begin + 10, 2)
    if not (good_year and good_month and good_day):
        return False, 0
    if year < TIME_YEAR_MIN or year > TIME_YEAR_MAX or month < 1 or month > 12 or day < 1:
        return False, 0
    longest = 31
    if month == 4 or month == 6 or month == 9 or month == 11:
        longest = 30
    elif month == 2:
        longest = 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    if day > longest:
        return False, 0
    return True, days_from_civil(year, month, day)


@njit(cache=True)
def parse_utc_time(data: Bytes, begin: int, end: int, assumed_utc: bool) -> tuple[bool, int]:
    """(good, ns) of YYYY-MM-DDTHH:MM:SS with 0 to 9 fractional digits and Z; the Z may be missing where `assumed_utc`."""
    if end - begin < 19 or (data[begin + 10] != _UPPER_T and data[begin + 10] != _BLANK):
        return False, 0
    good_date, days = parse_iso_date(data, begin, begin + 10)
    good_hour, hour = parse_count(data, begin + 11, begin + 13, 2)
    good_minute, minute = parse_count(data, begin + 14, begin + 16, 2)
    good_second, second = parse_count(data, begin + 17, begin + 19, 2)
    if not (good_date and good_hour and good_minute and good_second) or data[begin + 13] != _COLON or data[begin + 16] != _COLON:
        return False, 0
    if hour > 23 or minute > 59 or second > 59:
        return False, 0
    last = end
    if data[end - 1] == _UPPER_Z:
        last = end - 1
    elif not assumed_utc:
        return False, 0
    fraction = 0
    if last != begin + 19:
        good_fraction, fraction = parse_count(data, begin + 20, last, 9)
        if not good_fraction or data[begin + 19] != _DOT:
            return False, 0
        fraction *= POWERS_OF_TEN[9 - (last - begin - 20)]
    return True, (days * 86_400 + hour * 3600 + minute * 60 + second) * 1_000_000_000 + fraction


@njit(cache=True)
def parse_since_1970(data: Bytes, begin: int, end: int) -> tuple[bool, int]:
    """(good, ns) of a count of milliseconds, or of microseconds where it has 16 digits."""
    good, value = parse_count(data, begin, end, 18)
    if not good:
        return False, 0
    if end - begin >= 16:
        return value <= MICROSECONDS_MAX - 1, value * 1000 if value < MICROSECONDS_MAX else 0
    return value <= MILLISECONDS_MAX - 1, value * 1_000_000 if value < MILLISECONDS_MAX else 0


@njit(cache=True)
def is_word(data: Bytes, begin: int, end: int, word: Bytes) -> bool:
    """Whether the cell is `word` (uint8[letters], upper case), in any case."""
    if end - begin != word.size:
        return False
    for place in range(word.size):
        character = data[begin + place]
        if 97 <= character <= 122:
            character = np.uint8(character - 32)
        if character != word[place]:
            return False
    return True


@njit(cache=True)
def is_exact(data: Bytes, begin: int, end: int, word: Bytes) -> bool:
    """Whether the cell is `word` (uint8[letters]) to the letter."""
    if end - begin != word.size:
        return False
    for place in range(word.size):
        if data[begin + place] != word[place]:
            return False
    return True


@njit(cache=True)
def intern(data: Bytes, begin: int, end: int, column: int, names: NameTables) -> int:
    """The code of a name in dictionary `column` (names: NameTables), a new one where it is new; 0 for "", -1 where it has no room."""
    count = end - begin
    if count == 0:
        return 0
    if count > NAME_BYTES_MAX:
        return -1
    wanted = names.scratch
    for word in range(NAME_WORDS):
        packed = np.int64(0)
        for place in range(8 * word, min(8 * word + 8, count)):
            packed |= np.int64(data[begin + place]) << (8 * (place - 8 * word))
        wanted[word] = packed
    code = int(names.last[column])
    if code != 0 and _same_words(wanted, names.words, column, code):
        return code
    slot = hash_words(wanted, 0, NAME_WORDS, column) & (TABLE_SIZE - 1)
    while True:
        code = int(names.table[column, slot])
        if code == 0:
            break
        if _same_words(wanted, names.words, column, code):
            names.last[column] = code
            return code
        slot = (slot + 1) & (TABLE_SIZE - 1)
    code = int(names.counts[column]) + 1
    if code >= NAMES_MAX:
        return -1
    names.counts[column] = code
    for word in range(NAME_WORDS):
        names.words[column, code, word] = wanted[word]
    names.table[column, slot] = code
    names.last[column] = code
    return code


@njit(cache=True)
def _same_words(wanted: Words, words: Words, column: int, code: int) -> bool:
    for word in range(NAME_WORDS):
        if wanted[word] != words[column, code, word]:
            return False
    return True


@njit(cache=True)
def copy_id(data: Bytes, begin: int, end: int, target: Bytes, row: int) -> bool:
    """Copy a cell of 0 to 40 bytes to target[row] (uint8[rows, 40]); whether it fits."""
    count = end - begin
    if count > ID_BYTES:
        return False
    for place in range(ID_BYTES):
        target[row, place] = data[begin + place] if place < count else 0
    return True


_BUY = np.frombuffer(b"BUY", np.uint8)
_SELL = np.frombuffer(b"SELL", np.uint8)
_TRADE = np.frombuffer(b"TRADE", np.uint8)
_TRUE = np.frombuffer(b"TRUE", np.uint8)
_FALSE = np.frombuffer(b"FALSE", np.uint8)


@njit(cache=True)
def read_cells(
    data: Bytes, begins: Words, ends: Words, cells: Words, row: int, assumed_utc: bool, book_codes: Words, out: Arrays, names: NameTables
) -> int:
    """Fill row `row` of `out` (Arrays) from its cells; 0, or the Cell that sends it the slow way.

    cells: int64[columns], Cell codes. book_codes: int64[books], where a print goes by its number modulo their count; empty otherwise.
    """
    has_id = has_quantity = has_price = has_time = False
    for column in range(cells.size):
        cell = cells[column]
        begin, end = begins[column], ends[column]
        if cell == 0 or (begin == end and cell != _CELL_SIDE and cell != _CELL_INSTRUMENT):
            continue
        good = True
        if cell <= _CELL_NAMES_LAST:
            code = intern(data, begin, end, cell - 1, names)
            out.names[row, cell - 1] = max(code, 0)
            good = code >= 0
        elif cell == _CELL_QUANTITY:
            good, out.qty[row], out.qty_digits[row] = parse_decimal(data, begin, end)
            has_quantity = True
        elif cell == _CELL_PRICE:
            good, out.price[row], out.price_digits[row] = parse_decimal(data, begin, end)
            has_price = True
        elif cell == _CELL_FEE:
            good, out.fee[row], out.fee_digits[row] = parse_decimal(data, begin, end)
            out.has_fee[row] = True
        elif cell == _CELL_SIDE:
            out.side[row] = 1 if is_exact(data, begin, end, _BUY) else -1
            good = out.side[row] == 1 or is_exact(data, begin, end, _SELL)
        elif cell == _CELL_TIME:
            good, out.trade_time_ns[row] = parse_utc_time(data, begin, end, assumed_utc)
            has_time = True
        elif cell == _CELL_TRADE_ID:
            good = copy_id(data, begin, end, out.trade_id, row)
            has_id = True
        elif cell == _CELL_ORDER_ID:
            good = copy_id(data, begin, end, out.order_id, row)
        elif cell == _CELL_BUSINESS_DATE:
            good, days = parse_iso_date(data, begin, end)
            out.business_date[row] = days
        elif cell == _CELL_SETTLE_DATE:
            good, days = parse_iso_date(data, begin, end)
            out.settle_date[row] = days
        elif cell == _CELL_LEG:
            good, leg = parse_count(data, begin, end, 5)
            out.leg[row] = leg & 0xFFFF
            good = good and leg <= 0xFFFF
        elif cell == _CELL_KIND:
            good = is_exact(data, begin, end, _TRADE)
        elif cell == _CELL_DETAIL:
            out.has_detail[row] = True
        elif cell == _CELL_PRINT_ID:
            good, number = parse_count(data, begin, end, 18)
            copy_id(data, begin, end, out.trade_id, row)
            if book_codes.size > 0:
                out.names[row, _BOOK] = book_codes[number % book_codes.size]
            has_id = True
        elif cell == _CELL_PRINT_TIME:
            good, out.trade_time_ns[row] = parse_since_1970(data, begin, end)
            has_time = True
        elif cell == _CELL_PRINT_SIDE:
            out.side[row] = 1 if is_word(data, begin, end, _BUY) else -1
            good = out.side[row] == 1 or is_word(data, begin, end, _SELL)
        elif cell == _CELL_PRINT_MAKER:
            out.side[row] = 1 if is_word(data, begin, end, _FALSE) else -1
            good = out.side[row] == 1 or is_word(data, begin, end, _TRUE)
        else:
            good = False
        if not good:
            return int(cell)
    if out.side[row] == 0 or out.names[row, _INSTRUMENT] == 0 or not (has_id and has_quantity and has_price and has_time):
        return _CELL_ROW
    if out.has_fee[row] and out.names[row, _FEE_CURRENCY] == 0:
        return _CELL_FEE
    return 0


@njit(cache=True)
def print_fee(row: int, out: Arrays) -> bool:
    """The fee of a print, 0.001 x price x quantity, into row `row` of `out`; whether it fits."""
    fee, overflow = mul_64_checked(out.qty[row], out.price[row])
    digits = out.qty_digits[row] + out.price_digits[row] + 3
    if overflow != 0:
        return False
    while digits > 0 and fee % 10 == 0:
        fee //= 10
        digits -= 1
    out.fee[row], out.fee_digits[row], out.has_fee[row] = fee, digits, True
    return bool(digits <= 18)


@njit(cache=True)
def scan_rows(
    data: Bytes,
    start: int,
    line: int,
    cells: Words,
    constants: Words,
    prints: bool,
    assumed_utc: bool,
    book_codes: Words,
    first_row: int,
    rows_max: int,
    out: Arrays,
    names: NameTables,
    begins: Words,
    ends: Words,
) -> tuple[int, int, int, bool]:
    """Read rows first_row .. rows_max - 1 of `out` (Arrays) from the lines at byte `start`, whose first one has the number `line`.

    data: uint8[bytes], the whole file. cells: int64[columns]. constants: int64[6], codes of names that the file does not say.
    prints: whether fees are made by the rule of prints. begins, ends: int64[columns], room. Returns (the row behind the last one
    filled, the byte and the line where reading goes on, whether that is a record with quotes that only the slow way can read).
    """
    row = first_row
    at = start
    while row < rows_max and at < data.size:
        outcome, end, following = split_line(data, at, cells.size, begins, ends)
        if outcome == QUOTED:
            return row, at, line, True
        if outcome != BLANK_LINE:
            out.line[row], out.offset[row], out.length[row] = line, at, end - at
            out.leg[row], out.side[row], out.has_fee[row], out.has_detail[row] = 0, 0, False, False
            out.fee[row], out.fee_digits[row] = 0, 0
            out.business_date[row] = out.settle_date[row] = DATE_NONE
            for place in range(ID_BYTES):
                out.order_id[row, place] = 0
            for name in range(constants.size):
                out.names[row, name] = constants[name]
            if outcome == ODD:
                out.slow[row] = _CELL_ROW
            else:
                slow = read_cells(data, begins, ends, cells, row, assumed_utc, book_codes, out, names)
                if slow == 0 and prints and not print_fee(row, out):
                    slow = _CELL_FEE
                out.slow[row] = slow
            row += 1
        at = following
        line += 1
    return row, at, line, False


@njit(cache=True)
def rescale(mantissa: Words, digits: Words, codes: npt.NDArray[np.int32], scales: Words, slow: Bytes, cell: int, raw: Words) -> None:
    """raw[i] = mantissa[i] x 10**(scale - digits[i]) with the scale of codes[i]; what does not fit exactly goes the slow way.

    mantissa, digits, raw: int64[rows]; codes: int32[rows]; scales: int64[codes], -1 for a name that is not known; slow: uint8[rows], set
    to `cell` where the number does not fit. Rows that are slow already are left alone.
    """
    for row in range(mantissa.size):
        if slow[row] != 0:
            continue
        scale = scales[codes[row]]
        spare = scale - digits[row]
        overflow = 1
        if scale >= 0 and 0 <= spare <= 18:
            raw[row], overflow = mul_64_checked(mantissa[row], POWERS_OF_TEN[spare])
        if overflow != 0:
            slow[row] = cell


def bytes_of_name(names: NameTables, column: int, code: int) -> bytes:
    """The bytes behind a code."""
    found: Any = names.words[column, code].tobytes().rstrip(b"\0")
    return bytes(found)
