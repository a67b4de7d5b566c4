"""`explain`: why an order was made, or why a symbol had none, from the ledger's facts and the message log of the run.

Nothing is computed again: what is shown was recorded when it was decided.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from algo_royale.app.cli.ledger import dry_run_option, open_reader
from algo_royale.app.cli.messages import print_json, print_table, to_ns, when
from algo_royale.errors import BadInput

if TYPE_CHECKING:
    from algo_royale.app.cli import Settings
    from db.store import Reader

Row = Mapping[str, Any]
REPORTS_AT_ONCE = 500
"""So many reports of a symbol are read at a time on the way back to the one that changed its signal."""


@click.command("explain")
@click.argument("order_id", metavar="[ORDER_ID]", required=False)
@click.option("--symbol", help="Explain what was decided about this symbol, an order or none.")
@click.option(
    "--at", "at", metavar="TIME", help="With --symbol: ISO date or time, New York; default the latest decision."
)
@dry_run_option
@click.pass_obj
def explain_command(settings: "Settings", order_id: str | None, symbol: str | None, at: str | None) -> None:
    """Say why an order was made, or why a symbol had none: signal, votes, conditions, target, limits, and what came of it.

    ORDER_ID is the order's own id or the broker's, as `orders` shows it.

    \b
    Examples:
      algo-royale explain ar-5bd0d81c2f-1357246800000-AAPL-0
      algo-royale explain --symbol IBM --at 2013-01-03
      algo-royale explain --symbol AAPL --json
    """
    if (order_id is None) == (symbol is None):
        raise BadInput("name an order, or a symbol with --symbol")
    if order_id is not None and at is not None:
        raise BadInput("--at goes with --symbol: an order has a time of its own")
    with closing(open_reader(settings)) as reader:
        if order_id is not None:
            story = _of_order(reader, order_id.strip())
        else:
            assert symbol is not None
            story = _of_symbol(reader, symbol.strip().upper(), _until(at))
    log = settings.directory / "runs" / story["decision"]["run_id"] / "messages.db"
    story["signal"] = _signal(log, story) if log.is_file() else None
    story["log"] = log.is_file()
    if settings.json:
        print_json(_document(story))
    else:
        _show(story)


def _until(text: str | None) -> int:
    """The instant meant by --at: a date means the end of its session's day."""
    if text is None:
        return 2**63 - 1
    try:
        date.fromisoformat(text)
    except ValueError:
        return to_ns(text)
    return to_ns(f"{text}T23:59:59")


# --- what the ledger knows -------------------------------------------------------------------------------------------


def _of_order(reader: "Reader", order_id: str) -> dict[str, Any]:
    found = reader.orders(order_id=order_id)
    if not found:
        raise BadInput(f"the ledger has no order {order_id!r}; `orders` lists what it has")
    order = found[0]
    decision = reader.decision(until_ns=order["bar_end_ns"])
    assert decision is not None  # an order is recorded with its decision
    return _story(reader, order["symbol"], decision, order)


def _of_symbol(reader: "Reader", symbol: str, until_ns: int) -> dict[str, Any]:
    decision = reader.decision(until_ns=until_ns)
    if decision is None:
        first = reader.decision(until_ns=2**63 - 1)
        have = "there is none yet" if first is None else "the first came later: `messages list --type RecordDecision`"
        raise BadInput(f"nothing had been decided by then; {have}")
    orders = [o for o in reader.orders(symbol=symbol) if o["decision_id"] == decision["decision_id"]]
    story = _story(reader, symbol, decision, orders[-1] if orders else None)
    story["gap"] = None if until_ns == 2**63 - 1 else _gap(decision, until_ns)
    if story["order"] is None:
        story["answer"] = _why_none(story)
    return story


