"""Section: the answers of each query of a contrastive run, right and wrong, as a table and a picture.

Shapes: Q queries, N answers, D width, K answers that are shown.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.tokens import Tokens
from ...metrics.retrieval import distinct_indices, rank_scores
from ...tasks.contrastive import Contrastive
from .page import Page
from .style import GREEN, RED, bare, panels
from .subject import Subject
from .view import one_sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAMPLES = 5_000
"""Maximum number of samples to search."""
ANSWERS = 5
"""Answers that are shown of each query."""
QUERIES = 6
"""Queries that are drawn in each direction: the worst ones, and as many that are right."""
LISTED = 20
TABLE = "retrieval.csv"
COLUMNS = ("direction", "query", "rank", "right", "right_score", "first", "first_score")


@dataclass(frozen=True, eq=False)
class Embedded:
    """The samples of a tower, each content once.

    Args:
        vectors_ND: of the samples.
        groups_N: equal for positives.
        names: of the samples.
    """

    vectors_ND: Tensor
    groups_N: Tensor
    names: Sequence[str]


@dataclass(frozen=True)
class RankedQuery:
    """A query with its answers.

    Args:
        name: of the query's sample.
        rank: of its best right answer.
        right: name and score of that answer.
        answers: names and scores of the first ones, and whether each is right.
    """

    name: str
    rank: int
    right: tuple[str, float]
    answers: tuple[tuple[str, float, bool], ...]


def retrieval_section(subject: Subject, page: Page) -> None:
    """Writes the table of all queries, and draws some with their answers."""
    task = subject.run.task
    if not isinstance(task, Contrastive):
        return
    towers = embedded(subject, task)
    by_pair = {
        (one, other): queries_of(towers[one], towers[other])
        for pair in task.pairs
        for one, other in (pair, pair[::-1])
        if one in towers and other in towers
    }
    by_pair = {direction: queries for direction, queries in by_pair.items() if queries}
    if not by_pair:
        return
    page.heading("Queries and answers")
    write_table(page, by_pair)
    chosen = {direction: select(queries) for direction, queries in by_pair.items()}
    drawn = _tokens(subject, chosen)
    for (one, other), queries in chosen.items():
        name = f"{one}_to_{other}"
        wrong = sum(query.rank > 1 for query in by_pair[one, other])
        page.say(
            f"{name}: {wrong:,} of {len(by_pair[one, other]):,} queries of {subject.split} have a wrong answer first"
        )
        caption = (
            f"{name}: queries on the left, then their first {ANSWERS} answers; right answers have a green frame, wrong "
            "ones a red frame. The upper queries are the worst ones."
        )
        page.picture(f"retrieval-{name}", draw_queries(subject, drawn, (one, other), queries), caption)


def embedded(subject: Subject, task: Contrastive) -> dict[str, Embedded]:
    """The samples of each tower of the subject's split."""
    vectors: dict[str, list[Tensor]] = {}
    groups: dict[str, list[Tensor]] = {}
    contents: dict[str, list[Tensor]] = {}
    names: dict[str, list[str]] = {}
    for batch in subject.batches(SAMPLES):
        assert batch.groups is not None
        for tower, part in batch.towers.items():
            vectors.setdefault(tower, []).append(task.vectors(tower, part).float().cpu())
            groups.setdefault(tower, []).append(batch.groups[part.samples])
            contents.setdefault(tower, []).append(part.contents)
            names.setdefault(tower, []).extend(batch.names[index] for index in part.samples.tolist())
    towers = {}
    for tower in vectors:
        first = distinct_indices(torch.cat(groups[tower]), torch.cat(contents[tower]))
        towers[tower] = Embedded(
            torch.cat(vectors[tower])[first],
            torch.cat(groups[tower])[first],
            [names[tower][index] for index in first.tolist()],
        )
    return towers


