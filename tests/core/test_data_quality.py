"""Data quality: each defect is found where it was planted, a second source agrees with every alarm on real prices, and what other
people's files mean is read as they meant it."""

import gzip
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo_royale.data.catalog import bundled, open_catalog, write_parquet
from algo_royale.data.importing import Columns, add_actions, map_columns, merge, read_actions, read_bars, symbol_of
from algo_royale.data.quality import Finding, examine, late, order_faults, row_faults, timeframe_of
from algo_royale.errors import AlgoRoyaleError, BadMarketData
from algo_royale.market import CorporateAction, Timeframe
from algo_royale.sessions import calendar, new_york_date, new_york_ns
from conftest import shared

DAY = Timeframe.DAY_1
FIRST = date(2012, 1, 3)


def daily(count: int = 120, *, seed: int = 1) -> Columns:
    """A random walk of 1 % a day over consecutive sessions, from 100 dollars, with ordinary wicks."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, count)))
    opened = np.append(100.0, close[:-1]) * np.exp(rng.normal(0, 0.002, count))
    wick = np.exp(np.abs(rng.normal(0, 0.003, (2, count))))
    return {
        "timestamp": np.array([calendar().offset(FIRST, i).label_ns for i in range(count)], np.int64),
        "open": opened, "high": np.maximum(opened, close) * wick[0], "low": np.minimum(opened, close) / wick[1],
        "close": close, "volume": rng.integers(900, 1100, count).astype(float),
    }  # fmt: skip


def session(index: int) -> date:
    return calendar().offset(FIRST, index).date


def split(columns: Columns, index: int, ratio: float) -> None:
    """From that bar on the shares are `ratio` times as many."""
    for name in ("open", "high", "low", "close"):
        columns[name][index:] /= ratio
    columns["volume"][index:] *= ratio


def found(columns: Columns, *actions: CorporateAction, timeframe: Timeframe = DAY) -> list[tuple[str, str, str]]:
    return [(f.kind, f.severity, str(f.first)) for f in examine("X", columns, actions, timeframe)]


# --- planted defects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_an_ordinary_walk_raises_no_alarm(seed: int) -> None:
    assert found(daily(500, seed=seed)) == []


def _set(name: str, index: int, value: float) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        columns[name][index] = value

    return change


def _drop(*rows: int) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        for name in columns:
            columns[name] = np.delete(columns[name], rows)

    return change


def _repeat(columns: Columns) -> None:
    for name in columns:
        columns[name] = np.insert(columns[name], 51, columns[name][50])


def _swap(columns: Columns) -> None:
    for name in columns:
        columns[name][[50, 51]] = columns[name][[51, 50]]


def _spike(columns: Columns) -> None:
    columns["close"][50] *= 0.7
    columns["low"][50] = columns["close"][50]


def _step(columns: Columns) -> None:
    for name in ("open", "high", "low", "close"):
        columns[name][50:] *= 0.65
    columns["volume"][50] *= 12


def _flat(columns: Columns) -> None:
    for name in ("open", "high", "low", "close"):
        columns[name][50:55] = columns["close"][50]


def _same_bar(columns: Columns) -> None:
    for name in set(columns) - {"timestamp"}:
        columns[name][51] = columns[name][50]


PLANTED = [
    ("price", "error", 50, _set("close", 50, -1.0)),
    ("price", "error", 50, _set("open", 50, float("nan"))),
    ("ohlc", "error", 50, _set("high", 50, 1.0)),
    ("ohlc", "error", 50, _set("low", 50, 1e6)),
    ("volume", "error", 50, _set("volume", 50, -5.0)),
    ("duplicate", "error", 50, _repeat),
    ("unsorted", "error", 50, _swap),
    ("missing", "warning", 50, _drop(50, 51, 52)),
    ("print", "error", 50, _set("low", 50, 0.01)),
    ("print", "warning", 50, lambda c: _set("high", 50, max(c["open"][50], c["close"][50]) * 1.2)(c)),
    ("print", "error", 50, _spike),
    ("move", "warning", 50, _step),
    ("split missing", "error", 50, lambda c: split(c, 50, 2.0)),
    ("split missing", "error", 50, lambda c: split(c, 50, 1.5)),
    ("split missing", "error", 50, lambda c: split(c, 50, 0.05)),
    ("stale", "warning", 50, _flat),
    ("stale", "warning", 51, _same_bar),
    ("no volume", "warning", 50, _set("volume", 50, 0.0)),
]


@pytest.mark.parametrize(("kind", "severity", "index", "plant"), PLANTED)
def test_a_planted_defect_is_the_only_one_found(
    kind: str, severity: str, index: int, plant: Callable[[Columns], None]
) -> None:
    columns = daily()
    plant(columns)

    assert found(columns) == [(kind, severity, str(session(index)))]


def test_a_weekend_has_no_bar() -> None:
    columns = daily()
    columns["timestamp"][3] = new_york_ns(date(2012, 1, 7))  # a Saturday, in its place by time

    assert found(columns)[:1] == [("missing", "warning", "2012-01-06")]
    assert ("timestamp", "error", "2012-01-07") in found(columns)


def test_a_split_on_record_is_no_alarm_and_one_that_prices_know_is() -> None:
    action = CorporateAction(symbol="X", ex_date=session(50), ratio=2.0)
    raw, adjusted = daily(), daily()
    split(raw, 50, 2.0)

    assert found(raw, action) == []
    assert found(adjusted, action) == [("split unseen", "error", str(session(50)))]


def test_dividends_that_the_price_does_not_give_up_are_found_together() -> None:
    """Thirty quarterly dividends of 1.5 %: raw opens fall by them, adjusted ones do not."""
    raw, adjusted = daily(2000), daily(2000)
    actions = []
    for index in range(30, 1920, 63):
        cash = 0.015 * float(raw["close"][index - 1])
        actions.append(CorporateAction(symbol="X", ex_date=session(index), cash_usd=cash))
        for name in ("open", "high", "low", "close"):
            raw[name][index:] *= 0.985

    assert found(raw, *actions) == []
    assert [kind for kind, _, _ in found(adjusted, *actions)] == ["dividend unseen"]


def test_a_large_dividend_without_its_fall_and_one_out_of_rhythm_are_found() -> None:
    large = CorporateAction(symbol="X", ex_date=session(60), cash_usd=12.0)
    assert found(daily(), large) == [("dividend unseen", "warning", str(session(60)))]

    rows = [*range(20, 900, 63)]
    dividends = [CorporateAction(symbol="X", ex_date=session(i), cash_usd=0.01) for i in (*rows, 440)]
    assert found(daily(1000), *dividends) == [("dividend extra", "warning", str(session(440)))]


def test_a_symbol_that_stays_behind_the_others_is_said_and_one_that_does_not_is_not() -> None:
    """Five sessions, weekends and holidays not counted: from Friday 2013-01-18 to 25 there are four, for the 21st is a holiday."""
    last = date(2013, 1, 18)

    assert late("X", last, date(2013, 1, 25)) == []
    (found,) = late("X", last, date(2013, 1, 28))
    assert (found.kind, found.severity, found.count) == ("behind", "warning", 5)
    assert found.what == "the last bar is 5 sessions before that of the newest symbol, 2013-01-28"
    assert late("X", last, last) == late("X", last, date(2012, 1, 3)) == []


def test_short_series_are_not_judged_by_their_volatility() -> None:
    columns = daily(10)
    columns["low"][5] = 0.01

    assert found(columns) == []


@given(
    st.lists(st.tuples(st.integers(0, 40), st.floats(allow_nan=True, allow_infinity=True)), max_size=4), st.booleans()
)
def test_rows_without_a_fault_pass_the_catalogues_own_check(changes: list[tuple[int, float]], shuffled: bool) -> None:
    """Whatever is in the columns: `examine` does not fail, and what has no row fault is what `Bars.check` accepts."""
    columns = daily(41)
    for place, value in changes:
        columns[("open", "high", "low", "close", "volume")[place % 5]][place] = value
    if shuffled:
        columns["timestamp"][[3, 4]] = columns["timestamp"][[4, 3]]
    examine("X", columns, (), DAY)
    faults = [*row_faults(columns, DAY), *order_faults(columns["timestamp"])]
    from algo_royale.data.catalog import Catalog

    try:
        Catalog("x", {"X": (None,)}, lambda name, _: (name, columns)).bars("X", DAY)
        accepted = True
    except BadMarketData:
        accepted = False
    assert accepted == (not faults)


# --- real prices ---------------------------------------------------------------------------------------------------------


def bundled_findings() -> list[Finding]:
    catalog = bundled()
    return [f for s in catalog.symbols() for f in examine(s, catalog.columns(s)[1], catalog.actions(s), DAY)]


def test_the_bundled_file_has_one_alarm_and_it_is_true() -> None:
    """Apple warned of its quarter on the evening of 2000-09-28 and lost half: no split, and no error."""
    assert [(f.symbol, f.kind, f.severity, str(f.first)) for f in bundled_findings()] == [
        ("AAPL", "move", "warning", "2000-09-29")
    ]


def test_bundled_prices_without_their_splits_are_found_out() -> None:
    catalog = bundled()
    splits = [a for s in catalog.symbols() for a in catalog.actions(s) if a.ratio != 1.0]
    seen = [
        (f.symbol, f.first)
        for s in catalog.symbols()
        for f in examine(s, catalog.columns(s)[1], [], DAY)
        if f.kind == "split missing"
    ]

    assert seen == [(a.symbol, a.ex_date) for a in splits]
    assert len(seen) >= 3


@pytest.fixture(scope="module")
def lean() -> dict[str, list[Finding]]:
    """Findings of the ten symbols, with their actions."""
    catalog = open_catalog(shared("data/lean/daily_raw"))
    actions = read_actions(shared("data/lean/corporate_actions.csv"))
    return {
        s: examine(s, catalog.columns(s)[1], [CorporateAction(symbol=s, ex_date=d, ratio=r, cash_usd=c) for d, r, c in actions[s]], DAY)
        for s in catalog.symbols()
    }  # fmt: skip


def test_lean_shows_the_defects_that_its_readme_lists(lean: dict[str, list[Finding]]) -> None:
    """GOOGL's prints, the real moves over 30 % of AIG and BAC, and SPY's dividend that no second source confirms."""
    days = {
        kind: {(s, str(f.first)) for s, fs in lean.items() for f in fs if f.kind == kind}
        for kind in ("move", "print", "dividend extra")
    }

    assert ("GOOGL", "2008-09-30") in days["print"]
    assert days["move"] - {("AAPL", "2000-09-29"), ("WM", "1999-07-07")} == {
        *(("AIG", f"2008-09-{day}") for day in (12, 15, 17, 19, 24)),
        ("AIG", "2009-03-16"), ("AIG", "2009-03-18"), ("AIG", "2009-08-05"), ("BAC", "2009-04-09"),
    }  # fmt: skip
    assert ("SPY", "2004-11-15") in days["dividend extra"]
    assert {f.kind for fs in lean.values() for f in fs} == {"move", "print", "dividend extra"}


def test_other_sources_show_the_defects_that_the_readme_lists() -> None:
    """Files with some years only: whole years are missing; nine rows of GORO have volume 0; AIG's moves are real."""
    catalog = open_catalog(shared("data/public_domain/daily_with_actions"))
    found = {s: examine(s, catalog.columns(s)[1], catalog.actions(s), DAY) for s in catalog.symbols()}
    missing = {s: [(f.first, f.last, f.count) for f in fs if f.kind == "missing"] for s, fs in found.items()}

    year = (date(2010, 1, 4), date(2010, 12, 31), 252)
    assert {s: gaps for s, gaps in missing.items() if gaps} == {
        "AES": [year], "AIG": [year], "IBM": [year], "ORCL": [(date(2001, 1, 2), date(2010, 12, 31), 2515)],
    }  # fmt: skip
    assert sum(f.count for f in found["GORO"] if f.kind == "no volume") == 9
    assert {f.kind for f in found["AIG"]} == {"move", "missing"}
    assert not any(f.severity == "error" for fs in found.values() for f in fs)


