"""The command line's root: global options, commands that are imported only when they run, and errors as one line.

Nothing here may import anything heavy: `algo-royale --help` answers in half a second.
"""

import difflib
import errno
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click
from click.core import ParameterSource

from algo_royale.errors import AlgoRoyaleError, BadConfiguration

if TYPE_CHECKING:
    from algo_royale.config import BrokerKeys, Config, Loaded

ENVIRONMENTS = ("dev_integration", "prod_paper", "prod_live")
PREFIX = "ALGO_ROYALE"
INTERRUPTED = 130

# name -> (module:attribute, the line that `--help` shows). The line is here so that help need not import the command;
# a test keeps both in step.
_CLI = "algo_royale.app.cli"
COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": (
        f"{_CLI}.demo:demo_command",
        "Run a small backtest on the bundled prices, then trade the year it held back through the Alpaca twin.",
    ),
    "run-backtest": (
        f"{_CLI}.backtest:run_backtest_command",
        "Search, judge and choose strategies by walk-forward, and write what is viable as JSON artifacts.",
    ),
    "run-trader": (
        f"{_CLI}.trader:run_trader_command",
        "Trade what the last backtest found viable, until stopped or until the feed ends.",
    ),
    "run-exchange": (
        f"{_CLI}.exchange:run_exchange_command",
        "Serve a simulated Alpaca on loopback until SIGTERM or Ctrl-C.",
    ),
    "status": (
        f"{_CLI}.operating:status_command",
        "Say whether a trader runs in this environment, how it is, and what its ledger holds.",
    ),
    "stop": (f"{_CLI}.operating:stop_command", "Ask the running trader to end in good order, and wait until it has."),
    "halt": (
        f"{_CLI}.operating:halt_command",
        "Let no more orders leave, from now on and over restarts, until a person resumes.",
    ),
    "resume": (
        f"{_CLI}.operating:resume_command",
        "Give trading back after a person has found out why it was halted or only reducing.",
    ),
    "flatten": (
        f"{_CLI}.operating:flatten_command",
        "Cancel every open order and close every position; nothing is bought until a person resumes.",
    ),
    "notify": (
        f"{_CLI}.operating:notify_command",
        "Send TEXT to every address of [notify], and say which took it; exit code 1 if one did not.",
    ),
    "orders": (f"{_CLI}.ledger:orders_command", "List the ledger's orders with where each stands, oldest first."),
    "positions": (
        f"{_CLI}.ledger:positions_command",
        "List what the ledger holds, at average cost, with the profit realised in it so far.",
    ),
    "fills": (f"{_CLI}.ledger:fills_command", "List the executions of the ledger's orders, oldest first."),
    "equity": (
        f"{_CLI}.ledger:equity_command",
        "List what the account was worth at each session's close, with where it came from.",
    ),
    "differences": (
        f"{_CLI}.ledger:differences_command",
        "List what ledger and broker saw differently, both sides, and what was done about it.",
    ),
    "explain": (
        f"{_CLI}.explain:explain_command",
        "Say why an order was made, or why a symbol had none: signal, votes, conditions, target, limits, and what came of it.",
    ),
    "messages": (
        f"{_CLI}.messages:messages_group",
        "Read a run's message log: who told whom what, why, and how it ended.",
    ),
    "actors": (f"{_CLI}.operating:actors_group", "Look at a run's actors."),
    "replay": (
        f"{_CLI}.messages:replay_command",
        "Feed every actor its recorded inbox and compare what it sends with the record.",
    ),
    "report": (
        f"{_CLI}.report:report_command",
        "Write a backtest's results as one HTML page: verdicts and why, charts, odds, and what to do.",
    ),
    "artifacts": (
        f"{_CLI}.artifacts:artifacts_group",
        "Backtest results: list and read them, check that they are intact, make them again.",
    ),
    "final": (
        f"{_CLI}.artifacts:final_command",
        "Judge what the last backtest found viable on the range that it held back.",
    ),
    "data": (
        f"{_CLI}.data:data_group",
        "Market data: what there is, what is wrong with it, and bars of your own.",
    ),
    "strategies": (f"{_CLI}.strategies:strategies_group", "Signal strategies, what they search, and your own ones."),
    "check": (
        f"{_CLI}.check:check_group",
        "Prove strategies: that they look only back, and that their warm-up is long enough.",
    ),
    "db": (f"{_CLI}.db:db_group", "Look after the ledger's database."),
    "config": (f"{_CLI}.config:config_group", "Show or check the configuration."),
    "doctor": (f"{_CLI}.config:doctor_command", "Check that this machine and environment can run."),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The global options, as `ctx.obj`. Files and variables are read when `config` is first asked for."""

    env: str = "dev_integration"
    home: Path = Path("var")
    config_files: tuple[Path, ...] = ()
    json: bool = False
    verbosity: int = 0
    color: bool | None = None
    dry_run: bool = False  # look at the latest dry run's ledger

    @property
    def directory(self) -> Path:
        """Everything this environment writes lands below here."""
        return self.home / self.env

    @property
    def loaded(self) -> "Loaded":
        """The configuration and where each value came from. Raises BadConfiguration."""
        return _loaded(self.env, self.config_files, None)

    @property
    def config(self) -> "Config":
        return self.loaded.config

    def with_flags(self, flags: Mapping[str, Mapping[str, Any]]) -> "Config":
        """The configuration with flags on top: section -> key -> value; a value of None was not given."""
        from algo_royale.config import Layer

        given = {name: {k: v for k, v in keys.items() if v is not None} for name, keys in flags.items()}
        return _load(self.env, self.config_files, Layer("command line", given)).config

    def keys(self) -> "BrokerKeys | None":
        """The broker's keys from the environment or from [broker] keys_file, which nobody else may be able to read."""
        from algo_royale.config import broker_keys

        path = self.config.broker.keys_file
        return broker_keys(os.environ, _private_text(Path(path).expanduser()) if path else None)

    def secret_lines(self, path: str) -> list[str]:
        """The lines of a file of secrets that nobody else may be able to read; none for no file."""
        return _private_text(Path(path).expanduser()).splitlines() if path else []


