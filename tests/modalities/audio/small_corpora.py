"""Small corpora of noise, in the layouts of FSDD and GRID."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile


def sound(path: Path, seconds: float = 0.2, rate: int = 8000, level: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).normal(0, level, round(seconds * rate)), rate)
    return path


def table(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    if file.suffix == ".jsonl":
        file.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        mark = "," if file.suffix == ".csv" else "\t"
        file.write_text("\n".join([mark.join(rows[0]), *(mark.join(map(str, row.values())) for row in rows)]))
    return file


def fsdd(root: Path, takes: int = 4) -> Path:
    rows = []
    for speaker in ("ann", "bob", "cid"):
        for digit, (word, arpabet) in enumerate([("zero", "Z IH1 R OW0"), ("one", "W AH1 N")]):
            for take in range(takes):
                name = f"wav/{digit}_{speaker}_{take}.wav"
                sound(root / name, 0.1 + 0.01 * take)
                split = "test" if take == 0 else "train"
                rows.append({"path": name, "word": word, "arpabet": arpabet, "speaker": speaker, "split": split})
    table(root / "index.tsv", rows)
    return root


def grid(root: Path) -> Path:
    index, words = [], []
    for number in range(8):
        name = f"s{number}"
        sound(root / "audio" / f"{name}.flac", 1.0, 16000)
        split = "test" if number == 0 else "val" if number == 1 else "train"
        index.append({"id": name, "audio": f"audio/{name}.flac", "sentence": "bin blue", "split": split})
        for word, start, end, spoken in [
            ("sil", 0, 0.25, "SIL"),
            ("bin", 0.25, 0.5, "B IH1 N"),
            ("blue", 0.5, 0.75, "B L UW1"),
            ("sil", 0.75, 1, "SIL"),
        ]:
            words.append({"id": name, "word": word, "start_s": start, "end_s": end, "arpabet_canonical": spoken})
    table(root / "index.tsv", index)
    table(root / "words.tsv", words)
    return root
