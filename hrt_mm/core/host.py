"""Functions that run on the host, outside compiled graphs: planning of batches and queries about the machine.

They are marked as ``torch.compiler.disable`` and ``assume_constant_result`` do, but without importing the compiler,
which takes two seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def on_host(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Runs a function as plain Python where ``torch.compile`` traces its caller. Eager calls have no overhead.

    Plans of a batch read lengths and build index arrays in NumPy; traced, they would break the graph or fail.
    """
    # What torch.compiler.disable calls.
    uncompiled = torch._disable_dynamo(function)  # type: ignore[attr-defined]

    @wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if torch.compiler.is_compiling():
            result: _Result = uncompiled(*args, **kwargs)
            return result
        return function(*args, **kwargs)

    # The compiler counts recompilations by code object, and all functions that are decorated here would share one.
    call.__code__ = call.__code__.replace(co_name=function.__name__)  # type: ignore[attr-defined]
    return call


def cached_constant(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Caches a function of the machine. Compiled graphs treat its result as a constant."""
    cached = cache(function)

    @wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        return cached(*args, **kwargs)  # type: ignore[arg-type]

    # What torch.compiler.assume_constant_result sets.
    call._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return call
