"""Video transformers of torchvision, Swin3D and MViT, made as deep and as large as a hierarchy.

Shapes: B videos, C channels, N frames, H rows, W columns, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hrt_mm import Tokens
from hrt_modalities.video import VideoTokenizer
from hrt_modalities.video.tokenizer import untubify
from hrt_modalities.vision.patches import GridMaps

_WIDEST = 256
"""Of a first stage."""
Build = Callable[[int, int, Sequence[int]], nn.Module]
"""A model without a head, of its first stage's width, its depth, and frames, rows and columns of its videos."""


class Peer(nn.Module):
    """A transformer of whole videos that takes a batch of raw tubes; all videos of a batch have one size.

    Args:
        trunk: (B, C, N, H, W) to (B, D).
        tokenizer: cuts the tubes.
        width: D.
    """

    def __init__(self, trunk: nn.Module, tokenizer: VideoTokenizer, width: int) -> None:
        super().__init__()
        self.trunk, self.width = trunk, width
        self.tube, self.patch, self.blocks = tokenizer.config.tube, tokenizer.config.patch, tokenizer.blocks

    def forward(self, tokens: Tokens) -> Tensor:
        """A vector for each video, (B, D)."""
        (tubes_BthwF,) = GridMaps.of(tokens, self.blocks).maps(tokens.x)
        features_BD: Tensor = self.trunk(untubify(tubes_BthwF, self.tube, self.patch))
        return features_BD


def swin3d(width: int, depth: int, clip: Sequence[int]) -> nn.Module:
    """Swin3D with patches of 2 x 4 x 4 and windows of 8 x 7 x 7, as torchvision's ``swin3d_t``. It takes any clip."""
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    heads = _heads(width)
    model: Any = SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=width,
        depths=_stages(depth),
        num_heads=[heads * 2**stage for stage in range(4)],
        window_size=[8, 7, 7],
        stochastic_depth_prob=0.0,
    )
    model.head = nn.Identity()
    return model


def mvit(width: int, depth: int, clip: Sequence[int]) -> nn.Module:
    """MViTv2 with patches of 2 x 4 x 4, kernels and strides as torchvision's ``mvit_v2_s``.

    Its positions are those of one size of video, so its parameters grow a little with the frames.
    """
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    settings, previous_width = [], width
    for stage, blocks in enumerate(_stages(depth)):
        for block in range(blocks):
            shrinks = 2 if stage and not block else 1
            keys = 8 // 2**stage
            settings.append(
                MSBlockConfig(
                    num_heads=_heads(width) * 2**stage,
                    input_channels=previous_width,
                    output_channels=width * 2**stage,
                    kernel_q=[3, 3, 3],
                    kernel_kv=[3, 3, 3],
                    stride_q=[1, shrinks, shrinks],
                    stride_kv=[1, keys, keys],
                )
            )
            previous_width = width * 2**stage
    model: Any = MViT(
        spatial_size=(clip[1], clip[2]),
        temporal_size=clip[0],
        block_setting=settings,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
    )
    model.head = nn.Identity()
    return model


PEERS: dict[str, Build] = {"Swin3D": swin3d, "MViT": mvit}


def fitted(name: str, tokenizer: VideoTokenizer, depth: int, parameters: int, clip: Sequence[int]) -> Peer:
    """The peer of the width whose parameters come nearest.

    Args:
        name: one of ``PEERS``.
        tokenizer: cuts the tubes that it takes; in colour.
        depth: blocks; one more than its four stages need at least, since most are in the third.
        parameters: how many it is to have.
        clip: frames, rows and columns.
    """
    assert tokenizer.config.channels == 3 and depth >= 5
    build = PEERS[name]

    def count(width: int) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in build(width, depth, clip).parameters())

    widths = [width for width in range(8, _WIDEST) if width % _heads(width) == 0]
    low, high = 0, len(widths) - 1
    # Parameters grow with the width: halve the range until neighbours are left.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(widths[middle]) < parameters else (low, middle)
    width = min((widths[low], widths[high]), key=lambda width: abs(count(width) - parameters))
    return Peer(build(width, depth, clip), tokenizer, 8 * width)


def _heads(width: int) -> int:
    """Heads of the first stage, about 32 wide."""
    return max(1, round(width / 32))


def _stages(depth: int) -> list[int]:
    """Blocks of the four stages: as in both papers, most in the third."""
    return [1, 1, depth - 3, 1]
