from __future__ import annotations

from collections.abc import Callable

import pytest

from netweight.checkpoint.tensor import Checkpoint, Skipped
from netweight.errors import InputError, OptionError
from netweight.params.layouts.prefix import find_prefixes
from netweight.params.pairing import align, pair_up

Make = Callable[..., Checkpoint]
NAMES = {
    "model.embed_tokens.weight": (8, 4),
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.layers.0.mlp.up_proj.weight": (6, 4),
    "model.norm.weight": (4,),
    "lm_head.weight": (8, 4),
}


def test_all_of_it(make: Make) -> None:
    base, first, second = make("base", NAMES), make("a", NAMES), make("b", dict(reversed(NAMES.items())))
    found = align(base, [first, second])
    assert [p.name for p in found.parameters] == list(NAMES)
    assert [p.parameter.role for p in found.parameters] == ["embedding", "q_proj", "up_proj", "norm", "output"]
    assert all(p.base is base[p.name] for p in found.parameters)
    assert all(p.models == (first[p.name], second[p.name]) for p in found.parameters)
    assert found.skipped == ((), ())
    assert found.notes == ()


def test_every_reason(make: Make) -> None:
    good = {f"good.{i}.weight": (2,) for i in range(9)}
    base = make(
        "base",
        good
        | {
            "shape": (2, 3),
            "int": ("I64", (2,)),
            "bool": ("BOOL", (2,)),
            "complex": ("C64", (2,)),
            "packed": ("F4", (2,)),
            "gone": (2,),
            "half": ("BF16", (2,)),
            "scalar": (),
        },
    )
    model = make(
        "tuned",
        good
        | {
            "shape": (3, 2),
            "int": ("I64", (2,)),
            "bool": (2,),
            "complex": ("C64", (2,)),
            "packed": ("F4", (2,)),
            "half": ("F32", (2,)),
            "new": (2,),
            "scalar": (),
        },
    )
    found = align(base, [model])
    assert [p.name for p in found.parameters] == [*good, "half", "scalar"]
    assert found.skipped == (
        (
            Skipped("shape", "shape [2, 3] in the base, [3, 2] in the model"),
            Skipped("int", "integer dtype I64: not a weight (in the base)"),
            Skipped("bool", "boolean dtype BOOL: not a weight (in the base)"),
            Skipped("complex", "complex dtype C64: not measured (in the base)"),
            Skipped("packed", "packed dtype F4: not measured (in the base)"),
            Skipped("gone", "missing in tuned"),
            Skipped("new", "missing in base base"),
        ),
    )


def test_one_model_lacks_what_another_has(make: Make) -> None:
    base = make("base", NAMES)
    short = {name: shape for name, shape in NAMES.items() if name != "model.norm.weight"}
    found = align(base, [make("a", NAMES), make("b", short)])
    norm = next(p for p in found.parameters if p.name == "model.norm.weight")
    assert [tensor is None for tensor in norm.models] == [False, True]
    assert found.skipped == ((), (Skipped("model.norm.weight", "missing in b"),))


def test_globs(make: Make) -> None:
    base, model = make("base", NAMES), make("a", NAMES)
    found = align(base, [model], include=["*.weight"], exclude=["*norm*", "lm_*"])
    assert len(found.parameters) == 3
    assert found.skipped == (
        (
            Skipped("model.norm.weight", "excluded by --exclude *norm*", asked=True),
            Skipped("lm_head.weight", "excluded by --exclude lm_*", asked=True),
        ),
    )
    found = align(base, [model], include=["*q_proj*", "lm_head.weight"])
    assert [p.name for p in found.parameters] == ["model.layers.0.self_attn.q_proj.weight", "lm_head.weight"]
    assert found.skipped[0][0] == Skipped("model.embed_tokens.weight", "not matched by --include", asked=True)
    assert found.notes == ()


def test_globs_that_leave_nothing(make: Make) -> None:
    base = make("base", NAMES)
    with pytest.raises(OptionError) as error:
        align(base, [base], include=["lm_head.wight"])
    assert str(error.value) == (
        "no parameter of base is left by --include lm_head.wight (did you mean 'lm_head.weight'?);"
        " its names look like 'model.embed_tokens.weight', 'model.layers.0.self_attn.q_proj.weight'"
    )
    other = make("other", {"model.norm.weight": (4,), "lm_head.weight": (8, 4)})
    with pytest.raises(
        InputError, match="share no parameter that --include and --exclude let through; widen the globs"
    ):
        align(base, [other], include=["*q_proj*"], exclude=["*norm*", "lm_head*", "*embed*"])


@pytest.mark.parametrize("twice", [False, True])
def test_tied_weights_count_once(make: Make, twice: bool) -> None:
    shared = {"lm_head.weight": "model.embed_tokens.weight"}
    base, model = make("base", NAMES, shared=shared), make("a", NAMES, shared=shared)
    found = align(base, [model], count_tied_twice=twice)
    assert len(found.parameters) == (5 if twice else 4)
    reason = "tied to model.embed_tokens.weight: counted once"
    assert found.skipped == ((() if twice else (Skipped("lm_head.weight", reason),)),)


def test_a_model_that_lost_its_tie_is_measured(make: Make) -> None:
    shared = {"lm_head.weight": "model.embed_tokens.weight"}
    found = align(make("base", NAMES, shared=shared), [make("a", NAMES)])
    assert len(found.parameters) == 5


