"""What a parameter's name says: its layer, its role, the groups it is summed in, and its slot in the block.

`classify` reads one name. `classify_all` reads a whole checkpoint's names and settles what one name alone cannot:
which of several lists of blocks is the model's main one, and words whose meaning depends on their siblings. Every
name gets an answer; one that is unknown has the role "other". The time is linear in the length of the name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from netweight.params import names as words
from netweight.params.spellings import respelled, with_numbers

__all__ = ["ROLES", "Parameter", "classify", "classify_all"]

ROLES = (
    "embedding", "q_proj", "k_proj", "v_proj", "o_proj", "qkv", "gate_proj", "up_proj", "down_proj", "gate_up",
    "moe_gate", "moe_expert", "ssm", "recurrent", "conv", "norm", "output", "bias", "other",
)  # fmt: skip
"""Every role, in the order in which reports list them."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """What the name of a parameter says.

    `layer` is the number of its block, None outside the blocks. `role` is one of ROLES. `slot` is the place in finer
    words, also where the role is "moe_expert" or "bias": "q_proj", "kv_b_proj", "gate_proj", "token_embedding", "conv",
    "position_embedding", "lm_head" (yields tokens), "head" (anything else), "projector" (between towers), "rotation"
    (SliceGPT), or "". `expert` numbers a routed expert; None for shared and fused (3-D) ones.

    `group` is "embed", "lm_head", "layer" (in any block) or "other"; `part` is "attn", "mlp", "norm" or "" and cuts
    across the blocks; norms are "norm" wherever they stand. `stack` tells lists of blocks apart: "" for the main one,
    else "encoder", "decoder", "vision", "audio", "mtp", or the path of the list; `layer_group` is `layer_3` in the
    main stack and `encoder.layer_3` elsewhere, so that numbers never collide.

    `kind` is "weight", "bias", "buffer" (causal masks, rotary frequencies, running means: computed, not trained),
    "quantization" (scales and zero points beside a packed weight) or "adapter" (LoRA and its kin, under the role of
    the weight they change).
    """

    name: str
    layer: int | None
    role: str
    group: str
    part: str
    expert: int | None
    stack: str = ""
    slot: str = ""
    kind: str = "weight"

    @property
    def buffer(self) -> bool:
        """Computed by the model's code, not trained."""
        return self.kind == "buffer"

    @property
    def state(self) -> str:
        """How its values come about: "learned", "running" (statistics that training gathers), or "derived" (computed by
        the model's code).
        """
        last = self.name.rpartition(".")[2].lower()
        if self.kind != "buffer" or (last in words.BUFFERS and last not in words.DERIVED | words.RUNNING):
            return "learned"
        return "running" if last in words.RUNNING else "derived"

    @property
    def layer_group(self) -> str | None:
        """`layer_N` in the main stack, `STACK.layer_N` in another one, None outside the blocks."""
        if self.layer is None:
            return None
        return f"{self.stack}.layer_{self.layer}" if self.stack else f"layer_{self.layer}"


@dataclass(frozen=True, slots=True)
class _Reading:
    """A name with its numbers taken out, read once: `*_at` are the positions of the numbers."""

    role: str
    group: str
    part: str
    slot: str
    kind: str
    stack: str
    layer_at: int | None
    expert_at: int | None
    mask: bool  # `attn.bias`: a causal mask, unless it is a vector
    segments: tuple[str, ...] | None = None  # where the name is read in another spelling


_NUMBER = re.compile(r"(?<![^.])[0-9]{1,6}(?![^.])")
_NORM = re.compile(
    r"(?:^|_|[a-z])norms?(?:_?[0-9]{1,3}[a-z]?)?(?:_|$)|^ln(?:_|[0-9]|$)|^ln[a-z]?$|_ln[0-9]?$|(?:^|_)bn[0-9]{0,3}$"
)
_CONVOLUTION = re.compile(r"conv|^downsample|^upsample")
_FEED_FORWARD_ROLES = frozenset({"gate_proj", "up_proj", "down_proj", "gate_up", "moe_gate"})
_TOKEN_HEADS = frozenset({
    "lm_head", "embed_out", "output_layer", "vocab_projector", "shared_head", "lm_loss", "pred_layer",
    "output_projection",
})  # fmt: skip
_LONGEST_WORD = 64
_LONGEST_CACHED = 512
_NO_NAME = ""


def classify(name: str, shape: tuple[int, ...] | None = None) -> Parameter:
    """What `name` says; `shape` helps where a name is used for two things (`attn.bias`: a mask, or a bias vector).
    Never raises.
    """
    return _classify(name, shape)[0]


