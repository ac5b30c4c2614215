"""Sound from one second to ten minutes: the hierarchy against its flat control and a transformer over patches.

The hierarchy is that of ``audio/audio_folder``, three levels over frames of 20 ms. The flat control has its blocks,
depth and parameters over the same frames. The peer is made as the Audio Spectrogram Transformer is (AST, arXiv
2104.01778): timm's ViT over patches of 16 x 16 of the log-mel picture, of the same depth and parameters. Each patch has
a position that is interpolated to other lengths.

Speed and memory are those of an encoder on one sound's log-mel frames. What takes more than ``--limit`` seconds, or
does not fit into memory, is said and has no figures. Accuracy is that on FSDD's official test split after equal time of
computing on one thread, with the model of ``audio/fsdd`` and rivals of its size (``HRT_MM_DATA`` names the folder that
holds ``fsdd/``).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from hrt_mm import Tokens
from hrt_mm.analysis.control import flat_control
from hrt_mm.config import load_config
from hrt_mm.core.levels import HierarchyConfig
from hrt_modalities.audio import AudioConfig, AudioTokenizer
from hrt_modalities.audio.stems import StemConfig

from . import audio_accuracy, patches
from .checks import CheckFailed
from .command import main, parser
from .lengths import Contest, budgets
from .memory import Prepared, Sizes
from .models import Pooled, randomised, size
from .results import Result
from .steps import prepared

NAME = "audio"
CONTENDERS = ("hierarchy", "flat", "AST-like")
SECONDS = (1, 10, 60, 600)
TOLERANCE = 0.02
"""How far the contenders' parameters may differ from the hierarchy's."""
CONTEST = Contest(
    NAME,
    CONTENDERS,
    unit="seconds",
    shortest=0.5,
    what="one sound",
    column="seconds of sound",
    rate="seconds of sound a second, hierarchy",
)


def parts(settings: Mapping[str, Any]) -> tuple[AudioTokenizer, HierarchyConfig]:
    """Tokenizer and hierarchy: those of ``audio/audio_folder``, or small ones for a quick try."""
    config = load_config("audio/audio_folder")
    modality, model = config.single.modality, config.single.model
    assert isinstance(modality, AudioConfig)
    if settings["quick"]:
        levels = [level.model_copy(update={"dim": 32, "heads": 2, "depth": 1}) for level in model.levels]
        model = model.model_copy(update={"levels": tuple(levels)})
    return modality.build(), model


def build(contender: str, settings: Mapping[str, Any]) -> tuple[nn.Module, AudioTokenizer]:
    """A contender with random weights, and what cuts its frames.

    Raises:
        CheckFailed: it is not of the hierarchy's size.
    """
    tokenizer, model = parts(settings)
    hierarchy = Pooled(model, tokenizer)
    if contender == "flat":
        control = flat_control(model)
        # The stem has the hierarchy's hidden width, so that the parameters of the whole are the same too.
        stem = tokenizer.config.stem
        assert isinstance(stem, StemConfig)
        hidden = stem.hidden * model.levels[0].dim / control.levels[0].dim
        config = tokenizer.config.model_copy(update={"stem": stem.model_copy(update={"hidden": hidden})})
        built: nn.Module = Pooled(control, config.build())
    elif contender == "AST-like":
        depth = sum(level.depth for level in model.levels)
        built = patches.fitted(tokenizer.config.mels, tokenizer.stack, depth, size(hierarchy))
    else:
        built = hierarchy
    difference = abs(size(built) / size(hierarchy) - 1)
    if difference > TOLERANCE and not settings["quick"]:
        raise CheckFailed(f"{contender} has {size(built):,} parameters, the hierarchy {size(hierarchy):,}")
    randomised(built)
    return built.to(settings["device"]), tokenizer


def prepare(contender: str, sizes: Sizes, settings: Mapping[str, Any]) -> Prepared:
    """A contender at a size, on noise."""
    model, tokenizer = build(contender, settings)
    samples = round(float(sizes["seconds"]) * tokenizer.config.rate)
    x_TF = torch.randn(tokenizer.count(samples), tokenizer.features, generator=torch.Generator().manual_seed(1))
    x_TF = x_TF.to(settings["device"])
    return prepared(lambda: model(Tokens.pack([x_TF])), model, x_TF.nbytes, str(sizes["mode"]), str(sizes["dtype"]))


def run(options: argparse.Namespace) -> Result:
    """Measures all lengths and modes, then trains the contenders for equal time."""
    quick, settings = options.quick, CONTEST.settings(options)
    sizes = {name: size(build(name, settings)[0]) for name in CONTENDERS}
    accuracy = partial(audio_accuracy.curves, 0.5 if quick else 60 * options.minutes, quick=quick)
    measure_accuracy = options.accuracy
    if measure_accuracy and not os.environ.get("HRT_MM_DATA"):
        print("HRT_MM_DATA is not set, so nothing is trained", file=sys.stderr)
        measure_accuracy = False
    lengths = (0.5, 1) if quick else options.seconds or SECONDS
    return CONTEST.result(options, prepare, sizes, lengths, accuracy if measure_accuracy else None)


def tables(result: Result) -> str:
    """The result as Markdown."""
    return CONTEST.tables(result, audio_accuracy.table)


def _lengths(text: str) -> tuple[float, ...]:
    """Seconds with commas between, for argparse."""
    lengths = tuple(float(part) for part in text.split(","))
    if not all(0 < seconds < float("inf") for seconds in lengths):
        raise argparse.ArgumentTypeError(f"must be more than 0 seconds, got {text}")
    return lengths


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--seconds", type=_lengths, help="lengths of sounds, as 1,10,60,600")
    return budgets(options, 1.5)


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
