"""`netweight merge` as users of mergekit type it. The list of options is that of `mergekit-yaml --help`, 0.1.5."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import click
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))
from merge_families import CONFIG, family, merged, save, weights
from task_vectors import beside_progress, netweight

import netweight as package
from netweight.cli.main import cli
from netweight.cli.merge import merge
from netweight.cli.mergekit_options import NEEDLESS, translated
from netweight.errors import OptionError

FLAGS = [
    "allow-crimes", "async-write", "clone-tensors", "copy-tokenizer", "cuda", "lazy-unpickle", "low-cpu-memory",
    "multi-gpu", "quiet", "read-to-gpu", "safe-serialization", "trust-remote-code", "unsafe-truncate-embeddings",
    "write-model-card",
]  # fmt: skip
OTHERS = {
    "--transformers-cache": "DIR", "--lora-merge-cache": "DIR", "--lora-merge-dtype": "float16", "--device": "cpu",
    "--out-shard-size": "5B", "--random-seed": "7", "--num-threads": "2", "-j": "2", "--write-threads": "3",
}  # fmt: skip
MERGING = (Path(__file__).parents[2] / "docs" / "merging.md").read_text(encoding="utf-8")
TOKENIZER = {
    "tokenizer.json": '{"model": {"vocab": {}}}', "tokenizer_config.json": "{}", "special_tokens_map.json": "{}",
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    base, tuned = family(tmp_path_factory.mktemp("models"))[:2]
    for name, text in TOKENIZER.items():
        for folder in (base, *tuned):
            (Path(folder) / name).write_text(text)
    return base, tuned


@pytest.fixture
def recipe(models, tmp_path):
    base, tuned = models
    file = tmp_path / "recipe.yml"
    entries = "".join(f"  - model: {m}\n    parameters: {{weight: 0.5, density: 0.4}}\n" for m in tuned)
    file.write_text(f"merge_method: dare_ties\nbase_model: {base}\nmodels:\n{entries}")
    return file


def parsed(*args: str) -> dict:
    parent = click.Context(cli, **cli.context_settings)
    context = merge.make_context("merge", ["recipe.yml", "out", *args], parent=parent)
    given = {k: v for k, v in context.params.items() if k not in {"recipe", "folder", "output"}}
    return translated(context, given)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def weight_bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.safetensors"))}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What options write into the environment is gone after the test."""
    for name in ("HF_HUB_CACHE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)


@pytest.mark.parametrize("option", [*(f"--{flag}" for flag in FLAGS), *OTHERS, "-v", "--gpu-rich"])
def test_every_option_of_mergekit_is_taken_and_explained(option) -> None:
    off = f"--no-{option[2:]}"
    refused = {"--no-safe-serialization", "--unsafe-truncate-embeddings"}
    for name in {option, off} - refused if option[2:] in FLAGS else [option]:
        parsed(name, *OTHERS.get(name, "").split())
    table = MERGING[MERGING.index("## The command line of mergekit") :].split("\n## ")[0]
    assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", table)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("--out-shard-size 5B", {"max_shard_size": 5_000_000_000}),
        ("--out-shard-size 5b", {"max_shard_size": 5_000_000_000}),
        ("--out-shard-size 20M", {"max_shard_size": 20_000_000}),
        ("--out-shard-size 3k", {"max_shard_size": 3_000}),
        ("--out-shard-size 1234", {"max_shard_size": 1234}),
        ("--out-shard-size 5B --max-shard-size 5GB", {"max_shard_size": 5_000_000_000}),
        ("--random-seed 42", {"seed": 42}),
        ("--random-seed 42 --seed 42", {"seed": 42}),
        ("--num-threads 3", {"workers": 3}),
        ("-j 3", {"workers": 3}),
        ("--allow-crimes", {"allow_mismatch": True}),
        ("--no-allow-crimes", {"allow_mismatch": False}),
        ("--cuda", {"device": "cuda", "multi_gpu": False}),
        ("--no-cuda", {"device": "auto"}),
        ("--cuda --device cuda:1", {"device": "cuda:1"}),
        ("--gpu-rich", {"device": "cuda", "multi_gpu": True}),
        ("--gpu-rich --no-multi-gpu --no-cuda", {"device": "cuda", "multi_gpu": True}),  # as mergekit does
        ("--cuda --multi-gpu", {"device": "cuda", "multi_gpu": True}),
        ("--quiet", {"output_format": "quiet"}),
        ("--quiet --format quiet", {"output_format": "quiet"}),
        ("--no-quiet --format json", {"output_format": "json"}),
        ("-vvv", {"verbose": True}),
        ("--no-copy-tokenizer", {"copy_tokenizer": False, "card": True}),
        ("--no-write-model-card", {"copy_tokenizer": True, "card": False}),
    ],
)
def test_what_they_mean(args, expected) -> None:
    own = parsed(*args.split())
    assert {name: own[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            "--out-shard-size 5B --max-shard-size 5GiB",
            "--out-shard-size and --max-shard-size: say two different things",
        ),
        ("--random-seed 1 --seed 0", "--random-seed and --seed: say two"),
        ("--num-threads 2 --workers 1", "--num-threads and --workers: say two"),
        ("--cuda --device cpu", "--cuda and --device: say two"),
        ("--gpu-rich --device cpu", "--gpu-rich and --device: say two"),
        ("--multi-gpu --no-multi-gpu", "--no-multi-gpu and --multi-gpu: say two"),
        ("--no-allow-crimes --allow-mismatch", "--no-allow-crimes and --allow-mismatch: say two"),
        ("--quiet --format json", "--quiet and --format: say two"),
        ("--no-safe-serialization", "netweight writes safetensors alone; leave it out"),
        ("--unsafe-truncate-embeddings", "--vocab base keeps the base's rows"),
        ("--transformers-cache=", "--transformers-cache: expected a folder, got an empty name"),
        *(
            (f"--out-shard-size {size}", "--out-shard-size: expected bytes in mergekit's way, such as 5B (5 GB)")
            for size in ("5GB", "0", "-1", "5T", "1.5B", "B", "9" * 30)
        ),
    ],
)
def test_what_contradicts_itself(args, message) -> None:
    with pytest.raises(OptionError) as caught:
        parsed(*args.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_as_it_is_typed(recipe, models, tmp_path) -> None:
    words = "--lazy-unpickle --copy-tokenizer --allow-crimes --out-shard-size 10K --random-seed 5 --trust-remote-code"
    words += " --clone-tensors --low-cpu-memory --lora-merge-cache cache --write-model-card -v --no-read-to-gpu"
    done = netweight("merge", recipe, tmp_path / "out", *words.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    notes = [line for line in beside_progress(done.stderr).splitlines() if "mergekit's" in line]
    assert len(notes) == 1
    given = ["--lazy-unpickle", "--clone-tensors", "--low-cpu-memory", "--trust-remote-code", "--lora-merge-cache"]
    for option, why in NEEDLESS.items():
        assert (f"{option} ({why})" in notes[0]) == (option in given)
    own = ["--max-shard-size", 10_000, "--seed", 5, "--allow-mismatch"]
    done = netweight("merge", recipe, "--output", tmp_path / "own", *own)
    assert done.returncode == 0, done.stderr
    assert "mergekit's" not in done.stderr
    assert weight_bytes(tmp_path / "out") == weight_bytes(tmp_path / "own")
    assert len(weight_bytes(tmp_path / "own")) > 1
    assert names(tmp_path / "out") == names(tmp_path / "own") >= {"README.md", *TOKENIZER}
    assert names(tmp_path) == {"recipe.yml", "out", "own"}  # no cache


def test_the_seed_and_the_size_count(recipe, tmp_path) -> None:
    for seed in (1, 2):
        done = netweight("merge", recipe, tmp_path / f"s{seed}", "--random-seed", seed, "--out-shard-size", "6K")
        assert done.returncode == 0, done.stderr
    assert weight_bytes(tmp_path / "s1") != weight_bytes(tmp_path / "s2")
    for file in (tmp_path / "s1").glob("*.safetensors"):
        data = file.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        assert len(data) - 8 - int.from_bytes(data[:8], "little") <= 6000 or len(header) == 2, file.name


def test_without_tokenizer_and_card(recipe, tmp_path) -> None:
    out = tmp_path / "out"
    assert netweight("merge", recipe, out, "--quiet").stdout == ""
    assert names(out) >= {"README.md", *TOKENIZER}
    first = weight_bytes(out)
    words = ["--overwrite", "--no-copy-tokenizer", "--no-write-model-card", "--quiet", "--lazy-unpickle"]
    done = netweight("merge", recipe, out, *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert names(out).isdisjoint({"README.md", *TOKENIZER})  # those of the earlier merge are gone
    assert names(out) >= {"config.json", "merge_recipe.yml", "netweight_merge.json"}
    assert weight_bytes(out) == first
    assert not [n for n in json.loads((out / "netweight_merge.json").read_text())["notes"] if "tokenizer" in n]
    assert netweight("verify", out).returncode == 0


def test_a_tokenizer_that_the_recipe_asks_for_is_written(recipe, tmp_path) -> None:
    recipe.write_text(recipe.read_text() + "tokenizer_source: base\n")
    done = netweight("merge", recipe, tmp_path / "out", "--no-copy-tokenizer")
    assert done.returncode == 0, done.stderr
    assert names(tmp_path / "out") >= {*TOKENIZER}
    assert "the recipe says whose it is" in done.stderr


def test_in_python_and_in_convert(models, tmp_path) -> None:
    base, tuned = models
    package.merge(None, tmp_path / "a", base=base, models=tuned, copy_tokenizer=False, card=False)
    package.convert(base, tmp_path / "b", copy_tokenizer=False)
    done = netweight("convert", base, "--output", tmp_path / "c", "--no-write-model-card")
    assert done.returncode == 0, done.stderr
    found = [names(tmp_path / name) & {"README.md", *TOKENIZER} for name in "abc"]
    assert found == [set(), {"README.md"}, {*TOKENIZER}]


def test_models_of_other_families(models, tmp_path) -> None:
    base, _ = models
    other = save(tmp_path / "other", weights(9), {**CONFIG, "model_type": "mistral"})
    (tmp_path / "r.yaml").write_text(
        f"merge_method: linear\nmodels:\n- {{model: {base}, parameters: {{weight: 1}}}}\n"
        f"- {{model: {other}, parameters: {{weight: 1}}}}\n"
    )
    assert netweight("merge", tmp_path / "r.yaml", tmp_path / "out").returncode == 2
    done = netweight("merge", tmp_path / "r.yaml", tmp_path / "out", "--allow-crimes")
    assert done.returncode == 0, done.stderr
    assert merged(tmp_path / "out")


def test_cuda_is_the_device(recipe, tmp_path) -> None:
    ours, theirs = (
        netweight("merge", recipe, tmp_path / "out", "--dry-run", *words)
        for words in (["--device", "cuda"], ["--cuda"])
    )
    assert (ours.returncode, beside_progress(ours.stderr)) == (theirs.returncode, beside_progress(theirs.stderr))
    if ours.returncode:
        assert "--device cuda" in theirs.stderr


def test_the_cache_of_the_hub(tmp_path) -> None:
    (tmp_path / "r.yml").write_text(
        "merge_method: linear\nmodels:\n- {model: nobody/nothing, parameters: {weight: 1}}\n"
    )
    cache = tmp_path / "the-cache"
    words = ["merge", tmp_path / "r.yml", tmp_path / "out", "--transformers-cache", cache]
    done = netweight(*words, env={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 2
    assert str(cache) in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RECIPE", "a", "--output", "b"], "a and --output b: two folders for one result; leave one of them out"),
        (["RECIPE", "M1"], "is not empty, and no merge of netweight's made it"),
        (["RECIPE", "BASE", "--overwrite"], "is an input model"),
        (["RECIPE", ""], "--output: expected the folder that the merged model goes into, got an empty name"),
        (["RECIPE"], "--output: expected the folder"),
        (["BASE", "M1"], "got a folder; --base and --models name models"),
        (["BASE", "--output", "x"], "got a folder; --base and --models name models"),
        (["x" * 5000, "out"], "the recipe cannot be read"),
        (["nobody/base", "out"], "nobody/base: expected a recipe (a YAML file), got no such file"),
        (["RECIPE", "out", "more"], "unexpected extra argument (more)"),
        (["RECIPE", "out", "--num-threads", "0"], "--num-threads"),
        (["RECIPE", "out", "--random-seed", "x"], "--random-seed"),
    ],
)
def test_the_two_places(recipe, models, tmp_path, words, message) -> None:
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "model.safetensors").write_bytes(b"mine")
    places = {"BASE": models[0], "M1": stranger, "RECIPE": recipe}
    done = netweight("merge", *(places.get(w, w) for w in words), cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert names(tmp_path) == {"recipe.yml", "stranger"}
    assert [path.read_bytes() for path in stranger.iterdir()] == [b"mine"]


def test_one_folder_named_twice(recipe, tmp_path) -> None:
    done = netweight("merge", recipe, "out/", "--output", "./out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert merged(tmp_path / "out")
