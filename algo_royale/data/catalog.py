"""The bar catalogue: raw bars and corporate actions by symbol, checked where they enter and never repaired.

A source is the bundled file or a folder. A folder keeps `<timeframe>/<SYMBOL>.parquet`, which is what our own commands write, or
`<SYMBOL>.parquet`, `<SYMBOL>.csv` or `<SYMBOL>.csv.gz` of whatever length of bar, or both; of two files of the same bars the one in
the timeframe's own folder counts. Columns: `timestamp, open, high, low, close, volume` and, where known, `vwap, trade_count,
ex_dividend, split_ratio`. `timestamp` is the start of the bar in UTC; a plain date is midnight New York, as Alpaca labels daily bars.
Prices are as traded, in US dollars. Any other column of true and false is an extra one (`Bars.extra`).

`symbol_changes.csv` in the folder says who was called what: opened under its new name, a share has its own file's bars and, before the
day of the change, those of the old name that its own file does not have.
"""

import hashlib
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from algo_royale.data.adjust import forward_adjusted
from algo_royale.data.quality import timeframe_of
from algo_royale.errors import BadInput, BadMarketData, InsufficientHistory, UnknownName
from algo_royale.market import Bars, BoolArray, CorporateAction, FloatArray, IntArray, SymbolChange, Timeframe
from algo_royale.sessions import calendar, new_york_date, new_york_ns

BUNDLED = Path(__file__).parent / "bundled.parquet"
CHANGES = "symbol_changes.csv"
_PRICES = ("open", "high", "low", "close")
_REQUIRED = ("timestamp", *_PRICES, "volume")
_OPTIONAL = ("vwap", "trade_count", "ex_dividend", "split_ratio")
_KNOWN = (*_REQUIRED, *_OPTIONAL, "symbol")
_SUFFIXES = (".parquet", ".csv", ".csv.gz")
_NS = 1_000_000_000
_END_NS = 2**62
_READ_MAX = 8
"""Files whose raw columns stay in memory: enough for a command that looks at one symbol after the other."""

Columns = Mapping[str, npt.NDArray[Any]]
Kept = Mapping[str, Collection[Timeframe | None]]
"""What there is of each symbol: bars of these lengths; None is a file that does not say."""
Read = Callable[[str, Timeframe | None], tuple[str, Columns]]


