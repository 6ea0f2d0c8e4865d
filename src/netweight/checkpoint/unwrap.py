"""From what a torch file holds to the model's tensors by name; everything else is listed with its reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from netweight.checkpoint.pickle_nodes import Blob, Call, Global, Mapped
from netweight.checkpoint.tensor import Skipped
from netweight.checkpoint.torch_nodes import TensorNodes, Unreadable, View, is_module, is_script
from netweight.errors import FormatError, printable

__all__ = ["Unwrapped", "unwrap"]

_MODEL_KEYS = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "params", "net", "network", "weights",
    "params_ema", "ema", "model_ema", "ema_state_dict", "ema_model",
)  # fmt: skip
_OPTIMIZER = re.compile(r".*optim.*|opt|opts|opt_state.*|adam.*|sgd", re.IGNORECASE)
_OTHER = [
    (re.compile(r".*(scheduler|lr_sched|sched).*", re.IGNORECASE), "scheduler state"),
    (re.compile(r".*scaler.*|amp", re.IGNORECASE), "gradient scaler state"),
    (re.compile(r".*rng.*|.*random.*state.*", re.IGNORECASE), "state of a random number generator"),
]
_COUNTERS = re.compile(r"(global_?)?(step|steps|epoch|epochs|iter|iters|iteration|iterations|iter_num|num_updates)")
_STATE = frozenset({"_parameters", "_buffers", "_modules"})
_PREFIXES = ("module.", "_orig_mod.")
MAX_DEPTH = 64
MAX_NAMES = 1_000_000
MAX_NAME_TEXT = 64 << 20  # characters of all names together


@dataclass
class Unwrapped:
    """The model's tensors in the file's order, and what was left out."""

    tensors: dict[str, View] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)


def unwrap(root: Any, nodes: TensorNodes, where: str) -> Unwrapped:
    """The model's tensors in `root`; raises FormatError where a tensor is broken or the nesting passes a cap."""
    walk = _Walk(nodes, where)
    walk.enter(root)
    unwrapped = walk.result
    for prefix in _common_prefixes(unwrapped.tensors):
        unwrapped.tensors = {name.removeprefix(prefix): view for name, view in unwrapped.tensors.items()}
    return unwrapped


def _common_prefixes(tensors: dict[str, View]) -> Iterator[str]:
    names = list(tensors)
    stripped = True
    while names and stripped:
        stripped = False
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) and len(name) > len(prefix) for name in names):
                names = [name.removeprefix(prefix) for name in names]
                stripped = True
                yield prefix


