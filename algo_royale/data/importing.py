"""Other people's files as bars: which column is what, what its values mean, and how new bars join those there are.

Nothing here writes, and nothing is guessed silently: a `Mapping` says what was taken for what and what was left out, and every
reading that could have been another one leaves a note. A row that cannot be true is refused with its file and line.
"""

import dataclasses
import difflib
import gzip
import math
import re
from collections.abc import Iterable, Sequence
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from algo_royale.data.catalog import read_table
from algo_royale.data.quality import PRICES, row_faults, timeframe_of
from algo_royale.errors import BadInput, BadMarketData, UnknownName
from algo_royale.market import FloatArray, IntArray, Timeframe
from algo_royale.sessions import NEW_YORK, calendar, new_york_date, new_york_ns

Columns = dict[str, npt.NDArray[Any]]

# What vendors call each column, without case, spaces and signs; of several that are there the first wins.
FIELDS: AnyMapping[str, tuple[str, ...]] = {
    "timestamp": (
        "timestamp",
        "datetime",
        "date",
        "time",
        "windowstart",
        "bartime",
        "day",
        "session",
        "ts",
        "t",
        "d",
        "index",
        "indexlevel0",
        "unnamed0",
        "",
    ),
    "open": ("open", "o", "openprice", "openingprice", "first"),
    "high": ("high", "h", "highprice", "max"),
    "low": ("low", "l", "lowprice", "min"),
    "close": ("close", "c", "closeprice", "closingprice", "closelast", "last", "price"),
    "volume": ("volume", "vol", "v", "volumeshares", "sharevolume", "totalvolume", "sharestraded"),
    "vwap": ("vwap", "vw", "wap", "volumeweighted", "volumeweightedaverageprice"),
    "trade_count": ("tradecount", "trades", "n", "transactions", "numberoftrades", "count"),
    "ex_dividend": ("exdividend", "dividends", "dividend", "divcash", "dividendamount", "cashdividend"),
    "split_ratio": ("splitratio", "stocksplits", "splitfactor", "splitcoefficient", "split"),
    "symbol": ("symbol", "ticker", "sym", "secid"),
}
REQUIRED = ("timestamp", *PRICES, "volume")
ACTION_FIELDS: AnyMapping[str, tuple[str, ...]] = {
    "symbol": FIELDS["symbol"],
    "ex_date": ("exdate", "exdividenddate", "date", "effectivedate", "timestamp"),
    "split_new": ("splitnew", "splitto", "newrate", "toshares"),
    "split_old": ("splitold", "splitfrom", "oldrate", "fromshares"),
    "split_ratio": ("splitratio", "ratio", "splitfactor", "splitcoefficient", "stocksplits"),
    "ex_dividend": (
        "exdividend",
        "cashamount",
        "cash",
        "amount",
        "dividend",
        "dividends",
        "divcash",
        "dividendamount",
        "rate",
    ),
}
TICKER = re.compile(r"[A-Z][A-Z0-9.\-]{0,15}")
_NO_TICKERS = frozenset(("BAR", "BARS", "DAILY", "DATA", "HOUR", "OHLC", "OHLCV", "PRICE", "QUOTE", "STOCK", "TABLE"))
_TIMES = ("%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%b %d, %Y", "%d-%b-%Y", "%d-%b-%y", "%d.%m.%Y", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%Y%m%d %H%M%S", "%Y%m%d %H:%M:%S", "%Y.%m.%d %H:%M", "%Y.%m.%d")  # fmt: skip
_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}
_UNKNOWN = frozenset(("", "-", "N/A", "NA", "NAN", "NULL", "NONE", "."))
_NS = 1_000_000_000
_DAY_NS = 86_400 * _NS
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """Which column of a file is which of ours."""

    sources: AnyMapping[str, str]
    time_of_day: str | None
    """A column of its own for the time, beside one for the date."""
    ignored: tuple[tuple[str, str], ...]
    """Columns left out, each with the reason."""
    extra: tuple[str, ...] = ()
    """Columns of true and false, kept under their own names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """What a file holds: bars by symbol, in the file's order, checked row by row; and how that was read."""

    bars: AnyMapping[str, Columns]
    timeframe: Timeframe
    mapping: Mapping
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """Bars by rising time, each once, and how many were new, there already, and changed."""

    columns: Columns
    added: int
    same: int
    replaced: int


