"""What kind of module a parameter belongs to, as those who train models call it: q_proj, norm, lm_head, embedding."""

from __future__ import annotations

from netweight.params.role import Parameter

__all__ = ["is_top", "module_of"]

_LEAVES = {"weight", "bias"}


def module_of(parameter: Parameter) -> str:
    """The role, in words that tell heads and embeddings apart; of one that is not known, the module's own name."""
    if parameter.role == "output":
        return parameter.slot or "output"
    if parameter.role == "embedding":
        return "embedding" if parameter.slot in ("", "token_embedding") else parameter.slot
    if parameter.role != "other":
        return parameter.role
    segments = [s for s in parameter.name.split(".") if not s.isdigit()]
    named = segments[:-1] if len(segments) > 1 and segments[-1] in _LEAVES else segments
    return parameter.slot or (named[-1] if named else parameter.name)


def is_top(parameter: Parameter) -> bool:
    """Whether it stands before or behind the blocks: an embedding, or a head."""
    return parameter.group in ("embed", "lm_head") or parameter.role in ("embedding", "output")
