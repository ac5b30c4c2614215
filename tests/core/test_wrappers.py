"""Hierarchies in the wrappers of PyTorch and PEFT: the same numbers, and copies that share nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import fully_shard
from torch.func import functional_call, grad
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from hrt_mm import Hierarchy, Tokens
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.pyramid import Pyramid
from hrt_mm.inference import from_pretrained, save_pretrained
from hrt_mm.train.distributed import ProcessGroup
from tests.processes import on_two_ranks

LEVELS = [
    {"name": "fine", "dim": 8, "heads": 2, "depth": 1, "window": 4, "group": {"type": "fixed", "stride": 3}},
    {"name": "coarse", "dim": 12, "heads": 2, "depth": 1},
]
PATHS = {"top_down": True, "cross_scale": {"up": True, "down": True}}


def hierarchy() -> Hierarchy:
    model = Hierarchy(HierarchyConfig.model_validate({"levels": LEVELS, **PATHS})).double()
    generator = torch.Generator().manual_seed(1)
    # Paths between levels start closed, which would hide what they do.
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def samples(first: int, count: int) -> Tokens:
    generators = [torch.Generator().manual_seed(index) for index in range(first, first + count)]
    lengths = [5, 1, 14, 8]
    return Tokens.pack(
        [
            torch.randn(length, 8, generator=generator, dtype=torch.float64)
            for length, generator in zip(lengths[first : first + count], generators, strict=True)
        ]
    )


def loss_of(pyramid: Pyramid) -> Tensor:
    parts = [pyramid[name].x * torch.arange(pyramid[name].x.shape[1]) for name in pyramid.names]
    return torch.stack([part.sum() for part in parts]).sum()


def whole_of(tensor: Tensor) -> Tensor:
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def _on_rank(ranks: ProcessGroup, way: str, folder: Path) -> dict[str, Any]:
    """Output, gradients, and what is saved and loaded again, of a wrapped model on half of the samples."""
    model = hierarchy()
    wrapped: nn.Module = model
    if way == "ddp":
        wrapped = DistributedDataParallel(model)
    else:
        for module in (*model.stages[0].encoder, *model.transitions, *model.stages):
            fully_shard(module)
        fully_shard(model)
    pyramid = wrapped(samples(2 * ranks.rank, 2))
    loss_of(pyramid).backward()
    gradients = {
        name: whole_of(parameter.grad).tolist()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    save({"model": model.state_dict()}, checkpoint_id=folder / "sharded")
    loaded = hierarchy()
    nn.init.zeros_(loaded.stages[0].encoder[0].attention.qkv.weight)
    state = loaded.state_dict()
    load({"model": state}, checkpoint_id=folder / "sharded")
    loaded.load_state_dict(state)
    # The tensors of all ranks are gathered, so each of them takes part.
    save_pretrained(model, folder / f"pretrained-{ranks.rank}", license="mit")
    return {
        "output": pyramid["coarse"].x.tolist(),
        "gradients": gradients,
        "loaded": loaded(samples(2 * ranks.rank, 2))["coarse"].x.tolist(),
    }


@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_two_ranks_compute_what_one_does(way: str, tmp_path: Path) -> None:
    answers = on_two_ranks(_on_rank, way, tmp_path)
    model = hierarchy()
    pyramid = model(samples(0, 4))
    # Gradients are means over ranks.
    (loss_of(pyramid) / 2).backward()
    for key in ("output", "loaded"):
        both = torch.cat([torch.tensor(answer[key], dtype=torch.float64) for answer in answers])
        torch.testing.assert_close(both, pyramid["coarse"].x, atol=1e-9, rtol=1e-9)
    for answer in answers:
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(
                torch.tensor(answer["gradients"][name], dtype=torch.float64), parameter.grad, atol=1e-9, rtol=1e-9
            )
    saved = from_pretrained(tmp_path / "pretrained-0")
    assert isinstance(saved, Hierarchy)
    torch.testing.assert_close(saved.double()(samples(0, 4))["coarse"].x, pyramid["coarse"].x, atol=1e-4, rtol=1e-4)


def test_copies_and_calls_with_other_weights() -> None:
    model, tokens = hierarchy(), samples(0, 4)
    expected = model(tokens)["coarse"].x
    other = copy.deepcopy(model)
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    for copied in (other, averaged):
        assert torch.equal(copied(tokens)["coarse"].x, expected)
    nn.init.zeros_(other.stages[0].encoder[0].attention.qkv.weight)
    assert torch.equal(model(tokens)["coarse"].x, expected)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    assert torch.equal(functional_call(other, weights, (tokens,))["coarse"].x, expected)

    gradients = grad(lambda weights: loss_of(functional_call(model, weights, (tokens,))))(weights)
    loss_of(model(tokens)).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [(["qkv", "out"], {"qkv", "out"}), (r".*\.(qkv|out|mlp\.(up|down))", {"qkv", "out", "up", "down"})],
    ids=["attention", "all"],
)
def test_low_rank_adapters(targets: list[str] | str, adapted: set[str]) -> None:
    peft = pytest.importorskip("peft")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hierarchy = hierarchy()

        def forward(self, tokens: Tokens) -> Pyramid:
            pyramid: Pyramid = self.hierarchy(tokens)
            return pyramid

    model, tokens = Model(), samples(0, 4)
    expected = model(tokens)["coarse"].x
    with_adapters = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets)).double()
    torch.testing.assert_close(with_adapters(tokens)["coarse"].x, expected)
    loss_of(with_adapters(tokens)).backward()
    trained = {name for name, value in with_adapters.named_parameters() if value.grad is not None}
    assert trained and all(".lora_" in name for name in trained)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trained} == adapted
    torch.testing.assert_close(with_adapters.merge_and_unload()(tokens)["coarse"].x, expected)
