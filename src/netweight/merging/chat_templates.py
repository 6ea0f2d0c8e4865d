"""Chat templates that recipes know by name, in Jinja: text for the tokenizer of a merge, which nothing here runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["AUTO", "MAX_TEMPLATE", "TEMPLATES", "NamedTemplate", "is_jinja"]

AUTO = "auto"
"""The most common template of the models."""

MAX_TEMPLATE = 1 << 20
"""Bytes of a template in UTF-8; those of well-known models have less than a tenth of it."""


@dataclass(frozen=True)
class NamedTemplate:
    """`text` in Jinja; `tokens` are those that the format has of its own, and that a tokenizer should have."""

    text: str
    tokens: tuple[str, ...] = ()


_ALPACA = (
    "{%- set intro = 'Below is an instruction that describes a task."
    " Write a response that appropriately completes the request.' -%}"
    "{%- if messages and messages[0].role == 'system' -%}{%- set intro = messages[0].content -%}{%- endif -%}"
    "{{ bos_token }}{{ intro }}{{ '\\n\\n' }}"
    "{%- for turn in messages -%}"
    "{%- if turn.role == 'user' -%}{{ '### Instruction:\\n' ~ turn.content ~ '\\n\\n' }}"
    "{%- elif turn.role == 'assistant' -%}{{ '### Response:\\n' ~ turn.content }}{{ eos_token }}{{ '\\n\\n' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '### Response:\\n' }}{%- endif -%}"
)
_CHATML = (
    "{%- for turn in messages -%}"
    "{{ '<|im_start|>' ~ turn.role ~ '\\n' ~ turn.content ~ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
_LLAMA3 = (
    "{{ bos_token }}"
    "{%- for turn in messages -%}"
    "{{ '<|start_header_id|>' ~ turn.role ~ '<|end_header_id|>\\n\\n' ~ turn.content | trim ~ '<|eot_id|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}"
)
_MISTRAL = (
    "{%- set said = namespace(before='') -%}"
    "{{ bos_token }}"
    "{%- for turn in messages -%}"
    "{%- if turn.role == 'system' -%}{%- set said.before = said.before ~ turn.content ~ '\\n\\n' -%}"
    "{%- elif turn.role == 'user' -%}"
    "{{ ' [INST] ' ~ said.before ~ turn.content ~ ' [/INST]' }}{%- set said.before = '' -%}"
    "{%- elif turn.role == 'assistant' -%}{{ ' ' ~ turn.content }}{{ eos_token }}"
    "{%- endif -%}"
    "{%- endfor -%}"
)
_EXAONE = (
    "{%- for turn in messages -%}"
    "{%- if loop.first and turn.role != 'system' -%}{{ '[|system|][|endofturn|]\\n' }}{%- endif -%}"
    "{{ '[|' ~ turn.role ~ '|]' ~ turn.content }}"
    "{%- if turn.role != 'user' -%}{{ '[|endofturn|]' }}{%- endif -%}"
    "{{ '\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '[|assistant|]' }}{%- endif -%}"
)

TEMPLATES: Mapping[str, NamedTemplate] = {
    "alpaca": NamedTemplate(_ALPACA),
    "chatml": NamedTemplate(_CHATML, ("<|im_start|>", "<|im_end|>")),
    "exaone": NamedTemplate(_EXAONE, ("[|system|]", "[|user|]", "[|assistant|]", "[|endofturn|]")),
    "llama3": NamedTemplate(_LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "mistral": NamedTemplate(_MISTRAL),
}
"""The names that mergekit has. Each is made from what its format's makers say of it: Stanford Alpaca's prompt, OpenAI's
ChatML, Meta's Llama 3 prompt format, Mistral's first chat format (tokenizer v1; a system turn goes before the next
user turn), LG's EXAONE 3.5.
"""


def is_jinja(text: str) -> bool:
    """Whether `text` is a template itself, and no name: it holds `{%` or `{{`."""
    return "{%" in text or "{{" in text
