"""Metrics of written texts against references, by torchmetrics (the extra ``text``)."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.extras import needs_extra


def check_text_metrics() -> None:
    """Checks that the library is installed.

    Raises:
        MissingLibrary: it is not; names the extra.
    """
    with needs_extra("text", "BLEU and ROUGE"):
        import torchmetrics.functional.text  # noqa: F401


def text_metrics(written: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Metrics over all texts: of errors lower is better, of the others higher.

    ``character_error_rate`` and ``word_error_rate`` are edits over the lengths of all references, ``bleu`` is that of
    SacreBLEU (arXiv 1804.08771) and ``rouge_l`` the mean F1 of the longest common subsequences of words (Lin, 2004).
    ``exact_match`` is the share of texts that equal their reference.

    Args:
        written: by the model.
        references: as many.

    Returns:
        By name; nothing without texts.

    Raises:
        MissingLibrary: the library is not installed.
    """
    if not written:
        return {}
    with needs_extra("text", "BLEU and ROUGE"):
        from torchmetrics.functional.text import (
            char_error_rate,
            rouge_score,
            sacre_bleu_score,
            word_error_rate,
        )
    texts, truth = list(written), list(references)
    return {
        "character_error_rate": float(char_error_rate(texts, truth)),
        "word_error_rate": float(word_error_rate(texts, truth)),
        "bleu": float(sacre_bleu_score(texts, [[text] for text in truth])),
        "rouge_l": float(rouge_score(texts, truth, rouge_keys="rougeL")["rougeL_fmeasure"]),
        "exact_match": sum(a == b for a, b in zip(texts, truth, strict=True)) / len(texts),
    }
