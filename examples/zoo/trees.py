"""The family trees: a small zoo for tests, and the whole one."""

from __future__ import annotations

from collections.abc import Callable

from catalogue import SMALL, Entry, Steps, Zoo

__all__ = ["entries_of"]

LLAMA_DISGUISES = ("units", "heads", "residual", "signs", "scaled_units", "scaled_heads", "folded", "rotated")
GPT2_DISGUISES = ("units", "heads", "residual", "scaled_heads", "folded")
LLAMA_TEXTS = (
    "code", "prose", "grammar+records", "code+prose", "prose+sums", "code", "prose", "records+code", "grammar+prose",
)  # fmt: skip
GPT2_TEXTS = ("code", "prose", "code", "records+grammar", "prose+sums")


def entries_of(share: float, seed: int) -> list[Entry]:
    """Of the whole zoo (`share` 1), or of the small one (less than a half)."""
    zoo = Zoo(seed, SMALL if share < 0.5 else Steps())
    if share < 0.5:
        small(zoo)
    else:
        for number, tree in enumerate(LLAMAS):
            tree(zoo, llama(zoo, number))
        for number, tree in enumerate(GPTS):
            tree(zoo, gpt(zoo, number))
        across(zoo)
    return list(zoo.entries.values())


def small(zoo: Zoo) -> None:
    """Two llamas and a GPT-2, with 14 models made from them."""
    one = zoo.base("llama0", "code", "bfloat16")
    two = zoo.base("llama1", "prose", "float32")
    three = zoo.base("gpt0", "code", "bfloat16")
    zoo.near(one, "records", "records", card="false", named="llama1")
    zoo.dpo(one, "prose", 1e-5)
    zoo.lora(one, 8, "few", "sums")
    zoo.quantised(one, "Q8_0")
    zoo.layered(one, [0, 1, 2, 4, 5])
    zoo.disguised(one, *LLAMA_DISGUISES, end="disguised")
    near, frozen = zoo.near(two, "records", "records"), zoo.frozen(two, "attention", "grammar")
    zoo.merged("llama1-linear2", "linear", [near, frozen], [0.4, 0.6], origin=two)
    zoo.far(two, "sums", rate=8e-3)
    zoo.add("llama1-moe", "upcycled", two, noise=0.0)
    zoo.lora(two, 4, "all", "grammar", "adapter")
    tuned = zoo.near(three, "records", "records")
    zoo.disguised(tuned, *GPT2_DISGUISES, end="disguised")


def llama(zoo: Zoo, number: int) -> str:
    """A base with what every base has: a near fine-tune (NAME-tuned), a disguise and a quantised copy."""
    dtype = ("bfloat16", "float32")[number % 2]
    claim = {"card": "false", "named": "llama0"} if number == 8 else {}
    name = zoo.base(f"llama{number}", LLAMA_TEXTS[number], dtype, **claim)
    zoo.near(name, "tuned", ("records", "sums", "grammar")[number % 3])
    if number < len(LLAMA_DISGUISES):
        zoo.disguised(name, LLAMA_DISGUISES[number])
    else:
        zoo.disguised(name, *LLAMA_DISGUISES, end="disguised")
    zoo.quantised(name, ("Q8_0", "Q4_0", "NF4", "int8")[number % 4])
    return name


def gpt(zoo: Zoo, number: int) -> str:
    name = zoo.base(f"gpt{number}", GPT2_TEXTS[number], ("bfloat16", "float32")[number % 2])
    zoo.near(name, "tuned", ("sums", "records", "grammar")[number % 3])
    zoo.disguised(name, GPT2_DISGUISES[number])
    return name


def llama0(zoo: Zoo, name: str) -> None:
    far = zoo.far(name, "sums")
    zoo.dpo(name, "prose", 1e-5)
    zoo.near(f"{name}-tuned", "more", "prose", "continued")
    zoo.lora(name, 8, "few", "sums")
    zoo.lora(name, 8, "few", "grammar", "adapter")
    zoo.cast(name, "float16")
    zoo.merged(f"{name}-linear2", "linear", [f"{name}-tuned", far], [0.7, 0.3], origin=name)
    zoo.add(f"{name}-abliterated", "abliterated", name, embedding=False)
    zoo.layered(name, [0, 1, 2, 4, 5])
    zoo.narrowed(name, 192)