class _Walk:
    def __init__(self, nodes: TensorNodes, where: str) -> None:
        self.nodes = nodes
        self.where = where
        self.result = Unwrapped()
        self.steps = 0
        self.characters = 0

    def enter(self, node: Any) -> None:
        """Go down through wrappers to the model, listing what lies beside it, then take its tensors."""
        for _ in range(MAX_DEPTH):
            if is_script(node):
                break
            node = _attributes(node)
            if isinstance(node, (list, tuple)):
                model = self._only_model(node)
                if model is None:
                    break
                entries = [(str(i), entry) for i, entry in enumerate(node)]
                chosen = str(model)
            elif isinstance(node, Mapped):
                entries = list(_named(node))
                wrapper = self._wrapper(entries)
                if wrapper is None:
                    break
                chosen = wrapper
            else:
                break
            self._beside(entries, chosen)
            node = next(value for name, value in reversed(entries) if name == chosen)
        tensor = self.nodes.read(node)
        if tensor is not None:
            self._take("tensor", tensor)
        else:
            self._collect(node, "", 0, top=True)

    def _wrapper(self, entries: list[tuple[str, Any]]) -> str | None:
        values = dict(entries)
        for key in _MODEL_KEYS:
            inner = values.get(key)
            if inner is not None and self.nodes.read(inner) is None and self._survey(inner)[0]:
                return key
        return None

    def _only_model(self, items: list[Any] | tuple[Any, ...]) -> int | None:
        """The one entry of a list that holds tensors without being one, if there is exactly one."""
        if len(items) > 1000:
            return None
        holding = [i for i, item in enumerate(items) if self._survey(item)[0]]
        return holding[0] if len(holding) == 1 and self.nodes.read(items[holding[0]]) is None else None

    def _beside(self, entries: list[tuple[str, Any]], chosen: str) -> None:
        for name, value in entries:
            if name != chosen:
                self.result.skipped.append(Skipped(name, self._reason(name, value)))

    def _reason(self, name: str, value: Any) -> str:
        """Why the entry beside or inside a model is not taken."""
        count, size = self._survey(value)
        holds = f": {count} tensor{'s' * (count != 1)}, {size} bytes" if count else ""
        if _OPTIMIZER.fullmatch(name) or _is_optimizer(value):
            return f"optimizer state{holds}"
        for pattern, what in _OTHER:
            if pattern.fullmatch(name):
                return f"{what}{holds}"
        tensor = self.nodes.read(value)
        if isinstance(tensor, Unreadable):
            return tensor.reason
        if tensor is not None:
            return "a counter" if _COUNTERS.fullmatch(name) else f"a tensor beside the model{holds}"
        if count:
            return f"other weights beside the model{holds}; save them alone to read them"
        return _described(value)

    def _collect(self, node: Any, prefix: str, depth: int, *, top: bool = False) -> None:
        """Take every tensor below `node`, named by its path."""
        if depth > MAX_DEPTH:
            raise FormatError(f"{self.where}: its tensors are nested more than {MAX_DEPTH} levels deep")
        if is_module(node):
            self._collect_module(node, prefix, depth)
            return
        script = is_script(node)
        node = _attributes(node)
        entries: Iterator[tuple[str, Any]]
        if isinstance(node, Mapped):
            entries = _named(node)
        elif isinstance(node, (list, tuple)):
            entries = ((str(i), entry) for i, entry in enumerate(node))
        else:
            self.result.skipped.append(Skipped(prefix.removesuffix(".") or "(the whole file)", _described(node)))
            return
        for name, value in entries:
            self._count(prefix, name)
            full = prefix + name
            tensor = self.nodes.read(value)
            if tensor is not None and top and _COUNTERS.fullmatch(name):
                self.result.skipped.append(Skipped(full, "a counter"))
            elif tensor is not None:
                self._take(full, tensor)
            elif self._survey(value)[0] and not (top and self._is_aside(name, value)):
                self._collect(value, f"{full}.", depth + 1)
            elif not script:
                self.result.skipped.append(Skipped(full, self._reason(name, value)))

    def _is_aside(self, name: str, value: Any) -> bool:
        return bool(_OPTIMIZER.fullmatch(name)) or _is_optimizer(value) or any(p.fullmatch(name) for p, _ in _OTHER)

    def _collect_module(self, module: Call, prefix: str, depth: int) -> None:
        """A module's tensors in the order and by the names of its state_dict()."""
        state = module.state
        left_out = state.get("_non_persistent_buffers_set") or []
        if isinstance(left_out, Call):
            left_out = left_out.elements or []
        absent = {name for name in left_out if isinstance(name, str)} if isinstance(left_out, (list, tuple)) else set()
        for group in ("_parameters", "_buffers"):
            entries = state.get(group)
            for name, value in _named(entries) if isinstance(entries, Mapped) else ():
                self._count(prefix, name)
                tensor = self.nodes.read(value)
                if tensor is not None and group == "_buffers" and name in absent:
                    self.result.skipped.append(
                        Skipped(prefix + name, "a buffer that is not part of the module's state")
                    )
                elif tensor is not None:
                    self._take(prefix + name, tensor)
        for name, value in _named(state):
            if name not in _STATE and not is_module(value) and self._survey(value)[0]:
                reason = "an attribute of a module that is not part of its state"
                self.result.skipped.append(Skipped(prefix + name, reason))
        for name, value in _named(state.get("_modules")):
            self._count(prefix, name)
            if value is not None:
                self._collect(value, f"{prefix}{name}.", depth + 1)

    def _count(self, prefix: str, name: str) -> None:
        self.steps += 1
        self.characters += len(prefix) + len(name)
        if self.steps > MAX_NAMES or self.characters > MAX_NAME_TEXT:
            raise FormatError(
                f"{self.where}: its nesting makes more than {MAX_NAMES} names or {MAX_NAME_TEXT} characters of them"
            )

    def _take(self, name: str, tensor: View | Unreadable) -> None:
        if isinstance(tensor, Unreadable):
            if tensor.broken:
                raise FormatError(f"{self.where}: tensor {printable(name)!r}: {tensor.reason}")
            self.result.skipped.append(Skipped(name, tensor.reason))
        elif name in self.result.tensors:
            self.result.skipped.append(Skipped(name, "a second tensor of this name"))
        else:
            self.result.tensors[name] = tensor

    def _survey(self, node: Any) -> tuple[int, int]:
        """How many tensors lie at or below `node`, and their bytes; each object is looked at once."""
        count = size = 0
        seen: set[int] = set()
        waiting = [node]
        while waiting:
            at = waiting.pop()
            if isinstance(at, (str, int, float, bool, type(None), Blob, Global)) or id(at) in seen:
                continue
            seen.add(id(at))
            self.steps += 1
            if self.steps > 2 * MAX_NAMES:
                raise FormatError(f"{self.where}: its nesting takes too long to look through")
            tensor = self.nodes.read(at)
            if tensor is not None:
                count += 1
                size += _bytes_of(tensor)
            elif isinstance(at, (list, tuple)):
                waiting.extend(at)
            elif isinstance(at, Mapped):
                waiting.extend(value for _, value in at.pairs)
            elif isinstance(at, Call):
                waiting.extend([at.state, at.elements, *(value for _, value in at.pairs or ())])
        return count, size


