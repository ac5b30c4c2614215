"""The smallest configuration that uses what an extra brings, for tests of light installations.

Imports the standard library alone: ``.ci/check_install.py`` runs it outside of the environments that it makes.
"""

from __future__ import annotations

import json
import math
import struct
import wave
from pathlib import Path

FINE = {"name": "fine", "dim": 16, "depth": 1, "heads": 2, "window": 4, "group": {"type": "fixed", "stride": 2}}
COARSE = {"name": "coarse", "dim": 16, "depth": 1, "heads": 2}
CAUSAL = {"levels": [{**FINE, "window_type": "sliding"}, COARSE], "causal": True, "top_down": True}
TRAIN = {"steps": 2, "batch_size": 2, "eval_every": None, "save_every": None, "test": False, "log_every": 1}
CLASSES = {"type": "classification", "level": "coarse"}
SMALLEST = ("core", "vision", "audio", "video", "text", "report", "tensorboard", "speech")
"""Extras that have one; ``core`` is an installation without extras."""

HIERARCHY = """
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
"""A hierarchy over series of numbers, trained from Python."""


def commands(extra: str, folder: Path) -> list[list[str]]:
    """Writes a configuration and the data that it needs, and gives the commands of ``hrt-mm`` to run.

    Args:
        extra: one of :data:`SMALLEST`.
        folder: takes ``config.yaml`` and the data. The commands are run in it, and train into ``run``.
    """
    config = {"model": {"levels": [FINE, COARSE]}, "train": TRAIN, **_sections(extra, folder)}
    (folder / "config.yaml").write_text(json.dumps(config))
    return [["train", "config.yaml", "run.dir=run"], *([["diagnose", "run"]] if extra == "report" else [])]


def check(extra: str, folder: Path) -> None:
    """Checks what the commands left in the folder."""
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum("train/loss" in line for line in lines) == TRAIN["steps"], lines
    if extra == "report":
        assert (folder / "run" / "report" / "groups.png").is_file()
    if extra == "tensorboard":
        assert list((folder / "run" / "tensorboard").iterdir())


def _sections(extra: str, folder: Path) -> dict[str, object]:
    if extra == "vision":
        return {
            "modality": {"type": "vision", "channels": 1, "patch": 1},
            "task": CLASSES,
            "data": {"type": "digits", "augment": [{"type": "affine", "degrees": 10}]},
        }
    if extra == "audio":
        _write_sounds(folder / "sounds")
        augment = [{"type": "speed", "factor": [0.9, 1.1]}]
        return {
            "modality": {"type": "audio", "rate": 16000},
            "task": CLASSES,
            "data": {"type": "audio_folder", "root": "sounds", "augment": augment},
        }
    if extra == "video":
        fine = {**FINE, "window": None, "group": {"type": "fixed", "stride": [1, 2, 2]}}
        return {
            "modality": {"type": "video", "patch": 16, "tube": 2, "rate": 6},
            "model": {"levels": [fine, COARSE], "top_down": True},
            "task": {"type": "masked"},
            "data": {
                "type": "rendered_video",
                "size": [32, 32],
                "shot_s": [0.5, 0.6],
                "transition_s": [0.1, 0.2],
                "train": 4,
            },
        }
    if extra == "speech":
        return {
            "modality": {"type": "audio"},
            "task": CLASSES,
            "data": {
                "type": "synthetic_speech",
                "content": "digit",
                "label": "word",
                "train": 12,
                "valid": 4,
                "test": 4,
            },
        }
    # Bytes need no library beside the core's.
    (folder / "text.txt").write_text("The cat sat on the mat. It saw a dog.\n\n" * 50)
    data = {"type": "corpus", "files": ["text.txt"], "val_files": ["text.txt"], "context": 64}
    if extra == "text":
        fine = {**FINE, "group": {"type": "given", "boundary": "words", "typical": 4}}
        model: object = {"levels": [fine, COARSE], "top_down": True}
        return {"modality": {"type": "text"}, "model": model, "task": {"type": "masked"}, "data": data}
    return {"modality": {"type": "text"}, "model": CAUSAL, "task": {"type": "language"}, "data": data}


def _write_sounds(root: Path, rate: int = 8000) -> None:
    """Tones of two pitches, half a second each, in the layout ROOT/SPLIT/CLASS/*."""
    for number in range(8):
        path = root / ("train", "val")[number >= 4] / "ab"[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        pitch = 0.1 + 0.1 * (number % 2)
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, rate, 0, "NONE", ""))
            file.writeframes(b"".join(struct.pack("<h", round(8000 * math.sin(n * pitch))) for n in range(rate // 2)))
