"""`explain` on the ledger and the message log of a real run, and on ledgers that say why there is no order."""

import json
import shutil
from collections.abc import Callable
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from actors.kernel.journal import LogReader, MessageLog, RunInfo
from actors.messages import RecordDecision, SignalReported
from algo_royale.app.cli import root
from algo_royale.orders import OrderIntent
from algo_royale.sessions import calendar
from db.store import NewDecision, RefusedIntent, Store
from traders import BUSY, last_session, trader

Explain = Callable[..., Result]


def _run(home: Path, *args: str) -> Result:
    return CliRunner().invoke(root, ["--home", str(home), *args])


def _document(home: Path, *args: str) -> dict[str, Any]:
    result = _run(home, "--json", "explain", *args)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which a stepped trader has traded four busy sessions."""
    home = tmp_path_factory.mktemp("explain")
    folder = home / "dev_integration"
    folder.mkdir()
    one = trader(4, start=BUSY, ledger=folder / "ledger.db")
    assert one.run(log=MessageLog(folder / "runs" / "stepped" / "messages.db", RunInfo("stepped", "trader", 1))) == 0
    one.store.close()
    return home


@pytest.fixture(scope="module")
def log(traded: Path) -> LogReader:
    return LogReader(traded / "dev_integration" / "runs" / "stepped" / "messages.db")


def decisions(log: LogReader) -> list[RecordDecision]:
    return [e.message for e in log.messages(kind="RecordDecision") if isinstance(e.message, RecordDecision)]


def test_every_order_is_explained_by_the_messages_that_led_to_it(traded: Path, log: LogReader) -> None:
    """Target, report and conditions are those of the messages that were told when it was decided."""
    reports = [e.message for e in log.messages(kind="SignalReported") if isinstance(e.message, SignalReported)]
    explained = 0
    for decision in decisions(log):
        for intent in decision.approved:
            found = _document(traded, intent.client_order_id)
            said = [r for r in reports if r.symbol == intent.symbol and r.bar_end_ns == decision.bar_end_ns]
            target = next(t for t in decision.targets if t.symbol == intent.symbol)
            assert found["order"]["side"] == intent.side and D(found["order"]["quantity"]) == intent.quantity
            assert found["target"] == msgspec.to_builtins(target)
            assert found["signal"]["votes"] == list(msgspec.to_builtins(said[-1].votes))
            assert found["signal_changed"]["verdicts"]
            assert found["events"][0]["event"] == "recorded" and found["answer"] is None
            assert bool(found["fills"]) is (found["order"]["status"] == "filled")
            explained += 1

    assert explained >= 8


def test_an_order_is_found_by_the_brokers_id_too(traded: Path, log: LogReader) -> None:
    ours = next(i.client_order_id for d in decisions(log) for i in d.approved)
    theirs = _document(traded, ours)["order"]["broker_order_id"]

    assert _document(traded, theirs)["order"]["client_order_id"] == ours


def test_a_symbol_without_an_order_gets_a_reason_that_is_true_of_the_decision(traded: Path, log: LogReader) -> None:
    reasons = set()
    for decision in decisions(log):
        ordered = {intent.symbol for intent in decision.approved}
        for symbol in {"AAPL", "GOOG", "IBM", "MSFT"} - ordered:
            found = _document(traded, "--symbol", symbol, "--at", decision.session_date)
            assert found["order"] is None and found["decision"]["bar_end_ns"] == decision.bar_end_ns
            target = next((t for t in decision.targets if t.symbol == symbol), None)
            if target is None:
                assert found["answer"].startswith("a quiet bar")
            elif not target.state_in:
                assert found["answer"] == f"the signal of {symbol} is out, and nothing was held"
            else:
                assert found["answer"].startswith(f"{symbol} held {target.held_quantity} and was to hold that")
            reasons.add(found["answer"].split(":")[0])

    assert len(reasons) >= 2


def test_what_was_never_decided_is_said_to_be_so(traded: Path) -> None:
    late = last_session(BUSY, 7)
    assert _document(traded, "--symbol", "ORCL")["answer"] == (
        "ORCL is not among the symbols traded: AAPL, GOOG, IBM, MSFT"
    )
    assert f"nothing was decided between {last_session(BUSY, 4)} and {last_session(BUSY, 6)}" in str(
        _document(traded, "--symbol", "IBM", "--at", f"{late}T09:00")["answer"]
    )
    before = _run(traded, "explain", "--symbol", "IBM", "--at", "2011-01-03")
    assert before.exit_code == 1 and "nothing had been decided by then" in before.output


def test_without_the_message_log_the_ledgers_part_is_told(traded: Path, log: LogReader, tmp_path: Path) -> None:
    shutil.copytree(traded / "dev_integration", tmp_path / "dev_integration", ignore=shutil.ignore_patterns("runs"))
    order = next(i.client_order_id for d in decisions(log) for i in d.approved)
    shown = _run(tmp_path, "explain", order)

    assert shown.exit_code == 0 and "message log is gone" in shown.output and "weight" in shown.output


def test_a_refusal_and_a_symbol_that_had_no_bar_are_named(tmp_path: Path) -> None:
    close = calendar().offset(BUSY, 0).close_ns
    store = Store.open(tmp_path / "dev_integration" / "ledger.db", run_id="r", now_ns=close, live_start_ns=close)
    store.reconcile(cause_of="start", checked=1, cash_usd=D(9), equity_usd=D(9), positions={}, now_ns=close)
    intent = OrderIntent(client_order_id="ar-1", symbol="IBM", side="buy", quantity=D(3), reference_price_usd=D(9))
    refused = RefusedIntent(intent=intent, code="order_notional", reason="too large (27.00 against 20.00)")
    targets = [
        {"symbol": s, "state_in": True, "score": 1.0, "weight": 0.5, "price_usd": "9", "held_quantity": "0", "target_quantity": "3"}
        for s in ("AAPL", "IBM")
    ]  # fmt: skip
    decision = NewDecision(
        decision_id="d-1", bar_end_ns=close, session_date=BUSY.isoformat(), equity_usd=D(9), cash_usd=D(9), strategy="E",
        targets=json.dumps(targets), approved=[], refused=[refused], missing=["AAPL"],
    )  # fmt: skip
    store.record_decision(decision, now_ns=close)
    store.close()

    assert _document(tmp_path, "--symbol", "IBM")["answer"] == (
        "our own limits refused it: too large (27.00 against 20.00)"
    )
    assert _document(tmp_path, "--symbol", "AAPL")["answer"] == "AAPL had no bar when the others were decided on"


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ((), "name an order, or a symbol with --symbol"),
        (("ar-1", "--symbol", "IBM"), "name an order, or a symbol with --symbol"),
        (("ar-1", "--at", "2012-01-03"), "--at goes with --symbol"),
        (("ar-none",), "the ledger has no order 'ar-none'"),
        (("--symbol", "IBM", "--at", "noon"), "'noon' is not an ISO date or time"),
    ],
)
def test_what_cannot_be_explained_is_one_line(traded: Path, args: tuple[str, ...], line: str) -> None:
    result = _run(traded, "explain", *args)

    assert result.exit_code in (1, 2) and line in result.output and "Traceback" not in result.output