def _story(reader: "Reader", symbol: str, decision: Row, order: Row | None) -> dict[str, Any]:
    """Everything the ledger has about one symbol in one decision."""
    weighed = decision
    if decision["targets"] == "[]":  # a quiet bar: what holds is the last decision that weighed anything
        weighed = reader.decision(until_ns=decision["bar_end_ns"], with_targets=True) or decision
    targets = {target["symbol"]: target for target in json.loads(weighed["targets"])}
    identity = None if order is None else order["client_order_id"]
    refusals = [r for r in reader.refusals(symbol=symbol) if r["decision_id"] == decision["decision_id"]]
    return {
        "symbol": symbol, "decision": decision, "weighed": weighed, "traded": sorted(targets), "gap": None, "answer": None,
        "target": targets.get(symbol), "missing": symbol in json.loads(decision["missing"]), "refusals": refusals,
        "order": order, "events": [] if identity is None else reader.order_events(identity),
        "fills": [f for f in reader.fills(symbol=symbol) if f["client_order_id"] == identity],
    }  # fmt: skip


def _gap(decision: Row, until_ns: int) -> str | None:
    """Whether sessions closed between the decision and the time asked for, and nothing was decided in them."""
    from algo_royale.sessions import calendar

    last = calendar().previous_session(until_ns)
    if last.date <= date.fromisoformat(decision["session_date"]):
        return None
    return (
        f"nothing was decided between {decision['session_date']} and {last.date}: no trader ran, or it was halted, or its "
        "feed or broker was away; `messages list` and `status` say which"
    )


def _why_none(story: Row) -> str:
    """One sentence: why this symbol got no order in this decision."""
    symbol, decision, target = story["symbol"], story["decision"], story["target"]
    if story["gap"] is not None:
        return str(story["gap"])
    if story["refusals"]:
        return f"our own limits refused it: {story['refusals'][-1]['reason']}"
    if story["missing"]:
        return f"{symbol} had no bar when the others were decided on"
    if target is None:
        return f"{symbol} is not among the symbols traded: {', '.join(story['traded']) or 'none yet'}"
    held, wanted = target["held_quantity"], target["target_quantity"]
    if story["weighed"] is not decision:
        return (
            f"a quiet bar: no signal had changed since {story['weighed']['session_date']}, and every symbol held what it was "
            f"to hold ({symbol}: {wanted})"
        )
    if not target["state_in"] and held == wanted == "0":
        return f"the signal of {symbol} is out, and nothing was held"
    if target["state_in"] and float(target["weight"]) == 0.0:
        return f"the signal of {symbol} is in, but {decision['strategy']} gave it no weight"
    if held == wanted:
        return f"{symbol} held {held} and was to hold that, or something nearer than the drift band"
    return f"{symbol} held {held} and was to hold {wanted}, but an order of it was open, or there was no money for a share more"


# --- what the message log knows --------------------------------------------------------------------------------------


def _signal(path: Path, story: Row) -> dict[str, Any] | None:
    """The symbol's report that the decision used, and the one that last changed its signal; None where it never reported."""
    import actors.messages as m
    from actors.kernel.journal import LogReader

    bar_end_ns, found = story["decision"]["bar_end_ns"], None
    with LogReader(path) as log:
        newest = log.messages(kind="SignalReported", sender=f"signal:{story['symbol']}", limit=1)
        until_ns = newest[-1].at_ns + 1 if newest else 0
        while True:
            entries = log.messages(
                kind="SignalReported", sender=f"signal:{story['symbol']}", until_ns=until_ns, limit=REPORTS_AT_ONCE
            )
            for entry in reversed(entries):
                said = entry.message
                if not isinstance(said, m.SignalReported) or said.bar_end_ns > bar_end_ns:
                    continue
                if found is None:
                    found = {"report": said, "message_id": entry.id, "changed": None}
                if said.changed:
                    return found | {"changed": said}
            if not entries or entries[0].at_ns >= until_ns:
                return found
            until_ns = entries[0].at_ns


# --- showing ---------------------------------------------------------------------------------------------------------


def _document(story: Row) -> dict[str, Any]:
    import msgspec

    def plain(row: Row | None) -> dict[str, Any] | None:
        return None if row is None else {name: value for name, value in row.items() if name not in ("seq", "targets")}

    signal = story["signal"]
    return {
        "symbol": story["symbol"],
        "answer": story["answer"],
        "order": plain(story["order"]),
        "decision": plain(story["decision"]),
        "weighed": plain(story["weighed"]),
        "target": story["target"],
        "refusals": [plain(row) for row in story["refusals"]],
        "events": [plain(row) for row in story["events"]],
        "fills": [plain(row) for row in story["fills"]],
        "signal": None if signal is None else msgspec.to_builtins(signal["report"]),
        "signal_changed": None if signal is None or signal["changed"] is None else msgspec.to_builtins(signal["changed"]),
        "message_id": None if signal is None else signal["message_id"],
    }  # fmt: skip