def test_lean_is_as_continuous_over_its_actions_as_its_readme_says(lean: dict[str, list[Finding]]) -> None:
    """Every session is there, every split and dividend agrees with the prices; without the splits on record all twelve are seen."""
    catalog = open_catalog(shared("data/lean/daily_raw"))
    rows = pyarrow.csv.read_csv(shared("data/lean/corporate_actions.csv")).to_pylist()
    splits = sorted((r["symbol"], r["ex_date"]) for r in rows if r["type"] == "split")
    seen = [
        (f.symbol, f.first)
        for s in catalog.symbols()
        for f in examine(s, catalog.columns(s)[1], [], DAY)
        if f.kind == "split missing"
    ]

    assert seen == splits
    assert len(splits) == 12


def test_every_bad_print_is_one_by_a_second_source_and_every_price_off_by_a_quarter_is_found(
    lean: dict[str, list[Finding]],
) -> None:
    """The bundled prices come from elsewhere: no alarm without a difference of 10 %, no difference of 28 % without an alarm."""
    catalog, confirmed, alarms, wrong = open_catalog(shared("data/lean/daily_raw")), 0, 0, 0
    for mine, theirs in (("AAPL", "AAPL"), ("IBM", "IBM"), ("GOOGL", "GOOG")):
        ours, other = catalog.bars(mine, DAY), bundled().bars(theirs, DAY)
        both, i, j = np.intersect1d(ours.start_ns, other.start_ns, return_indices=True)
        apart = np.max(
            [np.abs(np.log(getattr(ours, n)[i] / getattr(other, n)[j])) for n in ("open", "high", "low", "close")],
            axis=0,
        )
        prints = {f.first for f in lean[mine] if f.kind == "print"}
        flagged = np.array([new_york_date(int(at)) in prints for at in both])
        alarms, confirmed = alarms + int(flagged.sum()), confirmed + int((flagged & (apart > 0.1)).sum())
        wrong += int((apart > 0.25).sum())
        assert not (~flagged & (apart > np.log(1.28))).any()

    assert alarms == confirmed == 11
    assert wrong >= 7


