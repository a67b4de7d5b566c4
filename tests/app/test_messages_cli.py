"""`messages`, `actors` and `replay` on logs made here: what they print in a pipe and as JSON, and what they refuse."""

import json
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from actors.kernel import NO_FAULTS, Actor, CrashAt, Faults
from actors.kernel.journal import MessageLog, RunInfo, off_note
from actors.kernel.record import Outcome, Record
from actors.messages import (
    BarClosed,
    BarRow,
    OrderIntent,
    RecordDecision,
    Refusal,
    SignalReported,
    TargetWeight,
    TimerFired,
)  # fmt: skip
from algo_royale.app.cli import Settings
from algo_royale.app.cli import messages as cli
from algo_royale.app.cli.headlines import headline
from algo_royale.app.logs import fact
from algo_royale.app.stepped import SteppedTrader, market_replay
from algo_royale.app.trader import TraderRecord
from algo_royale.data.catalog import bundled
from algo_royale.errors import AlgoRoyaleError, BadInput, UnknownName
from algo_royale.market import Timeframe
from algo_royale.research.handover import Member, SymbolPlan, TradingPlan
from algo_royale.risk import TradingState
from algo_royale.strategies import resolve, space
from db.store import Store

CLOSE = 1_357_246_800_000_000_000  # 2013-01-03 16:00 in New York
FEED, SIGNAL, PORTFOLIO = "root/trading/market_data", "root/trading/signals/signal:AAPL", "root/trading/portfolio"


@dataclass
class Options:
    home: Path
    env: str = "dev_integration"
    json: bool = False


BAR = BarClosed(
    at_ns=CLOSE, symbol="AAPL", timeframe="1Day",
    bar=BarRow(start_ns=CLOSE - 10**13, end_ns=CLOSE, open=1.0, high=2.0, low=0.5, close=1.25, volume=9.0),
)  # fmt: skip
SAID = SignalReported(
    at_ns=CLOSE, symbol="AAPL", bar_end_ns=CLOSE, signal=1, state_in=True, score=float("nan"), changed=True,
    close_usd=Decimal("1.2500"), adjusted_close=1.25,
)  # fmt: skip


def write_run(home: Path, run: str, *, kind: str = "trader", close: bool = True) -> MessageLog:
    """A bar makes a signal, which the portfolio fails on; the portfolio restarts; a late letter finds nobody."""
    path = home / "dev_integration" / "runs" / run / "messages.db"
    journal = MessageLog(path, RunInfo(run, kind, CLOSE, seed=3))
    for actor in ("root", "root/trading", FEED, SIGNAL, PORTFOLIO):
        journal.event(CLOSE, actor, 1, "started")
    ok, handled = Outcome.OK, CLOSE + 1_000_000
    journal.write(Record(1, 0, 1, FEED, 1, SIGNAL, CLOSE, BAR, handled, 250, ok, 1))
    journal.write(
        Record(2, 1, 1, SIGNAL, 1, PORTFOLIO, handled, SAID, handled, 80, Outcome.FAILED, 1, "ValueError: no")
    )
    journal.event(handled, PORTFOLIO, 1, "failed", "Traceback ...\nValueError: no")
    journal.event(handled, PORTFOLIO, 2, "started")
    tick = TimerFired(at_ns=CLOSE, name="watermark")
    journal.write(Record(3, 0, 3, "timer", 2, PORTFOLIO, handled, tick, handled + 10**9, 5, ok, 2))
    journal.write(Record(4, 0, 4, "ingress", 0, "root/gone", handled, tick, 0, 0, Outcome.DEAD, 0, "no such actor"))
    journal.event(handled, "root", 0, "exit", "exit code 0")
    journal.close() if close else journal.flush()
    return journal


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_run(tmp_path, "20130103-1")
    return tmp_path


@pytest.fixture
def run(home: Path) -> Callable[..., Result]:
    groups = {"messages": cli.messages_group, "actors": cli.actors_group, "replay": cli.replay_command}

    def invoke(*words: str, as_json: bool = False, exits: int = 0) -> Result:
        command: click.Command = groups[words[0]]
        result = CliRunner().invoke(command, words[1:], obj=Options(home, json=as_json))
        if isinstance(result.exception, AlgoRoyaleError):
            raise result.exception
        assert result.exit_code == exits, (result.output, result.exception)
        return result

    return invoke


