"""The report's page: what it says is what the artifacts and the bars say, and it needs nothing but itself."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as some

from algo_royale.app import report
from algo_royale.app.cli import root as command_line
from algo_royale.app.report import charts, model, silence
from algo_royale.app.report.findings import PROBLEM, Finding, findings, first, number, passport, percent
from algo_royale.app.report.model import CostRow, Run, Subject, Trade, Walk
from algo_royale.data.catalog import bundled
from algo_royale.errors import ArtifactError
from algo_royale.features import FeatureCache, Program
from algo_royale.market import Timeframe
from algo_royale.research import artifacts, metrics, stages
from algo_royale.research.plan import series
from algo_royale.research.stages import ResearchConfig
from algo_royale.research.viability import Check, ViabilityConfig
from algo_royale.research.windows import WindowConfig, bar_starts
from algo_royale.sessions import calendar, new_york_date
from algo_royale.strategies.conditions import CONDITIONS, condition

MILD = ViabilityConfig(checks=(Check(name="sharpe_ratio", op=">=", threshold=-9.0), Check(name="win_rate", op=">=", threshold=0.99)), threshold=0.5, hard_checks=())  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ResearchConfig:
    """A run on the bundled prices; FB begins too late for any of its windows."""
    config = ResearchConfig(
        artifacts_root=tmp_path_factory.mktemp("run") / "artifacts", symbols=("AAPL", "FB", "IBM"),
        strategies=("MeanReversionStrategy", "RSIStrategy"), portfolios=("EqualWeightPortfolioStrategy",),
        windows=WindowConfig(count=3), trials=4, portfolio_trials=2, viability=MILD,
    )  # fmt: skip
    stages.run_all(config, created_at="2024-05-01T14:03:22Z")
    return config


@pytest.fixture(scope="module")
def run(made: ResearchConfig) -> Run:
    return model.load(made.artifacts_root)


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    return report.render(run)


def document(made: ResearchConfig, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((made.artifacts_root / path).read_text())
    return found


# --- the figures ---------------------------------------------------------------------------------------------------------


def test_the_configuration_comes_back_from_the_manifest(made: ResearchConfig, run: Run) -> None:
    for name in ("symbols", "strategies", "portfolios", "timeframe", "data", "windows", "trials", "portfolio_trials",
                 "objective", "min_trades", "seed", "costs", "start_equity", "rf", "viability"):  # fmt: skip
        assert getattr(run.config, name) == getattr(made, name), name


def test_the_curve_ends_where_the_artifact_says(made: ResearchConfig, run: Run) -> None:
    for subject in [*run.symbols, run.portfolio]:
        assert subject is not None
        assert subject.equity[-1] - 1.0 == pytest.approx(subject.document["oos"]["total_return"], abs=1e-12)
        assert (
            len(subject.dates)
            == len(subject.returns)
            == len(subject.benchmark)
            == subject.document["oos"]["n_sessions"]
        )
        assert list(subject.dates) == sorted(set(subject.dates))


def test_trades_computed_again_are_those_that_were_recorded(made: ResearchConfig, run: Run) -> None:
    for subject in run.symbols:
        recorded = []
        for walk in subject.walks:
            folder = artifacts.signal_folder(subject.name, subject.strategy)
            with np.load(made.artifacts_root / folder / walk.window_id / artifacts.SIDECAR) as arrays:
                recorded += arrays["test_trade_pnl"].tolist()
        assert [trade.net_pnl for trade in subject.trades] == recorded
        assert subject.equal
        assert subject.costs[1].total_return == pytest.approx(subject.document["oos"]["total_return"], abs=1e-12)
    assert any(subject.trades for subject in run.symbols)


def test_a_trade_stands_at_the_sessions_of_its_prices(run: Run) -> None:
    """An entry is at that day's open and slippage worse, which is 5 bp."""
    for subject in run.symbols:
        bars = bundled().adjusted(subject.name, Timeframe.DAY_1)
        opens = {new_york_date(int(ns)): price for ns, price in zip(bars.start_ns, bars.open, strict=True)}
        for trade in subject.trades:
            assert subject.dates[trade.entry] == trade.entered
            assert trade.entry_price == pytest.approx(opens[trade.entered] * 1.0005)
            if not trade.closed_by_end:
                assert trade.exit_price == pytest.approx(opens[trade.exited] * 0.9995)


