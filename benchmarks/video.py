"""Videos of 8 to 512 frames: the hierarchy against its flat control and torchvision's Swin3D and MViT.

The hierarchy is that of ``video/video_folder``, four levels over tubes of 2 x 16 x 16 pixels. The flat control has its
blocks, depth and parameters over the same tubes. The peers are made as torchvision makes them, of the same depth and
parameters; their patches are smaller, 2 x 4 x 4 pixels, as in their papers. All have random weights.

Speed and memory are those of an encoder on one video's raw tubes. What takes more than ``--limit`` seconds, or does
not fit into memory, is said and has no figures. Accuracy is that of rendered clips' actions after equal time of
computing on one thread, with the model of ``video/actions`` and rivals of its size; it needs no data.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from hrt_mm import Tokens
from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.spans import Spans
from hrt_mm.train.build import build_tokenizer
from hrt_modalities.video import Video, VideoTokenizer

from . import video_accuracy, video_peers
from .checks import CheckFailed
from .command import main, numbers, parser
from .lengths import Contest, budgets
from .memory import Prepared, Sizes
from .models import Pooled, randomised, size
from .results import Result
from .runs import flat
from .steps import prepared

NAME = "video"
CONTENDERS = ("hierarchy", "flat", *video_peers.PEERS)
FRAMES = (8, 32, 128, 512)
SIDE, RATE = 112, 12.5
"""Pixels of a side, and frames a second."""
TOLERANCE = 0.05
"""How far the contenders' parameters may differ from the hierarchy's: widths are whole numbers."""
CONTEST = Contest(
    NAME,
    CONTENDERS,
    unit="frames",
    shortest=4,
    what=f"one video of {SIDE} x {SIDE} pixels",
    column="frames",
    rate="frames a second, hierarchy",
)


def configured(quick: bool) -> RunConfig:
    """The hierarchy's configuration, or one of narrow levels for a quick try."""
    config = load_config("video/video_folder")
    if not quick:
        return config
    levels = [level.model_copy(update={"dim": 32, "heads": 2}) for level in config.single.model.levels]
    return config.with_model(config.single.model.model_copy(update={"levels": tuple(levels)}))


def build(contender: str, frames: int, settings: Mapping[str, Any]) -> tuple[nn.Module, VideoTokenizer]:
    """A contender with random weights, and what cuts its tubes.

    Raises:
        CheckFailed: it is not of the hierarchy's size.
    """
    config = configured(settings["quick"])
    own_config = flat(config) if contender == "flat" else config
    tokenizer = build_tokenizer(own_config)
    assert isinstance(tokenizer, VideoTokenizer)
    hierarchy = Pooled(config.single.model, tokenizer)
    target, built = size(hierarchy), hierarchy
    if contender == "flat":
        built = Pooled(own_config.single.model, tokenizer)
    elif contender in video_peers.PEERS:
        depth = sum(level.depth for level in config.single.model.levels)
        peer = video_peers.fitted(contender, tokenizer, depth, target, (frames, SIDE, SIDE))
        return _checked(contender, peer, target, settings), tokenizer
    return _checked(contender, built, target, settings), tokenizer


def _checked(contender: str, model: nn.Module, target: int, settings: Mapping[str, Any]) -> nn.Module:
    if abs(size(model) / target - 1) > TOLERANCE and not settings["quick"]:
        raise CheckFailed(f"{contender} has {size(model):,} parameters, the hierarchy {target:,}")
    randomised(model)
    return model.to(settings["device"])


def prepare(contender: str, sizes: Sizes, settings: Mapping[str, Any]) -> Prepared:
    """A contender at a size, on noise."""
    frames = int(sizes["frames"])
    model, tokenizer = build(contender, frames, settings)
    pixels_NCHW = torch.rand(frames, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    cut = tokenizer([Video.of(pixels_NCHW, RATE)]).to(torch.device(settings["device"]))

    def fresh() -> Tokens:
        """The tubes as of a new batch, for which nothing is planned yet."""
        spans = Spans.from_lengths([len(cut.x)], cut.device)
        return Tokens(cut.x, spans, cut.coords_TC, cut.grids, cut.boundaries)

    return prepared(lambda: model(fresh()), model, cut.x.nbytes, str(sizes["mode"]), str(sizes["dtype"]))


def run(options: argparse.Namespace) -> Result:
    """Measures all lengths and modes, then trains the contenders for equal time."""
    quick, settings = options.quick, CONTEST.settings(options)
    lengths = (4, 8) if quick else options.frames
    sizes = {name: size(build(name, lengths[0], settings)[0]) for name in CONTENDERS}
    accuracy = partial(video_accuracy.curves, 0.5 if quick else 60 * options.minutes, quick=quick)
    return CONTEST.result(options, prepare, sizes, lengths, accuracy if options.accuracy else None)


def tables(result: Result) -> str:
    """The result as Markdown."""
    return CONTEST.tables(result, video_accuracy.table)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--frames", type=numbers, default=FRAMES, help="lengths of videos; 8,32,128,512 when absent")
    return budgets(options, 3.0)


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