def classify_all(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Parameter]:
    """`classify` for every name of one checkpoint, in its order, with the stacks and sibling words settled.

    A lone "decoder" or "encoder" stack (OPT, ChatGLM) is the main one; a second list of blocks under one label gets
    its own path as label.
    """
    parameters: dict[str, Parameter] = {}
    paths: dict[str, str] = {}
    for name, shape in shapes.items():
        parameters[name], path = _classify(name, shape)
        if path is not None:
            paths[name] = path
    lists = Counter((parameters[name].stack, path) for name, path in paths.items())
    labels = {stack for stack, _ in lists}
    lone = {"encoder", "decoder"} & labels if "" not in labels else set()
    main = lone.pop() if len(lone) == 1 else None
    taken: set[str] = set()
    renamed: dict[tuple[str, str], str] = {}
    for (stack, path), _ in lists.most_common():
        label = "" if stack == main else stack
        renamed[stack, path] = path if label in taken else label
        taken.add(label)
    normed = {name.rpartition(".")[0] for name in shapes if name.endswith((".running_mean", ".running_var"))}
    for name, parameter in parameters.items():
        label = renamed[parameter.stack, paths[name]] if name in paths else parameter.stack
        changed = replace(parameter, stack=label) if label != parameter.stack else parameter
        if changed.part == "mlp":
            changed = _by_siblings(changed, shapes)
        elif changed.role in {"other", "conv", "bias"} and normed and name.rpartition(".")[0] in normed:
            changed = _as_norm(changed)
        parameters[name] = changed
    return parameters


def _as_norm(parameter: Parameter) -> Parameter:
    """What stands beside running statistics: a batch norm's weight or bias."""
    if parameter.kind not in {"weight", "bias"}:
        return parameter
    return replace(parameter, role="norm" if parameter.kind == "weight" else "bias", slot="norm", part="norm")


def _classify(name: str, shape: tuple[int, ...] | None) -> tuple[Parameter, str | None]:
    """The parameter, and the path of the list of blocks that it stands in."""
    plain = with_numbers(name.replace("#", "_") if "#" in name else name)
    template = _NUMBER.sub("#", plain)
    reading = _read(template) if len(template) <= _LONGEST_CACHED else _read.__wrapped__(template)
    layer = expert = path = None
    if reading.layer_at is not None or reading.expert_at is not None:
        segments = plain.split(".") if reading.segments is None else _numbered(reading.segments, plain)
        if reading.layer_at is not None:
            layer, path = int(segments[reading.layer_at]), ".".join(segments[: reading.layer_at])
        if reading.expert_at is not None:
            expert = int(segments[reading.expert_at])
    role, kind = reading.role, reading.kind
    slot = reading.slot
    if reading.mask and (shape is None or len(shape) != 1):
        role, kind = "other", "buffer"
    elif role == "other" and kind == "weight" and not slot and shape is not None and len(shape) in {4, 5}:
        role = slot = "conv"  # [out, in, height, width], and with a depth
    parameter = Parameter(name, layer, role, reading.group, reading.part, expert, reading.stack, slot, kind)
    return parameter, path


def _numbered(segments: tuple[str, ...], name: str) -> list[str]:
    """The segments of another spelling, each # the next number of the name."""
    left = iter(_NUMBER.findall(name))
    return [next(left) if segment == "#" else segment for segment in segments]


def _layer_list(segments: list[str]) -> int | None:
    """The position after the first list of blocks, where its number stands."""
    for at in range(1, len(segments)):
        if segments[at] == "#" and segments[at - 1] in words.LAYER_LISTS:
            return at
    return None


def _by_siblings(parameter: Parameter, names: Mapping[str, object]) -> Parameter:
    for word, there, absent, slot in words.SIBLINGS:
        head, matched, tail = parameter.name.rpartition(f".{word}.")
        if (
            not matched
            or (there is not None and f"{head}.{there}.{tail}" not in names)
            or f"{head}.{absent}.{tail}" in names
        ):
            continue
        role = parameter.role if parameter.role in {"bias", "other", "moe_expert"} else slot
        return replace(parameter, role=role, slot=slot)
    return parameter


@lru_cache(maxsize=8192)
def _read(template: str) -> _Reading:
    plain = template.lower()
    spelled = respelled(plain)
    segments = spelled.split(".")
    kept = None if spelled == template else tuple(segments)
    host, kind = _leaf(segments)
    layer_at = _layer_list(segments)
    stack = _stack(segments, layer_at)
    inside = host[layer_at + 1 :] if layer_at is not None else host
    offset = layer_at + 1 if layer_at is not None else 0
    expert_at = next(
        (i + 1 + offset for i, word in enumerate(inside[:-1]) if word in words.EXPERT_PLACES and inside[i + 1] == "#"),
        None,
    )
    part_of_block = _block_part(inside, in_h=layer_at is not None and segments[layer_at - 1] == "h")
    group = "layer" if layer_at is not None else "other"
    if kind == "buffer":
        return _Reading("other", group, part_of_block, "", kind, stack, layer_at, expert_at, mask=False, segments=kept)
    role, slot, part, top_group = _find(inside, part_of_block, stack, in_layer=layer_at is not None)
    if layer_at is None:
        group = top_group
    mask = kind == "bias" and bool(host) and host[-1] in words.ATTENTION_PLACES
    if role in {"gate_proj", "up_proj", "down_proj", "gate_up", "moe_gate"} and any(
        w in words.EXPERT_PLACES for w in inside
    ):
        role, slot = "moe_expert", "gate_proj" if slot == "moe_gate" else slot
    if kind == "bias":
        role = "bias"
    elif kind == "quantization":
        role = "other"
    return _Reading(role, group, part, slot, kind, stack, layer_at, expert_at, mask, kept)