def _show(story: Row) -> None:
    order, decision = story["order"], story["decision"]
    if order is not None:
        limit = "" if order["limit_price_usd"] is None else f" at {order['limit_price_usd']} or better"
        click.secho(
            f"{order['side']} {order['quantity']} {order['symbol']}{limit} ({order['order_type']}, {order['time_in_force']}): "
            f"{order['status']}, {order['filled_quantity']} filled",
            bold=True,
        )
    else:
        click.secho(f"no order of {story['symbol']}: {story['answer']}", bold=True)
    click.echo(f"decided at {when(decision['bar_end_ns'])} on the bar that closed then, by {decision['strategy']}")
    click.echo(
        f"  equity {decision['equity_usd']:,.2f} USD, cash {decision['cash_usd']:,.2f} USD, {decision['decision_id']}"
    )
    _show_target(story)
    if story["signal"] is not None:
        _show_signal(story["signal"])
    elif not story["log"]:
        click.echo("\nsignal: the run's message log is gone, and the votes and conditions with it")
    if story["events"]:
        click.echo("\nwhat came of it")
        rows = [
            (when(e["at_ns"]), e["event"], e["status"], e["filled_quantity"], e["detail"] or "-")
            for e in story["events"]
        ]
        print_table(("time", "event", "status", "filled", "detail"), rows, right=("filled",))
    for fill in story["fills"]:
        click.echo(
            f"  {fill['quantity']} at {fill['price_usd']} USD, {_slip(order, fill)} than the close it was sized at, "
            f"fees {fill['fees_usd']}"
        )
    if story["signal"] is not None:
        click.echo("\nevery message that led to it and followed:")
        click.echo(f"  algo-royale messages trace {story['signal']['message_id']} --run {decision['run_id']}")


def _slip(order: Row, fill: Row) -> str:
    basis = float((fill["price_usd"] / order["reference_price_usd"] - 1) * 10_000)
    cost = basis if order["side"] == "buy" else -basis
    return f"{abs(cost):.1f} bp {'worse' if cost > 0 else 'better'}"


def _show_target(story: Row) -> None:
    target, weighed = story["target"], story["weighed"]
    if target is not None:
        what = "" if weighed is story["decision"] else f" of {when(weighed['bar_end_ns'])}"
        click.echo(f"\ntarget{what}")
        click.echo(
            f"  {story['symbol']} is {'in' if target['state_in'] else 'out'}: weight {float(target['weight']):.1%} of the equity, "
            f"{target['held_quantity']} held -> {target['target_quantity']} wanted at {target['price_usd']} USD"
        )
    for refusal in story["refusals"]:
        click.echo(f"  refused ({refusal['code']}): {refusal['reason']}")


def _show_signal(signal: Mapping[str, Any]) -> None:
    report, changed = signal["report"], signal["changed"]
    click.echo(f"\nsignal at that bar: {'in' if report.state_in else 'out'}, {report.score:.0%} of the votes in")
    print_table(
        ("strategy", "weight", "says"),
        [(v.strategy, f"{v.weight:.0%}", "in" if v.held else "out") for v in report.votes],
        right=("weight",),
    )
    if changed is None:
        click.echo("it has not changed since the run began; the conditions are told where it changes")
        return
    since = "at that bar" if changed.bar_end_ns == report.bar_end_ns else f"last at {when(changed.bar_end_ns)}"
    click.echo(f"\nit changed {since} to {'in' if changed.state_in else 'out'}, on")
    print_table(("strategy", "part", "condition", "is", "because"), _conditions(changed.verdicts))


def _conditions(verdicts: Sequence[Any]) -> list[tuple[str, ...]]:
    return [
        (
            verdict.strategy, verdict.slot, verdict.condition, "true" if verdict.verdict else "false",
            ", ".join(f"{name} {value:.6g}" for name, value in verdict.inputs.items()),
        )
        for verdict in verdicts
    ]  # fmt: skip
