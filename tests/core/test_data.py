"""Market data: what ships is what the source says, adjustment is exact and chunk-invariant, and bad files get one clear line."""

import gzip
import hashlib
import struct
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo_royale.data.adjust import ForwardAdjuster, forward_adjusted
from algo_royale.data.catalog import bundled, fingerprint, open_catalog
from algo_royale.errors import BadConfiguration, BadInput, BadMarketData, InsufficientHistory, UnknownName
from algo_royale.market import Bars, CorporateAction, Timeframe
from algo_royale.sessions import calendar
from conftest import ROOT, shared

DAY = Timeframe.DAY_1
HEADER = "timestamp,open,high,low,close,volume"
GOOD = ["2013-01-02,10,11,9,10.5,100", "2013-01-03,10,11,9,10.5,100", "2013-01-04,10,11,9,10.5,100"]


def daily(closes: list[float], first: date = date(2012, 1, 3)) -> Bars:
    """Bars of consecutive sessions with open = high = low = close and a volume of 1,000 shares."""
    start = calendar().offset(first, 0).date
    sessions = [calendar().offset(start, i) for i in range(len(closes))]
    price = np.array(closes, np.float64)
    return Bars(
        symbol="X", timeframe=DAY, start_ns=np.array([s.label_ns for s in sessions], np.int64),
        end_ns=np.array([s.close_ns for s in sessions], np.int64), open=price.copy(), high=price.copy(), low=price.copy(),
        close=price, volume=np.full(len(price), 1000.0), vwap=np.full(len(price), np.nan),
        trade_count=np.full(len(price), -1, np.int64),
    )  # fmt: skip


def on(bars: Bars, index: int, *, ratio: float = 1.0, cash: float = 0.0) -> CorporateAction:
    """An action whose ex-date is the session of bar `index`."""
    day = np.datetime64(int(bars.start_ns[index]), "ns").astype("datetime64[D]").item()
    return CorporateAction(symbol="X", ex_date=day, ratio=ratio, cash_usd=cash)


def folder(tmp_path: Path, rows: list[str], header: str = HEADER) -> Path:
    (tmp_path / "X.csv").write_text("\n".join([header, *rows]) + "\n")
    return tmp_path


# --- the bundled file --------------------------------------------------------------------------------------------------


def test_bundled_symbols_reach_as_far_as_they_should() -> None:
    spans = {}
    for symbol in bundled().symbols():
        bars = bundled().bars(symbol, DAY)
        spans[symbol] = (str(bars.start_ns[0].astype("datetime64[ns]"))[:10], len(bars))

    assert spans == {
        "AAPL": ("2000-03-01", 3270), "FB": ("2012-05-18", 196), "GOOG": ("2004-08-19", 2148),
        "IBM": ("2000-03-01", 3270), "MSFT": ("2000-03-01", 3270),
    }  # fmt: skip


def test_bundled_bars_cover_every_session() -> None:
    for symbol in bundled().symbols():
        bars = bundled().bars(symbol, DAY)
        first = np.datetime64(int(bars.start_ns[0]), "ns").astype("datetime64[D]").item()
        sessions = calendar().sessions(first, date(2013, 3, 1))

        assert bars.start_ns.tolist() == [s.label_ns for s in sessions]
        assert bars.end_ns.tolist() == [s.close_ns for s in sessions]


@pytest.mark.parametrize("symbol", ["AAPL", "FB", "GOOG", "IBM", "MSFT"])
def test_bundled_bars_are_the_checked_ones(symbol: str) -> None:
    table = pq.read_table(shared(f"data/public_domain/daily_raw/{symbol}.parquet"))
    bars = bundled().bars(symbol, DAY)

    assert bars.start_ns.tolist() == table["timestamp"].cast("int64").to_pylist()
    for name in ("open", "high", "low", "close", "volume"):
        assert getattr(bars, name).tolist() == table[name].to_pylist()


def test_bundled_actions_are_the_checked_ones() -> None:
    rows = pyarrow.csv.read_csv(shared("data/public_domain/corporate_actions.csv")).to_pylist()
    expected = [
        (r["symbol"], r["ex_date"], (r["split_new"] or 1) / (r["split_old"] or 1), r["cash_amount"] or 0.0)
        for r in rows
    ]
    found = [(a.symbol, a.ex_date, a.ratio, a.cash_usd) for s in bundled().symbols() for a in bundled().actions(s)]

    assert found == expected


