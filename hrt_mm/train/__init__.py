"""Training. The package can be called like its function: ``from hrt_mm import train; train(config)``."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..core.lazy import lazy_exports

if TYPE_CHECKING:
    from .build import Data, build_data, build_task, build_tokenizer, build_tokenizers
    from .callbacks import Callback, CallbackRun
    from .config import OptimConfig, RunFolder, TrainConfig
    from .loggers import LoggedRun, Logger
    from .loop import train
    from .run_config import RunConfig, TowerConfig
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            ".build": ("Data", "build_data", "build_task", "build_tokenizer", "build_tokenizers"),
            ".callbacks": ("Callback", "CallbackRun"),
            ".loggers": ("LoggedRun", "Logger"),
            ".loop": ("train",),
            ".config": ("OptimConfig", "RunFolder", "TrainConfig"),
            ".run_config": ("RunConfig", "TowerConfig"),
        },
    )


class _Package(ModuleType):
    """The package as a function.

    ``hrt_mm.train`` names this package and the function of the public interface. Importing any module of the package
    binds the name to the package, so it has to be both.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Trains a run; see :func:`hrt_mm.train.loop.train`."""
        from .loop import train

        return train(*args, **options)


sys.modules[__name__].__class__ = _Package

__all__ = [
    "Callback",
    "CallbackRun",
    "Data",
    "LoggedRun",
    "Logger",
    "OptimConfig",
    "RunConfig",
    "RunFolder",
    "TowerConfig",
    "TrainConfig",
    "build_data",
    "build_task",
    "build_tokenizer",
    "build_tokenizers",
    "train",
]