def rows(result: Result) -> list[list[str]]:
    return [line.split("\t") for line in result.stdout.splitlines()]


def document(result: Result) -> Any:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    return json.loads(result.stdout, parse_constant=refuse)


def test_a_list_in_a_pipe_is_tab_separated(run: Callable[..., Result]) -> None:
    """A header, then a line per message: New York time, who, what, how it ended, and the message in short."""
    header, bar, signal, *_ = rows(run("messages", "list"))

    assert header == ["id", "time", "from", "to", "type", "outcome", "took_us", "summary"]
    assert bar[:7] == ["1", "2013-01-03T16:00:00.001-05:00", FEED, SIGNAL, "BarClosed", "ok", "250"]
    assert bar[7].startswith("symbol=AAPL timeframe=1Day bar={") and "close=1.25" in bar[7]
    assert signal[5] == "failed" and signal[7].startswith("ValueError: no | symbol=AAPL")
    assert "bar_end_ns=2013-01-03T16:00:00.000-05:00" in signal[7] and "close_usd=1.2500" in signal[7]


def test_what_others_wrote_is_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    """A broker's words may clear the screen, forge a row, or turn the line around."""
    cli.print_table(("what",), [("\x1b[2J\x9b1m",), ("a\nb\tc\r",), ("\u202egnp",), ("caf\u00e9 \u2713",)])
    assert capsys.readouterr().out == "what\n\\x1b[2J\\x9b1m\na\\nb\\tc\\r\n\\u202egnp\ncaf\u00e9 \u2713\n"
    assert fact("told", by="\x1b]0;x\x07").isprintable()


def test_a_list_as_json_has_stable_keys_money_as_strings_and_no_nan(run: Callable[..., Result]) -> None:
    """One document; what is not a number is null."""
    found = document(run("messages", "list", "--type", "signal*", as_json=True))

    assert found["run"] == "20130103-1"
    (said,) = found["messages"]
    assert (said["id"], said["cause"], said["corr"], said["outcome"], said["detail"]) == (
        2,
        1,
        1,
        "failed",
        "ValueError: no",
    )
    assert said["message"]["close_usd"] == "1.2500" and said["message"]["score"] is None
    assert said["handled"] == "2013-01-03T16:00:00.001-05:00"


def test_filters_narrow_the_list(run: Callable[..., Result]) -> None:
    """By actor, outcome, correlation and time."""

    def ids(*options: str) -> list[str]:
        return [row[0] for row in rows(run("messages", "list", *options))[1:]]

    assert ids("--actor", "portfolio") == ["2", "3"]
    assert ids("--outcome", "failed", "--outcome", "dead") == ["2", "4"]
    assert ids("--corr", "1") == ["1", "2"]
    assert ids("--since", "2013-01-03T16:00:00.500", "--until", "2013-01-03T21:00:02+00:00") == ["3"]
    assert ids("--since", "2013-01-04") == []
    assert ids("--limit", "1") == ["4"]


def test_show_prints_every_field(run: Callable[..., Result]) -> None:
    """The envelope, then the body as JSON."""
    shown = run("messages", "show", "1").stdout
    assert "BarClosed" in shown and '"volume": 9.0' in shown and SIGNAL in shown
    assert document(run("messages", "show", "1", as_json=True))["message"]["bar"]["close"] == 1.25
    with pytest.raises(BadInput, match="no message 77"):
        run("messages", "show", "77")


def test_trace_prints_the_causal_tree(run: Callable[..., Result]) -> None:
    """What came of what, with the time it took, how it ended and why."""
    first, second = run("messages", "trace", "2").stdout.splitlines()

    assert first.startswith(f"BarClosed #1 {FEED} -> {SIGNAL} 2013-01-03T16:00:00.001-05:00 250 us ok")
    assert second.startswith("└─ SignalReported #2") and "failed [ValueError: no]" in second and second.endswith("<")
    assert [m["depth"] for m in document(run("messages", "trace", "1", as_json=True))["messages"]] == [0, 1]
    with pytest.raises(BadInput, match="77"):
        run("messages", "trace", "77")


