from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from hrt_mm.core.norm import rms_norm
from hrt_mm.core.spans import Spans
from hrt_mm.tasks.fusion import Experts, Fusion, FusionHead, TowerStream, build_head
from hrt_mm.tasks.fusion.heads import Joint
from hrt_mm.tasks.fusion.streams import Side

DIM = 16
KINDS: list[dict[str, Any]] = [
    {"type": "concat"},
    {"type": "gated"},
    {"type": "cross_attention", "depth": 2, "heads": 2, "time": {"sound": 0.5}},
    {"type": "bottleneck", "depth": 2, "heads": 2, "tokens": 3},
    {"type": "joint", "depth": 2, "heads": 2, "time": {"sound": 0.5, "video": 2.0}},
]
HEADS = pytest.mark.parametrize("kind", KINDS, ids=[kind["type"] for kind in KINDS])
TOWERS = ("sound", "video", "text")


def head(kind: dict[str, Any]) -> FusionHead:
    torch.manual_seed(0)
    made = build_head(TOWERS, TypeAdapter(Fusion).validate_python({"dim": DIM, **kind}), 3)
    assert isinstance(made, FusionHead)
    for parameter in made.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return made.double()


def streams(lengths: dict[str, list[int]], seed: int = 0) -> dict[str, TowerStream]:
    """Tokens of each tower and sample; the same for a sample whatever else is in the batch."""
    result = {}
    for index, (tower, item) in enumerate(lengths.items()):
        rows = []
        for sample, length in enumerate(item):
            generator = torch.Generator().manual_seed(100 * seed + 10 * sample + index)
            rows.append(torch.randn(length, DIM, generator=generator, dtype=torch.float64))
        spans = Spans.from_lengths(item)
        result[tower] = TowerStream(torch.cat(rows), spans, spans.positions.double() if tower != "text" else None)
    return result


WHOLE = {"sound": [5, 0, 3, 2], "video": [2, 4, 0, 1], "text": [3, 1, 2, 0]}


def test_partitions_lie_side_by_side_and_come_apart_again() -> None:
    parts = streams(WHOLE)
    side = Side.by_side([stream.samples for stream in parts.values()])
    laid = side.lay([stream.x for stream in parts.values()])
    assert side.samples.lengths.tolist() == [10, 5, 5, 3]
    split = [stream.samples.split(stream.x) for stream in parts.values()]
    for sample, rows in enumerate(side.samples.split(laid)):
        assert torch.equal(rows, torch.cat([item[sample] for item in split]))
    for stream, back in zip(parts.values(), side.part(laid), strict=True):
        assert torch.equal(stream.x, back)


@HEADS
def test_a_sample_is_fused_alike_whatever_else_is_in_the_batch(kind: dict[str, Any]) -> None:
    fusion = head(kind)
    fused = fusion(streams(WHOLE))
    assert fused.shape == (4, DIM)
    assert fused.isfinite().all()
    parts = streams(WHOLE)
    for sample in range(4):
        alone = {
            tower: TowerStream(
                stream.samples.split(stream.x)[sample],
                Spans.from_lengths([WHOLE[tower][sample]]),
                stream.samples.split(stream.time_T)[sample] if stream.time_T is not None else None,
            )
            for tower, stream in parts.items()
        }
        torch.testing.assert_close(fusion(alone)[0], fused[sample])


@HEADS
def test_what_is_missing_has_no_say_and_what_is_there_has(kind: dict[str, Any]) -> None:
    fusion = head(kind)
    parts = streams(WHOLE)
    kept = torch.tensor([True, True, True, False])
    fewer = parts | {"sound": parts["sound"].only(kept)}
    assert fewer["sound"].samples.lengths.tolist() == [5, 0, 3, 0]
    one, two = fusion(parts), fusion(fewer)
    torch.testing.assert_close(one[:3], two[:3])
    assert not torch.allclose(one[3], two[3])


@HEADS
def test_a_sample_without_anything_is_no_nan(kind: dict[str, Any]) -> None:
    fused = head(kind)(streams({"sound": [2, 0], "video": [0, 0], "text": [1, 0]}))
    assert fused.isfinite().all()


