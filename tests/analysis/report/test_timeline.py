from __future__ import annotations

import torch

from hrt_mm.analysis.report.style import style
from hrt_mm.analysis.report.timeline import draw_timeline, recognized
from hrt_mm.analysis.report.view import View
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.tasks import CTCConfig
from hrt_mm.tasks.encoder import Encoder
from hrt_modalities.audio import Audio, AudioConfig, AudioModality

LEVELS = (
    {"name": "frames", "dim": 8, "heads": 2, "depth": 1, "group": {"type": "fixed", "stride": 4}},
    {"name": "phonemes", "dim": 8, "heads": 2, "depth": 1, "group": {"type": "fixed", "stride": 5}},
    {"name": "words", "dim": 8, "heads": 2, "depth": 1},
)


def test_levels_and_labels_are_drawn_in_seconds() -> None:
    torch.manual_seed(0)
    tokenizer = AudioConfig(type="audio").build()
    model = HierarchyConfig.model_validate({"levels": LEVELS})
    task = CTCConfig(type="ctc", unit="words", level="phonemes").build(
        HierarchyConfig.model_validate({"levels": [*LEVELS[:1], {**LEVELS[1], "group": None}]}), tokenizer, ("a", "b")
    )
    torch.nn.init.normal_(task.head.weight, std=5)
    tokens = tokenizer([Audio(torch.randn(16000), 16000)])
    with torch.no_grad():
        words = recognized(task.eval(), task.encoder(tokens), 0.01)
        pyramid = Encoder(model, tokenizer)(tokens)
    assert set(words) == {"words"} and words["words"]
    assert all(0 <= start < end <= 1.0 and label in "ab" for start, end, label in words["words"])
    known = {"words": [(0.1, 0.45, "größe"), (0.45, 0.9, "$x$")], "phonemes": [(0.1, 0.2, "g")]}
    view = View(tokenizer, tokens, AudioModality.figures())
    with style():
        figure = draw_timeline(view, pyramid, 0.01, known, words, "one.wav")
        figure.canvas.draw()
    above, below = figure.axes
    rows = [label.get_text() for label in below.get_yticklabels()]
    assert rows == ["frames: 100", "phonemes: 25", "words: 5", "words, true", "phonemes, true", "words, recognized"]
    assert [text.get_text() for text in above.texts] == ["frames", "phonemes", "words"]
    assert {"größe", "$x$", "g"} <= {text.get_text() for text in below.texts}
    assert below.get_xlabel() == "seconds"
    ticks = dict(zip(below.get_xticks(), [label.get_text() for label in below.get_xticklabels()], strict=True))
    assert ticks[50.0] == "0.5"
    assert above.get_xlim() == below.get_xlim() == (0, 100)


def test_tasks_without_symbols_hear_nothing() -> None:
    assert recognized(torch.nn.Identity(), None, 0.01) == {}  # type: ignore[arg-type]