class Catalog:
    """Bars and actions of a source. Bars are made once per symbol and timeframe; the arrays are read-only and shared between calls."""

    def __init__(
        self, name: str, kept: Kept, read: Read, changes: Sequence[SymbolChange] = (),
        files: Callable[[str], Iterable[Path]] = lambda symbol: (),
    ) -> None:  # fmt: skip
        """`read(symbol, one of its `kept`)` gives a label for error messages and the raw columns; `files(symbol)` is where from."""
        self.name = name
        self._kept = dict(kept)
        self._files = files
        self._changes = tuple(changes)
        renamed = {c.new for c in changes if c.old in kept and not any(d.old == c.new for d in changes)}
        self._symbols = tuple(sorted({*kept, *renamed}))
        self._read = lru_cache(maxsize=_READ_MAX)(read)
        self._series = lru_cache(maxsize=None)(self._load)
        self._known_actions = lru_cache(maxsize=None)(self._load_actions)

    def symbols(self, timeframe: Timeframe | None = None) -> tuple[str, ...]:
        """All of them, or those that may have bars of that length (all again, if none has)."""
        holding = () if timeframe is None else tuple(s for s in self._symbols if self.holds(s, timeframe))
        return holding or self._symbols

    def timeframes(self, symbol: str) -> tuple[Timeframe, ...]:
        """Lengths of bars that there are of a symbol, shortest first; a file that does not say is asked what its bars look like."""
        self._known(symbol)
        kept = {which for name, _ in self._pieces(symbol) for which in self._kept.get(name, ())}
        found = {t or timeframe_of(_starts(*self.columns(symbol))) for t in kept}
        return tuple(t for t in Timeframe if t in found)

    def holds(self, symbol: str, timeframe: Timeframe) -> bool:
        """Whether there is a file that may have bars of that length."""
        self._known(symbol)
        return any(len(self._file_of(name, timeframe)) for name, _ in self._pieces(symbol))

    def columns(self, symbol: str, timeframe: Timeframe | None = None) -> tuple[str, Columns]:
        """A label for messages and the symbol's columns as they are in the file: not in order, not checked.

        `timeframe` None: of the file that does not say, or else the longest bars. Raises UnknownName, BadMarketData, BadInput where
        there are no bars of that length.
        """
        self._known(symbol)
        parts = []
        for name, until in self._pieces(symbol):
            for which in self._file_of(name, timeframe):
                parts.append(_Part(*self._read(name, which), until))
        if not parts:
            there = ", ".join(t.value for t in self.timeframes(symbol))
            wanted = "" if timeframe is None else f"{timeframe.value} "
            raise BadInput(
                f"no {wanted}bars of {symbol} in {self.name}, only {there}; `data resample` makes longer bars of shorter ones"
            )
        return _joined(parts)

    def bars(self, symbol: str, timeframe: Timeframe, start: date | None = None, end: date | None = None) -> Bars:
        """Raw bars of the sessions start <= date <= end, oldest first.

        Raises UnknownName, BadMarketData (naming file and row), BadInput where there are no bars of that length,
        InsufficientHistory when there is not one in the range.
        """
        self._known(symbol)
        bars = self._series(symbol, timeframe)
        low = new_york_ns(start) if start else int(bars.start_ns[0])
        high = new_york_ns(end + timedelta(days=1)) if end else int(bars.start_ns[-1]) + 1
        chosen = bars.between(low, high)
        if len(chosen) == 0:
            first, last = (new_york_date(int(bars.start_ns[i])) for i in (0, -1))
            raise InsufficientHistory(
                f"no {timeframe.value} bars of {symbol} in {start}..{end}: {self.name} has {first}..{last}"
            )
        return chosen

    def actions(self, symbol: str) -> tuple[CorporateAction, ...]:
        """Splits and cash dividends, oldest first. Of several lengths of bars, the longest that record any are believed."""
        self._known(symbol)
        return self._known_actions(symbol)

    def adjusted(self, symbol: str, timeframe: Timeframe) -> Bars:
        """The whole series, forward-adjusted from its first bar."""
        self._known(symbol)
        return forward_adjusted(self._series(symbol, timeframe), self.actions(symbol))

    def fingerprint(self, symbols: Iterable[str], timeframe: Timeframe, adjustment: str = "forward") -> str:
        """Sha256 over the bars of the symbols in name order, as the artifacts record it (see `fingerprint`).

        `adjustment`: forward (also changes when an action changes) or raw.
        """
        series = self.adjusted if adjustment == "forward" else self.bars
        return fingerprint((series(symbol, timeframe) for symbol in sorted(set(symbols))), adjustment)

    def digest(self, symbol: str) -> str:
        """Sha256 over the files that the symbol's bars and actions come from, and over its names: equal digests, equal bars.

        Raises UnknownName, and BadMarketData where a file cannot be read.
        """
        self._known(symbol)
        whole = hashlib.sha256()
        for name, until in self._pieces(symbol):
            whole.update(f"{name} {until}\0".encode())
            for path in self._files(name):
                try:
                    with path.open("rb") as file:
                        content = hashlib.file_digest(file, "sha256").digest()
                except OSError as error:
                    raise BadMarketData(f"{path.name}: unreadable: {error.strerror or error}") from error
                whole.update(f"{path.parent.name}/{path.name}\0".encode() + content)
        return whole.hexdigest()

    def forget(self) -> None:
        """Let go of everything that was read; what is asked for again is read again."""
        for kept in (self._read, self._series, self._known_actions):
            kept.cache_clear()

    def _file_of(self, name: str, timeframe: Timeframe | None) -> Sequence[Timeframe | None]:
        """Which of the files of this name has bars of that length: one, or none."""
        kept = self._kept.get(name, ())
        if timeframe in kept or None in kept:
            return [timeframe if timeframe in kept else None]
        longest = sorted(kept, key=lambda t: t.minutes if t else 0)[-1:]
        return longest if timeframe is None else []

    def _pieces(self, symbol: str) -> list[tuple[str, int]]:
        """Under which names the share traded, newest first, each with the end of that in UTC nanoseconds."""
        found: list[tuple[str, int]] = []
        name, until = symbol, _END_NS
        while True:
            found.append((name, until))
            earlier = [c for c in self._changes if c.new == name and new_york_ns(c.day) < until]
            if not earlier:
                return found
            change = max(earlier, key=lambda c: c.day)
            name, until = change.old, new_york_ns(change.day)

    def _load_actions(self, symbol: str) -> tuple[CorporateAction, ...]:
        names = [name for name, _ in self._pieces(symbol) if name in self._kept]
        kept = {which for name in names for which in self._kept[name]}
        for which in sorted(kept, key=lambda t: t.minutes if t else math.inf, reverse=True):
            where, columns = self.columns(symbol, which)
            if found := tuple(_actions(symbol, where, columns)):
                return found
        return ()

    def _known(self, symbol: str) -> None:
        if symbol not in self._symbols:
            raise UnknownName("symbol", symbol, self._symbols)

    def _load(self, symbol: str, timeframe: Timeframe) -> Bars:
        where, columns = self.columns(symbol, timeframe)
        for name in _REQUIRED:
            if name not in columns:
                raise BadMarketData(f"{where}: no column {name!r} (it has {', '.join(columns)})")
        starts: IntArray = columns["timestamp"]
        if len(starts) == 0:
            raise BadMarketData(f"{where}: no rows")
        unknown = np.full(len(starts), np.nan)
        counts = columns.get("trade_count", unknown)
        bars = Bars(
            symbol=symbol, timeframe=timeframe, start_ns=starts, end_ns=starts + _NS, volume=columns["volume"],
            vwap=columns.get("vwap", unknown), trade_count=np.where(np.isnan(counts), -1, counts).astype(np.int64),
            open=columns["open"], high=columns["high"], low=columns["low"], close=columns["close"],
            extra={name: _truths(where, name, columns[name]) for name in columns if name not in _KNOWN},
        )  # fmt: skip
        try:
            return _on_grid(bars.check())
        except BadMarketData as error:
            raise BadMarketData(f"{where}: {error}") from error


