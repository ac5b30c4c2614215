"""Text from a film, a sound and a source file: a hierarchy that reads a hierarchy, beside a flat encoder-decoder.

Each pair of runs has the same data, stems, optimizer and batches, and the same processor time of training steps. The
flat encoder-decoder has the same blocks: a single level for the source and one for the text, each as deep as its
hierarchy and with as many parameters, with cross-attention in every block of the text. Scores are those of the best
weights on the test split, of which all samples are decoded greedily. The data is generated, or Python's standard
library.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from hrt_mm.analysis.control import flat_control
from hrt_mm.config import RunConfig, load_config
from hrt_mm.inference.predict import write_split
from hrt_mm.metrics.texts import text_metrics
from hrt_mm.tasks import GenerationConfig
from hrt_mm.train.build import build_tokenizers

from .command import main, parser
from .markdown import markdown
from .results import Measured, Result, Row, environment
from .runs import Finished, for_minutes, kept_or_trained

NAME = "generation"
MINUTES = {"captions": 10.0, "transcripts": 2.5, "summaries": 6.0}
"""Processor time of the training of each contender, by packaged configuration."""
METRICS = (
    "bits_per_byte",
    "character_error_rate",
    "word_error_rate",
    "bleu",
    "rouge_l",
    "exact_match",
)
SMALL = {
    "captions": ["data.film.train=32", "data.film.valid=2", "data.film.test=2"],
    "transcripts": ["data.speech.train=32", "data.speech.valid=2", "data.speech.test=2"],
    "summaries": ["data.max_source=120"],
}
"""Overrides of a quick run."""


def flat(config: RunConfig) -> RunConfig:
    """The flat encoder-decoder of a configuration: one level for each tower, as deep and with as many parameters."""
    tokenizers = build_tokenizers(config)
    towers = {
        name: tower.model_copy(update={"model": flat_control(tower.model, tokenizers[name].axes)})
        for name, tower in config.towers.items()
    }
    task = config.task.model_copy(update={"read": {}})
    return config.model_copy(update={"towers": towers, "task": task})


def run(options: argparse.Namespace) -> Result:
    """Trains all pairs, one run after another; those that are over in ``--runs`` are kept.

    Raises:
        UserError: a run failed; gives its last words.
    """
    chosen = options.tasks or list(MINUTES)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.runs or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [_row(task, folder, options) for task in chosen]
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"minutes": {task: MINUTES[task] for task in chosen}},
        checks={},
        rows=rows,
        **environment(options.device),
    )


def _row(task: str, folder: Path, options: argparse.Namespace) -> Row:
    minutes = 0.02 if options.quick else MINUTES[task]
    small = SMALL[task] if options.quick else []
    config = load_config(f"generation/{task}", small)
    assert isinstance(config.task, GenerationConfig)
    # Evaluation only chooses the weights, by a loss that needs no decoding. Texts are decoded once, at the end.
    config = config.model_copy(update={"task": config.task.model_copy(update={"decode_share": 0.0})})
    words = [*for_minutes(minutes, options.device), f"train.eval_every={1000 if options.quick else 100}"]
    contenders = {}
    for name, contender in {"hierarchy": config, "flat": flat(config)}.items():
        finished = kept_or_trained(contender, folder / f"{task}-{name}", words)
        contenders[name] = _measured(finished, folder / f"{task}-{name}")
    counts = {split: int(count) for split, count in finished.summary["counts"].items() if split in ("train", "test")}
    return Row(sizes={"task": task, "minutes": minutes, **counts}, contenders=contenders, ratios={})


def _measured(finished: Finished, folder: Path) -> Measured:
    """The scores of a run, and the texts that it writes, which lie in its folder."""
    texts = folder / "test.jsonl"
    if not texts.exists():
        write_split(folder, "test", texts)
    rows = [json.loads(line) for line in texts.read_text().splitlines()]
    scores: dict[str, float | None] = {"bits_per_byte": finished.metric("test/bits_per_byte")}
    scores |= text_metrics([row["predicted"] for row in rows], [row["true"] for row in rows])
    scores |= {name: float(finished.summary[name]) for name in ("parameters", "steps", "samples")}
    return Measured(seconds=float(finished.summary["seconds"]), scores=scores)


def tables(result: Result) -> str:
    """The result as Markdown."""
    head = ["task", "model", "parameters", "steps", "bits/byte", "CER", "WER", "BLEU", "ROUGE-L", "exact"]
    body = []
    for row in result.rows:
        for name, measured in row.contenders.items():
            scores = {key: value if value is not None else float("nan") for key, value in measured.scores.items()}
            body.append(
                [
                    str(row.sizes["task"]),
                    name,
                    f"{scores['parameters']:,.0f}",
                    f"{scores['steps']:,.0f}",
                    f"{scores['bits_per_byte']:.3f}",
                    *(f"{scores[key]:.1%}" for key in ("character_error_rate", "word_error_rate")),
                    *(f"{scores[key]:.3f}" for key in ("bleu", "rouge_l")),
                    f"{scores['exact_match']:.1%}",
                ]
            )
    return markdown(head, body)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument(
        "--runs", type=Path, metavar="DIR", help="folder in which runs are kept; a temporary one if absent"
    )
    options.add_argument(
        "--tasks", type=lambda text: text.split(","), metavar="NAMES", help=f"of {', '.join(MINUTES)}; all if absent"
    )
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
