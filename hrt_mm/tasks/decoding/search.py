"""Beam search, and greedy decoding, which is a beam of one.

Shapes: B texts that go on, W beams of each, V ids.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import UserError
from ...data.capabilities import writing
from .continuation import Continuation


@dataclass(frozen=True)
class Written:
    """A text that was decoded.

    Args:
        ids: without the separator at its end.
        log_prob: of all ids, the separator included; NaN if the model's output was not finite.
        ended: whether the model ended it, rather than the limit of its length.
    """

    ids: tuple[int, ...]
    log_prob: float
    ended: bool

    def score(self, length_penalty: float = 1.0) -> float:
        """Log-probability over its number of tokens to the power of ``length_penalty`` (arXiv 1609.08144)."""
        return self.log_prob / max(1, len(self.ids) + self.ended) ** length_penalty


def search(state: Continuation, *, max_tokens: int, beams: int = 1, length_penalty: float = 1.0) -> list[Written]:
    """Decodes the most likely continuation of every sequence.

    A text is finished when as many of its hypotheses have ended as there are beams; the one with the best score is
    returned. If none ended within ``max_tokens``, it is the best one that did not. With one beam, that is greedy
    decoding. Results do not depend on the other texts of a batch.

    Args:
        state: where to continue; stepped along.
        max_tokens: tokens that each text gets at most, without the separator.
        beams: hypotheses of each text that are followed.
        length_penalty: exponent of the length that log-probabilities are divided by; 0 prefers short texts.

    Returns:
        One text for each sequence.

    Raises:
        UserError: a value is out of range, or the tokenizer cannot write.
    """
    if max_tokens < 1 or beams < 1:
        raise UserError(f"max_tokens {max_tokens} and beams {beams} must be 1 or more")
    if not math.isfinite(length_penalty) or length_penalty < 0:
        raise UserError(f"length_penalty {length_penalty} must be 0 or more")
    separator, count = writing(state.tokenizer).separator, len(state)
    finished: list[list[Written]] = [[] for _ in range(count)]
    alive = list(range(count))
    if beams > 1:
        state.select([row for row in alive for _ in range(beams)])
    # Rows of the state: the beams of each text that goes on, text by text. All but one of them wait at first.
    ids: list[tuple[int, ...]] = [()] * (count * beams)
    scores_BW = torch.full((count, beams), -math.inf, dtype=torch.float64)
    scores_BW[:, 0] = 0
    for length in range(max_tokens + 1):
        token_scores, tokens, parents = _candidates(state.logits_BV, scores_BW, separator)
        rows: list[int] = []
        new_ids: list[tuple[int, ...]] = []
        scores: list[list[float]] = []
        going: list[int] = []
        for number, text in enumerate(alive):
            live: list[tuple[float, int, int]] = []
            for rank, (score, token, beam) in enumerate(
                zip(token_scores[number], tokens[number], parents[number], strict=True)
            ):
                row = number * beams + beam
                if token == separator:
                    # A hypothesis ends only if it is among the best, as the others would in the next step.
                    if (rank < beams and score > -math.inf) or math.isnan(score):
                        finished[text].append(Written(ids[row], score, True))
                elif len(live) < beams:
                    live.append((score, token, row))
            if len(finished[text]) >= beams:
                continue
            if length == max_tokens:
                # The limit ends what is alive, which counts only if nothing ended by itself.
                finished[text] = finished[text] or [
                    Written(ids[number * beams + beam], score, False)
                    for beam, score in enumerate(scores_BW[number].tolist())
                    if score > -math.inf
                ]
                continue
            going.append(text)
            rows += [row for _, _, row in live]
            new_ids += [(*ids[row], token) for _, token, row in live]
            scores.append([score for score, _, _ in live])
        if not going:
            break
        # Without a change of rows, as in greedy decoding between two endings, nothing is copied.
        if rows != list(range(len(state))):
            state.select(rows)
        alive, ids, scores_BW = going, new_ids, torch.tensor(scores, dtype=torch.float64)
        state.step(torch.tensor([row[-1] for row in ids], device=state.logits_BV.device))
    return [max(texts, key=lambda text: _order(text.score(length_penalty))) for texts in finished]


def _candidates(
    logits: Tensor, scores_BW: Tensor, separator: int
) -> tuple[list[list[float]], list[list[int]], list[list[int]]]:
    """Scores, ids and beams of the best next tokens of each text, best first: enough for W that are no separator."""
    texts, beams = scores_BW.shape
    log_probs = logits.double().log_softmax(-1).cpu()
    broken = ~log_probs.isfinite().any(-1) | log_probs.isnan().any(-1)
    if broken.any():
        # A text whose logits are not finite ends at once, without a score.
        log_probs[broken] = -math.inf
        log_probs[broken, separator] = math.nan
    total = (scores_BW[:, :, None] + log_probs.unflatten(0, (texts, beams))).flatten(1)
    # A separator for every beam may be among the best.
    best, index = total.topk(min(2 * beams, total.shape[1]), dim=1)
    vocabulary = log_probs.shape[1]
    return best.tolist(), (index % vocabulary).tolist(), (index // vocabulary).tolist()


def _order(score: float) -> float:
    return -math.inf if math.isnan(score) else score
