"""New tokens of a batch in any portions give what the forward pass gives: none, one or many of each sample a call."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from hrt_mm.core.causal import CausalPass, KeyValues, Memory
from hrt_mm.core.causal.groups import Runs
from hrt_mm.core.causal.new_tokens import NewTokens
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.norm import rms_norm
from hrt_mm.core.segments import shift_right
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from tests.inference.generation.test_stepping import GROUPS, SMOOTH, WAYS, batch, build


def largest_difference(model: Hierarchy, tokens: Tokens, most: int, seed: int) -> float:
    """From the forward pass, where each call brings up to ``most`` tokens of every sample."""
    generator = np.random.default_rng(seed)
    samples = tokens.split()
    masks = {name: tokens.spans.split(mask) for name, mask in tokens.boundaries.items()}
    lengths = tokens.spans.lengths.numpy()
    memory, done = Memory(model, len(samples)), np.zeros_like(lengths)
    worst = 0.0
    with torch.no_grad():
        whole = model(tokens)[0].split()
        while (done < lengths).any():
            counts = np.minimum(generator.integers(0, most + 1, len(lengths)), lengths - done)
            parts = [slice(first, first + count) for first, count in zip(done, counts, strict=True)]
            x_ND = torch.cat([sample[part] for sample, part in zip(samples, parts, strict=True)])
            starts = {
                name: torch.cat([mask[part] for mask, part in zip(item, parts, strict=True)]).numpy()
                for name, item in masks.items()
            }
            out_ND = rms_norm(CausalPass(model, memory).feed(x_ND, counts, starts))
            expected_ND = torch.cat([sample[part] for sample, part in zip(whole, parts, strict=True)])
            if len(out_ND):
                worst = max(worst, float((out_ND - expected_ND).abs().max()))
            done += counts
    return worst


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("group", "way"),
    # Smoothed groups need top_down.
    [(group, way) for group in (*GROUPS, "smooth") for way in WAYS if (group, way) != ("smooth", "down")],
)
@pytest.mark.parametrize("pool", ["conv", "select"])
def test_any_portions_of_a_ragged_batch(pool: str, group: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GROUPS, "smooth", SMOOTH)
    model = build(pool, group, way, second="given", window=2 if pool == "conv" else None)
    for most, seed in product((2, 9), (0, 1)):
        assert largest_difference(model, batch([40, 1, 0, 33]), most, seed) < 1e-7


@pytest.mark.parametrize("window", [None, 3])
def test_keys_are_kept_in_order(window: int | None) -> None:
    memory = KeyValues(3, 1, 1, window, torch.zeros(0))
    sent: list[list[float]] = [[], [], []]
    for samples, counts in (([0, 2], [5, 1]), ([0, 1, 2], [1, 2, 9]), ([1], [1]), ([0, 1], [3, 3])):
        keys: list[float] = []
        for sample, count in zip(samples, counts, strict=True):
            keys += [100 * sample + len(sent[sample]) + number for number in range(count)]
        before = np.array([len(sent[sample]) for sample in samples])
        new = NewTokens(np.array(samples), np.array(counts), before, 3, torch.device("cpu"))
        k_NKE = torch.tensor(keys)[:, None, None]
        k_SKE, v_SKE, spans = memory.extended(k_NKE, -k_NKE, new)
        assert torch.equal(v_SKE, -k_SKE)
        for sample, count, seen in zip(samples, counts, spans.split(k_SKE), strict=True):
            sent[sample] += [100 * sample + len(sent[sample]) + number for number in range(count)]
            reach = len(sent[sample]) if window is None else min(len(sent[sample]), count + window)
            assert seen.flatten().tolist()[-reach:] == sent[sample][-reach:]


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_rows_that_new_tokens_get_are_those_of_the_forward_pass(seed: int, inclusive: bool) -> None:
    # Rows are the numbers of groups here, and -1 - sample is the learned one.
    generator = np.random.default_rng(seed)
    lengths = np.array([23, 1, 17])
    begins = [generator.random(length) < 0.4 for length in lengths]
    numbers = [np.cumsum(own | (np.arange(len(own)) == 0)) - 1 for own in begins]
    groups = Spans.from_lengths([int(own[-1]) + 1 for own in numbers])
    learned_G = -1 - groups.ids
    seen_G = groups.positions if inclusive else shift_right(groups.positions, groups, learned_G)
    expected = [rows[torch.from_numpy(own)].tolist() for rows, own in zip(groups.split(seen_G), numbers, strict=True)]

    got: list[list[int]] = [[], [], []]
    stored, open_B, done, complete = -1 - torch.arange(3), np.zeros(3, dtype=np.int64), np.zeros_like(lengths), [0] * 3
    while (done < lengths).any():
        counts = np.minimum(generator.integers(0, 5, 3), lengths - done)
        samples = np.flatnonzero(counts)
        if not len(samples):
            continue
        new = NewTokens(samples, counts[samples], done[samples], 3, torch.device("cpu"))
        parts = [begins[sample][done[sample] : done[sample] + counts[sample]].copy() for sample in samples]
        for part, size in zip(parts, open_B[samples], strict=True):
            part[:1] |= size == 0
        runs = Runs(new, np.concatenate(parts), open_B[samples], inclusive)
        rows = stored[torch.from_numpy(samples)].tolist()
        for sample, count in zip(samples, runs.coarse_counts, strict=True):
            rows += range(complete[sample], complete[sample] + count)
            complete[sample] += count
        seen_R = torch.tensor(rows)[runs.seen_rows]
        for row, sample in zip(seen_R[torch.from_numpy(runs.ids)].tolist(), samples[new.ids], strict=True):
            got[sample].append(row)
        stored[torch.from_numpy(samples)] = seen_R[torch.from_numpy(runs.offsets[1:] - 1)]
        open_B[samples] = runs.sizes[runs.offsets[1:] - 1]
        done += counts
    assert got == expected