def test_the_bundled_file_is_remade_from_its_source() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "make_bundled.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- forward adjustment ------------------------------------------------------------------------------------------------


def test_a_split_leaves_the_investor_as_rich() -> None:
    """Two for one: the price halves, the adjusted price does not, and twice the shares change hands."""
    bars = daily([100.0, 100.0, 50.0, 51.0])
    adjusted = forward_adjusted(bars, [on(bars, 2, ratio=2.0)])

    assert adjusted.close.tolist() == [100.0, 100.0, 100.0, 102.0]
    assert adjusted.volume.tolist() == [1000.0, 1000.0, 500.0, 500.0]


def test_a_dividend_is_reinvested_at_the_price_without_it() -> None:
    """One share at 100 pays 4 and opens at 96: 4/96 of a share more, worth 100 again."""
    bars = daily([100.0, 96.0, 48.0])
    adjusted = forward_adjusted(bars, [on(bars, 1, cash=4.0)])

    assert adjusted.close.tolist() == pytest.approx([100.0, 100.0, 50.0], rel=1e-15)
    assert adjusted.volume.tolist() == [1000.0] * 3


def test_adjusted_prices_are_the_wealth_of_one_who_reinvests() -> None:
    """A slow loop holds shares, takes splits and dividends, and buys at the previous close less the dividend."""
    rng = np.random.default_rng(7)
    bars = daily((50 * np.exp(np.cumsum(rng.normal(0, 0.02, 300)))).tolist())
    actions = [
        on(bars, 20, cash=0.5),
        on(bars, 90, ratio=3.0),
        on(bars, 91, cash=0.1),
        on(bars, 200, ratio=0.1, cash=0.7),
    ]
    by_start = {int(bars.start_ns[i]): a for i, a in zip((20, 90, 91, 200), actions, strict=True)}
    shares, wealth = 1.0, []
    for i, start in enumerate(bars.start_ns.tolist()):
        if start in by_start:
            action = by_start[start]
            shares *= action.ratio
            before = bars.close[i - 1] / action.ratio
            shares += shares * action.cash_usd / (before - action.cash_usd)
        wealth.append(shares * bars.close[i])

    assert forward_adjusted(bars, actions).close.tolist() == pytest.approx(wealth, rel=1e-13)


@given(st.data())
def test_any_cut_into_chunks_gives_the_same_bits(data: st.DataObject) -> None:
    """Including empty chunks, and actions learned only when their bar is next."""
    bars = daily(data.draw(st.lists(st.floats(1.0, 500.0), min_size=1, max_size=40)))
    where = data.draw(st.lists(st.integers(0, len(bars) - 1), max_size=6, unique=True))
    actions = [on(bars, i, ratio=data.draw(st.sampled_from([1.0, 2.0, 0.5])), cash=0.25) for i in where]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(bars)), max_size=8)))
    whole = forward_adjusted(bars, actions)

    adjuster, late = ForwardAdjuster(), ForwardAdjuster(actions)
    for low, high in zip([0, *cuts], [*cuts, len(bars)], strict=True):
        chunk = bars.slice(low, high)
        for index, action in zip(where, actions, strict=True):
            if low <= index < high:
                adjuster.learn(action)
        for one in (adjuster.update(chunk), late.update(chunk)):
            for name in ("open", "high", "low", "close", "volume"):
                assert getattr(one, name).tobytes() == getattr(whole, name)[low:high].tobytes()


def test_adjustment_leaves_extra_columns_alone() -> None:
    bars = daily([10.0, 11.0, 12.0])
    mine = np.array([True, False, True])

    adjusted = forward_adjusted(replace(bars, extra={"mine": mine}), [on(bars, 1, ratio=2.0)])

    assert adjusted.extra["mine"].tolist() == mine.tolist()
    assert adjusted.slice(1, 3).extra["mine"].tolist() == [False, True]


def test_actions_before_the_second_bar_change_nothing() -> None:
    bars = daily([10.0, 11.0, 12.0], first=date(2012, 6, 1))
    early = [on(bars, 0, ratio=2.0), CorporateAction(symbol="X", ex_date=date(2012, 5, 1), cash_usd=1.0)]

    assert forward_adjusted(bars, early).close.tolist() == [10.0, 11.0, 12.0]


