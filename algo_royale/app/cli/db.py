"""`db`: the ledger's file. What cannot be undone asks for the database's name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from algo_royale.app.cli.ledger import INSTANCE, has_ledger, ledger_place, running_trader
from algo_royale.app.cli.messages import print_json, print_table, when
from algo_royale.errors import BadInput

if TYPE_CHECKING:
    from algo_royale.app.cli import Settings
    from db.database import PostgresUrl


@click.group("db")
def db_group() -> None:
    """Look after the ledger's database.

    \b
    Examples:
      algo-royale db status
      algo-royale db migrate
    """


@contextmanager
def _not_while_trading(settings: "Settings", *, there: bool = True) -> "Iterator[Path | PostgresUrl]":
    """Where the ledger is, unless a trader writes to it: two writers would halt it. None starts meanwhile. With `there` there must
    be a ledger."""
    from algo_royale.app.lock import single_instance

    pid, place = running_trader(settings.directory), ledger_place(settings)
    if pid is not None:
        raise BadInput(f"a trader is running in {settings.directory} (process {pid}); stop it first")
    if there and not has_ledger(settings):
        raise BadInput(f"there is no ledger at {place}")
    with single_instance(settings.directory, INSTANCE):
        yield place


@db_group.command("migrate")
@click.pass_obj
def migrate_command(settings: "Settings") -> None:
    """Bring the ledger up to this program's schema, creating it if there is none.

    \b
    Examples:
      algo-royale db migrate
    """
    from algo_royale.clock import WallClock
    from db.admin import migrate_file

    with _not_while_trading(settings, there=False) as place:
        applied = migrate_file(place, now_ns=WallClock().now_ns())
    if settings.json:
        print_json({"path": str(place), "applied": [{"version": m.version, "name": m.name} for m in applied]})
        return
    for migration in applied:
        click.echo(f"applied {migration.version}: {migration.name}")
    if not applied:
        click.echo(f"{place} is up to date")


@db_group.command("status")
@click.pass_obj
def db_status_command(settings: "Settings") -> int:
    """Show migrations and row counts, and check that the ledger adds up; exit code 1 if it does not.

    \b
    Examples:
      algo-royale db status
      algo-royale db status --json
    """
    from db.admin import status

    found = status(ledger_place(settings))
    migrations = [
        {"version": s.migration.version, "name": s.migration.name, "applied": when(s.applied_ns or 0)}
        for s in found.migrations
    ]
    if settings.json:
        print_json(
            {
                "path": found.place, "size_bytes": found.size_bytes, "migrations": migrations, "rows": found.rows,
                "problems": found.problems,
            }
        )  # fmt: skip
    else:
        click.echo(f"{found.place}, {found.size_bytes:,} bytes")
        print_table(("migration", "name", "applied"), [tuple(row.values()) for row in migrations])
        click.echo()
        print_table(("table", "rows"), list(found.rows.items()), right=("rows",))
        click.echo()
        for problem in found.problems:
            click.echo(f"problem: {problem}")
        if not found.problems:
            click.echo("everything adds up")
    return 1 if found.problems else 0


@db_group.command("drop")
@click.option("--name", help="The database's name, for scripts; asked for when it is not given.", show_default=False)
@click.pass_obj
def drop_command(settings: "Settings", name: str | None) -> None:
    """Delete this environment's ledger for good, with every order and fill in it.

    \b
    Examples:
      algo-royale db drop
      algo-royale db drop --name dev_integration/ledger
    """
    from db.admin import database_name, drop

    with _not_while_trading(settings) as place:
        if name is None:
            name = click.prompt(
                f"This deletes {place}. Type the database's name, {database_name(place)}, to go on", err=True
            )
        drop(place, name=name)
    if settings.json:
        print_json({"dropped": str(place)})
    else:
        click.echo(f"deleted {place}")
