"""What lies in a torch file beside a model, or instead of one: training state, options, objects.

Told by what it holds; a name alone decides only where what it holds does not speak against it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from netweight.checkpoint.part import Part
from netweight.checkpoint.pickle_nodes import Blob, Call, Global, Mapped
from netweight.checkpoint.torch_nodes import Unreadable, View, is_module
from netweight.errors import printable

__all__ = [
    "COUNTERS",
    "SLOTS",
    "Survey",
    "attributes",
    "described",
    "instead_of_a_model",
    "instead_of_weights",
    "is_generator",
    "is_optimizer",
    "state_by_contents",
    "training_state",
]

COUNTERS = re.compile(r"(global_?)?(step|steps|epoch|epochs|iter|iters|iteration|iterations|iter_num|num_updates)")
SLOTS = frozenset({
    "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_avg_diff", "exp_inf", "exp_avg_slow", "exp_avg_sq_row",
    "exp_avg_sq_col", "momentum_buffer", "square_avg", "grad_avg", "acc_delta", "state1", "state2",
    "absmax1", "absmax2", "prev_grad", "previous_update", "step_size_avg",
})  # fmt: skip
"""What optimizers call the tensors that they keep of a parameter, where nothing else is called so."""

_OPTIMIZER = re.compile(r".*(?i:optim(s|i[sz]ers?)?)(?![a-z]).*")  # no "optimal", no "optimized"
_MAYBE_OPTIMIZER = re.compile(r"opts?|opt_state.*|adam.*|sgd", re.IGNORECASE)
_SCHEDULER = re.compile(r".*(scheduler|lr_sched|sched).*", re.IGNORECASE)
_SCALER = re.compile(r".*scaler.*|amp", re.IGNORECASE)
_RANDOM = re.compile(r".*rng.*|.*random.*state.*", re.IGNORECASE)
_SCHEDULES = frozenset({"_step_count", "_last_lr", "base_lrs", "num_bad_epochs"})
_SCALES = frozenset({"growth_factor", "backoff_factor", "growth_interval"})
_GENERATORS = tuple(map(frozenset, (("python", "numpy"), ("python", "cpu"), ("random_state", "numpy_random_seed"))))
_GENERATOR_BYTES = {5056, 16}  # of a generator's state on the CPU, on a GPU

_NOUNS = {
    "optimizer state": "an optimizer's state",
    "scheduler state": "a learning rate scheduler's state",
    "gradient scaler state": "a gradient scaler's state",
    "state of a random number generator": "the state of random number generators",
}


@dataclass
class Survey:
    """What lies at or below a node: tensors, their bytes, the elements of the largest, whether all are bytes (as states
    of generators are), and whether something there is an optimizer's.
    """

    count: int = 0
    size: int = 0
    largest: int = 0
    all_bytes: bool = True
    optimizer: bool = False

    def add(self, tensor: View | Unreadable) -> None:
        """Count one more tensor."""
        self.count += 1
        if isinstance(tensor, Unreadable):
            return
        elements = 1
        for n in tensor.shape:
            elements *= n
        self.size += elements * tensor.dtype.bits // 8
        self.largest = max(self.largest, elements)
        self.all_bytes &= tensor.dtype.name == "U8"

    @property
    def holds(self) -> str:
        """`N tensors, M bytes`, or nothing."""
        return f"{self.count} tensor{'s' * (self.count != 1)}, {self.size} bytes" if self.count else ""


def attributes(node: Any) -> Any:
    """What an object of an unknown class holds, if it is no module: its items, or else its attributes."""
    if not isinstance(node, Call) or is_module(node):
        return node
    if node.pairs:
        return Mapped(node.pairs)
    if node.elements:
        return node.elements
    return node.state if isinstance(node.state, Mapped) else node


def training_state(name: str, node: Any, found: Survey) -> str:
    """What of a training run's state `node` is, such as "optimizer state", or nothing. `found` is what lies in it,
    `name` the one that it goes by.
    """
    known = state_by_contents(node)
    if known or not name:
        return known
    if found.count and (_OPTIMIZER.fullmatch(name) or (_MAYBE_OPTIMIZER.fullmatch(name) and found.optimizer)):
        return "optimizer state"
    numbers = found.largest <= 1
    if found.count and numbers and _SCHEDULER.fullmatch(name):
        return "scheduler state"
    if found.count and numbers and _SCALER.fullmatch(name):
        return "gradient scaler state"
    if _RANDOM.fullmatch(name) and (found.all_bytes if found.count else isinstance(node, (tuple, list, Mapped, Call))):
        return "state of a random number generator"
    return ""


def state_by_contents(node: Any, depth: int = 0) -> str:
    """`training_state` of a node without a name."""
    node = attributes(node)
    if isinstance(node, (list, tuple)):
        kinds = {state_by_contents(entry, depth + 1) for entry in node[:16]} if depth < 2 else set()
        return kinds.pop() if len(kinds) == 1 else ""
    if not isinstance(node, Mapped):
        return ""
    names = {name for name, _ in node.pairs if type(name) is str} if len(node.pairs) < 1000 else set()
    if is_optimizer(node):
        return "optimizer state"
    if "last_epoch" in names and names & _SCHEDULES:
        return "scheduler state"
    if names >= _SCALES:
        return "gradient scaler state"
    return "state of a random number generator" if any(names >= some for some in _GENERATORS) else ""


def is_optimizer(node: Any) -> bool:
    """Whether `node` is what torch's optimizers give as their state, or one of them."""
    node = attributes(node)
    return isinstance(node, Mapped) and isinstance(node.get("param_groups"), list) and node.get("state") is not None


def is_generator(tensor: View | Unreadable, name: str = "") -> bool:
    """Whether a tensor is the state of a generator of random numbers: by its name, or one that a file holds alone."""
    if not isinstance(tensor, View) or tensor.dtype.name != "U8" or len(tensor.shape) != 1:
        return False
    return bool(_RANDOM.fullmatch(name)) if name else tensor.shape[0] in _GENERATOR_BYTES


def instead_of_a_model(node: Any, found: Survey, left_out: list[str]) -> str:
    """What a file holds that has no model, as in "holds an optimizer's state (12 tensors, 208 bytes)"; nothing where
    that is not known. `left_out`: the reasons of its entries.
    """
    if any(reason.endswith("which is not read") and not reason.startswith("a numpy") for reason in left_out):
        return ""  # there is a model, which is what has to be said
    states = [reason for reason in left_out if reason.partition(":")[0] in _NOUNS]
    if states:
        kind, _, holds = min(states, key=lambda reason: list(_NOUNS).index(reason.partition(":")[0])).partition(": ")
        return _NOUNS[kind] + (f" ({holds})" if holds else "")
    if isinstance(node, Call) and node.of and not found.count:
        return f"an object of {printable(node.of)}"
    return ""


def instead_of_weights(part: Part) -> str:
    """What the file holds where that is no model, as in "holds no tensors"; nothing where it holds weights."""
    if not part.tensors:
        return part.instead or "no tensors"
    known = SLOTS | {"m", "v"} if "learning_rate" in part.tensors and "step" in part.tensors else SLOTS  # of MLX
    slots = {name for name in part.tensors if name.rpartition(".")[2] in known}
    if not slots or any(tensor.size > 1 for name, tensor in part.tensors.items() if name not in slots):
        return ""
    nbytes = sum(tensor.nbytes for tensor in part.tensors.values())
    return f"an optimizer's state ({len(part.tensors)} tensors, {nbytes} bytes)"


def described(value: Any) -> str:
    """What an entry without tensors is."""
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
