"""Models by name, or from trained runs, for other people's training loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..core.errors import ConfigError, UserError
from ..data.capabilities import DenseEncoding
from ..data.hub import is_repository
from ..data.registry import modalities, model_factory, model_names
from .trained import load_task


def list_models() -> list[str]:
    """The names that :func:`create_model` takes."""
    return model_names()


def create_model(name: str | Path, pretrained: bool | str | Path = False, **options: Any) -> nn.Module:
    """A model with timm's interface: dense batches of normalized images in, tensors out.

    ``create_model("hrt_tiny", num_classes=10)`` has new weights; ``create_model("runs/flowers", features_only=True)``
    has those of a trained run.

    Args:
        name: one of :func:`list_models`, or the folder of a trained run on images, or ``hub:owner/name``.
        pretrained: the folder of a run, or ``hub:owner/name``, whose encoder initializes the named model. ``True`` is
            refused as long as no weights are published.
        options: as of ``timm.create_model``: ``num_classes``, ``in_chans``, ``global_pool``, ``drop_rate``,
            ``drop_path_rate``; with ``features_only``, the model returns the maps of the levels ``out_indices``.

    Raises:
        ConfigError: there is no such model, or the run is not of images.
        UserError: the weights do not fit.
    """
    if is_repository(name) or Path(name).is_dir():
        if pretrained:
            raise UserError(f"{name} is a trained run, which has its weights already; leave pretrained out")
        return _of_run(Path(name), options)
    if isinstance(pretrained, bool):
        return model_factory(str(name))(pretrained=pretrained, **options)
    model = model_factory(str(name))(**options)
    weights = _encoder_of(load_task(Path(pretrained)).task, Path(pretrained)).state_dict()
    # ``features_only`` wraps the model.
    target = model.get_submodule("model") if options.get("features_only") else model
    current = target.state_dict()
    differing = [key for key, value in weights.items() if key not in current or current[key].shape != value.shape]
    differing += [key for key in current if key not in weights and not key.startswith("head.")]
    if differing:
        raise UserError(
            f"{pretrained} has another encoder than {name}: {', '.join(differing[:3])} differ; give the run's folder "
            "as the name"
        )
    target.load_state_dict(weights, strict=False)
    return model


def _of_run(folder: Path, options: dict[str, Any]) -> nn.Module:
    run = load_task(folder)
    encoder = _encoder_of(run.task, folder)
    modality = modalities()[run.config.single.modality.type]
    if not issubclass(modality, DenseEncoding):
        raise ConfigError(f"{folder} is of modality {modality.name}; create_model takes runs on images")
    (tokenizer,) = run.tokenizers.values()
    return modality.dense_model(encoder, tokenizer, **options)


def _encoder_of(task: nn.Module, folder: Path) -> nn.Module:
    encoder = getattr(task, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ConfigError(f"{folder} has no single encoder; create_model takes runs of one modality")
    return encoder
