"""Tokens: the samples of a batch packed back to back, without padding.

Shapes: T tokens, D features, C axes, B samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .errors import UserError
from .spans import Spans

_EXACT = 1 << 24
"""Whole numbers are exact in float32 up to here."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Packed tokens of a batch.

    Args:
        x: (T, ...) features, or (T,) ids.
        spans: the samples.
        coords_TC: (T, C) float32, or float64 for positions far out: where each token lies on its modality's axes, in
            level-0 steps.
        grids: the cells of each sample along each axis, where the samples are grids in hierarchical order.
        boundaries: by name, (T,) bool masks on the CPU, true where a given group starts. They stay there: partitions
            are planned on the host.
    """

    x: Tensor
    spans: Spans
    coords_TC: Tensor
    grids: tuple[tuple[int, ...], ...] | None = None
    boundaries: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        total = self.spans.total
        if len(self.x) != total or self.coords_TC.ndim != 2 or len(self.coords_TC) != total:
            raise UserError(
                f"spans cover {total} tokens, but x has shape {tuple(self.x.shape)} and coords_TC "
                f"{tuple(self.coords_TC.shape)}; expected ({total}, ...) and ({total}, axes)"
            )
        if self.grids is not None:
            self._check_grids(self.grids)
        for name, starts_T in self.boundaries.items():
            if starts_T.shape != (total,) or starts_T.dtype != torch.bool or starts_T.device.type != "cpu":
                raise UserError(
                    f"boundary {name!r} must be bool of shape ({total},) on the CPU, got {starts_T.dtype} "
                    f"{tuple(starts_T.shape)} on {starts_T.device}"
                )

    def _check_grids(self, grids: tuple[tuple[int, ...], ...]) -> None:
        if len(grids) != len(self.spans):
            raise UserError(f"{len(grids)} grids for {len(self.spans)} samples; give one a sample")
        for index, (shape, count) in enumerate(zip(grids, self.spans.lengths.tolist(), strict=True)):
            if len(shape) != self.axes:
                raise UserError(
                    f"sample {index} is a grid of {shape} cells, but coordinates have {self.axes} axes; "
                    "give one size for each"
                )
            if math.prod(shape) != count:
                raise UserError(f"sample {index} is a grid of {shape} cells but has {count} tokens; they must agree")

    @classmethod
    def pack(
        cls,
        samples: Sequence[Tensor],
        *,
        coords: Sequence[Tensor] | None = None,
        boundaries: Mapping[str, Sequence[Tensor]] | None = None,
    ) -> Tokens:
        """Packs ragged 1-D samples.

        Args:
            samples: each (t, ...) features or (t,) ids; all alike but for t, which may be 0.
            coords: each (t, C) positions; counted from 0 when absent.
            boundaries: by name, each (t,) bool.

        Raises:
            UserError: no sample, samples whose features differ in shape, or coordinates or boundaries that do not fit.
        """
        if not samples:
            raise UserError("cannot pack an empty list of samples; give at least one")
        for index, sample in enumerate(samples):
            if sample.shape[1:] != samples[0].shape[1:]:
                raise UserError(
                    f"sample {index} has features of shape {tuple(sample.shape[1:])}, "
                    f"sample 0 has {tuple(samples[0].shape[1:])}; all must be alike"
                )
        if coords is not None:
            _check_lengths(samples, coords, "coordinates")
        for name, parts in (boundaries or {}).items():
            _check_lengths(samples, parts, f"of boundary {name!r}")
        device = samples[0].device
        spans = Spans.from_lengths([len(sample) for sample in samples], device)
        coords_TC = torch.cat(list(coords)) if coords is not None else spans.positions[:, None]
        given = coords is not None and coords_TC.dtype in (torch.float64, torch.int64)
        exact = not given and spans.max_seqlen <= _EXACT
        coords_TC = coords_TC.float() if exact else coords_TC.double()
        masks = {name: torch.cat(list(parts)).cpu() for name, parts in (boundaries or {}).items()}
        return cls(torch.cat(list(samples)), spans, coords_TC, boundaries=masks)

    @property
    def axes(self) -> int:
        """How many axes the coordinates have."""
        return self.coords_TC.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the tokens live."""
        return self.x.device

    def __len__(self) -> int:
        """The samples, not the tokens."""
        return len(self.spans)

    def split(self) -> tuple[Tensor, ...]:
        """The samples' tokens, one (t, ...) view each."""
        return self.spans.split(self.x)

    def slice_samples(self, first: int, last: int) -> Tokens:
        """The samples from ``first`` up to ``last``, which is not among them."""
        offsets = self.spans.host[first : last + 1]
        rows = slice(int(offsets[0]), int(offsets[-1]))
        return Tokens(
            self.x[rows],
            Spans(offsets - offsets[0], self.spans.device),
            self.coords_TC[rows],
            self.grids[first:last] if self.grids is not None else None,
            {name: starts_T[rows] for name, starts_T in self.boundaries.items()},
        )

    def with_x(self, x: Tensor) -> Tokens:
        """The same packing with other features."""
        return replace(self, x=x)

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> Tokens:
        """The same tokens on another device."""
        return replace(
            self,
            x=self.x.to(device, non_blocking=non_blocking),
            spans=self.spans.to(device),
            coords_TC=self.coords_TC.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Tokens:
        """The same tokens in pinned host memory."""
        return replace(self, x=self.x.pin_memory(), coords_TC=self.coords_TC.pin_memory())


def _check_lengths(samples: Sequence[Tensor], parts: Sequence[Tensor], what: str) -> None:
    if len(parts) != len(samples):
        given = what.removeprefix("of ")
        raise UserError(f"got {given} for {len(parts)} samples, there are {len(samples)}; give one a sample")
    for index, (sample, part) in enumerate(zip(samples, parts, strict=True)):
        if len(part) != len(sample):
            raise UserError(f"sample {index} has {len(sample)} tokens, but {len(part)} {what}; give one a token")