# --- which column is what ------------------------------------------------------------------------------------------------


def map_columns(names: Sequence[str], chosen: AnyMapping[str, str], where: str) -> Mapping:
    """Guess the mapping; `chosen` (ours -> theirs, "" for none) overrides. Raises BadInput where a needed column has no source."""
    if again := next((name for name in names if names.count(name) > 1), None):
        raise BadMarketData(f"{where}: two columns are called {again!r}")
    plain = {_plain(name): name for name in reversed(names)}
    sources: dict[str, str] = {}
    for field, source in chosen.items():
        if field not in FIELDS:
            raise UnknownName("column", field, FIELDS)
        if source and source not in names:
            near = difflib.get_close_matches(source, names, n=1)
            raise BadInput(
                f"{where}: no column {source!r} for {field}"
                + (f"; did you mean {near[0]!r}?" if near else f" among {', '.join(names)}")
            )
        if source:
            sources[field] = source
    for field, known in FIELDS.items():
        found = next((plain[name] for name in known if name in plain and plain[name] not in sources.values()), None)
        if field not in chosen and found is not None:
            sources[field] = found
    if missing := [field for field in REQUIRED if field not in sources]:
        raise BadInput(
            f"{where}: no column for {', '.join(missing)} among {', '.join(names)}; name it: --column {missing[0]}=NAME"
        )
    time = plain.get("time")
    beside = time if time not in sources.values() and _plain(sources["timestamp"]) in ("date", "day", "d") else None
    taken = {*sources.values(), beside}
    ignored = tuple(
        (name, "prices are kept as traded" if "adj" in _plain(name) else "not needed")
        for name in names
        if name not in taken
    )
    return Mapping(sources=sources, time_of_day=beside, ignored=ignored)


def symbol_of(file_name: str) -> str | None:
    """The ticker that a file's name begins with: AAPL.csv, aapl.us.txt, AAPL_daily_2012.csv.gz; None if that is no ticker."""
    stem = re.sub(r"\.(csv|txt|tsv|parquet|pq)(\.gz)?$", "", file_name, flags=re.IGNORECASE)
    word = re.split(r"[_\s(]", stem.upper())[0].removesuffix(".US")
    good = re.fullmatch(r"[A-Z]{1,5}([.\-][A-Z]{1,2})?", word) and word not in _NO_TICKERS
    return word if good else None


# --- a file as bars ------------------------------------------------------------------------------------------------------