def test_dead_letters_are_listed_with_their_reasons(run: Callable[..., Result]) -> None:
    """Poison and the undelivered."""
    assert [(row[0], row[5], row[7].split(" | ")[0]) for row in rows(run("messages", "dead"))[1:]] == [
        ("2", "failed", "ValueError: no"), ("4", "dead", "no such actor"),
    ]  # fmt: skip


def test_stats_count_by_actor_and_type(run: Callable[..., Result]) -> None:
    """And name the run and how it ended."""
    lines = run("messages", "stats").stdout.splitlines()
    assert lines[0].startswith("run 20130103-1 (trader): 4 messages, 0 dropped") and lines[0].endswith("exit code 0")
    assert f"{PORTFOLIO}\t2\t1\t0\t5\t80" in lines
    assert "TimerFired\t2" in lines
    assert document(run("messages", "stats", as_json=True))["kinds"] == {
        "TimerFired": 2,
        "BarClosed": 1,
        "SignalReported": 1,
    }


def test_the_actor_tree_shows_the_failure_and_the_restart(run: Callable[..., Result]) -> None:
    """State, generation, restarts, failures and the last error, parents first."""
    tree = {row[0]: row[1:] for row in rows(run("actors", "tree"))[1:]}
    assert list(tree) == ["root", "root/trading", FEED, SIGNAL, PORTFOLIO]
    assert tree[PORTFOLIO] == ["ended", "2", "1", "1", "-", "2", "0", "ValueError: no"]
    found = document(run("actors", "tree", as_json=True))
    assert found["exit_code"] == 0 and found["actors"][-1]["last_error"] == "ValueError: no"


def test_tail_shows_the_past_then_follows_to_the_end(run: Callable[..., Result]) -> None:
    """On a run that has ended there is nothing to wait for."""
    assert [row[0] for row in rows(run("messages", "tail", "--lines", "2"))] == ["3", "4"]
    lines = run("messages", "tail", "--lines", "1", "--no-follow", as_json=True).stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [4]


def test_the_newest_run_is_the_default_and_any_can_be_named(run: Callable[..., Result], home: Path) -> None:
    """By id or by path; an unknown one is answered with the nearest."""
    journal = write_run(home, "20130104-1", close=False)  # still going on
    try:
        assert document(run("messages", "stats", as_json=True))["run"] == "20130104-1"
        assert "still running" in run("messages", "stats").stdout
        assert document(run("messages", "stats", "--run", "20130103-1", as_json=True))["run"] == "20130103-1"
        folder = str(home / "dev_integration" / "runs" / "20130103-1")
        assert document(run("messages", "stats", "--run", folder, as_json=True))["run"] == "20130103-1"
        with pytest.raises(UnknownName, match="20130104-1"):
            run("messages", "stats", "--run", "20130104-2")
    finally:
        journal.close()


def test_no_log_and_a_bad_time_are_one_clear_line(tmp_path: Path, run: Callable[..., Result]) -> None:
    """What is wrong and what to do."""
    with pytest.raises(BadInput, match="yesterday"):
        run("messages", "list", "--since", "yesterday")
    with pytest.raises(BadInput, match="no message log under"):
        cli.find_log(Options(tmp_path / "nowhere"), None)


def test_what_the_log_lacks_is_said_on_stderr(run: Callable[..., Result], home: Path) -> None:
    """A log that was turned off says so whenever it is read."""
    off_note(home / "dev_integration" / "runs" / "20130103-1" / "messages.db").write_text("disk is full")
    result = run("messages", "list", as_json=True)
    assert "disk is full" in result.stderr and "disk is full" not in result.stdout


class Parrot(Actor[Any]):
    """Says SAID for every bar."""

    def receive(self, message: object) -> None:
        self.tell(self.ref(PORTFOLIO), SAID)


class Mute(Parrot):
    def receive(self, message: object) -> None:
        pass


