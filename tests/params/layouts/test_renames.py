"""Canonical names: every row by an example that it alone explains, and what holds of names of any kind."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slowness import slowness

from netweight.params.layouts import renames
from netweight.params.layouts.renames import ROWS, Rename, canonical_names

EXAMPLES = (
    # (names of one file, their canonical names)
    (["module.model.norm.weight"], ["model.norm.weight"]),
    (["module._orig_mod.module.h.0.ln_1.bias"], ["h.0.ln_1.bias"]),
    (["base_model.model.model.layers.0.mlp.up_proj.weight"], ["model.layers.0.mlp.up_proj.weight"]),
    (["model.layers.3.self_attn.q_proj.base_layer.weight"], ["model.layers.3.self_attn.q_proj.weight"]),
    (["model._fsdp_wrapped_module.layers.0._checkpoint_wrapped_module.w"], ["model.layers.0.w"]),
    (["bert.embeddings.LayerNorm.gamma"], ["bert.embeddings.LayerNorm.weight"]),
    (["encoder.layer.11.output.LayerNorm.beta"], ["encoder.layer.11.output.LayerNorm.bias"]),
    (
        ["encoder.pos_conv_embed.conv.weight_g", "encoder.pos_conv_embed.conv.weight_v"],
        [f"encoder.pos_conv_embed.conv.parametrizations.weight.original{n}" for n in (0, 1)],
    ),
    (["language_model.lm_head.weight"], ["lm_head.weight"]),
    (["language_model.model.layers.0.mlp.up_proj.weight"], ["model.language_model.layers.0.mlp.up_proj.weight"]),
    (["model.language_model.model.norm.weight"], ["model.language_model.norm.weight"]),
    (["language_model.norm.weight"], ["model.language_model.norm.weight"]),
    (["vision_tower.post_layernorm.weight"], ["model.vision_tower.post_layernorm.weight"]),
    (
        ["vision_model.norm.weight", "audio_tower.norm.weight"],
        ["model.vision_model.norm.weight", "model.audio_tower.norm.weight"],
    ),
    (
        ["multi_modal_projector.linear_1.bias", "image_newline"],
        ["model.multi_modal_projector.linear_1.bias", "model.image_newline"],
    ),
    (
        ["vision_tower.vision_model.encoder.layers.2.mlp.fc1.weight"],
        ["model.vision_tower.encoder.layers.2.mlp.fc1.weight"],
    ),
    (
        [
            "visual.blocks.0.attn.qkv.weight",
            "model.layers.0.mlp.up_proj.weight",
            "model.embed_tokens.weight",
            "model.norm.weight",
        ],
        [
            "model.visual.blocks.0.attn.qkv.weight",
            "model.language_model.layers.0.mlp.up_proj.weight",
            "model.language_model.embed_tokens.weight",
            "model.language_model.norm.weight",
        ],
    ),
    (["h.1.block_sparse_moe.input_linear.weight"], ["h.1.mlp.experts.gate_up_proj"]),
    (["h.1.block_sparse_moe.output_linear.weight"], ["h.1.mlp.experts.down_proj"]),
    (["h.1.block_sparse_moe.router.layer.weight"], ["h.1.mlp.gate.weight"]),
    (["h.1.block_sparse_moe.gate.weight"], ["h.1.mlp.gate.weight"]),
    (["h.1.mlp.router.weight", "h.2.mlp.router.linear.bias"], ["h.1.mlp.gate.weight", "h.2.mlp.gate.bias"]),
    (
        [f"h.1.block_sparse_moe.experts.17.w{n}.weight" for n in (1, 2, 3)],
        [f"h.1.mlp.experts.17.{word}_proj.weight" for word in ("gate", "down", "up")],
    ),
    (
        ["h.1.mlp.experts.gate_up_projs.31.bias", "h.1.mlp.experts.down_projs.7.weight"],
        ["h.1.mlp.experts.31.gate_up_proj.bias", "h.1.mlp.experts.7.down_proj.weight"],
    ),
)

KEPT = (
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.0.mlp.experts.gate_up_proj",
    "lm_head.weight",
    "transformer.h.0.attn.c_attn.weight",
    "visual_projection.weight",  # a word that only begins like a tower
    "modules.0.weight",
    "mlp.experts.1.w1",  # no tensor below it
    "weight_g",
    "LayerNorm.gamma.x",
    "",
    ".",
    "..0..",
)


@pytest.mark.parametrize(("names", "expected"), EXAMPLES, ids=[names[0] for names, _ in EXAMPLES])
def test_an_example(names: list[str], expected: list[str]) -> None:
    assert canonical_names(names) == dict(zip(names, expected, strict=True))
    assert list(canonical_names(names)) == names


@pytest.mark.parametrize("row", ROWS, ids=[row.stored for row in ROWS])
def test_every_row_is_needed_by_an_example(monkeypatch: pytest.MonkeyPatch, row: Rename) -> None:
    monkeypatch.setattr(renames, "ROWS", tuple(other for other in ROWS if other is not row))
    assert any(list(canonical_names(names).values()) != expected for names, expected in EXAMPLES)


@pytest.mark.parametrize("name", KEPT)
def test_names_that_no_row_knows(name: str) -> None:
    assert canonical_names([name]) == {name: name}


def test_a_row_that_counts_only_beside_a_segment() -> None:
    """A Llama's names stay, and so do those of a model whose tower stands below `model`."""
    text = ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
    for beside in ([], ["model.visual.norm.weight"], ["visualize.norm.weight"]):
        assert canonical_names([*text, *beside]) == {name: name for name in [*text, *beside]}


