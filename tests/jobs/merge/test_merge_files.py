"""A merge's folder is a model: transformers loads weights, config and tokenizer; what a checkpoint says stays text."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_tokenizer import tiny_tokenizer

from netweight.checkpoint.place import LocalPlace
from netweight.dtypes import DTYPES
from netweight.jobs.merge import copying
from netweight.jobs.merge.card import public_name
from netweight.jobs.merge.files import model_card, write_model_files
from netweight.output.folder import ResultFolder
from netweight.output.safetensors_file import TensorEntry
from netweight.output.shard_writer import ShardWriter
from netweight.output.shards import plan_shards
from netweight.version import __version__

SHARDS = plan_shards({"a": TensorEntry(DTYPES["U8"], (1,))}, 9)
TOKENIZER = {"tokenizer.json": '{"t": 1}', "tokenizer_config.json": "{}", "special_tokens_map.json": "{}"}


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def tree(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def stage(tmp_path):
    place = tmp_path / "stage"
    place.mkdir()
    return place


def written(stage, config=None, from_folder=None, tokenizer_folder=None, shards=SHARDS):
    return write_model_files(
        stage,
        config={"model_type": "llama"} if config is None else config,
        from_place=from_folder and LocalPlace(from_folder),
        tokenizer_place=tokenizer_folder and LocalPlace(tokenizer_folder),
        shards=shards,
        card="# card\n",
    )


def tiny_llama(tied: bool):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("files", [1, 3])
def test_transformers_loads_it(tmp_path, tied, files):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    model = tiny_llama(tied)
    base = tmp_path / "base"
    model.save_pretrained(base)
    model.generation_config.max_new_tokens = 17
    model.generation_config.save_pretrained(base)
    tiny_tokenizer(base)
    tensors = {n: t.numpy() for n, t in model.state_dict().items() if not (tied and n == "lm_head.weight")}
    plan = {name: TensorEntry(DTYPES["F32"], array.shape) for name, array in tensors.items()}
    total = sum(entry.nbytes for entry in plan.values())
    shards = plan_shards(plan, total if files == 1 else total // 2)
    assert len(shards) == files
    config = json.loads((base / "config.json").read_text())
    with ResultFolder(tmp_path / "out", [base], "merge", replace=False, keep_stage=True) as results:
        with ShardWriter(results.stage, shards, keep=False, sync=True) as writer:
            for name in reversed(tensors):
                writer.write(name, 0, np.ascontiguousarray(tensors[name]).tobytes())
            writer.finish()
        notes = write_model_files(
            results.stage,
            config=config,
            from_place=LocalPlace(base),
            tokenizer_place=LocalPlace(base),
            shards=shards,
            card="# card\n",
        )
        assert notes == ()
        assert results.commit() == ()

    loaded, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True, local_files_only=True, dtype=torch.float32
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, parameter in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], parameter)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    tokens = torch.tensor([[1, 3, 4, 5]])
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert loaded.generation_config.max_new_tokens == 17
    assert GenerationConfig.from_pretrained(tmp_path / "out").max_new_tokens == 17
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert tokenizer("weights are merged")["input_ids"] == [3, 4, 5]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"


def test_only_the_files_that_make_it_a_model(tmp_path, stage):
    others = {
        "modeling_x.py": "code", "model.safetensors": "w", "pytorch_model.bin": "w", "training_args.bin": "t",
        "README.md": "theirs", "config.json": "{}", "generation_config.json": '{"top_k": 3}', ".netweight.json": "{}",
        "additional_chat_templates/evil.py": "code",
    }  # fmt: skip
    tokenizer = TOKENIZER | {
        "qwen.tiktoken": "t", "tokenizer.model": "m", "vocab.json": "{}", "merges.txt": "", "chat_template.jinja": "c",
        "preprocessor_config.json": "{}", "added_tokens.json": "{}", "normalizer.json": "{}",
        "additional_chat_templates/rag.jinja": "r",
    }  # fmt: skip
    base = fill(tmp_path / "base", others | {"tokenizer.json": "the base's"})
    other = fill(tmp_path / "other", others | tokenizer)
    assert written(stage, {"hidden_size": 8, "limit": [0.0, float("inf")]}, base, other) == ()
    assert tree(stage) == tokenizer | {
        "README.md": "# card\n",
        "config.json": '{\n  "hidden_size": 8,\n  "limit": [\n    0.0,\n    Infinity\n  ]\n}\n',
        "generation_config.json": '{\n  "top_k": 3\n}\n',
    }


def test_an_index_where_there_are_several_files(tmp_path, stage):
    plan = {name: TensorEntry(DTYPES["U8"], (4,)) for name in "ab"}
    written(stage, shards=plan_shards(plan, 4))
    assert json.loads((stage / "model.safetensors.index.json").read_text())["weight_map"] == {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors",
    }


def test_what_there_is_not_is_said(tmp_path, stage):
    notes = write_model_files(stage, config=None, from_place=None, tokenizer_place=None, shards=SHARDS, card="# card\n")
    assert notes == ("no tokenizer: no input has a folder of its own; copy its files into the output",)
    assert tree(stage) == {"README.md": "# card\n"}
    base = fill(tmp_path / "base", {"generation_config.json": "[1]", "config.json": "{}"})
    assert written(stage, {}, base, base) == (
        f"not copied: {base}/generation_config.json: holds a JSON array, expected an object",
        f"{base}: has no tokenizer; copy one into the output",
    )
    assert tree(stage) == {"README.md": "# card\n", "config.json": "{}\n"}


def test_a_tokenizers_config_that_is_no_json_is_said(tmp_path, stage):
    base = fill(tmp_path / "base", {"tokenizer_config.json": "{"})
    (note,) = written(stage, {}, None, base)
    assert note.startswith(f"copied as it is: {stage}/tokenizer_config.json: is not valid JSON")


def test_custom_code_is_named_and_not_copied(tmp_path, stage):
    code = {
        "AutoConfig": "configuration_x.XConfig",
        "AutoModel": "modeling_x.X",
        "AutoModelForCausalLM": "modeling_x.Y",
    }
    tokenizer = {"auto_map": {"AutoTokenizer": ["tokenization_x.T", None], "AutoProcessor": "org/repo--processing.P"}}
    files = {"modeling_x.py": "", "tokenizer_config.json": json.dumps(tokenizer)}
    base = fill(tmp_path / "base", files)
    needs = "needs the model's own code, which is not copied"
    assert written(stage, {"auto_map": code}, base, base) == (
        f"config.json: {needs}: 'configuration_x.py', 'modeling_x.py'; copy it from {base}",
        f"tokenizer_config.json: {needs}: 'tokenization_x.py'; copy it from {base}",
    )
    assert not list(stage.glob("*.py"))
    (note,) = written(stage, {"auto_map": {"A": "e\x1b[31m\n.C", "B": 3, "C": ["--"]}}, None, fill(base, TOKENIZER))
    assert note == "config.json: needs the model's own code, which is not copied: 'e\\\\x1b[31m\\\\n.py'; copy it"
    assert written(stage, {"auto_map": ["x"]}, None, base) == ()


def test_links_that_lead_out_are_not_followed(tmp_path, stage):
    secret = fill(tmp_path, {"secret": '{"s": 1}'}) / "secret"
    base = fill(tmp_path / "base", {"inner/real.json": "r", "merges.txt": "m"})
    (base / "tokenizer.json").symlink_to(secret)
    (base / "generation_config.json").symlink_to(secret)
    (base / "vocab.json").symlink_to("inner/real.json")
    (base / "vocab.txt").symlink_to("nowhere")
    (base / "spiece.model").symlink_to("spiece.model")
    (base / "tokenizer.model").mkdir()
    (base / "x.tiktoken").mkdir()
    notes = written(stage, {}, base, base)
    outside = f"is a link to {secret}, outside its folder; name that file itself"
    assert notes[:5] == (
        f"not copied: {base}/generation_config.json: {outside}",
        f"not copied: {base}/spiece.model: is a link that leads to nothing",
        f"not copied: {base}/tokenizer.json: {outside}",
        f"not copied: {base}/tokenizer.model: is a folder, expected a regular file; name a model file",
        f"not copied: {base}/vocab.txt: is a link that leads to nothing",
    )
    assert re.fullmatch(r"not copied: .*/x\.tiktoken: is a (pipe|folder), expected a regular file.*", notes[5])
    assert tree(stage) == {"README.md": "# card\n", "config.json": "{}\n", "merges.txt": "m", "vocab.json": "r"}


def test_a_hub_caches_links_are_followed(tmp_path, stage):
    repository = tmp_path / "models--org--name"
    fill(repository / "blobs", {"1234": "tokens", "5678": '{"top_k": 5}'})
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "tokenizer.json").symlink_to("../../blobs/1234")
    (snapshot / "generation_config.json").symlink_to("../../blobs/5678")
    assert written(stage, {}, snapshot, snapshot) == ()
    assert (stage / "tokenizer.json").read_text() == "tokens"
    assert not (stage / "tokenizer.json").is_symlink()
    assert json.loads((stage / "generation_config.json").read_text()) == {"top_k": 5}


def test_sizes_of_tokenizers(tmp_path, stage, monkeypatch):
    monkeypatch.setattr(copying, "MAX_TOKENIZER", 10)
    monkeypatch.setattr(copying, "_BLOCK", 3)
    base = fill(tmp_path / "base", {"vocab.txt": "0123456789", "merges.txt": "0123456789x", "vocab.json": ""})
    assert written(stage, {}, None, base) == (f"not copied: {base}/merges.txt: 11 bytes, expected at most 10",)
    assert (stage / "vocab.txt").read_text() == "0123456789"
    assert (stage / "vocab.json").read_text() == ""


def front_matter(card):
    _, head, body = card.split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_card():
    card = model_card(
        references=["org/base", "org/math", "org/home"],
        base="org/base",
        method="task_arithmetic",
        models=[("org/math", 1 / 3, 182.634), ("org/home", 0.5, None)],
        recipe="# made\nmerge_method: task_arithmetic\nbase_model: org/base\n",
    )
    head, body = front_matter(card)
    assert head == {
        "base_model": ["org/base", "org/math", "org/home"],
        "library_name": "transformers",
        "tags": ["merge", "netweight"],
    }
    assert (
        body
        == f"""
