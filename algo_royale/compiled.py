"""The one door to numba: every kernel is compiled here under the same rules, so results are the same bits everywhere.

No fast math (it reorders sums), numpy's error model (x/0 is inf, not an exception), no SVML (its vector functions differ
in the last bit from the scalar ones), explicit signatures (a fixed, small number of compilations).
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

os.environ.setdefault("NUMBA_DISABLE_INTEL_SVML", "1")  # read once, when numba is imported

import numba
from numba import types
from numba.core.compiler_lock import global_compiler_lock

F = TypeVar("F", bound=Callable[..., Any])

I8, I64, F64, VOID = types.int8, types.int64, types.float64, types.void
FLOATS_IN = types.Array(types.float64, 1, "C", readonly=True)
FLOATS_OUT = types.Array(types.float64, 1, "C")
BOOLS_IN = types.Array(types.boolean, 1, "C", readonly=True)
BOOLS_OUT = types.Array(types.boolean, 1, "C")
SIGNALS_IN = types.Array(types.int8, 1, "C", readonly=True)
SIGNALS_OUT = types.Array(types.int8, 1, "C")


def compiled(result: Any, *arguments: Any) -> Callable[[F], F]:
    """Compile a function for exactly one signature, and keep the machine code on disk where a folder is writable.

    It is compiled, or read from disk, when it is first called: a process pays for nothing that it does not use.
    """

    def decorate(function: F) -> F:
        try:
            return cast(F, _on_first_use(_dispatcher(function, cache=True), result(*arguments)))
        except RuntimeError as error:  # numba's way to say that neither the package nor the home is writable
            if "cannot cache" not in str(error):
                raise
            return cast(F, _on_first_use(_dispatcher(function, cache=False), result(*arguments)))

    return decorate


def compiled_as_called(function: F) -> F:
    """Compile a function for what it is called with, kept on disk and one process at a time as with `compiled`."""
    try:
        made = _dispatcher(function, cache=True)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        made = _dispatcher(function, cache=False)
    compile_for = made._compile_for_args

    def called(*arguments: Any, **named: Any) -> Any:
        with _one_compiler(function):
            return compile_for(*arguments, **named)

    made._compile_for_args = called
    return cast(F, made)


def is_on_disk(kernel: Any) -> bool:
    """Whether this kernel has been compiled before, as far as can be seen without loading it."""
    file = getattr(getattr(kernel, "_cache", None), "_cache_file", None)  # numba's own; without it nothing is known
    return os.path.exists(getattr(file, "_index_path", ""))


def compile_now(kernel: Any) -> None:
    """Compile what `compiled` has made, or read it from disk, before anything calls it."""
    kernel._compile_for_args()


def _dispatcher(function: Any, cache: bool) -> Any:
    return numba.njit(cache=cache, fastmath=False, error_model="numpy", nogil=True)(function)


def _on_first_use(made: Any, signature: Any) -> Any:
    """Where numba would compile `made` for the types it is called with, compile `signature` and nothing after it."""
    template = made.get_call_template

    def ready() -> None:
        if not made.overloads:
            with _one_compiler(made.py_func):
                if not made.overloads:  # another thread was here
                    made.compile(signature)
                    made.disable_compile()

    def called(*_: Any, **__: Any) -> Any:  # from Python; numba calls what it gets with the arguments
        ready()
        return made

    def called_by_kernel(args: Any, kws: Any) -> Any:
        ready()
        return template(args, kws)

    made._compile_for_args, made.get_call_template = called, called_by_kernel
    return made


_depth = 0  # of kernels that are compiled because others call them; changes under numba's lock only


@contextlib.contextmanager
def _one_compiler(function: Callable[..., Any]) -> Iterator[None]:
    """One process at a time compiles the kernels of a file: the others wait, and then read from disk what it made."""
    global _depth
    with global_compiler_lock, contextlib.ExitStack() as held:
        if not _depth:
            with contextlib.suppress(OSError):  # a file system without locks costs time only
                source = held.enter_context(open(function.__code__.co_filename, "rb"))
                fcntl.flock(source, fcntl.LOCK_EX)  # closing it lets go
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1