def test_holding_is_the_last_close_over_the_first_open_of_each_window(run: Run) -> None:
    for subject in run.symbols:
        total = 1.0
        for walk in subject.walks:
            bars = bundled().adjusted(subject.name, Timeframe.DAY_1)
            days = [new_york_date(int(ns)) for ns in bars.start_ns]
            first, last = days.index(walk.test_start), days.index(walk.test_end)
            assert walk.benchmark == pytest.approx(bars.close[last] / bars.open[first] - 1.0)
            total *= 1.0 + walk.benchmark
        assert subject.benchmark_figures["total_return"] == pytest.approx(total - 1.0)


def test_what_is_held_and_the_cash_are_the_whole_account(made: ResearchConfig, run: Run) -> None:
    """On a day with executions the recorded cash after the last one and the shares held at the close are 1 together."""
    subject = run.portfolio
    assert subject is not None and subject.held is not None
    assert subject.fills
    after = {fill["timestamp"][:10]: fill["cash_after"] for fill in subject.fills}
    total = np.sum(list(subject.held.values()), axis=0)
    for walk in subject.walks:
        equity = made.start_equity * np.cumprod(1.0 + subject.returns[walk.first : walk.last])
        for index in range(walk.first, walk.last - 1):  # the last equity is after selling everything
            cash = after.get(subject.dates[index].isoformat())
            if cash is not None:
                assert total[index] + cash / equity[index - walk.first] == pytest.approx(1.0, abs=1e-9)


def test_hourly_bars_have_a_value_a_session_and_trades_on_their_days(tmp_path: Path) -> None:
    """A random walk with waves, in windows that begin and end within sessions."""
    days = calendar().sessions(date(2012, 1, 3), date(2012, 10, 1))
    starts = [at for day in days for at in bar_starts(day, Timeframe.HOUR_1)]
    rng, n = np.random.default_rng(3), len(starts)
    close = 50 * np.exp(np.cumsum(0.003 * np.sin(np.arange(n) / 20) + rng.normal(0, 0.006, n)))
    open_ = np.concatenate(([50.0], close[:-1]))
    columns = {
        "timestamp": pyarrow.array(starts, pyarrow.timestamp("ns", tz="UTC")), "open": open_, "close": close,
        "high": np.maximum(open_, close), "low": np.minimum(open_, close), "volume": np.full(n, 1e5),
    }  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "AAA.parquet")
    config = ResearchConfig(
        artifacts_root=tmp_path / "artifacts", symbols=("AAA",), strategies=("RSIStrategy",), portfolios=(), trials=3,
        timeframe=Timeframe.HOUR_1, data=str(tmp_path), min_trades=1,
        windows=WindowConfig(unit="bars", train=500, test=160, holdout=100, embargo=3),
    )  # fmt: skip
    stages.run_all(config)
    run = model.load(config.artifacts_root)
    subject = run.symbols[0]

    assert subject.equal and subject.trades and run.portfolio is None
    assert subject.equity[-1] - 1.0 == pytest.approx(subject.document["oos"]["total_return"], abs=1e-12)
    opens: dict[date, set[float]] = {new_york_date(at): set() for at in starts}
    for at, price in zip(starts, open_, strict=True):
        opens[new_york_date(at)].add(round(price * 1.0005, 9))
    assert all(round(trade.entry_price, 9) in opens[trade.entered] for trade in subject.trades)
    read(report.render(run))


def test_drawdowns_by_hand() -> None:
    """1 -> 0.9 -> 1.1 -> 0.88 -> 0.99: the first fall recovers on day 2, the second one never."""
    days = [date(2020, 1, 1) + timedelta(days=i) for i in range(5)]
    found = model.worst_drawdowns(days, np.array([0.9, 1.1, 0.88, 0.99, 1.0]))

    assert [(d.peak.day, d.valley.day, d.end and d.end.day, d.sessions) for d in found] == [
        (2, 3, None, 3),
        (1, 1, 2, 1),
    ]
    assert [d.depth for d in found] == pytest.approx([0.2, 0.1])