def _leaf(segments: list[str]) -> tuple[list[str], str]:
    """The segments that name a module, and the kind of the tensor under it."""
    for at, word in enumerate(segments):
        if word in words.ADAPTERS:
            return segments[:at], "adapter"
    last = segments[-1]
    if last in words.BUFFERS:
        return segments[:-1], "buffer"
    for at in range(max(0, len(segments) - 3), len(segments)):
        if segments[at] in words.QUANTIZATION:
            cut = at - 1 if at and segments[at - 1] == "weight" else at
            return segments[:cut], "quantization"
    if last in words.WEIGHTS:
        return segments[:-1], "weight"
    if last in words.BIASES:
        return segments[:-1], "bias"
    for ending, kind in (("_weight", "weight"), ("_bias", "bias"), ("_blocks", "weight"), ("_scales", "quantization")):
        if last.endswith(ending) and last != "relative_attention_bias":
            return [*segments[:-1], last.removesuffix(ending)], kind
    return segments, "bias" if last.startswith("bias_") else "weight"


def _stack(segments: list[str], layer_at: int | None) -> str:
    before = segments[: layer_at - 1] if layer_at is not None else segments
    for word in before:
        if word in words.VISION_PLACES:
            return "vision"
        if word in words.AUDIO_PLACES:
            return "audio"
        if word == "mtp":
            return "mtp"
    if layer_at is None or not before or before[-1] not in {"encoder", "decoder"}:
        return ""
    # BERT and ViT count `encoder.layer.N`, ChatGLM and Megatron `transformer.encoder.layers.N`: their only blocks
    only = segments[layer_at - 1] == "layer" or (len(before) > 1 and before[-2] in {"transformer", "language_model"})
    return "" if before[-1] == "encoder" and only else before[-1]


def _block_part(inside: list[str], *, in_h: bool) -> str:
    """The part of the block: the last word that names one."""
    for word in reversed(inside):
        if word in words.ATTENTION_PLACES:
            return "attn"
        if word in words.FEED_FORWARD_PLACES:
            return "mlp"
        if word in words.STATE_SPACE_PLACES:
            return "attn" if in_h else ""  # the first Phi models call attention `h.N.mixer`
    return ""


def _find(inside: list[str], block_part: str, stack: str, *, in_layer: bool) -> tuple[str, str, str, str]:
    """(role, slot, part, group outside the blocks) of a module's path."""
    last = next((word for word in reversed(inside) if word not in {"#", "norms", "module"}), _NO_NAME)
    group = "other"
    if not in_layer:
        group = _top_group(inside, stack)
    if len(last) <= _LONGEST_WORD and _NORM.search(last):
        return "norm", "norm", "norm", group
    if last.endswith("_shortcut_q"):
        return "other", "rotation", block_part, group
    if not in_layer and any(word in words.PROJECTOR_PLACES for word in inside):
        return "other", "projector", "", group
    if group == "lm_head" or "shared_head" in inside:
        vocabulary = any(word in _TOKEN_HEADS for word in inside) or words.OUTPUTS.get(last) == "lm_head"
        vocabulary = (vocabulary and last != "dense") or (last == "decoder" and "predictions" in inside)
        return "output", "lm_head" if vocabulary else "head", "", group
    loose = in_layer or stack != ""
    for word in reversed(inside):
        if word == "#":
            continue
        if block_part == "attn" and word in words.ATTENTION:
            return (*words.ATTENTION[word], block_part, group)
        if block_part == "mlp" and word in words.FEED_FORWARD:
            return (*words.FEED_FORWARD[word], block_part, group)
        if word in words.RECURRENT:
            return "recurrent", word, block_part, group
        if _in_state_space(inside) and word in words.STATE_SPACE:
            return (*words.STATE_SPACE[word], block_part, group)
        if not block_part and loose and word in words.LOOSE and (not _in_state_space(inside) or word in words.MIXED):
            return (*words.LOOSE[word], group)
        if word in words.EMBEDDINGS and (word != "shared" or len(inside) <= 2):
            return "embedding", words.EMBEDDINGS[word], block_part, "embed"
        if _CONVOLUTION.search(word[:_LONGEST_WORD]):
            return "conv", "conv", block_part, group
        if word not in words.TRANSPARENT:
            break
    return "other", "", block_part, group


def _in_state_space(inside: list[str]) -> bool:
    return any(word in words.STATE_SPACE_PLACES for word in inside)


def _top_group(inside: list[str], stack: str) -> str:
    """The group of what stands outside the blocks: embed, lm_head or other."""
    if stack not in {"vision", "audio"}:
        if any(word in words.HEAD_PLACES for word in inside):
            return "lm_head"
        named = [word for word in inside if word not in {"model", "module", "transformer", "base_model"}]
        if len(named) == 1 and named[0] in words.OUTPUTS:
            return "lm_head"
    if any(word in words.EMBEDDINGS for word in inside) or (inside and inside[-1].endswith("embeddings_layernorm")):
        return "embed"
    return "other"
