"""`convert`: a model of any format, quantised or not, as a folder of dense weights that transformers loads.

It is the merge of one model with nothing: it has the merge's plan, writer, journal and record, and `verify` computes it
once more.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from netweight.jobs.inputs import Reference
from netweight.jobs.merge.request import Options, Request

if TYPE_CHECKING:
    from netweight.jobs.merge.result import Merged
    from netweight.run.execute import Executor
    from netweight.run.progress import Progress

__all__ = ["Options", "convert", "convert_request"]

_METHOD = "passthrough"


def convert(
    model: Reference,
    output: Reference,
    *,
    dtype: str | None = None,
    like: Reference | None = None,
    options: Options | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
    **more: Any,
) -> Merged:
    """Write `model` as safetensors into the folder `output`, which appears whole, in one step, at the end.

    `dtype`: the element type of all floats, rounded once, such as "bfloat16"; without it, the types in which the model
    is read: its own, and for quantised weights what their format's decoder gives. `like`: the model whose config.json
    and tokenizer go into the folder; without it those that lie beside the model, or, for GGUF, what its metadata say.
    `resume` and `more` as for `merge`.

    Raises InputError where the metadata of a GGUF file do not make a whole config and `like` is not given, and as
    `merge` does.
    """
    from netweight.jobs.merge.job import merge_request

    options = replace(options or Options(), **more)
    request = convert_request(os.fspath(model), dtype=dtype, like=None if like is None else os.fspath(like))
    return merge_request(request, output, options=options, resume=resume, progress=progress, executor=executor)


def convert_request(model: str, *, dtype: str | None = None, like: str | None = None) -> Request:
    """The request of a merge that copies one model; raises OptionError for a dtype that is not known."""
    from netweight.jobs.merge.request import make_request

    request = make_request(None, base=None, models=[model], method=_METHOD, weights=None, settings={}, dtype=dtype)
    return replace(request, like=like, alone=True)
