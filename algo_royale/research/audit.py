"""Is what lies on disk what was computed? Artifacts against their own digests, their manifest, the data and this program.

Everything here reads. A `Difference` names the file and what is wrong with it, in the words a person can act on.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from algo_royale.data.catalog import Catalog, open_catalog
from algo_royale.errors import AlgoRoyaleError, ArtifactError
from algo_royale.market import Timeframe
from algo_royale.research import artifacts
from algo_royale.research import plan as planning
from algo_royale.research.plan import ResearchConfig
from algo_royale.strategies import strategy_id

DONE = ("complete", "no_feasible_trial")
STAGE_OF = {
    "signal_optimization": "signal_optimization", "signal_evaluation": "signal_evaluation",
    "signal_summary": "symbol_summary", "portfolio_optimization": "portfolio_optimization",
    "portfolio_evaluation": "portfolio_evaluation", "portfolio_summary": "portfolio_summary",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Difference:
    """`file` below the root, and what is wrong with it."""

    file: str
    what: str


def meta_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """When, how long and by what an artifact was made."""
    found: dict[str, Any] = document.get("optimization", document)["meta"]
    return found


def key_of(document: Mapping[str, Any]) -> str:
    """Where an artifact belongs below its root; it does not matter where its file is now."""
    kind, name = document["kind"], document["strategy"]
    if kind == "signal_summary":
        return f"signal/{document['symbol']}/{artifacts.SUMMARY}"
    if kind == "portfolio_summary":
        return f"portfolio/{artifacts.universe_name(document['symbols'])}/{artifacts.SUMMARY}"
    folder = (
        artifacts.signal_folder(document["symbol"], name)
        if kind.startswith("signal")
        else artifacts.portfolio_folder(document["symbols"], name)
    )
    if kind.endswith("evaluation"):
        return f"{folder}/{artifacts.EVALUATION}"
    return f"{folder}/{document['window']['window_id']}/{artifacts.OPTIMIZATION}"


def manifest_above(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """Root and manifest of the run that an artifact's file lies in."""
    for folder in path.resolve().parents:
        if (folder / artifacts.MANIFEST).is_file():
            return folder, artifacts.read(folder / artifacts.MANIFEST, "run_manifest")
    return None


def recipe_config(document: Mapping[str, Any], root: Path, data: str) -> ResearchConfig:
    """The configuration that makes the artifact again below `root`. Raises ArtifactError where it does not say it."""
    try:
        found = meta_of(document)["recipe"]
        symbols = [document["symbol"]] if "symbol" in document else document["symbols"]
        strategies = [document["strategy"]] if document["kind"].startswith("signal") else found["strategies"]
        return planning.from_recipe(found, root, data, symbols=symbols, strategies=strategies)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{document['kind']} of {document['strategy']}: its recipe cannot be read ({error!r}); it was made by another"
            " release, run run-backtest again"
        ) from error


# --- one artifact --------------------------------------------------------------------------------------------------------


def check_file(path: Path, *, sha256: str | None = None) -> Iterator[str]:
    """What is wrong with one artifact by itself: bytes, schema, sidecar, digests, and figures that contradict each other.

    `sha256`: what the manifest says of it (`artifacts.digest`).
    """
    try:
        document = artifacts.read(path)
    except ArtifactError as error:
        yield str(error).removeprefix(f"{path} ").removeprefix("is corrupt ")
        return
    content = path.read_bytes()
    shell = {document["window"]["window_id"]: document} if "window" in document else document
    if artifacts.dumps(shell) != content:
        yield "not spelled as it was written: somebody or something changed it"
    if sha256 is not None and artifacts.digest(document) != sha256:
        yield f"not what the run wrote: its digest is {artifacts.digest(document)[:12]}, the manifest says {sha256[:12]}"
    wrong = list(_schema(document))
    yield from wrong
    if not wrong and document["kind"] != "run_manifest":
        yield from _consistent(path, document)


_NUMBER = (int, float)
_SHAPES: dict[str, dict[str, Any]] = {
    "optimization": {
        "status": str, "optimization.meta.n_trials": int, "optimization.meta.seed": int, "optimization.meta.recipe": dict,
        "optimization.meta.config_hash": str, "optimization.meta.data_fingerprint": str,
        "optimization.meta.code_version": str, "optimization.meta.created_at": str, "optimization.trials.recorded": int,
        "test.metrics.total_return": _NUMBER, "test.metrics.n_sessions": int, "test.double_costs.total_return": _NUMBER,
        "window.window_id": str, "window.train_start": str, "window.test_end": str, "sidecar.file": str,
        "sidecar.sha256": str,
    },
    "evaluation": {
        "is_viable": bool, "viability_score": _NUMBER, "checks": list, "n_windows": int, "summary": dict, "in_sample": dict,
        "oos.total_return": _NUMBER, "oos.n_sessions": int, "passport.n_trials": int, "passport.n_candidates": int,
        "window_params": list, "meta.recipe": dict, "meta.config_hash": str, "meta.data_fingerprint": str,
        "meta.code_version": str, "meta.created_at": str,
    },
    "manifest": {
        "units": dict, "symbols": list, "windows": list, "settings.data": str, "data_fingerprint": str, "code_version": str,
        "holdout_reads": int,
    },
}  # fmt: skip
_SHAPES["summary"] = _SHAPES["evaluation"] | {"candidates": list, "n_candidates": int}