@given(some.lists(some.floats(-0.2, 0.2), min_size=1, max_size=400))
def test_months_compound_to_their_year_and_years_to_the_whole(returns: list[float]) -> None:
    days = [date(2019, 11, 5) + timedelta(days=i) for i in range(len(returns))]
    table = model.monthly(days, np.array(returns))

    years = [np.array(values, np.float64) for values in table.values()]  # None becomes NaN
    for values in years:
        assert np.nanprod(1.0 + values[:12]) == pytest.approx(1.0 + values[12])
    assert np.prod([1.0 + values[12] for values in years]) == pytest.approx(np.prod(1.0 + np.array(returns)))


def test_the_rolling_ratio_looks_back_only() -> None:
    returns = np.random.default_rng(5).normal(0.001, 0.01, 80)
    found = model.rolling_sharpe(returns, 30)

    assert np.isnan(found[:29]).all()
    part = returns[20:50]
    assert found[49] == pytest.approx(part.mean() / part.std(ddof=1) * np.sqrt(252))
    returns[40:] = 0.0
    again, whole = (
        model.rolling_sharpe(returns, 30),
        [metrics.sharpe_ratio(returns[i - 29 : i + 1]) for i in range(29, 80)],
    )
    assert again[29:] == pytest.approx([np.nan if value is None else value for value in whole], nan_ok=True)


# --- the page ------------------------------------------------------------------------------------------------------------


