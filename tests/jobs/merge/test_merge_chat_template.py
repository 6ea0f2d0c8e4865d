"""The chat template of a merge: transformers, which reads the output, renders what jinja2 renders of the same text."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import jinja2
import pytest
import yaml
from merge_families import family
from tiny_tokenizer import tiny_tokenizer

import netweight
from netweight.checkpoint.tensor import Checkpoint
from netweight.errors import FormatError, OptionError
from netweight.jobs.merge.as_adapter import AdapterRequest, merge_as_adapter
from netweight.jobs.merge.chat_template import template_of
from netweight.jobs.merge.request import Options, make_request
from netweight.jobs.merge.template_files import write_object
from netweight.merging.chat_templates import MAX_TEMPLATE, TEMPLATES
from netweight.merging.recipe.recipe import parse_recipe, write_recipe

transformers = pytest.importorskip("transformers")

CHAT = [
    {"role": "system", "content": "w1"},
    {"role": "user", "content": "w2 w3"},
    {"role": "assistant", "content": "w4"},
    {"role": "user", "content": "w5"},
]
OWN = "{{ messages[0]['content'] }}"
"""The tiny tokenizer's."""


@pytest.fixture
def models(tmp_path):
    """Base and three models, each with a tokenizer: their paths."""
    base, tuned, _, _ = family(tmp_path)
    for path in (base, *tuned):
        tiny_tokenizer(Path(path))
    return [base, *tuned]


def recipe_for(models, template, more=""):
    listed = "".join(f"- model: {model}\n  parameters: {{weight: 0.3}}\n" for model in models[1:])
    key = "" if template is None else f"chat_template: {json.dumps(template)}\n"
    return parse_recipe(
        f"merge_method: task_arithmetic\nbase_model: {models[0]}\nmodels:\n{listed}{key}{more}", "m.yml"
    )


def merged(tmp_path, models, template):
    """(the folder, its notes on the template)."""
    result = netweight.merge(recipe_for(models, template), tmp_path / "out")
    return tmp_path / "out", [note for note in result.notes if "chat_template" in note]


def rendered(text, ask):
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    return environment.from_string(text).render(messages=CHAT, add_generation_prompt=ask, **tokens)


def applied(folder, ask=False):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=ask)


def config_template(folder):
    return json.loads((Path(folder) / "tokenizer_config.json").read_text())["chat_template"]


def edit(path, **values):
    path = Path(path)
    held = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**held, **values}))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_name(tmp_path, models, name):
    out, notes = merged(tmp_path, models, name)
    for ask in (False, True):
        assert applied(out, ask) == rendered(TEMPLATES[name].text, ask)
    assert (out / "chat_template.jinja").read_text() == config_template(out) == TEMPLATES[name].text
    lacking = ", ".join(repr(token) for token in TEMPLATES[name].tokens)
    assert len(notes) == bool(lacking)
    if lacking:
        assert notes[0].startswith("chat_template: the tokenizer has no token for '")
    assert netweight.verify(out).good


def test_where_older_transformers_look(tmp_path, models):
    """It knows no chat_template.jinja: what tokenizer_config.json says alone is the same."""
    out, _ = merged(tmp_path, models, "chatml")
    (out / "chat_template.jinja").unlink()
    assert applied(out, ask=True) == rendered(TEMPLATES["chatml"].text, ask=True)


def test_jinja(tmp_path, models):
    text = "{% for m in messages %}\r\n  <{{ m.role }}> ü\u2028 {{ m.content }}\n{% endfor %}\n"
    out, notes = merged(tmp_path, models, text)
    assert notes == []
    assert applied(out) == rendered(text, ask=False)
    assert (out / "chat_template.jinja").read_bytes().decode() == config_template(out) == text