def _schema(document: Mapping[str, Any]) -> Iterator[str]:
    """Every key that must be there is, with a value of its type."""
    for dotted, wanted in _SHAPES[document["kind"].split("_")[1]].items():
        value: Any = document
        for part in dotted.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            yield f"schema: {dotted} is {value!r}"


def _consistent(path: Path, document: Mapping[str, Any]) -> Iterator[str]:
    meta = meta_of(document)
    if artifacts.content_hash(meta["recipe"]) != meta["config_hash"]:
        yield "its config_hash is not the digest of its recipe"
    if "sidecar" in document:
        yield from _sidecar(path, document)
    else:
        yield from _verdict(document)


def _sidecar(path: Path, document: Mapping[str, Any]) -> Iterator[str]:
    """The arrays are the ones it was written with, and its figures are theirs."""
    entry = document["sidecar"]
    try:
        arrays = artifacts.read_sidecar(path.with_name(entry["file"]), entry["sha256"])
    except ArtifactError as error:
        yield f"{entry['file']}: {error}"
        return
    search, test = document["optimization"], document["test"]
    if len(arrays["numbers"]) != search["trials"]["recorded"]:
        yield f"{entry['file']} has {len(arrays['numbers'])} trials, the artifact {search['trials']['recorded']}"
    for name, told in (
        ("test_returns", test["metrics"]["total_return"]),
        ("test_returns_double_costs", test["double_costs"]["total_return"]),
    ):
        total = float(np.prod(1.0 + arrays[name])) - 1.0
        if not math.isclose(total, told, rel_tol=1e-9, abs_tol=1e-9):
            yield f"{name} of {entry['file']} compound to {total!r}, the artifact says {told!r}"
    params = search["best_params"]
    if "symbol" in document and params is not None:
        made = strategy_id(document["strategy"], params, Timeframe(search["meta"]["timeframe"]))
        if made != search["strategy_id"]:
            yield f"strategy_id is {search['strategy_id']}, its parameters make {made}"


def _verdict(document: Mapping[str, Any]) -> Iterator[str]:
    """The verdict follows from the checks, and the checks from the recipe."""
    from algo_royale.research.viability import Check, ViabilityConfig, judge

    recipe, rows = meta_of(document)["recipe"], document["checks"]
    rules = ViabilityConfig(
        checks=tuple(Check(**check) for check in recipe["checks"]), threshold=recipe["threshold"],
        hard_checks=tuple(recipe["hard_checks"]),
    )  # fmt: skip
    again = judge({"num_trades": document["oos"]["num_trades"]} | {row["name"]: row["value"] for row in rows}, rules)
    if artifacts.plain(again.checks) != rows:
        yield "its checks do not follow from their values"
    if (again.is_viable, again.score) != (document["is_viable"], document["viability_score"]):
        yield f"its checks make it {again.is_viable}, {again.score:g}; it says {document['is_viable']}, {document['viability_score']:g}"


# --- a run ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Audit:
    """What was looked at and what is wrong; `left` are files of earlier runs that the manifest does not know."""

    checked: int
    differences: tuple[Difference, ...]
    left: tuple[str, ...]


def verify(root: Path, data: str | None = None, *, only: str | None = None) -> Audit:
    """Check every artifact of the run below `root` (or `only` the one of that key), the bars it was made from (those of
    `data` instead of where the run found them), and the code. Raises ArtifactError if there is no readable manifest."""
    manifest = artifacts.read(root / artifacts.MANIFEST, "run_manifest")
    units = {key: unit for key, unit in manifest["units"].items() if unit["status"] in DONE}
    found = [Difference(artifacts.MANIFEST, what) for what in check_file(root / artifacts.MANIFEST)]
    if found:
        return Audit(1, tuple(found), ())
    here = artifacts.code_version()
    if manifest["code_version"] != here:
        found.append(Difference(artifacts.MANIFEST, f"made by {manifest['code_version']}, this program is {here}"))
    prints = _Prints(data or manifest["settings"]["data"], Timeframe(manifest["timeframe"]))
    found += [
        Difference(artifacts.MANIFEST, what)
        for what in prints.compare(manifest["symbols"], manifest["data_fingerprint"])
    ]
    chosen = {only: units.get(only, {})} if only else units
    for key, unit in sorted(chosen.items()):
        for what in _unit(root, key, unit, manifest, prints):
            found.append(Difference(key, what))
    present = {p.relative_to(root).as_posix() for p in root.rglob("*_result.json")}
    left = () if only else tuple(sorted(present - set(units) - {artifacts.FINAL}))
    return Audit(len(chosen) + 1, tuple(found), left)


