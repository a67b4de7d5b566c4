"""`check lookahead|warmup`: prove that strategies look only back, and forget what they say they forget."""

import concurrent.futures
import contextlib
import json
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

import click

from algo_royale.app.cli.strategies import load_own, strategy_path_option
from algo_royale.errors import BadStrategy

if TYPE_CHECKING:
    from algo_royale.app.cli import Settings
    from algo_royale.market import Bars, Timeframe
    from algo_royale.research.checks import Proof


@click.group(name="check")
def check_group() -> None:
    """Prove strategies: that they look only back, and that their warm-up is long enough.

    \b
    Examples:
      algo-royale check lookahead
      algo-royale check warmup MyStrategy --strategy-path strategies
    """


_OPTIONS = (
    click.argument("names", nargs=-1),
    strategy_path_option,
    click.option("--timeframe", type=click.Choice(["1Min", "5Min", "15Min", "1Hour", "1Day"]), help="Length of a bar."),
    click.option("--seed", type=int, default=1, help="Seed of walks, cuts and drawn parameters."),
    click.option("--points", type=click.IntRange(1, 100), default=3, help="Points of each search space to prove at."),
    click.option(
        "--bars",
        type=click.IntRange(200, 100_000),
        default=1000,
        help="Bars to prove on, behind the history that is needed.",
    ),
)