@HEADS
def test_every_parameter_learns_and_every_tower_is_read(kind: dict[str, Any]) -> None:
    fusion = head(kind)
    parts = streams(WHOLE)
    for stream in parts.values():
        stream.x.requires_grad_()
    fusion(parts).square().sum().backward()
    for name, parameter in fusion.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    for tower, stream in parts.items():
        assert stream.x.grad is not None and stream.x.grad.any(1).all(), tower


def test_the_joint_sequence_is_the_blocks_over_each_sample_s_tokens() -> None:
    fusion = head(KINDS[4])
    assert isinstance(fusion, Joint)
    parts = streams({"sound": [5], "video": [2], "text": [3]})
    x = torch.cat([stream.x + item for stream, item in zip(parts.values(), fusion.tower_ND, strict=True)])
    rope = fusion.rope(torch.cat([stream.coords() for stream in parts.values()]))
    one = Spans.from_lengths([10])
    for block in fusion.blocks:
        x = block(x, one, rope, samples=one)
    pieces: list[Tensor] = list(rms_norm(x).split([5, 2, 3]))
    torch.testing.assert_close(fusion(parts)[0], torch.stack([piece.mean(0) for piece in pieces]).mean(0))


def test_time_matters_where_it_is_shared_and_nowhere_else() -> None:
    fusion = head(KINDS[4])
    parts = streams({"sound": [5], "video": [4], "text": [3]})
    sound = parts["sound"]
    assert sound.time_T is not None
    moved = parts | {"sound": TowerStream(sound.x, sound.samples, sound.time_T + 3)}
    assert not torch.allclose(fusion(parts), fusion(moved))
    both = {
        tower: TowerStream(stream.x, stream.samples, stream.time_T + 3 if stream.time_T is not None else None)
        for tower, stream in parts.items()
        if tower != "text"
    }
    no_text = {"text": TowerStream(parts["text"].x[:0], Spans.from_lengths([0]))}
    shifted, plain = fusion(both | no_text), fusion({name: parts[name] for name in both} | no_text)
    # Rotary positions are relative: what moves together stays the same.
    torch.testing.assert_close(shifted, plain, rtol=1e-5, atol=1e-6)


def experts() -> Experts:
    torch.manual_seed(0)
    made = build_head(TOWERS, TypeAdapter(Fusion).validate_python({"type": "experts", "dim": DIM, "hidden": 8}), 3)
    assert isinstance(made, Experts)
    for head in made.heads.values():
        nn.init.normal_(head.get_parameter("weight"))
    return made.double()


def test_experts_start_as_the_product_of_their_classifiers() -> None:
    fusion, inputs = experts(), streams({tower: [2, 3] for tower in TOWERS})
    logits = fusion(inputs, nn.Identity())
    parts = [fusion.heads[tower](rms_norm(stream.pooled())).log_softmax(-1).float() for tower, stream in inputs.items()]
    assert torch.allclose(logits, torch.stack(parts).sum(0), atol=1e-5)


def test_an_expert_alone_keeps_its_prediction_whatever_the_weights() -> None:
    fusion = experts()
    nn.init.normal_(fusion.gate.weight)
    inputs = streams(WHOLE | {"sound": [5, 0, 0, 2], "video": [0, 0, 0, 1], "text": [0, 0, 2, 0]})
    logits = fusion(inputs, nn.Identity())
    for sample, tower in ((0, "sound"), (2, "text")):
        alone = fusion.heads[tower](rms_norm(inputs[tower].pooled()))[sample].log_softmax(-1)
        assert torch.allclose(logits[sample], alone.float(), atol=1e-5)
    assert not logits[1].any(), "a sample without any modality has equal logits"
    both = sum(fusion.heads[tower](rms_norm(inputs[tower].pooled()))[3].log_softmax(-1) for tower in TOWERS[:2])
    assert not torch.allclose(logits[3], both.float(), atol=1e-2), "the weights depend on the sample"


def test_no_gradient_flows_through_the_weights_into_the_towers() -> None:
    fusion, inputs = experts(), streams({tower: [2, 3] for tower in TOWERS})
    nn.init.normal_(fusion.gate.weight)
    for head in fusion.heads.values():
        nn.init.zeros_(head.get_parameter("weight"))
    xs = [stream.x.requires_grad_() for stream in inputs.values()]
    fusion(inputs, nn.Identity())[:, 0].sum().backward()
    assert all(x.grad is None or not x.grad.any() for x in xs)