def queries_of(queries: Embedded, answers: Embedded) -> list[RankedQuery]:
    """The queries that have a right answer, worst first."""
    ranked = []
    for name, query_D, group in zip(queries.names, queries.vectors_ND, queries.groups_N, strict=True):
        right_N = answers.groups_N == group
        if not right_N.any():
            continue
        # As the metrics score, so that ties are ties.
        scores_N = (answers.vectors_ND * query_D).sum(1).nan_to_num(-torch.inf)
        rank = int(rank_scores(scores_N[None], right_N[None]).rank_Q)
        best = int(scores_N.masked_fill(~right_N, -torch.inf).argmax())
        # A wrong answer comes before a right one with an equal score.
        order = sorted(range(len(scores_N)), key=lambda i: (-float(scores_N[i]), bool(right_N[i])))[:ANSWERS]
        answered = tuple((answers.names[i], float(scores_N[i]), bool(right_N[i])) for i in order)
        ranked.append(RankedQuery(name, rank, (answers.names[best], float(scores_N[best])), answered))
    return sorted(ranked, key=lambda query: -query.rank)


def select(queries: Sequence[RankedQuery]) -> list[RankedQuery]:
    """The worst queries, and some with a right answer first."""
    wrong = [query for query in queries if query.rank > 1]
    right = [query for query in queries if query.rank == 1]
    half = QUERIES // 2
    worst = wrong[: QUERIES - min(len(right), half)]
    return worst + right[: QUERIES - len(worst)]


def write_table(page: Page, by_pair: Mapping[tuple[str, str], Sequence[RankedQuery]]) -> None:
    """Writes all queries to a CSV file, and lists the worst ones on the page."""
    rows = [
        (f"{one}_to_{other}", query.name, query.rank, *query.right, *query.answers[0][:2])
        for (one, other), queries in by_pair.items()
        for query in queries
    ]
    with (page.folder / TABLE).open("w", encoding="utf-8", newline="", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows((*row[:4], f"{row[4]:.6f}", row[5], f"{row[6]:.6f}") for row in rows)
    worst = sorted((row for row in rows if row[2] > 1), key=lambda row: -row[2])[:LISTED]
    page.text(f"`{TABLE}` lists the {len(rows):,} queries of all directions with the rank of their best right answer.")
    if worst:
        page.text(f"The {len(worst)} worst:")
        table = [(*row[:2], f"{row[2]:,}", row[3], f"{row[4]:.3f}", row[5], f"{row[6]:.3f}") for row in worst]
        page.table(COLUMNS, table)


def _tokens(subject: Subject, chosen: Mapping[tuple[str, str], Sequence[RankedQuery]]) -> dict[tuple[str, str], Tokens]:
    """The raw tokens of what is drawn, by tower and name of the sample."""
    needed = {(one, query.name) for (one, _), queries in chosen.items() for query in queries}
    needed |= {
        (other, name) for (_, other), queries in chosen.items() for query in queries for name, _, _ in query.answers
    }
    tokens: dict[tuple[str, str], Tokens] = {}
    for batch in subject.batches(SAMPLES):
        for tower, part in batch.towers.items():
            for row, sample in enumerate(part.samples.tolist()):
                key = (tower, batch.names[sample])
                if key in needed and key not in tokens:
                    tokens[key] = one_sample(part.tokens, row)
    return tokens


def draw_queries(
    subject: Subject,
    tokens: Mapping[tuple[str, str], Tokens],
    direction: tuple[str, str],
    queries: Sequence[RankedQuery],
) -> Figure:
    """A row for each query: the query, then its answers."""
    one, other = direction
    towers = {tower.tower: tower for tower in subject.towers}
    columns = 1 + max(len(query.answers) for query in queries)
    figure, grid = panels(len(queries), columns, width=1.7, height=1.6)
    for row, query in zip(grid, queries, strict=True):
        _draw(row[0], towers[one], tokens[one, query.name], f"{query.name}\nrank {query.rank:,}", None)
        for axes, (name, score, right) in zip(row[1:], query.answers, strict=False):
            _draw(axes, towers[other], tokens[other, name], f"{name}\n{score:.3f}", right)
        for axes in row[1 + len(query.answers) :]:
            axes.set_visible(False)
    return figure


def _draw(axes: Axes, tower: Subject, tokens: Tokens, title: str, right: bool | None) -> None:
    tower.view(tokens).draw(axes)
    bare(axes)
    head, _, rest = title.partition("\n")
    axes.set_title(f"{head if len(head) <= 18 else f'{head[:16]}..'}\n{rest}", fontsize=7)
    if right is not None:
        for spine in axes.spines.values():
            spine.set_visible(True)
            spine.set_color(GREEN if right else RED)
            spine.set_linewidth(2)
