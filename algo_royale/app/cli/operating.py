"""`status`, `stop`, `halt`, `resume`, `flatten`, `actors top`: what a trader says over its control socket and is told there."""

import getpass
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from algo_royale.app.cli.ledger import (
    INSTANCE,
    POSITIONS,
    dry_run_option,
    has_ledger,
    ledger_place,
    open_reader,
    running_trader,
    show_rows,
    summary_of,
)
from algo_royale.app.cli.messages import actors_group, grid_of, print_json, print_table, terminal, when
from algo_royale.app.logs import visible
from algo_royale.errors import AlgoRoyaleError, BadInput

if TYPE_CHECKING:
    from rich.table import Table

    from algo_royale.app.cli import Settings
    from db.store import Latch

STATUS_WITHIN_S = 1.0


class NotStopped(AlgoRoyaleError):
    """The trader still runs."""


class NotCommitted(AlgoRoyaleError):
    """The trader has not done yet what it was told."""


def ask_trader(settings: "Settings", command: str, *, timeout_s: float = 5.0, **arguments: object) -> dict[str, Any]:
    """What the running trader answers. Raises NoTrader when there is none, Refused when it says no."""
    from algo_royale.app.control import ask

    return ask(settings.directory, command, timeout_s=timeout_s, **arguments)


# --- status ----------------------------------------------------------------------------------------------------------


@click.command("status")
@dry_run_option
@click.pass_obj
def status_command(settings: "Settings") -> None:
    """Say whether a trader runs in this environment, how it is, and what its ledger holds.

    It waits for nobody: what the trader is doing comes from its control socket, everything else from the ledger.

    \b
    Examples:
      algo-royale status
      algo-royale --env prod_paper status --json
    """
    pid = running_trader(settings.directory)
    document: dict[str, Any] = {
        "environment": settings.env, "running": pid is not None, "pid": pid, "trader": None, "ledger": None,
        "positions": [], "open_orders": [], "failed_jobs": [],
    }  # fmt: skip
    if pid is not None:
        with suppress(AlgoRoyaleError):  # it starts, ends or is somebody else's: the ledger still speaks
            document["trader"] = _live(ask_trader(settings, "status", timeout_s=STATUS_WITHIN_S))
    if document["trader"] and document["trader"]["dry_run"]:
        settings = replace(settings, dry_run=True)  # what it decides is in a ledger of its own
    if has_ledger(settings):
        with closing(open_reader(settings)) as reader:
            document["ledger"] = summary_of(reader)
            document["positions"] = reader.positions()
            document["open_orders"] = [_order(row) for row in reader.orders(status="open")]
            document["failed_jobs"] = [_job(row) for row in reader.failed_jobs()]
    if settings.json:
        print_json(document)
    else:
        _show_status(document)


def _live(answer: dict[str, Any]) -> dict[str, Any]:
    """The trader's answer with times as people read them."""
    now_ns, bar_ns = answer.pop("now_ns"), answer.pop("bar_end_ns")
    return {**answer, "now": when(now_ns), "bar_end": None if bar_ns is None else when(bar_ns)}


def _order(row: Mapping[str, Any]) -> dict[str, Any]:
    wanted = (
        "client_order_id",
        "symbol",
        "side",
        "quantity",
        "filled_quantity",
        "status",
        "order_type",
        "limit_price_usd",
    )
    return {name: row[name] for name in wanted}


def _job(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: row[name] for name in ("session_date", "phase", "job", "detail")}, "at": when(row["at_ns"])}