# Merged model

Made of 3 models by `task_arithmetic`, with netweight {__version__}. What went into each parameter stands in \
`netweight_merge.json`.

| Model | Role | Weight | L2 norm of its task vector |
| --- | --- | --- | --- |
| `org/base` | base |  |  |
| `org/math` | model | 0.333333 | 182.634 |
| `org/home` | model | 0.5 |  |

## Recipe

```yaml
# made
merge_method: task_arithmetic
base_model: org/base
```
"""
    )


def test_a_card_without_weights():
    card = model_card(references=["b", "x/a", "x/c"], base=None, method="slerp", models=(), recipe="r")
    assert "| Model | Role |\n| --- | --- |\n| `b` | model |\n| `x/a` | model |\n| `x/c` | model |\n\n" in card
    card = model_card(references=["b/b", "x/a"], base="b/b", method="slerp", models=(), recipe="r")
    assert "| `b/b` | base |\n| `x/a` | model |\n\n" in card


EVIL = [
    "a|b", "a\\|b", "`rm`", "<script>alert(1)</script>", "[x](javascript:1)", "x\n---\nlicense: mit", "@someone",
    "https://evil.example", "www.evil.example|", "**bold**", "a\u202eb", "&lt;", "\udc80", "!!python/object", "x" * 999,
]  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
def test_names_mean_nothing_but_themselves(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reference = f"/models/{name}"
    recipe = f"base_model: {name}\n```\n# <b>\n"
    card = model_card(references=[reference], base=reference, method="linear", models=(), recipe=recipe)
    head, body = front_matter(card)
    assert set(head) <= {"base_model", "library_name", "tags"}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", known) for known in head.get("base_model", ()))
    (row,) = [line for line in body.splitlines() if line.endswith("| base |")]
    assert row.count("|") == 3
    cell = row.split("|")[1].strip()
    assert re.fullmatch(r"`[A-Za-z0-9._/ -]+`|<code>(\w|&#\d+;| )+</code>", cell, re.ASCII)
    fenced = body[body.index("## Recipe") :]
    fence = re.search(r"^(`+)yaml$", fenced, re.MULTILINE)[1]
    inside = fenced[fenced.index("yaml") + 5 :]
    assert len(fence) > 3
    assert inside.endswith(f"\n{fence}\n")
    assert fence not in inside.removesuffix(f"{fence}\n")
    card.encode()


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("org/name", "org/name"),
        ("gpt2", "gpt2"),
        ("./org/name", "name"),
        ("/srv/models/llama-1b/", "llama-1b"),
        ("/models/one.safetensors", "one"),
        ("/models/llama/model.safetensors", "llama"),
        ("/cache/hub/models--org--some--name/snapshots/0123", "org/some--name"),
        ("/cache/hub/models--gpt2/snapshots/0123/model.safetensors", "gpt2"),
        ("here/too", "too"),
        (".", "work"),
        ("../work/here", "here"),
    ],
)
def test_names_without_the_path_to_them(tmp_path, monkeypatch, reference, name):
    (tmp_path / "work" / "here" / "too").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    assert public_name(reference) == name
