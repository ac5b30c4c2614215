"""A profile of some training steps: a trace for ``chrome://tracing``, and tables of where the time goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile, schedule

from ..core.hierarchy import Hierarchy
from ..data.atomic_files import replace_file
from .callbacks import Callback, CallbackRun

WARMUP = 3
"""Steps before the profile, which allocate memory and choose kernels."""
ROWS = 20
_PREFIX = "part: "


class Profiler(Callback):
    """Profiles some steps after the first ones, on the first rank.

    Writes into the folder ``profile`` of the run: ``trace.json`` for ``chrome://tracing`` or Perfetto, ``parts.txt``
    with the time of the forward pass of each part of the model, and ``operators.txt`` with that of operators. Steps are
    slower while they are profiled.

    Args:
        steps: number of profiled steps.
    """

    def __init__(self, steps: int = 5) -> None:
        self.steps = steps
        self._profile: Any = None
        self._handles: list[Any] = []
        self._folder: Path | None = None

    def on_start(self, run: CallbackRun) -> None:
        """Starts to watch; the profile begins some steps later."""
        if int(torch.distributed.get_rank() if torch.distributed.is_initialized() else 0):
            return
        self._folder = run.folder / "profile"
        on_gpu = next(run.task.parameters()).device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        self._watch(run.task)
        self._profile = profile(
            activities=activities,
            schedule=schedule(wait=0, warmup=WARMUP, active=self.steps, repeat=1),
            on_trace_ready=lambda done: self._write(done, on_gpu=on_gpu),
        )
        self._profile.start()

    def on_step(self, run: CallbackRun) -> None:
        """Counts a step."""
        if self._profile is not None:
            self._profile.step()

    def on_end(self, run: CallbackRun, metrics: object) -> None:
        """Ends a profile that the run was too short for."""
        self._stop()

    def _watch(self, task: nn.Module) -> None:
        """Names the parts of the model in the profile: embeddings, levels and the paths between them."""
        for name, module in task.named_modules():
            if isinstance(module, Hierarchy):
                parts = dict(module.named_modules())
                for path, part in parts.items():
                    # Stages, transitions and paths: ``stages.0``.
                    if path.count(".") == 1:
                        self._record(f"{name}.{path}", part)
            elif name.endswith("embedding"):
                self._record(name, module)

    def _record(self, name: str, module: nn.Module) -> None:
        ranges: list[record_function] = []

        def before(*_: object) -> None:
            ranges.append(record_function(f"{_PREFIX}{name}"))
            ranges[-1].__enter__()

        def after(*_: object) -> None:
            ranges.pop().__exit__(None, None, None)

        self._handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    def _write(self, done: Any, *, on_gpu: bool) -> None:
        assert self._folder is not None
        self._folder.mkdir(exist_ok=True)
        done.export_chrome_trace(str(self._folder / "trace.json"))
        averages = done.key_averages()
        clock = "device_time_total" if on_gpu else "cpu_time_total"
        parts = sorted(
            (
                (getattr(row, clock) / self.steps / 1000, row.key.removeprefix(_PREFIX))
                for row in averages
                if row.key.startswith(_PREFIX)
            ),
            reverse=True,
        )
        total = sum(milliseconds for milliseconds, _ in parts) or 1.0
        lines = [f"{milliseconds:10.2f} ms {milliseconds / total:6.1%}  {name}" for milliseconds, name in parts]
        text = "\n".join(["forward pass of each part, a step:", *lines])
        sort_by = f"self_{'device' if on_gpu else 'cpu'}_time_total"
        replace_file(self._folder / "parts.txt", f"{text}\n".encode())
        replace_file(self._folder / "operators.txt", averages.table(sort_by=sort_by, row_limit=ROWS).encode())
        print(f"{text}\n{self._folder}: trace.json, parts.txt and operators.txt", flush=True)
        self._unwatch()

    def _unwatch(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _stop(self) -> None:
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
        self._unwatch()
