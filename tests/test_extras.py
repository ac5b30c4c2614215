"""Each extra alone: what it brings trains where only its libraries and the core's can be imported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from hrt_mm.core.extras import extras, libraries
from tests.light import Light
from tests.smallest import HIERARCHY, SMALLEST, check, commands

COMMANDS = """
from hrt_mm.cli.main import main

for line in arguments:
    code = main(line)
    assert not code, (line, code)
"""


@pytest.fixture(scope="module")
def light() -> Iterator[Light]:
    """Processes with the core's libraries alone, and those of extras that are asked for."""
    with Light() as light:
        yield light


def test_core_trains_a_hierarchy_from_python(light: Light, tmp_path: Path) -> None:
    light.run(HIERARCHY, [], [], tmp_path)


@pytest.mark.parametrize("extra", SMALLEST)
def test_it_trains(extra: str, light: Light, tmp_path: Path) -> None:
    if extra == "speech":
        pytest.importorskip("espeakng_loader", reason="the extra `speech` is not installed")
    light.run(COMMANDS, commands(extra, tmp_path), [] if extra == "core" else [extra], tmp_path)
    check(extra, tmp_path)


def test_retrieval(light: Light, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="the extra `retrieval` is not installed")
    code = """
from hrt_mm.retrieval.neighbours import load_faiss

index = load_faiss("graph").IndexHNSWFlat(4, 8)
"""
    light.run(code, [], ["retrieval"], tmp_path)


def test_demo(light: Light, tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="the extra `demo` is not installed")
    overrides = ["train.steps=2", "train.eval_every=null", "train.save_every=null", "train.test=false"]
    light.run(COMMANDS, [["train", "retrieval/glyphs", "run.dir=run", *overrides]], ["demo"], tmp_path)


USES = {
    "vision": {
        "pillow": "from hrt_modalities.vision.images import read_image; read_image(Path('a.png'), 'a.png')",
        "scikit-learn": "from hrt_modalities.vision.memory import DigitsConfig; "
        "DigitsConfig(type='digits').build('val')",
        "timm": "from hrt_modalities.vision.stems import TimmStem; "
        "TimmStem(type='timm', name='resnet18').build(3, 4, None, 8, ())",
        "torchvision": "from hrt_modalities.vision.augment import Flip, chain; chain([Flip(type='flip')])",
    },
    "audio": {
        "av": "from hrt_modalities.audio.files import read_audio; read_audio(Path('a.mp3'), 'a.mp3')",
        "soundfile": "from hrt_modalities.audio.audio import Audio; from hrt_modalities.audio.files import wav; "
        "wav(Audio(torch.zeros(9), 8000))",
        "torchaudio": "from hrt_modalities.audio.resample import resampled; resampled(torch.zeros(9), 8000, 16000)",
    },
    "video": {
        "av": "from hrt_modalities.video.readers import read_index; read_index(Path('a.mp4'), 'a.mp4')",
        "pillow": "from hrt_modalities.video import rendering; rendering.thing(8, False, numpy.random.default_rng(0))",
        "scikit-learn": "from hrt_modalities.video import rendering; rendering._photographs()",
    },
    "text": {
        "icu4py": "from hrt_modalities.text.boundaries import find; find('words', b'a b')",
        "tokenizers": "from hrt_modalities.text.subwords import train_subwords; "
        "train_subwords(['a'], 300, Path('subwords.json'))",
        "torchmetrics": "from hrt_mm.metrics.texts import check_text_metrics; check_text_metrics()",
    },
    "pretrained": {
        "open-clip-torch": "from hrt_modalities.common.model_sources import open_clip_model; "
        "open_clip_model('ViT-B-32', pretrained=False)",
        "peft": "from hrt_modalities.common.encoder_layers import LoraAdapters, add_adapters; "
        "add_adapters(torch.nn.Linear(2, 2), LoraAdapters())",
        "transformers": "from hrt_modalities.common.model_sources import transformers_config; "
        "transformers_config('bert')",
    },
    "report": {"matplotlib": "from hrt_mm.analysis.report import diagnose; diagnose(Path('run'))"},
    "speech": {"espeakng-loader": "from hrt_modalities.audio.synthesis import Engine; Engine()"},
    "shots": {
        "scenedetect": "from hrt_modalities.video.shots import shot_changes; "
        "list(shot_changes([], 25.0, 'content', 0.5))",
    },
    "retrieval": {"faiss-cpu": "from hrt_mm.retrieval.neighbours import load_faiss; load_faiss('graph')"},
    "serve": {"fastapi": "from hrt_mm.retrieval.server import create_app; create_app(None)"},
    "qdrant": {"qdrant-client": "from hrt_mm.retrieval.qdrant_connection import load_qdrant; load_qdrant()"},
    "export": {"onnx": "from hrt_mm.inference.export import _write_onnx; _write_onnx(None, Path('a.onnx'), {})"},
    "hub": {"huggingface-hub": "from hrt_mm.data.hub import download; download('owner/name')"},
    "completion": {
        "shtab": "from argparse import Namespace; from hrt_mm.cli.completion import _print; _print(Namespace())"
    },
    "sweep": {"optuna": "from hrt_mm.analysis.sweep import load_optuna; load_optuna()"},
    "data": {
        "datasets": "from hrt_modalities.text.hugging_face import HuggingFaceConfig; "
        "HuggingFaceConfig(type='hugging_face', path='corpus').build('train')",
        "pyarrow": "from hrt_mm.data.tables import rows_of; Path('a.parquet').write_bytes(b'PAR1'); "
        "list(rows_of(Path('a.parquet'), 'data.file'))",
    },
}
"""By extra and library, what needs it."""
ELSEWHERE = {"all", "ci", "demo", "dev", "docs", "flash", "peers", "tensorboard", "torchcodec"}
"""Extras of other extras, or for development, and those whose libraries are asked for otherwise: with a warning where
a run goes on without it, or as one of several readers or backends."""
MESSAGES = """
import json
from pathlib import Path

import numpy, torch
from hrt_mm.core.errors import UserError

Path("a.png").touch()
Path("a.mp3").write_bytes(b"ID3" + bytes(999))
Path("a.mp4").touch()
messages = []
for use in arguments:
    try:
        exec(use, dict(globals()))
    except UserError as error:
        messages.append(str(error))
    else:
        messages.append("")
print(json.dumps(messages))
"""


