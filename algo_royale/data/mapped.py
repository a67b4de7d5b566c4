"""Arrays in one file that processes map instead of reading: whoever opens it shares the pages of everybody else.

The file is a line of JSON, then the arrays, each from a multiple of 64 bytes on. It is written beside its place and renamed, so it
is there whole or not at all, and is never changed afterwards.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from algo_royale.errors import BadMarketData

ALIGNMENT = 64
Arrays = dict[str, npt.NDArray[Any]]


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def write(path: Path, about: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Put one-dimensional `arrays`, and plain facts `about` them, at `path`. Raises BadMarketData if the place cannot be written."""
    entries, offset = [], 0
    for name, array in arrays.items():
        entries.append([name, array.dtype.str, len(array), offset])
        offset += _padded(array.nbytes)
    head = json.dumps({"about": about, "arrays": entries}).encode()
    head += b" " * (_padded(len(head) + 1) - len(head) - 1) + b"\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(head)
                for array in arrays.values():
                    file.write(np.ascontiguousarray(array).data)
                    file.write(bytes(_padded(array.nbytes) - array.nbytes))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise BadMarketData(
            f"cannot write {path}: {error.strerror or error}; check the folder and its space"
        ) from error


def read(path: Path) -> tuple[dict[str, Any], Arrays]:
    """What `write` put there: the facts, and the arrays, read-only views of the file's pages. Raises BadMarketData."""
    try:
        with path.open("rb") as file:
            line = file.readline()
        head = json.loads(line)
        whole = np.asarray(np.memmap(path, np.uint8, "r"))  # not a memmap: each slice of one costs microseconds
    except (OSError, ValueError) as error:
        raise BadMarketData(f"cannot read {path}: {error}; delete it, and run run-backtest again") from error
    arrays: Arrays = {}
    for name, kind, count, offset in head["arrays"]:
        low, dtype = len(line) + offset, np.dtype(kind)
        arrays[name] = whole[low : low + count * dtype.itemsize].view(dtype)
        if len(arrays[name]) != count:
            raise BadMarketData(f"{path} is cut short; delete it, and run run-backtest again")
    return head["about"], arrays