class Tree(HTMLParser):
    """Raises on a tag closed out of order; keeps the text, and every attribute that could fetch something."""

    VOID = frozenset({"meta", "br", "link", "img", "path", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [f"{tag} {k}={v}" for k, v in attrs if k in ("src", "href", "xlink:href") and v and v[0] != "#"]
        if tag in ("script", "link", "iframe", "object", "img"):
            self.fetched.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> Tree:
    tree = Tree()
    tree.feed(page)
    tree.close()
    assert tree.open == []
    return tree


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    tree = read(page)

    assert tree.fetched == []
    assert re.findall(r"@import|url\(|http:|https:", page) == []
    assert len(page.encode()) < 5_000_000


def test_it_says_who_is_viable_and_what_was_missed(made: ResearchConfig, page: str) -> None:
    text = re.sub(r"[ \n]+", " ", " ".join(read(page).text))
    for symbol in ("AAPL", "IBM"):
        summary = document(made, f"signal/{symbol}/summary_result.json")
        assert percent(summary["oos"]["total_return"]) in text
        for check in summary["checks"]:
            assert (
                check["passed"]
                or f"{check['name'].replace('_', ' ')} {percent(check['value'], sign=False)} (≥ 99.0" in text
            )
    assert "its data cover no whole window" in text
    assert "2 of 3 symbols are viable" in text


def test_the_same_artifacts_give_the_same_bytes_and_the_time_of_the_run_stands_in_one_line(
    made: ResearchConfig, page: str, tmp_path: Path
) -> None:
    copy = tmp_path / "artifacts"
    shutil.copytree(made.artifacts_root, copy)
    assert report.render(model.load(copy)) == page

    manifest = document(made, artifacts.MANIFEST)
    manifest["meta"] = {"created_at": "2030-01-01T00:00:00Z", "run_time_sec": 7.0}
    (copy / artifacts.MANIFEST).write_bytes(artifacts.dumps(manifest))
    other = report.render(model.load(copy)).splitlines()
    assert [line[:8] for line, before in zip(other, page.splitlines(), strict=True) if line != before] == ["<footer>"]


def test_a_name_is_text_and_never_markup(run: Run) -> None:
    hostile = '<img src=x onerror="alert(1)">&'
    subject = replace_subject(run.symbols[0], name=hostile)
    shown = report.render(replace(run, symbols=(subject,)))

    assert read(shown).fetched == []
    assert "<img" not in shown


def replace_subject(subject: Subject, **more: Any) -> Subject:
    return Subject(**{name: getattr(subject, name) for name in Subject.__dataclass_fields__} | more)


def test_many_symbols_stay_below_five_megabytes(run: Run) -> None:
    """Five hundred symbols of this length: the best have a section, all have a line."""
    names = [f"S{i:03}" for i in range(500)]
    many = tuple(replace_subject(run.symbols[i % 2], name=name) for i, name in enumerate(names))
    page = report.render(replace(run, symbols=many))

    assert len(page.encode()) < 5_000_000
    assert page.count('<section class="subject"') == model.DETAILED_MAX + 1
    assert all(f">{name}</a>" in page or f"<b>{name}</b>" in page for name in names)


def test_of_many_symbols_the_best_are_computed_again_and_the_rest_are_rows(
    made: ResearchConfig, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "DETAILED_MAX", 1)
    few = model.load(made.artifacts_root)
    best, rest = few.symbols

    assert [s.name for s in few.symbols] == [s.name for s in run.symbols]
    assert best.detailed and best.costs and not rest.detailed and not rest.costs and not rest.trades
    assert np.array_equal(rest.returns, run.symbols[1].returns)
    shown = report.render(few)
    assert f'<section class="subject" id="{best.name}">' in shown
    assert f'<section class="subject" id="{rest.name}">' not in shown and f"<b>{rest.name}</b>" in shown
    assert "The 1 best symbols are told in full" in shown and "The other 1 symbols" in shown


def test_thousands_of_trades_are_a_few_paths(run: Run) -> None:
    subject = replace_subject(run.symbols[0], trades=trades(700))
    few = charts.price(replace_subject(subject, trades=trades(20)))

    assert few.count("<title>") == 20 and charts.price(subject).count("<title>") == 0
    assert charts.price(subject).count('class="trade') == 2
    crowded = charts.drawn(trades(charts.TRADES_MAX + 200))
    assert len(crowded) == charts.TRADES_MAX and min(abs(t.gain) for t in crowded) == pytest.approx(200 / 1e4)
    assert [t.entry for t in crowded] == sorted(t.entry for t in crowded)


def test_costs_eat_a_return_at_the_multiple_where_it_crosses_zero(run: Run) -> None:
    def said(*totals: float) -> str:
        return report._breakeven(replace_subject(run.symbols[0], costs=cost_rows(*totals)))

    assert said(0.3, 0.2, 0.1, -0.1) == "The return is gone at about 2.5 times the costs."
    assert said(0.3, 0.25, 0.2, 0.15) == "The return bears 3 times the costs."
    assert said(-0.1, -0.2, -0.3, -0.4) == "It loses even without costs."


def test_a_portfolio_is_simulated_at_every_cost(made: ResearchConfig, run: Run) -> None:
    """Dearer is worse here, the recorded run stands at one, and without costs a fill's price is the open itself."""
    assert run.portfolio is not None
    totals = [row.total_return for row in run.portfolio.costs]

    assert [row.multiple for row in run.portfolio.costs] == [0, 1, 2, 3]
    assert totals == sorted(totals, reverse=True) and len(set(totals)) == 4
    assert totals[1] == pytest.approx(run.portfolio.document["oos"]["total_return"], abs=1e-12)
    assert totals[2] == pytest.approx(run.portfolio.document["passport"]["double_costs_total_return"], abs=1e-12)
    paid = sum(f["slippage_cost"] + f["commission"] + f["fees"] for f in run.portfolio.fills)
    windows = len(run.portfolio.walks)
    assert (totals[0] - totals[1]) / windows == pytest.approx(paid / made.start_equity / windows, rel=0.3)


def test_one_problem_of_many_symbols_is_said_once(run: Run) -> None:
    many = [
        Finding(level=PROBLEM, about=f"S{i}", title=f"It may be luck: {i}", fact=f"Odds {i}.", advice="Wait.")
        for i in range(9)
    ]
    lone = Finding(level=PROBLEM, about="S1", title="Twice the costs would eat it", fact="", advice="")
    told = first(run, [*many, lone])

    assert [f.title for f in told] == [f"It may be luck: 9 of {len(run.symbols)} symbols", lone.title]
    assert told[0].fact.startswith("S0, S1, S2") and told[0].fact.endswith("The first of them: Odds 0.")


def test_thinning_keeps_the_extremes() -> None:
    y = np.random.default_rng(2).normal(150.0, 10.0, 50_000)
    y[31_234], y[777] = 5.0, 295.0
    path = charts._path(y, len(y))

    assert path.count("L") < charts.POINTS_MAX + 10
    assert " 5L" in path and " 295L" in path


@given(some.floats(-1e6, 1e6), some.floats(1e-3, 1e6))
def test_ticks_lie_within_and_are_few(low: float, width: float) -> None:
    found = charts.nice(low, low + width)

    assert 0 < len(found) <= 6
    assert all(low - width * 1e-6 <= v <= low + width * (1 + 1e-6) for v in found)


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "+12.3\u202f%"), (-0.05, "−5.0\u202f%"), (-0.0001, "0.0\u202f%"), (None, "–"), (float("nan"), "–")]
)  # fmt: skip
def test_a_percentage_reads_as_one(value: float | None, text: str) -> None:
    assert percent(value) == text


