"""The columns of every table of parameters that say where in the model a parameter is."""

from __future__ import annotations

from netweight.columns import Column
from netweight.output.table import Row
from netweight.params.role import Parameter

__all__ = ["ROLE_COLUMNS", "role_cells"]

ROLE_COLUMNS = (
    Column("layer", "", "number of its block, empty outside the blocks", "integer"),
    Column("role", "", "what it is: q_proj, norm, embedding ...", "text"),
    Column("group", "", "embed, lm_head, layer or other", "text"),
    Column("part", "", "attn, mlp or norm", "text"),
)


def role_cells(parameter: Parameter) -> Row:
    """`parameter` under ROLE_COLUMNS."""
    return parameter.layer, parameter.role, parameter.group, parameter.part
