"""Stems of sounds with pretrained encoders, by configuration: models of transformers, torchaudio and Resemblyzer."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveFloat
from torch import nn

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.extras import MissingLibrary, needs_extra
from hrt_mm.core.initial_weights import needs_weights

from ..common.model_sources import (
    check_folder,
    check_missing,
    check_modality,
    is_folder,
    loading,
    no_such_name,
    transformers_config,
    transformers_model,
)
from ..common.pretrained import PretrainedStem
from .encoders import (
    ResemblyzerEncoder,
    SoundEncoder,
    SoundEncoderEmbedding,
    TorchaudioWaves,
    TransformersWaves,
    TransformersWhisper,
    VoiceEncoder,
)
from .frames import Framing

WAVES = (
    "wav2vec2",
    "hubert",
    "wavlm",
    "unispeech",
    "unispeech-sat",
    "wav2vec2-conformer",
    "data2vec-audio",
)
"""Types of models of transformers that read samples."""
_MASKING = ("wav2vec2", "hubert", "unispeech", "unispeech-sat")
"""Those of them whose transformer is not affected by padding that is masked. Others read batches of equal lengths."""
_PREPROCESSING = ("preprocessor_config.json", "processor_config.json")


class SoundStem(PretrainedStem):
    """A pretrained encoder of sounds."""

    window_s: PositiveFloat = 30.0
    """Seconds that are encoded at once. Longer sounds are encoded in windows that overlap by a quarter, of whose
    outputs those in the middle are used."""

    @abstractmethod
    def framing(self) -> Framing:
        """The sampling rate of the encoder, and the distance and receptive field of its frames in samples.

        Raises:
            ConfigError: there is no such model, or it is one of another modality.
        """

    @abstractmethod
    def encoder(self) -> SoundEncoder:
        """The encoder.

        Raises:
            ConfigError: its weights are missing or damaged, or it has too few layers.
        """

    def longest(self, framing: Framing) -> int:
        """Limit of the tokens that are encoded at once."""
        return max(1, round(self.window_s * framing.rate / framing.hop))

    def build(self, dim: int) -> nn.Module:
        """The stem's module, ``forward(Tokens) -> Tokens``.

        Raises:
            ConfigError: as :meth:`encoder`.
        """
        encoder = self.encoder()
        return SoundEncoderEmbedding(encoder, dim, self.longest(encoder.framing))


class TransformersSound(SoundStem):
    """Frames of an encoder of transformers: wav2vec 2.0, HuBERT, WavLM, UniSpeech, Data2Vec or Whisper."""

    type: Literal["transformers"]

    def framing(self) -> Framing:
        config: Any = self._config()
        extractor = self._extractor(config)
        if config.model_type == "whisper":
            # Two frames of the bands are one frame of the encoder.
            return Framing(extractor.sampling_rate, 2 * extractor.hop_length, 2 * extractor.hop_length)
        hop, window = strides(zip(config.conv_kernel, config.conv_stride, strict=True))
        return Framing(extractor.sampling_rate, hop, window)

    def longest(self, framing: Framing) -> int:
        config: Any = self._config()
        if config.model_type != "whisper":
            return super().longest(framing)
        limit = config.max_source_positions
        if super().longest(framing) > limit:
            raise ConfigError(
                f"stem.window_s {self.window_s:g}: {self.name!r} reads {limit * framing.hop / framing.rate:g} s at "
                "most; lower it"
            )
        # One frame is that of the silence before the sound.
        return min(super().longest(framing), limit - 1)

    def encoder(self) -> SoundEncoder:
        config: Any = self._config()
        framing, extractor = self.framing(), self._extractor(config)
        if config.model_type == "whisper":
            from transformers.models.whisper.modeling_whisper import WhisperEncoder, WhisperModel

            # The decoder is loaded as well, since its weights lie in the same files.
            made = WhisperModel if self.pretrained else WhisperEncoder
            model: Any = transformers_model(self.name, config, pretrained=self.pretrained, model_class=made)
            encoder = model.encoder if isinstance(model, WhisperModel) else model
            encoder.layerdrop = 0.0
            return TransformersWhisper(self.wrap(encoder), framing, extractor)
        # Both regularize whole fine-tuning, and layers that are left out have no gradient. data.augment masks sounds.
        config.apply_spec_augment, config.layerdrop = False, 0.0
        model = transformers_model(self.name, config, pretrained=self.pretrained)
        masks = config.model_type in _MASKING
        return TransformersWaves(self.wrap(model), framing, masks, bool(extractor.do_normalize))

    def _config(self) -> Any:
        config: Any = transformers_config(self.name)
        if config.model_type not in (*WAVES, "whisper"):
            from transformers import MODEL_MAPPING

            models: Any = MODEL_MAPPING
            reads = models[type(config)].main_input_name if type(config) in models else config.model_type
            check_modality(self.name, reads, "sound")
            raise ConfigError(
                f"stem.name {self.name!r} is of type {config.model_type}; stems read {', '.join(WAVES)} and whisper"
            )
        if getattr(config, "add_adapter", False):
            raise ConfigError(f"stem.name {self.name!r} has an adapter after its frames; take a model without one")
        return config

    def _extractor(self, config: Any) -> Any:
        """The library's preparation of sounds; the default of the model where a folder has none."""
        import transformers

        library: Any = transformers
        if not is_folder(self.name) or any((Path(self.name).expanduser() / file).is_file() for file in _PREPROCESSING):
            with loading(self.name, "preprocessor_config.json"):
                return library.AutoFeatureExtractor.from_pretrained(
                    str(Path(self.name).expanduser()), trust_remote_code=False
                )
        if config.model_type == "whisper":
            return library.WhisperFeatureExtractor(feature_size=config.num_mel_bins)
        return library.Wav2Vec2FeatureExtractor()


