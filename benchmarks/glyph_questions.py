"""Plain questions to the symbols demo: vectors, words and both.

The demo's model trains (or is taken from ``--runs``), and all symbols are indexed, those that were trained on too. The
questions of ``demos/questions.tsv`` are asked: twenty plain ones, and others that were kept aside, in eight languages
and with typos. A question is answered if a right symbol is among the first five.

* ``vectors``: the question's vector against those of pictures.
* ``vectors of names``: the same against those of names.
* ``words``: BM25 over the words and trigrams of names, without any training; the control.
* ``both``: pictures by vectors and by words, fused, which is what the page does.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from demos.command import prepare
from demos.questions import FIRST, SETS, answered, questions, ways
from hrt_mm.train.summary import read_summary

from .command import main, parser
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment

NAME = "glyph_questions"
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
            for way, search in ways(searcher).items():
                result = answered(group, search)
                print(f"{name}, {way}: {result}; missed: {', '.join(result.missed) or 'none'}", flush=True)
                contenders[way] = Measured(
                    seconds=None, bytes=None, scores={"first": result.first, "first five": result.among_first}
                )
            rows.append(Row(sizes={"questions": name, "count": len(group)}, contenders=contenders, ratios={}))
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
    body = [
        [
            str(row.sizes["questions"]),
            way,
            *(f"{measured.scores[name]:g} of {row.sizes['count']}" for name in ("first", "first five")),
        ]
        for row in result.rows
        for way, measured in row.contenders.items()
    ]
    head = ["questions", "by", "right first", f"right among the first {FIRST}"]
    return f"{result.settings['steps']:,} steps of training.\n\n{markdown(head, body)}"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--runs", type=Path, metavar="DIR", help="folder of the demo, such as runs/glyphs; kept")
    options.add_argument("--set", nargs="*", default=[], metavar="a.b=c", help="override keys of the configuration")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
