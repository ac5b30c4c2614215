"""Pretrained image encoders of timm, transformers and open_clip, for the stems of images and videos.

Shapes: N images, C channels, H rows, W columns, h x w cells of the encoder's grid, L tokens, D width.
"""

from __future__ import annotations

import inspect
import json
from abc import abstractmethod
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from pydantic import field_validator
from torch import Tensor, nn

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.extras import is_installed, needs_extra
from hrt_mm.core.initial_weights import needs_weights
from hrt_mm.core.tokens import Tokens

from ..common.encoder_layers import EXTRA
from ..common.model_sources import (
    check_folder,
    check_modality,
    is_folder,
    loading,
    no_such_name,
    open_clip_model,
    open_clip_name,
    transformers_config,
    transformers_model,
)
from ..common.pretrained import PretrainedStem, StemEncoder
from .patches import Blocks, through_images

Colors = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of the channels."""


class ImageEncoder(nn.Module):
    """An image encoder of a library: images (N, C, H, W) to maps (N, h, w, D).

    Args:
        model: of the library.
        takes_any_size: whether images may be of any size, a multiple of the reduction.
    """

    def __init__(self, model: nn.Module, *, takes_any_size: bool) -> None:
        super().__init__()
        self.model, self.takes_any_size = model, takes_any_size

    @abstractmethod
    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Maps (N, h, w, D)."""


