"""Models of transformers and open_clip by name or local folder, with errors that name the key and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.extras import needs_extra
from hrt_mm.core.initial_weights import needs_weights

from .encoder_layers import EXTRA

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_UNUSED = ("pooler", "position_ids", "masked_spec_embed", "mask_token", "lm_head", "head.")
"""Parts of names of weights that a stem does not read, and that a checkpoint may lack."""


def is_folder(name: str) -> bool:
    """Whether a name is that of a local folder: one that exists, or a path that cannot be a name."""
    return Path(name).expanduser().is_dir() or name.startswith((".", "/", "~")) or name.count("/") > 1


def check_folder(name: str, files: Iterable[str], key: str = "stem.name") -> Path:
    """The local folder of a name.

    Args:
        name: path of the folder.
        files: that it must contain.
        key: that the name was given by, for messages.

    Raises:
        ConfigError: there is no such folder, or a file is missing.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{key} {name!r}: there is no such folder; give one with {' and '.join(files)}")
    for file in files:
        if not (folder / file).is_file():
            raise ConfigError(f"{key} {name!r}: the folder has no {file}; save the model with its own library again")
    return folder


def no_such_name(library: str, name: str, names: Iterable[str], key: str = "stem.name") -> ConfigError:
    """The error for a name that a library does not have, with the nearest that it has."""
    near = difflib.get_close_matches(name, list(names), 3)
    hint = f"did you mean {', '.join(near)}?" if near else "give a name that it lists, or a folder"
    return ConfigError(f"{key} {name!r}: {library} has no model {name!r}; {hint}")