def test_adjusted_prices_with_raw_actions_are_found_out() -> None:
    """Lean's adjusted files with the actions once more: every split, and the dividends of all that have enough of them."""
    catalog = open_catalog(shared("data/lean/daily_adjusted"))
    actions = read_actions(shared("data/lean/corporate_actions.csv"))
    unseen: dict[str, set[str]] = {"split unseen": set(), "dividend unseen": set()}
    for s in catalog.symbols():
        mine = [CorporateAction(symbol=s, ex_date=d, ratio=r, cash_usd=c) for d, r, c in actions[s]]
        for f in examine(s, catalog.columns(s)[1], mine, DAY):
            if f.kind in unseen:
                unseen[f.kind].add(s)

    assert unseen["split unseen"] == {"AAPL", "AIG", "BAC", "GOOGL", "IBM", "IWM"}
    assert unseen["dividend unseen"] >= {"AAPL", "AIG", "BAC", "IBM", "SPY", "WM"}


@pytest.mark.parametrize(("folder", "timeframe"), [("hourly_raw", Timeframe.HOUR_1), ("minute_raw", Timeframe.MIN_1)])
def test_intraday_bars_are_judged_by_the_session(folder: str, timeframe: Timeframe) -> None:
    """Hours and minutes add up to sessions: the same bad prints as in daily bars, and AAPL's halt is a thin session."""
    catalog = open_catalog(shared(f"data/lean/{folder}"))
    kinds = set()
    for s in catalog.symbols():
        columns = catalog.columns(s)[1]
        assert timeframe_of(columns["timestamp"]) is timeframe
        findings = examine(s, columns, (), timeframe)
        kinds |= {f.kind for f in findings}
        if folder == "hourly_raw" and s == "AAPL":
            assert {str(f.first) for f in findings if f.kind == "print"} >= {"2009-09-21", "2010-08-31", "2011-01-03"}
    assert kinds <= {"print", "move", "missing", "thin", "split missing"}


