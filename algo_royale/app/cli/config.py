"""`config show|validate` and `doctor`."""

import json
import platform
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from algo_royale.app.cli import Settings, config_directory
from algo_royale.errors import AlgoRoyaleError, BadInput


@click.group(name="config")
def config_group() -> None:
    """Show or check the configuration.

    \b
    Examples:
      algo-royale config show
      algo-royale --env prod_paper config validate
    """


@config_group.command("show")
@click.argument("section", required=False)
@click.option("--origins", is_flag=True, help="Say where each value came from.")
@click.pass_obj
def show_command(settings: Settings, section: str | None, origins: bool) -> None:
    """Print the configuration as it stands after all layers; SECTION limits it to one.

    \b
    Examples:
      algo-royale config show research
      ALGO_ROYALE__RESEARCH__TRIALS=10 algo-royale config show research --origins
      algo-royale config show --json
    """
    from algo_royale.config import keys, plain
    from algo_royale.errors import UnknownName

    loaded = settings.loaded
    shown: dict[str, Any] = plain(loaded.config)
    if section is not None:
        if section not in keys([]):
            raise UnknownName("section", section, keys([]))
        shown = {section: shown[section]}
    if settings.json:
        document = {"values": shown, "origins": dict(loaded.origins)} if origins else shown
        click.echo(json.dumps(document, indent=2, sort_keys=True, allow_nan=False))
        return
    for key, value in _leaves(shown):
        click.echo(f"{key} = {json.dumps(value)}" + (f"  # {loaded.origins.get(key, 'default')}" if origins else ""))


@config_group.command("validate")
@click.pass_obj
def validate_command(settings: Settings) -> None:
    """Read every layer and say whether they make a configuration; exit code 1 if not.

    \b
    Examples:
      algo-royale config validate
      algo-royale --config mine.toml config validate
    """
    config = settings.config
    if settings.json:
        click.echo(json.dumps({"environment": config.environment, "valid": True}, sort_keys=True))
    else:
        click.echo(f"{config.environment}: the configuration is valid")


@click.command(name="doctor")
@click.pass_obj
def doctor_command(settings: Settings) -> int:
    """Check that this machine and environment can run.

    \b
    Examples:
      algo-royale doctor
      algo-royale --env prod_paper doctor --json
    """
    checks: list[dict[str, Any]] = []
    for name, look in _CHECKS.items():
        try:
            checks.append({"check": name, "ok": True, "detail": look(settings)})
        except (AlgoRoyaleError, OSError, ImportError) as error:
            checks.append({"check": name, "ok": False, "detail": " ".join(str(error).split())})
    passed = all(check["ok"] for check in checks)
    if settings.json:
        click.echo(json.dumps({"ok": passed, "checks": checks}, indent=2, sort_keys=True))
    else:
        for check in checks:
            click.echo(f"{'ok  ' if check['ok'] else 'FAIL'}  {check['check']:<14}  {check['detail']}")
    return 0 if passed else 1


def _leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [leaf for name, inner in value.items() for leaf in _leaves(inner, f"{path}.{name}" if path else name)]
    return [(path, value)]


def _python(settings: Settings) -> str:
    return f"Python {platform.python_version()}, algo-royale {metadata.version('algo-royale')}"


def _names(settings: Settings) -> str:
    import actors
    import db

    ours = Path(__file__).parents[3]
    for module in (actors, db):
        if Path(str(module.__file__)).parents[1] != ours:
            raise BadInput(
                f"`import {module.__name__}` finds {module.__file__}, another package's; use an environment of its own"
            )
    return "`actors` and `db` are ours"


def _configuration(settings: Settings) -> str:
    return f"{settings.config.environment} from {config_directory()}"


def _home(settings: Settings) -> str:
    directory = settings.directory.resolve()
    probe = directory / ".writable"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadInput(f"cannot write in {directory}: {error.strerror}") from error
    return f"{directory}, {shutil.disk_usage(directory).free // 1_000_000_000} GB free"


def _data(settings: Settings) -> str:
    from algo_royale.data.catalog import open_catalog

    catalog = open_catalog(settings.config.research.data)
    return f"{catalog.name}: {len(catalog.symbols())} symbols"


def _keys(settings: Settings) -> str:
    if settings.config.broker.is_twin:
        return "none needed: the exchange twin makes its own"
    if settings.keys() is None:
        raise BadInput("no keys: set APCA_API_KEY_ID and APCA_API_SECRET_KEY, or [broker] keys_file")
    return "found"


_CHECKS: dict[str, Callable[[Settings], str]] = {
    "python": _python,
    "imports": _names,
    "configuration": _configuration,
    "home": _home,
    "market data": _data,
    "broker keys": _keys,
}
