"""Config and tokenizer of another model than the merged ones."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from netweight.checkpoint.tensor import Checkpoint
from netweight.errors import InputError, printable
from netweight.jobs.merge.config import lacking_note, main_dtype, merged_config
from netweight.params.architecture import describe
from netweight.params.model import Model

if TYPE_CHECKING:
    from netweight.jobs.merge.targets import MergePlan

__all__ = ["with_files_of"]


def with_files_of(like: Checkpoint, plan: MergePlan) -> MergePlan:
    """`plan` with the config and the tokenizer of `like`; raises InputError where that has no config, or one that says
    other sizes than the output has.
    """
    if like.config is None or like.config_lacks:
        why = like.config_lacks or like.config_problem or "has no config.json"
        raise InputError(f"--like {printable(like.ref)}: {why}; expected a model with a config.json")
    held = plan.outline(like.config)
    model = Model(held)
    differing = describe(held, model.parameters).notes
    if differing:
        raise InputError(f"--like {printable(like.ref)}: {differing[0]}; expected the config of the same model")
    config, notes = merged_config(like.config, dtype=main_dtype(plan.targets), where=printable(like.ref))
    lost = lacking_note(plan.checkpoints[plan.config_from])
    return replace(plan, config=config, like=like, notes=(*(note for note in plan.notes if note != lost), *notes))
