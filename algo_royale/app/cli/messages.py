"""`messages`, `actors` and `replay`: what a run's message log has to say, also while the run goes on.

Tables on a terminal, tab-separated lines in a pipe, one JSON document with `--json` (`tail`: one per line). Times are
New York's, in ISO 8601.
"""

import dataclasses
import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar
from zoneinfo import ZoneInfo

import click

from algo_royale.app.cli.headlines import headline
from algo_royale.app.logs import visible
from algo_royale.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from actors.kernel.journal import ActorState, Entry, LogReader, Run, TraceLine
    from actors.kernel.replay import Factory, ReplayReport, ReplayRuntime
    from db.database import PostgresUrl

NEW_YORK = ZoneInfo("America/New_York")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SUMMARY_LIMIT = 200
F = TypeVar("F", bound=Callable[..., Any])


class Globals(Protocol):
    """The options before the command that these commands read from `ctx.obj`."""

    home: Path
    env: str
    json: bool


# --- finding and reading a run ---------------------------------------------------------------------------------------


def find_log(options: Globals, run: str | None) -> Path:
    """The message log of a run: by run id, by path (of the file or its folder), or the newest of the environment."""
    runs = options.home / options.env / "runs"
    if run is not None:
        given = Path(run)
        for path in (runs / run / "messages.db", given / "messages.db", given):
            if path.is_file():
                return path
        known = [path.parent.name for path in runs.glob("*/messages.db")]
        if not known:
            raise BadInput(f"no run {run!r}: there is no message log under {runs}")
        raise UnknownName("run", run, known)
    logs = list(runs.glob("*/messages.db"))
    if not logs:
        raise BadInput(
            f"no message log under {runs}; start `run-trader`, or `run-backtest --log`, or name one with --run"
        )
    return max(logs, key=_touched)


def _touched(path: Path) -> tuple[float, str]:
    wal = path.with_name(path.name + "-wal")
    return max(file.stat().st_mtime for file in (path, wal) if file.exists()), str(path)


@contextmanager
def _open(options: Globals, run: str | None) -> "Iterator[LogReader]":
    import actors.messages  # noqa: F401 - so that bodies decode into their classes
    from actors.kernel.journal import LogReader

    with LogReader(find_log(options, run)) as reader:
        if reader.off_reason():
            click.echo(f"note: this log was turned off before its run ended: {reader.off_reason()}", err=True)
        if reader.gaps():
            click.echo(f"note: {reader.gaps()} records are missing from this log (queue overflow)", err=True)
        yield reader


# --- showing ---------------------------------------------------------------------------------------------------------


