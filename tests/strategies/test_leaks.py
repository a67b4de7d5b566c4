"""The proofs against strategies whose faults are known: every planted leak is caught, and no honest strategy is accused."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from algo_royale.app.cli import root
from algo_royale.app.cli.check import _elsewhere, _walk
from algo_royale.market import Bars, SignalArray, Timeframe
from algo_royale.research import checks
from algo_royale.research.checks import Fill, Proof
from algo_royale.strategies import STRATEGIES, loading

CORPUS = Path(__file__).parent.parent / "leaks"
DAY, HOUR = Timeframe.DAY_1, Timeframe.HOUR_1

# What each leaky file does wrong, by the proof that has to see it.
LEAKY = {
    "Backfilled": "future", "CentredAverage": "future", "Coin": "memory", "Detrended": "future", "EarlyWeek": "future",
    "FittedOnEverything": "future", "ForwardMerge": "future", "GlobalZScore": "future", "HashOrder": "process",
    "Interpolated": "future", "LastClose": "future", "LowestOfAll": "future", "MeanOfAllTime": "warm-up",
    "ModuleHigh": "memory", "NegativeShift": "future", "NextHigh": "future", "OwnPosition": "memory", "Ranked": "future",
    "SameBarFill": "future", "SecondPass": "memory", "ShortWarmUp": "warm-up", "Slope": "future", "TooFewBars": "chunks",
    "TurningPoints": "future", "WrongStandIn": "stand-in",
}  # fmt: skip
CLEAN = (
    "Breakout", "CompiledAverage", "Composed", "FittedOnThePast", "KeptAnswers", "LastWeek", "MonthToDate", "PandasWindow",
    "RankInWindow", "SlowAverage", "TimeStop", "TurnOfMonth",
)  # fmt: skip
# A leak that one kind of proof alone can see: without it, this one would go free.
ONLY = {
    "process": "HashOrder", "stand-in": "WrongStandIn", "warm-up": "ShortWarmUp", "chunks": "TooFewBars", "memory": "ModuleHigh",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def corpus() -> Iterator[None]:
    """The own strategies of both folders, and none of them afterwards."""
    loading.load([str(CORPUS / "leaky"), str(CORPUS / "clean")])
    yield
    loading.forget()


@pytest.fixture(scope="module")
def other_process() -> dict[str, dict[str, bytes]]:
    return _elsewhere([str(CORPUS / "leaky"), str(CORPUS / "clean")], {DAY: ["HashOrder", "KeptAnswers"]}, 1, 250)


def prove(
    name: str, frame: Timeframe, elsewhere: dict[str, bytes] | None = None, *, full: bool = False
) -> dict[str, Proof]:  # fmt: skip
    """All proofs of a strategy, by kind."""
    series = [_walk(name, frame, 1, 250), *([_walk(name, frame, 2, 1000)] if full else [])]
    count = 3 if full else 1
    found = checks.look_ahead(name, series, seed=1, point_count=count, cuts=24 if full else 10, elsewhere=elsewhere)
    found.append(checks.forgetting(name, frame, seed=1, point_count=count, origins=4, room=900 if full else 300))
    return {proof.check: proof for proof in found}


def test_the_corpus_is_complete() -> None:
    assert set(LEAKY) | set(CLEAN) == set(loading.versions())
    assert len(LEAKY) == len(list((CORPUS / "leaky").glob("*.py"))) >= 12
    assert len(CLEAN) + 16 >= 20


@pytest.mark.parametrize("name", LEAKY)
def test_a_planted_leak_is_caught(name: str, other_process: dict[str, dict[str, bytes]]) -> None:
    """By the proof that is made for it, at a bar that exists, with what it means and what to do."""
    broken = {check: p for check, p in prove(name, DAY, other_process.get(name)).items() if p.finding}

    assert LEAKY[name] in broken
    found = broken[LEAKY[name]].finding
    assert found is not None and found.bar >= 0 and found.expected != found.found and found.meaning and found.advice
    if ONLY.get(LEAKY[name]) == name:
        assert set(broken) - {"warm-up"} <= {LEAKY[name]}


@pytest.mark.parametrize("name", [*STRATEGIES, *CLEAN])
def test_an_honest_strategy_raises_no_alarm(
    name: str, other_process: dict[str, dict[str, bytes]], request: pytest.FixtureRequest
) -> None:
    frame = DAY if STRATEGIES[name].supports(DAY) else HOUR
    proofs = prove(name, frame, other_process.get(name), full=request.config.getoption("--prove"))

    assert {check: p.finding for check, p in proofs.items() if p.finding} == {}
    assert {"memory", "future", "chunks", "fills", "warm-up"} <= proofs.keys()
    assert all(p.held for p in proofs.values())


def next_open(bars: Bars, signal: SignalArray) -> list[Fill]:
    return [Fill(int(t) + 1, float(bars.open[t + 1])) for t in np.flatnonzero(signal[:-1])]


def same_close(bars: Bars, signal: SignalArray) -> list[Fill]:
    """The fill that everybody writes first: at the close that the signal was made of."""
    return [Fill(int(t), float(bars.close[t])) for t in np.flatnonzero(signal)]


def same_close_said_later(bars: Bars, signal: SignalArray) -> list[Fill]:
    return [Fill(int(t) + 1, float(bars.close[t])) for t in np.flatnonzero(signal[:-1])]


def next_close(bars: Bars, signal: SignalArray) -> list[Fill]:
    return [Fill(int(t) + 1, float(bars.close[t + 1])) for t in np.flatnonzero(signal[:-1])]


def best_of_next_bar(bars: Bars, signal: SignalArray) -> list[Fill]:
    return [Fill(int(t) + 1, float(bars.low[t + 1])) for t in np.flatnonzero(signal[:-1])]


@pytest.mark.parametrize("backtest", [same_close, same_close_said_later, next_close, best_of_next_bar])
def test_a_fill_that_is_not_at_the_next_open_is_caught(backtest: Callable[[Bars, SignalArray], list[Fill]]) -> None:
    bars = checks.rough_bars(3, 400, DAY)
    signal = np.where(np.arange(400) % 7 == 0, 1, np.where(np.arange(400) % 7 == 3, -1, 0)).astype(np.int8)

    assert checks.fills(next_open, bars, signal, seed=1) is None
    assert checks.fills(checks.research_fills, bars, signal, seed=1) is None
    found = checks.fills(backtest, bars, signal, seed=1)
    assert found is not None and found.check == "fills" and "next open" in found.advice


def test_scrambled_bars_are_bars_and_their_past_is_the_past() -> None:
    """Whatever is put after a cut would pass as market data, without NaN, and is not what was there."""
    bars, rng = checks.rough_bars(5, 300, DAY), np.random.default_rng(1)
    for kind in checks.KINDS:
        other = checks.scrambled(bars, 120, kind, rng).check()
        for column in ("open", "high", "low", "close", "volume"):
            a, b = getattr(bars, column), getattr(other, column)
            np.testing.assert_array_equal(a[:120], b[:120])
            assert np.isfinite(b).all() and (a[120:] != b[120:]).mean() > 0.8


def ask(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(root, list(words))
    assert "Traceback" not in done.output and isinstance(done.exception, SystemExit | None), done.exception
    return done.exit_code, done.stdout


def test_the_command_names_the_first_bar_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("algo_royale.app.cli.check._elsewhere", lambda *_: {})
    path = ("--strategy-path", str(CORPUS / "leaky" / "next_high.py"))
    code, text = ask("check", "lookahead", "NextHigh", *path, "--points", "1", "--symbols", "AAPL", "--bars", "200")

    assert code == 1
    assert f"FAIL  NextHigh ({CORPUS}/leaky/next_high.py:" in text
    assert "future: at bar " in text and "it means: " in text and "do: " in text and "0 of 1 strategies passed" in text


def test_the_command_says_it_as_json_too() -> None:
    code, text = ask(
        "--json", "check", "warmup", "ShortWarmUp", "--strategy-path", str(CORPUS / "leaky"), "--points", "1"
    )
    document = json.loads(text)

    assert (code, document["check"], document["passed"]) == (1, "warmup", False)
    (result,) = document["strategies"]
    assert result["version"] == loading.versions()["ShortWarmUp"]
    assert result["checks"][0]["finding"]["check"] == "warm-up"


def test_the_command_passes_what_is_honest() -> None:
    code, text = ask("check", "warmup", "RSIStrategy", "--points", "1")

    assert (code, text.splitlines()) == (0, ["pass  RSIStrategy: warm-up", "1 of 1 strategies passed"])
