"""Make algo_royale/data/bundled.parquet, the prices that ship with the package.

    python tools/make_bundled.py [--check]

Source: the PyPI package bokeh_sampledata 2026.1, Quandl WIKI prices, public domain by the publisher's notice. Bars are taken as they
are (unadjusted); splits and cash dividends are what the source's adjusted close implies: between two sessions its factor
adjusted/raw grows by `ratio x (1 + cash / close)`, close being that of the ex-date. Adjusted prices are computed, not shipped.
"""

import csv
import gzip
import importlib.metadata
import sys
from datetime import date
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from algo_royale.sessions import new_york_ns

SOURCE = "2026.1"
TARGET = Path(__file__).parent.parent / "algo_royale" / "data" / "bundled.parquet"
SPLITS = (2.0, 3.0, 4.0, 7.0, 10.0, 1.5)  # a growth this close to one of them is no dividend


def action(growth: float, close: float) -> tuple[float, float]:
    """Split ratio and cash dividend (rounded to 1/100 cent) that make the adjustment factor grow so at that close."""
    ratio = next((split for split in SPLITS if abs(growth / split - 1) < 0.02), 1.0)
    cash = round((growth / ratio - 1) * close, 4)
    return ratio, cash if cash >= 0.001 else 0.0


def table() -> pa.Table:
    """Every bar, by symbol and time, with the action whose ex-date it is."""
    if (found := importlib.metadata.version("bokeh_sampledata")) != SOURCE:
        raise SystemExit(f"bokeh_sampledata {found} is installed; the bundled prices are made from {SOURCE}")
    columns: dict[str, list[object]] = {name: [] for name in _SCHEMA.names}
    before = ("", 0.0)
    with gzip.open(
        files("bokeh_sampledata").joinpath("_data/stocks.csv.gz").open("rb"), "rt", encoding="ascii"
    ) as lines:
        for row in sorted(csv.DictReader(lines), key=lambda r: (r["Ticker"], r["Date"])):
            symbol, close = row["Ticker"], float(row["Close"])
            factor = float(row["Adj Close"]) / close
            ratio, cash = action(factor / before[1], close) if symbol == before[0] else (1.0, 0.0)
            before = (symbol, factor)
            values = (
                symbol, new_york_ns(date.fromisoformat(row["Date"])),
                float(row["Open"]), float(row["High"]), float(row["Low"]), close, int(row["Volume"]), cash, ratio,
            )  # fmt: skip
            for name, value in zip(_SCHEMA.names, values, strict=True):
                columns[name].append(value)
    return pa.table(columns, schema=_SCHEMA)


_SCHEMA = pa.schema(
    [
        ("symbol", pa.string()), ("timestamp", pa.timestamp("ns", tz="UTC")), ("open", pa.float64()), ("high", pa.float64()),
        ("low", pa.float64()), ("close", pa.float64()), ("volume", pa.int64()), ("ex_dividend", pa.float64()),
        ("split_ratio", pa.float64()),
    ],
    metadata={"source": f"bokeh_sampledata {SOURCE}, Quandl WIKI prices, public domain"},
)  # fmt: skip

if __name__ == "__main__":
    made = table()
    if "--check" in sys.argv[1:]:
        if not pq.read_table(TARGET).equals(made):
            raise SystemExit(f"{TARGET} is not what the source gives; run tools/make_bundled.py")
    else:
        pq.write_table(made, TARGET, compression="zstd", compression_level=19, use_dictionary=["symbol"])
        print(f"{TARGET}: {made.num_rows} bars, {TARGET.stat().st_size} bytes")