def _show_status(document: Mapping[str, Any]) -> None:
    rows: list[tuple[str, object]] = [("environment", document["environment"])]
    live, ledger = document["trader"], document["ledger"]
    rows.append(("trader", f"running, process {document['pid']}" if document["running"] else "not running"))
    if live is not None:
        rows += _live_rows(live)
    elif document["running"]:
        rows.append(("control", "no answer: it is starting or ending, or belongs to another user"))
    if ledger is None:
        rows.append(("ledger", "none yet"))
    else:
        rows += [(name.removesuffix("_usd").replace("_", " "), "-" if v is None else v) for name, v in ledger.items()]
    print_table(("what", "value"), rows)
    if document["positions"]:
        click.echo()
        show_rows(document["positions"], POSITIONS)
    if document["open_orders"]:
        click.echo()
        columns = ("side", "symbol", "quantity", "filled", "status", "type", "order")
        orders = [
            (o["side"], o["symbol"], o["quantity"], o["filled_quantity"], o["status"], o["order_type"], o["client_order_id"])
            for o in document["open_orders"]
        ]  # fmt: skip
        print_table(columns, orders, right=("quantity", "filled"))
    if document["failed_jobs"]:
        click.echo()
        jobs = [(job["session_date"], job["phase"], job["job"], job["detail"]) for job in document["failed_jobs"]]
        print_table(("session", "phase", "failed job", "because"), jobs)


