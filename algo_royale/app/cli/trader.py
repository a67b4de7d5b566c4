"""`run-trader`: trade the viable artifacts, and say what came of it."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from algo_royale.app.cli import print_or_go_on
from algo_royale.app.cli.strategies import strategy_path_option
from algo_royale.app.logs import visible
from algo_royale.errors import BadConfiguration, BadInput

if TYPE_CHECKING:
    from algo_royale.app.cli import Settings
    from algo_royale.app.trader import Endpoints
    from algo_royale.config import Config
    from algo_royale.research.handover import TradingPlan

DAY = click.DateTime(["%Y-%m-%d"])


@click.command("run-trader")
@click.option("--symbols", help="Comma-separated; default all that the research found viable.", show_default=False)
@click.option("--speed", help="Twin only: virtual seconds per second, or 'max' for as fast as both sides can.")
@click.option("--start", type=DAY, help="Twin only: first session; default the first that the research has not judged.")
@click.option("--until", type=DAY, help="Last session; default until stopped or until the data end.")
@strategy_path_option
@click.option("--dry-run", is_flag=True, help="Do everything but send orders, on a ledger of its own.")
@click.option("--live-account", metavar="ID", help="prod_live only: the broker's number of the account to trade.")
@click.pass_obj
def run_trader_command(
    settings: "Settings", symbols: str | None, speed: str | None, start: datetime | None, until: datetime | None,
    strategy_path: tuple[str, ...], live_account: str | None, dry_run: bool,
) -> int:  # fmt: skip
    """Trade what the last backtest found viable, until stopped or until the feed ends.

    In dev_integration the broker is the Alpaca twin, started here in a process of its own, over the sessions that the
    research has not seen; prod_paper and prod_live differ by addresses and keys only. Ctrl-C or `algo-royale stop` ends
    it in good order: orders that the broker holds stay there, and the next start takes them up again.

    \b
    Examples:
      run-trader
      run-trader --speed 3600 --until 2012-06-29
      run-trader --env prod_paper
      run-trader --env prod_paper --dry-run
    """
    chosen = {
        "symbols": None if symbols is None else tuple(s.strip() for s in symbols.split(",") if s.strip()),
        "speed": speed if speed in (None, "max") else _speed(speed),
        "start": start and start.date(),
        "until": until and until.date(),
    }
    config = settings.with_flags({"trader": chosen, "research": {"strategy_path": strategy_path or None}})
    summary = trade(settings, config, live_account=live_account, dry_run=dry_run)
    if settings.json:
        print_or_go_on(json.dumps(summary, indent=2, allow_nan=False))
    else:
        print_summary(summary, settings)
    if summary["exit_reason"] is not None:
        print_or_go_on(f"error: {visible(' '.join(str(summary['exit_reason']).split()))}", err=True)
    return int(summary["exit_code"])


def _speed(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"--speed {text!r} is neither a number nor 'max'") from None


def trade(
    settings: "Settings", config: "Config", *, live_account: str | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """Hold the environment's lock, find the plan and the broker, and run."""
    from algo_royale.app.lock import single_instance

    home = settings.directory
    with single_instance(home, "run-trader"):  # before anything heavy is imported: a refusal comes at once
        if not (home / "artifacts" / "run_manifest.json").exists():
            research = "run-backtest" if settings.env == "dev_integration" else f"run-backtest --env {settings.env}"
            raise BadInput(
                f"nothing to trade: {home / 'artifacts'} has no artifacts; run `{research}` first, "
                "or see `algo-royale demo`"
            )
        return _trade(settings, config, live_account, dry_run)


