"""Ask modelDNA about pairs and merges; runs in its own environment, with `-I`, for modeldna.py beside it.

Reads {"zoo", "pairs": [[suspect, candidate]], "merges": [{"model", "parents", "base"}]} and writes {"pairs", "merges",
"versions"}: for each question the answer of `compare_pair` or `decompose_targets` with default options, its seconds,
or the error that it raised. No database and no network: every model is a local folder.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modeldna.compare import compare_fingerprints
from modeldna.merge import decompose_targets
from modeldna.scan import compare_pair


def compared(suspect: str, candidate: str) -> dict[str, Any]:
    """The verdict of `modeldna compare`; `comparable` is false where the structure alone ruled the candidate out.
    `comparing`: the seconds of comparing fingerprints once more, without reading models and making them.
    """
    begun = time.perf_counter()
    mine, other, evidence, verdict = compare_pair(suspect, candidate)
    seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    compare_fingerprints(mine, other)
    return {
        "said": verdict.verdict.value,
        "probability": verdict.probability,
        "comparable": verdict.probability is not None,
        "reason": verdict.candidates[0].ruled_out,
        "features": evidence.features(),
        "seconds": seconds,
        "comparing": time.perf_counter() - begun,
    }


def decomposed(zoo: Path, model: str, parents: list[str], base: str | None) -> dict[str, Any]:
    """The weights of `modeldna decompose`, by the names of models."""
    found = decompose_targets(
        str(zoo / model), [str(zoo / parent) for parent in parents], base=str(zoo / base) if base else None
    )
    weights = {Path(path).name: weight for path, weight in found.alphas.items()}
    return {"said": found.summary, "weights": weights, "gain": found.gain_vs_single, "notes": found.notes}


def answer(question: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """With its seconds; an error of any kind is an answer too."""
    begun = time.perf_counter()
    try:
        said = question()
    except Exception as problem:
        said = {"said": "error", "error": f"{type(problem).__name__}: {problem}"}
    return {"seconds": time.perf_counter() - begun} | said


def main() -> None:
    asked = json.load(sys.stdin)
    zoo = Path(asked["zoo"])
    pairs = [answer(lambda a=a, b=b: compared(str(zoo / a), str(zoo / b))) for a, b in asked["pairs"]]
    merges = [answer(lambda one=one: decomposed(zoo, **one)) for one in asked["merges"]]
    versions = {name: importlib.metadata.version(name) for name in ("modeldna", "numpy", "gguf")}
    json.dump({"pairs": pairs, "merges": merges, "versions": versions}, sys.stdout)


if __name__ == "__main__":
    main()
