"""Each extra alone: what it brings trains where only its libraries and the core's can be imported."""

from __future__ import annotations

import json
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hrt_mm.core.extras import extras, libraries
from tests.light import Light

COMMANDS = """
from hrt_mm.cli.main import main

for line in arguments:
    code = main(line)
    assert not code, (line, code)
"""
FINE = {"name": "fine", "dim": 16, "depth": 1, "heads": 2, "window": 4, "group": {"type": "fixed", "stride": 2}}
COARSE = {"name": "coarse", "dim": 16, "depth": 1, "heads": 2}
CAUSAL = {"levels": [{**FINE, "reach": "sliding"}, COARSE], "causal": True, "top_down": True}
TRAIN = {"steps": 2, "batch_size": 2, "eval_every": None, "save_every": None, "test": False, "log_every": 1}
CLASSES = {"type": "classification", "level": "coarse"}


@pytest.fixture(scope="module")
def light() -> Iterator[Light]:
    """Processes with the core's libraries alone, and those of extras that are asked for."""
    with Light() as light:
        yield light


def train(light: Light, folder: Path, extra: str | None, *after: list[str], **sections: object) -> Path:
    """Trains two steps with the libraries of an extra alone, and runs other commands after it.

    Returns:
        The folder of the run.
    """
    config = {"model": {"levels": [FINE, COARSE]}, "train": TRAIN, **sections}
    (folder / "config.yaml").write_text(json.dumps(config))
    commands = [["train", "config.yaml", "run.dir=run"], *after]
    light.run(COMMANDS, commands, (extra,) if extra else (), folder)
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum("train/loss" in line for line in lines) == 2
    return folder / "run"


def language(folder: Path) -> dict[str, object]:
    """A language model of bytes, which needs no extra, and a text for it."""
    (folder / "text.txt").write_text("The cat sat on the mat. It saw a dog.\n\n" * 50)
    data = {"type": "corpus", "files": ["text.txt"], "val_files": ["text.txt"], "context": 64}
    return {"modality": {"type": "text"}, "task": {"type": "language"}, "data": data, "model": CAUSAL}


def test_core_trains_a_hierarchy_from_python(light: Light, tmp_path: Path) -> None:
    code = """
import torch
from hrt_mm import FixedGroups, Hierarchy, HierarchyConfig, Level, Tokens

torch.manual_seed(0)
fine = Level(name="fine", dim=16, depth=1, heads=2, window=8, group=FixedGroups(stride=4), pool="attention")
coarse = Level(name="coarse", dim=32, depth=1, heads=2)
model = Hierarchy(HierarchyConfig(levels=(fine, coarse)))
head = torch.nn.Linear(32, 2)
optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-2)
labels_B = torch.tensor([0, 1] * 4)
series = [torch.randn(20 + 4 * i, 16) + label for i, label in enumerate(labels_B)]
losses = []
for _ in range(10):
    loss = torch.nn.functional.cross_entropy(head(model(Tokens.pack(series)).pooled("coarse")), labels_B)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(float(loss))
assert losses[-1] < losses[0] / 2, losses
"""
    light.run(code, [], [], tmp_path)


def test_core_trains_a_language_model_of_bytes(light: Light, tmp_path: Path) -> None:
    train(light, tmp_path, None, **language(tmp_path))


def test_vision(light: Light, tmp_path: Path) -> None:
    modality = {"type": "vision", "channels": 1, "patch": 1}
    data = {"type": "digits", "augment": [{"type": "affine", "degrees": 10}]}
    train(light, tmp_path, "vision", modality=modality, task=CLASSES, data=data)


