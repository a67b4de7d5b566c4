"""The bar catalogue: raw bars and corporate actions by symbol, checked where they enter and never repaired.

A source is the bundled file or a folder with one `<SYMBOL>.parquet`, `<SYMBOL>.csv` or `<SYMBOL>.csv.gz` per symbol. Columns:
`timestamp, open, high, low, close, volume` and, where known, `vwap, trade_count, ex_dividend, split_ratio`. `timestamp` is the start
of the bar in UTC; a plain date is midnight New York, as Alpaca labels daily bars. Prices are as traded, in US dollars.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from algo_royale.data.adjust import forward_adjusted
from algo_royale.errors import BadInput, BadMarketData, InsufficientHistory, UnknownName
from algo_royale.market import Bars, CorporateAction, IntArray, Timeframe
from algo_royale.sessions import calendar, new_york_date, new_york_ns

BUNDLED = Path(__file__).parent / "bundled.parquet"
_PRICES = ("open", "high", "low", "close")
_REQUIRED = ("timestamp", *_PRICES, "volume")
_OPTIONAL = ("vwap", "trade_count", "ex_dividend", "split_ratio")
_SUFFIXES = (".parquet", ".csv", ".csv.gz")
_NS = 1_000_000_000

Columns = Mapping[str, npt.NDArray[Any]]


class Catalog:
    """Bars and actions of a source. Read once per symbol; the arrays are read-only and shared between calls."""

    def __init__(self, name: str, symbols: Iterable[str], read: Callable[[str], tuple[str, Columns]]) -> None:
        """`read(symbol)` gives a label for error messages and the raw columns."""
        self.name = name
        self._symbols = tuple(sorted(symbols))
        self._read = lru_cache(maxsize=None)(read)
        self._series = lru_cache(maxsize=None)(self._load)

    def symbols(self) -> tuple[str, ...]:
        return self._symbols

    def columns(self, symbol: str) -> tuple[str, Columns]:
        """A label for messages and the symbol's columns as they are in the file: not in order, not checked."""
        self._known(symbol)
        return self._read(symbol)

    def bars(self, symbol: str, timeframe: Timeframe, start: date | None = None, end: date | None = None) -> Bars:
        """Raw bars of the sessions start <= date <= end, oldest first.

        Raises UnknownName, BadMarketData (naming file and row), InsufficientHistory when there is not one bar in the range.
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
        """Splits and cash dividends, oldest first."""
        self._known(symbol)
        where, columns = self._read(symbol)
        cash, ratio = columns.get("ex_dividend"), columns.get("split_ratio")
        rows = np.zeros(len(columns["timestamp"]), bool)
        for column, nothing in ((cash, 0.0), (ratio, 1.0)):
            if column is not None:
                rows |= ~np.isnan(column) & (column != nothing)
        found = []
        for row in np.flatnonzero(rows):
            action = CorporateAction(
                symbol=symbol,
                ex_date=new_york_date(int(columns["timestamp"][row])),
                ratio=1.0 if ratio is None or math.isnan(ratio[row]) else float(ratio[row]),
                cash_usd=0.0 if cash is None or math.isnan(cash[row]) else float(cash[row]),
            )
            if not (0 < action.ratio < math.inf and 0 <= action.cash_usd < math.inf):
                raise BadMarketData(f"{where} row {row}: split_ratio {action.ratio}, ex_dividend {action.cash_usd}")
            found.append(action)
        return tuple(found)

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

    def _known(self, symbol: str) -> None:
        if symbol not in self._symbols:
            raise UnknownName("symbol", symbol, self._symbols)

    def _load(self, symbol: str, timeframe: Timeframe) -> Bars:
        where, columns = self._read(symbol)
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
        )  # fmt: skip
        try:
            return _on_grid(bars.check())
        except BadMarketData as error:
            raise BadMarketData(f"{where}: {error}") from error


def open_catalog(source: str | Path) -> Catalog:
    """`bundled`, or a folder. Raises BadInput if there is nothing to read."""
    if str(source) == "bundled":
        return bundled()
    folder = Path(source)
    if not folder.is_dir():
        raise BadInput(f"no market data at {str(source)!r}: it is neither 'bundled' nor a folder")
    files = symbol_files(folder)
    if not files:
        raise BadInput(f"no market data in {folder}: expected <SYMBOL>.parquet, <SYMBOL>.csv or <SYMBOL>.csv.gz")
    return Catalog(str(folder), files, lambda symbol: (files[symbol].name, read_columns(files[symbol])))


@lru_cache(maxsize=1)
def bundled() -> Catalog:
    """Daily bars that ship with the package: AAPL, FB, GOOG, IBM, MSFT up to 2013-03-01."""
    table = _read_parquet(BUNDLED)
    rows = table["symbol"].to_pylist()  # sorted by symbol, so each symbol is one slice
    slices = {symbol: table.slice(rows.index(symbol), rows.count(symbol)) for symbol in dict.fromkeys(rows)}
    return Catalog("bundled", slices, lambda name: (f"bundled {name}", _columns(slices[name], f"bundled {name}")))


def fingerprint(series: Iterable[Bars], adjustment: str) -> str:
    """Sha256 over each series: name, timeframe, adjustment (each ended by NUL), row count, then every column, little-endian.

    Columns: start int64; open, high, low, close, volume, vwap float64 with one NaN; trade_count int64, -1 where unknown.
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
    return digest.hexdigest()


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
    )  # fmt: skip


def _refuse(bars: Bars, wrong: npt.NDArray[np.bool_], what: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        at = np.datetime64(int(bars.start_ns[row]), "ns").astype("datetime64[s]")
        raise BadMarketData(f"{bars.symbol} {bars.timeframe.value} row {row} ({at}Z): {what}")


def symbol_files(folder: Path) -> dict[str, Path]:
    """The file of each symbol in a folder; of several files of one symbol, Parquet wins."""
    files: dict[str, Path] = {}
    for suffix in reversed(_SUFFIXES):
        files.update({path.name.removesuffix(suffix): path for path in sorted(folder.glob(f"*{suffix}"))})
    return files


def write_parquet(path: Path, columns: Columns) -> None:
    """Columns as `Catalog.columns` gives them, as one file that is whole or not there. What is nowhere known is left out."""
    import pyarrow
    from pyarrow.parquet import write_table

    arrays = {"timestamp": pyarrow.array(columns["timestamp"], pyarrow.timestamp("ns", "UTC"))}
    for name in (*_REQUIRED[1:], *_OPTIONAL):
        if name in columns and not np.isnan(columns[name]).all():
            arrays[name] = pyarrow.array(columns[name], mask=np.isnan(columns[name]))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write_table(pyarrow.table(arrays), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
    """Arrow columns as arrays: timestamp int64 ns UTC, everything else float64 with NaN for null. Other columns are ignored."""
    import pyarrow

    columns: dict[str, npt.NDArray[Any]] = {}
    for name in (n for n in (*_REQUIRED, *_OPTIONAL) if n in table.column_names):
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