class TorchaudioSound(SoundStem):
    """Frames of a wav2vec 2.0, HuBERT or WavLM model of torchaudio.

    The name is that of a bundle in ``torchaudio.pipelines``, such as ``WAV2VEC2_BASE``, or a folder with
    ``model.safetensors`` or ``model.pt``, the state of the model, and ``config.json`` with ``params``, the arguments of
    ``torchaudio.models.wav2vec2_model``, and optionally ``type`` (``Wav2Vec2`` or ``WavLM``), ``sample_rate`` and
    ``normalize_waveform``.
    """

    type: Literal["torchaudio"]

    def framing(self) -> Framing:
        settings = self._settings()
        layers = settings["params"]["extractor_conv_layer_config"]
        hop, window = strides((kernel, stride) for _, kernel, stride in layers)
        return Framing(int(settings["sample_rate"]), hop, window)

    def encoder(self) -> SoundEncoder:
        from torchaudio import models

        settings, framing = self._settings(), self.framing()
        factory = models.wavlm_model if settings["type"] == "WavLM" else models.wav2vec2_model
        # Layers that are left out have no gradient.
        params = {**settings["params"], "encoder_layer_drop": 0.0}
        with loading(self.name, "configuration"):
            model: Any = factory(**params)
        if self.pretrained and needs_weights():
            self._load(model)
        model.aux = None
        return TorchaudioWaves(
            self.wrap(model.eval()),
            params["encoder_embed_dim"],
            framing,
            masks=settings["type"] != "WavLM",
            group=params["extractor_mode"] == "group_norm",
            normalize=bool(settings["normalize_waveform"]),
        )

    def _settings(self) -> Mapping[str, Any]:
        with needs_extra("audio", "stem type torchaudio"):
            from torchaudio import pipelines
        if is_folder(self.name):
            file = check_folder(self.name, ("config.json",)) / "config.json"
            with loading(self.name, "configuration"):
                settings = json.loads(file.read_text(encoding="utf-8"))
                layers = settings["params"]["extractor_conv_layer_config"]
                [(int(channels), int(kernel), int(stride)) for channels, kernel, stride in layers]
            return {"type": "Wav2Vec2", "sample_rate": 16_000, "normalize_waveform": False} | settings
        bundle = getattr(pipelines, self.name, None)
        if not isinstance(bundle, pipelines.Wav2Vec2Bundle):
            names = [each for each in dir(pipelines) if isinstance(getattr(pipelines, each), pipelines.Wav2Vec2Bundle)]
            raise no_such_name("torchaudio.pipelines", self.name, names)
        # torchaudio has no public names for these, and its get_model downloads the weights.
        return {
            "type": bundle._model_type,
            "params": bundle._params,
            "sample_rate": bundle._sample_rate,
            "normalize_waveform": bundle._normalize_waveform,
        }

    def _load(self, model: Any) -> None:
        if is_folder(self.name):
            state = read_state(check_folder(self.name, ("config.json",)), self.name)
        else:
            from torchaudio import pipelines

            with loading(self.name):
                loaded: Any = getattr(pipelines, self.name).get_model()
            state = getattr(loaded, "model", loaded).state_dict()
        with loading(self.name):
            report = model.load_state_dict(state, strict=False)
        check_missing(self.name, (key for key in report.missing_keys if not key.startswith("aux.")))


class ResemblyzerStem(SoundStem):
    """The speaker encoder of the package Resemblyzer: for each 10 ms the vector of the sound until then.

    ``pip install --no-deps resemblyzer`` has the weights. The package itself is not imported.
    """

    type: Literal["resemblyzer"]
    name: str = "resemblyzer"
    """The installed package, or a file of weights in its format (``.pt``)."""
    window_s: PositiveFloat = 1.6
    """Seconds that are encoded at once, in training 1.6. Longer sounds are encoded in windows that overlap by a
    quarter, of whose outputs those in the middle are used."""

    def framing(self) -> Framing:
        return Framing(16_000, 160, 400)

    def encoder(self) -> SoundEncoder:
        if self.layers is not None:
            raise ConfigError("stem.layers has no effect with type: resemblyzer; drop it")
        model = VoiceEncoder()
        if self.pretrained and needs_weights():
            file = self._file()
            with loading(str(file)):
                state = torch.load(file, map_location="cpu", weights_only=True)["model_state"]
                report = model.load_state_dict(state, strict=False)
            check_missing(str(file), report.missing_keys)
        return ResemblyzerEncoder(self.wrap(model.eval()), self.framing())

    def _file(self) -> Path:
        if self.name != "resemblyzer":
            file = Path(self.name).expanduser()
            if not file.is_file():
                raise ConfigError(f"stem.name {self.name!r}: there is no such file; give one, or resemblyzer")
            return file
        spec = find_spec("resemblyzer")
        if spec is None or not spec.submodule_search_locations:
            raise MissingLibrary("stem type resemblyzer needs its weights; pip install --no-deps resemblyzer")
        return Path(spec.submodule_search_locations[0]) / "pretrained.pt"


def strides(layers: Any) -> tuple[int, int]:
    """The stride and the receptive field, in samples, of convolutions of (kernel, stride)."""
    hop = window = 1
    for kernel, stride in layers:
        window += (kernel - 1) * hop
        hop *= stride
    return hop, window


def read_state(folder: Path, name: str) -> Mapping[str, torch.Tensor]:
    """The state of a model in a folder.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    if (folder / "model.safetensors").is_file():
        from safetensors.torch import load_file

        with loading(name):
            return load_file(folder / "model.safetensors")
    file = check_folder(name, ("model.pt",)) / "model.pt"
    with loading(name):
        state: Mapping[str, torch.Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        return state
