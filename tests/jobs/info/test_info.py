from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import netweight
from netweight.errors import ModelNotFoundError
from netweight.jobs.info.job import DtypeRow, FileRow, RoleRow, info

LLAMA = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24}
LLAMA |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32, "tie_word_embeddings": True}


def llama_shapes(
    layers: int = 2, hidden: int = 16, wide: int = 24, kv: int = 8, words: int = 32
) -> dict[str, list[int]]:
    shapes = {"model.embed_tokens.weight": [words, hidden]}
    for i in range(layers):
        at = f"model.layers.{i}."
        shapes |= {at + f"self_attn.{x}_proj.weight": [hidden, hidden] for x in "qo"}
        shapes |= {at + f"self_attn.{x}_proj.weight": [kv, hidden] for x in "kv"}
        shapes |= {at + f"mlp.{x}_proj.weight": [wide, hidden] for x in ("gate", "up")}
        shapes |= {at + "mlp.down_proj.weight": [hidden, wide], at + "input_layernorm.weight": [hidden]}
    return shapes | {"model.norm.weight": [hidden]}


def write_sparse(folder: Path, shapes: Mapping[str, list[int]], config: Any, shards: int = 1) -> Path:
    """A real sharded checkpoint whose data is a hole in the file: headers can be read, the rest costs no disk."""
    folder.mkdir(exist_ok=True)
    names, weight_map, total = list(shapes), {}, 0
    for shard in range(shards):
        header, end = {}, 0
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        for name in names[shard * len(names) // shards : (shard + 1) * len(names) // shards]:
            size = 2 * int(np.prod(shapes[name]))
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [end, end + size]}
            weight_map[name] = file
            end += size
        raw = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(len(raw).to_bytes(8, "little") + raw)
            out.truncate(8 + len(raw) + end)
        total += end
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config) if not isinstance(config, str) else config)
    return folder


def test_a_llama(tmp_path: Path) -> None:
    shapes = llama_shapes()
    found = info(write_sparse(tmp_path, shapes, LLAMA, shards=2))
    elements = sum(int(np.prod(shape)) for shape in shapes.values())
    assert (found.format, found.family, found.tensors) == ("safetensors", "llama", len(shapes))
    assert (found.parameters, found.buffers, found.bytes) == (elements, 0, 2 * elements)
    assert found.dtypes == (DtypeRow("BF16", len(shapes), elements, 2 * elements, 16.0),)
    assert [(Path(f.name).name, f.size) for f in found.files] == [
        (p.name, p.stat().st_size) for p in sorted(tmp_path.glob("*.safetensors"))
    ]
    assert isinstance(found.files[0], FileRow)
    assert (found.layers, found.heads, found.kv_heads) == (2, 4, 2)
    assert (found.hidden_size, found.intermediate_size, found.vocabulary) == (16, 24, 32)
    assert found.stacks == {"": 2}
    assert (found.tied, found.head_is) == ({}, "model.embed_tokens.weight")
    assert (found.skipped, found.notes, found.config_problem) == ((), (), None)
    assert found.roles[:2] == (
        RoleRow("embedding", 1, 512, 1024, 100 * 512 / elements),
        RoleRow("q_proj", 2, 512, 1024, 100 * 512 / elements),
    )
    assert sum(row.parameters for row in found.roles) == elements
    assert sum(row.share for row in found.roles) == pytest.approx(100)


def test_counting_tied_twice(tmp_path: Path) -> None:
    folder = write_sparse(tmp_path, llama_shapes(), LLAMA)
    once, twice = info(folder), info(folder, count_tied_twice=True)
    assert twice.parameters - once.parameters == 32 * 16
    assert twice.bytes == once.bytes
    assert next(row for row in twice.roles if row.role == "output").parameters == 32 * 16
    assert twice.notes == ("the head is model.embed_tokens.weight, counted once more",)


