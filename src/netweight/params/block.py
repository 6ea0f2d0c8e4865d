"""One block of a model: its attention, feed-forward, norms and the rest, with the widths that its shapes show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from netweight.checkpoint.tensor import Tensor
from netweight.dtypes import Kind
from netweight.params.declared import Declared
from netweight.params.role import Parameter
from netweight.params.sizes import Sizes

__all__ = ["Block", "BlockBuilder", "Experts"]

_CROSS = frozenset(
    "encdecattention encoder_attn cross_attn crossattention cross_attention inter_attention".split()  # noqa: SIM905
)
_ROUTED = frozenset({"experts", "local_experts"})
_SHARED = frozenset({"shared_expert", "shared_experts", "shared_mlp", "shared_expert_gate"})
_LINEAR = frozenset({"linear_attn", "mixer", "mamba", "ssm", "att", "time_mix"})
_INPUTS = ("q_proj", "q_a_proj", "qkv", "k_proj", "v_proj")


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: `count` routed ones (None where neither names nor shapes nor config tell), elements of all
    of them by slot, of the shared ones by slot, of the router; the widths inside one routed and one shared expert.
    """

    count: int | None
    routed: dict[str, int]
    shared: dict[str, int]
    router: int
    intermediate_size: int | None
    shared_intermediate_size: int | None

    @property
    def routed_total(self) -> int:
        """Elements of all routed experts."""
        return sum(self.routed.values())


@dataclass(frozen=True)
class Block:
    """Elements by part and slot, biases with the module they belong to; norms are counted as norms wherever they
    stand. `dimensions` are widths: attention_input, attention_inner, attention_output, mlp_input, mlp_output.
    """

    index: int
    stack: str
    attention: dict[str, int]
    cross_attention: dict[str, int]
    mlp: dict[str, int]
    experts: Experts | None
    norms: dict[str, int]
    rotation: dict[str, int]
    other: dict[str, int]
    biases: dict[str, int]
    bytes: int
    heads: int | None
    kv_heads: int | None
    intermediate_size: int | None
    dimensions: dict[str, int] = field(default_factory=dict)

    @cached_property
    def mlp_total(self) -> int:
        """Elements of the feed-forward, experts and router included."""
        experts = self.experts
        inside = experts.routed_total + sum(experts.shared.values()) + experts.router if experts else 0
        return sum(self.mlp.values()) + inside

    @cached_property
    def total(self) -> int:
        """All elements of the block."""
        parts = (self.attention, self.cross_attention, self.norms, self.rotation, self.other)
        return self.mlp_total + sum(sum(part.values()) for part in parts)

    @property
    def label(self) -> str:
        """The number, with the stack before it where it is not the main one."""
        return f"{self.stack}.{self.index}" if self.stack else str(self.index)