def test_rows_have_as_many_numbers_as_their_pattern() -> None:
    for row in ROWS:
        assert row.canonical.count("#") == row.stored.count("#"), row


@pytest.mark.parametrize("first", [0, 1])
def test_names_that_would_become_one_keep_theirs(first: int) -> None:
    old, new = "bert.embeddings.LayerNorm.gamma", "bert.embeddings.LayerNorm.weight"
    names = [(old, new), (new, old)][first]
    assert canonical_names([*names, "pooler.LayerNorm.gamma"]) == {
        old: old, new: new, "pooler.LayerNorm.gamma": "pooler.LayerNorm.weight",
    }  # fmt: skip
    three = ["module.x.weight", "_orig_mod.x.weight", "x.weight"]
    assert canonical_names(three) == {name: name for name in three}
    turned = ["h.0.mlp.router.weight", "h.0.block_sparse_moe.gate.weight", "h.1.mlp.router.weight"]
    assert list(canonical_names(turned).values()) == [*turned[:2], "h.1.mlp.gate.weight"]


@pytest.mark.parametrize(
    "odd", ["h.#.block_sparse_moe.experts.#.w1.weight", "h.0.block_sparse_moe.experts.#.w1.weight"]
)
def test_a_number_sign_in_a_name(odd: str) -> None:
    """Numbers are written as # within; a name that has one is kept, and changes nothing for others, before or after."""
    plain = "h.0.block_sparse_moe.experts.1.w1.weight"
    for names in ([odd, plain], [plain, odd]):
        assert canonical_names(names) == {odd: odd, plain: "h.0.mlp.experts.1.gate_proj.weight"}


def test_numbers_are_whole_segments() -> None:
    names = ["h.1.mlp.experts.0007.w1.weight", "h.1.mlp.experts.1234567.w1.weight", "h.1.mlp.experts.e1.w1.weight"]
    assert list(canonical_names(names).values()) == ["h.1.mlp.experts.0007.gate_proj.weight", *names[1:]]


WORDS = st.sampled_from([
    "model", "module", "language_model", "visual", "vision_tower", "layers", "experts", "mlp", "router", "linear", "w1",
    "w2", "block_sparse_moe", "base_layer", "lm_head", "LayerNorm", "gamma", "weight", "weight_g", "gate_up_projs",
    "input_linear", "é", "\n", "", "#", "0", "12", "1234567",
])  # fmt: skip
NAMES = st.lists(WORDS, min_size=1, max_size=8).map(".".join)


@given(st.lists(NAMES, unique=True, max_size=12))
def test_any_names(names: list[str]) -> None:
    """Every name has one canonical name, none is shared, and numbers stay as they are, in their order."""
    found = canonical_names(names)
    assert list(found) == names
    assert len(set(found.values())) == len(names)
    for name, canonical in found.items():
        numbers = [re.findall(r"(?<![^.])[0-9]{1,6}(?![^.])", n) for n in (name, canonical)]
        assert numbers[0] == numbers[1]
        assert "#" not in name or canonical == name


@given(NAMES.filter(lambda name: name.count("module") + name.count("block_sparse_moe") + name.count("router") < 2))
def test_a_canonical_name_is_its_own(name: str) -> None:
    (canonical,) = canonical_names([name]).values()
    assert canonical_names([canonical]) == {canonical: canonical}


def test_a_hundred_thousand_names() -> None:
    """Time is linear in their number, and a name of a million characters takes no longer than it must."""
    kinds = [f"block_sparse_moe.experts.{e}.w{n}.weight" for e in range(128) for n in (1, 2, 3)]
    names = [f"module.model.layers.{layer}.{kind}" for layer in range(261) for kind in kinds]
    assert len(names) > 100_000
    start = time.thread_time()
    found = canonical_names(names)
    assert time.thread_time() - start < 5 * slowness()  # 0.5 s usually
    assert found[names[-1]] == "model.layers.260.mlp.experts.127.up_proj.weight"
    apart = [f"module.block{i}_{i}.LayerNorm.gamma" for i in range(100_000)]  # each is a template of its own
    start = time.thread_time()
    assert len(set(canonical_names(apart).values())) == len(apart)
    assert time.thread_time() - start < 12 * slowness()  # 1.4 s usually
    for long in (
        "module." * 150_000 + "weight",
        "a" * 10**6,
        "model." * 150_000,
        ".experts.#" * 100_000,
        "0." * 500_000,
    ):
        start = time.thread_time()
        canonical_names([long, f"language_model.{long}"])
        assert time.thread_time() - start < 3 * slowness(), long[:20]
