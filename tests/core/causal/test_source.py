"""What a decoder reads of a source: its selection by sample, and samples without source tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hrt_mm.core.causal import CausalPass, Memory
from hrt_mm.core.errors import ConfigError, UserError
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.norm import rms_norm
from hrt_mm.core.source import SourceMemory
from hrt_mm.core.source_reader import SourceReader
from hrt_mm.core.tokens import Tokens


def hierarchy(*, causal: bool, depth: int = 1) -> Hierarchy:
    fine: dict[str, Any] = {"decoder_depth": depth} if causal else {}
    levels: list[dict[str, Any]] = [
        {**fine, "name": "fine", "dim": 8, "depth": depth, "heads": 2, "group": {"type": "fixed", "stride": 2}},
        {"name": "coarse", "dim": 12, "depth": 1, "heads": 2},
    ]
    options = {"causal": True, "top_down": True} if causal else {"cross_scale": {"up": True}}
    return Hierarchy(HierarchyConfig.model_validate({"levels": levels, **options})).double().eval()


def read(lengths: list[int]) -> tuple[Hierarchy, SourceMemory]:
    torch.manual_seed(0)
    decoder, source = hierarchy(causal=True), hierarchy(causal=False)
    reader = SourceReader(decoder, source, {0: [0, 1], 1: [1]}).double()
    for parameter in (*decoder.parameters(), *source.parameters(), *reader.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        return decoder, reader(source(Tokens.pack([torch.randn(length, 8).double() for length in lengths])))


@torch.no_grad()
def test_selected_samples_read_their_own_source() -> None:
    decoder, memory = read([5, 2, 7])
    texts = [torch.randn(6, 8).double() for _ in range(3)]
    whole = decoder(Tokens.pack(texts), source=memory)["fine"].split()
    order = [2, 0, 2]
    chosen = decoder(Tokens.pack([texts[sample] for sample in order]), source=memory.select(order))["fine"].split()
    for sample, part in zip(order, chosen, strict=True):
        torch.testing.assert_close(part, whole[sample], atol=1e-12, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [[5, 2, 7], [4, 4, 4], [3, 0, 2]], ids=str)
def test_any_division_into_calls_gives_what_the_forward_pass_gives(lengths: list[int]) -> None:
    """Samples take part in turns, so that calls are of some samples alone and of different numbers of tokens."""
    decoder, source = read(lengths)
    texts = [torch.randn(9, 8).double() for _ in range(3)]
    whole = decoder(Tokens.pack(texts), source=source)["fine"].split()
    memory, fed = Memory(decoder, 3, source), [0, 0, 0]
    for counts in ([3, 1, 0], [0, 2, 1], [1, 1, 1], [0, 0, 4], [1, 0, 0], [4, 5, 3]):
        parts = [text[first : first + count] for text, first, count in zip(texts, fed, counts, strict=True)]
        new = rms_norm(CausalPass(decoder, memory).feed(torch.cat(parts), np.array(counts), {})).split(counts)
        for sample, part in enumerate(new):
            expected = whole[sample][fed[sample] : fed[sample] + counts[sample]]
            torch.testing.assert_close(part, expected, atol=1e-12, rtol=0)
            fed[sample] += counts[sample]
    assert fed == [9, 9, 9] and memory.nbytes > Memory(decoder, 3).nbytes


@torch.no_grad()
def test_as_many_samples_are_needed_as_the_source_has() -> None:
    decoder, source = read([5, 2])
    with pytest.raises(UserError, match="must pair up"):
        decoder(Tokens.pack([torch.randn(4, 8).double()]), source=source)


def test_a_level_without_blocks_cannot_read() -> None:
    with pytest.raises(ConfigError, match="'fine' has no blocks"):
        SourceReader(hierarchy(causal=True, depth=0), hierarchy(causal=False), {0: [1]})
