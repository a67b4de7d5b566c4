"""Own strategies from files, folders and installed packages, put into the tables beside the ones that come with the program.

Whatever is wrong with a file is one line with its name, the line and the reason (BadStrategy). The hash of a file is the
version of all that it defines: results of other code are never taken for results of this one.
"""

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from types import ModuleType

from algo_royale.errors import AlgoRoyaleError, BadConfiguration, BadStrategy, UnknownName
from algo_royale.market import Timeframe
from algo_royale.strategies import own, strategy
from algo_royale.strategies.conditions import CONDITIONS, LOGICS
from algo_royale.strategies.own import Own, OwnStrategy
from algo_royale.strategies.strategy import STRATEGIES, build, default_trial, required_history, resolve, space

GROUP = "algo_royale.strategies"  # of the entry points of packages that bring strategies
_BUILT_IN = frozenset({*STRATEGIES, *CONDITIONS, *LOGICS})


@dataclass(frozen=True, slots=True)
class Source:
    """Where own strategies come from: a file as it was named, or the module of a package."""

    place: str
    version: str
    strategies: tuple[OwnStrategy, ...]
    module: str | None = None


_LOADED: dict[str, Source] = {}  # by place
_OURS = "__own_strategies__"  # marks a module that a file was run in


def load(paths: Iterable[str] = ()) -> dict[str, str]:
    """Put what these files and folders, and all installed packages, define into the tables; give the version of each own
    strategy by name. A file that has not changed since it was loaded is not run again.

    Raises BadStrategy.
    """
    for module in _packages():
        if module not in _LOADED:
            _take(_package(module))
    for path in paths:
        for file in _files(Path(path).expanduser()):
            content = _content(file)
            known = _LOADED.get(str(file))
            if known is None or known.version != _digest(content):
                _take(_run(str(file), content))
    return versions()


def versions() -> dict[str, str]:
    """The version of each own strategy that is loaded, by name."""
    return {name: row.version for name, row in STRATEGIES.items() if row.version}


def place(name: str) -> str | None:
    """file:line of an own strategy."""
    return next((s.place for source in _LOADED.values() for s in source.strategies if s.spec.name == name), None)


def functions(name: str) -> tuple[Own, ...]:
    """The author's functions in an own strategy, those that others use too; none in a built-in one."""
    found = [s for source in _LOADED.values() for s in source.strategies if s.spec.name == name]
    return tuple(f for made in found for f in made.all_functions())


def forget(paths: Sequence[str] | None = None) -> None:
    """Take out of the tables what came from these files (as they were named), or all own strategies."""
    for known in list(_LOADED):
        if paths is None or known in paths:
            _remove(_LOADED.pop(known))


def renew(name: str) -> None:
    """Run the file of an own strategy again, so that nothing is left of what its functions remembered."""
    for source in list(_LOADED.values()):
        if any(s.spec.name == name for s in source.strategies):
            _take(_package(source.module) if source.module else _run(source.place, _content(Path(source.place))))


def require(name: str, version: str) -> None:
    """Raises BadStrategy unless the tables hold this version of an own strategy (or, without one, a built-in one)."""
    row = STRATEGIES.get(name)
    if row is None:
        raise BadStrategy(f"{name} is not among the strategies here: give its file with --strategy-path")
    if row.version != version:
        raise BadStrategy(
            f"{place(name) or name}: {name} has changed since the backtest (version {row.version or 'built-in'}, it was "
            f"{version or 'built-in'}): run `run-backtest` again, or bring the old file back"
        )


# --- files -------------------------------------------------------------------------------------------------------------------


def _files(path: Path) -> list[Path]:
    """The file, or those of a folder but for tests and names that begin with an underscore."""
    if not path.is_dir():
        return [path]
    skipped = ("_", "test_", "conftest.")
    found = sorted(p for p in path.glob("*.py") if p.is_file() and not p.name.startswith(skipped))
    if not found:
        raise BadStrategy(
            f"{path}: no strategy files (*.py) in this folder; `algo-royale strategies new NAME` makes one"
        )
    return found


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadStrategy(f"{path}: cannot read this strategy file: {error.strerror or error}") from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _run(file: str, content: bytes) -> Source:
    """Run a file in a module of its own."""
    before, version = len(own.MADE), _digest(content)
    module = ModuleType(_module_name(Path(file)))
    module.__file__, module.__dict__[_OURS] = file, True
    if getattr(sys.modules.get(module.__name__), _OURS, True):  # not where it is imported as well, as by its test
        sys.modules[module.__name__] = module  # where dataclasses, pickles and numba's cache look for the names in it
    try:
        exec(compile(content, file, "exec", dont_inherit=True), module.__dict__)
    except SyntaxError as error:
        at = f"{file}:{error.lineno}" if error.lineno and error.filename == file else file
        raise BadStrategy(f"{at}: {error.msg}") from error
    except BadStrategy:
        raise
    except (Exception, SystemExit) as error:
        raise BadStrategy(f"{own.where(error, f'{file}:1')}: {own.reason(error)}{_hint(error)}") from error
    finally:
        made = own.MADE[before:]
        del own.MADE[before:]
    found = tuple(s for s in made if s.place.rpartition(":")[0] == file)
    if not found:
        raise BadStrategy(f"{file}: no strategy in this file: it never calls strategy(NAME, entry=..., exit=...)")
    return Source(file, version, found)


def _module_name(file: Path) -> str:
    """As if it were imported, so that what is kept of it on disk fits whoever runs it, unless that is somebody else's name."""
    known = sys.modules.get(file.stem)
    if known is None:
        spec = util.find_spec(file.stem) if file.stem.isidentifier() else None
        origin = spec.origin if spec else str(file)
    else:
        origin = getattr(known, "__file__", None)
    same = origin is not None and Path(origin).resolve() == file.resolve()
    return file.stem if same and file.stem.isidentifier() else f"algo_royale_own_{file.stem}"