# --- what other people's files mean ----------------------------------------------------------------------------------------


BARS = [(date(2013, 1, 2), 10.0, 11.0, 9.0, 10.5, 100.0), (date(2013, 1, 3), 10.5, 12.0, 10.0, 11.0, 1200.0)]
AT_OPEN = [s.open_ns for s in calendar().sessions(date(2013, 1, 2), date(2013, 1, 3))]

VENDORS = {
    "yahoo": "Date,Open,High,Low,Close,Adj Close,Volume\n2013-01-02,10,11,9,10.5,5.1,100\n2013-01-03,10.5,12,10,11,5.4,1200\n",
    "pandas": "Date,Open,High,Low,Close,Volume,Dividends,Stock Splits\n2013-01-02 00:00:00-05:00,10,11,9,10.5,100,0.0,0.0\n2013-01-03 00:00:00-05:00,10.5,12,10,11,1200,0.0,0.0\n",
    "yfinance": "Price,Close,High,Low,Open,Volume\nTicker,X,X,X,X,X\nDate,,,,,\n2013-01-02,10.5,11,9,10,100\n2013-01-03,11,12,10,10.5,1200\n",
    "to_csv": ",Open,High,Low,Close,Volume\r\n2013-01-02,10,11,9,10.5,100\r\n2013-01-03,10.5,12,10,11,1200\r\n\r\n",
    "alpha vantage": "timestamp,1. open,2. high,3. low,4. close,5. adjusted close,6. volume\n2013-01-03,10.5,12,10,11,5.4,1200\n2013-01-02,10,11,9,10.5,5.1,100\n",
    "tiingo": "date,close,high,low,open,volume,adjClose,divCash,splitFactor\n2013-01-02T00:00:00.000Z,10.5,11,9,10,100,5,0.0,1.0\n2013-01-03T00:00:00.000Z,11,12,10,10.5,1200,5,0.0,1.0\n",
    "nasdaq": 'Date,Close/Last,Volume,Open,High,Low\n01/03/2013,$11,"1,200",$10.5,$12,$10\n01/02/2013,$10.5,100,$10,$11,$9\n',
    "investing": '"Date","Price","Open","High","Low","Vol.","Change %"\n"Jan 03, 2013","11","10.5","12","10","1.2K","4%"\n"Jan 02, 2013","10.5","10","11","9","100","1%"\n',
    "stooq": "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\nX.US,D,20130102,000000,10,11,9,10.5,100,0\nX.US,D,20130103,000000,10.5,12,10,11,1200,0\n",
    "polygon": "ticker,volume,open,close,high,low,window_start,transactions\nX,100,10,10.5,11,9,1357102800000000000,5\nX,1200,10.5,11,12,10,1357189200000000000,6\n",
    "short": "t,o,h,l,c,v,vw,n\n1357102800000,10,11,9,10.5,100,10.1,5\n1357189200000,10.5,12,10,11,1200,11.1,6\n",
    "semicolons": "DATE;OPEN;HIGH;LOW;CLOSE;VOLUME\n2013-01-02;10;11;9;10.5;100\n2013-01-03;10.5;12;10;11;1200\n",
    "closes": "Date,Open,High,Low,Close,Volume\n1/2/2013 16:00:00,10,11,9,10.5,100\n1/3/2013 16:00:00,10.5,12,10,11,1200\n",
    "wiki": "Date,Open,High,Low,Close,Volume,Ex-Dividend,Split Ratio,Adj. Open,Adj. High,Adj. Low,Adj. Close,Adj. Volume\n2013-01-02,10,11,9,10.5,100,0.0,1.0,1,1,1,1,1\n2013-01-03,10.5,12,10,11,1200,0.0,1.0,1,1,1,1,1\n",
}  # fmt: skip


