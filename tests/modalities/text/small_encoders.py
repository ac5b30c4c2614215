"""Makes small encoders of texts with random weights, as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

WORDS = ["the", "cat", "sat", "on", "mat", "and", "dog", "ran", "un", "##do", "##ing", "##s", ".", ",", "a", "é", "猫"]


def saved(folder: Path, kind: str = "bert", positions: int = 24, **changes: Any) -> nn.Module:
    """A small random model with a tokenizer of a few words, in a folder.

    Args:
        folder: where ``save_pretrained`` writes it.
        kind: type of the model.
        positions: limit of the subwords that it reads, its special tokens included.
        changes: to its configuration.

    Returns:
        The encoder, in evaluation mode.
    """
    import transformers as installed
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from tokenizers.decoders import WordPiece

    transformers: Any = installed
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    library = Tokenizer(models.WordPiece({word: n for n, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    library.decoder = WordPiece()
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=library, model_max_length=10**30, **special)
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": positions,
        "pad_token_id": 0,
    }
    if kind == "t5":
        sizes = {"vocab_size": len(vocabulary), "d_model": 32, "d_kv": 16, "num_layers": 2, "num_heads": 2, "d_ff": 64}
    config = transformers.AutoConfig.for_model(kind, **sizes | changes)
    model: Any = transformers.AutoModel.from_config(config)
    model.save_pretrained(folder)
    encoder: nn.Module = model.eval().get_encoder() if kind == "t5" else model.eval()
    return encoder