def test_an_action_learned_too_late_is_refused() -> None:
    """Bars that were adjusted without it are wrong; only history can put that right."""
    bars = daily([10.0, 11.0, 12.0])
    adjuster = ForwardAdjuster()
    adjuster.update(bars.slice(0, 2))

    adjuster.learn(on(bars, 2, ratio=2.0))
    adjuster.learn(on(bars, 2, ratio=2.0))  # heard twice, counts once
    assert adjuster.update(bars.slice(2, 3)).close.tolist() == [24.0]
    with pytest.raises(BadMarketData, match="learned after"):
        adjuster.learn(on(bars, 1, cash=1.0))


def test_a_dividend_larger_than_the_price_is_refused() -> None:
    bars = daily([10.0, 11.0])
    with pytest.raises(BadMarketData, match="not less than the close"):
        forward_adjusted(bars, [on(bars, 1, cash=10.0)])


@pytest.mark.parametrize("symbol", ["AAPL", "IBM", "SPY"])
def test_adjustment_agrees_with_leans_factor_files(symbol: str) -> None:
    """Lean adjusts backwards with the same dividend factor, so the two series differ by one constant."""
    source = shared("data/lean/daily_raw")
    rows = pyarrow.csv.read_csv(shared("data/lean/corporate_actions.csv")).to_pylist()
    actions = [
        CorporateAction(symbol=symbol, ex_date=r["ex_date"], ratio=(r["split_new"] or 1) / (r["split_old"] or 1), cash_usd=r["cash_amount"] or 0.0)
        for r in rows
        if r["symbol"] == symbol
    ]  # fmt: skip
    forward = forward_adjusted(open_catalog(source).bars(symbol, DAY), actions)
    backward = np.array(pq.read_table(shared(f"data/lean/daily_adjusted/{symbol}.parquet"))["close"])
    quotient = forward.close / backward

    assert quotient.max() / quotient.min() == pytest.approx(1.0, abs=2e-4)  # its factors have seven digits


# --- a folder of files -------------------------------------------------------------------------------------------------


def test_csv_and_parquet_give_the_same_bars(tmp_path: Path) -> None:
    source = folder(tmp_path, GOOD)
    from_csv = open_catalog(source).bars("X", DAY)
    pq.write_table(pyarrow.csv.read_csv(source / "X.csv"), tmp_path / "Y.parquet")
    (tmp_path / "Z.csv.gz").write_bytes(gzip.compress((source / "X.csv").read_bytes()))

    for name in ("Y", "Z"):
        bars = open_catalog(source).bars(name, DAY)
        assert bars.close.tolist() == from_csv.close.tolist() == [10.5] * 3
        assert bars.start_ns.tolist() == [calendar().offset(date(2013, 1, 2), i).label_ns for i in range(3)]


def test_actions_come_from_their_columns(tmp_path: Path) -> None:
    rows = [GOOD[0] + ",,", GOOD[1] + ",0.5,", GOOD[2] + ",0,2"]
    catalog = open_catalog(folder(tmp_path, rows, HEADER + ",ex_dividend,split_ratio"))

    assert catalog.actions("X") == (
        CorporateAction(symbol="X", ex_date=date(2013, 1, 3), cash_usd=0.5),
        CorporateAction(symbol="X", ex_date=date(2013, 1, 4), ratio=2.0),
    )


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([GOOD[0], "2013-01-03,10,11,9,,100"], r"row 1 .*close nan"),
        ([GOOD[0], "2013-01-03,-10,11,9,10,100"], r"row 1 .*open -10"),
        ([GOOD[0], "2013-01-03,0,11,0,10,100"], r"row 1 .*open 0"),
        ([GOOD[0], "2013-01-03,10,inf,9,10,100"], r"row 1 .*high inf"),
        ([GOOD[0], "2013-01-03,10,9.5,9,10,100"], r"row 1 .*high/low"),
        ([GOOD[0], "2013-01-03,10,11,9,10,-1"], r"row 1 .*volume -1"),
        ([GOOD[0], "2013-01-03,10,11,9,ten,100"], r"row 1: close 'ten' is not a number"),
        ([GOOD[1], GOOD[0]], r"row 1 .*not sorted"),
        ([GOOD[0], GOOD[0]], r"row 1 .*duplicate"),
        ([GOOD[0], "2013-01-05,10,11,9,10,100"], r"row 1 .*not the label of a session"),
        ([GOOD[0], "soon,10,11,9,10,100"], r"row 1: timestamp 'soon'"),
        ([], "no rows"),
    ],
)
def test_bars_that_cannot_be_true_name_file_and_row(tmp_path: Path, rows: list[str], says: str) -> None:
    with pytest.raises(BadMarketData, match=says) as caught:
        open_catalog(folder(tmp_path, rows)).bars("X", DAY)
    assert str(caught.value).startswith("X.csv")
    assert "\n" not in str(caught.value)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadMarketData, match=r"X\.csv: no column 'volume'"):
        open_catalog(folder(tmp_path, ["2013-01-02,1,1,1,1"], "timestamp,open,high,low,close")).bars("X", DAY)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "X.parquet").write_bytes(b"hello")
    with pytest.raises(BadMarketData, match=r"X\.parquet: unreadable"):
        open_catalog(tmp_path).bars("X", DAY)