def open_catalog(source: str | Path) -> Catalog:
    """`bundled`, or a folder. Raises BadInput if there is nothing to read, BadMarketData if its symbol changes make no sense."""
    if str(source) == "bundled":
        return bundled()
    folder = Path(source)
    if not folder.is_dir():
        raise BadInput(f"no market data at {str(source)!r}: it is neither 'bundled' nor a folder")
    files = bar_files(folder)
    if not files:
        raise BadInput(f"no market data in {folder}: expected <SYMBOL>.parquet, <SYMBOL>.csv or <SYMBOL>.csv.gz")
    kept: dict[str, list[Timeframe | None]] = {}
    for symbol, timeframe in files:
        kept.setdefault(symbol, []).append(timeframe)

    def read(symbol: str, timeframe: Timeframe | None) -> tuple[str, Columns]:
        path = files[symbol, timeframe]
        return path.relative_to(folder).as_posix(), read_columns(path)

    def files_of(symbol: str) -> list[Path]:
        return [files[symbol, timeframe] for timeframe in kept.get(symbol, ())]

    changes = read_changes(folder / CHANGES) if (folder / CHANGES).exists() else ()
    return Catalog(str(folder), kept, read, changes, files_of)


@lru_cache(maxsize=1)
def bundled() -> Catalog:
    """Daily bars that ship with the package: AAPL, FB, GOOG, IBM, MSFT up to 2013-03-01."""
    table = _read_parquet(BUNDLED)
    rows = table["symbol"].to_pylist()  # sorted by symbol, so each symbol is one slice
    slices = {symbol: table.slice(rows.index(symbol), rows.count(symbol)) for symbol in dict.fromkeys(rows)}
    kept = dict.fromkeys(slices, (None,))

    def read(name: str, _: object) -> tuple[str, Columns]:
        return f"bundled {name}", _columns(slices[name], f"bundled {name}")

    return Catalog("bundled", kept, read, files=lambda _: (BUNDLED,))


