"""Merges that feed one another: each but the last is written to a folder of its own, which is removed at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from netweight.checkpoint.open import open_checkpoint
from netweight.checkpoint.tensor import Checkpoint
from netweight.errors import NetweightError, printable
from netweight.jobs.inputs import Reference, stamps
from netweight.jobs.merge.plan import Prepared, prepare
from netweight.jobs.merge.request import Options, Request
from netweight.jobs.output_folder import output_folder
from netweight.merging.recipe.chain import made_of, stages_of
from netweight.run.plan import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from netweight.merging.recipe.recipe import Recipe
    from netweight.run.progress import Progress

__all__ = ["foresee", "merged_stages"]


def foresee(request: Request, options: Options, stack: ExitStack) -> tuple[list[Prepared], str]:
    """The plans of the stages and, last, of the result; headers, configs and tokenizers of the models are read, and no
    weights. Raises as `prepare` does.

    Where a stage makes a tokenizer, what follows is planned when it is there: the plans end then, and the note says so.
    """
    plans: list[Prepared] = []
    outlines: dict[str, Checkpoint] = {}
    made: set[str] = set()
    for recipe in (*request.stages, request.recipe):
        if late := sorted(stages_of(recipe, outlines) & made):
            return plans, f"{recipe.where()}: is planned when {late[0]} is merged: its tokenizer is made by the merge"
        own = request if recipe is request.recipe else Request(recipe)
        plans.append(prepare(own, options, stack, given=_given(recipe, outlines)))
        plan = plans[-1].plan
        if recipe.name is not None:
            outlines[recipe.name] = plan.outline(plan.config, recipe.name)
            if plan.tokens is not None:
                made.add(recipe.name)
    return plans, ""


def _given(recipe: Recipe, outlines: Mapping[str, Checkpoint]) -> dict[str, Checkpoint]:
    return {name: outlines[name] for name in stages_of(recipe, outlines)}


@contextmanager
def merged_stages(
    request: Request,
    output: Reference,
    options: Options,
    merge: Callable[[Request, Path, Options, Mapping[str, str]], object],
    progress: Progress,
    *,
    resume: bool,
) -> Iterator[dict[str, str]]:
    """Merge the stages by `merge`, in order; yields where the references of the result's recipe are found.

    They lie in `options.stages`, and stay there; else in a folder beside the output, which is removed when the block
    has ended well. A stage that is there already, of the same recipe and inputs, is not merged again: in
    `options.stages`, and with `resume`.
    """
    if not request.stages:
        yield {}
        return
    output_folder(output, "merged model", [], "merge", options, resume=resume).check()
    with ExitStack() as stack:
        foresee(request, options, stack)  # a fault in the last document is found before the first is merged
    target = Path(os.path.abspath(output))  # noqa: PTH100 - links stay as they are named
    root = options.stages or target.with_name(f"{target.name}.stages")
    places: dict[str, str] = {}
    of_stage = replace(options, overwrite=True, stages=None)
    for stage in request.stages:
        name = stage.name or ""
        folder, mark = root / name, root / f"{name}.stamp"
        places[name] = str(folder)
        moved = _moved(stage, places)
        with ExitStack() as stack:
            digest = prepare(Request(stage), of_stage, stack, moved).digest
        if (resume or options.stages) and _is_made(folder, mark, digest):
            progress.note(f"{name}: is merged already, in {printable(str(folder), 300)}")
            continue
        root.mkdir(parents=True, exist_ok=True)
        mark.unlink(missing_ok=True)
        merge(Request(stage), folder, of_stage, moved)
        mark.write_text(_stamp(folder, digest), encoding="ascii")
    yield _moved(request.recipe, places)
    if options.stages is None:
        for name in places:
            shutil.rmtree(root / name)
            (root / f"{name}.stamp").unlink()
        with suppress(OSError):  # somebody else has put something there
            root.rmdir()


def _moved(recipe: Recipe, places: Mapping[str, str]) -> dict[str, str]:
    """Where those references of the recipe are found that are stages, or stages with adapters."""
    names = {reference: made_of(reference) for reference in recipe.references()}
    return {ref: places[name] + ref.removeprefix(name) for ref, name in names.items() if name in places}


def _stamp(folder: Path, digest: str) -> str:
    """What tells that a stage is this merge and was not touched since."""
    with open_checkpoint(folder) as checkpoint:
        return digest_of({"merge": digest, "model": stamps(checkpoint)})


def _is_made(folder: Path, mark: Path, digest: str) -> bool:
    """Whether the folder is the stage of this digest; one that cannot be read is not."""
    try:
        return mark.read_text(encoding="ascii") == _stamp(folder, digest)
    except (OSError, ValueError, NetweightError):
        return False
