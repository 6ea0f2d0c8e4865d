"""Published checkpoints: states of one training are related, others are not."""

from __future__ import annotations

import pytest

from netweight.jobs.lineage.relation import relate
from netweight.jobs.lineage.sketching import sketch_of


@pytest.fixture
def found(realweights):
    def relation(a, b):
        one, two = (next(realweights.glob(f"*{name}*")) for name in (a, b))
        return relate(sketch_of(one), sketch_of(two))

    return relation


@pytest.mark.parametrize(
    ("a", "b", "relation"),
    [
        ("model_2digit@6bcd94", "model_2digit@f262cc", "fine-tune"),
        ("pong-v4_model.40", "pong-v4_model.80", "far training"),
        ("Test-PPO-LSTM_02", "Test-PPO-LSTM_06", "fine-tune"),
        ("251105_reverse_L2", "260123_reverse_L2", "far training"),
        ("weights_mnist.pt", "weights_mnist.safetensors", "fine-tune"),
    ],
)
def test_states_of_one_training(found, a, b, relation) -> None:
    one = found(a, b)
    assert one.relation == relation
    assert one.log10_p is not None
    assert one.log10_p <= -6 + 1e-9


def test_two_adapters_that_were_trained_apart(found) -> None:
    one = found("ChessGPT__model_adapter_model@031004", "ChessGPT__model_penalized_adapter_model")
    assert one.relation == "unrelated"


def test_a_state_that_has_diverged_says_so(found) -> None:
    for other in ("6bcd94", "f262cc"):
        one = found("model_2digit@f0cd61", f"model_2digit@{other}")
        assert one.relation == "undecided"
        assert "not numbers" in one.reasons[0]


def test_language_models_of_two_projects(found) -> None:
    one = found("tinyllamas-stories-260k", "llama2xs.c__out_ckpt")
    assert not one.related
