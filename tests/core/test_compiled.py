"""The door to numba: who waits for whose compiler, and what is known to be on disk."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

KERNEL = """
from algo_royale.compiled import F64, compile_now, compiled, is_on_disk

@compiled(F64, F64)
def twice(x):
    return 2.0 * x

before = is_on_disk(twice)
compile_now(twice)
assert (before, is_on_disk(twice), twice(1.5)) == (False, True, 3.0)
"""


def test_kernels_of_one_file_are_compiled_by_one_process_and_no_other_file_waits(tmp_path: Path) -> None:
    """Else two processors would compile no faster than one."""
    mine, other = tmp_path / "mine.py", tmp_path / "other.py"
    for path in (mine, other):
        path.write_text(KERNEL)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    with mine.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = subprocess.Popen([sys.executable, str(mine)], env=environment)
        subprocess.run([sys.executable, str(other)], env=environment, check=True, timeout=120)
        assert waiting.poll() is None
    assert waiting.wait(120) == 0
