"""What a backtest says in the terminal: before it runs, while it runs, and at its end."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as some

from actors.backtest import Progress
from actors.messages import Headline
from algo_royale.app.cli import Settings, root
from algo_royale.app.cli.backtest import artifacts_root, research_config, taken_over
from algo_royale.app.cli.verdicts import COLUMNS, Column, against_holding, cells, missed, reason, table
from algo_royale.app.cli.watching import Best, Display, duration
from algo_royale.app.estimate import FEW, MORE, Measured, estimate, longer, spread
from algo_royale.app.report.model import Subject
from algo_royale.research import stages
from algo_royale.research.plan import ResearchConfig
from algo_royale.research.viability import Check, ViabilityConfig
from algo_royale.research.windows import WindowConfig

# --- while it runs -------------------------------------------------------------------------------------------------------


def told(symbol: str, strategy: str, value: float | None, window: str = "", **more: Any) -> Headline:
    """A headline: of a window, or without one of the judgement over all."""
    stage = "signal_optimization" if window else "signal_evaluation"
    given: dict[str, Any] = {
        "stage": stage, "symbol": symbol, "strategy": strategy, "window_id": window, "objective": "sharpe_ratio",
        "in_sample": 9.0, "out_of_sample": value, "viable": None, "score": None,
    }  # fmt: skip
    return Headline(**(given | more))


NEWS = [
    told("AAPL", "RSIStrategy", 1.0, "w1"), told("AAPL", "RSIStrategy", 2.0, "w2"), told("AAPL", "RSIStrategy", None, "w3"),
    told("AAPL", "ComboStrategy", 1.4, "w1"), told("IBM", "RSIStrategy", 3.0, "w1"), told("IBM", "RSIStrategy", 0.2),
    told("", "EqualWeightPortfolioStrategy", 1.1, "w1", stage="portfolio_optimization"),
    told("IBM", "RSIStrategy", 0.2, stage="symbol_summary", viable=False, score=0.4),
    told("AAPL", "RSIStrategy", 1.5, stage="symbol_summary", viable=True, score=1.0),
]  # fmt: skip


@given(some.permutations([*NEWS, *NEWS]))
def test_the_best_so_far_is_the_mean_of_windows_until_all_are_judged(news: list[Headline]) -> None:
    """In whatever order units end, and however often they are told: IBM's one good window gives way to its judgement."""
    best = Best()
    best.add(news)

    assert best.ranked() == [
        (1.5, "AAPL", "RSIStrategy"), (1.1, "", "EqualWeightPortfolioStrategy"), (0.2, "IBM", "RSIStrategy")
    ]  # fmt: skip
    assert best.line() == (
        "1 of 2 symbols viable; best so far: AAPL RSI 1.50, portfolio EqualWeight 1.10, IBM RSI 0.20 (sharpe_ratio out of sample)"
    )
    assert best.line(1) == "best so far: AAPL RSI 1.50"


def test_before_anything_is_found_nothing_is_said() -> None:
    best = Best()
    best.add([told("AAPL", "RSIStrategy", None, "w1")])

    assert (best.line(), best.ranked()) == ("", [])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (40, "40 s"), (89.6, "90 s"), (720, "12 min"), (7200, "2.0 h"), (12_600, "3.5 h"), (200_000, "2.3 days")],
)  # fmt: skip
def test_a_duration_reads_as_people_say_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class FakePlan:
    """Eight searches."""

    units = tuple(type("Unit", (), {"stage": "signal_optimization"})() for _ in range(8))


def test_without_a_terminal_a_quarter_is_a_line_with_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    """Two units in 20 s leave six for a minute; reused ones say nothing about the pace."""
    now = 0.0
    display = Display(FakePlan(), verbosity=0, now_s=lambda: now)  # type: ignore[arg-type]
    running = (("signal_optimization", "AAPL RSIStrategy w3"),)
    with display:
        display.show(Progress(stage_counts={"signal_optimization": (0, 8)}, running=running))
        now = 20.0
        news = (told("AAPL", "RSIStrategy", 1.25, "w1"),)
        display.show(Progress(stage_counts={"signal_optimization": (2, 8)}, running=running, news=news))
        now = 80.0
        display.show(Progress(stage_counts={"signal_optimization": (8, 8)}))

    assert capsys.readouterr().err.splitlines() == [
        "optimise signals: 2 of 8; about 60 s left; best so far: AAPL RSI 1.25", "optimise signals: 8 of 8"
    ]  # fmt: skip