def read_bars(
    path: Path, *, chosen: AnyMapping[str, str], symbol: str | None, timezone: str, timeframe: Timeframe | None = None
) -> Import:
    """The bars of one file.

    `symbol` overrides name and column; times without a zone are of `timezone`; `timeframe` is guessed unless given.
    Raises BadInput (what the file does not say) and BadMarketData (what it says cannot be true), naming file and line.
    """
    file = _open(path)
    mapping = map_columns(file.table.column_names, chosen, file.name)
    if file.table.num_rows == 0:
        raise BadMarketData(f"{file.name}: no rows")
    notes: list[str] = []
    columns: Columns = {}
    for name in (extra := _extra(file, mapping)):
        columns[name] = _truths(file.table[name], file, name)
    mapping = dataclasses.replace(mapping, extra=extra, ignored=tuple(i for i in mapping.ignored if i[0] not in extra))
    for field, source in mapping.sources.items():
        if field not in ("timestamp", "symbol"):
            columns[field] = _numbers(file.table[source], file, source)
    if "split_ratio" in columns:
        columns["split_ratio"][columns["split_ratio"] == 0.0] = 1.0  # yfinance writes 0 where there is no split
    time = file.table[mapping.time_of_day] if mapping.time_of_day else None
    columns["timestamp"] = _times(file.table[mapping.sources["timestamp"]], time, file, timezone, notes)
    rows = _rows_by_symbol(file, mapping, symbol)
    if timeframe is None:
        timeframe = timeframe_of(columns["timestamp"][max(rows.values(), key=len)])
    if faults := sorted(row_faults(columns, timeframe), key=lambda fault: fault.row):
        row, more = faults[0].row, f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise file.refusal(row, f"{_moment(int(columns['timestamp'][row]))}: {faults[0].what}{more}")
    _check_actions(columns, file)
    bars = {name: {field: column[mine] for field, column in columns.items()} for name, mine in rows.items()}
    if any((np.diff(part["timestamp"]) < 0).any() for part in bars.values()):
        notes.append("rows are not in order of time; sorted")
    return Import(bars=bars, timeframe=timeframe, mapping=mapping, notes=tuple(notes))


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A table with what its messages need: the file's name, and the line of its first row (None: Parquet has rows only)."""

    name: str
    table: Any
    first_line: int | None
    symbol: str | None = None
    """As its header says, where it does."""

    def refusal(self, row: int, what: str) -> BadMarketData:
        """The line as an editor shows it; a row of Parquet counts from 0."""
        place = f"row {row}" if self.first_line is None else f"line {row + self.first_line}"
        return BadMarketData(f"{self.name} {place}: {what}")


def _open(path: Path) -> _File:
    """Parquet, or text with a header line and one of , ; tab | between the columns, gzipped or not.

    yfinance writes two more header lines, with the ticker and the name of the index: those are understood too.
    """
    if path.suffix.lower() in (".parquet", ".pq"):
        return _File(name=path.name, table=read_table(path), first_line=None)
    try:
        with path.open("rb") as file, gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file as text:
            header, second, third = (text.readline(100_000).decode("utf-8-sig") for _ in range(3))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BadMarketData(f"{path.name}: unreadable: {getattr(error, 'strerror', None) or error}") from error
    delimiter = max(",;\t|", key=header.count)
    tickers = second.strip().split(delimiter)
    if tickers[0] == "Ticker" and third.startswith(("Date", "Datetime")) and len(set(tickers)) == 2:
        table = read_table(path, delimiter=delimiter, skip=2)
        names = [third.split(delimiter)[0], *table.column_names[1:]]
        return _File(name=path.name, table=table.rename_columns(names), first_line=4, symbol=tickers[1])
    return _File(name=path.name, table=read_table(path, delimiter=delimiter), first_line=2)


def _rows_by_symbol(file: _File, mapping: Mapping, symbol: str | None) -> dict[str, IntArray]:
    """The rows of each ticker, in the file's order."""
    if symbol is None and "symbol" in mapping.sources:
        texts = file.table[mapping.sources["symbol"]].to_pylist()
        names, of_row, counts = np.unique([str(text or "") for text in texts], return_inverse=True, return_counts=True)
        groups = np.split(np.argsort(of_row, kind="stable"), np.cumsum(counts)[:-1])
        rows: dict[str, IntArray] = {}
        for text, group in zip(names.tolist(), groups, strict=True):
            name = _ticker(text)
            if not TICKER.fullmatch(name):
                raise file.refusal(int(group[0]), f"{text!r} is not a ticker")
            rows[name] = np.sort(np.append(rows.get(name, np.empty(0, np.int64)), group))
        return rows
    if (known := symbol or file.symbol or symbol_of(file.name)) is None:
        raise BadInput(f"{file.name}: which symbol? neither a column nor the file's name says; give --symbol")
    return {known: np.arange(file.table.num_rows)}


def _ticker(text: object) -> str:
    return str(text or "").strip().upper().removesuffix(".US")