def _live_rows(live: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Time and session, connections, the newest bar, actors: in the order in which a worried person asks."""
    down, told = live["actors_down"], live["notifications"]
    bar = "none yet" if live["bar_end"] is None else f"{live['bar_end']}, {_age(live['bar_age_s'])} ago"
    rows: list[tuple[str, object]] = [
        *([("mode", "dry run: no order is sent")] if live["dry_run"] else []),
        ("time", live["now"]),
        ("phase", "-" if live["phase"] is None else f"{live['phase']}, session {live['session']}"),
        ("connections", ", ".join(f"{name} {state or '-'}" for name, state in live["connections"].items())),
        ("last bar", bar),
        *([("held back", ", ".join(f"{s} {hold}" for s, hold in live["held_back"].items()))] if live["held_back"] else []),
        ("actors", f"{live['actors'] - len(down)} of {live['actors']} running" + (f"; not: {', '.join(down)}" if down else "")),
        ("restarts", live["restarts"]),
        *([("notifications", ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in told.items()))] if told else []),
    ]  # fmt: skip
    return [*rows, ("stopping", "yes")] if live["stopping"] else rows


def _age(seconds: float) -> str:
    for limit, unit, name in ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172_800.0, 3600.0, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.1f} days"


# --- stop ------------------------------------------------------------------------------------------------------------


@click.command("stop")
@click.option("--timeout", default=30.0, type=click.FloatRange(min=0), help="Seconds to wait for its end.")
@click.pass_obj
def stop_command(settings: "Settings", timeout: float) -> None:
    """Ask the running trader to end in good order, and wait until it has.

    Orders that the broker holds stay there and the next start takes them up again, or are cancelled first: that is what
    [trader] on_stop says.

    \b
    Examples:
      algo-royale stop
      algo-royale --env prod_paper stop --timeout 60
    """
    from algo_royale.clock import WallClock

    pid = running_trader(settings.directory)
    if pid is None:
        raise BadInput(f"no trader is running in {settings.directory}")
    clock, tick = WallClock(), threading.Event()
    asked_s = clock.monotonic_s()
    _ask_to_stop(settings, pid)
    while running_trader(settings.directory) == pid:
        if clock.monotonic_s() - asked_s > timeout:
            raise NotStopped(f"the trader, process {pid}, has been asked to stop but still runs after {timeout:g} s")
        tick.wait(0.05)
    took_s = round(clock.monotonic_s() - asked_s, 1)
    if settings.json:
        print_json({"environment": settings.env, "pid": pid, "stopped": True, "took_s": took_s})
    else:
        click.echo(f"trader of {settings.env} (process {pid}) stopped after {took_s} s")


def _ask_to_stop(settings: "Settings", pid: int) -> None:
    """Over the socket, or by SIGTERM while it has none yet."""
    from algo_royale.app.control import NoTrader, Refused

    try:
        ask_trader(settings, "stop")
        return
    except (NoTrader, Refused):
        pass
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as error:
        raise BadInput(f"the trader is process {pid} of another user, whom only that user may stop") from error
    except ProcessLookupError:
        pass  # it ended this moment


# --- halt, resume, flatten -------------------------------------------------------------------------------------------

_by_option = click.option("--by", help="Who you are, for the record; your login name if not given.", show_default=False)
_timeout_option = click.option(
    "--timeout", default=10.0, type=click.FloatRange(min=0), help="Seconds to wait until the ledger has it."
)


@click.command("halt")
@click.option("--reason", default="halted by hand", help="Why; kept in the ledger.")
@click.option("--reduce", is_flag=True, help="Still let orders through that make a position smaller.")
@_by_option
@_timeout_option
@click.pass_obj
def halt_command(settings: "Settings", reason: str, reduce: bool, by: str | None, timeout: float) -> None:
    """Let no more orders leave, from now on and over restarts, until a person resumes.

    A running trader goes on: it hears fills, reconciles, and waits for `resume`. What the broker holds already stays there,
    or is cancelled: that is what [risk] on_halt says. Without a running trader the next one starts halted.

    \b
    Examples:
      algo-royale halt
      algo-royale halt --reduce --reason "earnings tonight"
      algo-royale --env prod_live halt
    """
    state = "reducing" if reduce else "halted"
    _command_state(settings, "halt", reason, by, timeout, state=state)


@click.command("resume")
@click.option("--reason", required=True, help="What you looked at and why trading may go on; kept in the ledger.")
@click.option(
    "--accept-broker", is_flag=True,
    help="Where ledger and broker disagree, have the next start book what the broker says: by name, with both sides kept.",
)  # fmt: skip
@_by_option
@_timeout_option
@click.pass_obj
def resume_command(settings: "Settings", reason: str, accept_broker: bool, by: str | None, timeout: float) -> None:
    """Give trading back after a person has found out why it was halted or only reducing. Losses are counted anew.

    \b
    Examples:
      algo-royale resume --reason "the feed was down; positions are as they should be"
      algo-royale resume --accept-broker --reason "the exchange busted the trade; their page and mail say so"
    """
    _command_state(settings, "resume", reason, by, timeout, accept_broker=accept_broker)


@click.command("flatten")
@click.option("--reason", default="flattened by hand", help="Why; kept in the ledger.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_by_option
@_timeout_option
@click.pass_obj
def flatten_command(settings: "Settings", reason: str, yes: bool, by: str | None, timeout: float) -> None:
    """Cancel every open order and close every position; nothing is bought until a person resumes.

    It is done by the running trader, or by the next one if none runs. Watch it with `status` and `orders`.

    \b
    Examples:
      algo-royale flatten
      algo-royale --env prod_live flatten --yes --reason "going away"
    """
    if not yes:
        click.confirm(f"Close every position of {settings.env}?", abort=True, err=True)
    _command_state(settings, "flatten", reason, by, timeout)


def _command_state(
    settings: "Settings", command: str, reason: str, by: str | None, timeout: float, state: str = "halted",
    accept_broker: bool = False,
) -> None:  # fmt: skip
    """Have the trader commit it, or commit it ourselves where none runs, and say what stands in the ledger then."""
    from algo_royale.risk import person

    reason, who = visible(reason), person(visible(by or _login_name()))
    running = running_trader(settings.directory) is not None
    if running and accept_broker:
        raise BadInput("a trader is running, so ledger and broker agree: there is nothing to accept")
    if running:
        settings = replace(settings, dry_run=_trader_that_is_up(settings, timeout)["dry_run"])
        before = _latch(settings)
        _refuse_idle(command, before)
        ask_trader(settings, command, reason=reason, by=who, state=state)
        found = _wait_for_latch(settings, before, command, state, timeout)
    else:
        _commit_offline(settings, command, reason, who, state, accept_broker)
        found = _latch(settings)
    document = {
        "environment": settings.env, "running": running, "state": found.state.value, "reason": found.reason,
        "by": found.set_by,
    }  # fmt: skip
    if settings.json:
        print_json(document)
    else:
        note = "" if running else " (no trader is running; the next one starts like this)"
        click.echo(f"{settings.env} is {found.state.value}: {found.reason} ({found.set_by}){note}")


def _login_name() -> str:
    """The person at the keyboard, as the system knows them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise BadInput("the system does not know your login name; say who you are with --by") from error


def _trader_that_is_up(settings: "Settings", timeout: float) -> dict[str, Any]:
    """Its status. One that is still starting has no control socket yet: who says `halt` to it is not sent away at once."""
    from algo_royale.app.control import NoTrader
    from algo_royale.clock import WallClock

    clock, tick = WallClock(), threading.Event()
    asked_s = clock.monotonic_s()
    while True:
        try:
            return ask_trader(settings, "status")
        except NoTrader as error:
            if clock.monotonic_s() - asked_s > timeout or running_trader(settings.directory) is None:
                raise NotCommitted(
                    f"nothing is committed: the trader is starting or ending, and did not answer within {timeout:g} s; "
                    "say it again, or end it with `stop`"
                ) from error
        tick.wait(0.05)


def _latch(settings: "Settings") -> "Latch":
    with closing(open_reader(settings)) as reader:
        return reader.summary().latch


def _refuse_idle(command: str, latch: "Latch") -> None:
    from algo_royale.risk import TradingState

    if command == "resume" and latch.state is TradingState.TRADING:
        raise BadInput("trading is neither halted nor reducing")


def _wait_for_latch(settings: "Settings", before: "Latch", command: str, state: str, timeout: float) -> "Latch":
    """Until the ledger has more than `before`; what changes nothing (halted again) is not waited for."""
    from algo_royale.clock import WallClock

    clock, tick = WallClock(), threading.Event()
    asked_s = clock.monotonic_s()
    while (found := _latch(settings)) == before and not _stands(command, state, found):
        if clock.monotonic_s() - asked_s > timeout:
            raise NotCommitted(
                f"the trader has been told to {command}, but after {timeout:g} s the ledger does not say so yet; "
                "look at `algo-royale status`"
            )
        tick.wait(0.02)
    return found


def _stands(command: str, state: str, latch: "Latch") -> bool:
    from algo_royale.risk import TradingState, is_flattening

    match command:
        case "halt":
            return latch.state.severity >= TradingState(state).severity
        case "resume":
            return latch.state is TradingState.TRADING
    return is_flattening(latch.state, latch.reason)


def _commit_offline(settings: "Settings", command: str, reason: str, by: str, state: str, accept_broker: bool) -> None:
    """By the rules that the trader's ledger follows, holding the lock, so that no trader starts meanwhile."""
    from algo_royale.app.lock import single_instance
    from algo_royale.clock import WallClock
    from algo_royale.risk import StateEvent, TradingState
    from db.store import Store

    place = ledger_place(settings)
    if not has_ledger(settings):
        raise BadInput(f"no trader is running, and there is no ledger at {place}; `run-trader` makes one")
    _refuse_idle(command, _latch(settings))
    event = {"resume": StateEvent.PERSON_RESUMES, "flatten": StateEvent.PERSON_FLATTENS}.get(command)
    event = event or StateEvent.of_halt(TradingState(state), by)
    now_ns = WallClock().now_ns()
    with single_instance(settings.directory, INSTANCE):
        store = Store.open(place, run_id=f"{command}-{now_ns}-{os.getpid()}", now_ns=now_ns, live_start_ns=now_ns)
        try:
            store.move(event, reason, by=by, now_ns=now_ns, accepts_broker=accept_broker)
        finally:
            store.close()


# --- notify ----------------------------------------------------------------------------------------------------------


@click.command("notify")
@click.argument("text", default="a test of the notifications")
@click.pass_obj
def notify_command(settings: "Settings", text: str) -> int:
    """Send TEXT to every address of [notify], and say which took it; exit code 1 if one did not.

    Addresses are secrets: they are shown by their kind and place in the list.

    \b
    Examples:
      algo-royale notify
      algo-royale --env prod_live notify "is anybody there?"
    """
    from algo_royale.app.notifications import addressees, deliver

    notify = settings.config.notify
    found = addressees(notify, settings.secret_lines(notify.urls_file))
    if not found.services:
        raise BadInput("nobody would be told: [notify] has no address")
    results = [
        (service.name, *deliver(service, f"AlgoRoyale {settings.env}: test", text)) for service in found.services
    ]
    if settings.json:
        print_json([{"service": name, "delivered": taken, "detail": detail} for name, taken, detail in results])
    else:
        print_table(("service", "delivered", "detail"), [(n, "yes" if t else "no", d or "-") for n, t, d in results])
    return 0 if all(taken for _, taken, _ in results) else 1


# --- actors top ------------------------------------------------------------------------------------------------------

_TOP = ("actor", "state", "mailbox", "messages/s", "mean us", "handled", "restarts")


@actors_group.command("top")
@click.option("--interval", default=1.0, type=click.FloatRange(min=0.05), help="Seconds between two looks.")
@click.pass_obj
def top_command(settings: "Settings", interval: float) -> None:
    """Show what the actors of the running trader are doing: refreshed on a terminal until Ctrl-C, once in a pipe.

    Rates and mean times are those of the last interval.

    \b
    Examples:
      algo-royale actors top
      algo-royale --json actors top --interval 5
    """
    if running_trader(settings.directory) is None:
        raise BadInput(f"no trader is running in {settings.directory}")
    tick, before = threading.Event(), ask_trader(settings, "top")
    if settings.json or not sys.stdout.isatty():
        tick.wait(interval)
        rows = rates(before, ask_trader(settings, "top"))
        if settings.json:
            print_json({"run_id": before["run_id"], "actors": rows})
        else:
            print_table(_TOP, [_top_row(row) for row in rows], right=_TOP[2:])
        return
    _top_live(settings, before, interval, tick)


def rates(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Two answers to `top` as one row per actor: messages a second and mean handling time in between."""
    seconds = max(after["at_ns"] - before["at_ns"], 1) / 1e9
    earlier = {row["path"]: row for row in before["actors"]}
    rows = []
    for row in after["actors"]:
        was = earlier.get(row["path"], {"records": 0, "took_us": 0})
        records, took_us = row["records"] - was["records"], row["took_us"] - was["took_us"]
        rows.append(
            {
                "actor": row["path"], "state": row["state"], "mailbox": row["mailbox"],
                "messages_per_s": round(records / seconds, 1), "mean_us": round(took_us / records, 1) if records else None,
                "handled": row["handled"], "restarts": row["restarts"], "last_error": row["last_error"],
                "observed": row.get("observed"),
            }
        )  # fmt: skip
    return rows


def _top_row(row: Mapping[str, Any]) -> tuple[object, ...]:
    mean = "-" if row["mean_us"] is None else f"{row['mean_us']:.0f}"
    rate = f"{row['messages_per_s']:.1f}"
    return row["actor"], row["state"], row["mailbox"], rate, mean, row["handled"], row["restarts"]


def _top_live(settings: "Settings", before: dict[str, Any], interval: float, tick: threading.Event) -> None:
    from rich.live import Live

    from algo_royale.app.control import NoTrader

    with Live(console=terminal(), auto_refresh=False) as live:
        try:
            while True:
                tick.wait(interval)
                after = ask_trader(settings, "top")
                live.update(_top_table(rates(before, after), live.console.width), refresh=True)
                before = after
        except NoTrader:
            live.console.print("the trader has ended")
        except KeyboardInterrupt:
            return


def _top_table(rows: Sequence[Mapping[str, Any]], width: int) -> "Table":
    """What fits into the width: who is in the trading tree goes by the name that it has there."""
    table = [[str(cell).removeprefix("root/trading/") for cell in _top_row(row)] for row in rows]
    return grid_of(_TOP, table, width, right=_TOP[2:])[0]
