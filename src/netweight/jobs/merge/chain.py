"""Merges that feed one another: all but the last are computed where they are read, or written to folders that go."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.open import open_checkpoint
from netweight.checkpoint.tensor import Checkpoint
from netweight.errors import NetweightError, OptionError, printable
from netweight.jobs.inputs import Reference, recorded, stamps
from netweight.jobs.merge.plan import Prepared, prepare
from netweight.jobs.merge.request import Options, Request
from netweight.jobs.merge.streamed import streamed
from netweight.jobs.output_folder import output_folder
from netweight.merging.recipe.chain import made_of, stages_of
from netweight.merging.recipe.recipe import write_recipe
from netweight.run.plan import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from netweight.merging.recipe.recipe import Recipe
    from netweight.run.progress import Progress

__all__ = ["Stages", "foresee", "merged_stages"]


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


@dataclass(frozen=True)
class Stages:
    """Models that recipes have made: `given` are those that are computed where they are read, `folders` where the
    others lie, by name; `records` is what the result's record says of all, in order.
    """

    given: dict[str, Checkpoint] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)

    def moved(self, recipe: Recipe) -> dict[str, str]:
        """Where those references of a recipe are found that are such folders, with adapters or not."""
        names = {reference: made_of(reference) for reference in recipe.references()}
        return {ref: self.folders[name] + ref.removeprefix(name) for ref, name in names.items() if name in self.folders}

    def given_to(self, recipe: Recipe) -> dict[str, Checkpoint]:
        """Those of `given` that a recipe names."""
        return {name: self.given[name] for name in stages_of(recipe, self.given)}


@contextmanager
def merged_stages(
    request: Request,
    output: Reference,
    options: Options,
    merge: Callable[[Request, Path, Options, Stages], object],
    progress: Progress,
    *,
    resume: bool,
) -> Iterator[Stages]:
    """The models that the result is made of, in order. Those whose merge needs no look at a whole parameter are
    computed where they are read; others are merged by `merge` to folders.

    Folders lie beside the output, and are removed when the block has ended well; with `options.stages` all lie there,
    and stay. A folder that is there already, of the same recipe and inputs, is not merged again: in `options.stages`,
    and with `resume`.
    """
    stages = Stages()
    if not request.stages:
        yield stages
        return
    target = Path(os.path.abspath(output))  # noqa: PTH100 - links stay as they are named
    root = options.stages or target.with_name(f"{target.name}.stages")
    if root.exists() and not root.is_dir():
        raise OptionError(f"{printable(str(root), 300)}: is a file; expected the folder of the models made on the way")
    with ExitStack() as stack:  # a fault in the last document is found before the first is merged
        inputs = [path for plan in foresee(request, options, stack)[0] for path in plan.locations()]
        made = [Path(os.path.abspath(root)) / (recipe.name or "") for recipe in request.stages]  # noqa: PTH100
        output_folder(output, "merged model", [*inputs, *made], "merge", options, resume=resume).check()
    of_stage = replace(options, overwrite=True, stages=None)
    with ExitStack() as stack:
        for recipe in request.stages:
            name = recipe.name or ""
            prepared = prepare(Request(recipe), of_stage, stack, stages.moved(recipe), stages.given_to(recipe))
            inputs_of = [recorded(checkpoint, target) for checkpoint in prepared.plan.checkpoints]
            model = None if options.stages or prepared.choice.gpu else streamed(prepared)
            record = {"name": name, "recipe": write_recipe(recipe), "inputs": inputs_of, "computed": model is not None}
            stages.records.append(record)
            if model is not None:
                stages.given[name] = model
                progress.note(f"{name}: is computed where it is read")
                continue
            folder, mark = root / name, root / f"{name}.stamp"
            if (resume or options.stages) and _is_made(folder, mark, prepared.digest):
                progress.note(f"{name}: is merged already, in {printable(str(folder), 300)}")
            else:
                root.mkdir(parents=True, exist_ok=True)
                mark.unlink(missing_ok=True)
                merge(Request(recipe), folder, of_stage, stages)
                mark.write_text(_stamp(folder, prepared.digest), encoding="ascii")
            stages.folders[name] = str(folder)
        yield stages
    if options.stages is None and stages.folders:
        for name in stages.folders:
            shutil.rmtree(root / name)
            (root / f"{name}.stamp").unlink()
        with suppress(OSError):  # somebody else has put something there
            root.rmdir()


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