def _numbers(column: Any, file: _File, source: str) -> FloatArray:
    """A column as float64, NaN where unknown. Understands $1,234.50 and 1.2M."""
    import pyarrow

    if pyarrow.types.is_null(column.type):
        return np.full(len(column), np.nan)
    if pyarrow.types.is_boolean(column.type):
        raise BadMarketData(f"{file.name}: {source} is true or false, not a number")
    if not (pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type)):
        try:
            numbers = column.cast(pyarrow.float64())
        except (pyarrow.ArrowException, ValueError) as error:
            raise BadMarketData(f"{file.name}: {source} is of type {column.type}, not a number") from error
        return np.array(np.from_dlpack(numbers.fill_null(math.nan).combine_chunks()), np.float64)
    values = []
    for row, text in enumerate(column.to_pylist()):
        try:
            values.append(_number(text or ""))
        except ValueError:
            raise file.refusal(row, f"{source} {text!r} is not a number") from None
    return np.array(values, np.float64)


def _extra(file: _File, mapping: Mapping) -> tuple[str, ...]:
    """Columns that are none of ours and hold true and false."""
    import pyarrow

    names = (name for name, _ in mapping.ignored if name not in FIELDS)
    return tuple(name for name in names if pyarrow.types.is_boolean(file.table[name].type))


def _truths(column: Any, file: _File, source: str) -> FloatArray:
    """1 for true and 0 for false; a row that says neither is refused."""
    if column.null_count:
        raise file.refusal(column.to_pylist().index(None), f"{source} is neither true nor false")
    return np.array(column.to_pylist(), np.float64)


def _number(text: str) -> float:
    text = text.strip().replace("$", "").replace(",", "").upper()
    if text in _UNKNOWN:
        return math.nan
    return float(text[:-1]) * _UNITS[text[-1]] if text[-1] in _UNITS else float(text)


# --- times ---------------------------------------------------------------------------------------------------------------