def test_a_number_has_no_negative_zero() -> None:
    assert (number(-0.001), number(-1.5), number(12_345.6, 0)) == ("0.00", "−1.50", "12,346")


# --- findings ------------------------------------------------------------------------------------------------------------


def titles(run: Run, subject: Subject) -> list[str]:
    return [f.title for f in findings(replace(run, symbols=(subject,), portfolio=None)) if f.about == subject.name]


def with_document(subject: Subject, **more: Any) -> Subject:
    document = {**subject.document}
    for key, value in more.items():
        document[key] = {**document[key], **value} if isinstance(value, dict) else value
    return replace_subject(subject, document=document)


def walks(subject: Subject, **more: list[Any]) -> tuple[Walk, ...]:
    return tuple(
        replace(walk, **{name: values[i] for name, values in more.items()}) for i, walk in enumerate(subject.walks)
    )


def planted(subject: Subject) -> Iterator[tuple[str, Subject]]:
    """(a title's beginning, a subject that deserves it)."""
    yield "No trade in 2 of 3", replace_subject(subject, walks=walks(subject, num_trades=[0, 4, 0]))
    yield "Viable, but it cannot", with_document(subject, is_viable=True, best_params=None)
    yield "It may be luck: deflated Sharpe ratio 0.949", with_document(subject, oos={"deflated_sharpe": 0.9499})
    yield "The record is too short", with_document(subject, oos={"min_track_record": 10_000})
    yield "No record could prove it", with_document(subject, oos={"min_track_record": None, "num_trades": 3})
    yield "Holding did better", with_document(subject, oos={"total_return": -0.99, "sharpe_ratio": -2.0})
    yield "One window made", replace_subject(subject, walks=walks(subject, gain=[0.5, 0.0, -0.01]))
    yield "Fitted better", with_document(subject, degradation={"sharpe_ratio": 0.8})
    yield "The search picks", with_document(subject, passport={"pbo_search": 0.6})
    yield "Which strategy is best is", with_document(subject, passport={"pbo": 0.51})
    yield "It stands on a peak", with_document(subject, passport={"plateau": 0.4})
    yield "Windows end many", replace_subject(subject, trades=trades(5, closed_by_end=True))
    yield "Parameters wander", with_document(subject, param_consistency=0.2)
    yield "Its backtest comes out differently", replace_subject(subject, equal=False)
    yield "Twice the costs", replace_subject(subject, costs=cost_rows(0.3, 0.1, -0.1))
    yield "Costs take 50\u202f% of", replace_subject(subject, costs=cost_rows(0.3, 0.15, 0.05))
    yield (
        "It ends 50.0\u202f% below",
        replace_subject(subject, returns=np.where(np.arange(len(subject.returns)) == 700, -0.5, 0.0)),
    )


def cost_rows(*totals: float) -> tuple[CostRow, ...]:
    return tuple(CostRow(multiple=m, total_return=t, sharpe_ratio=1.0, max_drawdown=0.1) for m, t in enumerate(totals))