@pytest.mark.parametrize(("actor", "exits"), [(Parrot, 0), (Mute, 1)])
def test_replay_says_whether_the_actors_do_it_again(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, actor: type[Actor[Any]], exits: int
) -> None:
    """Exit code 1 and the first difference if one does not."""
    module = types.ModuleType("replayers_of_a_test")
    module.factories = lambda folder, header, runtime: {SIGNAL: actor}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli._REPLAYERS, "trader", f"{module.__name__}:factories")
    out = run("replay", "20130103-1", exits=exits).stdout
    assert f"{PORTFOLIO}: not replayed" in out
    assert ("every replayed actor sent what is recorded" in out) is (exits == 0)
    found = document(run("replay", "20130103-1", as_json=True, exits=exits))
    assert found["same"] is (exits == 0) and found["exact"] is True


FIRST, LAST = date(2012, 7, 2), date(2012, 7, 6)


def record_trader(home: Path, faults: Faults) -> int:
    """Four sessions of the whole trading tree over the twin's core, stepped, with ledger and log as run-trader has them."""
    folder = home / "dev_integration"
    defaults = {spec.name: spec.default for spec in space("MovingAverageCrossoverStrategy", Timeframe.DAY_1)}
    params = resolve("MovingAverageCrossoverStrategy", defaults, Timeframe.DAY_1)
    member = Member(strategy="MovingAverageCrossoverStrategy", strategy_id="m", weight=1.0, params=params)
    plan = TradingPlan(
        timeframe="1Day", universe="u", portfolio="EqualWeightPortfolioStrategy", portfolio_params={}, warmup_bars=250,
        symbols=tuple(SymbolPlan(symbol=symbol, viability=1.0, members=(member,)) for symbol in ("AAPL", "IBM")),
        last_session="2012-06-29",
    )  # fmt: skip
    config = Settings().config
    trader = SteppedTrader(plan, config, market_replay(plan, bundled(), LAST), start=FIRST, ledger=folder / "ledger.db")
    setup = TraderRecord(
        plan=plan,
        ledger_id=trader.store.ledger_id,
        live_start_ns=trader.live_start_ns,
        config=config.model_dump(mode="json"),
    )
    info = RunInfo("stepped", "trader", trader.exchange.now_ns, config=msgspec.json.encode(setup).decode())
    return trader.run(log=MessageLog(folder / "runs" / "stepped" / "messages.db", info), faults=faults)


@pytest.mark.parametrize("faults", [NO_FAULTS, CrashAt(60, "after"), CrashAt(90, "before")])
def test_a_traders_run_replays_on_its_ledger_as_it_was_before(
    run: Callable[..., Result], home: Path, faults: Faults
) -> None:
    """Every actor but the two at the network edge, through restarts as well."""
    (home / "dev_integration").mkdir(exist_ok=True)
    assert record_trader(home, faults) == 0
    found = document(run("replay", "stepped", as_json=True))

    assert found["same"] and found["exact"]
    assert found["skipped"] == ["root/trading/broker", "root/trading/market_data"]
    assert len(found["actors"]) == 8 and sum(actor["sent"] for actor in found["actors"]) > 80
    failed = sum(actor["not_reproduced"] for actor in found["actors"])
    restarts = [
        actor
        for actor in document(run("actors", "tree", "--run", "stepped", as_json=True))["actors"]
        if actor["restarts"]
    ]
    assert bool(restarts) is (faults is not NO_FAULTS) and failed <= 1


def test_an_older_run_replays_on_its_own_ledger_and_leaves_the_new_one_alone(
    run: Callable[..., Result], home: Path
) -> None:
    """A newer twin's trader has set that ledger aside; its own may be in use, and is not written to."""
    folder = home / "dev_integration"
    folder.mkdir(exist_ok=True)
    assert record_trader(home, NO_FAULTS) == 0
    (folder / "ledgers").mkdir()
    (folder / "ledger.db").rename(folder / "ledgers" / "stepped.db")
    newer = Store.open(folder / "ledger.db", run_id="newer", now_ns=CLOSE, live_start_ns=CLOSE)
    try:
        assert document(run("replay", "stepped", as_json=True))["same"]
        newer.set_state(
            TradingState.HALTED, "mine to write", by="test", now_ns=CLOSE
        )  # raises if anybody else has committed
    finally:
        newer.close()


