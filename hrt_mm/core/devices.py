"""What devices cannot do."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """A tensor in float64, for sums over many values; in float32 on Apple's GPUs (MPS), which have no float64."""
    return x.float() if x.device.type == "mps" else x.double()


def visible_devices() -> dict[str, int]:
    """The number of usable GPUs by kind: ``cuda``, ``xpu`` and ``mps``; without kinds that have none."""
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "xpu": torch.xpu.device_count() if torch.xpu.is_available() else 0,
        "mps": 1 if torch.backends.mps.is_available() else 0,
    }
    return {kind: count for kind, count in counts.items() if count}