def when(at_ns: int) -> str:
    """ISO 8601 in New York, to the millisecond; "-" for no time."""
    if not at_ns:
        return "-"
    return (_EPOCH + timedelta(microseconds=at_ns // 1000)).astimezone(NEW_YORK).isoformat(timespec="milliseconds")


def to_ns(text: str) -> int:
    """UTC nanoseconds of an ISO date or time; New York where it names no offset."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{text!r} is not an ISO date or time such as 2013-01-03 or 2013-01-03T16:00") from None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=NEW_YORK)
    return (instant - _EPOCH) // timedelta(microseconds=1) * 1000


def summary(message: Any) -> str:
    """One line of a message: its fields in their order, long parts cut."""
    fields = _plain(message)
    shown = [f"{name}={_short(name, value)}" for name, value in fields.items() if name not in ("at_ns", "type")]
    line = " ".join(shown)
    return line if len(line) <= _SUMMARY_LIMIT else line[: _SUMMARY_LIMIT - 3] + "..."


def _plain(message: Any) -> dict[str, Any]:
    from actors.kernel.journal import Unknown

    if isinstance(message, Unknown):
        return message.fields if isinstance(message.fields, dict) else {"fields": message.fields}
    return {name: getattr(message, name) for name in message.__struct_fields__}


def _short(name: str, value: Any) -> str:
    if name.endswith("_ns") and isinstance(value, int) and value > 10**15:
        return when(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str | Decimal | int) or value is None:
        text = str(value)
        return text if len(text) <= 60 else text[:57] + "..."
    if isinstance(value, Mapping):
        return "{" + " ".join(f"{key}={_short(str(key), item)}" for key, item in value.items()) + "}"
    if isinstance(value, Iterable):
        items = list(value)
        if len(items) > 3:
            return f"[{len(items)} items]"
        return "[" + ", ".join(_short("", item) for item in items) + "]"
    inner = {field: getattr(value, field) for field in getattr(value, "__struct_fields__", ())}
    return "{" + " ".join(f"{field}={_short(field, item)}" for field, item in inner.items() if item is not None) + "}"


def _document(entry: "Entry") -> dict[str, Any]:
    return {
        "id": entry.id, "cause": entry.cause, "corr": entry.corr, "sender": entry.sender, "sender_generation": entry.gen,
        "recipient": entry.recipient, "recipient_generation": entry.attempt, "type": entry.kind, "sent": when(entry.sent_ns),
        "sent_ns": entry.sent_ns, "handled": when(entry.handled_ns), "handled_ns": entry.handled_ns, "took_us": entry.took_us,
        "outcome": entry.outcome.name.lower(), "detail": entry.detail, "message": _plain(entry.message),
    }  # fmt: skip


def print_json(document: object, *, indent: bool = True) -> None:
    import msgspec

    encoded = msgspec.json.encode(document, enc_hook=str)  # money as strings, NaN as null
    click.echo(msgspec.json.format(encoded, indent=2 if indent else -1).decode())


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Tab-separated lines under a header line in a pipe. On a terminal a table of one line a row: the columns that find
    room, from the left; one of text that comes last may be cut. What is left out is said below the table."""
    table = [[visible(str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in (headers, *table):
            click.echo("\t".join(row))
        return
    console = terminal()
    grid, left_out = grid_of(headers, table, console.width, right=right)
    console.print(grid)
    if table and left_out:
        click.secho(f"no room for {', '.join(left_out)}: widen the terminal, or use --json", dim=True, err=True)


def grid_of(
    headers: Sequence[str], table: Sequence[Sequence[str]], room: int, *, right: Sequence[str] = ()
) -> tuple["Table", Sequence[str]]:
    """A table for a terminal of so many columns, and the headers of what has no room in it."""
    from rich.table import Table
    from rich.text import Text

    widths = [max(len(row[place]) for row in (headers, *table)) for place in range(len(headers))]
    shown = 0
    for header, width in zip(headers, widths, strict=True):
        least = width if header in right else min(width, _LAST_COLUMN_MIN)
        if shown and (room < least or (room < width and header != headers[-1])):
            break
        widths[shown] = min(width, max(room, 1))
        room -= widths[shown] + _GAP
        shown += 1
    grid = Table(box=None, header_style="bold", padding=(0, _GAP, 0, 0), pad_edge=False)
    for header, width in zip(headers[:shown], widths, strict=False):
        justify: Literal["left", "right"] = "right" if header in right else "left"
        grid.add_column(header, justify=justify, no_wrap=True, overflow="ellipsis", width=width)
    for row in table:
        grid.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row[:shown]))
    return grid, headers[shown:]


def terminal() -> "Console":
    """stdout, without colour where `--no-color` or NO_COLOR says so."""
    from rich.console import Console

    context = click.get_current_context(silent=True)
    plain = context is not None and context.color is False
    return Console(no_color=True if plain else None, highlight=False)


_LAST_COLUMN_MIN = 20
_GAP = 2  # between columns
_COLOURS = {
    "ok": "green",
    "running": "green",
    "conflated": "yellow",
    "ended": "cyan",
    "stopped": "cyan",
} | dict.fromkeys(
    ("failed", "dead", "overflow", "fenced", "discarded", "hung", "vanished", "escalated", "halted", "terminated"),
    "red",
)


_ENTRY_HEADERS = ("id", "time", "from", "to", "type", "outcome", "took_us", "summary")


def _entry_row(entry: "Entry") -> tuple[object, ...]:
    told = summary(entry.message)
    return (
        entry.id, when(entry.at_ns), entry.sender, entry.recipient, entry.kind, entry.outcome.name.lower(), entry.took_us,
        f"{entry.detail} | {told}" if entry.detail else told,
    )  # fmt: skip


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _told(entry: "Entry") -> str:
    """What a message says, for people: in a sentence where its type has one."""
    try:
        told = headline(entry.message)
    except AttributeError:  # a message of another version, which lacks a field
        told = None
    return f"{entry.detail} | {told or summary(entry.message)}" if entry.detail else told or summary(entry.message)


def short_time(at_ns: int) -> str:
    """For people: New York, without the offset, and no finer than it has to be."""
    text = when(at_ns)
    return text if text == "-" else text[:23].replace("T", " ").removesuffix(".000").removesuffix(":00")


def _route(entry: "Entry") -> str:
    return f"{_name(entry.sender)} > {_name(entry.recipient)}"


def _print_for_people(entries: "Sequence[Entry]", widths: tuple[int, int, int, int] | None = None) -> None:
    """A line per message, and what it says behind it, or indented below it where the terminal is too narrow."""
    columns = [(str(entry.id), short_time(entry.at_ns), _route(entry), entry.kind) for entry in entries]
    if widths is None:
        heads = ("id", "New York time", "from > to", "type")
        wide = [max(len(row[place]) for row in (heads, *columns)) for place in range(4)]
        widths = (wide[0], wide[1], wide[2], wide[3])
        click.secho(
            "  ".join(
                f"{head:{'>' if head == 'id' else '<'}{width}}" for head, width in zip(heads, widths, strict=True)
            ),
            bold=True,
        )
    terminal = get_terminal_size().columns
    for entry, (number, time, route, kind) in zip(entries, columns, strict=True):
        line = f"{number:>{widths[0]}}  {time:<{widths[1]}}  {route:<{widths[2]}}  {kind:<{widths[3]}}"
        outcome, told = entry.outcome.name.lower(), _told(entry)
        click.echo(line.rstrip(), nl=False)
        if outcome != "ok":
            click.secho(f"  {outcome}", fg=_COLOURS.get(outcome), nl=False)
        if len(line) + len(outcome) + len(told) + 2 * _GAP <= terminal:
            click.echo(" " * (len(line) - len(line.rstrip())) + f"  {told}")
            continue
        click.echo()
        indent = " " * (widths[0] + _GAP)
        for part in textwrap.wrap(
            told, max(terminal, 40), initial_indent=indent, subsequent_indent=indent, max_lines=6, placeholder=" ..."
        ):
            click.echo(part)


def _print_entries(options: Globals, reader: "LogReader", entries: "Sequence[Entry]") -> None:
    if options.json:
        print_json({"run": reader.run().id, "messages": [_document(entry) for entry in entries]})
    elif not sys.stdout.isatty():
        print_table(_ENTRY_HEADERS, map(_entry_row, entries))
    elif entries:
        _print_for_people(entries)
    if not entries and not options.json:
        click.echo(f"no such messages in run {reader.run().id}", err=True)


def _check_names(reader: "LogReader", actor: str | None, kind: str | None) -> None:
    """Refuse an actor that the run did not have and a type that there is not; a glob may match nothing."""
    from actors.kernel.journal import message_classes

    if actor is not None and not _is_glob(actor) and not reader.paths(actor):
        raise UnknownName("actor", actor, {_name(path) for path in reader.paths(None)})
    if kind is not None and not _is_glob(kind):
        known = {*message_classes(), *reader.stats().kinds}
        if kind.lower() not in map(str.lower, known):
            raise UnknownName("message type", kind, known)


def _is_glob(pattern: str) -> bool:
    return any(sign in pattern for sign in "*?[")


# --- messages --------------------------------------------------------------------------------------------------------


def _run_option(command: F) -> F:
    return click.option("--run", metavar="RUN", help="Run id or path of a log.  [default: the newest run]")(command)


def _filter_options(command: F) -> F:
    outcomes = ["ok", "failed", "dead", "overflow", "fenced", "discarded", "conflated"]
    for option in (
        click.option("--outcome", type=click.Choice(outcomes), multiple=True, help="How it ended; repeatable."),
        click.option("--corr", type=int, help="Only this correlation."),
        click.option("--type", "kind", metavar="NAME", help="Message type, or a glob such as 'Order*'."),
        click.option("--actor", metavar="PATH", help="Sender or recipient: a path, its last part, or a glob."),
        _run_option,
    ):
        command = option(command)
    return command


def _filters(actor: str | None, kind: str | None, corr: int | None, outcome: Sequence[str]) -> dict[str, Any]:
    from actors.kernel.record import Outcome

    chosen = [Outcome[name.upper()] for name in outcome] or None
    return {"actor": actor, "kind": kind, "corr": corr, "outcomes": chosen}


def _limit(limit: int) -> int | None:
    return limit or None


_limit_option = click.option(
    "--limit", type=click.IntRange(min=0), default=50, show_default=True, help="The newest N; 0 for all."
)


@click.group("messages")
def messages_group() -> None:
    """Read a run's message log: who told whom what, why, and how it ended.

    \b
    Examples:
      algo-royale messages list --actor portfolio --limit 20
      algo-royale messages trace 1234
      algo-royale messages dead
    """


@messages_group.command("list")
@_filter_options
@click.option("--since", metavar="TIME", help="From this ISO date or time on (New York).")
@click.option("--until", metavar="TIME", help="Before this ISO date or time (New York).")
@_limit_option
@click.pass_obj
def list_command(
    options: Globals, run: str | None, actor: str | None, kind: str | None, corr: int | None, outcome: Sequence[str],
    since: str | None, until: str | None, limit: int,
) -> None:  # fmt: skip
    """List messages in the order of handling.

    \b
    Examples:
      algo-royale messages list --type 'Order*' --since 2013-01-03
      algo-royale messages list --actor signal:AAPL --outcome failed --limit 0
      algo-royale --json messages list --corr 1234
    """
    with _open(options, run) as reader:
        _check_names(reader, actor, kind)
        entries = reader.messages(
            **_filters(actor, kind, corr, outcome),
            since_ns=to_ns(since) if since else None,
            until_ns=to_ns(until) if until else None,
            limit=_limit(limit),
        )
        _print_entries(options, reader, entries)


@messages_group.command("show")
@click.argument("message_id", type=int, metavar="ID")
@_run_option
@click.pass_obj
def show_command(options: Globals, run: str | None, message_id: int) -> None:
    """Show one message with all its fields.

    \b
    Examples:
      algo-royale messages show 1234
    """
    with _open(options, run) as reader:
        entry = reader.show(message_id)
        if entry is None:
            raise BadInput(f"run {reader.run().id} has no message {message_id}")
        if options.json:
            print_json({"run": reader.run().id} | _document(entry))
            return
        document = _document(entry)
        body = document.pop("message")
        document["in short"] = headline(entry.message)
        for name, value in document.items():
            if not name.endswith("_ns") and value not in (None, ""):
                click.echo(f"{name:<21} {value}")
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(body, enc_hook=str), indent=2).decode())


@messages_group.command("trace")
@click.argument("number", type=int, metavar="ID")
@_run_option
@click.pass_obj
def trace_command(options: Globals, run: str | None, number: int) -> None:
    """Print the causal tree around a message, or of a correlation: what came of what, how long it took, how it ended.

    \b
    Examples:
      algo-royale messages trace 1234
      algo-royale --json messages trace 1234 --run trader-20260105T143000Z-4711
    """
    with _open(options, run) as reader:
        lines = reader.trace(number)
        if not lines:
            raise BadInput(f"run {reader.run().id} has no message or correlation {number}")
        if options.json:
            found = [{"depth": len(line.last), **_document(line.entry)} for line in lines]
            print_json({"run": reader.run().id, "corr": lines[0].entry.corr, "messages": found})
            return
        time = ""
        for line in lines:
            time = _print_trace_line(line, time, marked=line.entry.id == number and len(lines) > 1)


def _print_trace_line(line: "TraceLine", before: str, *, marked: bool) -> str:
    """Print a line of the tree; on a terminal one short enough for its width. Returns its time, which the line after it
    (its `before`) then need not repeat."""
    guides = "".join("   " if last else "│  " for last in line.last[:-1])
    joint = "" if not line.last else ("└─ " if line.last[-1] else "├─ ")
    entry = line.entry
    outcome = entry.outcome.name.lower()
    head, told = f"{entry.kind} #{entry.id}", summary(entry.message) + ("  <" if marked else "")
    route, time = (
        f" {entry.sender} -> {entry.recipient} {when(entry.at_ns)} {entry.took_us} us ",
        short_time(entry.at_ns),
    )
    detail = f" [{entry.detail}]" if entry.detail else ""
    if sys.stdout.isatty():
        head += " <" if marked else ""
        route = f" > {_name(entry.recipient)} " + ("" if time == before else f"{time} ")
        outcome = "" if outcome == "ok" else outcome
        columns = get_terminal_size().columns
        hidden = max(len(guides) - columns // 4, 0) // 3  # levels of a deep tree that would leave no room
        guides = f"{f'+{hidden}':<3}" + guides[3 * hidden + 3 :] if hidden else guides
        room = columns - len(guides + joint + head + route + outcome + detail) - 1
        told = headline(entry.message) or summary(entry.message)
        told = told if len(told) <= room else told[: max(room - 3, 0)] + "..."
    click.echo(guides + joint, nl=False)
    click.secho(head, bold=True, nl=False)
    click.echo(route, nl=False)
    click.secho(outcome, fg=_COLOURS.get(outcome), nl=False)
    click.echo(detail, nl=False)
    click.echo(f" {told}")
    return time


@messages_group.command("tail")
@_filter_options
@click.option(
    "--lines", type=click.IntRange(min=0), default=10, show_default=True, help="How many of the past to show."
)
@click.option("--follow/--no-follow", default=True, show_default=True, help="Wait for more until the run ends.")
@click.pass_obj
def tail_command(
    options: Globals, run: str | None, actor: str | None, kind: str | None, corr: int | None, outcome: Sequence[str],
    lines: int, follow: bool,
) -> None:  # fmt: skip
    """Print the newest messages and follow the run until it ends (Ctrl-C to leave). With --json, one document a line.

    \b
    Examples:
      algo-royale messages tail --actor orders
      algo-royale messages tail --type SignalReported --no-follow --lines 100
    """
    with _open(options, run) as reader:
        _check_names(reader, actor, kind)
        filters = _filters(actor, kind, corr, outcome)
        start = reader.last_seq()
        past = [entry for entry in reader.messages(**filters, limit=lines or 1) if entry.seq <= start] if lines else []
        for entry in past:
            _print_tail(options, entry)
        if follow:
            for entry in reader.follow(after_seq=start, **filters):
                _print_tail(options, entry)


_TAIL_WIDTHS = (6, 19, 24, 18)  # what most messages need: those to come are not known yet


def _print_tail(options: Globals, entry: "Entry") -> None:
    if options.json:
        print_json(_document(entry), indent=False)
    elif sys.stdout.isatty():
        _print_for_people([entry], _TAIL_WIDTHS)
    else:
        click.echo("\t".join(str(cell) for cell in _entry_row(entry)))


@messages_group.command("dead")
@_run_option
@_limit_option
@click.pass_obj
def dead_command(options: Globals, run: str | None, limit: int) -> None:
    """List dead letters: messages whose handler failed, and messages that reached no handler.

    \b
    Examples:
      algo-royale messages dead
      algo-royale --json messages dead --limit 0
    """
    with _open(options, run) as reader:
        _print_entries(options, reader, reader.dead_letters(_limit(limit)))


@messages_group.command("stats")
@_run_option
@click.pass_obj
def stats_command(options: Globals, run: str | None) -> None:
    """Count messages by actor and type, with the handlers' times.

    \b
    Examples:
      algo-royale messages stats
    """
    import msgspec

    with _open(options, run) as reader:
        stats, header = reader.stats(), reader.run()
    if options.json:
        print_json({"run": header.id, "exit_code": header.exit_code} | msgspec.to_builtins(stats))
        return
    click.echo(
        f"run {header.id} ({header.kind}): {stats.messages} messages, {stats.dropped} dropped, "
        f"{when(stats.first_ns)} to {when(stats.last_ns)}, "
        + ("still running or killed" if header.ended_ns is None else f"exit code {header.exit_code}")
    )
    people = sys.stdout.isatty()
    headers = (
        "actor",
        "handled",
        "failed",
        "dead",
        *(("p50 us", "p99 us") if people else ("took_us_p50", "took_us_p99")),
    )
    rows = [
        (_name(a.path) if people else a.path, a.handled, a.failed, a.dead, a.took_us_p50, a.took_us_p99)
        for a in stats.actors
    ]
    print_table(headers, rows, right=headers[1:])
    click.echo()
    print_table(("type", "messages"), stats.kinds.items(), right=("messages",))


# --- actors ----------------------------------------------------------------------------------------------------------


@click.group("actors")
def actors_group() -> None:
    """Look at a run's actors.

    \b
    Examples:
      algo-royale actors tree
    """


@actors_group.command("tree")
@_run_option
@click.pass_obj
def tree_command(options: Globals, run: str | None) -> None:
    """Print the supervisor tree: state, generation, restarts, mailbox and last error of every actor.

    \b
    Examples:
      algo-royale actors tree
      algo-royale --json actors tree --run trader-20260105T143000Z-4711
    """
    import msgspec

    with _open(options, run) as reader:
        tree, header = reader.tree(), reader.run()
    if options.json:
        print_json({"run": header.id, "exit_code": header.exit_code, "actors": msgspec.to_builtins(tree)})
        return
    if not sys.stdout.isatty():
        headers = ("actor", "state", "generation", "restarts", "failures", "mailbox", "handled", "dead", "last_error")
        print_table(headers, map(_tree_row, tree))
        return
    short = ("actor", "state", "life", "restarts", "failures", "mailbox", "handled", "dead")
    print_table(short, (_tree_row(actor)[:-1] for actor in tree), right=short[2:])
    for actor in tree:  # below, where there is room for it
        if actor.last_error:
            click.secho(f"{actor.path}: {actor.last_error}", fg="red")


def _tree_row(actor: "ActorState") -> tuple[object, ...]:
    depth = actor.path.count("/")
    name = "  " * depth + _name(actor.path) if sys.stdout.isatty() else actor.path
    mailbox = "-" if actor.mailbox is None else actor.mailbox
    return (
        name, actor.state, actor.generation, actor.restarts, actor.failures, mailbox, actor.handled, actor.dead,
        actor.last_error,
    )  # fmt: skip


# --- replay ----------------------------------------------------------------------------------------------------------

_REPLAYERS = {"trader": f"{__name__}:trader_factories"}
"""By the kind of a run: a function of (folder of the run, header, runtime) that gives the factories of its actors."""


def trader_factories(
    folder: Path, header: "Run", runtime: "ReplayRuntime", ledger: "Path | PostgresUrl | None" = None
) -> "Mapping[str, Factory]":
    """Everything of a trader's tree but the two actors at the network edge, on the ledger as it was before that run.

    `ledger`: the environment's, where it is not a file of the folder.
    """
    import msgspec

    from actors.trading import TRADING, factories
    from algo_royale.app.trader import TraderRecord, trader_parts
    from algo_royale.config import Config
    from db.store import Store

    try:
        record = msgspec.json.decode(header.config, type=TraderRecord)
    except msgspec.MsgspecError as error:
        raise BadInput(f"run {header.id} did not record how it was set up: {error}") from error
    before = Store.before_run(_ledger_of(folder.parents[1], record.ledger_id, ledger), header.id)
    parts = trader_parts(
        record.plan, Config.model_validate(record.config), ledger_id=record.ledger_id,
        live_start_ns=record.live_start_ns, broker=None, data=None, streams=None, keys=("", ""), store=lambda: before,
    )  # fmt: skip
    edges = (f"{TRADING}/broker", f"{TRADING}/market_data")
    return {path: make for path, make in factories(parts, runtime).items() if path not in edges}


def _ledger_of(home: Path, ledger_id: str, configured: "Path | PostgresUrl | None") -> "Path | PostgresUrl":
    """Where that ledger is: the environment's, or a file that was set aside for a newer twin's."""
    from db.store import Reader

    kept = [*sorted((home / "ledgers").glob("*.db")), *sorted((home / "dry-run").glob("*.db"))]
    places: list[Path | PostgresUrl] = [path for path in (home / "ledger.db", *kept) if path.is_file()]
    if configured is not None and not isinstance(configured, Path):
        places.insert(0, configured)
    for place in places:
        with Reader(place) as reader:
            if reader.summary().ledger_id == ledger_id:
                return place
    raise BadInput(f"the ledger {ledger_id} is not in {home} any more; without it the run cannot be replayed")


@click.command("replay")
@click.argument("run")
@click.option("--actor", metavar="PATH", help="Only this actor: a path, its last part, or a glob.")
@click.option("--until", metavar="TIME", help="Up to this ISO date or time (New York).")
@click.option("--show-state", is_flag=True, help="Print what each actor knew at the end.")
@click.pass_obj
def replay_command(options: Globals, run: str, actor: str | None, until: str | None, show_state: bool) -> None:
    """Feed every actor its recorded inbox and compare what it sends with the record. Exit code 1 if anything differs.

    \b
    Examples:
      algo-royale replay trader-20260105T143000Z-4711
      algo-royale replay trader-20260105T143000Z-4711 --actor portfolio --until 2013-01-04 --show-state
    """
    from importlib import import_module

    from actors.kernel.replay import ReplayRuntime, replay
    from algo_royale.app.cli import Settings
    from algo_royale.app.cli.ledger import ledger_place
    from algo_royale.research.artifacts import code_version

    path = find_log(options, run)
    with _open(options, run) as reader:
        header, runtime = reader.run(), ReplayRuntime()
        if header.kind not in _REPLAYERS:
            raise BadInput(f"runs of kind {header.kind!r} cannot be replayed; these can: {', '.join(_REPLAYERS)}")
        module, function = _REPLAYERS[header.kind].split(":")
        where = {"ledger": ledger_place(options)} if isinstance(options, Settings) else {}
        factories = getattr(import_module(module), function)(path.parent, header, runtime, **where)
        until_ns = to_ns(until) if until else None
        report = replay(reader, factories, actor, runtime=runtime, until_ns=until_ns)
        if actor is not None:
            if not report.actors:
                known = sorted(_name(path) for path in report.skipped if path in factories)
                raise UnknownName("actor to replay", actor, known)
            report = dataclasses.replace(report, skipped=())  # nobody asked for those
    _print_replay(options, report, show_state)
    if not report.same and header.code not in ("", code_version()):
        click.echo(
            "note: the run was made by another version of this program, which may be all of the difference", err=True
        )
    if not report.same:
        raise SystemExit(1)


def _print_replay(options: Globals, report: "ReplayReport", show_state: bool) -> None:
    if options.json:
        import msgspec

        document = msgspec.to_builtins(report, enc_hook=str)
        print_json(document | {"same": report.same, "exact": report.exact})
        return
    for line in report.lines():
        click.echo(line)
    if show_state:
        for actor in report.actors:
            click.echo(f"{actor.path}: {json.dumps(dict(actor.state), default=str)}")
    click.echo("every replayed actor sent what is recorded" if report.same else "the replay differs from the record")