def _trade(settings: "Settings", config: "Config", live_account: str | None, dry_run: bool) -> dict[str, Any]:
    from algo_royale.app.backtest import iso
    from algo_royale.app.logs import process_log, secrets_of
    from algo_royale.app.notifications import addressees
    from algo_royale.app.trader import run_trader, sessions_to_trade, twin_process
    from algo_royale.clock import WallClock
    from algo_royale.research.handover import load_plan

    home, until = settings.directory, config.trader.until
    run_id = f"{'dry-run' if dry_run else 'trader'}-{iso(WallClock().now_ns()).replace(':', '').replace('-', '')}-{os.getpid()}"
    own = config.research.strategy_path
    plan = load_plan(home / "artifacts", symbols=config.trader.symbols or None, strategy_path=own)

    tell = addressees(config.notify, settings.secret_lines(config.notify.urls_file))

    def say(line: str) -> None:
        if settings.verbosity >= 0:
            print_or_go_on(line, err=True)

    def run(endpoints: "Endpoints") -> dict[str, Any]:
        log = config.log
        with process_log(
            home / "logs" / "trader.log", level=log.level, verbosity=settings.verbosity - 1, file_mb=log.file_mb,
            files=log.files, secrets=(*endpoints.keys, *tell.secrets, *secrets_of(config.database.url.get_secret_value())),
        ):  # fmt: skip
            return run_trader(
                plan, config, endpoints, home=home, run_id=run_id, until=until, say=say, dry_run=dry_run, tell=tell
            )

    if config.environment == "dev_integration" and config.broker.is_twin:
        first, last = sessions_to_trade(plan, config, start=config.trader.start, until=until)
        _announce(settings, plan, config, f"the Alpaca twin, sessions {first} to {last}")
        if str(first) <= plan.last_session:
            _note(
                settings,
                f"the research has seen the sessions up to {plan.last_session}: what is earned there proves nothing",
            )
        if not dry_run:
            set_ledger_aside(home, settings)
        with twin_process(plan, config, first=first, last=last, speed=str(config.trader.speed)) as endpoints:
            return run(endpoints)
    endpoints = _endpoints(settings, config, live_account)
    _refuse_old_research(plan, config, WallClock().now_ns())
    _announce(settings, plan, config, endpoints.trading_url)
    if not endpoints.twin:
        _show_account(settings, config, _account(endpoints, config, live_account))
    return run(endpoints)


def _refuse_old_research(plan: "TradingPlan", config: "Config", now_ns: int) -> None:
    """What was found in prices that end years ago (the bundled ones, say) is nothing to trade on today."""
    from algo_royale.sessions import new_york_date

    limit = config.trader.research_age_days_max
    if limit is None:
        return
    age = (new_york_date(now_ns) - date.fromisoformat(plan.data_end)).days
    if age > limit:
        raise BadInput(
            f"the research's prices end on {plan.data_end}, {age} days ago; {config.environment} allows {limit} "
            f"([trader] research_age_days_max): run `run-backtest --env {config.environment} --data DIR` on current ones"
        )


def _endpoints(settings: "Settings", config: "Config", live_account: str | None) -> "Endpoints":
    """A broker that somebody else runs: Alpaca, or (in dev_integration) a twin started with run-exchange."""
    from algo_royale.app.trader import Endpoints

    twin = config.environment == "dev_integration"
    endpoints = Endpoints.of_config(config.broker, settings.keys(), twin=twin)
    if config.environment == "prod_live" and live_account is None:
        raise BadConfiguration("prod_live trades with money: give --live-account with the broker's account number")
    return endpoints


def _account(endpoints: "Endpoints", config: "Config", live_account: str | None) -> dict[str, Any]:
    """The account that these keys open; with money it must be the one that was named."""
    from algo_royale.broker.alpaca_wire import parse_account

    rest = endpoints.rest(config.broker)
    try:
        account = rest.account()
    finally:
        rest.close()
    found = parse_account(account)
    number = found.account_number
    if live_account is not None and number != live_account:
        raise BadConfiguration(
            f"--live-account {live_account} is not the account of these keys, which ends in {number[-4:]}"
        )
    if found.status != "ACTIVE":
        raise BadConfiguration(
            f"account {number} is not active: {found.status or 'the broker does not say what it is'}"
        )
    if found.is_blocked:
        raise BadConfiguration(f"account {number} is blocked from trading, by the broker or by its owner")
    return account


