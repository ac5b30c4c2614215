"""New tokens of a batch in any portions give what the forward pass gives: none, one or many of each sample a call."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from hrt_mm.core.causal import CausalPass, KeyValues, Memory
from hrt_mm.core.causal.new_tokens import NewTokens
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.norm import rms_norm
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
