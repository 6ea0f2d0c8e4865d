"""Two layouts, and a change between them: it is found, named, and what cannot be compared is said."""

from __future__ import annotations

import re

import pytest

import netweight
from netweight.cli.main import main

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from layout_models import KINDS, Folders, named, ordered, restated, stored, values, write  # noqa: E402 - torch may be missing

GATED = ["mixtral", "qwen3_moe", "olmoe", "gpt_oss", "llama4", "deepseek_v3", "phimoe", "jamba", "granitemoe"]
GATED += ["qwen3_vl_moe", "phi3"]
EXPERTS = ["mixtral", "qwen3_moe", "gpt_oss", "llama4", "deepseek_v3", "phimoe", "jamba"]
SEEING = ["qwen2_vl", "qwen2_5_vl", "gemma3", "llava"]
SEEN = re.compile("vision|visual|multi_modal_projector")
GATED_PAIRS = ordered(kinds=GATED)
CHANGED_PAIRS = ordered(all_pairs=False, kinds=EXPERTS)
expert_pairs = pytest.mark.parametrize("pair", ordered(kinds=EXPERTS), ids=map(named, ordered(kinds=EXPERTS)))
seeing_pairs = pytest.mark.parametrize(
    "pair", ordered(all_pairs=False, kinds=SEEING), ids=map(named, ordered(all_pairs=False, kinds=SEEING))
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return Folders(tmp_path_factory.mktemp("models"))


def last(state, *ends):
    """The last name with one of these ends."""
    return [name for name in state if name.endswith(ends)][-1]


def gate_and_up_exchanged(kind):
    """The base, gate and up of one expert (Phi-3: of one layer) exchanged."""
    state = dict(values(kind))
    name = last(state, "gate_up_proj", "gate_up_proj.weight")
    state[name] = state[name].clone()
    part = state[name][1] if state[name].ndim == 3 else state[name]
    axis = 1 if kind in {"gpt_oss", "llama4"} else 0
    order = torch.arange(part.shape[axis])
    order = order.view(-1, 2).flip(1).flatten() if kind == "gpt_oss" else order.roll(len(order) // 2)
    part.copy_(part.index_select(axis, order))
    return state


def one_value_changed(kind):
    """The base, one value of one expert's (Phi-3: one layer's) down projection changed."""
    state = dict(values(kind))
    name = last(state, "experts.down_proj", "mlp.down_proj.weight")
    state[name] = state[name].clone()
    part = state[name][1] if state[name].ndim == 3 else state[name]
    part[2, 3] += 1
    return state


def key_and_value_exchanged(kind):
    """Phi-3, the rows of keys and values of its last layer exchanged."""
    state = dict(values(kind))
    name = last(state, "qkv_proj.weight")
    q, k, v = state[name].split([32, 16, 16])
    return state | {name: torch.cat([q, v, k])}


def changed_names(kind, layout, state):
    """The names of a layout whose values are not the base's, by torch."""
    return {name for name, t in restated(kind, layout, state).items() if not torch.equal(t, stored(kind, layout)[name])}


def check_changed(base, path, expected):
    """`compare` and `delta` name these parameters, and no other."""
    result = netweight.compare(base, path, workers=1)
    assert result["only_in_model1"] == [] == result["only_in_model2"]
    assert set(result["common_layers"]) - set(result.identical) == expected
    assert {n for n, m in result["layer_comparisons"].items() if m["l2_distance"] > 0} == expected
    assert result.totals["identical_percentage"] < 100
    measured = netweight.delta(base, [path], workers=1).per_parameter(0)
    assert {row[0] for row in measured if row[2] > 0} == expected
    assert len(measured) == len(result["common_layers"])


@pytest.mark.parametrize(
    ("pair", "change"),
    [(pair, gate_and_up_exchanged) for pair in GATED_PAIRS] + [(pair, one_value_changed) for pair in CHANGED_PAIRS],
    ids=[f"{named(pair)}, gate and up" for pair in GATED_PAIRS] + [f"{named(p)}, one value" for p in CHANGED_PAIRS],
)
def test_a_change_of_one_expert_is_named(tmp_path, folders, pair, change):
    kind, first, second = pair
    state = change(kind)
    expected = changed_names(kind, first, state)
    assert 1 <= len(expected) <= 2
    path = write(tmp_path / "changed", kind, second, restated(kind, second, state))
    check_changed(folders(kind, first), path, expected)


@pytest.mark.parametrize(("first", "second"), [("fused", "llamafied"), ("llamafied", "fused")])
def test_keys_and_values_are_not_mistaken(tmp_path, folders, first, second):
    state = key_and_value_exchanged("phi3")
    path = write(tmp_path / "changed", "phi3", second, restated("phi3", second, state))
    expected = changed_names("phi3", first, state)
    assert len(expected) == (1 if first == "fused" else 2)
    check_changed(folders("phi3", first), path, expected)


# Parts that are missing


def sizes(state):
    return {name: tensor.numel() for name, tensor in state.items()}


def check_left_out(base, path, lost):
    """These parameters of the base are left out with a reason, by `compare` and `delta`. Returns both's coverage."""
    result = netweight.compare(base, path, workers=1)
    reasons = {s.name: s.reason for s in result.skipped if s.reason}
    reasons |= dict.fromkeys(result["only_in_model1"], "only in A")
    assert lost <= reasons.keys()
    assert not lost & set(result.identical)
    measured = netweight.delta(base, [path], workers=1)
    assert lost <= {s.name for s in measured.models[0].skipped if s.reason}
    assert not lost & {row[0] for row in measured.per_parameter(0)}
    (share,) = measured.coverage
    assert tuple(share) == pytest.approx(tuple(result.coverage), abs=1e-12)
    return tuple(result.coverage)


def check_first_line(capsys, arguments, share):
    """The first line has the share of what was compared in per cent; none (None) where all was."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    shown = capsys.readouterr()
    assert left.value.code == 0, shown.err
    first = shown.out.splitlines()[0]
    found = [float(number) for number in re.findall(r"([0-9.]+) ?%", first)]
    if share is None:
        assert found == [], first
    else:
        assert any(abs(number - 100 * share) < 1 for number in found), first


@expert_pairs
def test_an_expert_that_is_missing(tmp_path, folders, pair):
    """The last expert of the last layer is in the base alone."""
    kind, first, second = pair
    state = dict(values(kind))
    experts = [name for name in state if ".experts." in name]
    layer = experts[-1].rpartition(".")[0]
    held = {name for name in experts if name.startswith(layer + ".")}
    state |= {name: state[name][:-1] for name in held}
    path = write(tmp_path / "short", kind, second, restated(kind, second, state))
    whole, short = stored(kind, first), restated(kind, first, state)
    lost = {name for name, t in whole.items() if name not in short or short[name].shape != t.shape}
    missing = sum(sizes(whole).values()) - sum(sizes(short).values())
    of_layer = sum(values(kind)[name].numel() for name in held)
    a, b = check_left_out(folders(kind, first), path, lost)
    total = sum(sizes(whole).values())
    assert 1 - of_layer / total <= a + 1e-12 <= 1 - missing / total + 2e-12
    assert 1 - of_layer / (total - missing) <= b + 1e-12 <= 1 + 1e-12


@pytest.mark.parametrize("kind", EXPERTS)
def test_an_expert_that_is_missing_between_others(tmp_path, folders, kind):
    """Packed experts in the base; the fine-tune has them one by one, and no number 1."""
    packed, single = ("packed", "linear layers" if kind == "gpt_oss" else "one by one")
    state = stored(kind, single)
    numbered = [name for name in state if re.search(r"\.experts\.(\w+\.)?1\.", name)]
    layer = numbered[-1].partition(".experts.")[0]
    gone = {name for name in numbered if name.startswith(layer + ".")}
    assert len(gone) in {3, 4}
    path = write(tmp_path / "short", kind, single, {n: t for n, t in state.items() if n not in gone})
    inside = layer.replace("block_sparse_moe", "mlp") + ".experts."
    a, b = check_left_out(
        folders(kind, packed), path, {name for name in stored(kind, packed) if name.startswith(inside)}
    )
    assert a < 1
    assert b <= 1


@seeing_pairs
def test_a_model_without_its_vision_tower(tmp_path, folders, pair):
    kind, first, second = pair
    path = write(
        tmp_path / "blind", kind, second, {n: t for n, t in stored(kind, second).items() if not SEEN.search(n)}
    )
    whole = sizes(stored(kind, first))
    lost = {name for name in whole if SEEN.search(name)}
    a, b = check_left_out(folders(kind, first), path, lost)
    assert (a, b) == pytest.approx((1 - sum(whole[name] for name in lost) / sum(whole.values()), 1), abs=1e-12)
    turned = netweight.compare(path, folders(kind, first), workers=1)
    assert tuple(turned.coverage) == pytest.approx((1, a), abs=1e-12)


@pytest.mark.parametrize("kind", ["qwen2_vl", "llava"])
def test_the_first_line_has_the_share(tmp_path, capsys, folders, kind):
    first, second = list(KINDS[kind].layouts)[:2]
    path = write(
        tmp_path / "blind", kind, second, {n: t for n, t in stored(kind, second).items() if not SEEN.search(n)}
    )
    whole = sizes(stored(kind, first))
    share = sum(size for name, size in whole.items() if not SEEN.search(name)) / sum(whole.values())
    base = folders(kind, first)
    for command in (["compare", base], ["delta", "--outdir", tmp_path / "d", "--base", base, "--models"]):
        check_first_line(capsys, [*command, path], share)


@pytest.mark.parametrize("kind", ["qwen2_vl", "llava", "mixtral", "gpt_oss"])
def test_the_first_line_has_no_share_where_all_is_compared(tmp_path, capsys, folders, kind):
    first, second = list(KINDS[kind].layouts)[:2]
    base, path = folders(kind, first), folders(kind, second, 1)
    for command in (["compare", base], ["delta", "--outdir", tmp_path / "d", "--base", base, "--models"]):
        check_first_line(capsys, [*command, path], None)