def trades(count: int, **more: Any) -> tuple[Trade, ...]:
    """Round trips of a session each, every other one won."""
    day = date(2010, 3, 1)
    row = Trade(
        entry=0, exit=1, entered=day, exited=day, entry_price=100.0, exit_price=101.0, net_pnl=10.0, gain=0.01,
        closed_by_end=False,
    )  # fmt: skip
    return tuple(
        replace(row, entry=i, exit=i + 1, gain=(-1) ** i * i / 1e4, net_pnl=(-1.0) ** i, **more) for i in range(count)
    )


def test_each_planted_fault_is_found_and_none_of_them_in_a_sound_subject(run: Run) -> None:
    sound = with_document(
        replace_subject(
            run.symbols[0], walks=walks(run.symbols[0], num_trades=[9, 9, 9], gain=[0.1, 0.1, 0.1], pbo=[0.1, 0.1, 0.1]),
            costs=cost_rows(0.33, 0.32, 0.31), trades=(), returns=np.full(len(run.symbols[0].returns), 0.0004),
            benchmark=np.zeros(len(run.symbols[0].returns)),
        ),
        best_params={}, param_consistency=0.9, degradation={"sharpe_ratio": 0.1},
        passport={"pbo": 0.1, "pbo_search": 0.1, "plateau": 0.9},
        oos={"deflated_sharpe": 0.99, "min_track_record": 100, "total_return": 0.331, "sharpe_ratio": 2.0, "num_trades": 27},
    )  # fmt: skip
    assert titles(run, sound) == []
    for title, subject in planted(sound):
        assert [t for t in titles(run, subject) if t.startswith(title)], title


def test_a_silent_window_says_which_condition_kept_it_out(made: ResearchConfig) -> None:
    """An RSI below 1 never happens: the range that it stayed in is said, and the threshold."""
    params = {
        "entry_conditions": [{"RSIEntry": {"period": 14, "oversold": 22}}], "exit_conditions": [{"RSIExit": {}}],
    }  # fmt: skip
    data = series(made.data, "IBM", made.timeframe)
    low, high = data.span(stages.plan(made).windows[1].test_start_ns, stages.plan(made).windows[1].test_end_ns)
    bars = data.bars.slice(0, high)
    lowest = talib_free_rsi(bars.close, 14)[low:high].min()
    text = silence.why(bars, high - low, "RSIStrategy", params, made.timeframe)

    assert lowest > 22
    assert text == f"rsi never fell below 22 (its lowest was {lowest:.4g}), so RSIEntry never held"


def talib_free_rsi(close: np.ndarray, period: int) -> np.ndarray:
    """Wilder's, by its definition: averages of gains and losses that start as plain means."""
    moves = np.diff(close)
    up, down = np.maximum(moves, 0.0), np.maximum(-moves, 0.0)
    gain, loss, out = up[:period].mean(), down[:period].mean(), np.full(len(close), np.nan)
    for i in range(period, len(close)):
        if i > period:
            gain, loss = (gain * (period - 1) + up[i - 1]) / period, (loss * (period - 1) + down[i - 1]) / period
        out[i] = 100.0 * gain / (gain + loss)
    return out


@pytest.mark.parametrize(
    "name", [name for name, row in CONDITIONS.items() if row.supports(Timeframe.DAY_1) and "Column" not in name]
)
def test_what_a_condition_is_said_to_have_missed_is_true(name: str) -> None:
    """Wherever a sentence names a threshold and the nearest value, the value lies on the wrong side of it."""
    found, bars = condition(name, {}, Timeframe.DAY_1), bundled().adjusted("IBM", Timeframe.DAY_1).slice(0, 1500)
    with np.errstate(all="ignore"):
        values = Program(found.inputs.values()).run_cached(FeatureCache(bars))
        held = found.verdicts(values, len(bars))
    for end in range(400, 1500, 50):
        if held[end - 5 : end].any():
            continue
        text = silence.never(found, {key: array[:end] for key, array in values.items()}, 5)
        assert text.endswith((f"so {name} never held", f"{name} held on none of 5 bars"))
        if said := re.search(
            r"(rose above|fell below) (-?[\d.e+-]+) (?:times .*|)\([a-z ]+ (-?[\d.e+-]+)(?: times)?\)", text
        ):
            limit, nearest = float(said[2]), float(said[3])
            assert nearest <= limit if said[1] == "rose above" else nearest >= limit, text


