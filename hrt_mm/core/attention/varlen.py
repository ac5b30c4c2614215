"""FlashAttention-2 on packed rows: PyTorch's kernel, and the flash-attn package.

Both support half precision on CUDA only. Their windows are (left, right), aligned at the end of a run, as here.
"""

from __future__ import annotations

import importlib.util
import inspect
from typing import Any

import torch
from torch import Tensor

from ..host import cached_constant
from .call import UNLIMITED, Backend, Call

_MAX_HEAD = 256


def _unsupported(call: Call) -> str | None:
    q_THD = call.q_THD
    if q_THD.device.type != "cuda":
        return f"needs a CUDA device, the tensors are on {q_THD.device.type}"
    if q_THD.dtype not in (torch.float16, torch.bfloat16):
        return f"takes float16 or bfloat16, not {str(q_THD.dtype).removeprefix('torch.')}; use autocast"
    width = q_THD.shape[-1]
    if width > _MAX_HEAD or width % 8:
        return f"takes head widths that are multiples of 8 up to {_MAX_HEAD}, not {width}"
    if call.window[1] > 0 and call.window[1] >= call.k_spans.max_seqlen and call.q_spans is not call.k_spans:
        # The kernel drops such a bound, but with more queries than keys the first queries come before all keys and must
        # not see those beyond it.
        return f"takes no right bound as long as the keys ({call.window[1]} for {call.k_spans.max_seqlen})"
    return None


@cached_constant
def _no_device() -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA device"
    major, minor = torch.cuda.get_device_capability()
    return None if major >= 8 else f"needs compute capability 8.0 (Ampere) or newer, this device has {major}.{minor}"


class Varlen(Backend):
    """``torch.nn.attention.varlen``: FlashAttention-2 in PyTorch, or a later version activated there."""

    name = "varlen"

    def missing(self) -> str | None:
        return _no_kernel() or _no_device()

    def why_not(self, call: Call) -> str | None:
        return self.missing() or _unsupported(call)

    def __call__(self, call: Call) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        # Untyped, as its parameters depend on the version of torch.
        kernel: Any = varlen_attn
        k_SKD, v_SKD, extra = call.k_SKD, call.v_SKD, {}
        queries_per_key = call.q_THD.shape[1] // k_SKD.shape[1]
        if queries_per_key > 1 and _accepts("enable_gqa"):
            extra["enable_gqa"] = True
        # Older kernels take equal heads only.
        elif queries_per_key > 1:
            k_SKD, v_SKD = k_SKD.repeat_interleave(queries_per_key, 1), v_SKD.repeat_interleave(queries_per_key, 1)
        out_THD: Tensor = kernel(
            call.q_THD,
            k_SKD,
            v_SKD,
            call.q_spans.cu_seqlens,
            call.k_spans.cu_seqlens,
            call.q_spans.max_seqlen,
            call.k_spans.max_seqlen,
            scale=call.scale,
            window_size=_window(call),
            **extra,
        )
        return out_THD


def _window(call: Call) -> tuple[int, int]:
    """The call's window, replaced by an equivalent one that is not dispatched to cuDNN where cuDNN fails.

    From torch 2.12 on, calls without a window run in cuDNN on Hopper and Blackwell. Before cuDNN 9.25 that gives NaN
    for empty runs (https://github.com/NVIDIA/cudnn-frontend/issues/943).
    """
    if call.is_full and (call.q_spans.has_empty or call.k_spans.has_empty):
        return call.k_spans.max_seqlen, UNLIMITED
    return call.window


@cached_constant
def _no_kernel() -> str | None:
    available = importlib.util.find_spec("torch.nn.attention.varlen") is not None
    return None if available else f"torch {torch.__version__} has no torch.nn.attention.varlen"


@cached_constant
def _accepts(name: str) -> bool:
    """Whether ``varlen_attn`` has a parameter; ``enable_gqa`` came with torch 2.12."""
    from torch.nn.attention.varlen import varlen_attn

    return name in inspect.signature(varlen_attn).parameters


@cached_constant
def _not_installed() -> str | None:
    installed = importlib.util.find_spec("flash_attn") is not None
    return None if installed else "the package flash-attn is not installed (extra: hrt-mm[flash])"


class FlashAttn(Backend):
    """The flash-attn package."""

    name = "flash_attn"

    def missing(self) -> str | None:
        return _not_installed() or _no_device()

    def why_not(self, call: Call) -> str | None:
        return self.missing() or _unsupported(call)

    def __call__(self, call: Call) -> Tensor:
        from flash_attn import flash_attn_varlen_func

        left, right = call.window
        # The package takes causality as a flag, and an unlimited left bound of a causal window as no window at all.
        causal = right == 0
        out_THD: Tensor = flash_attn_varlen_func(
            call.q_THD,
            call.k_SKD,
            call.v_SKD,
            call.q_spans.cu_seqlens,
            call.k_spans.cu_seqlens,
            call.q_spans.max_seqlen,
            call.k_spans.max_seqlen,
            softmax_scale=call.scale,
            causal=causal,
            window_size=(left, UNLIMITED if causal and left < 0 else right),
        )
        return out_THD