def read(path: Path, **options: object) -> Columns:
    settings: dict[str, object] = {"chosen": {}, "symbol": None, "timezone": "America/New_York"} | options
    result = read_bars(path, **settings)  # type: ignore[arg-type]
    assert list(result.bars) == ["X"]
    return dict(merge("X", None, result.bars["X"], replace=False).columns)


@pytest.mark.parametrize("vendor", VENDORS)
def test_vendors_files_are_read_as_they_are_meant(tmp_path: Path, vendor: str) -> None:
    path = tmp_path / "X.csv"
    path.write_text(VENDORS[vendor])
    columns = read(path)

    assert [new_york_date(int(at)) for at in columns["timestamp"]] == [bar[0] for bar in BARS]
    assert columns["timestamp"].tolist() == [new_york_ns(bar[0]) for bar in BARS]
    for place, name in enumerate(("open", "high", "low", "close", "volume"), 1):
        assert columns[name].tolist() == [bar[place] for bar in BARS]
    assert set(columns.get("split_ratio", [1.0])) == {1.0}
    assert set(columns.get("ex_dividend", [0.0])) == {0.0}


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("datetime,open,high,low,close,volume\n2013-01-02 09:30:00,1,1,1,1,1\n2013-01-02 09:31:00,1,1,1,1,1\n", None),
        ("datetime,open,high,low,close,volume\n2013-01-02 14:30,1,1,1,1,1\n2013-01-02 14:31,1,1,1,1,1\n", "UTC"),
        (
            "timestamp,open,high,low,close,volume\n2013-01-02T14:30:00Z,1,1,1,1,1\n2013-01-02T14:31:00Z,1,1,1,1,1\n",
            None,
        ),
        ("Date,Time,Open,High,Low,Close,Volume\n2013-01-02,09:30:00,1,1,1,1,1\n2013-01-02,09:31:00,1,1,1,1,1\n", None),
        ("Date,Time,Open,High,Low,Close,Volume\n01/02/2013,0930,1,1,1,1,1\n01/02/2013,0931,1,1,1,1,1\n", None),
        ("time,open,high,low,close,volume\n1357137000,1,1,1,1,1\n1357137060,1,1,1,1,1\n", None),
    ],
)
def test_times_of_day_are_new_yorks_unless_they_say_otherwise(tmp_path: Path, text: str, zone: str | None) -> None:
    path = tmp_path / "X.csv"
    path.write_text(text)

    assert read(path, **({"timezone": zone} if zone else {}))["timestamp"].tolist() == [
        AT_OPEN[0],
        AT_OPEN[0] + 60 * 10**9,
    ]