@contextmanager
def loading(name: str, what: str = "weights", key: str = "stem.name") -> Iterator[None]:
    """Turns errors of a library that loads a model into one that names key, value and fix.

    Args:
        name: of the model.
        what: is loaded.
        key: that the name was given by.

    Raises:
        ConfigError: in place of any other exception.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{key} {name!r}: {_reason(name, what, error)}") from error


def _reason(name: str, what: str, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    text = " ".join(line.strip() for line in lines[:3])[:300] or type(error).__name__
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 10:
        chain.append(f"{type(cause).__name__} {cause}".lower())
        cause = cause.__cause__ or cause.__context__
    whole = " ".join(chain)
    if is_folder(name):
        return f"the {what} cannot be read ({text}); they may be cut short or damaged: save or download them again"
    offline = ("couldn't connect", "connecterror", "name resolution", "name or service", "offline", "connectionerror")
    if any(sign in whole for sign in (*offline, "urlopen error", "localentrynotfound")):
        return (
            f"the {what} are neither in the cache nor reachable ({text}); run once where there is internet, give a "
            "local folder, or set pretrained: false if the library has the model"
        )
    if any(sign in whole for sign in ("repositorynotfound", "not a valid model identifier", "404", "repo id must")):
        return f"there is no such model ({text}); check the name, or give a local folder"
    if "trust_remote_code" in whole or "execute" in whole:
        return "the model needs code of its repository, which is never run; choose one that the library has itself"
    return f"the {what} cannot be loaded ({text})"


def transformers_config(name: str, key: str = "stem.name") -> PreTrainedConfig:
    """The configuration of a model of transformers.

    Args:
        name: of a repository on the Hugging Face Hub, or a folder that ``save_pretrained`` wrote.
        key: that the name was given by.

    Raises:
        ConfigError: there is no such model, or it needs code of its own.
    """
    with needs_extra(EXTRA, "stem type transformers"):
        from transformers import AutoConfig
    if is_folder(name):
        name = str(check_folder(name, ("config.json",), key))
    with loading(name, "configuration", key):
        return AutoConfig.from_pretrained(name, trust_remote_code=False)


def transformers_model(
    name: str, config: PreTrainedConfig, *, pretrained: bool, model_class: Any = None, key: str = "stem.name"
) -> nn.Module:
    """A model of transformers in float32, in evaluation mode, with its own or random weights.

    Args:
        name: of a repository on the Hugging Face Hub, or a folder that ``save_pretrained`` wrote.
        config: of the model, or of the tower to build.
        pretrained: load the weights.
        model_class: the model's class; the one that transformers has for ``config`` when absent.
        key: that the name was given by.

    Raises:
        ConfigError: weights are missing, cut short, or of another shape.
    """
    with needs_extra(EXTRA, "stem type transformers"):
        from transformers import AutoModel
        from transformers.utils import logging
    made: Any = model_class or AutoModel
    if not (pretrained and needs_weights()):
        with loading(name, "configuration", key):
            model: nn.Module = made._from_config(config) if model_class else made.from_config(config)
        return model.float().eval()
    if is_folder(name):
        name = str(check_folder(name, ("config.json",), key))
    messages: Any = logging
    level = messages.get_verbosity()
    # Its report of missing and unexpected weights is checked below.
    messages.set_verbosity_error()
    messages.disable_progress_bar()
    try:
        with loading(name, "weights", key):
            model, report = made.from_pretrained(
                name, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
            )
    finally:
        messages.set_verbosity(level)
    check_missing(name, report["missing_keys"], key)
    return model.eval()


def check_missing(name: str, missing: Iterable[str], key: str = "stem.name") -> None:
    """Refuses weights of which some are missing, except those that stems do not read.

    Raises:
        ConfigError: names the first of them.
    """
    needed = sorted(each for each in missing if not any(part in each for part in _UNUSED))
    if needed:
        listed = ", ".join(needed[:3]) + (f" and {len(needed) - 3} more" if len(needed) > 3 else "")
        raise ConfigError(
            f"{key} {name!r}: the file of weights lacks {listed}; it is of another kind of model or cut short: save or "
            "download it again"
        )


INPUTS = {
    "pixel_values": "images",
    "pixel_values_videos": "videos",
    "input_values": "sound",
    "input_features": "sound",
    "input_ids": "text",
}
"""What an encoder of transformers reads, by the name of its main input."""


def check_modality(name: str, reads: str, expected: str, key: str = "stem.name") -> None:
    """Refuses an encoder of another modality.

    Args:
        name: of the model.
        reads: the name of its main input, as in transformers.
        expected: what the stem embeds, a value of :data:`INPUTS`.
        key: that the name was given by.

    Raises:
        ConfigError: names both.
    """
    modality = INPUTS.get(reads, reads)
    if modality != expected:
        raise ConfigError(f"{key} {name!r}: this model reads {modality}, and the stem embeds {expected}")


def open_clip_name(name: str, *, pretrained: bool, key: str = "stem.name") -> tuple[str, str | None]:
    """The name of a model as open_clip takes it, and the tag of its weights.

    Args:
        name: a folder with ``open_clip_config.json``, a repository of the Hugging Face Hub as ``hf-hub:owner/name``, or
            a model of open_clip, with the tag of its weights as ``MODEL/TAG``.
        pretrained: whether weights are to be loaded.
        key: that the name was given by.

    Raises:
        ConfigError: there is no such folder, model or tag.
    """
    with needs_extra(EXTRA, "a model of open_clip"):
        import open_clip
    if name.startswith("hf-hub:"):
        return name, None
    if is_folder(name):
        return f"local-dir:{check_folder(name, ('open_clip_config.json',), key)}", None
    model, _, tag = name.partition("/")
    if model not in open_clip.list_models():
        raise no_such_name("open_clip", model, open_clip.list_models(), key)
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained and tag not in tags:
        described = f"has no weights {tag!r}" if tag else "has several weights" if tags else "has no weights"
        fix = f"give {key}: {model}/TAG with a tag of {', '.join(tags)}" if tags else "set pretrained: false"
        raise ConfigError(f"{key} {name!r}: {model} {described}; {fix}")
    return model, tag if pretrained else None


def open_clip_model(
    name: str, *, pretrained: bool, image_size: tuple[int, int] | None = None, key: str = "stem.name"
) -> nn.Module:
    """Both towers of a model of open_clip in float32, in evaluation mode, with its own or random weights.

    Args:
        name: see :func:`open_clip_name`.
        pretrained: load the weights.
        image_size: rows and columns of the images; that of the model when absent. Position embeddings are interpolated.
        key: that the name was given by.

    Raises:
        ConfigError: there is no such model, or its weights are missing or damaged.
    """
    pretrained = pretrained and needs_weights()
    full, tag = open_clip_name(name, pretrained=pretrained, key=key)
    import open_clip

    with loading(name, "weights", key):
        # Text towers of transformers would load weights of their own.
        options: dict[str, Any] = {
            "load_weights": pretrained,
            "device": str(torch.get_default_device()),
            "require_pretrained": pretrained,
        }
        options |= {"pretrained_text": False, "force_image_size": image_size, "weights_only": True}
        model: nn.Module = open_clip.create_model(full, tag, **options)
    return model.float().eval()