def test_replaying_nobody_is_refused(run: Callable[..., Result], home: Path) -> None:
    """It would say that every replayed actor did as recorded."""
    (home / "dev_integration").mkdir(exist_ok=True)
    assert record_trader(home, NO_FAULTS) == 0
    with pytest.raises(UnknownName, match="did you mean 'portfolio'"):
        run("replay", "stepped", "--actor", "portfolo")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda stream: True, raising=False)


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_every_message_says_what_it_says(run: Callable[..., Result], home: Path) -> None:
    """In 80 columns, where a table would have no room for it: decisions with targets and orders, signals with votes."""
    (home / "dev_integration").mkdir(exist_ok=True)
    assert record_trader(home, NO_FAULTS) == 0
    decisions = run("messages", "list", "--run", "stepped", "--type", "RecordDecision").stdout
    words = " ".join(decisions.split())
    assert "2012-07-02 16:00 portfolio > ledger RecordDecision equity 100,000.00, cash 100,000.00; targets" in words
    everything = " ".join(run("messages", "list", "--run", "stepped", "--limit", "0").stdout.split())
    assert "IBM 1Day " in everything and "AAPL stays out, score 0.00, close " in everything
    tree = run("messages", "trace", "80", "--run", "stepped").stdout
    for text in (decisions, tree, run("actors", "tree", "--run", "stepped").stdout):
        assert max(map(len, click.unstyle(text).splitlines())) <= 80


def test_a_decision_in_one_sentence() -> None:
    """Equity, each target with the shares held and wanted, the orders, the refusals, and who had not reported."""
    buy = OrderIntent(
        client_order_id="a", symbol="IBM", side="buy", quantity=Decimal(180), reference_price_usd=Decimal(190)
    )
    sell = OrderIntent(
        client_order_id="b", symbol="FB", side="sell", quantity=Decimal(7), reference_price_usd=Decimal(20)
    )
    target = TargetWeight(
        symbol="IBM", state_in=True, score=1.0, viability=1.0, weight=0.35, price_usd=Decimal(190),
        held_quantity=Decimal(0), target_quantity=Decimal(180),
    )  # fmt: skip
    said = headline(
        RecordDecision(
            at_ns=CLOSE, decision_id="d", bar_end_ns=CLOSE, session_date="2013-01-03", equity_usd=Decimal("99874.5"),
            cash_usd=Decimal(100), strategy="s", targets=(target,), approved=(buy,),
            refused=(Refusal(intent=sell, code="order_rate", reason="too many"),), missing=("AAPL",),
        )
    )  # fmt: skip
    assert said == (
        "equity 99,874.50, cash 100.00; targets IBM 35% (0->180); buy 180 IBM; "
        "refused sell 7 FB: order_rate; without AAPL"
    )
    assert headline(SAID) == "AAPL goes in, score nan, close 1.2500"


@pytest.mark.parametrize(("option", "name"), [("--actor", "signal:APPL"), ("--type", "SignalReport")])
def test_a_name_that_the_run_does_not_have_is_answered_with_the_nearest(
    run: Callable[..., Result], option: str, name: str
) -> None:
    """An empty list would look like an answer; one that is empty says so on stderr."""
    with pytest.raises(UnknownName, match="did you mean"):
        run("messages", "list", option, name)
    assert "no such messages" in run("messages", "list", "--type", "OrderRejected").stderr


def test_a_run_that_cannot_be_replayed_says_so(run: Callable[..., Result], home: Path) -> None:
    """Its kind has no factories."""
    write_run(home, "b-1", kind="unheard-of")
    with pytest.raises(BadInput, match="unheard-of"):
        run("replay", "b-1")


@pytest.mark.parametrize("group", [cli.messages_group, cli.actors_group])
def test_every_command_has_help_with_an_example(group: click.Group) -> None:
    """And so has each group."""
    for command in (group, *group.commands.values(), cli.replay_command):
        assert command.help and "Examples:" in command.help, command.name
        assert all(option.help for option in command.params if isinstance(option, click.Option))
