"""Artifacts on disk: strict JSON, whole or absent, checked when read.

A file exists only if its unit completed. `meta` blocks hold when and how long (`VOLATILE`); everything else is a
function of configuration, data and code, so two runs are compared with `identity`.
"""

import enum
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import algo_royale
from algo_royale.errors import ArtifactError

SCHEMA_VERSION = 1
VOLATILE = frozenset({"created_at", "run_time_sec"})
OPTIMIZATION, EVALUATION, SUMMARY = "optimization_result.json", "evaluation_result.json", "summary_result.json"
MANIFEST, SIDECAR, FINAL = "run_manifest.json", "trials.npz", "final_result.json"
# What cannot change a result: the shells around the core.
_NOT_RESEARCH = ("app", "broker", "exchange")
# What signals and weights are made by.
_STRATEGIES = ("strategies", "features.py", "portfolio")


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: arrays become lists, enums their values, non-finite numbers null."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence | frozenset | set):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    raise TypeError(f"{type(value).__name__} has no place in an artifact")


def dumps(document: Mapping[str, Any]) -> bytes:
    """The one spelling of a document: sorted keys, indent 2, UTF-8, newline at the end."""
    return (json.dumps(plain(document), allow_nan=False, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()


def content_hash(value: Any) -> str:
    """sha256 of the canonical JSON of `value`."""
    text = json.dumps(plain(value), allow_nan=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def identity(document: Any) -> Any:
    """`document` without what may differ between two equal runs."""
    if isinstance(document, Mapping):
        return {key: identity(item) for key, item in document.items() if key not in VOLATILE}
    if isinstance(document, list):
        return [identity(item) for item in document]
    return document


def digest(document: Mapping[str, Any]) -> str:
    """sha256 of an artifact without what may differ between two equal runs; the manifest keeps it."""
    return content_hash(identity(document))


def _sources_digest(counts: Callable[[str], bool]) -> str:
    """First 12 hex digits over the sources of those top-level parts of the core."""
    root = Path(algo_royale.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        if counts(path.relative_to(root).parts[0]):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


@lru_cache(maxsize=1)
def strategies_version() -> str:
    """A digest of what makes signals and weights: the version of every strategy that comes with the program."""
    return _sources_digest(lambda part: part in _STRATEGIES)


@lru_cache(maxsize=1)
def code_version() -> str:
    """Release and a digest of the sources that results depend on, so that changed code never reuses an old result."""
    try:
        release = metadata.version("algo-royale")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        release = "0"
    return f"{release}+s{_sources_digest(lambda part: part not in _NOT_RESEARCH)}"


def npz(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Arrays as .npz; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    save: Any = np.savez_compressed  # its stub takes any keyword for `allow_pickle`
    save(buffer, **{name: arrays[name] for name in sorted(arrays)})
    return buffer.getvalue()


def write(path: Path, content: bytes) -> None:
    """Put `content` at `path` so that a crash leaves the old file or the new one, never a part.

    Raises ArtifactError if the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ArtifactError(
            f"cannot write {path}: {error.strerror or error}; check the folder and its space"
        ) from error


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist; run run-backtest to make it") from None
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, str(error)) from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not strict JSON")


def _corrupt(path: Path, why: str) -> ArtifactError:
    return ArtifactError(f"{path} is corrupt ({why}); delete it, or use --fresh, and run run-backtest again")


REQUIRED: dict[str, tuple[str, ...]] = {
    "signal_optimization": ("status", "strategy", "symbol", "optimization", "test", "window"),
    "signal_evaluation": ("strategy", "symbol", "is_viable", "viability_score", "oos", "best_params", "meta"),
    "signal_summary": ("strategy", "symbol", "is_viable", "viability_score", "candidates", "best_params", "meta"),
    "portfolio_optimization": ("status", "strategy", "symbols", "optimization", "test", "window", "symbol_signals"),
    "portfolio_evaluation": ("strategy", "symbols", "is_viable", "viability_score", "oos", "best_params", "meta"),
    "portfolio_summary": ("strategy", "symbols", "is_viable", "viability_score", "candidates", "best_params", "meta"),
    "final_result": ("strategy", "symbols", "holdout", "portfolio", "signals", "holdout_reads", "contaminated", "meta"),
    "run_manifest": ("units", "holdout_reads", "symbols", "timeframe", "windows"),
}


def read(path: Path, kind: str | None = None) -> dict[str, Any]:
    """The document at `path` (an optimisation's without its window-id shell), of that `kind` if one is given.

    Raises ArtifactError, which says what to do, if it is missing, corrupt, incomplete, of another kind or of another
    major schema version. Unknown keys are ignored.
    """
    document = _load(path)
    if isinstance(document, dict) and len(document) == 1:
        (document,) = document.values()
    if not isinstance(document, dict):
        raise _corrupt(path, "not an object")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema version {document.get('schema_version')!r}, this program reads {SCHEMA_VERSION};"
            " run run-backtest --fresh, or use the release that wrote it"
        )
    found = document.get("kind")
    if found not in REQUIRED or found != (kind or found):
        raise _corrupt(path, f"kind is {found!r}, not {kind!r}" if kind else f"kind {found!r} is unknown")
    missing = [key for key in REQUIRED[found] if key not in document]
    if missing:
        raise _corrupt(path, f"{missing[0]!r} is missing")
    return document


def read_sidecar(path: Path, sha256: str, names: Sequence[str] | None = None) -> dict[str, npt.NDArray[Any]]:
    """Arrays (all, or those named) written beside an artifact; raises ArtifactError unless they are the very bytes it
    was written with."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}; run run-backtest --fresh") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise _corrupt(path, "its checksum differs from the one in its artifact")
    with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
        return {name: loaded[name] for name in (loaded.files if names is None else names)}


def universe_name(symbols: Sequence[str]) -> str:
    """Folder name of a set of symbols."""
    joined = "_".join(sorted(symbols))
    if len(joined) <= 80:
        return joined
    return f"U{len(symbols)}_{hashlib.sha256(joined.encode()).hexdigest()[:12]}"


def signal_folder(symbol: str, strategy: str) -> str:
    return f"signal/{symbol}/{strategy}"


def portfolio_folder(symbols: Sequence[str], strategy: str) -> str:
    return f"portfolio/{universe_name(symbols)}/{strategy}"


def evaluation_path(root: Path, symbol: str, strategy: str) -> Path:
    """Where a signal strategy's evaluation is."""
    return root / signal_folder(symbol, strategy) / EVALUATION


def symbol_summary_path(root: Path, symbol: str) -> Path:
    return root / "signal" / symbol / SUMMARY


def portfolio_evaluation_path(root: Path, symbols: Sequence[str], strategy: str) -> Path:
    return root / portfolio_folder(symbols, strategy) / EVALUATION


def portfolio_summary_path(root: Path, symbols: Sequence[str]) -> Path:
    return root / "portfolio" / universe_name(symbols) / SUMMARY