def fingerprint(series: Iterable[Bars], adjustment: str) -> str:
    """Sha256 over each series: name, timeframe, adjustment (each ended by NUL), row count, then every column, little-endian.

    Columns: start int64; open, high, low, close, volume, vwap float64 with one NaN; trade_count int64, -1 where unknown; then each
    extra column by name: the name, NUL, a byte 0 or 1 per row.
    """
    digest = hashlib.sha256()
    for bars in series:
        digest.update(b"".join(text.encode() + b"\0" for text in (bars.symbol, bars.timeframe.value, adjustment)))
        digest.update(np.int64(len(bars)).astype("<i8").tobytes())
        digest.update(bars.start_ns.astype("<i8").tobytes())
        for column in (bars.open, bars.high, bars.low, bars.close, bars.volume, bars.vwap):
            plain = column.astype("<f8")
            plain[np.isnan(plain)] = np.nan  # 0x7ff8000000000000, whatever NaN it was
            digest.update(plain.tobytes())
        digest.update(bars.trade_count.astype("<i8").tobytes())
        for name in sorted(bars.extra):
            digest.update(name.encode() + b"\0" + bars.extra[name].astype("<i1").tobytes())
    return digest.hexdigest()


class _Part(NamedTuple):
    """The columns of one file, of which the bars before `until` count (UTC nanoseconds)."""

    where: str
    columns: Columns
    until: int


def _joined(parts: Sequence[_Part]) -> tuple[str, Columns]:
    """The bars of a share under all its names, `parts` newest name first; what a file does not know is NaN.

    An older name adds what a newer one's file does not have: that may hold the whole history already.
    """
    if len(parts) == 1 and parts[0].until == _END_NS:
        return parts[0].where, parts[0].columns
    rows: list[BoolArray] = []
    seen: IntArray = np.empty(0, np.int64)
    for part in parts:
        starts = _starts(part.where, part.columns)
        rows.append((starts < part.until) & ~np.isin(starts, seen))
        seen = np.append(seen, starts)
    names = dict.fromkeys(name for part in parts for name in part.columns)
    columns = {
        name: np.concatenate(
            [p.columns[name][r] if name in p.columns else np.full(int(r.sum()), np.nan) for p, r in zip(parts, rows, strict=True)]
        )
        for name in names
    }  # fmt: skip
    order = np.argsort(columns["timestamp"], kind="stable")
    return " + ".join(part.where for part in reversed(parts)), {name: column[order] for name, column in columns.items()}


def _starts(where: str, columns: Columns) -> IntArray:
    if "timestamp" not in columns:
        raise BadMarketData(f"{where}: no column 'timestamp' (it has {', '.join(columns)})")
    return columns["timestamp"]


def _actions(symbol: str, where: str, columns: Columns) -> Iterator[CorporateAction]:
    cash, ratio, starts = columns.get("ex_dividend"), columns.get("split_ratio"), _starts(where, columns)
    rows = np.zeros(len(starts), bool)
    for column, nothing in ((cash, 0.0), (ratio, 1.0)):
        if column is not None:
            rows |= ~np.isnan(column) & (column != nothing)
    for row in np.flatnonzero(rows):
        action = CorporateAction(
            symbol=symbol,
            ex_date=new_york_date(int(starts[row])),
            ratio=1.0 if ratio is None or math.isnan(ratio[row]) else float(ratio[row]),
            cash_usd=0.0 if cash is None or math.isnan(cash[row]) else float(cash[row]),
        )
        if not (0 < action.ratio < math.inf and 0 <= action.cash_usd < math.inf):
            raise BadMarketData(f"{where} row {row}: split_ratio {action.ratio}, ex_dividend {action.cash_usd}")
        yield action


def _truths(where: str, name: str, values: FloatArray) -> BoolArray:
    """An extra column. What it does not say of a bar is not taken for no."""
    if np.isnan(values).any():
        raise BadMarketData(f"{where} row {int(np.argmax(np.isnan(values)))}: {name} is neither true nor false")
    truths: BoolArray = values == 1.0
    return truths


def _on_grid(bars: Bars) -> Bars:
    """Give each bar its end, drop what lies outside regular hours, and refuse starts that are not the timeframe's."""
    if bars.timeframe is Timeframe.DAY_1:
        ends = calendar().closes_ns(bars.start_ns)
        _refuse(bars, ends == 0, "not the label of a session (midnight New York of a trading day)")
        return _with_ends(bars, ends, np.ones(len(bars), bool))
    length_ns = bars.timeframe.minutes * 60 * _NS
    days = calendar().sessions(new_york_date(int(bars.start_ns[0])), new_york_date(int(bars.start_ns[-1])))
    if not days:
        raise BadMarketData(f"{bars.symbol} {bars.timeframe.value}: no bar lies in a session")
    labels, opens, closes = (
        np.array(column) for column in zip(*((s.label_ns, s.open_ns, s.close_ns) for s in days), strict=True)
    )
    day = np.maximum(np.searchsorted(labels, bars.start_ns, side="right") - 1, 0)
    regular = (bars.start_ns + length_ns > opens[day]) & (bars.start_ns < closes[day])
    _refuse(
        bars, regular & ((bars.start_ns - labels[day]) % length_ns != 0), f"does not start a {bars.timeframe.value} bar"
    )
    if not regular.any():
        raise BadMarketData(
            f"{bars.symbol}: no {bars.timeframe.value} bar lies in regular hours; are these other bars?"
        )
    return _with_ends(bars, np.minimum(bars.start_ns + length_ns, closes[day]), regular)