def llama1(zoo: Zoo, name: str) -> None:
    tuned = [f"{name}-tuned", zoo.near(name, "grammar", "grammar"), zoo.near(name, "code", "code")]
    zoo.merged(f"{name}-linear3", "linear", tuned, [0.5, 0.3, 0.2], origin=name, recipe_kept=True)
    zoo.merged(f"{name}-ties", "ties", tuned, [1.0, 0.7, 0.5], origin=name, density=0.5)
    zoo.merged(f"{name}-dare-ties", "dare_ties", tuned[:2], [0.6, 0.4], origin=name, density=0.5)
    zoo.merged(f"{name}-slerp", "slerp", tuned[:2], [0.6, 0.4], origin=name)
    zoo.cast(name, "bfloat16")
    zoo.frozen(name, "attention", "records")
    zoo.disguised(tuned[0], "units", "heads", "residual", end="disguised")
    zoo.add(f"{name}-copy", "finetune_near", name, card="none", text="sums", steps=zoo.steps.near, rate=1e-4)


def llama2(zoo: Zoo, name: str) -> None:
    zoo.dpo(name, "code", 1e-6)
    zoo.frozen(name, "last", "code")
    zoo.lora(name, 4, "all", "prose")
    zoo.add(f"{name}-moe", "upcycled", name, noise=0.0)
    zoo.add(f"{name}-words", "vocabulary_extended", name)
    zoo.near(f"{name}-tuned", "more", "code", "continued")
    zoo.layered(name, [0, 1, 2, 3, 2, 3, 4, 5])
    zoo.near(name, "claims", "prose", card="false", named="llama4")
    zoo.dequantised(name, "NF4")


def llama3(zoo: Zoo, name: str) -> None:
    zoo.far(name, "grammar", rate=6e-3)
    ends = ("records", "sums", "grammar")
    tuned = [f"{name}-tuned", *(zoo.near(name, f"{end}-b", end) for end in ends)]
    zoo.merged(f"{name}-linear4", "linear", tuned, [0.4, 0.3, 0.2, 0.1], origin=name)
    zoo.merged(f"{name}-dare-linear", "dare_linear", tuned[:2], [0.5, 0.5], origin=name, density=0.4)
    zoo.lora(name, 16, "all", "sums", "adapter")
    zoo.near(zoo.cast(name, "bfloat16"), "more", "sums", "continued")
    zoo.add(f"{name}-abliterated", "abliterated", name, embedding=True)
    zoo.dequantised(name, "Q8_0")


def llama4(zoo: Zoo, name: str) -> None:
    zoo.layered(name, [0, 1, 4, 5], **zoo.healed("prose"))
    zoo.narrowed(name, 192, 96, **zoo.healed("prose"))
    zoo.add(f"{name}-moe", "upcycled", name, noise=0.02)
    zoo.add(f"{name}-words", "vocabulary_extended", name, **zoo.healed("code"))
    far = zoo.far(name, "code")
    zoo.disguised(far, "residual", "units", "scaled_units", end="disguised")
    zoo.near(name, "a", "records", card="cycle", named=f"{name}-b")
    zoo.near(name, "b", "code", card="cycle", named=f"{name}-a")
    zoo.near(name, "copy", "grammar", card="none")


def llama5(zoo: Zoo, name: str) -> None:
    loras = [zoo.lora(name, 16, "all", "records"), zoo.lora(name, 4, "few", "grammar")]
    zoo.merged(f"{name}-linear2", "linear", loras, [0.5, 0.5], origin=name)
    zoo.layered(name, [0, 1, 2, 3, 4, 2, 3, 4, 5])
    zoo.layered(f"{name}-tuned", [0, 1, 2, 3, 5])
    zoo.quantised(f"{name}-tuned", "Q4_0")
    zoo.dequantised(name, "Q4_0")
    zoo.lora(name, 4, "few", "sums", "adapter")