def test_what_does_not_exist_is_said_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'MSFT'"):
        bundled().bars("MSTF", DAY)
    with pytest.raises(InsufficientHistory, match="2012-05-18"):
        bundled().bars("FB", DAY, date(2001, 1, 1), date(2002, 1, 1))
    for source in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BadInput, match="no market data"):
            open_catalog(source)


def test_a_range_includes_both_dates() -> None:
    bars = bundled().bars("AAPL", DAY, date(2013, 2, 25), date(2013, 3, 1))

    assert [bar.start_ns for bar in bars] == [
        s.label_ns for s in calendar().sessions(date(2013, 2, 25), date(2013, 3, 1))
    ]


def test_minute_bars_keep_regular_hours_and_end_at_the_close(tmp_path: Path) -> None:
    """2013-07-03 closed at 13:00 New York, 17:00Z."""
    minutes = ["13:29", "13:30", "16:59", "17:00"]
    rows = [f"2013-07-03T{m}:00Z,10,11,9,10,1" for m in minutes]
    bars = open_catalog(folder(tmp_path, rows)).bars("X", Timeframe.MIN_1)

    assert bars.start_ns.astype("datetime64[ns]").astype("datetime64[m]").astype(str).tolist() == [
        "2013-07-03T13:30",
        "2013-07-03T16:59",
    ]
    assert bars.end_ns.tolist() == (bars.start_ns + 60_000_000_000).tolist()
    hours = [f"2013-07-03T{h}:00:00Z,10,11,9,10,1" for h in (13, 14, 15, 16)]
    (tmp_path / "H.csv").write_text("\n".join([HEADER, *hours]) + "\n")
    hourly = open_catalog(tmp_path).bars("H", Timeframe.HOUR_1)
    assert len(hourly) == 4  # the first holds 13:30 to 14:00
    assert hourly.end_ns[-1] == calendar().offset(date(2013, 7, 3), 0).close_ns


def test_bars_of_another_timeframe_are_refused(tmp_path: Path) -> None:
    rows = [f"2013-07-02T14:{m:02d}:00Z,10,11,9,10,1" for m in range(4)]
    source = folder(tmp_path, rows)

    with pytest.raises(BadMarketData, match="not the label of a session"):
        open_catalog(source).bars("X", DAY)
    with pytest.raises(BadMarketData, match="row 1 .*does not start a 5Min bar"):
        open_catalog(source).bars("X", Timeframe.MIN_5)
    with pytest.raises(BadMarketData, match="are these other bars"):
        open_catalog(folder(tmp_path, GOOD)).bars("X", Timeframe.MIN_5)


