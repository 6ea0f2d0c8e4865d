"""How names of other habits are read: rows that respell them in words that the tables of `names` know.

A row of NUMBERED is tried on a name as it is, where its numbers say what a tensor is, or are joined by underscores. A
row of ROWS is tried on a name in lower case whose numbers are written as #; it keeps every # and their order. So is a
row of ADAPTER_ROWS, on names of kohya's adapters alone. Each row is tried on what the rows before it have made.
"""

from __future__ import annotations

import re

__all__ = ["respelled", "with_numbers"]

NUMBERED = (
    # a substring that must be there, what is searched, what stands in its place
    # kohya's adapters: every dot is an underscore
    ("lora_", r"(?<=_)([0-9]{1,6})_(?=[0-9])", r"\1."),
    ("lora_", r"_([0-9]{1,6})(?=[_.]|$)", r".\1"),
    ("lora_", r"(?<=\.)([0-9]{1,6})_(?=[a-z])", r"\1."),
    # the four projections of the annotated transformer's attention
    ("linears.", r"\blinears\.0\b", "query"),
    ("linears.", r"\blinears\.1\b", "key"),
    ("linears.", r"\blinears\.2\b", "value"),
    ("linears.", r"\blinears\.3\b", "out_proj"),
    # sequences of linear layers: Flux, Wan
    ("_mlp.", r"\b(img_mlp|txt_mlp)\.0\b", r"\1.fc1"),
    ("_mlp.", r"\b(img_mlp|txt_mlp)\.2\b", r"\1.fc2"),
    ("ffn.", r"\bffn\.0(?=\.(?:weight|bias)$)", "ffn.fc1"),
    ("ffn.", r"\bffn\.2(?=\.(?:weight|bias)$)", "ffn.fc2"),
    # torchvision numbers its blocks within a word
    ("encoder_layer_", r"\bencoder_layer_([0-9]{1,6})\b", r"layer.\1"),
)

ADAPTER_ROWS = (
    (r"^lora_(?:unet|te[0-9]?|transformer|prior_unet|prior_te)_", ""),
    (r"^text_model_encoder_layers\.", "text_model.encoder.layers."),
    (r"\.((?:self_|cross_|img_|txt_)?attn[0-9]?|mlp|ff|ff_context|img_mlp|txt_mlp)_(?=[a-z])", r".\1."),
    (r"\.alpha$", ".lora_up.alpha"),
)

ROWS = (
    # TransformerLens
    (r"^embed\.w_e$", "embed_tokens.weight"),
    (r"^pos_embed\.w_pos$", "pos_embed.weight"),
    (r"^unembed\.w_u$", "lm_head.weight"),
    (r"^unembed\.b_u$", "lm_head.bias"),
    (r"\.attn\._?w_([qkvo])$", r".attn.\1_proj.weight"),
    (r"\.attn\._?b_([qkvo])$", r".attn.\1_proj.bias"),
    (r"\.w_in$", ".up_proj.weight"),
    (r"\.w_gate$", ".gate_proj.weight"),
    (r"\.w_out$", ".down_proj.weight"),
    (r"\.mlp\.b_in$", ".mlp.up_proj.bias"),
    (r"\.mlp\.b_out$", ".mlp.down_proj.bias"),
    # diffusers: adapters in processors, feed-forwards as sequences
    (r"\.processor\.(to_[a-z]+)_lora\.", r".\1.lora."),
    (r"\.lora\.(up|down)\.", r".lora_\1."),
    (r"\.net\.#\.proj\.", ".net.#.up_proj."),
    (r"\.net\.#\.(?=weight$|bias$|lora_)", ".net.#.down_proj."),
    (r"\bsingle_blocks\.#\.linear([12])\b", r"single_blocks.#.fused\1"),
    # weight norm, spectral norm
    (r"\.parametrizations\.(weight|bias)\.original[01]?$", r".\1"),
    (r"\.weight_(?:g|v|orig)$", ".weight"),
    # recurrent layers
    (r"(^|\.)(weight|bias)_(ih|hh|hr)(?:_l[0-9]+)?(?:_reverse)?$", r"\1recurrent_\3.\2"),
)  # fmt: skip

_NUMBERED = tuple((trigger, re.compile(pattern), instead) for trigger, pattern, instead in NUMBERED)
_ROWS, _ADAPTER_ROWS = (
    tuple((re.compile(pattern), instead) for pattern, instead in rows) for rows in (ROWS, ADAPTER_ROWS)
)
_LONGEST = 512
_LORA = re.compile(r"lora_(?:unet|te[0-9]?|transformer|prior_unet|prior_te)_")


def with_numbers(name: str) -> str:
    """The name by the rows of NUMBERED."""
    if len(name) > _LONGEST:
        return name
    for trigger, pattern, instead in _NUMBERED:
        if trigger in name and (trigger != "lora_" or _LORA.match(name)):
            name = pattern.sub(instead, name)
    return name


def respelled(template: str) -> str:
    """A name in lower case, with # for its numbers, by the rows of ROWS."""
    if len(template) > _LONGEST:
        return template
    for pattern, instead in (*_ADAPTER_ROWS, *_ROWS) if _LORA.match(template) else _ROWS:
        template = pattern.sub(instead, template)
    return template