def _unit(
    root: Path, key: str, unit: Mapping[str, Any], manifest: Mapping[str, Any], prints: "_Prints"
) -> Iterator[str]:
    """What is wrong with a unit's file beside its manifest."""
    path = root / key
    if not path.is_file():
        yield f"missing, although the manifest says {unit.get('status', 'nothing of it')!r}"
        return
    if not unit:
        yield "the manifest of its run does not know it"
    wrong = list(check_file(path, sha256=unit.get("sha256")))
    yield from wrong
    if wrong:
        return
    document = artifacts.read(path)
    meta = meta_of(document)
    if key_of(document) != key:
        yield f"it is {key_of(document)}"
    if unit and document.get("status", "complete") != unit["status"]:
        yield f"its status is {document.get('status', 'complete')}, the manifest says {unit['status']}"
    if meta["code_version"] != manifest["code_version"]:
        yield f"made by {meta['code_version']}, the rest of the run by {manifest['code_version']}"
    symbols = [document["symbol"]] if "symbol" in document else document["symbols"]
    yield from prints.compare(symbols, meta["data_fingerprint"])


class _Prints:
    """Fingerprints of the bars as they are now, each computed once."""

    def __init__(self, data: str, timeframe: Timeframe) -> None:
        self._data, self._timeframe = data, timeframe
        self._catalog: Catalog | None = None
        self._seen: dict[tuple[str, ...], str] = {}

    def compare(self, symbols: Sequence[str], wanted: str) -> Iterator[str]:
        """Why the bars of these symbols are not the ones with the fingerprint `wanted`."""
        names = tuple(symbols)
        try:
            if names not in self._seen:
                self._catalog = self._catalog or open_catalog(self._data)
                self._seen[names] = self._catalog.fingerprint(list(names), self._timeframe)
        except AlgoRoyaleError as error:
            self._seen[names] = f"none: {error}"
        now = self._seen[names]
        if now.startswith("none: "):
            yield f"its bars cannot be read: {now.removeprefix('none: ')}"
        elif now != wanted:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            yield f"made from other bars: those of {shown} in {self._data!r} have fingerprint {now[:12]}, it says {wanted[:12]}"


# --- made again ----------------------------------------------------------------------------------------------------------


def closure(plan: planning.Plan, key: str) -> tuple[planning.Unit, ...]:
    """The unit and everything it depends on, in the plan's order."""
    units = {unit.key: unit for unit in plan.units}
    wanted, open_ = set(), [key]
    while open_:
        at = open_.pop()
        if at not in wanted:
            wanted.add(at)
            open_ += units[at].depends_on
    return tuple(unit for unit in plan.units if unit.key in wanted)


def compare(old: Path, new: Path, *, limit: int = 20) -> list[str]:
    """Where two files of an artifact differ, clock fields aside: byte for byte, then key by key and array by array."""
    first, second = artifacts.read(old), artifacts.read(new)
    if artifacts.dumps(artifacts.identity(first)) == artifacts.dumps(artifacts.identity(second)):
        spelled = {first["window"]["window_id"]: first} if "window" in first else first
        return [] if artifacts.dumps(spelled) == old.read_bytes() else ["equal values, but not the bytes that we write"]
    found = list(_values("", artifacts.identity(first), artifacts.identity(second)))
    if "sidecar" in first and first["sidecar"] != second.get("sidecar"):
        found += _arrays(old, first, new, second)
    return found[:limit] + ([f"and {len(found) - limit} more"] if len(found) > limit else [])


def _values(at: str, a: Any, b: Any) -> Iterator[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in sorted({*a, *b}):
            inner = f"{at}.{name}" if at else name
            if name not in a or name not in b:
                yield f"{inner} is only in the {'old' if name in a else 'new'} one"
            else:
                yield from _values(inner, a[name], b[name])
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _values(f"{at}[{index}]", x, y)
    elif a != b:
        yield f"{at} was {_short(a)}, is {_short(b)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _arrays(old: Path, first: Mapping[str, Any], new: Path, second: Mapping[str, Any]) -> list[str]:
    try:
        a, b = (
            artifacts.read_sidecar(path.with_name(d["sidecar"]["file"]), d["sidecar"]["sha256"])
            for path, d in ((old, first), (new, second))
        )
    except ArtifactError as error:
        return [str(error)]
    differing = [
        n
        for n in sorted({*a, *b})
        if n not in a or n not in b or not np.array_equal(a[n], b[n], equal_nan=a[n].dtype.kind == "f")
    ]
    return [f"array {name} of {first['sidecar']['file']} differs" for name in differing]
