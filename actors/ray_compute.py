"""Units on a Ray cluster: what a child process is to a stage worker here, a Ray actor is on a cluster.

Ray is an extra (`pip install 'algo-royale[cluster]'`) and is imported where it is used.
"""

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from actors.stage_worker import Computer, OnAnswer, OnExit, OnReady, RunUnit
from algo_royale.errors import AlgoRoyaleError

OBJECT_STORE_BYTES = 80 * 1024 * 1024  # Ray's least is 75 MiB; units are small, bars come by memory map


_own_files: list[str] = []  # of the cluster that `connect` started


class ClusterError(AlgoRoyaleError):
    """There is no Ray, or no cluster that answers."""


def connect(address: str, cpus: int) -> int:
    """Join the cluster at `address`, or start one of `cpus` processors on this machine, reachable from here only, if it is
    empty. Returns the number of its processors. Raises ClusterError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as it will be, and without a warning
    try:
        import ray
    except ImportError as error:
        raise ClusterError("the Ray engine needs Ray: pip install 'algo-royale[cluster]'") from error
    how: dict[str, Any] = {"address": address}
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        try:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10.0).close()
        except OSError as error:
            raise ClusterError(f"no Ray cluster at {address}: {error.strerror or error}") from error
    if not address:
        _own_files.append(tempfile.mkdtemp(prefix="ray-"))  # a short path, for Ray makes sockets below it
        how = {
            "address": "local", "num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES,
            "_node_ip_address": "127.0.0.1", "_temp_dir": _own_files[-1],
        }  # fmt: skip
    try:
        ray.init(**how, log_to_driver=False, configure_logging=False, namespace="algo-royale")
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = f"the Ray cluster at {address!r}" if address else "a Ray cluster on this machine"
        raise ClusterError(f"no connection to {where}: {' '.join(str(error).split())}") from error
    found = int(ray.cluster_resources().get("CPU", 0))
    if found < 1:
        raise ClusterError(f"the Ray cluster at {address!r} has no processor to offer")
    return found


def disconnect() -> None:
    """Leave the cluster; one that `connect` started ends."""
    import ray

    ray.shutdown()
    while _own_files:
        shutil.rmtree(_own_files.pop(), ignore_errors=True)


class Remote:
    """The Ray actor: computes one unit at a time in a process of its own."""

    def __init__(self, make: Callable[[], RunUnit]) -> None:
        self._compute = Computer(make)

    def pid(self) -> int:
        return os.getpid()

    def live(self) -> None:
        """Never answers: the caller learns of the actor's end, busy or idle, by the failure of this call."""
        threading.Event().wait()

    def run(self, unit: str, payload: Any) -> Any:
        return self._compute(unit, payload)


class RayCompute:
    """One Ray actor on one processor of the cluster, wherever there is one free; until there is, it is not ready."""

    def __init__(
        self, make: Callable[[], RunUnit], payload: Callable[[str], Any], name: str, on_ready: OnReady,
        on_answer: OnAnswer, on_exit: OnExit,
    ) -> None:  # fmt: skip
        import ray

        self._payload, self._on_answer = payload, on_answer
        self._actor = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0, max_concurrency=2)(Remote).remote(make)

        def ready(found: "Future[int]") -> None:
            if found.exception() is None:
                on_ready(found.result())

        def ended(found: "Future[None]") -> None:
            on_exit(None)

        self._actor.pid.remote().future().add_done_callback(ready)
        self._actor.live.remote().future().add_done_callback(ended)

    def submit(self, unit: str) -> None:
        def answered(found: "Future[Any]") -> None:
            if found.exception() is None:  # otherwise the actor is gone, which `live` reports
                self._on_answer(*found.result())

        self._actor.run.remote(unit, self._payload(unit)).future().add_done_callback(answered)

    def kill(self) -> None:
        import ray

        ray.kill(self._actor, no_restart=True)
