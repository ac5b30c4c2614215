"""Sounds read by encoders of transformers, torchaudio and Resemblyzer, held to the libraries' own forward passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hrt_mm.core.errors import ConfigError, UserError
from hrt_modalities.audio import encoders
from hrt_modalities.audio.audio import Audio
from hrt_modalities.audio.encoders import SoundEncoderEmbedding, VoiceEncoder
from hrt_modalities.audio.tokenizer import AudioConfig, AudioTokenizer

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
TYPES = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "wav2vec2-conformer", "data2vec-audio")
LENGTHS = (0.5, 0.031, 0.7043, 0.5)


def saved(folder: Path, kind: str, **changes: Any) -> nn.Module:
    """A small random model of a type of transformers, in a folder."""
    torch.manual_seed(0)
    sizes = SIZES | ({"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5} if kind == "data2vec-audio" else {})
    config = transformers.AutoConfig.for_model(kind, **sizes | changes)
    model: nn.Module = transformers.AutoModel.from_config(config)
    model.save_pretrained(folder)  # type: ignore[operator]
    return model.eval()


def saved_whisper(folder: Path, positions: int = 50) -> nn.Module:
    """A small random Whisper that reads sounds of ``positions`` frames of 20 ms."""
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=32,
        num_mel_bins=20,
        max_source_positions=positions,
        vocab_size=60,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    model = transformers.WhisperModel(config)
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=20, chunk_length=positions // 50).save_pretrained(folder)
    encoder: nn.Module = model.eval().encoder
    return encoder


def build(**stem: Any) -> tuple[AudioTokenizer, SoundEncoderEmbedding]:
    tokenizer = AudioConfig.model_validate({"type": "audio", "stem": stem}).build()
    module = tokenizer.embedding(16)
    assert isinstance(module, SoundEncoderEmbedding)
    return tokenizer, module.eval()


def layers_of(module: SoundEncoderEmbedding) -> Any:
    """The layers of a transformer of transformers."""
    model: Any = module.encoder.encoder.encoder
    return model.encoder.layers


def sounds(*seconds: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(round(each * 16000), generator=generator) for each in seconds]


def features(tokenizer: AudioTokenizer, module: SoundEncoderEmbedding, waves: list[Tensor]) -> list[Tensor]:
    tokens = tokenizer([Audio(wave, 16000) for wave in waves])
    with torch.no_grad():
        return list(module.features(tokens).split(tokens.spans.lengths.tolist()))


def padded(wave: Tensor, hop: int = 320, window: int = 400) -> Tensor:
    """A sound as the encoder reads it: half of the overlap before, and zeros after it to whole tokens."""
    before, tokens = (window - hop) // 2, -(-len(wave) // hop)
    return functional.pad(wave, (before, (tokens - 1) * hop + window - before - len(wave)))


@pytest.mark.parametrize("kind", TYPES)
def test_frames_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    model = saved(tmp_path, kind)
    tokenizer, module = build(type="transformers", name=str(tmp_path))
    assert tokenizer.seconds_per_token == 0.02 and tokenizer.features == 400
    extractor = transformers.Wav2Vec2FeatureExtractor()
    waves = sounds(*LENGTHS)
    for wave, result in zip(waves, features(tokenizer, module, waves), strict=True):
        inputs = extractor(padded(wave).numpy(), sampling_rate=16000, return_tensors="pt").input_values
        with torch.no_grad():
            assert torch.allclose(result, model(inputs).last_hidden_state[0], atol=1e-4)
        assert len(result) == -(-len(wave) // 320)


def test_normalization_follows_the_preprocessing_file(tmp_path: Path) -> None:
    model = saved(tmp_path, "hubert", feat_extract_norm="layer")
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path)
    tokenizer, module = build(type="transformers", name=str(tmp_path))
    waves = sounds(0.3, 0.2)
    for wave, result in zip(waves, features(tokenizer, module, waves), strict=True):
        with torch.no_grad():
            assert torch.allclose(result, model(padded(wave)[None]).last_hidden_state[0], atol=1e-5)


def test_frames_are_those_of_whisper(tmp_path: Path) -> None:
    encoder = saved_whisper(tmp_path)
    tokenizer, module = build(type="transformers", name=str(tmp_path), window_s=0.98)
    assert tokenizer.seconds_per_token == 0.02
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(tmp_path)
    waves = sounds(0.5, 0.031, 0.98)
    for wave, result in zip(waves, features(tokenizer, module, waves), strict=True):
        shifted = functional.pad(wave, (160, 0)).numpy()
        inputs = extractor(shifted, sampling_rate=16000, return_tensors="pt").input_features
        tokens = -(-len(wave) // 320)
        with torch.no_grad():
            assert torch.allclose(result, encoder(inputs).last_hidden_state[0, 1 : 1 + tokens], atol=1e-4)
        assert len(result) == tokens


@pytest.mark.parametrize("mode", ["group_norm", "layer_norm"])
def test_frames_are_those_of_torchaudio(tmp_path: Path, mode: str) -> None:
    model, params = torchaudio_model(tmp_path, mode)
    tokenizer, module = build(type="torchaudio", name=str(tmp_path))
    waves = sounds(*LENGTHS)
    for wave, result in zip(waves, features(tokenizer, module, waves), strict=True):
        with torch.no_grad():
            assert torch.allclose(result, model(padded(wave)[None])[0][0], atol=1e-5)
    assert module.encoder.width == params["encoder_embed_dim"]


def torchaudio_model(folder: Path, mode: str = "group_norm") -> tuple[nn.Module, dict[str, Any]]:
    from torchaudio.models import wav2vec2_model

    params = {
        "extractor_mode": mode,
        "extractor_conv_layer_config": [[8, 10, 5], *([[8, 3, 2]] * 4), *([[8, 2, 2]] * 2)],
        "extractor_conv_bias": False,
        "encoder_embed_dim": 32,
        "encoder_projection_dropout": 0.1,
        "encoder_pos_conv_kernel": 16,
        "encoder_pos_conv_groups": 4,
        "encoder_num_layers": 2,
        "encoder_num_heads": 2,
        "encoder_attention_dropout": 0.1,
        "encoder_ff_interm_features": 64,
        "encoder_ff_interm_dropout": 0.1,
        "encoder_dropout": 0.1,
        "encoder_layer_norm_first": mode == "layer_norm",
        "encoder_layer_drop": 0.1,
        "aux_num_out": None,
    }
    torch.manual_seed(0)
    model: nn.Module = wav2vec2_model(**params).eval()
    torch.save(model.state_dict(), folder / "model.pt")
    (folder / "config.json").write_text(json.dumps({"params": params}))
    return model, params


def test_frames_are_those_of_resemblyzer(tmp_path: Path) -> None:
    """The vector of a sound until a frame; bands as in librosa, which transformers reproduces."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    torch.manual_seed(0)
    network = VoiceEncoder()
    torch.save({"model_state": network.state_dict()}, tmp_path / "voices.pt")
    tokenizer, module = build(type="resemblyzer", name=str(tmp_path / "voices.pt"))
    bank = mel_filter_bank(201, 40, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    waves = sounds(0.5, 0.1)
    for wave, result in zip(waves, features(tokenizer, module, waves), strict=True):
        whole = padded(wave, 160, 400)
        bands_FL = spectrogram(
            whole.numpy(), window_function(400, "hann"), 400, 160, power=2.0, center=False, mel_filters=bank
        )
        # The library computes one vector of a sequence of bands, from the last state of its LSTM.
        for frame in (0, len(result) - 1):
            _, (hidden, _) = network.lstm(torch.from_numpy(bands_FL).float().T[None, : frame + 1])
            vector = torch.relu(network.linear(hidden[-1]))[0]
            assert torch.allclose(result[frame], vector / vector.norm(), atol=1e-4)


def test_quiet_sounds_are_raised_for_resemblyzer(tmp_path: Path) -> None:
    torch.save({"model_state": VoiceEncoder().state_dict()}, tmp_path / "voices.pt")
    tokenizer, module = build(type="resemblyzer", name=str(tmp_path / "voices.pt"))
    (wave,) = sounds(0.3)
    loud, quiet, quieter = features(tokenizer, module, [wave, 0.1 * wave, 0.01 * wave])
    assert torch.allclose(quiet, quieter, atol=1e-5) and not torch.allclose(loud, quiet, atol=1e-3)


def stem_of(kind: str, folder: Path) -> dict[str, Any]:
    """A stem with a small encoder whose convolutions do not normalize over time."""
    if kind == "whisper":
        saved_whisper(folder)
        return {"type": "transformers", "name": str(folder), "window_s": 0.98}
    if kind == "torchaudio":
        torchaudio_model(folder, "layer_norm")
        return {"type": "torchaudio", "name": str(folder)}
    saved(folder, kind, feat_extract_norm="layer")
    return {"type": "transformers", "name": str(folder)}


@pytest.mark.parametrize("kind", ["wav2vec2", "whisper", "torchaudio"])
def test_tokens_lie_where_their_frames_are_computed_from(tmp_path: Path, kind: str) -> None:
    """A click changes the first layer's output most at the token whose time contains it."""
    tokenizer, module = build(**stem_of(kind, tmp_path))
    if kind == "wav2vec2":
        # The click would also change the loudness of all other samples.
        module.encoder.normalize = False  # type: ignore[assignment]
    convolutions = {
        "wav2vec2": lambda model: model.feature_extractor,
        "torchaudio": lambda model: model.feature_extractor,
        "whisper": lambda model: model.conv2,
    }[kind](module.encoder.encoder.encoder)
    outputs: list[Tensor] = []

    def store(_module: nn.Module, _inputs: Any, output: Any) -> None:
        frames = (output[0] if isinstance(output, tuple) else output)[0].detach()
        outputs.append(frames if kind == "torchaudio" else frames.T)

    convolutions.register_forward_hook(store)
    for token in (3, 11, 20):
        # Noise without a click and with one in the middle of the token's time.
        (wave,) = sounds(0.5)
        clicked = wave.clone()
        clicked[round((token + 0.5) * tokenizer.seconds_per_token * 16000)] = 0.5
        for each in (wave, clicked):
            features(tokenizer, module, [each])
        without, with_click = outputs[-2:]
        change = (with_click - without).abs().sum(1)[1 if kind == "whisper" else 0 :]
        center = float((change * torch.arange(len(change))).sum() / change.sum())
        assert center == pytest.approx(token, abs=0.3)


def test_long_sounds_are_read_in_windows(tmp_path: Path) -> None:
    """Inside, the outputs of windows are close to those of the whole, and those of a window are used as they are."""
    saved(tmp_path, "wav2vec2", feat_extract_norm="layer", num_conv_pos_embeddings=3, num_conv_pos_embedding_groups=1)
    tokenizer, module = build(type="transformers", name=str(tmp_path), window_s=0.8)
    assert module.longest == 40
    tokens = tokenizer([Audio(wave, 16000) for wave in sounds(2.0, 0.3)])
    with torch.no_grad():
        result = module.features(tokens)
        first, _ = tokens.split()
        wave = module.encoder.prepared(padded(sounds(2.0)[0]))
        (window,) = module.encoder([wave[30 * 320 : 70 * 320 + 80]])
    assert len(result) == 115 and len(first) == 100
    # Windows start at 0, 30 and 60; of the second, 5 outputs at either end are those of its neighbours.
    assert torch.allclose(result[35:65], window[5:35], atol=1e-5)


def test_whisper_reads_no_more_than_it_can(tmp_path: Path) -> None:
    saved_whisper(tmp_path)
    with pytest.raises(ConfigError, match=r"stem.window_s 30: .* reads 1 s at most; lower it"):
        build(type="transformers", name=str(tmp_path))
    tokenizer, module = build(type="transformers", name=str(tmp_path), window_s=1.0)
    assert [len(each) for each in features(tokenizer, module, sounds(3.5, 1.0))] == [175, 50]


def test_batches_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, "wav2vec2")
    tokenizer, module = build(type="transformers", name=str(tmp_path))
    waves = sounds(0.2, 0.5, 0.3, 0.21, 0.4)
    whole = features(tokenizer, module, waves)
    monkeypatch.setattr(encoders, "_BATCH_SECONDS", 0.9)
    assert len(module.encoder._batches([len(wave) for wave in waves])) == 3
    for one, other in zip(whole, features(tokenizer, module, waves), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_gradients_reach_what_is_trained(tmp_path: Path) -> None:
    saved(tmp_path, "wav2vec2")
    for freeze, expected in ((True, [False, False]), (False, [True, True]), (1, [False, True])):
        tokenizer, module = build(type="transformers", name=str(tmp_path), freeze=freeze)
        tokens = tokenizer([Audio(wave, 16000) for wave in sounds(0.2, 0.3)])
        module.train()(tokens).x.sum().backward()
        layers = layers_of(module)
        assert [layer.attention.q_proj.weight.grad is not None for layer in layers] == expected
        assert module.project.weight.grad is not None


def test_adapters_alone_are_trained(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    saved(tmp_path, "hubert")
    stem = {"type": "transformers", "name": str(tmp_path), "lora": {"r": 2, "targets": ["q_proj", "v_proj"]}}
    tokenizer, module = build(**stem)
    module.train()(tokenizer([Audio(wave, 16000) for wave in sounds(0.2, 0.3)])).x.square().sum().backward()
    trained = {name for name, value in module.named_parameters() if value.grad is not None}
    assert len(trained) == 2 + 2 * 2 * 2 and all("lora_" in name or name.startswith("project.") for name in trained)


def test_frozen_frames_are_computed_once(tmp_path: Path) -> None:
    saved(tmp_path / "model", "wav2vec2")
    stem = {"type": "transformers", "name": str(tmp_path / "model"), "freeze": True}
    tokenizer, module = build(**stem, cache={"dir": str(tmp_path / "cache")})
    waves = sounds(0.3, 0.5, 0.2)
    once, again = (features(tokenizer, module, waves[:count]) for count in (2, 3))
    cache = module.encoder.encoder.cache
    assert cache is not None and (cache.hits, cache.misses) == (2, 3)
    uncached = features(*build(**stem), waves)
    for one, other in zip([*once, *again], [*uncached[:2], *uncached], strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    # Smaller windows are other frames.
    features(*build(**stem, window_s=0.1, cache={"dir": str(tmp_path / "cache")}), waves)
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 6


def test_layers_are_cut(tmp_path: Path) -> None:
    model = saved(tmp_path, "hubert")
    tokenizer, module = build(type="transformers", name=str(tmp_path), layers=1)
    (wave,) = sounds(0.3)
    inputs = transformers.Wav2Vec2FeatureExtractor()(padded(wave).numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        expected = model(inputs.input_values, output_hidden_states=True).hidden_states[1][0]
    assert torch.allclose(features(tokenizer, module, [wave])[0], expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["wav2vec2", "whisper", "torchaudio"])
def test_encoders_are_built_without_data_for_checks(tmp_path: Path, kind: str) -> None:
    """As ``hrt-mm config validate`` and ``describe`` do."""
    stem = stem_of(kind, tmp_path)
    with torch.device("meta"):
        _, module = build(**stem)
    _, loaded = build(**stem)
    shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (module, loaded)]
    assert shapes[0] == shapes[1] and module.project.weight.is_meta


def test_random_weights_are_those_of_no_file(tmp_path: Path) -> None:
    saved(tmp_path, "wav2vec2")
    weights = []
    for pretrained in (True, False):
        torch.manual_seed(7)
        _, module = build(type="transformers", name=str(tmp_path), pretrained=pretrained)
        weights.append(layers_of(module)[0].attention.q_proj.weight)
    assert weights[0].shape == weights[1].shape and not torch.allclose(*weights)


def test_bad_encoders_are_explained(tmp_path: Path) -> None:
    bert = tmp_path / "bert"
    transformers.BertModel(
        transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(bert)
    with pytest.raises(ConfigError, match=r"stem.name .*reads text, and the stem embeds sound"):
        build(type="transformers", name=str(bert))
    with pytest.raises(ConfigError, match=r"there is no such folder"):
        build(type="transformers", name=str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"no model 'WAV2VEC2_BAS'; did you mean WAV2VEC2_BASE"):
        build(type="torchaudio", name="WAV2VEC2_BAS")
    with pytest.raises(ConfigError, match=r"there is no such file; give one, or resemblyzer"):
        build(type="resemblyzer", name=str(tmp_path / "nothing.pt"))
    with pytest.raises(ConfigError, match=r"stem.layers has no effect"):
        build(type="resemblyzer", name="x", layers=1)


@pytest.mark.parametrize("file", ["model.safetensors", "model.pt", "voices.pt"])
def test_weights_that_are_cut_short_are_explained(tmp_path: Path, file: str) -> None:
    stem: dict[str, Any]
    if file == "model.safetensors":
        saved(tmp_path, "wav2vec2")
        stem = {"type": "transformers", "name": str(tmp_path)}
    elif file == "model.pt":
        torchaudio_model(tmp_path)
        stem = {"type": "torchaudio", "name": str(tmp_path)}
    else:
        torch.save({"model_state": VoiceEncoder().state_dict()}, tmp_path / file)
        stem = {"type": "resemblyzer", "name": str(tmp_path / file)}
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"stem.name"):
        build(**stem)


def test_a_rate_of_its_own_must_be_set(tmp_path: Path) -> None:
    saved(tmp_path, "wav2vec2")
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(tmp_path)
    stem = {"type": "transformers", "name": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"modality.rate 16000: .* 8000 samples a second; set modality.rate: 8000"):
        build(**stem)
    tokenizer = AudioConfig.model_validate({"type": "audio", "rate": 8000, "stem": stem}).build()
    assert tokenizer.seconds_per_token == 0.04 and len(tokenizer([Audio(torch.zeros(16000), 16000)]).x) == 25


def test_settings_of_other_stems_are_refused(tmp_path: Path) -> None:
    stem = {"type": "transformers", "name": "x"}
    with pytest.raises(ValueError, match=r"mels has no effect with stem.type: transformers; drop it"):
        AudioConfig.model_validate({"type": "audio", "mels": 40, "stem": stem})
    with pytest.raises(ValueError, match=r"frames"):
        AudioConfig.model_validate({"type": "audio", "stem": {**stem, "frames": 2}})
    assert AudioConfig.model_validate({"type": "audio", "stem": {"frames": 2}}).build().features == 160
    saved(tmp_path, "wav2vec2")
    tokenizer, _ = build(type="transformers", name=str(tmp_path))
    with pytest.raises(UserError, match=r"reads whole sounds, and a stream is none"):
        tokenizer.stream()
    with pytest.raises(ConfigError, match=r"a stem of type transformers cannot be exported"):
        tokenizer.dense_axes()
    with pytest.raises(ConfigError, match=r"are no sound"):
        tokenizer.restore(tokenizer([Audio(torch.zeros(800), 16000)]))
