"""Named chat templates say what the makers of the formats say: whole conversations, written out by hand."""

import jinja2
import pytest

from netweight.merging.chat_templates import MAX_TEMPLATE, TEMPLATES, is_jinja

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "And\ntwice?"},
]
ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
CHATML = "<|im_start|>{}\n{}<|im_end|>\n".format
LLAMA3 = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>".format
RENDERED = {
    "alpaca": (
        "<s>Be brief.\n\n",
        f"<s>{ALPACA}\n\n",
        "### Instruction:\n1 + 1?\n\n### Response:\n2</s>\n\n### Instruction:\nAnd\ntwice?\n\n",
        "### Response:\n",
    ),
    "chatml": (
        CHATML("system", "Be brief."),
        "",
        CHATML("user", "1 + 1?") + CHATML("assistant", "2") + CHATML("user", "And\ntwice?"),
        "<|im_start|>assistant\n",
    ),
    "exaone": (
        "[|system|]Be brief.[|endofturn|]\n",
        "[|system|][|endofturn|]\n",
        "[|user|]1 + 1?\n[|assistant|]2[|endofturn|]\n[|user|]And\ntwice?\n",
        "[|assistant|]",
    ),
    "llama3": (
        f"<s>{LLAMA3('system', 'Be brief.')}",
        "<s>",
        LLAMA3("user", "1 + 1?") + LLAMA3("assistant", "2") + LLAMA3("user", "And\ntwice?"),
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "mistral": (
        "<s> [INST] Be brief.\n\n",
        "<s> [INST] ",
        "1 + 1? [/INST] 2</s> [INST] And\ntwice? [/INST]",
        "",
    ),
}
"""Name -> the beginning with a system turn, without one, the other turns, and what asks for the next answer."""


@pytest.mark.parametrize("name", RENDERED)
@pytest.mark.parametrize("system", [True, False])
@pytest.mark.parametrize("ask", [True, False])
@pytest.mark.parametrize("trim", [True, False])
def test_conversations(name, system, ask, trim):
    """By jinja2 itself, with and without the settings that transformers gives it."""
    environment = jinja2.Environment(trim_blocks=trim, lstrip_blocks=trim, undefined=jinja2.StrictUndefined)
    values = {"messages": CHAT if system else CHAT[1:], "bos_token": "<s>", "eos_token": "</s>"}
    rendered = environment.from_string(TEMPLATES[name].text).render(**values, add_generation_prompt=ask)
    assert rendered == RENDERED[name][0 if system else 1] + RENDERED[name][2] + (RENDERED[name][3] if ask else "")


@pytest.mark.parametrize("name", RENDERED)
def test_a_tokenizer_without_special_tokens(name):
    rendered = jinja2.Environment().from_string(TEMPLATES[name].text).render(messages=CHAT)
    assert rendered == (RENDERED[name][0] + RENDERED[name][2]).replace("<s>", "").replace("</s>", "")


def test_what_a_template_is():
    assert set(TEMPLATES) == set(RENDERED) == {"alpaca", "chatml", "exaone", "llama3", "mistral"}
    for template in TEMPLATES.values():
        assert is_jinja(template.text)
        assert len(template.text) < MAX_TEMPLATE
        assert all(token in template.text or token in RENDERED["exaone"][0] + RENDERED["exaone"][2]
                   for token in template.tokens)  # fmt: skip
    assert is_jinja("a {% b %}")
    assert is_jinja("{{ a }}")
    assert not is_jinja("chatml")
    assert not is_jinja("{a}")
