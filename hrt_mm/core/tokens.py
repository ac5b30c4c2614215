"""Tokens: the samples of a batch, packed back to back without padding.

Shapes: T tokens, D features, C axes, B samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from .errors import UserError
from .spans import Spans

_FLOAT32_INTEGERS = 1 << 24
"""Float32 represents integers exactly up to here."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Packed tokens of a batch.

    Args:
        x: (T, ...) features, or (T,) ids.
        spans: one run per sample.
        coords_TC: (T, C) float32, or float64 for large positions: coordinates on the modality's axes, in level-0 units.
        grids: the shape of each sample, if the samples are grids in hierarchical order.
        boundaries: (T,) bool masks by name, true where a group starts. They stay on the CPU, where partitions are
            planned.
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
        # Checked here, as wrong lengths would silently pair tokens with those of other samples.
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
            raise UserError(f"{len(grids)} grids for {len(self.spans)} samples; give one per sample")
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
            samples: (t, ...) features or (t,) ids of each sample. Only t may differ between samples; it may be 0.
            coords: (t, C) coordinates of each sample; 0, 1, 2, ... by default.
            boundaries: by name, a (t,) bool mask of each sample.

        Raises:
            UserError: there is no sample, features differ in shape, or coordinates or boundaries do not fit.
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
        for name, masks in (boundaries or {}).items():
            _check_lengths(samples, masks, f"of boundary {name!r}")
        # Spans are planned on the CPU and copied to where the features are.
        device = samples[0].device
        spans = Spans.from_lengths([len(sample) for sample in samples], device)
        coords_TC = torch.cat(list(coords)) if coords is not None else spans.positions[:, None]
        # Coordinates are float32 as long as that is exact; large ones keep float64 (see core.rope).
        wide = coords is not None and coords_TC.dtype in (torch.float64, torch.int64)
        fits_float32 = not wide and spans.max_seqlen <= _FLOAT32_INTEGERS
        coords_TC = coords_TC.float() if fits_float32 else coords_TC.double()
        packed = {name: torch.cat(list(masks)).cpu() for name, masks in (boundaries or {}).items()}
        return cls(torch.cat(list(samples)), spans, coords_TC, boundaries=packed)

    @staticmethod
    def concat(batch: Sequence[Tokens]) -> Tokens:
        """The samples of several tokens as one batch.

        Raises:
            UserError: there is none, or they differ in features, axes, boundaries or in being grids.
        """
        if not batch:
            raise UserError("cannot concatenate no tokens; give at least one")
        first = batch[0]
        for index, other in enumerate(batch):
            for what, ours, theirs in (
                ("features of shape", first.x.shape[1:], other.x.shape[1:]),
                ("axes", first.axes, other.axes),
                ("boundaries", sorted(first.boundaries), sorted(other.boundaries)),
                ("grids", first.grids is not None, other.grids is not None),
            ):
                if ours != theirs:
                    raise UserError(f"tokens {index} have {what} {theirs}, tokens 0 {ours}; all must be alike")
        # Positions that need float64 keep it, and the others stay exact in it.
        wide = any(each.coords_TC.dtype == torch.float64 for each in batch)
        coords = [each.coords_TC.double() if wide else each.coords_TC for each in batch]
        return Tokens(
            torch.cat([each.x for each in batch]),
            Spans.concat([each.spans for each in batch]),
            torch.cat(coords),
            None if first.grids is None else tuple(grid for each in batch for grid in each.grids or ()),
            {name: torch.cat([each.boundaries[name] for each in batch]) for name in first.boundaries},
        )

    @property
    def axes(self) -> int:
        """Number of coordinate axes."""
        return self.coords_TC.shape[1]

    @property
    def device(self) -> torch.device:
        """Device of the features."""
        return self.x.device

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.spans)

    def split(self) -> tuple[Tensor, ...]:
        """A (t, ...) view of the features of each sample."""
        return self.spans.split(self.x)

    def slice_samples(self, first: int, last: int) -> Tokens:
        """The samples ``first`` to ``last - 1``."""
        # Samples are consecutive rows, so all tensors are sliced as views.
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
        """The same tokens with other features."""
        return replace(self, x=x)

    def to(
        self,
        device: torch.device | str | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        *,
        non_blocking: bool = True,
    ) -> Tokens:
        """The same tokens on another device, or with features of another dtype; arguments as of ``torch.Tensor.to``.

        Args:
            device: where to; or the dtype, as the only argument.
            dtype: of the features. Ids and coordinates keep theirs, as positions must stay exact.
            non_blocking: copy asynchronously where memory is pinned.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        target = self.device if device is None else torch.device(device)
        return replace(
            self,
            # Boundaries stay on the CPU, where groups are planned.
            x=self.x.to(target, dtype if self.x.is_floating_point() else None, non_blocking=non_blocking),
            spans=self.spans.to(target),
            coords_TC=self.coords_TC.to(target, non_blocking=non_blocking),
        )

    def cpu(self) -> Tokens:
        """The same tokens in host memory."""
        return self.to("cpu", non_blocking=False)

    def cuda(self, device: int | None = None, *, non_blocking: bool = True) -> Tokens:
        """The same tokens on a GPU, the current one by default."""
        return self.to(torch.device("cuda", device), non_blocking=non_blocking)  # type: ignore[arg-type]

    def pin_memory(self) -> Tokens:
        """The same tokens in pinned host memory."""
        return replace(
            self, x=self.x.pin_memory(), spans=self.spans.pin_memory(), coords_TC=self.coords_TC.pin_memory()
        )


def collate(batch: Sequence[Tokens], *, collate_fn_map: Mapping[Any, Any] | None = None) -> Tokens:
    """Packs the tokens of samples; registered with :func:`torch.utils.data.default_collate`.

    Args:
        batch: one or more samples each.
        collate_fn_map: given by ``default_collate``; not needed, as tokens nest nothing.
    """
    return Tokens.concat(batch)


# What torch documents for own types; https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.default_collate
default_collate_fn_map[Tokens] = collate
# Batches that were saved are data: loading them runs no code of theirs.
torch.serialization.add_safe_globals([Tokens, Spans])


def _check_lengths(samples: Sequence[Tensor], values: Sequence[Tensor], what: str) -> None:
    if len(values) != len(samples):
        name = what.removeprefix("of ")
        raise UserError(f"got {name} for {len(values)} samples, there are {len(samples)}; give one per sample")
    for index, (sample, value) in enumerate(zip(samples, values, strict=True)):
        if len(value) != len(sample):
            raise UserError(f"sample {index} has {len(sample)} tokens, but {len(value)} {what}; give one per token")