def test_tied_by_storage(tmp_path: Path) -> None:
    embed = torch.zeros(8, 4)
    torch.save({"model.embed_tokens.weight": embed, "lm_head.weight": embed}, tmp_path / "m.pt")
    found = info(tmp_path / "m.pt")
    assert found.tied in (
        {"lm_head.weight": "model.embed_tokens.weight"},
        {"model.embed_tokens.weight": "lm_head.weight"},
    )
    assert (found.parameters, found.bytes) == (32, 128)
    assert info(tmp_path / "m.pt", count_tied_twice=True).parameters == 64


def test_stored_twice_is_said(tmp_path: Path) -> None:
    found = info(write_sparse(tmp_path, llama_shapes() | {"lm_head.weight": [32, 16]}, LLAMA))
    (note,) = found.notes
    assert note == (
        "config.json ties lm_head.weight to model.embed_tokens.weight, and the file holds both: counted twice,"
        " as whether they are equal takes reading them"
    )


def test_config_and_shapes_disagree(tmp_path: Path) -> None:
    wrong = LLAMA | {"num_hidden_layers": 3, "vocab_size": 31, "num_key_value_heads": 4}
    found = info(write_sparse(tmp_path, llama_shapes(), wrong))
    assert found.layers == 3
    assert found.notes == (
        "config.json says num_hidden_layers = 3, the names of the tensors count 2",
        "config.json says vocab_size = 31, the rows of the embedding are 32",
        "config.json says num_key_value_heads = 4, the rows of k_proj make 2",
    )


def test_without_a_config(tmp_path: Path) -> None:
    folder = write_sparse(tmp_path, llama_shapes(), {})
    (folder / "config.json").unlink()
    found = info(folder)
    assert (found.family, found.layers, found.hidden_size, found.intermediate_size) == ("llama", 2, 16, 24)
    assert (found.vocabulary, found.heads, found.kv_heads) == (32, None, None)


BROKEN_CONFIGS = [
    "",
    "[1]",
    "{",
    '{"num_hidden_layers": "two", "hidden_size": -1, "vocab_size": true}',
    f'{{"hidden_size": 1e999, "n_layer": {10**50}, "text_config": 5}}',
]


@pytest.mark.parametrize("config", BROKEN_CONFIGS)
def test_a_broken_config_is_passed_over(tmp_path: Path, config: str) -> None:
    found = info(write_sparse(tmp_path, llama_shapes(), config))
    assert (found.layers, found.hidden_size, found.vocabulary) == (2, 16, 32)
    json.dumps(found.to_dict(), allow_nan=False)
    if not config.startswith('{"'):
        assert found.config_problem


def test_other_towers_are_counted_apart(tmp_path: Path) -> None:
    shapes = {f"language_model.{name}": shape for name, shape in llama_shapes().items()}
    shapes |= {f"vision_tower.vision_model.encoder.layers.{i}.mlp.fc1.weight": [4, 4] for i in range(5)}
    config = {"model_type": "gemma3", "text_config": {"num_attention_heads": 4}}
    found = info(write_sparse(tmp_path, shapes, config))
    assert (found.family, found.layers, found.stacks) == ("gemma3", 2, {"": 2, "vision": 5})
    assert (found.heads, found.kv_heads, found.vocabulary) == (4, 2, 32)


def test_buffers_are_no_parameters(tmp_path: Path) -> None:
    arrays = {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.uint8), "h.0.attn.c_attn.bias": np.ones(6, np.float32)}
    save_file(arrays, tmp_path / "m.safetensors")
    found = info(tmp_path / "m.safetensors")
    assert (found.parameters, found.buffers, found.bytes) == (6, 16, 40)
    assert found.roles == (RoleRow("bias", 1, 6, 24, 100.0), RoleRow("buffer", 1, 16, 16, 0.0))
    assert [row.dtype for row in found.dtypes] == ["F32", "U8"]