def _hint(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return " (a strategy file may import installed packages, not its neighbours)"
    return ""


# --- packages ----------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _packages() -> tuple[str, ...]:
    """Modules that installed packages name as theirs."""
    return tuple(sorted({point.module for point in metadata.entry_points(group=GROUP)}))


def _package(name: str) -> Source:
    """Import a package's module, anew each time; its version is the hash of all Python files of the package."""
    before = len(own.MADE)
    try:
        spec = util.find_spec(name)
        top = util.find_spec(name.partition(".")[0])
        if spec is None or spec.loader is None or top is None or top.origin is None or spec.origin is None:
            raise BadStrategy(f"the entry point {name!r} in {GROUP} names no module; reinstall or remove its package")
        for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            del sys.modules[module]
        module_object = util.module_from_spec(spec)
        sys.modules[name] = module_object
        spec.loader.exec_module(module_object)
    except AlgoRoyaleError:
        raise
    except (Exception, SystemExit) as error:
        file = getattr(error, "filename", None) if isinstance(error, SyntaxError) else None
        at = f"{file}:{error.lineno}" if isinstance(error, SyntaxError) else f"the package of {name}"
        raise BadStrategy(f"{at}: {own.reason(error)}") from error
    finally:
        made = own.MADE[before:]
        del own.MADE[before:]
    if not made:
        raise BadStrategy(f"{spec.origin}: no strategy in this module, which {GROUP} names: call strategy(NAME, ...)")
    root = Path(top.origin)
    files = sorted(root.parent.rglob("*.py")) if root.name == "__init__.py" else [root]
    content = b"\0".join(p.relative_to(root.parent).as_posix().encode() + b"\0" + _content(p) for p in files)
    return Source(name, _digest(content), tuple(made), module=name)


# --- tables ------------------------------------------------------------------------------------------------------------------


def _take(source: Source) -> None:
    """Put a source into the tables instead of what it was before; all of it or nothing."""
    before = _LOADED.pop(source.place, None)
    if before is not None:
        _remove(before)
    try:
        _refuse_taken_names(source)
        _insert(source)
        for made in source.strategies:
            _try_out(made)
    except BadStrategy:
        _remove(source)
        if before is not None:
            _insert(before)
            _LOADED[before.place] = before
        raise
    _LOADED[source.place] = source


def _refuse_taken_names(source: Source) -> None:
    taken = {
        name: other.place for other in _LOADED.values() for s in other.strategies for name in _names(s)
    }  # fmt: skip
    seen: dict[str, object] = {}
    for made in source.strategies:
        for name, thing, at in _named(made):
            if name in _BUILT_IN:
                raise BadStrategy(f"{at}: {name!r} is the name of a built-in; choose another")
            if name in taken:
                raise BadStrategy(f"{at}: {name!r} is defined in {taken[name]} too; choose another name")
            if seen.setdefault(name, thing) is not thing:
                raise BadStrategy(f"{at}: {name!r} is defined twice; choose another name")


def _named(made: OwnStrategy) -> list[tuple[str, object, str]]:
    return [(made.spec.name, made, made.place), *((f.name, f, f.place) for f in made.functions)]


def _names(made: OwnStrategy) -> list[str]:
    return [name for name, _, _ in _named(made)]


def _insert(source: Source) -> None:
    for made in source.strategies:
        conditions, logics, spec = made.rows(source.version)
        CONDITIONS.update({row.name: row for row in conditions})
        LOGICS.update({row.name: row for row in logics})
        STRATEGIES[spec.name] = spec
    _clear()


def _remove(source: Source) -> None:
    for made in source.strategies:
        for name in _names(made):
            if name not in _BUILT_IN:
                for table in (CONDITIONS, LOGICS, STRATEGIES):
                    table.pop(name, None)  # of whichever table it is
    _clear()


def _clear() -> None:
    """Forget what was worked out from the tables."""
    for thing in vars(strategy).values():
        if hasattr(thing, "cache_clear"):
            thing.cache_clear()


def _try_out(made: OwnStrategy) -> None:
    """Build it at its default point, for the first bar length that it reads: what does not fit together is said now."""
    name = made.spec.name
    for slot, known in (("entry", CONDITIONS), ("exit", CONDITIONS), ("trend", CONDITIONS)):
        for part in getattr(made.spec, slot):
            if part not in known:
                raise BadStrategy(f"{made.place}: {name}: {_unknown('condition', part, known)}")
    if made.spec.logic is not None and made.spec.logic not in LOGICS:
        raise BadStrategy(f"{made.place}: {name}: {_unknown('stateful logic', made.spec.logic, LOGICS)}")
    rows = {row.name: {spec.name for spec in row.specs} for _, row in made.spec.rows()}
    for row, specs in made.spec.limits.items():
        missing = [s.name for s in specs if s.name not in rows.get(row, ())]
        if row not in rows or missing:
            raise BadStrategy(
                f"{made.place}: {name}: limits name {row}{''.join('.' + m for m in missing[:1])}, which it has not"
            )
    timeframe = next((t for t in reversed(Timeframe) if made.spec.supports(t)), None)
    if timeframe is None:
        raise BadStrategy(f"{made.place}: {name}: its conditions have no bar length in common")
    try:
        build(name, resolve(name, default_trial(name, timeframe), timeframe), timeframe)
        space(name, timeframe)
        required_history(name, timeframe)
    except BadStrategy:
        raise
    except BadConfiguration as error:
        raise BadStrategy(f"{made.place}: {error}") from error


def _unknown(kind: str, name: str, known: Mapping[str, object]) -> str:
    return str(UnknownName(kind, name, known))
