"""Actions of rendered clips at equal time for the contenders of ``benchmarks.video``."""

from __future__ import annotations

from functools import partial
from typing import Any

from hrt_mm.config import RunConfig, load_config
from hrt_mm.train.build import Data
from hrt_modalities.video import Video, VideoTokenizer

from . import curves as learning
from . import video_peers
from .curves import Classifier
from .models import Pooled, size
from .runs import flat

NAMES = ("hierarchy", "flat", *video_peers.PEERS)
RATES = (1e-3, 2e-3)


def curves(seconds: float, *, quick: bool = False) -> dict[str, Any]:
    """Trains each contender for some seconds of computing, as :func:`benchmarks.curves.curves` says."""
    config = load_config("video/actions", ["data.train=80", "data.valid=4", "data.test=4"] if quick else [])
    contenders = {name: partial(build, name, config) for name in NAMES}
    return learning.curves(config, contenders, seconds, RATES, _length, quick=quick)


def build(name: str, config: RunConfig, data: Data) -> Classifier:
    """A contender. All read the tubes of the hierarchy's tokenizer, the flat control among them."""
    tokenizer = data.tokenizer
    assert isinstance(tokenizer, VideoTokenizer) and data.classes is not None
    model, classes = config.single.model, len(data.classes)
    if name == "hierarchy":
        return Classifier(Pooled(model, tokenizer), model.levels[-1].dim, classes, 0.0)
    if name == "flat":
        control = flat(config).single.model
        return Classifier(Pooled(control, tokenizer), control.levels[0].dim, classes, 0.0)
    target, depth = size(Pooled(model, tokenizer)), sum(level.depth for level in model.levels)
    sample = data.splits["val"][0].value
    clip = (len(sample), *sample.pixels_NCHW.shape[2:])
    peer = video_peers.fitted(name, tokenizer, depth, target, clip)
    return Classifier(peer, peer.width, classes, 0.0)


def table(results: dict[str, Any]) -> str:
    """The curves as Markdown."""
    return learning.table(results, "what happens in rendered clips of 16 frames")


def _length(value: Video) -> int:
    return len(value)
