"""Tokenizers with an end token, as T5, BART and decoders have them, whose ids suit the tiny models of ``tiny.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.sherl.data_samples import WORDS
from tests.sherl.texts import text_backbone

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
END = 2
FURTHER = ("rte", "sentence1", "sentence2", ":", "yes", "no", "maybe", "0", "1", "2", "3", "film2", "say")


def text_tokenizer(style: str = "t5", *, further: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Words split at blanks. t5: text </s>; bart: <s> text </s>; decoder: the text alone."""
    vocabulary = {token: place for place, token in enumerate((*SPECIAL, *WORDS, *FURTHER, *further))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    single, pair = {
        "t5": ("$A </s>", "$A </s> $B </s>"),
        "bart": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
        "decoder": ("$A", "$A $B"),
    }[style]
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        bos_token="<s>",
        model_input_names=["input_ids", "attention_mask"],
    )


def saved_model(folder: Path, name: str = "t5") -> str:
    """A folder with a tiny encoder-decoder and its tokenizer, as a person would name it."""
    text_backbone(name).model.save_pretrained(folder)
    text_tokenizer("bart" if name in ("bart", "pegasus") else "t5").save_pretrained(folder)
    return str(folder)