# --- at its end ----------------------------------------------------------------------------------------------------------

OOS = {
    "total_return": 36.03,
    "cagr": 0.495,
    "sharpe_ratio": 1.634,
    "max_drawdown": 0.3201,
    "num_trades": 1089,
    "win_rate": 0.404,
}


def verdict(*failed: str, viable: bool = True, strategy: str = "MovingAverageCrossoverStrategy") -> dict[str, Any]:
    names = ("sharpe_ratio", "win_rate", "deflated_sharpe_trials")
    checks = [
        {
            "name": n,
            "value": 0.25,
            "op": ">=",
            "threshold": 0.5,
            "weight": 1.0,
            "hard": "trials" in n,
            "passed": n not in failed,
        }
        for n in names
    ]
    return {"strategy": strategy, "is_viable": viable, "viability_score": 0.83, "oos": OOS, "checks": checks}


def test_a_row_says_what_a_trader_looks_for() -> None:
    assert cells("AAPL", verdict(), 75.577) == (
        "AAPL", "MovingAverageCrossover", "viable", "+3,603%", "+7,558%", "+49.5%", "1.63", "32.0%", "1089", "40%", "0.83"
    )  # fmt: skip
    assert cells("", verdict(viable=False), None)[:5] == ("portfolio", "MovingAverageCrossover", "no", "+3,603%", "-")


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_the_table_is_as_wide_as_the_terminal_lets_it(width: int) -> None:
    """The widest names fit 80 columns; below that the less telling columns leave, and the verdict never does."""
    rows = [cells(name, verdict(), 75.577) for name in ("portfolio", "AAPL")]
    lines = table(COLUMNS, rows, width)
    least = max(
        map(
            len,
            table(
                [c for c in COLUMNS if not c.last],
                [[r[i] for i, c in enumerate(COLUMNS) if not c.last] for r in rows],
                1,
            ),
        )
    )

    assert max(map(len, lines)) <= max(width, least)
    assert all("viable" in line and "+3,603%" in line for line in lines[1:])
    assert ("score" in lines[0]) == (width > 100)
    assert "hold" in lines[0] or width < 80


def test_columns_leave_in_their_order() -> None:
    columns = (Column("", left=True), Column("b", 1), Column("c", 2))

    assert table(columns, [("x", "1" * 10, "2" * 10)], 13) == ["            b", "x  1111111111"]


def test_why_names_the_checks_that_failed_and_the_doubts_of_those_that_passed() -> None:
    assert reason(verdict(), []) == "passes all 3 checks"
    assert reason(verdict(), ["holding did better", "it may be luck", "mostly cash"]) == (
        "passes all 3 checks, but holding did better; it may be luck; 1 more in the report"
    )
    assert reason(verdict("deflated_sharpe_trials", viable=False), ["unheard"]) == (
        "fails deflated_sharpe_trials 0.25 (wants >= 0.5, a must)"
    )
    assert reason(verdict("win_rate"), []) == "viable, though it fails win_rate 0.25 (wants >= 0.5)"
    assert missed({"name": "n", "value": None, "op": ">", "threshold": 0.0}) == "n - (wants > 0)"


