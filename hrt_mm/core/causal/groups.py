"""Groups of a level while its tokens come in: the one that is still open in each sample, and those that follow.

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
from ..segments import limit_group_length
from ..spans import Spans
from ..transition import Transition
from .new_tokens import NewTokens, by_sample, offsets_of, runs_of

OPEN_ROOM = 16
"""Tokens of an open group that there is room for at first, where nothing bounds it."""

Flags = Mapping[str, np.ndarray]
"""By name of a given boundary, (N,) bool on the host: whether one of its groups starts at a token."""


class OpenGroup:
    """The group of a level that is not complete yet, for every sample.

    Args:
        transition: what makes tokens of groups.
        names: of given boundaries.
        batch: B.
        like: gives device and precision.
    """

    def __init__(self, transition: Transition, names: list[str], batch: int, like: Tensor) -> None:
        group = transition.group
        # With `select` a group's token is made when the group begins, and its other tokens are not needed for it.
        self.keeps_tokens = not transition.inclusive
        room = (group.longest or OPEN_ROOM) if self.keeps_tokens else 0
        self.x_BSD = like.new_zeros(batch, room, transition.fine.dim)
        self.position_BS = torch.zeros(batch, room, dtype=torch.float64, device=like.device)
        self.size_B = np.zeros(batch, dtype=np.int64)
        self.before_BD = like.new_zeros(batch, transition.fine.dim) if isinstance(group, LearnedGroups) else None
        """The newest token, which a learned boundary compares the next one with."""
        self.prob_B: Tensor | None = None
        """Of groups that are smoothed, the probability of the boundary that the open one starts at."""
        if isinstance(group, LearnedGroups) and group.smooth:
            self.prob_B = like.new_ones(batch, dtype=torch.promote_types(like.dtype, torch.float32))
        self.started = {name: np.zeros(batch, dtype=bool) for name in names}
        """Whether a given group has started since the last token of the next level that could tell of it."""

    def make_room(self, count: int) -> None:
        """Makes room for that many tokens."""
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
        used = torch.from_numpy(np.arange(longest) < sizes[:, None]).to(x_BSD.device)
        return x_BSD[used], position_BS[used]

    def update(self, x_ND: Tensor, position_N: Tensor, new: NewTokens, runs: Runs) -> None:
        """Adds new tokens; a group that they begin replaces the one before it."""
        if self.before_BD is not None:
            last_A = torch.from_numpy(new.offsets[1:] - 1).to(x_ND.device)
            new.put(self.before_BD, x_ND if new.single else x_ND.index_select(0, last_A))
        # The new tokens of a sample's last run stay, after those that the run has already.
        stays_N = runs.stay_open
        counts = np.bincount(new.ids[stays_N], minlength=len(new.samples))
        staying = NewTokens(new.samples, counts, np.where(runs.begun > 0, 0, runs.open_A), new.batch, new.device)
        self.size_B[new.samples] = staying.before + staying.counts
        if not self.keeps_tokens:
            return
        self.make_room(int(self.size_B[new.samples].max()))
        if staying.total < new.total:
            rows = torch.from_numpy(np.flatnonzero(stays_N)).to(x_ND.device)
            x_ND, position_N = x_ND.index_select(0, rows), position_N.index_select(0, rows)
        slots = torch.from_numpy(staying.numbers).to(x_ND.device, non_blocking=True)
        self.x_BSD[staying.rows, slots] = x_ND.to(self.x_BSD.dtype)
        self.position_BS[staying.rows, slots] = position_N

    def select(self, rows: Tensor, rows_host: np.ndarray) -> None:
        """Keeps some samples alone, in this order."""
        self.x_BSD, self.position_BS = self.x_BSD.index_select(0, rows), self.position_BS.index_select(0, rows)
        self.before_BD = None if self.before_BD is None else self.before_BD.index_select(0, rows)
        self.prob_B = None if self.prob_B is None else self.prob_B.index_select(0, rows)
        self.size_B = self.size_B[rows_host]
        self.started = {name: flags[rows_host] for name, flags in self.started.items()}


def boundaries(
    transition: Transition, group: OpenGroup, x_ND: Tensor, new: NewTokens, starts: Flags
) -> tuple[np.ndarray, Tensor | None]:
    """Where groups begin among new tokens, as the forward pass sets them.

    Args:
        transition: says how tokens are grouped.
        group: the open groups.
        x_ND: the new tokens.
        new: their samples.
        starts: given boundaries.

    Returns:
        (N,) bool on the host, and for learned groups the (N,) probability of a boundary.
    """
    config, size_A = transition.group, group.size_B[new.samples]
    prob_N = None
    if isinstance(config, FixedGroups):
        chosen_N = np.zeros(new.total, dtype=bool)
    elif isinstance(config, GivenGroups):
        chosen_N = starts[config.boundary]
    else:
        prob_N = _probabilities(transition, group, x_ND, new)
        chosen_N = (prob_N > 0.5).cpu().numpy()
    # Caps count from the start of the open group, so boundaries are capped over its tokens and the new ones. Groups of
    # a fixed size are groups that only their cap ends.
    row_N = np.arange(new.total) + np.cumsum(size_A)[new.ids]
    all_T = np.zeros(new.total + int(size_A.sum()), dtype=bool)
    all_T[row_N] = chosen_N
    all_T[offsets_of(size_A + new.counts)[:-1]] = True
    if config.longest is not None:
        all_T = limit_group_length(torch.from_numpy(all_T), config.longest).numpy()
    return all_T[row_N], prob_N


def _probabilities(transition: Transition, group: OpenGroup, x_ND: Tensor, new: NewTokens) -> Tensor:
    """(N,) probability of a boundary at each new token; 1 at the first one of a sample."""
    assert transition.router is not None and group.before_BD is not None
    before_AD = new.take(group.before_BD)
    first_A = torch.from_numpy(new.offsets[:-1]).to(x_ND.device)
    before_ND = before_AD if new.single else x_ND.roll(1, 0).index_copy_(0, first_A, before_AD.to(x_ND.dtype))
    prob_N = transition.router.between(rms_norm(before_ND), rms_norm(x_ND))
    return prob_N.index_fill(0, torch.from_numpy(new.offsets[:-1][new.before == 0]).to(x_ND.device), 1.0)


@dataclass(eq=False)
class Runs:
    """The groups that the open group's tokens and the new ones of each sample make, packed sample by sample.

    The last run of each sample stays open. The first one is the open group, with new tokens or without, where the
    sample has one.

    Args:
        new: the samples of the new tokens.
        begins: (N,) bool, whether a group begins at each new token.
        open_A: tokens of each sample's open group before; 0 where it has none.
        inclusive: a group's token is made when the group begins, of its first token; otherwise when it ends, of all.

    Attributes:
        heads: (H,) new tokens at which groups begin.
        begun: (A,) groups of each sample that begin.
    """

    new: NewTokens
    begins: np.ndarray
    open_A: np.ndarray
    inclusive: bool
    heads: np.ndarray = field(init=False)
    begun: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.heads = np.flatnonzero(self.begins)
        if self.new.single:
            self.begun = self.begins.astype(np.int64)
        else:
            self.begun = np.bincount(self.new.ids[self.heads], minlength=len(self.open_A))

    @cached_property
    def offsets(self) -> np.ndarray:
        """(A+1,) first run of each sample, and R."""
        return offsets_of(self.begun + (self.open_A > 0))

    @cached_property
    def ids(self) -> np.ndarray:
        """(N,) the run of each new token."""
        # Each token's run is as many runs on as heads up to it, plus the open groups of the samples up to its own. A
        # sample without an open group begins one at its first token, so that its first run has number 0 after that.
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
        """The samples, counted in runs."""
        return runs_of(np.diff(self.offsets), self.new.device, reused=bool(self.new.before.any()))

    @cached_property
    def sizes(self) -> np.ndarray:
        """(R,) tokens of each run."""
        sizes = self.new_sizes.copy()
        has_open = self.open_A > 0
        sizes[self.offsets[:-1][has_open]] += self.open_A[has_open]
        return sizes

    @property
    def stay_open(self) -> np.ndarray:
        """(N,) bool, whether each new token is in the last run of its sample."""
        if self.new.single:
            return np.ones(self.new.total, dtype=bool)
        return self.ids == (self.offsets[1:] - 1)[self.new.ids]

    @cached_property
    def ended(self) -> np.ndarray:
        """(R,) bool, whether each run is followed by another one of its sample."""
        ended = np.ones(int(self.offsets[-1]), dtype=bool)
        ended[self.offsets[1:] - 1] = False
        return ended

    @cached_property
    def made(self) -> np.ndarray:
        """(A,) new tokens that each sample gets on the next level."""
        # A group that begins ends the one before it, where there is one.
        return self.begun if self.inclusive else np.maximum(self.begun - (self.open_A == 0), 0)

    @cached_property
    def entries(self) -> np.ndarray:
        """(N,) what each new token sees of the next level, counted from what its sample's newest token saw.

        What comes back from the next level is a sequence of entries, of which group g sees number g. Where groups are
        delayed it starts with a learned entry, so that number g is made of group g - 1; otherwise of group g itself.
        Entry 0 is what the open group sees. A sample without an open group begins with entry 0 where that is the
        learned one, and else with entry 1, its first.
        """
        entry_N = self.ids - self.offsets[:-1][self.new.ids]
        return entry_N + (self.open_A == 0)[self.new.ids] if self.inclusive else entry_N

    def starts_above(self, group: OpenGroup, starts: Flags) -> dict[str, np.ndarray]:
        """By name, whether a given group starts at each new token of the next level.

        What no token of the next level can tell of yet is noted in the open groups.
        """
        if not group.started:
            return {}
        # Each sample has a flag for every token that it gets on the next level, and one for the token after those.
        offsets = offsets_of(self.made + 1)
        pending = offsets[1:] - 1
        run_N = self.ids - self.offsets[:-1][self.new.ids]
        if self.inclusive:
            # The open group's token was made before.
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
        """What becomes tokens of the next level: packed tokens, their positions, and the sizes (C,) of the groups."""
        if self.inclusive:
            rows = torch.from_numpy(self.heads).to(x_ND.device)
            return (
                x_ND.index_select(0, rows),
                position_N.index_select(0, rows),
                np.ones(len(self.heads), dtype=np.int64),
            )
        sizes = self.sizes[self.ended]
        ending = self.made > 0
        x_TD, position_T = group.tokens(self.new.samples[ending])
        rows_N = np.flatnonzero(self.ended[self.ids])
        if len(rows_N):
            rows = torch.from_numpy(rows_N).to(x_ND.device)
            x_TD = torch.cat([x_TD.to(x_ND.dtype), x_ND.index_select(0, rows)])
            position_T = torch.cat([position_T, position_N.index_select(0, rows)])
            if len(self.open_A) > 1:
                open_ids = np.repeat(np.flatnonzero(ending), self.open_A[ending])
                order = torch.from_numpy(by_sample(open_ids, self.new.ids[rows_N])).to(x_ND.device)
                x_TD, position_T = x_TD.index_select(0, order), position_T.index_select(0, order)
        return x_TD, position_T, sizes

    def probabilities(self, group: OpenGroup, prob_N: Tensor) -> Tensor:
        """(C,) of smoothed groups that become tokens of the next level, the probability of the boundary at their start.

        That of the group that stays open is noted there.
        """
        assert group.prob_B is not None
        # The source of each run: a new token, or the sample's open group.
        source_R = np.empty(int(self.offsets[-1]), dtype=np.int64)
        has_open = self.open_A > 0
        batch = len(group.prob_B)
        source_R[self.offsets[:-1][has_open]] = self.new.samples[has_open]
        source_R[self.ids[self.heads]] = batch + self.heads
        prob_R = torch.cat([group.prob_B, prob_N.to(group.prob_B.dtype)]).index_select(
            0, torch.from_numpy(source_R).to(prob_N.device)
        )
        self.new.put(group.prob_B, prob_R[torch.from_numpy(self.offsets[1:] - 1).to(prob_N.device)])
        becoming = self.ended
        if self.inclusive:
            becoming = source_R >= batch
        return prob_R[torch.from_numpy(becoming).to(prob_N.device)]
