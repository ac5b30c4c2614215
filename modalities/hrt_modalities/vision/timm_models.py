"""Image hierarchies with the interface of timm's models: dense batches of normalized images in, tensors out.

Importing this module registers them with timm: ``timm.create_model("hrt_tiny", features_only=True)``.
``hrt_mm.create_model`` finds them without the import, and takes the folder of a trained run as well.

Shapes: B images, C channels, H rows, W columns, P patch side, h x w cells of a level, D its width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrt_mm.core.block import Block
from hrt_mm.core.errors import ConfigError, UserError
from hrt_mm.core.extras import is_installed, needs_extra
from hrt_mm.core.grids import nested_coords, nested_order
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import CrossScale, FixedGroups, HierarchyConfig, Level
from hrt_mm.core.pyramid import Pyramid
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens

from .patches import patchify
from .stems import ConvPatchEmbedding, ImageConvStem, ImageLinearStem, PatchEmbedding
from .tokenizer import VisionConfig, VisionTokenizer

__all__ = ["HierarchicalVisionTransformer", "from_encoder", "hrt_base", "hrt_small", "hrt_tiny"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_LAYOUTS = 16
"""Batch shapes whose partitions a model remembers."""


@dataclass(frozen=True)
class _Layout:
    """What all batches of a shape share.

    Args:
        spans: one run of tokens per image. Partitions of the batch are cached with them.
        coords_TC: positions of the tokens.
        order: raster index of each cell, in hierarchical order.
        grid: cells along each axis.
    """

    spans: Spans
    coords_TC: Tensor
    order: Tensor
    grid: tuple[int, int]


class HierarchicalVisionTransformer(nn.Module):
    """A hierarchy over image patches, with the interface of timm's models.

    Takes (B, C, H, W) floats of any size on the model's device, normalized as ``pretrained_cfg`` says. Sides that are
    not multiples of the patch are padded at the right and bottom with the last pixels. Parameters have the names of
    the encoder that ``hrt-mm train`` saves.

    Args:
        model: the hierarchy. Every level but the last needs groups of a fixed size, so that each has a feature map.
        patch: side of a patch in pixels.
        stem: how patches become tokens.
        in_chans: number of channels.
        num_classes: number of classes; 0 leaves the classifier out.
        global_pool: pooling of the last map: ``avg``, ``max``, ``avgmax``, ``catavgmax``, or empty for none.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, instead of that of ``model``.

    Raises:
        ConfigError: a level has groups of another kind, or there are auxiliary losses, which this interface cannot
            return.
    """

    def __init__(
        self,
        model: HierarchyConfig,
        *,
        patch: int = 4,
        stem: ImageLinearStem | ImageConvStem | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float | None = None,
    ) -> None:
        with needs_extra("vision"):
            from timm.layers.classifier import ClassifierHead

        super().__init__()
        for level in model.levels[:-1]:
            if not isinstance(level.group, FixedGroups):
                raise ConfigError(
                    f"level {level.name!r} has groups of type {level.group.type if level.group else None}; feature "
                    "maps need fixed groups at every level"
                )
        if model.alignment or model.reconstruction:
            raise ConfigError(
                "alignment and reconstruction are losses, and timm's models return none; set both to 0, or train with "
                "hrt-mm and load the run"
            )
        if drop_path_rate is not None:
            model = model.model_copy(update={"drop_path": drop_path_rate})
        self.patch, self.in_chans, self.num_classes = patch, in_chans, num_classes
        self.hierarchy = Hierarchy(model, axes=2)
        stem = stem or ImageConvStem(type="conv")
        self.embedding = stem.build(in_chans, patch, None, model.levels[0].dim, self.hierarchy.blocks)
        self.num_features = self.head_hidden_size = model.levels[-1].dim
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        # timm counts pixels, the hierarchy counts cells of its first level.
        self.feature_info = [
            {
                **info,
                "reduction": patch * int(str(info["reduction"]).split(".")[0]),
                "module": f"hierarchy.{info['module']}",
            }
            for info in self.hierarchy.feature_info
        ]
        self._layouts: dict[tuple[object, ...], _Layout] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Layouts are rebuilt when they are needed; copies and files do without.
        return self.__dict__ | {"_layouts": {}}

    # Names and arguments below are those of timm's models.

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay, besides vectors and scalars."""
        names: set[str] = set()
        for prefix, module in self.named_modules():
            if module is not self and callable(listed := getattr(module, "no_weight_decay", None)):
                names |= {f"{prefix}.{name}" for name in listed()}
        return names

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that group parameters by depth, for decay of learning rates by layer.

        Paths between levels run after the encoder blocks of all levels, so they are one group above these.
        """
        from timm.models._manipulate import MATCH_PREV_GROUP

        block = r"^hierarchy\.stages\.(\d+)\.encoder" + ("" if coarse else r"\.(\d+)")
        return {
            "stem": r"^embedding",
            # The pooling of a level belongs to its last block.
            "blocks": [(block, None), (r"^hierarchy\.transitions\.(\d+)", MATCH_PREV_GROUP)],
            "paths": r"^hierarchy\.(?:up|down|top_down|stages\.\d+\.decoder)",
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the blocks in the backward pass, to save memory."""
        for module in self.modules():
            if isinstance(module, Block):
                module.checkpointed = enable

    def get_classifier(self) -> nn.Module:
        """The classifier."""
        classifier: nn.Module = self.head.fc
        return classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a new one.

        Args:
            num_classes: number of classes; 0 leaves it out.
            global_pool: as in the constructor; unchanged by default.
        """
        self.num_classes = num_classes
        self.head.reset(num_classes, pool_type=global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, (B, D, h, w), of images (B, C, H, W)."""
        layout = self._layout(x)
        return self._map(self.hierarchy(self._tokens(x, layout)), -1, layout)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, K) logits of a last map (B, D, h, w); the pooled (B, D) features with ``pre_logits``."""
        logits: Tensor = self.head(x, pre_logits=pre_logits)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """(B, K) logits of images (B, C, H, W)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW", "NLC"] = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        return_prefix_tokens: bool = False,
    ) -> Any:
        """The maps of levels.

        Args:
            x: (B, C, H, W) images.
            indices: levels, or an int for the last n; all by default.
            norm: accepted for compatibility: maps are always normalized.
            stop_early: skip levels above the highest of ``indices``, where no path leads down from them.
            output_fmt: NCHW for (B, D, h, w), NLC for (B, h * w, D).
            intermediates_only: return the maps alone.
            output_dict: return a dictionary with ``image_intermediates`` and ``image_features``.
            return_prefix_tokens: accepted for compatibility: there are no prefix tokens.

        Returns:
            The list of maps, the pair of the last map and the list, or the dictionary.

        Raises:
            UserError: the images do not fit.
            ConfigError: unknown ``output_fmt``.
        """
        from timm.models._features import feature_take_indices

        if output_fmt not in ("NCHW", "NLC"):
            raise ConfigError(f"unknown output_fmt {output_fmt!r}; one of NCHW, NLC")
        chosen, highest = feature_take_indices(len(self.hierarchy.stages), indices)
        layout = self._layout(x)
        stops = stop_early and intermediates_only and not self.hierarchy.reads_coarser
        pyramid = self.hierarchy(self._tokens(x, layout), levels=highest + 1 if stops else None)
        maps = [self._map(pyramid, index, layout) for index in chosen]
        if output_fmt == "NLC":
            maps = [each.flatten(2).transpose(1, 2) for each in maps]
        if output_dict:
            last = {} if intermediates_only else {"image_features": self._map(pyramid, -1, layout)}
            return {"image_intermediates": maps} | last
        return maps if intermediates_only else (self._map(pyramid, -1, layout), maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes what :meth:`forward_intermediates` does not need.

        Args:
            indices: as there.
            prune_norm: accepted for compatibility: the norm of a level has no weights.
            prune_head: remove the classifier.

        Returns:
            The indices of the levels.
        """
        from timm.models._features import feature_take_indices

        chosen, highest = feature_take_indices(len(self.hierarchy.stages), indices)
        if highest + 1 < len(self.hierarchy.stages) and not self.hierarchy.reads_coarser:
            levels = list(self.hierarchy.config.levels[: highest + 1])
            levels[-1] = levels[-1].model_copy(update={"group": None})
            config = self.hierarchy.config.model_copy(update={"levels": tuple(levels)})
            if len(levels) == 1:
                config = config.model_copy(update={"cross_scale": CrossScale()})
            pruned = Hierarchy(config, axes=2).to(self.hierarchy.like)
            weights = self.hierarchy.state_dict()
            pruned.load_state_dict({name: weights[name] for name in pruned.state_dict()})
            # The order of the patches depends on the blocks of all levels.
            self.hierarchy = pruned.train(self.training)
            if isinstance(self.embedding, ConvPatchEmbedding):
                self.embedding.blocks = pruned.blocks
            self.num_features = self.head_hidden_size = levels[-1].dim
            self.reset_classifier(0, "")
            self._layouts.clear()
        elif prune_head:
            self.reset_classifier(0, "")
        return list(chosen)

    def _layout(self, x: Tensor) -> _Layout:
        if x.ndim != 4 or x.shape[1] != self.in_chans or not x.is_floating_point():
            raise UserError(
                f"images must be floats of shape (B, {self.in_chans}, H, W), got {x.dtype} {tuple(x.shape)}; normalize "
                "them with the mean and std of pretrained_cfg"
            )
        if not min(x.shape):
            raise UserError(f"images of shape {tuple(x.shape)} are empty; give at least one pixel of one image")
        key = (len(x), tuple(x.shape[2:]), x.device)
        if key not in self._layouts:
            grid = -(-x.shape[2] // self.patch), -(-x.shape[3] // self.patch)
            blocks = self.hierarchy.blocks
            spans = Spans.from_lengths([grid[0] * grid[1]] * len(x), x.device)
            # Outside inference mode, so that training can use what evaluation made.
            with torch.inference_mode(False):
                coords_TC = nested_coords(grid, blocks).to(x.device).repeat(len(x), 1)
                order = nested_order(grid, blocks).to(x.device)
            while len(self._layouts) >= _LAYOUTS:
                self._layouts.pop(next(iter(self._layouts)))
            self._layouts[key] = _Layout(spans, coords_TC, order, grid)
        return self._layouts[key]

    def _tokens(self, x: Tensor, layout: _Layout) -> Tokens:
        right, bottom = -x.shape[3] % self.patch, -x.shape[2] % self.patch
        if right or bottom:
            x = functional.pad(x, (0, right, 0, bottom), "replicate")
        grids = (layout.grid,) * len(x)
        if isinstance(self.embedding, PatchEmbedding):
            patches_TF = patchify(x, self.patch, self.hierarchy.blocks).flatten(0, 1)
            embedded: Tokens = self.embedding(Tokens(patches_TF, layout.spans, layout.coords_TC, grids))
            return embedded
        assert isinstance(self.embedding, ConvPatchEmbedding)
        cells_BND = self.embedding.dense(x).flatten(1, 2)[:, layout.order]
        return Tokens(cells_BND.flatten(0, 1), layout.spans, layout.coords_TC, grids)

    def _map(self, pyramid: Pyramid, index: int, layout: _Layout) -> Tensor:
        """(B, D, h, w) map of a level. All images have one shape, so this is one gather for the whole batch."""
        name = pyramid.name(index)
        tokens = pyramid[name]
        assert tokens.grids is not None
        grid = tokens.grids[0]
        rows = layout.spans.cached(
            ("raster", name, grid),
            lambda: nested_order(grid, pyramid.blocks.get(name, ())).argsort().to(tokens.device),
        )
        raster_BND = tokens.x.unflatten(0, (len(tokens.grids), -1))[:, rows]
        return raster_BND.transpose(1, 2).unflatten(2, grid).contiguous()


def from_encoder(
    encoder: nn.Module,
    tokenizer: VisionTokenizer,
    *,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    **options: Any,
) -> nn.Module:
    """The encoder of a trained vision run with timm's interface; weights are copied.

    Args:
        encoder: of the run's task.
        tokenizer: of the run.
        features_only: return the maps of levels, a list.
        out_indices: the levels; all by default.
        options: of :class:`HierarchicalVisionTransformer`, for the head.

    Raises:
        ConfigError: the stem is a timm backbone, or the model has levels without a feature map.
    """
    config: VisionConfig = tokenizer.config
    hierarchy = encoder.get_submodule("hierarchy")
    assert isinstance(hierarchy, Hierarchy)
    if not isinstance(config.stem, ImageLinearStem | ImageConvStem):
        raise ConfigError(f"the stem is {config.stem.type}; runs with stem linear or conv have timm's interface")
    if config.pad != "edge":
        raise ConfigError(f"modality.pad is {config.pad}; timm's interface pads with the last pixels (pad: edge)")
    # The losses of training are not needed to apply the run.
    model = hierarchy.config.model_copy(update={"alignment": 0.0, "reconstruction": 0.0})
    built = HierarchicalVisionTransformer(
        model, patch=config.patch, stem=config.stem, in_chans=config.channels, **{"num_classes": 0} | options
    )
    names = {name for name in built.state_dict() if not name.startswith("head.")}
    built.load_state_dict({name: value for name, value in encoder.state_dict().items() if name in names}, strict=False)
    mean, std = config.statistics
    built.pretrained_cfg = built.default_cfg = _cfg(  # type: ignore[assignment]
        num_classes=built.num_classes,
        input_size=(config.channels, *(tokenizer.image_size or (224, 224))),
        mean=mean,
        std=std,
        first_conv="embedding.convolutions.0"
        if isinstance(built.embedding, ConvPatchEmbedding)
        else "embedding.project",
    )
    if not features_only:
        if out_indices is not None:
            raise ConfigError("out_indices has no effect without features_only; set that, or drop out_indices")
        return built
    from timm.models._features import FeatureGetterNet

    indices = range(len(model.levels)) if out_indices is None else out_indices
    maps = FeatureGetterNet(built, out_indices=indices if isinstance(indices, int) else tuple(indices))
    maps.pretrained_cfg = maps.default_cfg = built.pretrained_cfg
    return maps


def _cfg(**changes: Any) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "fixed_input_size": False,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "first_conv": "embedding.convolutions.0",
        "classifier": "head.fc",
        "license": "apache-2.0",
    } | changes


default_cfgs: dict[str, Any] = {}
"""Where timm looks for the defaults of a module's models."""


def _config(dims: Sequence[int], depths: Sequence[int]) -> HierarchyConfig:
    """Windows of 8 x 8 cells at the two finest levels and of 16 x 16 at the third; the coarsest has none."""
    names, windows = ("patches", "regions", "areas", "image"), (8, 8, 16, None)
    levels = [
        Level(
            name=name,
            dim=dim,
            depth=depth,
            heads=dim // 32,
            window=window,
            group=FixedGroups(stride=2) if name != names[-1] else None,
            pool="conv" if name != names[-1] else "mean",
        )
        for name, dim, depth, window in zip(names, dims, depths, windows, strict=True)
    ]
    return HierarchyConfig(levels=tuple(levels), cross_scale=CrossScale(up=True, down=True))


def _create(variant: str, pretrained: bool, dims: Sequence[int], depths: Sequence[int], **options: Any) -> nn.Module:
    with needs_extra("vision"):
        from timm.models import build_model_with_cfg

    if pretrained:
        raise UserError(
            f"no weights are published for {variant!r}; leave pretrained out, or give the folder of a trained run to "
            "hrt_mm.create_model"
        )
    built: nn.Module = build_model_with_cfg(
        HierarchicalVisionTransformer,
        variant,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        model=_config(dims, depths),
        **options,
    )
    return built


def hrt_tiny(pretrained: bool = False, **options: Any) -> nn.Module:
    """9 million parameters, with 1,000 classes."""
    return _create("hrt_tiny", pretrained, (64, 128, 256, 384), (1, 2, 4, 2), **options)


def hrt_small(pretrained: bool = False, **options: Any) -> nn.Module:
    """24 million parameters, with 1,000 classes."""
    return _create("hrt_small", pretrained, (96, 192, 384, 576), (2, 2, 6, 2), **options)


def hrt_base(pretrained: bool = False, **options: Any) -> nn.Module:
    """75 million parameters, with 1,000 classes."""
    return _create("hrt_base", pretrained, (128, 256, 512, 1024), (2, 2, 12, 2), **options)


if is_installed("timm"):
    from timm.models import generate_default_cfgs, register_model

    default_cfgs |= generate_default_cfgs({name: _cfg() for name in ("hrt_tiny", "hrt_small", "hrt_base")})
    for _factory in (hrt_tiny, hrt_small, hrt_base):
        register_model(_factory)