def test_summer_time_is_new_yorks(tmp_path: Path) -> None:
    """09:30 is 13:30Z on 2013-03-11, the first session of summer time, and 14:30Z on the Friday before."""
    path = tmp_path / "X.csv"
    path.write_text(
        "datetime,open,high,low,close,volume\n2013-03-08 09:30:00,1,1,1,1,1\n2013-03-08 09:31:00,1,1,1,1,1\n2013-03-11 09:30:00,1,1,1,1,1\n"
    )

    assert np.datetime_as_string(read(path)["timestamp"].astype("datetime64[ns]"), unit="m").tolist() == [
        "2013-03-08T14:30", "2013-03-08T14:31", "2013-03-11T13:30",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("AAPL.csv", "AAPL"), ("aapl.us.txt", "AAPL"), ("AAPL_daily_raw_2012_2014.csv.gz", "AAPL"), ("BRK.B.parquet", "BRK.B"),
        ("brk-b.csv", "BRK-B"), ("IBM (1).csv", "IBM"), ("HistoricalData_17001.csv", None), ("data.csv", None), ("2013.csv", None),
    ],
)  # fmt: skip
def test_a_files_name_says_the_symbol_or_nothing(name: str, symbol: str | None) -> None:
    assert symbol_of(name) == symbol


def test_a_column_is_chosen_by_name_and_the_rest_is_said() -> None:
    mapping = map_columns(
        ["When", "Open", "High", "Low", "Close", "Last", "Adj Close", "Volume"],
        {"timestamp": "When", "close": "Last"},
        "f",
    )

    assert mapping.sources == {
        "timestamp": "When",
        "close": "Last",
        "open": "Open",
        "high": "High",
        "low": "Low",
        "volume": "Volume",
    }
    assert mapping.ignored == (("Close", "not needed"), ("Adj Close", "prices are kept as traded"))


HEADER = "Date,Open,High,Low,Close,Volume"
GOOD = "2013-01-02,10,11,9,10.5,100"
BAD = [
    ([GOOD, "2013-01-03,10,9,9,10,100"], r"X\.csv line 3: 2013-01-03: high 9 is below 10"),
    ([GOOD, "2013-01-03,10,11,10.5,10,100"], r"line 3: 2013-01-03: low 10.5 is above 10"),
    ([GOOD, "2013-01-03,0,11,9,10,100"], r"line 3: 2013-01-03: open 0 is not a positive price"),
    ([GOOD, "2013-01-03,10,11,9,,100"], r"line 3: 2013-01-03: close unknown"),
    ([GOOD, "2013-01-03,10,11,9,null,100"], r"line 3: 2013-01-03: close unknown"),
    ([GOOD, "2013-01-03,10,11,9,ten,100"], r"line 3: Close 'ten' is not a number"),
    ([GOOD, "2013-01-03,10,11,9,10,-1"], r"line 3: 2013-01-03: volume -1"),
    ([GOOD, "2013-01-05,10,11,9,10,1"], r"line 3: 2013-01-05: no 1Day bar of a session"),
    ([GOOD, "soon,10,11,9,10,1"], r"line 3: 'soon' is not a time"),
    ([GOOD, ",10,11,9,10,1"], r"line 3: no time"),
    ([GOOD, "2013-01-03,10,11,9,10"], r"unreadable: .*Row #3"),
    ([GOOD, "2013-01-03,10,9,9,10,100", "2013-01-04,0,9,9,10,100"], r"line 3: .*\(and \d more\)"),
    ([GOOD, "2013-13-03,10,11,9,10,1"], r"line 3: '2013-13-03' is not a time"),
    ([GOOD, "1/3/2013,10,11,9,10,1"], r"line 3: '1/3/2013' is not a time that is understood, as the others are"),
    (["20130230,10,11,9,10,1"], r"line 2: 20130230 is not a date"),
    (["1.5,10,11,9,10,1"], r"line 2: 1.5 is not a time"),
    (["99999999999999999999,10,11,9,10,1"], r"line 2: 1e\+20 is not a time"),
    ([GOOD, "2262-12-31,10,11,9,10,1"], r"line 3: 2262-12-31 is not a time"),
    (["09:30:00,10,11,9,10,1"], r"line 2: '09:30:00' is not a time that is understood \(ISO"),
    (["2013-01-02,true,11,9,10,1"], r"Open is true or false, not a number"),
    ([GOOD, '2013-01-03,10,11,9,10,"1,2,x"'], r"line 3: Volume '1,2,x' is not a number"),
    (['"2013-01-02,10,11,9,10,1'], r"unreadable: .*Row #2"),
    ([], r"X\.csv: no rows"),
]