def test_the_written_recipe_runs_again(tmp_path, models):
    out, _ = merged(tmp_path, models, "{{ bos_token }}\n'\"{# x #}\\")
    netweight.merge(out / "merge_recipe.yml", tmp_path / "again")
    for name in ("chat_template.jinja", "tokenizer_config.json", "merge_recipe.yml", "model.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_without_the_key_files_stay(tmp_path, models):
    out, notes = merged(tmp_path, models, None)
    assert notes == []
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (Path(models[0]) / name).read_bytes()


def test_tokens_that_a_tokenizer_has(tmp_path, models):
    """They are found in tokenizer.json and among those that tokenizer_config.json adds."""
    base = Path(models[0])
    held = json.loads((base / "tokenizer.json").read_text())
    held["added_tokens"].append(held["added_tokens"][0] | {"content": "<|im_start|>", "id": 32})
    (base / "tokenizer.json").write_text(json.dumps(held))
    _, (note,) = merged(tmp_path / "a", models, "chatml")
    assert note == "chat_template: the tokenizer has no token for '<|im_end|>', and cuts it into pieces"
    edit(base / "tokenizer_config.json", added_tokens_decoder={"33": {"content": "<|im_end|>"}, "34": 5})
    assert merged(tmp_path / "b", models, "chatml")[1] == []


# ---- auto


def test_auto_takes_the_most_common(tmp_path, models):
    """Wherever the models keep it; texts are one that differ in how lines end."""
    base, one, two, _ = map(Path, models)
    (one / "chat_template.jinja").write_text("A {{ x }}")
    (two / "chat_template.jinja").unlink()
    edit(two / "tokenizer_config.json", chat_template="A {{ x }}\r\n")
    (base / "chat_template.jinja").unlink()
    edit(base / "tokenizer_config.json", chat_template=[
        {"name": "tool_use", "template": "T"}, {"name": "default", "template": "A {{ x }}"}])  # fmt: skip
    out, notes = merged(tmp_path, models, "auto")
    assert notes == [f"chat_template auto: that of {base}, which 3 of 4 models have"]
    assert (out / "tokenizer_config.json").read_bytes() == (base / "tokenizer_config.json").read_bytes()
    assert not (out / "chat_template.jinja").exists()
    assert applied(out) == "A "


def test_auto_replaces_that_of_the_base(tmp_path, models):
    base, one, two, three = map(Path, models)
    for model in (one, three):
        (model / "chat_template.jinja").unlink()
        (model / "chat_template.json").write_text('{"chat_template": "B {{ x }}"}')
    out, notes = merged(tmp_path, models, "auto")
    assert notes == [
        f"chat_template auto: that of {base}, which 2 of 4 models have; 1 more as common: the first one counts"
    ]
    (two / "chat_template.jinja").write_text("B {{ x }}\n")
    out, notes = merged(tmp_path / "b", models, "auto")
    assert notes == [f"chat_template auto: that of {one}, which 3 of 4 models have"]
    assert (out / "chat_template.jinja").read_text() == config_template(out) == "B {{ x }}"
    assert applied(out) == "B "


def test_auto_without_any(tmp_path, models):
    for model in models:
        (Path(model) / "chat_template.jinja").unlink()
    out, notes = merged(tmp_path, models, "auto")
    assert notes == ["chat_template auto: no model has a chat template, and the output gets none"]
    assert not (out / "chat_template.jinja").exists()


@pytest.mark.parametrize("method", ["task_arithmetic", "linear"])
def test_auto_in_a_dry_run(models, method):
    from contextlib import ExitStack

    from netweight.jobs.merge.job import preview
    from netweight.jobs.merge.plan import prepare

    recipe = replace(recipe_for(models, "auto"), method=method)
    request = make_request(recipe, base=None, models=(), method=None, weights=None, settings={}, dtype=None)
    with ExitStack() as stack:
        _, plan = preview(prepare(request, Options(), stack))
    assert f"chat_template auto: that of {models[0]}, which 4 of 4 models have" in plan.notes


# ---- what a model may hold


def test_templates_that_are_none(tmp_path, models):
    base, one, two, three = map(Path, models)
    secret = tmp_path / "secret"
    secret.write_text("S {{ x }}")
    for model in (one, two):
        (model / "chat_template.jinja").unlink()
    (one / "chat_template.jinja").symlink_to(secret)
    edit(two / "tokenizer_config.json", chat_template=5)
    with (three / "chat_template.jinja").open("wb") as file:
        os.truncate(file.fileno(), 100_000_000)
    _, notes = merged(tmp_path, models, "auto")
    uncounted = "chat_template auto: not counted: "
    outside = f"is a link to {secret}, outside its folder; name that file itself"
    assert notes == [
        f"{uncounted}{one}/chat_template.jinja: {outside}",
        f"{uncounted}{two}/tokenizer_config.json, chat_template: expected text, got 5",
        f"{uncounted}{three}/chat_template.jinja: 100000000 bytes, expected at most {MAX_TEMPLATE}",
        f"chat_template auto: that of {base}, which 1 of 4 models has",
    ]


def test_that_of_a_gguf_file_stands_in_its_metadata():
    def template(text):
        metadata = {"tokenizer.chat_template": text, "general.name": "x"}
        return template_of(Checkpoint("x.gguf", {}, format="gguf", files=(), metadata=metadata))

    assert template("G {{ x }}") == "G {{ x }}"
    with pytest.raises(
        FormatError, match=r"^x.gguf, tokenizer.chat_template: the chat template has 1048577 bytes, expe"
    ):
        template("x" * (MAX_TEMPLATE + 1))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"chat_template.jinja": b"a\xff"}, "chat_template.jinja, byte 1: expected text in UTF-8, got other bytes"),
        ({"tokenizer_config.json": b'{"chat_template": "\\ud800"}'}, r"the chat template holds '\ud800', no text of"),
        (
            {"tokenizer_config.json": b'{"chat_template": [{"name": "default", "template": []}]}'},
            "chat_template: expected text, got a list",
        ),
        (
            {"tokenizer_config.json": b'{"chat_template": {"default": "x"}}'},
            "chat_template: expected text, got a mapping",
        ),
        ({"tokenizer_config.json": b'{"chat_template": true}'}, "chat_template: expected text, got true"),
        ({"tokenizer_config.json": b'{"chat_template": "%s"}' % (b"x" * 1_100_000)}, "has 1100000 bytes, expected at"),
        ({"tokenizer_config.json": b"{"}, "tokenizer_config.json: is not valid JSON"),
        ({"tokenizer_config.json": b"[1]"}, "tokenizer_config.json: holds a JSON array, expected an object"),
        (
            {"chat_template.json": b'{"chat_template": 1.5}'},
            "chat_template.json, chat_template: expected text, got 1.5",
        ),
    ],
)
def test_broken_ones_are_said_and_not_counted(tmp_path, models, files, message):
    one = Path(models[1])
    (one / "chat_template.jinja").unlink()
    for name, data in files.items():
        (one / name).write_bytes(data)
    _, (first, last) = merged(tmp_path, models, "auto")
    assert first.startswith(f"chat_template auto: not counted: {one}/")
    assert message in first
    assert "\n" not in first
    assert last == f"chat_template auto: that of {models[0]}, which 3 of 4 models have"