def test_the_measures_stand_beside_those_of_holding() -> None:
    """Closed forms: a session of +10 % and one of -10 % by turns lose 1 % a pair; holding doubles in one step."""
    n = 100
    mine, held = np.tile([0.1, -0.1], n // 2), np.zeros(n)
    held[0] = 1.0
    days = tuple(date(2010, 1, 4) + timedelta(days=i) for i in range(n))
    document = {"strategy": "RSIStrategy", "oos": OOS, "summary": {"exposure": {"mean": 0.5}, "profit_factor": None}}
    subject = Subject(
        name="AAPL", document=document, dates=days, returns=mine, benchmark=held, walks=(), dimensions=(), evaluations=()
    )  # fmt: skip
    rows = {line[:22].strip(): line[22:].split() for line in against_holding(subject)}

    assert rows["return"] == [f"{0.99**50 - 1:+.1%}", "+100.0%"]
    assert rows["sharpe ratio"][0] == "0.00"
    assert rows["volatility (a year)"][0] == f"{0.1 * (n / (n - 1)) ** 0.5 * 252**0.5:.1%}"
    assert rows["max drawdown"] == [f"{1 - 0.99**49 * 0.9:.1%}", "0.0%"]
    assert rows["exposure"] == ["50%"] and rows["profit factor"] == ["-"] and rows["trades"] == ["1,089"]
    assert max(map(len, against_holding(subject))) < 80


# --- whole runs ----------------------------------------------------------------------------------------------------------

FLAGS = {
    "symbols": ("AAPL", "IBM"), "strategies": ("RSIStrategy",), "portfolios": ("EqualWeightPortfolioStrategy",), "windows": 2,
    "trials": 4, "portfolio_trials": 1, "min_trades": 1,
}  # fmt: skip
WORDS = [
    "run-backtest", "--symbols=aapl,Ibm", "--strategies=RSIStrategy", "--portfolios=EqualWeightPortfolioStrategy", "--windows=2",
    "--trials=4", "--portfolio-trials=1", "--workers=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the artifacts that WORDS asks for, so that running them only looks."""
    found = tmp_path_factory.mktemp("screen")
    (found / "one.toml").write_text("[research]\nmin_trades = 1\n")
    config = Settings(home=found).with_flags({"research": FLAGS})
    stages.run_all(research_config(config, artifacts_root(found / "dev_integration", None)))
    return found


def ask(home: Path, *words: str, color: bool = False, **env: str) -> tuple[int, str, str]:
    done = CliRunner(env=env).invoke(
        root, ["--home", str(home), "--config", str(home / "one.toml"), *WORDS, *words], color=color
    )
    return done.exit_code, done.stdout, done.stderr


def test_the_end_of_a_run_fits_80_columns_and_says_why(home: Path) -> None:
    code, out, err = ask(home)

    assert code == 0, err
    assert "0 computed, 12 reused" in out or "reused, 0 failed" in out
    assert max(map(len, [line for line in out.splitlines() if "/" not in line])) <= 80
    assert re.search(r"^why\n(  (AAPL|IBM): .*\n(    .*\n)*){2}  portfolio: ", out, re.MULTILINE), out
    assert re.search(r"^portfolio EqualWeight +ours +holding$", out, re.MULTILINE)
    assert "\x1b" not in out + err


@pytest.mark.parametrize(
    ("color", "env", "colored"), [(True, {}, True), (True, {"NO_COLOR": "1"}, False), (False, {}, False)]
)
def test_colour_is_for_terminals_that_want_it(home: Path, color: bool, env: dict[str, str], colored: bool) -> None:
    code, out, _ = ask(home, color=color, **env)

    assert code == 0
    assert ("\x1b[" in out) == colored


def test_a_smaller_run_says_what_it_replaces_and_a_named_one_replaces_nothing(home: Path, tmp_path: Path) -> None:
    made = research_config(
        Settings(home=home).with_flags({"research": FLAGS}), artifacts_root(home / "dev_integration", None)
    )

    assert taken_over(made) is None
    assert taken_over(replace(made, symbols=("AAPL", "IBM", "MSFT"), trials=9)) is None
    less = taken_over(replace(made, symbols=("IBM",), trials=2))
    assert less is not None and re.match(r"this replaces the result of \d{4}-\d\d-\d\d \(2 symbols\)", less)
    assert "it had symbols AAPL; 4 trials instead of 2" in less and "--name NAME" in less
    apart = artifacts_root(home / "dev_integration", "quick")
    assert taken_over(replace(made, symbols=("IBM",), artifacts_root=apart)) is None
    assert apart == home / "dev_integration" / "research" / "quick" / "artifacts"


def test_a_named_run_has_a_place_and_a_report_of_its_own(home: Path) -> None:
    before = (home / "dev_integration" / "artifacts" / "run_manifest.json").read_bytes()
    code, out, err = ask(home, "--name", "quick", "--symbols=IBM", "--json")
    place = home / "dev_integration" / "research" / "quick"

    assert code == 0, err
    assert json.loads(out)["artifacts_root"] == str(place / "artifacts")
    assert "warning" not in err
    assert (home / "dev_integration" / "artifacts" / "run_manifest.json").read_bytes() == before
    shown = CliRunner().invoke(root, ["--home", str(home), "--json", "report", "quick"])
    assert json.loads(shown.stdout)["report"] == str(place / "report.html")


# --- before it runs ------------------------------------------------------------------------------------------------------


def ticking(step: float = 1.0) -> Callable[[], float]:
    """A clock that moves on by a step at each look."""
    ticks: Iterator[int] = count()
    return lambda: next(ticks) * step


@pytest.fixture
def planned(tmp_path: Path) -> ResearchConfig:
    return ResearchConfig(
        artifacts_root=tmp_path / "artifacts", symbols=("AAPL", "IBM", "MSFT"), windows=WindowConfig(count=3),
        strategies=("BollingerBandsStrategy", "RSIStrategy"), portfolios=("EqualWeightPortfolioStrategy",), trials=FEW,
        portfolio_trials=1, min_trades=1, viability=ViabilityConfig(checks=(Check(name="num_trades", op=">=", threshold=1),)),
    )  # fmt: skip


def test_an_estimate_counts_what_is_to_do_and_leaves_nothing_behind(planned: ResearchConfig) -> None:
    """With a clock that moves a second a look every unit takes one: 18 searches by two workers are nine seconds of the whole."""
    plan = stages.plan(planned)
    found = estimate(plan, planned, workers=2, now_s=ticking())

    assert {name: stage.units for name, stage in found.stages.items()} == {
        "signal_optimization": 18, "signal_evaluation": 6, "symbol_summary": 3,
        "portfolio_optimization": 3, "portfolio_evaluation": 1, "portfolio_summary": 1,
    }  # fmt: skip
    each = {name: stage.seconds for name, stage in found.stages.items()}
    assert each["signal_optimization"] == 1.0 and each["symbol_summary"] == 1.0
    assert each["signal_evaluation"] == 1.5, "three windows instead of the two that were measured"
    assert each["portfolio_optimization"] == 1.5, "three symbols instead of two"
    assert found.seconds == pytest.approx(1.5 + 9 * 1.0 + 3 * 1.5 + 2 * 1.0 + 2 * 1.5 + 1.5 + 1.0)
    assert found.trials == 18 * FEW + 3
    assert found.disk_bytes > 18 * 1000 and found.memory_bytes > 10_000_000
    assert not planned.artifacts_root.exists()


def test_what_is_there_is_not_estimated_again(planned: ResearchConfig) -> None:
    stages.run_all(planned)
    found = estimate(stages.plan(planned), planned, workers=2, now_s=ticking())

    assert (found.reused, found.seconds, found.trials, found.disk_bytes, found.measured_units) == (32, 0.0, 0, 0, 0)


@given(some.floats(0.01, 10.0), some.floats(0.0, 1.0), some.integers(FEW, 10_000))
def test_a_study_takes_a_part_for_each_trial_and_a_part_for_all(fixed: float, each: float, trials: int) -> None:
    few, more = (Measured(fixed + each * n, 100.0 + 7.0 * n) for n in (FEW, MORE))

    assert longer(few, more, trials).seconds == pytest.approx(fixed + each * trials)
    assert longer(few, more, trials).bytes == pytest.approx(100.0 + 7.0 * trials)


def test_a_sample_is_spread_from_the_smallest_to_the_largest() -> None:
    assert spread("abcdefg", 3) == ("a", "d", "g")
    assert spread("ab", 3) == ("a", "b")


def test_an_estimate_is_printed_and_no_run_is_made(home: Path) -> None:
    code, out, err = ask(home, "--trials=50", "--name", "later", "--estimate")

    assert code == 0, err
    assert re.search(r"^to compute +\d+ units with \d+ trials; 0 are there already$", out, re.MULTILINE), out
    assert re.search(r"^time +about [\d.]+ (s|min|h|days) with 1 worker$", out, re.MULTILINE)
    assert re.search(r"^disk +about [\d.]+ [kMG]B; [\d.]+ [kMG]B are free$", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 80
    assert not (home / "dev_integration" / "research" / "later" / "artifacts").exists()
    code, out, _ = ask(home, "--trials=50", "--name", "later", "--estimate", "--json")
    assert json.loads(out)["stages"]["signal_optimization"]["units"] == 4