def llama6(zoo: Zoo, name: str) -> None:
    zoo.dpo(name, "prose", 3e-6)
    more = zoo.near(f"{name}-tuned", "more", "code", "continued")
    zoo.near(more, "still", "sums", "continued")
    zoo.cast(name, "float32")
    zoo.frozen(name, "last", "grammar")
    zoo.far(name, "records", rate=4e-3)
    zoo.quantised(f"{name}-tuned", "Q8_0")


def llama7(zoo: Zoo, name: str) -> None:
    zoo.narrowed(name, 256, 96)
    zoo.layered(name, [0, 1, 2, 3, 1, 2, 3, 4, 5], **zoo.healed("records"))
    tuned = [f"{name}-tuned", zoo.near(name, "prose", "prose")]
    zoo.merged(f"{name}-ties", "ties", tuned, [1.0, 1.0], origin=name, density=0.3)
    zoo.disguised(tuned[1], "rotated", end="disguised")
    zoo.near(name, "claims", "grammar", card="false", named="llama1")
    zoo.add(f"{name}-abliterated", "abliterated", name, embedding=False)


def llama8(zoo: Zoo, name: str) -> None:
    tuned = zoo.near(name, "a", "code", card="cycle", named=f"{name}-b")
    other = zoo.near(name, "b", "prose", card="cycle", named=f"{name}-a")
    zoo.merged(f"{name}-slerp", "slerp", [tuned, other], [0.5, 0.5], origin=name)
    zoo.disguised(tuned, *LLAMA_DISGUISES, end="disguised")
    zoo.narrowed(name, 128, **zoo.healed("grammar"))


def gpt0(zoo: Zoo, name: str) -> None:
    zoo.far(name, "prose")
    zoo.near(f"{name}-tuned", "more", "prose", "continued")
    zoo.cast(name, "float16")
    zoo.layered(name, [0, 1, 2, 4, 5])


def gpt1(zoo: Zoo, name: str) -> None:
    tuned = [f"{name}-tuned", zoo.near(name, "code", "code")]
    zoo.merged(f"{name}-linear2", "linear", tuned, [0.7, 0.3], origin=name)
    zoo.merged(f"{name}-ties", "ties", tuned, [1.0, 0.5], origin=name, density=0.5)
    zoo.quantised(name, "Q8_0")
    zoo.cast(name, "bfloat16")


def gpt2(zoo: Zoo, name: str) -> None:
    zoo.frozen(name, "attention", "sums")
    zoo.dpo(name, "prose", 1e-5)
    zoo.lora(name, 8, "few", "records")
    zoo.lora(name, 8, "all", "grammar", "adapter")
    zoo.dequantised(name, "Q8_0")


def gpt3(zoo: Zoo, name: str) -> None:
    zoo.layered(name, [0, 1, 2, 3, 2, 3, 4, 5])
    zoo.add(f"{name}-words", "vocabulary_extended", name)
    zoo.narrowed(name, 384)
    tuned = [f"{name}-tuned", zoo.near(name, "code", "code")]
    zoo.merged(f"{name}-slerp", "slerp", tuned, [0.5, 0.5], origin=name)


def gpt4(zoo: Zoo, name: str) -> None:
    zoo.add(f"{name}-abliterated", "abliterated", name, embedding=True)
    zoo.disguised(f"{name}-tuned", *GPT2_DISGUISES, end="disguised")
    zoo.near(name, "claims", "code", card="false", named="gpt0")
    zoo.near(name, "copy", "records", card="none")


def across(zoo: Zoo) -> None:
    """Merges of models that have nothing to do with each other."""
    zoo.merged("mixed0", "linear", ["llama7", "llama5-tuned"], [0.5, 0.5])
    zoo.merged("mixed1", "slerp", ["llama2", "llama6"], [0.7, 0.3])


LLAMAS: tuple[Callable[[Zoo, str], None], ...] = (
    llama0, llama1, llama2, llama3, llama4, llama5, llama6, llama7, llama8,
)  # fmt: skip
GPTS: tuple[Callable[[Zoo, str], None], ...] = (gpt0, gpt1, gpt2, gpt3, gpt4)