@pytest.mark.parametrize(("rows", "says"), BAD)
def test_a_bad_row_is_refused_by_file_and_line(tmp_path: Path, rows: list[str], says: str) -> None:
    path = tmp_path / "X.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    with pytest.raises(BadMarketData, match=says) as caught:
        read(path)
    assert str(caught.value).startswith("X.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "unreadable"),
        (b"\xff\xfe\x00a,b\n", "unreadable"),
        (b"PAR1 nothing\n", "unreadable|no column"),
        (b"2013-01-02,10,11,9,10.5,100\n2013-01-03,10,11,9,10.5,100\n", "no column for timestamp"),
        (b"Date,Open,High,Low,Close\n2013-01-02,1,1,1,1\n", "no column for volume among Date, .*--column volume=NAME"),
        (b"Date,Open,Open,High,Low,Close,Volume\n2013-01-02,1,1,1,1,1,1\n", "two columns are called 'Open'"),
    ],
)
def test_a_file_that_is_no_bars_is_refused_in_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "X.csv"
    path.write_bytes(content)
    with pytest.raises(AlgoRoyaleError, match=says) as caught:
        read(path)
    assert "\n" not in str(caught.value)


ODD = ["", "0", "-1", "10", "9", "11", "2013-01-02", "2013-01-03 09:30", "1/2/2013", "20130102", "1357137000", "nan", "inf", "1e999", "$5", "5K", "x", '"', "09:30", "true", "2262-12-31", "∞", " 7 "]  # fmt: skip


USUAL = ("2013-01-02", "10", "11", "9", "10", "5")


@given(
    st.lists(st.tuples(*(st.one_of(st.just(cell), st.sampled_from(ODD)) for cell in USUAL)), max_size=4),
    st.sampled_from([HEADER, "Time,Date,O,H,L,C,V", "Date,Open,High,Low,Close,x", "Volume,Date,Open,High,Low,Close"]),
)
def test_whatever_a_file_holds_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]], header: str
) -> None:
    """Nothing but one of our own errors, in one line with the file's name, comes out of any file."""
    path = tmp_path_factory.mktemp("odd") / "X.csv"
    path.write_text("\n".join([header, *map(",".join, rows)]) + "\n")
    try:
        read_bars(path, chosen={}, symbol=None, timezone="America/New_York")
    except AlgoRoyaleError as error:
        assert str(error).startswith("X.csv")
        assert "\n" not in str(error)


def test_broken_archives_and_parquet_are_refused(tmp_path: Path) -> None:
    for name in ("X.csv.gz", "X.parquet"):
        (tmp_path / name).write_bytes(b"hello")
        with pytest.raises(BadMarketData, match=f"{name}: unreadable"):
            read(tmp_path / name)


def test_real_samples_are_the_bars_they_were_taken_from() -> None:
    columns = read_bars(
        shared("data/lean/csv_sample/AAPL_daily_raw_2012_2014.csv.gz"), chosen={}, symbol=None, timezone="UTC"
    ).bars["AAPL"]
    source = open_catalog(shared("data/lean/daily_raw")).bars("AAPL", DAY, date(2012, 1, 1), date(2014, 12, 31))

    assert columns["timestamp"].tolist() == source.start_ns.tolist()
    for name in ("open", "high", "low", "close", "volume"):
        assert columns[name].tolist() == getattr(source, name).tolist()


# --- joining and actions ---------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 30), max_size=20), min_size=1, max_size=5))
def test_bars_of_one_truth_join_to_it_however_they_come(chunks: list[list[int]]) -> None:
    """Any parts in any order, overlapping and repeating: each bar once, by time, and nothing lost."""
    truth = daily(31)
    have: Columns | None = None
    added = same = 0
    for rows in (r for r in chunks if r):
        merged = merge("X", have, {name: column[rows] for name, column in truth.items()}, replace=False)
        have, added, same = merged.columns, added + merged.added, same + merged.same
    wanted = sorted({row for rows in chunks for row in rows})
    if have is not None:
        for name, column in truth.items():
            assert have[name].tolist() == column[wanted].tolist()
    assert (added, added + same) == (len(wanted), sum(map(len, chunks)))