@pytest.mark.parametrize(
    ("symbol", "timeframe"), [("IBM", Timeframe.MIN_1), ("AAPL", Timeframe.HOUR_1), ("GOOG", Timeframe.MIN_1)]
)
def test_real_intraday_files_are_read(symbol: str, timeframe: Timeframe) -> None:
    """Including a half day (GOOG 2015-12-24) and hour bars that some early-close days run past."""
    source = shared("data/lean/minute_raw" if timeframe is Timeframe.MIN_1 else "data/lean/hourly_raw")
    bars = open_catalog(source).bars(symbol, timeframe)
    sessions = {calendar().session_at(int(end) - 1) for end in bars.end_ns[:: max(1, len(bars) // 500)]}

    assert None not in sessions
    assert (bars.end_ns > bars.start_ns).all()


# --- fingerprints ------------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_the_documented_bytes() -> None:
    """Written out by hand for one bar."""
    bars = daily([10.0])
    plain = b"X\0" + b"1Day\0" + b"raw\0" + struct.pack("<qq", 1, int(bars.start_ns[0]))
    plain += struct.pack("<ddddd", 10, 10, 10, 10, 1000) + bytes.fromhex("000000000000f87f") + struct.pack("<q", -1)

    assert fingerprint([bars], "raw") == hashlib.sha256(plain).hexdigest()


def test_the_fingerprint_notices_a_changed_dividend(tmp_path: Path) -> None:
    """And neither the order of symbols nor the file format."""
    header = HEADER + ",ex_dividend"
    first = open_catalog(folder(tmp_path, [GOOD[0] + ",0", GOOD[1] + ",0.5", GOOD[2] + ",0"], header))
    before = (first.fingerprint(["X"], DAY), first.fingerprint(["X"], DAY, "raw"))
    second = open_catalog(folder(tmp_path, [GOOD[0] + ",0", GOOD[1] + ",0.6", GOOD[2] + ",0"], header))

    assert second.fingerprint(["X"], DAY) != before[0]
    assert second.fingerprint(["X"], DAY, "raw") == before[1]
    assert bundled().fingerprint(["IBM", "AAPL"], DAY) == bundled().fingerprint(["AAPL", "IBM", "AAPL"], DAY)


def test_symbols_of_a_length_are_those_that_have_it(tmp_path: Path) -> None:
    """What a backtest on days takes of a folder in which one symbol has minutes only."""
    for path in ("1Day/A.csv", "1Min/B.csv", "C.csv"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("\n".join([HEADER, *GOOD]) + "\n")
    catalog = open_catalog(tmp_path)

    assert catalog.symbols() == ("A", "B", "C")
    assert catalog.symbols(DAY) == ("A", "C")
    assert catalog.symbols(Timeframe.MIN_1) == ("B", "C")
    (tmp_path / "C.csv").unlink()
    assert open_catalog(tmp_path).symbols(Timeframe.MIN_5) == ("A", "B")


# --- changes of name ---------------------------------------------------------------------------------------------------


def days_of(folder: Path, symbol: str, days: range, close: float) -> None:
    """Daily bars of that close on those sessions of 2013."""
    rows = [f"{calendar().offset(date(2013, 1, 2), i).date},{close},{close},{close},{close},100" for i in days]
    (folder / f"{symbol}.csv").write_text("\n".join([HEADER, *rows]) + "\n")


def test_a_share_that_left_its_name_and_came_back_has_all_its_bars(tmp_path: Path) -> None:
    """As QQQ, QQQQ and QQQ again did. The own file goes before the others', and the others add only what it has not."""
    names = [calendar().offset(date(2013, 1, 2), i).date for i in (4, 8)]
    days_of(tmp_path, "QQQ", range(12), 1.0)
    lines = (tmp_path / "QQQ.csv").read_text().splitlines()
    (tmp_path / "QQQ.csv").write_text("\n".join(lines[:4] + lines[10:]) + "\n")  # its sessions 0 to 2 and 9 to 11
    days_of(tmp_path, "QQQQ", range(2, 11), 4.0)
    (tmp_path / "symbol_changes.csv").write_text(f"old_ticker,new_ticker,effective_date,note\n,QQQ,1999-03-10,new\nQQQ,QQQQ,{names[0]},a\nQQQQ,QQQ,{names[1]},b\n")  # fmt: skip
    catalog = open_catalog(tmp_path)

    assert catalog.symbols() == ("QQQ", "QQQQ")
    assert catalog.bars("QQQ", DAY).close.tolist() == [1, 1, 1, 4, 4, 4, 4, 4, 1, 1, 1]  # session 8 is nobody's
    assert catalog.bars("QQQQ", DAY).close.tolist() == [1, 1, *[4] * 9]


def test_a_history_that_is_whole_already_stays_as_it_is(tmp_path: Path) -> None:
    """GOOGL's file goes back to when it was called GOOG, which is another share's name now."""
    days_of(tmp_path, "GOOGL", range(10), 2.0)
    days_of(tmp_path, "GOOG", range(5, 10), 3.0)
    (tmp_path / "symbol_changes.csv").write_text(f"old_symbol,new_symbol,date\nGOOG,GOOGL,{calendar().offset(date(2013, 1, 2), 5).date}\n")  # fmt: skip
    catalog = open_catalog(tmp_path)

    assert catalog.bars("GOOGL", DAY).close.tolist() == [2.0] * 10
    assert catalog.bars("GOOG", DAY).close.tolist() == [3.0] * 5


def test_actions_follow_the_share_through_its_names(tmp_path: Path) -> None:
    """A dividend paid under the old name and a split under the new one are one share's; its equity is continuous."""
    header = f"{HEADER},ex_dividend,split_ratio"
    (tmp_path / "FB.csv").write_text(
        "\n".join([header, "2013-01-02,100,100,100,100,1,,", "2013-01-03,96,96,96,96,1,4,"]) + "\n"
    )
    (tmp_path / "META.csv").write_text(
        "\n".join([header, "2013-01-04,48,48,48,48,2,,2", "2013-01-07,54,54,54,54,2,,"]) + "\n"
    )
    (tmp_path / "symbol_changes.csv").write_text("old_symbol,new_symbol,date\nFB,META,2013-01-04\n")
    catalog = open_catalog(tmp_path)

    assert [(a.symbol, a.cash_usd, a.ratio) for a in catalog.actions("META")] == [
        ("META", 4.0, 1.0),
        ("META", 0.0, 2.0),
    ]
    assert catalog.adjusted("META", DAY).close.tolist() == pytest.approx([100.0, 100.0, 100.0, 112.5], rel=1e-15)
    assert catalog.fingerprint(["META"], DAY) != catalog.fingerprint(["FB"], DAY)


# --- columns of true and false -----------------------------------------------------------------------------------------


def test_extra_columns_reach_the_bars_and_their_fingerprint(tmp_path: Path) -> None:
    """From CSV and Parquet; numbers and texts that are none of ours stay where they are."""
    header, words = f"{HEADER},mine,score,note", ("true", "false", "true")
    plain = open_catalog(folder(tmp_path, GOOD)).fingerprint(["X"], DAY)
    rows = [f"{row},{word},0.5,x" for row, word in zip(GOOD, words, strict=True)]
    csv = open_catalog(folder(tmp_path, rows, header)).bars("X", DAY)
    pq.write_table(pyarrow.csv.read_csv(tmp_path / "X.csv"), tmp_path / "Y.parquet")
    parquet = open_catalog(tmp_path).bars("Y", DAY)

    assert [b.extra["mine"].tolist() for b in (csv, parquet)] == [[True, False, True]] * 2
    assert list(csv.extra) == ["mine"]
    marked = open_catalog(tmp_path).fingerprint(["X"], DAY)
    other = folder(tmp_path, [row.replace("false", "true") for row in rows], header)
    assert len({plain, marked, open_catalog(other).fingerprint(["X"], DAY)}) == 3


def test_a_condition_reads_an_extra_column_and_says_so_where_there_is_none(tmp_path: Path) -> None:
    """BooleanColumnEntry over a file that has the column; bars of a feed have none, and one line says it."""
    from algo_royale.strategies.strategy import compose

    rows = [f"{row},{word}" for row, word in zip(GOOD, ("false", "true", "false"), strict=True)]
    bars = open_catalog(folder(tmp_path, rows, f"{HEADER},entry_signal")).adjusted("X", DAY)
    params = {"entry_conditions": [{"BooleanColumnEntry": {}}], "exit_conditions": [{"RSIExit": {}}]}
    strategy = compose("Mine", params, DAY, columns=bars.extra)

    assert strategy.run(bars).signal.tolist() == [0, 1, 0]
    with pytest.raises(BadMarketData, match="X: the bars have no extra column 'entry_signal'"):
        strategy.run(replace(bars, extra={}))
    with pytest.raises(BadConfiguration, match="reads the extra column 'entry_signal', which nobody declared"):
        compose("Mine", params, DAY)