def _shared(function: Any) -> Any:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@check_group.command("lookahead")
@_shared
@click.option(
    "--symbols", help="Comma-separated; prove on their bars too, not only on random walks.", show_default=False
)
@click.option("--data", help="Where the symbols' bars are: 'bundled', or a folder.")
@click.pass_obj
def lookahead_command(
    settings: "Settings", names: tuple[str, ...], strategy_path: tuple[str, ...], timeframe: str | None, seed: int,
    points: int, bars: int, symbols: str | None, data: str | None,
) -> int:  # fmt: skip
    """Prove that strategies know nothing of later bars; default all, or all of one's own where there are some.

    Each is run again with everything after random places changed, with the bars cut into other portions, twice in one
    process and once in another; what it said before may not change. The report names the first bar where it does.

    \b
    Examples:
      algo-royale check lookahead
      algo-royale check lookahead MyStrategy --strategy-path strategies --symbols AAPL,IBM
    """
    from algo_royale.research import checks

    config = settings.with_flags(
        {"research": {"strategy_path": strategy_path or None, "timeframe": timeframe, "data": data}}
    )
    research = config.research
    chosen = _chosen(names, research.strategy_path)
    real = tuple(s.strip() for s in symbols.split(",") if s.strip()) if symbols else ()
    by_frame = _by_timeframe(chosen, research.timeframe)
    elsewhere = _elsewhere(research.strategy_path, by_frame, seed, bars)
    results = []
    for frame, found in by_frame.items():
        for name in found:
            series = [_walk(name, frame, seed, bars), _walk(name, frame, seed + 1, bars // 2)]
            series += [_last_bars(research.data, symbol, frame, len(series[0])) for symbol in real]
            said = elsewhere.get(name)
            proofs = checks.look_ahead(name, series, seed=seed, point_count=points, elsewhere=said)
            results.append(_result(name, proofs) | {"entries": _entries(name, series)})
            _say(settings, results[-1])
    return _conclude(settings, "lookahead", results)


@check_group.command("warmup")
@_shared
@click.pass_obj
def warmup_command(
    settings: "Settings", names: tuple[str, ...], strategy_path: tuple[str, ...], timeframe: str | None, seed: int,
    points: int, bars: int,
) -> int:  # fmt: skip
    """Prove that strategies forget what came before the warm-up that they ask for; default all, or all of one's own.

    Each is begun at several bars of a long random walk. After its declared warm-up it must hold what it holds when it is
    begun earlier, for research and the trader begin at different bars.

    \b
    Examples:
      algo-royale check warmup
      algo-royale check warmup MyStrategy --strategy-path strategies --seed 7
    """
    from algo_royale.research import checks

    config = settings.with_flags({"research": {"strategy_path": strategy_path or None, "timeframe": timeframe}})
    chosen = _chosen(names, config.research.strategy_path)
    results = []
    for frame, found in _by_timeframe(chosen, config.research.timeframe).items():
        for name in found:
            results.append(_result(name, [checks.forgetting(name, frame, seed=seed, point_count=points, room=bars)]))
            _say(settings, results[-1])
    return _conclude(settings, "warmup", results)


def _chosen(names: Sequence[str], paths: Sequence[str]) -> list[str]:
    from algo_royale.errors import UnknownName
    from algo_royale.strategies import STRATEGIES

    own = load_own(paths)
    for name in names:
        if name not in STRATEGIES:
            raise UnknownName("strategy", name, STRATEGIES)
    return list(names) or sorted(own) or sorted(STRATEGIES)


def _by_timeframe(names: Sequence[str], wanted: str) -> "dict[Timeframe, list[str]]":
    """Each strategy at the bar length that was asked for, or at the longest one that it can read."""
    from algo_royale.market import Timeframe
    from algo_royale.strategies import spec

    out: dict[Timeframe, list[str]] = {}
    for name in names:
        readable = [t for t in Timeframe if spec(name).supports(t)]
        frame = Timeframe(wanted) if Timeframe(wanted) in readable else readable[-1]
        out.setdefault(frame, []).append(name)
    return out


def _walk(name: str, frame: "Timeframe", seed: int, count: int) -> "Bars":
    """A random walk of so many bars behind the history that the strategy needs."""
    from algo_royale.research import checks
    from algo_royale.strategies import build, default_trial, required_history, resolve

    columns = build(name, resolve(name, default_trial(name, frame), frame), frame).columns
    return checks.rough_bars(seed, required_history(name, frame) + count, frame, columns)


def _entries(name: str, series: "Sequence[Bars]") -> int:
    """How often the strategy wants to be in, at its default point: one that never does passes every proof."""
    from algo_royale.research import checks
    from algo_royale.strategies import space

    make = checks.factory(name, next(checks.points(space(name, series[0].timeframe), 1, 1)), series[0].timeframe)
    return sum(int((make().run(bars).signal == 1).sum()) for bars in series)


def _last_bars(data: str, symbol: str, frame: "Timeframe", count: int) -> "Bars":
    from algo_royale.data.catalog import open_catalog

    bars = open_catalog(data).adjusted(symbol, frame)
    return bars.slice(max(0, len(bars) - count), len(bars))


def _elsewhere(
    paths: Sequence[str], by_frame: "Mapping[Timeframe, Sequence[str]]", seed: int, count: int
) -> dict[str, dict[str, bytes]]:  # fmt: skip
    """What a process of its own says at the default points; a strategy that fails there is left out, as it fails here."""
    context = multiprocessing.get_context("spawn")
    plain = {frame.value: list(names) for frame, names in by_frame.items()}
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool, _said_plainly():
        return pool.submit(_answers, tuple(paths), plain, seed, count).result()


@contextlib.contextmanager
def _said_plainly() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise BadStrategy("a strategy ended the process that it was asked in: it may neither exit nor crash") from error


def _answers(
    paths: tuple[str, ...], names: Mapping[str, Sequence[str]], seed: int, count: int
) -> dict[str, dict[str, bytes]]:  # fmt: skip
    from algo_royale.market import Timeframe
    from algo_royale.research import checks
    from algo_royale.strategies import loading, space

    loading.load(paths)
    out = {}
    for value, found in names.items():
        frame = Timeframe(value)
        for name in found:
            bars = _walk(name, frame, seed, count)
            point = next(checks.points(space(name, frame), 1, seed))
            try:
                out[name] = checks.digest(checks.trace(checks.factory(name, point, frame)(), bars))
            except BadStrategy:
                continue
    return out


def _result(name: str, proofs: "Sequence[Proof]") -> dict[str, Any]:
    from dataclasses import asdict

    from algo_royale.strategies import loading

    return {
        "strategy": name,
        "place": loading.place(name),
        "version": loading.versions().get(name),
        "passed": all(p.finding is None for p in proofs),
        "checks": [asdict(p) for p in proofs],
    }


def _say(settings: "Settings", result: Mapping[str, Any]) -> None:
    if settings.json:
        return
    where = f" ({result['place']})" if result["place"] else ""
    if result["passed"]:
        held = ", ".join(c["check"] for c in result["checks"])
        if result.get("entries") == 0:
            held += "; but it never wanted to be in, so little is proven: give more --bars, or --symbols"
        click.echo(f"{click.style('pass', fg='green')}  {result['strategy']}{where}: {held}")
        return
    click.echo(f"{click.style('FAIL', fg='red', bold=True)}  {result['strategy']}{where}")
    for check in result["checks"]:
        found = check["finding"]
        if found is not None:
            click.echo(
                f"      {check['check']}: at bar {found['bar']} of {check['symbol']} ({found['at']}) {found['what']} should "
                f"be {found['expected']} and is {found['found']}"
            )
            params = ", ".join(f"{name} {value}" for name, value in (check["params"] or {}).items())
            click.echo(f"        with {params or 'no parameters'}")
            click.echo(f"        it means: {found['meaning']}")
            click.echo(f"        do: {found['advice']}")


def _conclude(settings: "Settings", check: str, results: Sequence[Mapping[str, Any]]) -> int:
    failed = [r["strategy"] for r in results if not r["passed"]]
    if settings.json:
        document = {"check": check, "passed": not failed, "strategies": results}
        click.echo(json.dumps(document, indent=2, allow_nan=False, default=str))
    else:
        click.echo(f"{len(results) - len(failed)} of {len(results)} strategies passed")
    return 1 if failed else 0
