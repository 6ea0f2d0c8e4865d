"""From what a torch file holds to the model's tensors by name; everything else is listed with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from netweight.checkpoint.asides import (
    COUNTERS,
    SLOTS,
    Survey,
    attributes,
    described,
    instead_of_a_model,
    is_generator,
    is_optimizer,
    state_by_contents,
    training_state,
)
from netweight.checkpoint.pickle_nodes import Blob, Call, Global, Mapped
from netweight.checkpoint.tensor import Skipped
from netweight.checkpoint.torch_nodes import TensorNodes, Unreadable, View, is_module, is_script
from netweight.errors import FormatError, printable

__all__ = ["Unwrapped", "unwrap"]

_MODEL_KEYS = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "params", "net", "network", "weights",
    "params_ema", "ema", "model_ema", "ema_state_dict", "ema_model",
)  # fmt: skip
_OTHERS = "to read them: torch.save(torch.load(FILE)[{name}], OUT)"
_STATE = frozenset({"_parameters", "_buffers", "_modules"})
_PREFIXES = ("module.", "_orig_mod.")
MAX_DEPTH = 64
MAX_NAMES = 1_000_000
MAX_NAME_TEXT = 64 << 20  # characters of all names together


@dataclass
class Unwrapped:
    """The model's tensors in the file's order, and what was left out; `instead`: what is there and no model."""

    tensors: dict[str, View] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    instead: str = ""


def unwrap(root: Any, nodes: TensorNodes, where: str, others: str = _OTHERS) -> Unwrapped:
    """The model's tensors in `root`; `others` says how weights beside it, an entry `{name}`, can be read.

    Raises FormatError where a tensor is broken or the nesting passes a cap.
    """
    walk = _Walk(nodes, where, others)
    walk.enter(root)
    unwrapped = walk.result
    walk.tell_what_else(root)
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
    def __init__(self, nodes: TensorNodes, where: str, others: str) -> None:
        self.nodes = nodes
        self.where = where
        self.others = others
        self.result = Unwrapped()
        self.steps = 0
        self.characters = 0
        self.above: list[int] = []  # identities of what holds the node that is looked at

    def enter(self, node: Any) -> None:
        """Go down through wrappers to the model, listing what lies beside it, then take its tensors."""
        for _ in range(MAX_DEPTH):
            self.above.append(id(node))
            if is_script(node):
                break
            node = attributes(node)
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
        self.above.pop()
        tensor = self.nodes.read(node)
        if tensor is not None and is_generator(tensor):
            holds = self._survey(node).holds
            self.result.skipped.append(Skipped("(the whole file)", f"state of a random number generator: {holds}"))
        elif tensor is not None:
            self._take("tensor", tensor)
        elif state_by_contents(node):
            self.result.skipped.append(Skipped("(the whole file)", self._reason("", node)))
        else:
            self._collect(node, "", 0, top=True)

    def tell_what_else(self, root: Any) -> None:
        """Say what the file holds where that is no model: nothing, or numbers beside a training run's state."""
        result = self.result
        if any(view.shape for view in result.tensors.values()):
            return
        instead = instead_of_a_model(root, self._survey(root), [entry.reason for entry in result.skipped])
        if instead:
            result.skipped += [Skipped(name, "a number beside it") for name in result.tensors]
            result.tensors, result.instead = {}, instead

    def _wrapper(self, entries: list[tuple[str, Any]]) -> str | None:
        values = dict(entries)
        for key in _MODEL_KEYS:
            inner = values.get(key)
            if inner is None or id(inner) in self.above or self.nodes.read(inner) is not None:
                continue
            if self._survey(inner).count:
                return key
        return None

    def _only_model(self, items: list[Any] | tuple[Any, ...]) -> int | None:
        """The one entry of a list that holds tensors without being one, if there is exactly one."""
        if len(items) > 1000:
            return None
        others = [(i, item) for i, item in enumerate(items) if id(item) not in self.above and not is_optimizer(item)]
        holding = [i for i, item in others if self._survey(item).count]
        return holding[0] if len(holding) == 1 and self.nodes.read(items[holding[0]]) is None else None

    def _beside(self, entries: list[tuple[str, Any]], chosen: str) -> None:
        for name, value in entries:
            if name != chosen:
                self.result.skipped.append(Skipped(name, self._reason(name, value)))

    def _reason(self, name: str, value: Any) -> str:
        """Why the entry beside or inside a model is not taken."""
        if id(value) in self.above:
            return "what holds it: taken once"
        found = self._survey(value)
        holds = f": {found.holds}" if found.count else ""
        state = training_state(name, value, found)
        if state:
            return f"{state}{holds}"
        tensor = self.nodes.read(value)
        if isinstance(tensor, Unreadable):
            return tensor.reason
        if tensor is not None:
            return "a counter" if COUNTERS.fullmatch(name) else f"a tensor beside the model{holds}"
        if found.count:
            return f"other weights beside the model{holds}; {self.others.format(name=repr(name))}"
        return described(value)

    def _collect(self, node: Any, prefix: str, depth: int, *, top: bool = False) -> None:
        """Take every tensor below `node`, named by its path."""
        if depth > MAX_DEPTH:
            raise FormatError(f"{self.where}: its tensors are nested more than {MAX_DEPTH} levels deep")
        if id(node) in self.above:
            self.result.skipped.append(Skipped(prefix.removesuffix("."), "what holds it: taken once"))
            return
        self.above.append(id(node))
        self._collect_inside(node, prefix, depth, top=top)
        self.above.pop()

    def _collect_inside(self, node: Any, prefix: str, depth: int, *, top: bool) -> None:
        if is_module(node):
            self._collect_module(node, prefix, depth)
            return
        script = is_script(node)
        node = attributes(node)
        entries: Iterator[tuple[str, Any]]
        if isinstance(node, Mapped):
            entries = _named(node)
        elif isinstance(node, (list, tuple)):
            entries = ((str(i), entry) for i, entry in enumerate(node))
        else:
            self.result.skipped.append(Skipped(prefix.removesuffix(".") or "(the whole file)", described(node)))
            return
        for name, value in entries:
            self._count(prefix, name)
            full = prefix + name
            tensor = self.nodes.read(value)
            if tensor is not None and top and COUNTERS.fullmatch(name):
                self.result.skipped.append(Skipped(full, "a counter"))
            elif tensor is not None and top and is_generator(tensor, name):
                self.result.skipped.append(Skipped(full, self._reason(name, value)))
            elif tensor is not None:
                self._take(full, tensor)
            elif self._holds_weights(name if top else "", value):
                self._collect(value, f"{full}.", depth + 1)
            elif not script:
                self.result.skipped.append(Skipped(full, self._reason(name, value)))

    def _holds_weights(self, name: str, value: Any) -> bool:
        """Whether tensors of a model lie below `value`; `name` is its own where that may say that they are others."""
        found = self._survey(value)
        return bool(found.count) and not training_state(name, value, found)

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
            if name not in _STATE and not is_module(value) and self._survey(value).count:
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

    def _survey(self, node: Any) -> Survey:
        """What tensors lie at or below `node`; each object is looked at once."""
        found = Survey()
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
                found.add(tensor)
            elif isinstance(at, (list, tuple)):
                waiting.extend(at)
            elif isinstance(at, Mapped):
                found.optimizer |= is_optimizer(at) or any(type(key) is str and key in SLOTS for key, _ in at.pairs)
                waiting.extend(value for _, value in at.pairs)
            elif isinstance(at, Call):
                waiting.extend([at.state, at.elements, *(value for _, value in at.pairs or ())])
        return found


def _named(entries: Mapped) -> Iterator[tuple[str, Any]]:
    for key, value in entries.pairs:
        if isinstance(key, str):
            # Lone surrogates could not be written into any result.
            yield key if key.isascii() else key.encode("utf-8", "replace").decode(), value
        else:
            yield str(key) if isinstance(key, (int, float, bool, type(None))) else "(an object)", value
