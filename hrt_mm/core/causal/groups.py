"""Incremental grouping: the open group of each sample, and the groups that new tokens continue and begin.

Shapes: B samples, A of them with new tokens, N new tokens, S tokens of an open group, R runs, C complete groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..levels import FixedGroups, GivenGroups, LearnedGroups
from ..norm import rms_norm
from ..plan import reporting_group
from ..segments import limit_group_length, shift_right
from ..spans import Spans
from ..transition import Transition
from .new_tokens import NewTokens, by_sample, offsets_of, runs_of

OPEN_ROOM = 16
"""Initial room for tokens of an open group of unlimited length."""

Flags = Mapping[str, np.ndarray]
"""Given boundaries by name: (N,) bool on the host, true where a group starts."""


class OpenGroup:
    """The incomplete group of a level, for every sample.

    Args:
        transition: the transition that pools the groups.
        names: names of the given boundaries.
        batch: B.
        like: a tensor with the device and the dtype.
    """

    def __init__(self, transition: Transition, names: list[str], batch: int, like: Tensor) -> None:
        group = transition.group
        # With pool: select, a group's token is computed when the group begins, and its other tokens are not needed.
        self.keeps_tokens = not transition.inclusive
        # Groups with a limit never grow, so that a stream's memory is constant.
        room = (group.longest or OPEN_ROOM) if self.keeps_tokens else 0
        self.x_BSD = like.new_zeros(batch, room, transition.fine.dim)
        self.position_BS = torch.zeros(batch, room, dtype=torch.float64, device=like.device)
        self.size_B = np.zeros(batch, dtype=np.int64)
        self.before_BD = like.new_zeros(batch, transition.fine.dim) if isinstance(group, LearnedGroups) else None
        """The newest token, to which the router compares the next one."""
        self.prob_B: Tensor | None = None
        """For smoothed groups, the probability of the boundary at which the open one starts."""
        if isinstance(group, LearnedGroups) and group.smooth:
            self.prob_B = like.new_ones(batch, dtype=torch.promote_types(like.dtype, torch.float32))
        self.started = {name: np.zeros(batch, dtype=bool) for name in names}
        """Whether a given group started that no token of the next level has taken over yet."""

    def make_room(self, count: int) -> None:
        """Allocates room for ``count`` tokens."""
        room = self.x_BSD.shape[1]
        if not self.keeps_tokens or count <= room:
            return
        more = max(count, 2 * room) - room
        self.x_BSD = torch.cat([self.x_BSD, self.x_BSD.new_zeros(len(self.x_BSD), more, self.x_BSD.shape[2])], 1)
        self.position_BS = torch.cat([self.position_BS, self.position_BS.new_zeros(len(self.position_BS), more)], 1)

    def tokens(self, samples: np.ndarray) -> tuple[Tensor, Tensor]:
        """Tokens and positions of the open groups of some samples, packed."""
        sizes = self.size_B[samples]
        longest = int(sizes.max(initial=0))
        x_BSD, position_BS = self.x_BSD[:, :longest], self.position_BS[:, :longest]
        if len(samples) < len(x_BSD):
            rows = torch.from_numpy(samples).to(x_BSD.device)
            x_BSD, position_BS = x_BSD.index_select(0, rows), position_BS.index_select(0, rows)
        if (sizes == longest).all():
            return x_BSD.flatten(0, 1), position_BS.flatten()
        # Sizes differ: a mask selects the used slots, sample by sample, which packs them.
        used = torch.from_numpy(np.arange(longest) < sizes[:, None]).to(x_BSD.device)
        return x_BSD[used], position_BS[used]

    def update(self, x_ND: Tensor, position_N: Tensor, new: NewTokens, runs: Runs) -> None:
        """Adds new tokens. A group that they begin replaces the one before it."""
        if self.before_BD is not None:
            last_A = torch.from_numpy(new.offsets[1:] - 1).to(x_ND.device)
            new.put(self.before_BD, x_ND if new.single else x_ND.index_select(0, last_A))
        # The new tokens of the last run of a sample stay, behind those that it has if it was open before.
        open_A = np.where(runs.begun > 0, 0, runs.open_A) if len(runs.begin_rows) else runs.open_A
        if new.single or not len(runs.begin_rows):
            staying = NewTokens(new.samples, new.counts, open_A, new.batch, new.device)
        else:
            stays_N = runs.ids == (runs.offsets[1:] - 1)[new.ids]
            counts = np.bincount(new.ids[stays_N], minlength=len(new.samples))
            staying = NewTokens(new.samples, counts, open_A, new.batch, new.device)
            rows = torch.from_numpy(np.flatnonzero(stays_N)).to(x_ND.device)
            x_ND, position_N = x_ND.index_select(0, rows), position_N.index_select(0, rows)
        self.size_B[new.samples] = staying.lengths
        if not self.keeps_tokens:
            return
        self.make_room(staying.longest)
        if staying.aligned:
            # One slot for the whole batch needs no index on the device.
            self.x_BSD[:, staying.longest - 1] = x_ND
            self.position_BS[:, staying.longest - 1] = position_N
            return
        rows, slots = staying.rows, staying.slots(self.x_BSD.shape[1])
        self.x_BSD[rows, slots] = x_ND.to(self.x_BSD.dtype)
        self.position_BS[rows, slots] = position_N

    def select(self, rows: Tensor, rows_host: np.ndarray) -> None:
        """Keeps only these samples, in this order."""
        self.x_BSD, self.position_BS = self.x_BSD.index_select(0, rows), self.position_BS.index_select(0, rows)
        self.before_BD = None if self.before_BD is None else self.before_BD.index_select(0, rows)
        self.prob_B = None if self.prob_B is None else self.prob_B.index_select(0, rows)
        self.size_B = self.size_B[rows_host]
        self.started = {name: flags[rows_host] for name, flags in self.started.items()}


def boundaries(
    transition: Transition, group: OpenGroup, x_ND: Tensor, new: NewTokens, starts: Flags
) -> tuple[np.ndarray, Tensor | None]:
    """Finds where groups begin among new tokens, as in the forward pass.

    Args:
        transition: the transition that groups the tokens.
        group: the open groups.
        x_ND: the new tokens.
        new: their samples.
        starts: given boundaries.

    Returns:
        (N,) bool on the host, and for learned groups the (N,) probability of a boundary.
    """
    config, open_A = transition.group, group.size_B[new.samples]
    prob_N = None
    if isinstance(config, FixedGroups):
        chosen_N = np.zeros(new.total, dtype=bool)
    elif isinstance(config, GivenGroups):
        chosen_N = starts[config.boundary].copy()
    else:
        prob_N = _probabilities(transition, group, x_ND, new)
        chosen_N = (prob_N > 0.5).cpu().numpy()
    # The first token of a sample begins its first group.
    if 0 in open_A.tolist():
        chosen_N[new.offsets[:-1][open_A == 0]] = True
    lengths_A = open_A + new.counts
    if config.longest is None or max(lengths_A.tolist()) <= config.longest:
        return chosen_N, prob_N
    # Maximum lengths count from the start of the open group, so they are applied to its tokens and the new ones
    # together. Fixed groups are groups that end only at their maximum length.
    row_N = np.arange(new.total) + np.cumsum(open_A)[new.ids]
    all_T = np.zeros(int(lengths_A.sum()), dtype=bool)
    all_T[offsets_of(lengths_A)[:-1]] = True
    all_T[row_N] |= chosen_N
    return limit_group_length(torch.from_numpy(all_T), config.longest).numpy()[row_N], prob_N


def _probabilities(transition: Transition, group: OpenGroup, x_ND: Tensor, new: NewTokens) -> Tensor:
    """(N,) boundary probabilities of new tokens; 1 at the first token of a sample."""
    assert transition.router is not None and group.before_BD is not None
    before_AD = new.take(group.before_BD)
    first_A = torch.from_numpy(new.offsets[:-1]).to(x_ND.device)
    # Shift the new tokens by one; the first of each sample is compared to the newest of the previous call.
    before_ND = before_AD if new.single else x_ND.roll(1, 0).index_copy_(0, first_A, before_AD.to(x_ND.dtype))
    prob_N = transition.router.between(rms_norm(before_ND), rms_norm(x_ND))
    if new.before.all():
        return prob_N
    return prob_N.index_fill(0, torch.from_numpy(new.offsets[:-1][new.before == 0]).to(x_ND.device), 1.0)


@dataclass(eq=False)
class Runs:
    """Groups of the open and the new tokens of each sample, packed sample by sample.

    The first run of a sample is its open group, if it has one, with or without new tokens. The last one stays open.

    Args:
        new: samples of the new tokens.
        begins: (N,) bool, whether a group begins at each new token.
        open_A: tokens of the open group of each sample before this call; 0 without one.
        inclusive: a group's token is computed when the group begins, from its first token; otherwise when it ends.

    Attributes:
        begin_rows: (H,) new tokens at which groups begin.
    """

    new: NewTokens
    begins: np.ndarray
    open_A: np.ndarray
    inclusive: bool
    begin_rows: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        (self.begin_rows,) = self.begins.nonzero()

    @cached_property
    def begun(self) -> np.ndarray:
        """(A,) number of groups of each sample that begin."""
        if self.new.single:
            return self.begins.astype(np.int64)
        return np.bincount(self.new.ids[self.begin_rows], minlength=len(self.open_A))

    @cached_property
    def offsets(self) -> np.ndarray:
        """(A + 1,) first run of each sample, and R."""
        return offsets_of(self.begun + (self.open_A > 0))

    @cached_property
    def ids(self) -> np.ndarray:
        """(N,) the run of each new token."""
        # The runs up to a token are the groups that began up to it and the open groups of the samples up to its own. A
        # sample without an open group begins one at its first token.
        return np.cumsum(self.begins) + np.cumsum(self.open_A > 0)[self.new.ids] - 1

    @cached_property
    def new_sizes(self) -> np.ndarray:
        """(R,) new tokens of each run; an open group may get none."""
        return np.bincount(self.ids, minlength=int(self.offsets[-1]))

    @cached_property
    def spans(self) -> Spans:
        """The new tokens by run."""
        return Spans.from_lengths(torch.from_numpy(self.new_sizes), self.new.device)

    @cached_property
    def samples(self) -> Spans:
        """The samples, in units of runs."""
        return runs_of(np.diff(self.offsets), self.new.device, reused=bool(self.new.before.any()))

    @cached_property
    def sizes(self) -> np.ndarray:
        """(R,) tokens of each run."""
        sizes = self.new_sizes.copy()
        has_open = self.open_A > 0
        sizes[self.offsets[:-1][has_open]] += self.open_A[has_open]
        return sizes

    @cached_property
    def ended(self) -> np.ndarray:
        """(R,) bool, whether each run is complete: followed by another run of its sample."""
        ended = np.ones(int(self.offsets[-1]), dtype=bool)
        ended[self.offsets[1:] - 1] = False
        return ended

    @property
    def ended_sizes(self) -> np.ndarray:
        """Tokens of each complete run."""
        if self.new.single:
            # The only new token of a sample is in its last run, so none but its open group can be complete.
            return self.open_A[self.begins & (self.open_A > 0)]
        return self.sizes[self.ended]

    @property
    def pooled(self) -> np.ndarray:
        """(R,) bool, whether each run becomes a token of the next level in this call."""
        if not self.inclusive:
            return self.ended
        # The tokens of open groups were computed in an earlier call.
        pooled = np.ones(int(self.offsets[-1]), dtype=bool)
        pooled[self.offsets[:-1][self.open_A > 0]] = False
        return pooled

    @cached_property
    def coarse_counts(self) -> np.ndarray:
        """(A,) number of new tokens of each sample on the next level."""
        # A group that begins completes the one before it, if there is one.
        return self.begun if self.inclusive else np.maximum(self.begun - (self.open_A == 0), 0)

    @property
    def seen_rows(self) -> Tensor:
        """(R,) row of the next level that the tokens of each run get.

        Rows are counted in a tensor of A + C: those that the open groups of the samples get, followed by the new ones,
        run by run. A sample without an open group has the learned one in their place.
        """
        samples = len(self.open_A)
        stored_R = np.repeat(np.arange(samples), np.diff(self.offsets))
        group_R = stored_R.copy()
        group_R[self.pooled] = samples + np.arange(int(self.coarse_counts.sum()))
        stored, groups = (torch.from_numpy(rows).to(self.new.device) for rows in (stored_R, group_R))
        # The delay by one group is a shift: of rows in the forward pass, and here of their indices.
        return groups if self.inclusive else shift_right(groups, self.samples, stored)

    def starts_above(self, group: OpenGroup, starts: Flags) -> dict[str, np.ndarray]:
        """Coarsens given boundaries: by name, whether a group starts at each new token of the next level.

        Starts that only a later token of the next level may show are recorded in the open groups.
        """
        if not group.started:
            return {}
        # Each sample has a flag for every token that it gets on the next level, and one for the token after those.
        offsets = offsets_of(self.coarse_counts + 1)
        pending = offsets[1:] - 1
        run_N = self.ids - self.offsets[:-1][self.new.ids]
        if self.inclusive:
            # The token of the open group was computed in an earlier call.
            run_N = run_N - (self.open_A > 0)[self.new.ids]
        flag_N = offsets[:-1][self.new.ids] + reporting_group(run_N, self.begins, inclusive=self.inclusive)
        is_pending = np.zeros(int(offsets[-1]), dtype=bool)
        is_pending[pending] = True
        result = {}
        for name, open_B in group.started.items():
            flags = np.zeros(len(is_pending), dtype=bool)
            flags[offsets[:-1]] = open_B[self.new.samples]
            flags[flag_N[starts[name]]] = True
            result[name], open_B[self.new.samples] = flags[~is_pending], flags[pending]
        return result

    def complete(self, group: OpenGroup, x_ND: Tensor, position_N: Tensor) -> tuple[Tensor, Tensor, np.ndarray]:
        """Packed tokens of the completed groups, their positions, and the (C,) sizes of the groups."""
        if self.inclusive:
            rows = torch.from_numpy(self.begin_rows).to(x_ND.device)
            return (
                x_ND.index_select(0, rows),
                position_N.index_select(0, rows),
                np.ones(len(self.begin_rows), dtype=np.int64),
            )
        ending = self.coarse_counts > 0
        x_TD, position_T = group.tokens(self.new.samples[ending])
        if self.new.single:
            return x_TD, position_T, self.ended_sizes
        # The open group comes first in a sample, then the new tokens of its complete runs.
        rows_N = np.flatnonzero(self.ended[self.ids])
        if len(rows_N):
            rows = torch.from_numpy(rows_N).to(x_ND.device)
            x_TD = torch.cat([x_TD.to(x_ND.dtype), x_ND.index_select(0, rows)])
            position_T = torch.cat([position_T, position_N.index_select(0, rows)])
            if len(self.open_A) > 1:
                open_ids = np.repeat(np.flatnonzero(ending), self.open_A[ending])
                order = torch.from_numpy(by_sample(open_ids, self.new.ids[rows_N])).to(x_ND.device)
                x_TD, position_T = x_TD.index_select(0, order), position_T.index_select(0, order)
        return x_TD, position_T, self.ended_sizes

    def probabilities(self, group: OpenGroup, prob_N: Tensor) -> Tensor:
        """(C,) probability of the boundary at which each completed group starts, for smoothing.

        That of the group that stays open is recorded in it.
        """
        assert group.prob_B is not None
        # Index of the probability of each run: that of the sample's open group, or of the new token where it begins, in
        # the concatenation of both.
        source_R = np.empty(int(self.offsets[-1]), dtype=np.int64)
        has_open = self.open_A > 0
        batch = len(group.prob_B)
        source_R[self.offsets[:-1][has_open]] = self.new.samples[has_open]
        source_R[self.ids[self.begin_rows]] = batch + self.begin_rows
        prob_R = torch.cat([group.prob_B, prob_N.to(group.prob_B.dtype)]).index_select(
            0, torch.from_numpy(source_R).to(prob_N.device)
        )
        self.new.put(group.prob_B, prob_R[torch.from_numpy(self.offsets[1:] - 1).to(prob_N.device)])
        return prob_R[torch.from_numpy(self.pooled).to(prob_N.device)]