class BlockBuilder:
    """A block while its tensors come in."""

    def __init__(self, stack: str, index: int, sizes: Sizes) -> None:
        self.stack = stack
        self.index = index
        self._sizes = sizes
        self._parts: dict[str, dict[str, int]] = {}
        self._biases: dict[str, int] = {}
        self._shapes: dict[tuple[str, str], tuple[int, ...]] = {}
        self._experts: set[int] = set()
        self._stacked = 0
        self._linear = False
        self._bytes = 0

    @classmethod
    def empty(cls, stack: str, index: int) -> BlockBuilder:
        """A block without parameters."""
        return cls(stack, index, Sizes())

    def add(self, parameter: Parameter, tensor: Tensor) -> str:
        """Count one tensor; returns the part that it went to."""
        words = parameter.name.lower().split(".")
        part, key = self._part_and_slot(parameter, words)
        slots = self._parts.setdefault(part, {})
        slots[key] = slots.get(key, 0) + tensor.size
        self._bytes += tensor.file_bytes
        if parameter.kind == "bias":
            kind = "mlp" if part in {"routed", "shared", "router"} else part
            self._biases[kind] = self._biases.get(kind, 0) + tensor.size
        if part == "attention" and not self._linear:
            self._linear = not _LINEAR.isdisjoint(words)
        if parameter.expert is not None:
            self._experts.add(parameter.expert)
        if parameter.kind == "weight" and len(tensor.shape) >= 2:
            if part == "routed" and parameter.expert is None and len(tensor.shape) > 2:
                self._stacked = max(self._stacked, tensor.shape[0])
            if tensor.dtype.kind is Kind.FLOAT:
                self._shapes.setdefault((part, key), tensor.shape)
        return part

    def _part_and_slot(self, parameter: Parameter, words: list[str]) -> tuple[str, str]:
        if parameter.slot == "rotation":
            return "rotation", _inside(parameter, leaf=True)
        if parameter.part == "norm":
            return "norms", _inside(parameter, leaf=False)
        key = parameter.slot or _inside(parameter, leaf=True)
        if parameter.part == "attn":
            return ("attention" if _CROSS.isdisjoint(words) else "cross_attention"), key
        if parameter.part != "mlp":
            return "other", key
        if not _SHARED.isdisjoint(words):
            return "shared", key
        if parameter.slot == "moe_gate":
            return "router", key
        if parameter.expert is not None or parameter.role == "moe_expert" or not _ROUTED.isdisjoint(words):
            return "routed", key
        return "mlp", key

    def finish(self, declared: Declared, head_size: int | None) -> Block:
        """The block; `head_size` is the number of elements of one attention head."""
        parts = self._parts
        mlp = parts.get("mlp", {})
        three = {slot for (part, slot), shape in self._shapes.items() if part == "mlp" and len(shape) == 3}
        if three and "routed" not in parts:  # experts stacked under names that do not say so (Granite)
            parts["routed"] = {slot: mlp.pop(slot) for slot in three}
            for slot in three:
                self._shapes["routed", slot] = self._shapes.pop(("mlp", slot))
                self._stacked = max(self._stacked, self._shapes["routed", slot][0])
        dimensions = self._dimensions()
        heads, kv_heads = self._heads(dimensions, declared, head_size)
        return Block(
            index=self.index,
            stack=self.stack,
            attention=parts.get("attention", {}),
            cross_attention=parts.get("cross_attention", {}),
            mlp=mlp,
            experts=self._mixture(declared),
            norms=parts.get("norms", {}),
            rotation=parts.get("rotation", {}),
            other=parts.get("other", {}),
            biases=self._biases,
            bytes=self._bytes,
            heads=heads,
            kv_heads=kv_heads,
            intermediate_size=dimensions.pop("mlp_inner", None),
            dimensions=dimensions,
        )

    def _mixture(self, declared: Declared) -> Experts | None:
        routed, shared, router = (self._parts.get(part, {}) for part in ("routed", "shared", "router"))
        if not routed and not shared and not router:
            return None
        count = len(self._experts) or self._stacked or (declared.experts if routed else 0)
        return Experts(
            count=count,
            routed=routed,
            shared=shared,
            router=sum(router.values()),
            intermediate_size=self._expert_width("routed") or (declared.expert_size if routed else None),
            shared_intermediate_size=self._expert_width("shared"),
        )

    def _expert_width(self, part: str) -> int | None:
        """The width inside an expert."""
        for slot, share, first in (("down_proj", 1, False), ("up_proj", 1, True), ("gate_up", 2, True)):
            shape = self._shapes.get((part, slot))
            if shape is not None and (len(shape) == 3 or self._experts or part == "shared"):
                width = self._sizes.inner(shape, first=first)
                return width // share if width % share == 0 else None
        return None

    def _dimensions(self) -> dict[str, int]:
        """Widths of what goes in and out, from two-dimensional float weights."""
        widths: dict[str, int] = {}
        for part, ins, outs in (
            ("attention", _INPUTS, "o_proj"),
            ("mlp", ("up_proj", "gate_up", "gate_proj"), "down_proj"),
        ):
            before = next((s for slot in ins if (s := self._shapes.get((part, slot))) and len(s) == 2), None)
            after = self._shapes.get((part, outs))
            if before is not None:
                widths[f"{part}_input"] = self._sizes.out_in(before)[1]
            if after is not None and len(after) == 2:
                widths[f"{part}_output"], widths[f"{part}_inner"] = self._sizes.out_in(after)
        up = self._out("up_proj", "mlp")
        if up is not None:
            widths.setdefault("mlp_inner", up)
        return widths

    def _heads(
        self, dimensions: Mapping[str, int], declared: Declared, head_size: int | None
    ) -> tuple[int | None, int | None]:
        """(heads, heads for keys and values), None where shapes do not tell."""
        inner = dimensions.get("attention_inner")
        latent = ("attention", "kv_b_proj") in self._shapes
        width = declared.value_head_size if latent else head_size
        if not inner or not width or inner % width or self._linear:
            return None, None
        heads = inner // width
        if latent:
            return heads, heads
        keys = self._out("k_proj")
        if keys is None and (fused := self._out("qkv")) is not None:
            keys = (fused - inner) // 2 if (fused - inner) % 2 == 0 else None
        if keys is None and (both := self._out("kv_proj")) is not None:
            keys = both // 2
        return heads, keys // width if keys and keys % width == 0 else None

    def _out(self, slot: str, part: str = "attention") -> int | None:
        shape = self._shapes.get((part, slot))
        return self._sizes.out_in(shape)[0] if shape is not None and len(shape) == 2 else None


def _inside(parameter: Parameter, *, leaf: bool) -> str:
    """The path inside the block, without the tensor's own word unless `leaf`."""
    words = parameter.name.split(".")
    at = next((i + 1 for i, word in enumerate(words) if word == str(parameter.layer) and i), 0)
    inside = words[at:]
    return ".".join(inside if leaf or len(inside) < 2 else inside[:-1])
