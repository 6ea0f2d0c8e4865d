"""Files of several recipes: their order, and what cannot be one."""

from __future__ import annotations

import pytest

from netweight.errors import FormatError, OptionError
from netweight.merging.recipe.chain import in_order
from netweight.merging.recipe.recipe import parse_recipe, parse_recipes
from netweight.merging.recipe.yaml import MAX_DOCUMENTS


def document(*models, name=None, base=None, more=""):
    head = f"name: {name}\n" if name else ""
    head += f"base_model: {base}\n" if base else ""
    return f"{head}merge_method: linear\nmodels:\n" + "".join(f"- model: {model}\n" for model in models) + more


def order_of(*documents):
    return [recipe.name for recipe in in_order(parse_recipes("---\n".join(documents), "m.yml"))]


def test_each_comes_behind_what_it_merges() -> None:
    assert order_of(document("two", "x"), document("one", "x", name="two"), document("a", "b", name="one")) == [
        "one", "two", None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "use",
    [
        document("a", "b", base="one"),
        document("one+lora", "b"),
        document("a", "b", more="tokenizer_source: one\n"),
        document("a", "b", more="tokenizer: {source: one}\n"),
        "merge_method: linear\nslices:\n- sources: [{model: one, layer_range: [0, 2]}]\n",
        "merge_method: linear\nmodules:\n  x: {models: [{model: one}]}\n  y: {models: [{model: b}]}\n",
        document("{model: {path: one}, lora: {path: adapter}}", "b"),
    ],
)
def test_wherever_a_recipe_names_a_model(use) -> None:
    assert order_of(use, document("a", "b", name="one")) == ["one", None]


def test_all_may_have_names() -> None:
    """The one that nothing else merges makes the result."""
    assert order_of(document("one", "two", name="three"), document("a", name="one"), document("b", name="two")) == [
        "one", "two", "three",
    ]  # fmt: skip


def test_one_document_is_as_ever() -> None:
    assert order_of(document("one", "b", name="one")) == ["one"]
    assert order_of(document("a", "b"), "\n", "# nothing\n") == [None]


def test_lines_are_those_of_the_file() -> None:
    first, second = parse_recipes(document("a", name="one") + "---\n" + document("one", "b"), "m.yml")
    assert first.where("models", 0) == "m.yml, line 4, models[0]"
    assert second.where("models", 1) == "m.yml, line 9, models[1]"


A, B = document("a", "b", name="one"), document("a", "b", name="two")
FAULTS = {
    (document("x", name="one"), A, document("one")): "line 6, name: 'one' is the name of two documents",
    (
        document("two", name="one"),
        document("one", name="two"),
    ): "line 2, merge_method: every document merges another's model",
    (document("two", name="one"), document("one", name="two"), document("one")): (
        "line 1, name: the documents need each other: one needs two needs one"
    ),
    (
        document("a"),
        document("b"),
    ): "line 5, merge_method: two documents have no name: expected one that makes the result (the other: m.yml, line 1",
    (A, B): "line 8, merge_method: the models of two documents are merged by no other",
    (A, B, document("one", "c")): "line 7, name: nothing merges 'two', and the result is another document's",
    (document("a", name="a/b"), document("a/b")): "line 1, name: expected a word of letters, digits, dots and dashes",
    (document("a", name="..x"), document("..x")): "line 1, name: expected a word of letters",
}


@pytest.mark.parametrize("documents", FAULTS)
def test_files_that_cannot_be(documents) -> None:
    with pytest.raises(OptionError) as error:
        order_of(*documents)
    assert FAULTS[documents] in str(error.value)


def test_documents_are_counted_and_keep_their_anchors() -> None:
    with pytest.raises(FormatError, match=f"expected at most {MAX_DOCUMENTS} recipes in a file"):
        parse_recipes("---\n".join([A] * (MAX_DOCUMENTS + 1)), "m.yml")
    with pytest.raises(FormatError, match=r"line 4: the alias \*x has no anchor"):
        parse_recipes("a: &x 1\n---\nmerge_method: linear\nb: *x\n", "m.yml")
    with pytest.raises(FormatError, match="expected one recipe, got 2"):
        parse_recipe(f"{A}---\n{B}", "m.yml")