def test_a_tied_name_that_one_side_does_not_store(make: Make) -> None:
    less = {name: shape for name, shape in NAMES.items() if name != "lm_head.weight"}
    once = Skipped("lm_head.weight", "tied to model.embed_tokens.weight: counted once")
    forward, backward = (
        {"lm_head.weight": "model.embed_tokens.weight"},
        {"model.embed_tokens.weight": "lm_head.weight"},
    )
    for shared in (forward, backward):
        found = align(make("base", NAMES, shared=shared), [make("a", less), make("b", NAMES, shared=backward)])
        assert [p.name for p in found.parameters] == list(less)
        assert all(None not in p.models for p in found.parameters)
        assert found.skipped == ((once,), (once,))
    found = align(make("base", less), [make("a", NAMES, shared=forward)])
    assert found.skipped == ((once,),)


OFF = "passed over in the"


@pytest.mark.parametrize(
    ("on_base", "on_model", "note"),
    [
        ("", "module.", "no prefix in the base and the prefix 'module.' passed over in the model"),
        ("model.", "", "the prefix 'model.' passed over in the base and no prefix in the model"),
        (
            "",
            "model.language_model.",
            f"no prefix in the base and the prefix 'model.language_model.' {OFF} model",
        ),
        (
            "model.language_model.",
            "model.",
            f"the prefix 'model.language_model.' {OFF} base and the prefix 'model.' {OFF} model",
        ),
    ],
)
def test_wrapper_prefixes(make: Make, on_base: str, on_model: str, note: str) -> None:
    inner = {f"layers.{i}.q_proj.weight": (2,) for i in range(5)} | {"embed.weight": (4,)}
    head = {"lm_head.weight": (4,)}
    base = make("base", {on_base + name: shape for name, shape in inner.items()} | head)
    model = make("tuned", {on_model + name: shape for name, shape in inner.items()} | head)
    found = align(base, [model])
    assert [p.name for p in found.parameters] == list(base)
    tensors = [p.models[0].name for p in found.parameters if p.models[0] is not None]
    assert tensors == list(model)
    assert found.skipped == ((),)
    assert found.notes == (f"tuned: names matched with {note}",)


def test_prefixes_of_unlike_models() -> None:
    assert find_prefixes(["a.b.c", "a.d"], ["x.y", "z"]) is None
    assert find_prefixes([], []) is None
    assert find_prefixes(["a" * 10**6], ["b." * 10**5]) is None


def test_names_that_become_one_without_the_prefix_stay_apart(make: Make) -> None:
    base = make("base", {f"{i}.w": (2,) for i in range(6)})
    model = make("tuned", {f"module.{i}.w": (2,) for i in range(6)} | {"5.w": (2,)})
    found = align(base, [model])
    assert [p.models[0].name for p in found.parameters if p.models[0]] == [*(f"module.{i}.w" for i in range(5)), "5.w"]
    assert found.skipped == ((Skipped("module.5.w", "missing in base base"),),)


def test_a_base_that_is_not_one(make: Make) -> None:
    base, other = make("gpt", {"h.0.attn.w": (2,), "h.1.attn.w": (2,)}), make("\x1b[31mcnn", {"conv1\n": (2,)})
    with pytest.raises(InputError) as error:
        align(base, [make("ok", {"h.0.attn.w": (2,)}), other])
    assert str(error.value) == (
        "\\x1b[31mcnn and the base gpt share no parameter: 'h.0.attn.w', 'h.1.attn.w' against 'conv1\\n';"
        " give the model that it was fine-tuned from as --base"
    )
    with pytest.raises(InputError) as error:
        align(base, [make("wide", {"h.0.attn.w": (3,), "h.1.attn.w": (3,)})])
    assert str(error.value) == (
        "wide and the base gpt share names but no usable parameter: 'h.0.attn.w':"
        " shape [2] in the base, [3] in the model; give the model that it was fine-tuned from as --base"
    )
    with pytest.raises(InputError, match=r"share no parameter: 'h\.0\.attn\.w', 'h\.1\.attn\.w' against no tensors"):
        align(base, [make("empty", {})])


def test_few_common_parameters_are_noted(make: Make) -> None:
    base = make("base", {f"{i}.w": (2,) for i in range(10)})
    model = make("tuned", {f"{i}.w": (2 if i < 4 else 3,) for i in range(10)})
    assert align(base, [model]).notes == (
        "tuned: only 4 of 10 parameters of base could be compared; is that the model it was fine-tuned from?",
    )


@pytest.mark.parametrize("twice", [False, True])
def test_a_tie_on_one_side_counts_once_there(make: Make, twice: bool) -> None:
    """The base's head is its embedding, the model's has values of its own; and the other way round."""
    tied = make("tied", NAMES, shared={"lm_head.weight": "model.embed_tokens.weight"})
    loose = make("loose", NAMES)
    for base, model in ((tied, loose), (loose, tied), (tied, tied), (loose, loose)):
        assert align(base, [model], count_tied_twice=twice).coverage == ((1.0, 1.0),)
        assert pair_up(base, model, count_tied_twice=twice).coverage == (1.0, 1.0)


def test_shares_count_elements_of_what_is_learned(make: Make) -> None:
    """Half of the base's elements are missing in the model, a third of the model's in the base; masks count nowhere."""
    base = make("base", {"x.weight": (4, 5), "y.weight": (20,), "attn.mask": (1000,), "gone.inv_freq": (77,)})
    model = make("tuned", {"x.weight": (4, 5), "z.weight": (10,), "attn.mask": (1000,)})
    pairing = pair_up(base, model)
    assert pairing.coverage == (0.5, pytest.approx(2 / 3))
    assert not pairing.coverage.complete
    assert pairing.coverage.without(pairing.share_of(pairing.pairs)) == (0.0, 0.0)
    assert pair_up(base, model, include=["attn.mask"]).coverage == (0.0, 0.0)
    assert align(base, [model]).coverage == (pairing.coverage,)