def _times(column: Any, time: Any, file: _File, timezone: str, notes: list[str]) -> IntArray:
    """Start of each bar, UTC nanoseconds. Dates, and times that only spell a date, are midnight New York of the session."""
    import pyarrow

    if column.null_count:
        raise file.refusal(column.to_pylist().index(None), "no time")
    types = pyarrow.types
    if types.is_timestamp(column.type) and column.type.tz is not None:
        return _instants(_cast(column, pyarrow.timestamp("ns", "UTC"), file), notes)
    if types.is_integer(column.type) or types.is_floating(column.type):
        numbers = _cast(column, pyarrow.int64(), file)
        if not ((numbers > 19000101) & (numbers < 21001231)).all():
            size = int(np.abs(numbers).max())
            unit = next((u for u, limit in ((_NS, 10**11), (10**6, 10**14), (10**3, 10**17)) if size < limit), 1)
            return _instants(numbers * unit, notes)
        wall = _days(numbers, file) * _DAY_NS
    elif types.is_date(column.type) or types.is_timestamp(column.type):
        wall = _cast(column, pyarrow.timestamp("ns"), file)
    else:
        parsed, aware = _parsed(column, file, notes)
        if aware:
            return _instants(parsed, notes)
        wall = parsed
    if time is not None:
        wall = wall + _time_of_day(time, file)
    if (wall % _DAY_NS == 0).all():
        return _midnights(wall // _DAY_NS)
    zone = ZoneInfo(timezone)
    notes.append(f"times have no zone; taken as {timezone}")
    return _instants(_localised(wall, zone), notes)


def _days(numbers: IntArray, file: _File) -> IntArray:
    """Days since 1970 of numbers such as 20130102."""
    out = []
    for row, number in enumerate(numbers.tolist()):
        try:
            out.append((date(number // 10000, number // 100 % 100, number % 100) - _EPOCH).days)
        except ValueError:
            raise file.refusal(row, f"{number} is not a date") from None
    return np.array(out, np.int64)


def _instants(at_ns: IntArray, notes: list[str]) -> IntArray:
    """Instants as they are, but for daily bars labelled otherwise than by midnight New York."""
    if (at_ns % _DAY_NS == 0).all():
        notes.append("times are midnight UTC; taken as the dates of sessions")
        return _midnights(at_ns // _DAY_NS)
    midnights = _midnights(np.array([(new_york_date(int(n)) - _EPOCH).days for n in _first_of_days(at_ns)], np.int64))
    if len(midnights) == len(at_ns) and (calendar().closes_ns(midnights) == at_ns).all():
        notes.append("times are the closes of sessions; taken as daily bars")
        return midnights
    return at_ns


def _first_of_days(at_ns: IntArray) -> IntArray:
    """The instants if they could be one a day, else just a few: enough to see that they are not."""
    order = np.sort(at_ns)
    return at_ns if len(order) < 2 or int(np.median(np.diff(order))) > _DAY_NS // 2 else at_ns[:1]


def _parsed(column: Any, file: _File, notes: list[str]) -> tuple[IntArray, bool]:
    """Text as nanoseconds, and whether it named its zone."""
    import pyarrow
    import pyarrow.compute as compute

    text = compute.utf8_trim_whitespace(column.cast(pyarrow.string()))
    for kind, aware in ((pyarrow.timestamp("ns"), False), (pyarrow.timestamp("ns", "UTC"), True)):
        try:
            return _int64(text.cast(kind)), aware
        except (pyarrow.ArrowException, ValueError):
            continue
    for form in _TIMES:
        try:
            parsed = _int64(compute.strptime(text, format=form, unit="s")) * _NS
        except (pyarrow.ArrowException, ValueError):
            continue
        if form.startswith("%m/%d"):
            notes.append("dates are taken as month/day/year")
        return parsed, False
    raise file.refusal(*_misread(text))


def _misread(text: Any) -> tuple[int, str]:
    """The first row that the way of writing which most rows share cannot read."""
    import pyarrow.compute as compute

    values = text.to_pylist()
    readings = [[_is_iso(value) for value in values]]
    for form in _TIMES:
        readings.append(compute.strptime(text, format=form, unit="s", error_is_null=True).is_valid().to_pylist())
    best = max(readings, key=sum)
    row = best.index(False) if any(best) and False in best else 0
    return (
        row,
        f"{values[row]!r} is not a time that is understood{', as the others are' if any(best) else ' (ISO 8601 is)'}",
    )


def _is_iso(value: str) -> bool:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _time_of_day(column: Any, file: _File) -> IntArray:
    """Nanoseconds since midnight: times, HHMM or HHMMSS numbers."""
    import pyarrow

    values = column.to_pylist()
    if pyarrow.types.is_integer(column.type):
        seconds = max(values) > 2400
        values = [f"{value:06d}" if seconds else f"{value:04d}00" for value in values]
    elif pyarrow.types.is_time(column.type):
        values = [value.strftime("%H%M%S") for value in values]
    out = []
    for row, value in enumerate(values):
        digits = re.fullmatch(r"(\d\d?):?(\d\d):?(\d\d)?", str(value).strip())
        if digits is None or int(digits[1]) > 23 or int(digits[2]) > 59:
            raise file.refusal(row, "no time of day" if value is None else f"{value!r} is not a time of day")
        out.append((int(digits[1]) * 3600 + int(digits[2]) * 60 + int(digits[3] or 0)) * _NS)
    return np.array(out, np.int64)


def _localised(wall_ns: IntArray, zone: ZoneInfo) -> IntArray:
    """Wall-clock nanoseconds of a zone as UTC; an hour that occurs twice is its first."""
    hours, of = np.unique(wall_ns // (3600 * _NS), return_inverse=True)
    offsets = []
    for hour in hours.tolist():
        offset = (datetime.fromtimestamp(hour * 3600, UTC)).replace(tzinfo=zone).utcoffset()
        offsets.append(int(offset.total_seconds()) if offset is not None else 0)
    return wall_ns - np.array(offsets, np.int64)[of] * _NS


def _midnights(days: IntArray) -> IntArray:
    return _localised(days * _DAY_NS, NEW_YORK)


def _int64(column: Any) -> IntArray:
    import pyarrow

    return np.array(np.from_dlpack(column.cast(pyarrow.int64()).combine_chunks()), np.int64)


def _cast(column: Any, kind: Any, file: _File) -> IntArray:
    """Times or numbers as another kind of them, nanoseconds or whole numbers; refuses the row that does not fit."""
    import pyarrow

    try:
        return _int64(column.cast(kind))
    except pyarrow.ArrowException:
        for row, value in enumerate(column.to_pylist()):
            try:
                pyarrow.array([value], column.type).cast(kind)
            except pyarrow.ArrowException:
                raise file.refusal(row, f"{value} is not a time") from None
        raise


# --- joining -------------------------------------------------------------------------------------------------------------


def merge(symbol: str, old: Columns | None, new: Columns, *, replace: bool) -> Merged:
    """`old` (by rising time, each once; None for nothing yet) with `new`, in any order and perhaps repeating itself.

    A bar that is there already and says the same is dropped; what one of the two does not know, the other fills in. Raises
    BadMarketData where they contradict each other, unless `replace`: then the later one wins.
    """
    columns = old
    added = same = replaced = 0
    rest = np.arange(len(new["timestamp"]))
    while len(rest):
        _, first = np.unique(new["timestamp"][rest], return_index=True)
        part = {name: column[rest[first]] for name, column in new.items()}
        rest = np.delete(rest, first)
        if columns is None:
            columns, added = part, len(first)
            continue
        columns, counts = _join(symbol, columns, part, replace=replace)
        added, same, replaced = added + counts[0], same + counts[1], replaced + counts[2]
    return Merged(columns=columns or dict(new), added=added, same=same, replaced=replaced)


def _join(symbol: str, old: Columns, new: Columns, *, replace: bool) -> tuple[Columns, tuple[int, int, int]]:
    times = np.union1d(old["timestamp"], new["timestamp"])
    at_old, at_new = np.searchsorted(times, old["timestamp"]), np.searchsorted(times, new["timestamp"])
    both = np.intersect1d(at_old, at_new)
    mine: Columns = {}
    theirs: Columns = {}
    for name in dict.fromkeys((*old, *new)):
        for side, at, wide in ((old, at_old, mine), (new, at_new, theirs)):
            wide[name] = np.full(len(times), np.nan)
            if name in side and name != "timestamp":
                wide[name][at] = side[name]
    changed = np.zeros(len(times), bool)
    for name in mine:
        apart = (
            ~np.isclose(mine[name], theirs[name], rtol=1e-9, atol=0, equal_nan=True)
            & ~np.isnan(mine[name])
            & ~np.isnan(theirs[name])
        )
        if apart.any() and not replace:
            row = int(np.argmax(apart))
            raise BadMarketData(
                f"{symbol} {_moment(int(times[row]))}: {name} {theirs[name][row]:g} contradicts {mine[name][row]:g}, which is there "
                f"already ({int(apart.sum())} such); --replace takes the new one"
            )
        changed |= apart
    out: Columns = {"timestamp": times}
    for name in (n for n in mine if n != "timestamp"):
        stale = changed & np.isin(name, ("vwap", "trade_count"))  # belongs to the bar that is replaced
        out[name] = np.where(np.isnan(theirs[name]) & ~stale, mine[name], theirs[name])
    replaced = int(changed.sum())
    return out, (len(times) - len(at_old), len(both) - replaced, replaced)


# --- actions -------------------------------------------------------------------------------------------------------------


def read_actions(path: Path) -> dict[str, list[tuple[date, float, float]]]:
    """Ex-date, split ratio and cash of every action of a file, by symbol. Raises BadInput and BadMarketData as `read_bars`."""
    file = _open(path)
    table = file.table
    plain = {_plain(name): name for name in reversed(table.column_names)}
    sources = {
        field: next((plain[name] for name in known if name in plain), None) for field, known in ACTION_FIELDS.items()
    }
    missing = [field for field in ("symbol", "ex_date") if sources[field] is None]
    if not any(sources[field] for field in ("split_new", "split_ratio", "ex_dividend")):
        missing.append("split_ratio or ex_dividend")
    if missing:
        raise BadInput(f"{file.name}: no column for {', '.join(missing)} among {', '.join(table.column_names)}")
    unknown = np.full(table.num_rows, np.nan)
    numbers = {
        field: unknown if source is None else _numbers(table[source], file, source)
        for field, source in sources.items()
        if field not in ("symbol", "ex_date")
    }
    days = _times(table[sources["ex_date"]], None, file, "America/New_York", [])
    found: dict[str, list[tuple[date, float, float]]] = {}
    for row, text in enumerate(table[sources["symbol"]].to_pylist()):
        name = _ticker(text)
        new, old, ratio, cash = (
            float(numbers[field][row]) for field in ("split_new", "split_old", "split_ratio", "ex_dividend")
        )
        ratio = new / old if old > 0 and not math.isnan(new) else ratio
        ratio, cash = (1.0 if math.isnan(ratio) or ratio == 0 else ratio), (0.0 if math.isnan(cash) else cash)
        if not (0 < ratio < math.inf and 0 <= cash < math.inf) or not TICKER.fullmatch(name):
            raise file.refusal(row, f"{name}: split ratio {ratio:g}, dividend {cash:g}")
        found.setdefault(name, []).append((new_york_date(int(days[row])), ratio, cash))
    return found


def add_actions(
    symbol: str, columns: Columns, actions: Iterable[tuple[date, float, float]], *, replace: bool
) -> tuple[Columns, list[str]]:
    """The bars with their actions in the rows of the ex-dates, and what is worth saying about it.

    With `replace` they are all there are, and those there were are gone. An ex-date without a bar acts at the next bar. Actions
    before the first bar and after the last have no effect and are left out.
    """
    times: IntArray = columns["timestamp"]
    unknown = np.full(len(times), np.nan)
    wanted: dict[int, tuple[float, float]] = {}
    notes, outside = [], 0
    for day, ratio, cash in sorted(actions):
        row = int(np.searchsorted(times, new_york_ns(day)))
        if row == len(times) or day < new_york_date(int(times[0])):
            outside += 1
            continue
        if (acts := new_york_date(int(times[row]))) != day:
            notes.append(f"{symbol}: the action of {day} acts on {acts}, the next bar there is")
        more = wanted.get(row, (1.0, 0.0))
        wanted[row] = (more[0] * ratio, more[1] + cash)
    out = dict(columns)
    for name, place, nothing in (("split_ratio", 0, 1.0), ("ex_dividend", 1, 0.0)):
        there = unknown if replace else columns.get(name, unknown)
        out[name] = np.where(np.isnan(there), nothing, there)
        for row, values in wanted.items():
            known = float(out[name][row])
            if known not in (nothing, values[place]) and values[place] != nothing:
                raise BadMarketData(
                    f"{symbol} {_moment(int(times[row]))}: {name} {values[place]:g} contradicts {known:g}, which is there already; "
                    "--replace takes the new one"
                )
            out[name][row] = values[place] if values[place] != nothing else known
    if outside:
        notes.append(
            f"{symbol}: {outside} action{'s' if outside > 1 else ''} outside {new_york_date(int(times[0]))}..{new_york_date(int(times[-1]))} left out"
        )
    return out, notes


def _check_actions(columns: Columns, file: _File) -> None:
    for name in ("split_ratio", "ex_dividend"):
        if name in columns:
            values = columns[name]
            wrong = (values < 0) | np.isinf(values)
            if wrong.any():
                row = int(np.argmax(wrong))
                raise file.refusal(row, f"{_moment(int(columns['timestamp'][row]))}: {name} {values[row]:g}")


def _moment(at_ns: int) -> str:
    """A session's date for a daily bar's label, else the instant."""
    day = new_york_date(at_ns)
    return str(day) if new_york_ns(day) == at_ns else f"{np.datetime64(at_ns, 'ns').astype('datetime64[s]')}Z"


def _plain(name: str) -> str:
    """Lower case letters and digits: '<DATE>', '1. open' and 'Adj Close' are date, open and adjclose."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"^\d+\.\s*", "", name.strip().lower()))