class ImageEncoderStem(PretrainedStem):
    """Stems of images and videos with a pretrained encoder."""

    library: ClassVar[str]

    @property
    @abstractmethod
    def statistics(self) -> Colors:
        """Mean and standard deviation of the pixels that the encoder was trained with.

        Raises:
            ConfigError: the model has none.
        """

    @abstractmethod
    def load(self, channels: int, patch: int, size: tuple[int, int] | None) -> ImageEncoder:
        """The encoder of the library, uncut.

        Args:
            channels: of the images.
            patch: the reduction that its map must have.
            size: of the images; ``None`` for any.

        Raises:
            ConfigError: there is no such model, it has no map of this reduction, or its weights cannot be loaded.
        """

    def build(self, channels: int, patch: int, size: tuple[int, int] | None, dim: int, blocks: Blocks) -> nn.Module:
        """The stem's module, ``forward(Tokens) -> Tokens``.

        Raises:
            ConfigError: the encoder cannot be loaded, or does not fit the images.
        """
        return BackboneEmbedding(*self.encoder(channels, patch, size), patch, dim, blocks)

    def encoder(self, channels: int, patch: int, size: tuple[int, int] | None) -> tuple[StemEncoder, int]:
        """The encoder as it is trained, and the width of its map.

        Args:
            channels: of the images.
            patch: the reduction that its map must have.
            size: of the images; ``None`` for any.

        Raises:
            ConfigError: see :meth:`load`; or the encoder takes images of another size.
        """
        loaded = self.load(channels, patch, size)
        if size is None and not loaded.takes_any_size:
            raise ConfigError(f"backbone {self.name!r} takes images of one size only; set size")
        encoder = self.wrap(loaded)
        height, width = (-(-side // patch) * patch for side in size) if size else (8 * patch, 8 * patch)
        was_training = encoder.training
        try:
            with torch.no_grad():
                maps: Tensor = encoder.eval()(torch.zeros(1, channels, height, width))
        except Exception as error:
            raise ConfigError(
                f"stem.name {self.name!r}: the encoder cannot read images of {height}x{width} ({error}); set size, and "
                "patch to its patch"
            ) from error
        encoder.train(was_training)
        rows, columns = maps.shape[1:3]
        if (rows, columns) != (height // patch, width // patch):
            raise ConfigError(
                f"stem.name {self.name!r}: the encoder has a map of {rows}x{columns} cells for images of "
                f"{height}x{width}, and not of {height // patch}x{width // patch}; set patch to {height / rows:g}"
            )
        return encoder, maps.shape[3]


def statistics(
    stem: object, channels: int, mean: float | tuple[float, ...] | None, std: float | tuple[float, ...] | None
) -> Colors:
    """Mean and standard deviation of each channel.

    Args:
        stem: whose encoder has those of its training, if it is a pretrained one.
        channels: of the images; values for another number of channels are averaged.
        mean: one number or one per channel; that of the encoder, or 0.5, if ``None``.
        std: likewise.

    Raises:
        ConfigError: they are not given, and the encoder has none.
    """
    default: Colors = ((0.5,), (0.5,))
    if isinstance(stem, ImageEncoderStem) and (mean is None or std is None):
        default = stem.statistics
    each = []
    for value, other in ((mean, default[0]), (std, default[1])):
        values = other if value is None else value if isinstance(value, tuple) else (value,)
        each.append(values if len(values) == channels else (sum(values) / len(values),) * channels)
    return each[0], each[1]


def check_statistics(channels: int, **values: float | tuple[float, ...] | None) -> None:
    """Checks that there are as many numbers as channels.

    Args:
        channels: of the images.
        values: the numbers, by their keys.

    Raises:
        ValueError: there are not.
    """
    for key, value in values.items():
        if isinstance(value, tuple) and len(value) not in (1, channels):
            raise ValueError(f"{key} has {len(value)} numbers, but channels is {channels}; give 1 or as many")


class BackboneEmbedding(nn.Module):
    """An encoder over whole images, in buckets of equal sizes, with a linear map to the level's width.

    Batch statistics, if the encoder has them and is not frozen, are those of a bucket.
    """

    def __init__(self, backbone: StemEncoder, width: int, patch: int, dim: int, blocks: Blocks) -> None:
        super().__init__()
        self.patch, self.blocks, self.backbone = patch, blocks, backbone
        self.project = nn.Linear(width, dim)

    def forward(self, tokens: Tokens) -> Tokens:
        """(T, F) to (T, D)."""
        return through_images(tokens, self.patch, self.blocks, self.dense)

    def dense(self, images_NCHW: Tensor) -> Tensor:
        """Images to maps (N, h, w, D)."""
        mapped: Tensor = self.project(self.backbone.features(images_NCHW))
        return mapped


class TimmStem(ImageEncoderStem):
    """Patches of a timm ViT after its norm, or the feature map of a timm CNN with the reduction ``patch``."""

    type: Literal["timm"]
    name: str
    """Name of the model in timm, ``hf-hub:owner/name``, or a folder that ``timm.models.save_for_hf`` wrote."""

    library = "timm"
    deprecated_keys = {"backbone": "name", "frozen": "freeze"}

    @field_validator("name")
    @classmethod
    def _exists(cls, value: str) -> str:
        # Folders and repositories may be gone where a trained run is loaded.
        if is_installed("timm") and not (is_folder(value) or value.startswith("hf-hub:")):
            import timm

            if not timm.is_model(value):
                raise no_such_name("timm", value, timm.list_models(), "name")
        return value

    @property
    def statistics(self) -> Colors:
        with needs_extra("vision"):
            return _timm_colors(self._full_name(), self.name)

    def _full_name(self) -> str:
        """The name as timm takes it.

        Raises:
            ConfigError: there is no such folder.
        """
        return f"local-dir:{check_folder(self.name, ('config.json',))}" if is_folder(self.name) else self.name

    def load(self, channels: int, patch: int, size: tuple[int, int] | None) -> ImageEncoder:
        name = self._full_name()
        with needs_extra("vision"):
            import timm

        options: dict[str, Any] = {"in_chans": channels, "num_classes": 0}
        loads = self.pretrained and needs_weights()
        with loading(self.name):
            try:
                # Vision transformers then interpolate their position embeddings.
                model = timm.create_model(name, pretrained=loads, dynamic_img_size=True, **options)
            except TypeError:
                model = nn.Identity()
        if hasattr(model, "num_prefix_tokens"):
            return _TimmPatches(model)
        return self._maps(name, channels, patch, size)

    def _maps(self, name: str, channels: int, patch: int, size: tuple[int, int] | None) -> ImageEncoder:
        """A feature map of a model that is not a plain vision transformer."""
        import timm

        options: dict[str, Any] = {"features_only": True, "in_chans": channels}
        pretrained = None if ":" in name else timm.models.get_pretrained_cfg(name)
        fixed = pretrained is not None and pretrained.fixed_input_size
        if fixed and size is not None:
            options["img_size"] = size
        try:
            maps: Any = timm.create_model(name, **options).feature_info
        except Exception as error:
            raise ConfigError(f"timm cannot make feature maps of {self.name!r}: {error}") from error
        reductions = list(maps.reduction())
        if patch not in reductions:
            choices = ", ".join(map(str, sorted(set(reductions))))
            raise ConfigError(f"backbone {self.name!r} has no feature map at patch {patch}; set patch to {choices}")
        index = len(reductions) - 1 - reductions[::-1].index(patch)
        options["out_indices"] = (maps.out_indices[index],)
        with loading(self.name):
            loads = self.pretrained and needs_weights()
            model = timm.create_model(name, pretrained=loads, **options)
        return _TimmMap(model, maps.channels()[index], takes_any_size=not fixed)


@cache
def _timm_colors(full: str, name: str) -> Colors:
    import timm

    if ":" not in full:
        config = timm.models.get_pretrained_cfg(full)
        return (tuple(config.mean), tuple(config.std)) if config else ((0.5,), (0.5,))
    with loading(name, "configuration"):
        if full.startswith("hf-hub:"):
            settings: Any = timm.models.load_model_config_from_hf(full.removeprefix("hf-hub:"))[0]
        else:
            saved = json.loads((Path(full.removeprefix("local-dir:")) / "config.json").read_text("utf-8"))
            settings = saved.get("pretrained_cfg", saved)
        return _colors(name, settings.get("mean"), settings.get("std"))


def _colors(name: str, mean: Any, std: Any) -> Colors:
    if not all(
        isinstance(values, list | tuple) and values and all(isinstance(value, int | float) for value in values)
        for values in (mean, std)
    ):
        raise ConfigError(f"stem.name {name!r}: the model has no mean and std of pixels; set modality.mean and std")
    return tuple(map(float, mean)), tuple(map(float, std))


class _TimmPatches(ImageEncoder):
    """A vision transformer of timm: its patches after the last norm, without prefix tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, takes_any_size=True)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        model: Any = self.model
        tokens_NLD: Tensor = model.forward_features(images_NCHW)
        rows = images_NCHW.shape[2] // model.patch_embed.patch_size[0]
        return rearrange(tokens_NLD[:, model.num_prefix_tokens :], "n (h w) d -> n h w d", h=rows)


class _TimmMap(ImageEncoder):
    """One feature map of a model of timm, of a width."""

    def __init__(self, model: nn.Module, width: int, *, takes_any_size: bool) -> None:
        super().__init__(model, takes_any_size=takes_any_size)
        self.width = width

    def forward(self, images_NCHW: Tensor) -> Tensor:
        (features,) = self.model(images_NCHW)
        # Some models, such as Swin, have the features last already.
        return features if features.shape[1] != self.width else rearrange(features, "n d h w -> n h w d")


class TransformersImageStem(ImageEncoderStem):
    """The last hidden state of an image model of transformers, or of the image tower of a CLIP or SigLIP."""

    type: Literal["transformers"]
    name: str
    """A repository of the Hugging Face Hub, or a folder that ``save_pretrained`` wrote."""

    library = "transformers"

    @property
    def statistics(self) -> Colors:
        return _transformers_colors(self.name)

    def load(self, channels: int, patch: int, size: tuple[int, int] | None) -> ImageEncoder:
        config, model_class = image_tower(self.name)
        if getattr(config, "num_channels", channels) != channels:
            raise ConfigError(
                f"stem.name {self.name!r} takes images of {config.num_channels} channels; set channels to it"
            )
        model: Any = transformers_model(self.name, config, pretrained=self.pretrained, model_class=model_class)
        if any(True for _ in getattr(model, "pooler", nn.Identity()).parameters()):
            model.pooler = None
        if getattr(model, "use_head", False):
            model.use_head, model.head = False, None
        return _TransformersMap(model)


def image_tower(name: str) -> tuple[Any, Any]:
    """The configuration and the class of a model of transformers that reads images, or of its vision tower.

    Raises:
        ConfigError: the model reads something else.
    """
    config: Any = transformers_config(name)
    from transformers import MODEL_MAPPING

    tower = getattr(config, "vision_config", None)
    if tower is not None and hasattr(config, "text_config"):
        config = tower
    # A tower of two has no entry of its own in some releases.
    model_class: Any = MODEL_MAPPING.get(type(config), None)
    if model_class is None:
        raise ConfigError(f"stem.name {name!r}: transformers has no encoder of {config.model_type!r} alone")
    if isinstance(model_class, tuple):
        model_class = model_class[0]
    check_modality(name, model_class.main_input_name, "images")
    return config, model_class


@cache
def _transformers_colors(name: str) -> Colors:
    with needs_extra(EXTRA, "stem type transformers"):
        from transformers import BaseImageProcessor
    try:
        settings, _ = BaseImageProcessor.get_image_processor_dict(name)
    except OSError as error:
        raise ConfigError(
            f"stem.name {name!r}: the model has no preprocessor_config.json with the mean and std of pixels; set "
            "modality.mean and std"
        ) from error
    return _colors(name, settings.get("image_mean"), settings.get("image_std"))


class _TransformersMap(ImageEncoder):
    """The last hidden state of a model of transformers."""

    def __init__(self, model: Any) -> None:
        parameters = inspect.signature(model.forward).parameters
        self._interpolates = "interpolate_pos_encoding" in parameters
        super().__init__(model, takes_any_size=True)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        options = {"interpolate_pos_encoding": True} if self._interpolates and self._resized(images_NCHW) else {}
        output: Any = self.model(pixel_values=images_NCHW, **options)
        states: Tensor = output.last_hidden_state
        if states.ndim == 4:
            return rearrange(states, "n c h w -> n h w c")
        height, width = images_NCHW.shape[2:]
        prefix, (rows, columns) = self._grid(states.shape[1], height, width)
        return rearrange(states[:, prefix:], "n (h w) d -> n h w d", h=rows, w=columns)

    def _resized(self, images_NCHW: Tensor) -> bool:
        """Whether the images are of another size than the model was trained on."""
        config: Any = self.model.config
        size = getattr(config, "image_size", None)
        return tuple(images_NCHW.shape[2:]) != (tuple(size) if isinstance(size, list | tuple) else (size, size))

    def _grid(self, length: int, height: int, width: int) -> tuple[int, tuple[int, int]]:
        """Number of prefix tokens, and cells of the map. Later stages of a hierarchical model halve its grid."""
        config: Any = self.model.config
        patch = getattr(config, "patch_size", 1)
        patch = patch[0] if isinstance(patch, list | tuple) else patch
        while True:
            rows, columns = height // patch, width // patch
            if rows * columns <= length:
                return length - rows * columns, (rows, columns)
            patch *= 2


class OpenClipImageStem(ImageEncoderStem):
    """The patches of the image tower of a model of open_clip, after its norm."""

    type: Literal["open_clip"]
    name: str
    """``MODEL/TAG`` with a tag of open_clip's weights, ``hf-hub:owner/name``, or a folder that
    ``open_clip.push_to_hf_hub.save_for_hf`` wrote."""

    library = "open_clip"

    @property
    def statistics(self) -> Colors:
        return open_clip_colors(self.name, self.pretrained)

    def load(self, channels: int, patch: int, size: tuple[int, int] | None) -> ImageEncoder:
        if channels != 3:
            raise ConfigError(f"stem.name {self.name!r} takes images of 3 channels, got {channels}; set channels to 3")
        visual: Any = open_clip_model(self.name, pretrained=self.pretrained, image_size=size).visual
        return _OpenClipMap(visual)


@cache
def open_clip_colors(name: str, pretrained: bool) -> Colors:
    """Mean and standard deviation of the pixels that a model of open_clip was trained with.

    Raises:
        ConfigError: there is no such model.
    """
    full, tag = open_clip_name(name, pretrained=pretrained)
    import open_clip

    settings: Any = {}
    with loading(name, "configuration"):
        if full.startswith("local-dir:"):
            folder = Path(full.removeprefix("local-dir:"))
            settings = json.loads((folder / "open_clip_config.json").read_text("utf-8")).get("preprocess_cfg", {})
        elif full.startswith("hf-hub:"):
            settings = open_clip.factory._get_hf_config(full.removeprefix("hf-hub:")).get("preprocess_cfg", {})
        elif tag is not None:
            settings = open_clip.get_pretrained_cfg(full, tag)
    constants = open_clip.constants
    return _colors(
        name, settings.get("mean", constants.OPENAI_DATASET_MEAN), settings.get("std", constants.OPENAI_DATASET_STD)
    )


class _OpenClipMap(ImageEncoder):
    """The image tower of open_clip."""

    def __init__(self, visual: Any) -> None:
        super().__init__(visual, takes_any_size=type(visual).__name__ == "ModifiedResNet")
        for unused in ("proj", "head"):
            if isinstance(getattr(visual, unused, None), nn.Parameter):
                setattr(visual, unused, None)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        visual: Any = self.model
        output = visual.forward_intermediates(
            images_NCHW, indices=1, normalize_intermediates=True, intermediates_only=True
        )
        return rearrange(output["image_intermediates"][-1], "n c h w -> n h w c")
