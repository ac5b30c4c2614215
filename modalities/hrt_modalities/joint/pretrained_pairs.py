"""Both towers of a CLIP-like model of open_clip or transformers, to embed images and texts without any training.

Shapes: B samples, C channels, H rows, W columns, L ids, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.core.extras import needs_extra
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.pretrained_towers import PretrainedTower, PretrainedTowers
from hrt_mm.data.tokenizer import Tokenizer

from ..common.encoder_layers import EXTRA
from ..common.model_sources import (
    check_folder,
    is_folder,
    loading,
    open_clip_model,
    open_clip_name,
    transformers_config,
    transformers_model,
)
from ..text.text import marked
from ..text.tokenizer import MAX_BYTES
from ..vision.images import check_image, with_channels

KEY = "--model"
"""What names the model, for messages."""


class WholeSamples(Tokenizer):
    """Gives each sample as one token, whose features are all that an encoder reads of it.

    Args:
        process: from raw values to features (B, ...).
        level: name of the only level.
    """

    axes = 1

    def __init__(self, process: Callable[[Sequence[Any]], Tensor], level: str) -> None:
        self.process, self.levels = process, (level,)

    def __call__(self, values: Sequence[Any]) -> Tokens:
        """Packs raw samples.

        Raises:
            BadSample: a value cannot be processed; names its index in the batch.
        """
        x = self.process(values)
        return Tokens(x, Spans.from_lengths([1] * len(x)), torch.zeros(len(x), 1))

    def embedding(self, dim: int) -> nn.Module:
        raise ConfigError("a pretrained model has an embedding of its own; train a run with one as the stem")


class ImageProcessing:
    """Images to (B, C, H, W), by the preprocessing of a model.

    Args:
        process: from a Pillow image to (C, H, W).
    """

    def __init__(self, process: Callable[[Any], Tensor]) -> None:
        self.process = process

    def __call__(self, values: Sequence[Any]) -> Tensor:
        """Processes tensors (C, H, W) and Pillow images.

        Raises:
            BadSample: a value is no image.
        """
        from PIL import Image

        images = []
        for index, value in enumerate(values):
            image = with_channels(check_image(value, f"image {index} of the batch"), 3)
            pixels = image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)
            images.append(self.process(Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())))
        return torch.stack(images)


class TextProcessing:
    """Texts to ids (B, L), by the tokenizer of a model.

    Args:
        process: from texts to ids.
    """

    def __init__(self, process: Callable[[list[str]], Tensor]) -> None:
        self.process = process

    def __call__(self, values: Sequence[Any]) -> Tensor:
        """Processes texts and their bytes.

        Raises:
            BadSample: a value is no text.
        """
        names = [f"text {index} of the batch" for index in range(len(values))]
        texts = [
            marked(value, name, MAX_BYTES).content.decode("utf-8", "replace")
            for value, name in zip(values, names, strict=True)
        ]
        for name, text in zip(names, texts, strict=True):
            if not text.strip():
                raise BadSample(name, "is empty; give some words")
        return self.process(texts)


@dataclass(frozen=True)
class TransformersPixels:
    """The preprocessing of images of a model of transformers.

    Args:
        processor: of the model.
    """

    processor: Any

    def __call__(self, image: Any) -> Tensor:
        """(C, H, W) of a Pillow image."""
        pixels: Tensor = self.processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pixels


@dataclass(frozen=True)
class TransformersIds:
    """The tokenizer of a model of transformers.

    Args:
        tokenizer: of the model.
        length: that texts are padded and cut to.
    """

    tokenizer: Any
    length: int

    def __call__(self, texts: list[str]) -> Tensor:
        """(B, 2, L) ids and attention masks. SigLIP was trained on padding up to the full length."""
        options = {"padding": "max_length", "truncation": True, "max_length": self.length, "return_tensors": "pt"}
        encoded = self.tokenizer(texts, **options)
        return torch.stack(
            [encoded["input_ids"], encoded.get("attention_mask", torch.ones_like(encoded["input_ids"]))], 1
        )


def open_clip_towers(name: str) -> PretrainedTowers:
    """Both towers of a model of open_clip, with its own preprocessing.

    Args:
        name: ``MODEL/TAG``, ``hf-hub:owner/name``, or a folder.

    Raises:
        ConfigError: there is no such model, or its weights cannot be loaded.
    """
    model: Any = open_clip_model(name, pretrained=True, key=KEY)
    full, _ = open_clip_name(name, pretrained=True, key=KEY)
    import open_clip

    with loading(name, "tokenizer", KEY):
        tokenizer = open_clip.get_tokenizer(full)
    settings = open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg)
    preprocess = open_clip.transform.image_transform_v2(settings, is_train=False)
    return _pair(name, model, model.encode_image, model.encode_text, preprocess, tokenizer)


def transformers_towers(name: str) -> PretrainedTowers:
    """Both towers of a CLIP, SigLIP or a like model of transformers, with its own preprocessing.

    Args:
        name: of a repository on the Hugging Face Hub, or a folder that ``save_pretrained`` wrote, of the model and its
            processor.

    Raises:
        ConfigError: there is no such model, it has no two towers, or its weights cannot be loaded.
    """
    config: Any = transformers_config(name, KEY)
    if not (hasattr(config, "vision_config") and hasattr(config, "text_config")):
        raise ConfigError(
            f"{KEY} transformers:{name}: {config.model_type} has no tower of images beside one of texts; give a CLIP "
            "or SigLIP, or train a run with it as a stem"
        )
    model: Any = transformers_model(name, config, pretrained=True, key=KEY)
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise ConfigError(f"{KEY} transformers:{name}: {config.model_type} has no vectors of images and texts")
    with needs_extra(EXTRA, "a model of transformers"):
        from transformers import AutoImageProcessor, AutoTokenizer
    source = str(check_folder(name, ("config.json",), KEY)) if is_folder(name) else name
    with loading(name, "processor of images", KEY):
        processors: Any = AutoImageProcessor
        images = processors.from_pretrained(source, trust_remote_code=False)
    with loading(name, "tokenizer", KEY):
        texts: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    length = config.text_config.max_position_embeddings

    def encode_text(rows: Tensor) -> Any:
        mask = {} if "siglip" in config.model_type else {"attention_mask": rows[:, 1]}
        return _vectors(model.get_text_features(input_ids=rows[:, 0], **mask))

    def encode_image(rows: Tensor) -> Any:
        return _vectors(model.get_image_features(pixel_values=rows))

    preprocess, tokenizer = TransformersPixels(images), TransformersIds(texts, length)
    return _pair(name, model, encode_image, encode_text, preprocess, tokenizer)


def _vectors(output: Any) -> Tensor:
    """The vectors (B, D) that a model of transformers returns, alone or as one of several outputs."""
    vectors: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return vectors


def _pair(
    name: str,
    model: nn.Module,
    encode_image: Callable[[Tensor], Tensor],
    encode_text: Callable[[Tensor], Tensor],
    image: Callable[[Any], Tensor],
    text: Callable[[list[str]], Tensor],
) -> PretrainedTowers:
    images, texts = WholeSamples(ImageProcessing(image), "image"), WholeSamples(TextProcessing(text), "text")
    with torch.no_grad(), loading(name, "features", KEY):
        blank = torch.zeros(3, 8, 8, dtype=torch.uint8)
        width, other = encode_image(images([blank]).x).shape[-1], encode_text(texts(["a"]).x).shape[-1]
    if width != other:
        raise ConfigError(f"{KEY} {name!r}: vectors of images have {width} numbers, and those of texts {other}")
    towers = {
        "image": PretrainedTower("vision", images, encode_image),
        "text": PretrainedTower("text", texts, encode_text),
    }
    return PretrainedTowers(model, towers, width)