@pytest.mark.parametrize("held", [[], [1, {"name": "default"}], [{"template": "x"}], None])
def test_lists_without_a_default(tmp_path, models, held):
    for model in models:
        (Path(model) / "chat_template.jinja").unlink()
    edit(Path(models[1]) / "tokenizer_config.json", chat_template=held)
    assert "no model has a chat template" in merged(tmp_path, models, "auto")[1][0]


def test_a_template_is_never_run(tmp_path, models):
    """Not even where it says nothing that Jinja could read."""
    text = "{% for %}{{ 1 / 0 }}{{ ''.__class__ }}{% include '/etc/passwd' %}"
    for model in models:
        (Path(model) / "chat_template.jinja").write_text(text)
    out, notes = merged(tmp_path, models, "auto")
    assert notes == [f"chat_template auto: that of {models[0]}, which 4 of 4 models have"]
    assert (out / "chat_template.jinja").read_text() == text
    out, notes = merged(tmp_path / "b", models, text + "x")
    assert notes == []
    assert (out / "chat_template.jinja").read_text() == text + "x"


# ---- what stands beside it in the tokenizer's folder


def test_further_templates(tmp_path, models):
    """Those in files stay; those in a list that chat_template.jinja hides are left out."""
    base = Path(models[0])
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "rag.jinja").write_text("R {{ x }}")
    edit(base / "tokenizer_config.json", chat_template=[
        {"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}, 7,
        {"name": ["x"]}, {}])  # fmt: skip
    out, notes = merged(tmp_path, models, "mistral")
    assert notes == [
        "chat_template: those with other names in tokenizer_config.json are left out: 'tool_use', \"['x']\"",
        "chat_template: the default is replaced; those in additional_chat_templates stay as they are: 'rag'",
    ]
    assert (out / "additional_chat_templates" / "rag.jinja").read_text() == "R {{ x }}"
    assert config_template(out) == TEMPLATES["mistral"].text
    tokenizer = transformers.AutoTokenizer.from_pretrained(out, local_files_only=True)
    assert tokenizer.chat_template == {"default": TEMPLATES["mistral"].text, "rag": "R {{ x }}"}
    assert applied(out) == rendered(TEMPLATES["mistral"].text, ask=False)


def test_what_processors_read_says_the_same(tmp_path, models):
    base = Path(models[0])
    edit(base / "chat_template.json", chat_template="old")
    edit(base / "processor_config.json", chat_template="old", processor_class="X")
    out, notes = merged(tmp_path, models, "mistral")
    assert notes == []
    text = TEMPLATES["mistral"].text
    assert json.loads((out / "chat_template.json").read_text()) == {"chat_template": text}
    assert json.loads((out / "processor_config.json").read_text()) == {"chat_template": text, "processor_class": "X"}
    read = transformers.ProcessorMixin.get_processor_dict
    assert read(models[0])[0]["chat_template"] == "old"
    assert read(out)[0]["chat_template"] == text
    (out / "processor_config.json").unlink()
    assert read(out)[0]["chat_template"] == text
    (base / "processor_config.json").write_text('{"a": 1}')
    (base / "chat_template.json").write_text("[")
    out, (note,) = merged(tmp_path / "b", models, "mistral")
    assert (out / "processor_config.json").read_text() == '{"a": 1}'
    assert note.startswith(
        "chat_template: chat_template.json keeps what it says, and processors may look there first: "
    )


def test_without_a_config_of_the_tokenizer(tmp_path, models):
    config = Path(models[0]) / "tokenizer_config.json"
    config.unlink()
    out, (note,) = merged(tmp_path / "a", models, "alpaca")
    assert note == (
        "chat_template: stands in chat_template.jinja alone: there is no tokenizer_config.json, where older"
        " versions of transformers look"
    )
    assert (out / "chat_template.jinja").read_text() == TEMPLATES["alpaca"].text
    assert not (out / "tokenizer_config.json").exists()
    config.write_text("{")
    out, (note,) = merged(tmp_path / "b", models, "alpaca")
    assert note.startswith("chat_template: stands in chat_template.jinja alone: ")
    assert "is not valid JSON" in note
    assert (out / "tokenizer_config.json").read_text() == "{"


def test_objects_nested_deeply(tmp_path):
    """What could be read may be too deep to write: that is one line, and the file stays."""
    (tmp_path / "x.json").write_text("{}")
    value: dict = {}
    for _ in range(100_000):
        value = {"a": value}
    with pytest.raises(FormatError, match=r"^x\.json: is nested too deeply$"):
        write_object(tmp_path / "x.json", value)
    assert (tmp_path / "x.json").read_text() == "{}"


def test_a_name_that_there_is_not(tmp_path, models):
    """In a Recipe that was made in Python."""
    with pytest.raises(OptionError, match=r"^chat_template: expected auto, alpaca, .*, got the text 'chatlm'$"):
        netweight.merge(replace(recipe_for(models, "auto"), chat_template="chatlm"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_long_texts_in_the_written_recipe(models):
    text = "".join(f"{{% if m.role == '{'é' * n} \\\\ ' %}}\n  {{{{ \"x\" }}}}\t: # - {n} " for n in range(200))
    recipe = recipe_for(models, text)
    assert parse_recipe(write_recipe(recipe), "again").chat_template == text
    assert yaml.safe_load(write_recipe(recipe))["chat_template"] == text


def test_an_adapter_has_none(tmp_path, models):
    request = make_request(recipe_for(models, "auto"), base=None, models=(), method=None, weights=None, settings={},
                           dtype=None)  # fmt: skip
    with pytest.raises(
        OptionError, match=r"^m.yml, line \d+, chat_template: an adapter has no chat template; leave it"
    ):
        merge_as_adapter(request, tmp_path / "out", AdapterRequest(), Options())
