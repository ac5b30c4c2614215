"""A transformer over patches of the log-mel picture, as the Audio Spectrogram Transformer is made: timm's ViT.

Shapes: T frames, M bands, B sounds, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrt_mm import Tokens

PATCH = 16
"""Frames and bands of a patch."""
_FRAMES = 1024
"""Frames of the picture that positions are made for, as in AST; for others they are interpolated."""


class PatchTransformer(nn.Module):
    """Patches of 16 x 16, a class token, a learned position for each patch, pre-norm blocks with GELU.

    Args:
        mels: bands.
        stack: frames that lie in a raw token.
        heads: of each block.
        head: width of a head.
        depth: blocks.
    """

    def __init__(self, mels: int, stack: int, heads: int, head: int, depth: int) -> None:
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer

        self.mels, self.stack = mels, stack
        self.vit = VisionTransformer(
            img_size=(-(-mels // PATCH) * PATCH, _FRAMES),
            patch_size=PATCH,
            in_chans=1,
            num_classes=0,
            embed_dim=heads * head,
            depth=depth,
            num_heads=heads,
            dynamic_img_size=True,
        )

    def forward(self, tokens: Tokens) -> Tensor:
        """Raw tokens to a vector for each sound, (B, D).

        Shorter ones are filled with zeros to whole patches of the longest.
        """
        frames = [x_TF.reshape(-1, self.mels) for x_TF in tokens.split()]
        longest = -(-max(map(len, frames)) // PATCH) * PATCH
        bands = -(-self.mels // PATCH) * PATCH
        filled = [functional.pad(x_TM, (0, bands - self.mels, 0, longest - len(x_TM))) for x_TM in frames]
        features_BD: Tensor = self.vit(torch.stack(filled).transpose(1, 2)[:, None])
        return features_BD


def fitted(mels: int, stack: int, depth: int, parameters: int) -> PatchTransformer:
    """The one of the width whose parameters come nearest. Heads are 24 to 48 wide."""
    num_patches = -(-mels // PATCH) * (_FRAMES // PATCH) + 1

    def distance(shape: tuple[int, int]) -> int:
        dim = shape[0] * shape[1]
        # Blocks with biases; patches, positions and class token; the last norm.
        return abs(depth * (12 * dim + 13) * dim + (PATCH * PATCH + 1 + num_patches + 1 + 2) * dim - parameters)

    shapes = [(heads, head) for heads in range(1, 17) for head in range(24, 50, 2)]
    return PatchTransformer(mels, stack, *min(shapes, key=distance), depth)