def test_a_contradicting_bar_is_refused_or_wins() -> None:
    old, new = daily(5), {name: column[2:3].copy() for name, column in daily(5).items()}
    old["vwap"], new["close"] = np.full(5, 100.0), new["open"].copy()

    with pytest.raises(BadMarketData, match=r"X 2012-01-05: close .* contradicts .*--replace"):
        merge("X", old, new, replace=False)
    merged = merge("X", old, new, replace=True)
    assert (merged.added, merged.same, merged.replaced) == (0, 0, 1)
    assert merged.columns["close"][2] == new["close"][0]
    assert np.isnan(merged.columns["vwap"][2])
    assert merged.columns["vwap"][1] == 100.0


def test_what_one_source_does_not_know_the_other_fills_in() -> None:
    old, new = daily(3), daily(3)
    new["ex_dividend"] = np.array([np.nan, 0.5, np.nan])

    merged = merge("X", old, new, replace=False)
    assert (merged.same, merged.columns["ex_dividend"][1]) == (3, 0.5)
    again = merge("X", merged.columns, daily(3), replace=False)
    assert again.columns["ex_dividend"][1] == 0.5


def test_actions_act_where_there_is_a_bar() -> None:
    """2012-10-29 and 30 had no session: the action acts on the 31st. What lies outside the bars is left out and said."""
    sessions = calendar().sessions(date(2012, 10, 25), date(2012, 11, 2))
    columns = {name: column[: len(sessions)] for name, column in daily(20).items()}
    columns["timestamp"] = np.array([s.label_ns for s in sessions], np.int64)
    actions = [
        (date(2012, 10, 29), 1.0, 0.4),
        (date(2012, 11, 1), 2.0, 0.1),
        (date(2011, 1, 3), 3.0, 0.0),
        (date(2013, 1, 3), 3.0, 0.0),
    ]
    out, notes = add_actions("X", columns, actions, replace=False)

    assert out["ex_dividend"].tolist() == [0.0, 0.0, 0.4, 0.1, 0.0]
    assert out["split_ratio"].tolist() == [1.0, 1.0, 1.0, 2.0, 1.0]
    assert notes == [
        "X: the action of 2012-10-29 acts on 2012-10-31, the next bar there is",
        "X: 2 actions outside 2012-10-25..2012-11-02 left out",
    ]
    assert add_actions("X", out, actions, replace=False)[0]["ex_dividend"].tolist() == out["ex_dividend"].tolist()
    with pytest.raises(BadMarketData, match="split_ratio 4 contradicts 2"):
        add_actions("X", out, [(date(2012, 11, 1), 4.0, 0.0)], replace=False)
    instead, _ = add_actions("X", out, [(date(2012, 11, 2), 4.0, 0.0)], replace=True)
    assert instead["split_ratio"].tolist() == [1.0, 1.0, 1.0, 1.0, 4.0]
    assert instead["ex_dividend"].tolist() == [0.0] * 5


def test_leans_actions_are_read_exactly(tmp_path: Path) -> None:
    """Seven for one is 7, not the 6.999997 that its factors give."""
    actions = read_actions(shared("data/lean/corporate_actions.csv"))

    assert (date(2014, 6, 9), 7.0, 0.0) in actions["AAPL"]
    assert (date(2015, 4, 27), 1.0027, 0.0) in actions["GOOG"]
    assert (date(2011, 1, 20), 1.0, 8.42) in actions["AIG"]
    (tmp_path / "a.csv").write_text("symbol,ex_date,ratio\nX,2013-01-03,-2\n")
    with pytest.raises(BadMarketData, match=r"a\.csv line 2: X: split ratio -2"):
        read_actions(tmp_path / "a.csv")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    columns = daily(30)
    columns["ex_dividend"], columns["vwap"] = np.zeros(30), np.full(30, np.nan)
    columns["ex_dividend"][7] = 0.25
    write_parquet(tmp_path / "X.parquet", columns)
    catalog = open_catalog(tmp_path)

    assert catalog.bars("X", DAY).close.tolist() == columns["close"].tolist()
    assert [a.cash_usd for a in catalog.actions("X")] == [0.25]
    assert pq.read_schema(tmp_path / "X.parquet").names == [
        "timestamp",
        "open",
        "high",
        "low",
        "close",
        "volume",
        "ex_dividend",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["X.parquet"]


def test_compressed_and_plain_text_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "X.csv").write_text(VENDORS["yahoo"])
    (tmp_path / "X.csv.gz").write_bytes(gzip.compress(VENDORS["yahoo"].encode()))

    for name, column in read(tmp_path / "X.csv").items():
        assert read(tmp_path / "X.csv.gz")[name].tolist() == column.tolist()