def _show_account(settings: "Settings", config: "Config", account: Mapping[str, Any]) -> None:
    """What is about to be risked, and within which limits."""
    money = "with real money" if config.broker.real_money else "with play money"
    _note(
        settings,
        f"account {account.get('account_number')} {money}: equity {account.get('equity')} USD, cash {account.get('cash')} USD, "
        f"buying power {account.get('buying_power')} USD",
    )
    limits = {name: value for name, value in config.risk.model_dump().items() if value is not None}
    _note(settings, "limits: " + ", ".join(f"{name} {_shown(value)}" for name, value in limits.items()))


def _shown(value: object) -> str:
    return (" ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)


def _announce(settings: "Settings", plan: "TradingPlan", config: "Config", where: str) -> None:
    strategy = plan.portfolio.removesuffix("PortfolioStrategy")
    _note(settings, f"{config.environment}: trading {', '.join(plan.names)} by {strategy} at {where}", indent="")
    for symbol, why in plan.skipped.items():
        _note(settings, f"not {symbol}: {why}")
    if config.viability.note:
        _note(settings, f"thresholds: {config.viability.note}")


def _note(settings: "Settings", text: str, indent: str = "  ") -> None:
    """A line on stderr that is no longer than a terminal is wide."""
    if settings.verbosity >= 0:
        wrapped = textwrap.fill(
            text, _columns(), initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False,
            break_long_words=False,
        )  # fmt: skip
        print_or_go_on(wrapped, err=True)


def _columns() -> int:
    return max(shutil.get_terminal_size().columns - 1, 60) if sys.stderr.isatty() else 1000  # whole lines in a file


def set_ledger_aside(home: Path, settings: "Settings") -> None:
    """A new twin is a new account, so it gets a new ledger; the old one is kept."""
    ledger = home / "ledger.db"
    if not ledger.exists():
        return
    from algo_royale.clock import WallClock
    from db.admin import migrate_file
    from db.store import Reader

    migrate_file(ledger, now_ns=WallClock().now_ns())  # an older program may have made it
    with Reader(ledger) as reader:
        run = reader.summary().last_run_id
    kept = home / "ledgers" / f"{run}.db"
    kept.parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("-wal", "-shm", ""):
        part = ledger.with_name(ledger.name + suffix)
        if part.exists():
            part.rename(kept.with_name(kept.name + suffix))
    _note(settings, f"a new twin is a new account: the ledger of {run} is kept as {kept}")


def print_summary(summary: Mapping[str, Any], settings: "Settings") -> None:
    """What a person wants to know when it is over."""
    orders, checks = summary["orders"], summary["reconciliations"]
    if summary["dry_run"]:
        print_or_go_on(f"dry run: {orders['not_sent']} orders decided, none sent; see `algo-royale orders --dry-run`")
    one = "session" if summary["sessions"] == 1 else "sessions"
    print_or_go_on(
        f"{summary['sessions']} {one} from {summary['started_at'][:10]} to {summary['ended_at'][:10]}, "
        f"{summary['bars']} bars, {summary['elapsed_s']:.1f} s"
    )
    print_or_go_on(
        f"orders: {orders['submitted']} submitted, {orders['filled']} filled, {orders['rejected']} rejected, "
        f"{orders['canceled']} canceled or expired,\n  {orders['refused']} refused by our own limits"
    )
    if summary["equity_start"] and summary["equity_end"]:
        start, end = float(summary["equity_start"]), float(summary["equity_end"])
        print_or_go_on(
            f"equity: {start:,.2f} -> {end:,.2f} USD ({end / start - 1:+.2%}), cash {float(summary['cash']):,.2f}"
        )
    for position in summary["positions"]:
        print_or_go_on(f"  holds {position['quantity']} {position['symbol']} (cost {float(position['cost_usd']):,.2f})")
    print_or_go_on(
        f"reconciled {checks['checked']} times with {checks['differences']} differences; "
        f"{summary['restarts']} restarts, {summary['dead_letters']} dead letters"
    )
    print_or_go_on(
        f"run {summary['run_id']} ended with exit code {summary['exit_code']}\n"
        "  ask `algo-royale orders` what was traded, and `algo-royale messages` why"
    )
