"""A tokenizer of 32 words, saved as transformers saves one."""

from pathlib import Path

WORDS = ("weights", "are", "merged")
"""Tokens 3, 4, 5."""


def tiny_tokenizer(folder: Path) -> None:
    """Write it into `folder`; its chat template gives the first message."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", *WORDS, *(f"w{i}" for i in range(26))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.chat_template = "{{ messages[0]['content'] }}"
    fast.save_pretrained(folder)