def _with_ends(bars: Bars, ends: IntArray, keep: npt.NDArray[np.bool_]) -> Bars:
    return Bars(
        symbol=bars.symbol, timeframe=bars.timeframe, start_ns=bars.start_ns[keep], end_ns=ends[keep],
        open=bars.open[keep], high=bars.high[keep], low=bars.low[keep], close=bars.close[keep],
        volume=bars.volume[keep], vwap=bars.vwap[keep], trade_count=bars.trade_count[keep],
        extra={name: column[keep] for name, column in bars.extra.items()},
    )  # fmt: skip


def _refuse(bars: Bars, wrong: npt.NDArray[np.bool_], what: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        at = np.datetime64(int(bars.start_ns[row]), "ns").astype("datetime64[s]")
        raise BadMarketData(f"{bars.symbol} {bars.timeframe.value} row {row} ({at}Z): {what}")


# --- files ---------------------------------------------------------------------------------------------------------------


def bar_files(folder: Path) -> dict[tuple[str, Timeframe | None], Path]:
    """The files of bars in a folder by symbol and length of bar, None for one that lies in no timeframe's folder."""
    files: dict[tuple[str, Timeframe | None], Path] = {}
    for timeframe in (None, *Timeframe):
        within = folder / timeframe.value if timeframe else folder
        for suffix in reversed(_SUFFIXES):  # of several files of one symbol, Parquet wins
            for path in sorted(within.glob(f"*{suffix}")):
                if path.name != CHANGES:
                    files[path.name.removesuffix(suffix), timeframe] = path
    return files


def write_parquet(path: Path, columns: Columns) -> None:
    """Columns as `Catalog.columns` gives them, as one file that is whole or not there. What is nowhere known is left out."""
    import pyarrow
    from pyarrow.parquet import write_table

    arrays = {"timestamp": pyarrow.array(columns["timestamp"], pyarrow.timestamp("ns", "UTC"))}
    for name in (*_REQUIRED[1:], *_OPTIONAL, *(name for name in columns if name not in _KNOWN)):
        if name in columns and not np.isnan(columns[name]).all():
            values = columns[name] if name in _KNOWN else columns[name] == 1.0
            arrays[name] = pyarrow.array(values, mask=np.isnan(columns[name]))
    _replace(path, lambda file: write_table(pyarrow.table(arrays), file))


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file beside `path` and put it in its place, so that whoever reads or dies in between sees the old one or the new.

    One process at a time writes to a folder, so what an interrupted one left is overwritten by the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_changes(path: Path) -> tuple[SymbolChange, ...]:
    """Who was called what: a table with the columns `old_symbol` (or old_ticker), `new_symbol` (new_ticker) and `date` (effective_date).

    `date` is the first session under the new name; a row without an old name is a new listing and says nothing here.
    Raises BadMarketData naming the line.
    """
    table = read_table(path)
    columns = {name.strip().lower(): table[name].to_pylist() for name in table.column_names}
    named = [
        next((columns[n] for n in names if n in columns), None)
        for names in (("old_symbol", "old_ticker"), ("new_symbol", "new_ticker"), ("date", "effective_date"))
    ]
    if any(column is None for column in named):
        raise BadMarketData(f"{path.name}: needs the columns old_symbol, new_symbol and date, not {', '.join(columns)}")
    found: dict[tuple[str, date], SymbolChange] = {}
    for line, (old, new, day) in enumerate(zip(*(column or () for column in named), strict=True), 2):
        if not old:
            continue
        if not (new and isinstance(day, date)) or old == new:
            raise BadMarketData(
                f"{path.name} line {line}: {old or '?'} became {new or '?'} on {day}: not two names and a date"
            )
        change = SymbolChange(old=str(old), new=str(new), day=day)
        if found.setdefault((change.new, change.day), change) != change:
            raise BadMarketData(
                f"{path.name} line {line}: on {day} both {found[change.new, day].old} and {old} became {new}"
            )
    return tuple(sorted(found.values(), key=lambda change: (change.day, change.new)))


def write_changes(path: Path, changes: Iterable[SymbolChange]) -> None:
    """The table that `read_changes` reads, whole or not there."""
    rows = ["old_symbol,new_symbol,date", *(f"{c.old},{c.new},{c.day}" for c in changes)]
    _replace(path, lambda file: file.write("".join(f"{row}\n" for row in rows).encode()))


def read_columns(path: Path) -> Columns:
    """The columns of one file, not checked. Raises BadMarketData."""
    return _columns(read_table(path), path.name)


def read_table(path: Path, *, delimiter: str = ",", skip: int = 0) -> Any:
    """A Parquet or CSV file as an Arrow table, without the first `skip` rows of a CSV. Raises BadMarketData if it is neither."""
    import pyarrow
    import pyarrow.csv

    try:
        if path.suffix in (".parquet", ".pq"):
            return _read_parquet(path)
        return pyarrow.csv.read_csv(
            path,
            # one thread knows the number of a row that it cannot read
            read_options=pyarrow.csv.ReadOptions(use_threads=False, skip_rows_after_names=skip),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
            convert_options=pyarrow.csv.ConvertOptions(null_values=["", "null", "None"]),
        )
    except (pyarrow.ArrowException, OSError) as error:
        raise BadMarketData(f"{path.name}: unreadable: {' '.join(str(error).split())[:200]}") from error


def _read_parquet(path: Path) -> Any:
    """One file, without pyarrow's dataset machinery, whose import takes longer than everything else here."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        return file.read(use_threads=False)


def _columns(table: Any, where: str) -> Columns:
    """Arrow columns as arrays: timestamp int64 ns UTC, everything else float64 with NaN for null.

    Of other columns those of true and false are kept, as 1 and 0; the rest is ignored.
    """
    import pyarrow

    columns: dict[str, npt.NDArray[Any]] = {}
    others = (n for n in table.column_names if n not in _KNOWN and pyarrow.types.is_boolean(table[n].type))
    for name in (*(n for n in (*_REQUIRED, *_OPTIONAL) if n in table.column_names), *others):
        column = table[name]
        if name == "timestamp":
            columns[name] = _timestamps(column, where)
            continue
        try:
            columns[name] = _array(column.cast(pyarrow.float64()))
        except (pyarrow.ArrowException, ValueError):
            row, value = _first_wrong(column, float)
            raise BadMarketData(f"{where} row {row}: {name} {value!r} is not a number") from None
    return columns


def _timestamps(column: Any, where: str) -> IntArray:
    import pyarrow

    if column.null_count:
        row = column.to_pylist().index(None)
        raise BadMarketData(f"{where} row {row}: no timestamp")
    if pyarrow.types.is_date(column.type):
        return np.array([new_york_ns(day) for day in column.cast(pyarrow.date32()).to_pylist()], np.int64)
    try:
        return _array(column.cast(pyarrow.timestamp("ns")).cast(pyarrow.int64()))
    except (pyarrow.ArrowException, ValueError):
        row, value = _first_wrong(column, np.datetime64)
        raise BadMarketData(f"{where} row {row}: timestamp {value!r} is not ISO 8601") from None


def _array(column: Any) -> npt.NDArray[Any]:
    """A numeric column as an array of its own, NaN for null. Arrow's `to_numpy` would import pandas, a second that nobody needs."""
    if column.null_count == len(column):
        return np.full(len(column), np.nan) if column.null_count else np.empty(0)
    if column.null_count:
        column = column.fill_null(math.nan)
    return np.from_dlpack(column.combine_chunks()).copy()


def _first_wrong(column: Any, read: Callable[[Any], object]) -> tuple[int, object]:
    """Row and value of the first entry that `read` refuses."""
    values = column.to_pylist()
    for row, value in enumerate(values):
        try:
            if value is not None:
                read(value)
        except (TypeError, ValueError):
            return row, value
    return 0, values[0]
