"""The one door to numba: every kernel is compiled here under the same rules, so results are the same bits everywhere.

No fast math (it reorders sums), numpy's error model (x/0 is inf, not an exception), no SVML (its vector functions differ
in the last bit from the scalar ones), explicit signatures (a fixed, small number of compilations).
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

os.environ.setdefault("NUMBA_DISABLE_INTEL_SVML", "1")  # read once, when numba is imported

import numba
from numba import types

F = TypeVar("F", bound=Callable[..., Any])

I8, I64, F64, VOID = types.int8, types.int64, types.float64, types.void
FLOATS_IN = types.Array(types.float64, 1, "C", readonly=True)
FLOATS_OUT = types.Array(types.float64, 1, "C")
BOOLS_IN = types.Array(types.boolean, 1, "C", readonly=True)
BOOLS_OUT = types.Array(types.boolean, 1, "C")
SIGNALS_IN = types.Array(types.int8, 1, "C", readonly=True)
SIGNALS_OUT = types.Array(types.int8, 1, "C")


def compiled(result: Any, *arguments: Any) -> Callable[[F], F]:
    """Compile a function for exactly one signature, and keep the machine code on disk where a folder is writable."""

    def decorate(function: F) -> F:
        def build(cache: bool) -> F:
            made = numba.njit(result(*arguments), cache=cache, fastmath=False, error_model="numpy", nogil=True)(
                function
            )
            return cast(F, made)

        try:
            return build(cache=True)
        except RuntimeError as error:  # numba's way to say that neither the package nor the home is writable
            if "cannot cache" not in str(error):
                raise
            return build(cache=False)

    return decorate