def _bytes_of(tensor: View | Unreadable) -> int:
    if isinstance(tensor, Unreadable):
        return 0
    elements = 1
    for n in tensor.shape:
        elements *= n
    return elements * tensor.dtype.bits // 8


def _attributes(node: Any) -> Any:
    """What an object of an unknown class holds, if it is no module: its items, or else its attributes."""
    if not isinstance(node, Call) or is_module(node):
        return node
    if node.pairs:
        return Mapped(node.pairs)
    if node.elements:
        return node.elements
    return node.state if isinstance(node.state, Mapped) else node


def _named(entries: Mapped) -> Iterator[tuple[str, Any]]:
    for key, value in entries.pairs:
        if isinstance(key, str):
            # Lone surrogates could not be written into any result.
            yield key if key.isascii() else key.encode("utf-8", "replace").decode(), value
        else:
            yield str(key) if isinstance(key, (int, float, bool, type(None))) else "(an object)", value


def _is_optimizer(node: Any) -> bool:
    node = _attributes(node)
    return isinstance(node, Mapped) and isinstance(node.get("param_groups"), list) and node.get("state") is not None


def _described(value: Any) -> str:
    if isinstance(value, Call):
        return f"an object of {printable(value.of) or 'an unnamed class'}, not a tensor"
    if isinstance(value, Global):
        return f"the name {printable(value.full)}, not a tensor"
    if isinstance(value, Mapped):
        return f"a dict of {len(value.pairs)} entries without tensors"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)} entries without tensors"
    kinds: list[tuple[type, str]] = [
        (bool, "a boolean"), (int, "a number"), (float, "a number"), (str, "text"), (Blob, "bytes"),
    ]  # fmt: skip
    kind = next((word for of, word in kinds if isinstance(value, of)), "nothing" if value is None else "a reference")
    return f"{kind}, not a tensor"