def test_audio(light: Light, tmp_path: Path) -> None:
    for number in range(8):
        path = tmp_path / "sounds" / ("train", "val")[number >= 4] / "ab"[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        tone_S = 8000 * np.sin(np.arange(4000) * (0.1 + 0.1 * (number % 2)))
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(tone_S.astype("<i2").tobytes())
    data = {"type": "audio_folder", "root": "sounds", "augment": [{"type": "speed", "factor": [0.9, 1.1]}]}
    train(light, tmp_path, "audio", modality={"type": "audio", "rate": 16000}, task=CLASSES, data=data)


def test_video(light: Light, tmp_path: Path) -> None:
    fine = {**FINE, "window": None, "group": {"type": "fixed", "stride": [1, 2, 2]}}
    data = {"type": "rendered_video", "size": [32, 32], "shot_s": [0.5, 0.6], "transition_s": [0.1, 0.2], "train": 4}
    modality = {"type": "video", "patch": 16, "tube": 2, "rate": 6}
    model = {"levels": [fine, COARSE], "top_down": True}
    train(light, tmp_path, "video", modality=modality, model=model, task={"type": "masked"}, data=data)


def test_text(light: Light, tmp_path: Path) -> None:
    fine = {**FINE, "group": {"type": "given", "boundary": "words", "typical": 4}}
    model = {"levels": [fine, COARSE], "top_down": True}
    train(light, tmp_path, "text", **{**language(tmp_path), "model": model, "task": {"type": "masked"}})


def test_report(light: Light, tmp_path: Path) -> None:
    run = train(light, tmp_path, "report", ["diagnose", "run"], **language(tmp_path))
    assert (run / "report" / "groups.png").is_file()


def test_tensorboard(light: Light, tmp_path: Path) -> None:
    run = train(light, tmp_path, "tensorboard", **language(tmp_path))
    assert list((run / "tensorboard").iterdir())


def test_speech(light: Light, tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="the extra `speech` is not installed")
    data = {"type": "synthetic_speech", "content": "digit", "label": "word", "train": 12, "valid": 4, "test": 4}
    train(light, tmp_path, "speech", modality={"type": "audio"}, task=CLASSES, data=data)


def test_retrieval(light: Light, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="the extra `retrieval` is not installed")
    code = """
from hrt_mm.retrieval.neighbours import load_faiss

index = load_faiss("graph").IndexHNSWFlat(4, 8)
"""
    light.run(code, [], ["retrieval"], tmp_path)


def test_demo(light: Light, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    overrides = ["train.steps=2", "train.eval_every=null", "train.save_every=null", "train.test=false"]
    light.run(COMMANDS, [["train", "retrieval/glyphs", "run.dir=run", *overrides]], ["demo"], tmp_path)


USES = {
    "vision": {
        "pillow": "from hrt_modalities.vision.images import read_image; read_image(Path('a.png'), 'a.png')",
        "scikit-learn": "from hrt_modalities.vision.memory import DigitsConfig; "
        "DigitsConfig(type='digits').build('val')",
        "timm": "from hrt_modalities.vision.stems import TimmStem; "
        "TimmStem(type='timm', backbone='resnet18').build(3, 4, None, 8, ())",
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
        "pillow": "from hrt_modalities.video import rendering; rendering._thing(8, False, numpy.random.default_rng(0))",
        "scikit-learn": "from hrt_modalities.video import rendering; rendering._photographs()",
    },
    "text": {
        "icu4py": "from hrt_modalities.text.boundaries import find; find('words', b'a b')",
        "tokenizers": "from hrt_modalities.text.subwords import train_subwords; "
        "train_subwords(['a'], 300, Path('subwords.json'))",
    },
    "report": {"matplotlib": "from hrt_mm.analysis.report import diagnose; diagnose(Path('run'))"},
    "speech": {"espeakng-loader": "from hrt_modalities.audio.synthesis import Engine; Engine()"},
    "shots": {
        "scenedetect": "from hrt_modalities.video.shots import detected; list(detected([], 25.0, 'content', 0.5))",
    },
    "retrieval": {"faiss-cpu": "from hrt_mm.retrieval.neighbours import load_faiss; load_faiss('graph')"},
    "qdrant": {"qdrant-client": "from hrt_mm.retrieval.qdrant import load_qdrant; load_qdrant()"},
    "data": {
        "datasets": "from hrt_modalities.text.hugging_face import HuggingFaceConfig; "
        "HuggingFaceConfig(type='hugging_face', path='corpus').build('train')",
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
    uses = [(extra, library, use) for extra, own in USES.items() for library, use in own.items()]
    out = light.run(MESSAGES, [use for _, _, use in uses], [], tmp_path)
    for (extra, library, use), message in zip(uses, json.loads(out.splitlines()[-1]), strict=True):
        assert library in message and f"pip install 'hrt-mm[{extra}]'" in message, (use, message)


def test_every_library_of_an_extra_has_a_use() -> None:
    assert set(USES) == set(extras()) - ELSEWHERE
    for extra, uses in USES.items():
        inner = {"speech": "audio", "shots": "video"}.get(extra)
        own = set(libraries(extra)) - set(libraries(inner) if inner else ())
        # opencv-python-headless serves scenedetect, and the audio extra bounds torch.
        assert set(uses) == own - {"opencv-python-headless", "torch"}


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