def test_mild_thresholds_a_short_search_and_a_symbol_without_data_are_named(run: Run) -> None:
    about_run: list[Finding] = [f for f in findings(run) if not f.about]

    assert any(f.title.startswith("Mild thresholds: by the default ones") for f in about_run)
    assert any(f.title == "A short search: 4 trials a study" for f in about_run)
    assert any(f.title == "No verdict on FB" for f in about_run)


def test_the_passport_is_the_artifact_in_words(run: Run) -> None:
    told = {
        "psr": 0.97, "deflated_sharpe": 0.4, "min_track_record": None, "pbo": 0.1, "plateau": 0.6,
        "deflated_sharpe_trials": 0.951, "double_costs_total_return": -0.02,
    }  # fmt: skip
    subject = with_document(run.symbols[0], passport=told)
    entries = {e.name: (e.value, e.verdict) for e in passport(subject)}

    assert entries["Probabilistic Sharpe ratio"] == ("97.0\u202f%", "good")
    assert entries["Deflated by the strategies tried"] == ("40.0\u202f%", "poor")
    assert entries["Deflated by every trial"] == ("95.1\u202f%", "good")
    assert entries["Minimum track record"] == ("none", "poor")
    assert entries["Overfitting by choosing the strategy"] == ("10.0\u202f%", "good")
    assert entries["Return at twice the costs"] == ("−2.0\u202f%", "poor")
    assert entries["Plateau"] == ("60\u202f%", "fair")


# --- what can go wrong ---------------------------------------------------------------------------------------------------


def test_bars_that_changed_since_are_refused(made: ResearchConfig, tmp_path: Path) -> None:
    copy = tmp_path / "artifacts"
    shutil.copytree(made.artifacts_root, copy)
    manifest = document(made, artifacts.MANIFEST) | {"data_fingerprint": "0" * 64}
    (copy / artifacts.MANIFEST).write_bytes(artifacts.dumps(manifest))

    with pytest.raises(ArtifactError, match="not those of this run any more; run run-backtest again"):
        model.load(copy)


def test_a_manifest_of_before_says_to_run_again(made: ResearchConfig, tmp_path: Path) -> None:
    manifest = document(made, artifacts.MANIFEST)
    del manifest["settings"]
    (tmp_path / artifacts.MANIFEST).write_bytes(artifacts.dumps(manifest))

    with pytest.raises(ArtifactError, match="does not say its settings; run run-backtest again"):
        model.load(tmp_path)


def test_units_that_are_not_done_leave_a_gap_and_a_finding(made: ResearchConfig, tmp_path: Path) -> None:
    copy = tmp_path / "artifacts"
    shutil.copytree(made.artifacts_root, copy)
    manifest = document(made, artifacts.MANIFEST)
    manifest["units"]["signal/IBM/summary_result.json"] = {"status": "failed", "error": "no memory"}
    manifest["units"]["portfolio/AAPL_FB_IBM/summary_result.json"] = {"status": "pending"}
    (copy / artifacts.MANIFEST).write_bytes(artifacts.dumps(manifest))
    run = model.load(copy)

    assert run.portfolio is None
    read(report.render(replace(run, symbols=())))  # nothing at all is done
    assert run.missing["IBM"] == "no memory"
    assert findings(run)[0].title.startswith("2 of ")
    read(report.render(run))


def test_the_command_writes_the_page_beside_the_artifacts(made: ResearchConfig, page: str, tmp_path: Path) -> None:
    shutil.copytree(made.artifacts_root, tmp_path / "dev_integration" / "artifacts")
    done = CliRunner().invoke(command_line, ["--home", str(tmp_path), "--json", "report"])

    target = tmp_path / "dev_integration" / "report.html"
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"report": str(target), "bytes": len(page.encode())}
    assert target.read_text() == page


def test_without_a_run_the_command_says_what_to_do_and_writes_nothing(tmp_path: Path) -> None:
    done = CliRunner().invoke(command_line, ["--home", str(tmp_path), "report"])

    assert done.exit_code == 1
    assert done.stderr.startswith("error: ") and done.stderr.rstrip().endswith("run run-backtest to make it")
    assert list(tmp_path.iterdir()) == []