def test_no_tensors(tmp_path: Path) -> None:
    save_file({}, tmp_path / "m.safetensors")
    found = info(tmp_path / "m.safetensors")
    assert (found.tensors, found.parameters, found.roles, found.layers) == (0, 0, (), None)
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_tree_folds_equal_layers(tmp_path: Path) -> None:
    shapes = llama_shapes(layers=5)
    shapes["model.layers.3.mlp.up_proj.weight"] = [20, 16]
    shapes |= {f"model.layers.4.mlp.experts.{e}.{x}.weight": [4, 16] for e in range(12) for x in ("w1", "w2")}
    tree = info(write_sparse(tmp_path, shapes, LLAMA), tree=True).tree
    model = tree.children[0]
    layers = next(child for child in model.children if child.label == "layers")
    assert [(child.label, child.times) for child in layers.children] == [("0-2", 3), ("3", 1), ("4", 1)]
    assert [child.tensors for child in layers.children] == [24, 8, 32]
    assert tree.parameters == sum(int(np.prod(shape)) for shape in shapes.values())
    mlp = next(child for child in layers.children[2].children if child.label == "mlp")
    experts = next(child for child in mlp.children if child.label.startswith("experts"))
    assert (experts.label, experts.times, experts.tensors, experts.parameters) == ("experts.0-11", 12, 24, 24 * 64)
    assert [(child.label, child.shape) for child in experts.children] == [
        ("w1.weight", (4, 16)),
        ("w2.weight", (4, 16)),
    ]


def test_the_tree_of_one_tensor_layers_and_gaps(tmp_path: Path) -> None:
    shapes = {f"h.{i}.w": [2] for i in (0, 1, 2, 10, 11, 7)} | {"h.01.w": [2], "x" + ".y" * 2000: [3]}
    tree = info(write_sparse(tmp_path, shapes, {}), tree=True).tree
    layers = [(child.label, child.times, child.shape) for child in tree.children[0].children]
    assert layers == [("0.w", 1, (2,)), ("01.w", 1, (2,)), ("1-2.w", 2, (2,)), ("7.w", 1, (2,)), ("10-11.w", 2, (2,))]
    assert tree.children[1].shape == (3,)


def test_json_holds_it_all(tmp_path: Path) -> None:
    found = info(write_sparse(tmp_path, llama_shapes() | {"\x1b[31m\n": [1]}, LLAMA))
    entry = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert "tree" not in entry
    assert entry["roles"][0] == {
        "role": "embedding",
        "tensors": 1,
        "parameters": 512,
        "bytes": 1024,
        "share": pytest.approx(100 * 512 / found.parameters),
    }
    assert entry["head_is"] == "model.embed_tokens.weight"
    tree = json.loads(json.dumps(info(tmp_path, tree=True).to_dict()))["tree"]
    assert tree["parameters"] == found.parameters


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        info(tmp_path / "nothing")


def test_real_checkpoints(realweights: Path) -> None:
    found = info(realweights / "saltyduckegg__llama2xs.c__out_ckpt@aa3a9a.pt")
    assert (found.family, found.layers, found.hidden_size, found.vocabulary) == ("llama2.c", 5, 64, 512)
    assert found.skipped  # Adam's moments
    assert {row.role for row in found.roles} >= {"embedding", "q_proj", "gate_proj", "norm"}
    for path in sorted(realweights.glob("*.safetensors")):
        assert info(path).tensors > 0


HEAVY = ("numpy", "numba", "torch", "scipy", "pyarrow", "matplotlib", "ml_dtypes", "pandas", "polars", "ray")
PROGRAM = """
import sys
sys.argv[1:] = {args!r}
from netweight.cli.main import main
try:
    main()
except SystemExit as left:
    assert left.code == 0, left.code
print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize("form", ["human", "json", "quiet"])
def test_an_8b_shape_imports_nothing_heavy_and_reads_no_data(tmp_path: Path, form: str) -> None:
    shapes = llama_shapes(layers=32, hidden=4096, wide=14336, kv=1024, words=128256) | {
        "lm_head.weight": [128256, 4096]
    }
    folder = write_sparse(tmp_path, shapes, LLAMA | {"tie_word_embeddings": False}, shards=4)
    program = PROGRAM.format(args=["info", str(folder), "--tree", "--format", form], heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert done.stderr.strip() == "[]"
    assert ("8,030,130,176" in done.stdout) == (form == "human")


def test_importing_netweight_is_light() -> None:
    program = f"import sys, netweight; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == "[]"
    assert netweight.__version__