def test_a_missing_library_is_named_with_its_extra(light: Light, tmp_path: Path) -> None:
    uses = [(extra, library, use) for extra, cases in USES.items() for library, use in cases.items()]
    out = light.run(MESSAGES, [use for _, _, use in uses], [], tmp_path)
    for (extra, library, use), message in zip(uses, json.loads(out.splitlines()[-1]), strict=True):
        assert library in message and f"pip install 'hrt-mm[{extra}]'" in message, (use, message)


def test_every_library_of_an_extra_has_a_use() -> None:
    assert set(USES) == set(extras()) - ELSEWHERE
    for extra, uses in USES.items():
        inner = {"speech": "audio", "shots": "video"}.get(extra)
        expected = set(libraries(extra)) - set(libraries(inner) if inner else ())
        # opencv-python-headless serves scenedetect, the audio extra bounds torch, two run FastAPI, and export asks for
        # its three libraries at once.
        others = {"opencv-python-headless", "torch", "uvicorn", "python-multipart", "onnxruntime", "onnxscript"}
        assert set(uses) == expected - others


def test_commands_work_and_list_what_is_missing(light: Light, tmp_path: Path) -> None:
    names = ("vision/digits", "text/matching", "audio/synthetic", "video/quickstart", "retrieval/glyphs")
    configs = [["config", "validate", "--no-data", name] for name in names]
    out = light.run(COMMANDS, [["modalities"], ["doctor"], *configs], [], tmp_path)
    for extra in ("audio", "text", "video", "vision"):
        missing = ", ".join(name for name in libraries(extra) if name != "torch")
        assert f"\n  {missing} not installed: pip install 'hrt-mm[{extra}]'\n" in out
        assert f"extra       {extra}: {missing} not installed" in out
    assert "cannot be used" not in out


def test_a_run_without_its_extra_ends_with_one_line(light: Light, tmp_path: Path) -> None:
    code = """
from hrt_mm.cli.main import main

assert main(["train", "vision/digits", "run.dir=run"]) == 2
"""
    out = light.run(code, [], [], tmp_path)
    assert out == "error: scikit-learn is not installed: pip install 'hrt-mm[vision]'\n"


def test_torch_is_bounded_only_beside_torchaudio() -> None:
    assert not [line for line in metadata.requires("hrt-mm") or () if re.match("torch[^;]*<[^;]*$", line)]
    bounded = {extra for extra in extras() if "torch" in libraries(extra)}
    assert bounded == {extra for extra in extras() if "torchaudio" in libraries(extra)}
    assert "audio" in bounded and "vision" not in bounded
