"""A script as a user may write it: the public names with the types that a type checker sees (tests/test_typed.py)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, assert_type

import netweight
from netweight import NetweightError, Scope, find_most_changed_layers


def sizes(model: str) -> dict[str, int]:
    """Bytes of every tensor."""
    with netweight.open(model) as checkpoint:
        assert_type(checkpoint, netweight.Checkpoint)
        return {name: checkpoint[name].nbytes for name in checkpoint}


def measure(base: str, models: Sequence[str], folder: Path) -> list[str]:
    """One line about each model."""
    about = netweight.info(base)
    assert_type(about.parameters, int)
    result = netweight.delta(base, models, folder / "delta", workers=2)
    result.report(folder / "delta.html")
    lines = []
    for model in result.models:
        assert_type(model.name, str)
        lines.append(f"{model.name} of {about.parameters}: {model.summary['global_l2']}")
    return lines


def look(model: str, other: str) -> None:
    """A scan, and a comparison."""
    scope = Scope(model)
    scanned = scope.scan(methods=["spectral"], num_workers=2)
    scanned.write("scan.parquet")
    for name, measures in scanned.items():
        assert_type(name, str)
        print(name, measures["spectral"]["condition_number"])
    for name, score, metrics in find_most_changed_layers(scope.compare_with(other), top_k=3):
        assert_type(score, float)
        print(name, score, metrics["cosine_similarity"])


def merged(base: str, models: Sequence[str], folder: Path) -> bool:
    """Whether a merge is what its recipe gives."""
    made = netweight.merge(None, folder / "merged", base=base, models=models)
    assert_type(made.weights, Mapping[str, Any])
    verified = netweight.verify(folder / "merged")
    assert_type(verified.good, bool)
    return verified.good


def main() -> int:
    """Returns the exit code."""
    base, *models = sys.argv[1:]
    try:
        print(sizes(base), *measure(base, models, Path()), merged(base, models, Path()))
        look(base, models[0])
    except NetweightError as error:
        assert_type(error.exit_code, int)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
