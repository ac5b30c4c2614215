"""What the host does for itself, kept out of compiled graphs: plans of a batch, and questions to the machine.

The marks are those of ``torch.compiler.disable`` and ``assume_constant_result``, set without the two seconds that their
import of the compiler takes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def on_host(plan: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Runs a function that plans a batch as plain Python where ``torch.compile`` traces its caller.

    Plans read lengths and make index tensors with NumPy: traced, they would break or fail. Eager calls pay nothing.
    """
    uncompiled = torch._disable_dynamo(plan)  # type: ignore[attr-defined]

    @wraps(plan)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if torch.compiler.is_compiling():
            result: _Result = uncompiled(*args, **kwargs)
            return result
        return plan(*args, **kwargs)

    return call


def cached_constant(question: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Asks the machine once; compiled graphs take the answer for a constant."""
    remembered = cache(question)

    @wraps(question)
    def answer(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        return remembered(*args, **kwargs)  # type: ignore[arg-type]

    answer._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return answer
