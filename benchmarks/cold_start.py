"""How long `run-backtest` on the bundled data takes from the start of its process to its first unit.

    python benchmarks/cold_start.py [runs]

The first run compiles the kernels into a cache of its own, which the others find. `given` is when a worker
is handed the first unit, `begun` when it computes it (its answer less the time it took, which is in the run's log), `done` when its
artifact is there. The load of the machine is printed, for it decides everything here.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def first_unit(home: Path, cache: Path) -> tuple[float, float, float]:
    """Seconds from the start of the process until the first unit was given out, begun and done; then the run is ended."""
    command = [sys.executable, "-m", "algo_royale", "--home", str(home), "run-backtest", "--fresh", "--log"]
    began_ns = time.time_ns()
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if ": " in line:  # the first quarter of the first stage: many units are done
                break
        process.terminate()
        process.communicate()
    ask = [
        sys.executable,
        "-m",
        "algo_royale",
        "--home",
        str(home),
        "--json",
        "messages",
        "list",
        "--limit",
        "0",
        "--type",
    ]
    given, done = (
        json.loads(subprocess.run([*ask, kind], capture_output=True, check=True).stdout)["messages"][0]["message"]
        for kind in ("RunStage", "StageCompleted")
    )
    return tuple(
        (at - began_ns) / 1e9 for at in (given["at_ns"], done["at_ns"] - int(done["took_s"] * 1e9), done["at_ns"])
    )  # type: ignore[return-value]


def main() -> None:
    runs = int(next((a for a in sys.argv[1:] if a.isdigit()), "5"))
    with tempfile.TemporaryDirectory(prefix="cold-") as place:
        cache = Path(place, "kernels")
        uncached = first_unit(Path(place, "0"), cache)
        times = [first_unit(Path(place, str(run + 1)), cache) for run in range(runs)]
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; seconds from the start of the process")
    for name, row in (
        ("median", [statistics.median(t) for t in zip(*times, strict=True)]),
        ("best", min(times)),
        ("uncached", uncached),
    ):
        print(f"{name:>9}: first unit given {row[0]:.2f}, begun {row[1]:.2f}, done {row[2]:.2f}")


if __name__ == "__main__":
    main()
