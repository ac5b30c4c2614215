"""Plain questions to the symbols demo: vectors, words and both.

The demo's model trains (or is taken from ``--runs``), and all symbols are indexed, those that were trained on too. The
questions of ``demos/questions.tsv`` are asked: twenty plain ones, and others that were kept aside, in eight languages
and with typos. A question is answered if a right symbol is among the first five.

* ``vectors``: the question's vector against those of pictures.
* ``vectors of names``: the same against those of names.
* ``untrained vectors``: names by the average of their static word vectors, which is what the text tower starts from.
* ``words``: BM25 over the words and trigrams of names, without any training.
* ``both``: pictures by vectors and by words, fused, which is what the page does.

The page doubts its answers if no text matches the words of a question well (:mod:`demos.doubts`). How often it does is
measured for all questions, for names with shuffled letters, and for phrases that have nothing to do with symbols
(``unrelated_phrases.txt``).
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from demos.command import prepare
from demos.doubts import WEAK
from demos.examples import Sampled
from demos.questions import FIRST, SETS, answered, questions, ways
from hrt_mm.retrieval.index import Hit, Index
from hrt_mm.retrieval.search import Searcher
from hrt_mm.train.summary import read_summary
from hrt_modalities.text.word_vectors import WordVectors, WordVectorTokenizer

from .command import main, parser
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment

NAME = "glyph_questions"
PHRASES = Path(__file__).with_name("unrelated_phrases.txt")
SHUFFLED = 300
"""Names whose letters are shuffled."""
FIGURES = ("first", "first five")
GOALS = {"both": (13, 18), "vectors": (0, 12)}
"""Of the twenty plain questions: answered first, and among the first five."""
QUICK = [
    "data.scripts=[black,white]",
    "train.steps=2",
    "train.eval_every=2",
    "train.batch_size=8",
    "optim.warmup_steps=1",
]


def run(options: argparse.Namespace) -> Result:
    """Asks all questions in all ways.

    Raises:
        UserError: the run cannot be trained, or is of another configuration.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.runs or Path(scratch) / "glyphs"
        searcher = prepare(folder, [*options.set, *(QUICK if options.quick else [])], "retrieval/symbols")
        summary = read_summary(folder / "run" / "summary.json")
        rows = []
        for name in SETS:
            group = [question for question in questions() if question.set == name]
            contenders = {}
            for way, search in {**ways(searcher), "untrained vectors": by_word_vectors(searcher)}.items():
                result = answered(group, search)
                print(f"{name}, {way}: {result}; missed: {', '.join(result.missed) or 'none'}", flush=True)
                contenders[way] = Measured(
                    seconds=None, bytes=None, scores={"first": result.first, "first five": result.among_first}
                )
            rows.append(Row(sizes={"questions": name, "count": len(group)}, contenders=contenders, ratios={}))
        rows += [doubts(searcher, name, texts) for name, texts in _texts(searcher).items()]
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"steps": summary["steps"], "train seconds": round(summary["seconds"])},
        checks={},
        rows=rows,
        bars=[] if options.quick else _bars(rows[0]),
        **environment(options.device),
    )


def by_word_vectors(searcher: Searcher) -> Callable[[str], Sequence[Hit]]:
    """Search of names by the average of static word vectors, without any training."""
    index = searcher.index
    assert isinstance(index, Index)
    tokenizer = WordVectorTokenizer()
    embedding = tokenizer.embedding(1)
    assert isinstance(embedding, WordVectors)

    def vector(text: str) -> torch.Tensor:
        return torch.nn.functional.normalize(embedding.vectors(tokenizer([text]).x).mean(0), dim=0)

    segments = [segment for segment in index.segments if segment.entry.tower == "text"]
    hits = [segment.hit(position, 0.0) for segment in segments for position in range(len(segment.collection))]
    names_ND = torch.stack([vector(hit.row.info["name"]) for hit in hits])
    return lambda text: [hits[position] for position in (names_ND @ vector(text)).topk(FIRST).indices.tolist()]


def _texts(searcher: Searcher) -> dict[str, Sequence[str]]:
    draw = random.Random(0)
    names = [hit.row.info["name"] for hit in Sampled.of(searcher).hits if hit.row.tower == "image"][:SHUFFLED]
    return {
        "all questions": [question.text for question in questions()],
        "shuffled letters": [
            " ".join("".join(draw.sample(word, len(word))) for word in name.split()) for name in names
        ],
        "unrelated phrases": PHRASES.read_text(encoding="utf-8").splitlines(),
    }


def doubts(searcher: Searcher, name: str, texts: Sequence[str]) -> Row:
    """How often the page doubts the answers to texts, with the lowest and the highest match by words."""
    index = searcher.index
    assert isinstance(index, Index)
    zero_D = np.zeros(searcher.embedder.model.dim, np.float32)
    results = [index.search_words(text, zero_D, 1, tower="image") for text in texts]
    matches = [max((score for _, score in hits), default=0.0) for hits in results]
    weak = float(sum(value < WEAK for value in matches))
    scores: dict[str, float | None] = {"doubted": weak, "lowest": min(matches), "highest": max(matches)}
    print(f"{name}: {scores}", flush=True)
    measured = Measured(seconds=None, bytes=None, scores=scores)
    return Row(sizes={"questions": name, "count": len(texts)}, contenders={"doubts": measured}, ratios={})


def _bars(plain: Row) -> list[Bar]:
    bars = []
    for way, goals in GOALS.items():
        for figure, goal in zip(FIGURES, goals, strict=True):
            if goal:
                value = plain.contenders[way].scores[figure] or 0
                claim = f"plain questions by {way}, right among the {figure}"
                bars.append(Bar(claim=claim, goal=f"{goal} of 20", measured=f"{value:g}", met=value >= goal))
    return bars


def tables(result: Result) -> str:
    """The result as Markdown."""
    asked = [row for row in result.rows if "doubts" not in row.contenders]
    body = [
        [str(row.sizes["questions"]), way, *(f"{measured.scores[name]:g} of {row.sizes['count']}" for name in FIGURES)]
        for row in asked
        for way, measured in row.contenders.items()
    ]
    head = ["questions", "by", "right first", f"right among the first {FIRST}"]
    doubted = []
    for row in result.rows:
        if row not in asked:
            scores, count = row.contenders["doubts"].scores, row.sizes["count"]
            extremes = (f"{scores[name]:.2f}" for name in ("lowest", "highest"))
            doubted.append([str(row.sizes["questions"]), f"{scores['doubted']:g} of {count}", *extremes])
    doubted_head = ["texts", f"doubted: best match by words below {WEAK}", "lowest match", "highest match"]
    steps = f"{result.settings['steps']:,} steps of training."
    return "\n\n".join([steps, markdown(head, body), markdown(doubted_head, doubted)])


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--runs", type=Path, metavar="DIR", help="folder of the demo, such as runs/glyphs; kept")
    options.add_argument("--set", nargs="*", default=[], metavar="a.b=c", help="override keys of the configuration")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