@lru_cache(maxsize=8)
def _loaded(env: str, files: tuple[Path, ...], _: None) -> "Loaded":
    return _load(env, files, None)


def _load(env: str, files: Sequence[Path], flags: Any) -> "Loaded":
    from algo_royale.config import environment_layers, load, toml_layer

    layers = []
    for path in (config_directory() / "base.toml", config_directory() / f"{env}.toml", *files):
        try:
            layers.append(toml_layer(str(path) if path in files else path.name, path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise BadConfiguration(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return load(env, [*layers, *environment_layers(os.environ), *([flags] if flags else [])])


def config_directory() -> Path:
    """Where base.toml is: beside the installed package, or config/ of the checkout."""
    package = Path(__file__).parent.parent.parent
    installed = package / "config_data"
    return installed if installed.is_dir() else package.parent / "config"


def _private_text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):  # of the very file that is read
                raise BadConfiguration(f"{path}: others can read this file of secrets; run: chmod 600 {path}")
            return file.read()
    except OSError as error:
        raise BadConfiguration(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise BadConfiguration(f"{path}: this file of secrets is not text in UTF-8") from None


# --- global options ------------------------------------------------------------------------------------------------------


def _set(field: str) -> Any:
    """A callback that puts the option into `ctx.obj`; what was not given leaves it as it is."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if ctx.obj is None:
            ctx.obj = Settings()
        if field == "color" and os.environ.get("NO_COLOR"):
            ctx.color = False
        if ctx.resilient_parsing or ctx.get_parameter_source(str(param.name)) is ParameterSource.DEFAULT:
            return
        given = tuple(value) if field == "config_files" else value
        if field == "color":
            ctx.color = given = False
        if field == "verbosity":
            given = ctx.obj.verbosity + (value if param.name == "verbose" else -value)
        ctx.obj = replace(ctx.obj, **{field: given})

    return callback


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"algo-royale {version('algo-royale')}")
        ctx.exit()


def global_options(*, hidden: bool = False) -> list[click.Option]:
    """Fresh copies, for the root, for a command with a script of its own, and hidden for use behind any command."""
    path = click.Path(path_type=Path)
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    shared: dict[str, Any] = {"expose_value": False, "hidden": hidden, "show_envvar": True, "show_default": True}

    def option(names: list[str], envvar: str | None, field: str, **more: Any) -> click.Option:
        return click.Option(names, callback=_set(field), envvar=None if hidden else envvar, **shared, **more)

    return [
        option(["--env"], f"{PREFIX}_ENV", "env", type=click.Choice(ENVIRONMENTS), default="dev_integration",
               help="Environment: the twin on this machine, Alpaca with play money, or with money."),
        option(["--config"], f"{PREFIX}_CONFIG", "config_files", type=file, multiple=True, metavar="FILE",
               help="TOML file over the environment's; repeatable, later wins."),
        option(["--home"], f"{PREFIX}_HOME", "home", type=path, default=Path("var"), metavar="DIR",
               help="Everything written lands below DIR/<env>/."),
        option(["--json"], f"{PREFIX}_JSON", "json", is_flag=True, help="Print the result as one JSON document."),
        option(["--verbose", "-v"], f"{PREFIX}_VERBOSE", "verbosity", count=True, help="Log more; repeatable."),
        option(["--quiet", "-q"], f"{PREFIX}_QUIET", "verbosity", count=True, help="Log less; repeatable."),
        option(["--no-color"], None, "color", is_flag=True, allow_from_autoenv=False,
               help="Plain text even on a terminal, as the variable NO_COLOR does."),
        click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, hidden=hidden, callback=_version,
                     help="Show the version and exit."),
    ]  # fmt: skip


# --- the root ------------------------------------------------------------------------------------------------------------


class Root(click.Group):
    """Knows its commands by name and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return command(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see --help for the commands"
            raise click.UsageError(f"no such command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get("standalone_mode", True):
            return super().main(*args, **kwargs)
        kwargs["standalone_mode"] = False
        _run(super().main, *args, **kwargs)


@cache
def command(name: str) -> click.Command:
    """Import a command; its options show default and variable, and take the global options behind it too."""
    module, attribute = COMMANDS[name][0].split(":")
    found: click.Command = getattr(import_module(module), attribute)
    _prepare(found)
    return found


def _prepare(found: click.Command) -> None:
    for param in found.params:
        if isinstance(param, click.Option) and not param.hidden:
            param.show_default, param.show_envvar = param.show_default is not False, True
    if isinstance(found, click.Group):
        for inner in found.commands.values():
            _prepare(inner)
    else:
        found.callback = found.callback and _until_nobody_reads(found.callback)
        taken = {name for param in found.params for name in param.opts}
        found.params.extend(o for o in global_options(hidden=True) if not taken.intersection(o.opts))


class _NobodyReads(Exception):
    """The reader of a pipe has left (`| head`). By this name click does not make a failure of it."""


def _until_nobody_reads(callback: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(callback)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return callback(*args, **kwargs)
        except BrokenPipeError as error:
            raise _NobodyReads from error

    return called


def print_or_go_on(text: str, *, err: bool = False) -> None:
    """A line for a person whose leaving must not end what we do: a closed pipe or terminal is written to no more."""
    try:
        click.echo(text, err=err)
    except OSError:
        _write_nowhere(sys.stderr if err else sys.stdout)


def _write_nowhere(*streams: TextIO) -> None:
    """Nobody is there any more to tell; what is still in the buffers must not fail at the end either."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


# What is no bug of ours but the machine's state: a full disk, a closed terminal, a folder that may not be written.
_MACHINE_SAYS_NO = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EMFILE}
)


def _run(invoke: Any, *args: Any, **kwargs: Any) -> NoReturn:
    """Turn what a command returns or raises into an exit code. A bug keeps its traceback."""
    try:
        result = invoke(*args, **kwargs)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except AlgoRoyaleError as error:
        from algo_royale.app.logs import visible

        click.echo(f"error: {visible(' '.join(str(error).split()))}", err=True)
        sys.exit(error.exit_code)
    except _NobodyReads:
        _write_nowhere(sys.stdout, sys.stderr)
        sys.exit(0)
    except OSError as error:
        if error.errno not in _MACHINE_SAYS_NO:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print_or_go_on(f"error: {where}{error.strerror}", err=True)
        _write_nowhere(sys.stdout)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) and not isinstance(result, bool) else 0)


root = Root(
    name="algo-royale",
    params=list(global_options()),
    context_settings={"auto_envvar_prefix": PREFIX, "help_option_names": ["-h", "--help"], "max_content_width": 120},
    no_args_is_help=True,
    help="""Research trading strategies on US equities, and trade what the research found viable.

\b
Examples:
  algo-royale demo
  algo-royale run-backtest --symbols AAPL,IBM
  algo-royale --env prod_paper run-trader""",
)


def main() -> NoReturn:
    """The console script `algo-royale`."""
    root.main(prog_name="algo-royale")
    raise AssertionError("root.main exits")


def _script(name: str) -> NoReturn:
    """A command as a console script of its own, global options among its own."""
    found = command(name)
    own = [p for p in found.params if not (isinstance(p, click.Option) and p.hidden and p.name in _GLOBAL)]
    taken = {name for param in own for name in param.opts}
    found.params = [*own, *(o for o in global_options() if not taken.intersection(o.opts))]
    _run(
        found.main, prog_name=name, standalone_mode=False, auto_envvar_prefix=f"{PREFIX}_{name.upper().replace('-', '_')}",
        help_option_names=["-h", "--help"], max_content_width=120,
    )  # fmt: skip


_GLOBAL = frozenset(str(option.name) for option in global_options())


def run_backtest() -> NoReturn:
    _script("run-backtest")


def run_trader() -> NoReturn:
    _script("run-trader")


def run_exchange() -> NoReturn:
    _script("run-exchange")
