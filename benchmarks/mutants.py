"""Changes the program in small ways, one at a time, and looks whether its tests notice.

    python benchmarks/mutants.py [--package NAME ...] [--sample N] [--seed S] [--jobs N] [--report FILE]

The changes are cosmic-ray's (a comparison, an operator, a number, a condition, a loop) and one more: a call whose
result nobody takes is left out, as a removed fsync is. Of every package N are drawn at random, by a seed, from all of
its modules; each is made in a copy of `src`, where TESTS says which tests cover the module. They run in that order
until one fails. A change that no test notices is a survivor: the report, in Markdown, counts them by package and shows
each. Types in annotations are left alone, since nothing runs them. None of the packages has compiled loops, so that
what numba has compiled stays good; a package that had them would have to run with NUMBA_DISABLE_JIT=1.

`make mutants` installs cosmic-ray apart from everything else, and runs this.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import itertools
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "netweight"

_TORCH = tuple(
    f"tests/checkpoint/test_{name}.py" for name in ("pickle_policy", "training_state", "torch_readers", "hostile_torch")
)
_STEPS = ("tests/merging/test_course.py",)
_METHODS = (*_STEPS, "tests/merging/test_settings.py", "tests/merging/test_against_mergekit.py")

TESTS = {
    "source": ("tests/source", "tests/hub/test_remote.py"),
    "source/arrivals.py": ("tests/source/test_arrivals.py",),
    "source/digest.py": ("tests/jobs/download",),
    "source/fsspec_ranges.py": ("tests/source/test_arrivals.py", "tests/hub/test_references.py"),
    "source/http_ranges.py": ("tests/source/test_arrivals.py", "tests/hub/test_remote.py"),
    "source/least_rate.py": ("tests/source/test_least_rate.py", "tests/jobs/download"),
    "source/local.py": ("tests/source/test_local.py", "tests/source/test_arrivals.py"),
    "source/remote.py": ("tests/source/test_remote_file.py", "tests/source/test_arrivals.py"),
    "source/retry.py": ("tests/source/test_remote_file.py", "tests/jobs/download"),
    "source/window.py": ("tests/source/test_window.py",),
    "output": ("tests/output/test_folder.py", "tests/output", "tests/jobs/test_crashes.py"),
    "output/frame.py": ("tests/output/test_frame.py", "tests/jobs/embeddings"),
    "output/positioned.py": ("tests/output/test_shard_writer.py",),
    "output/safetensors_file.py": ("tests/output/test_safetensors_file.py", "tests/output/test_shards.py"),
    "output/shard_writer.py": ("tests/output/test_shard_writer.py",),
    "output/shards.py": ("tests/output/test_shards.py",),
    "output/table.py": ("tests/output/test_table.py", "tests/jobs/delta/test_delta_result.py"),
    "run": ("tests/run", "tests/jobs/test_journalled.py", "tests/jobs/test_spread_jobs.py"),
    "run/device_survey.py": ("tests/run/test_device_survey.py",),
    "run/devices.py": ("tests/run/test_devices.py", "tests/run/test_device_survey.py"),
    "run/executors.py": ("tests/run/test_executors.py",),
    "run/journal.py": (
        "tests/run/test_journal.py",
        "tests/output/test_durability.py::test_a_closed_journal_is_on_the_disk",
        "tests/output/test_durability.py::test_a_journal_is_brought_to_the_disk_every_few_seconds",
        "tests/jobs/test_journalled.py",
    ),
    "run/memory.py": ("tests/run/test_memory.py",),
    "run/plan.py": ("tests/run/test_plan.py", "tests/jobs/test_digests.py"),
    "run/progress.py": ("tests/cli/progress",),
    "run/ray_executor.py": ("tests/run/test_ray_rules.py", "tests/run/test_ray_executor.py"),
    "run/ray_worker.py": ("tests/run/test_ray_executor.py",),
    "run/ray_cluster.py": ("tests/run/test_ray_executor.py",),
    "run/spread.py": ("tests/run/test_spread.py", "tests/jobs/test_spread_jobs.py"),
    "checkpoint": ("tests/checkpoint", "tests/jobs/info", "tests/hub/test_references.py"),
    "checkpoint/distcp.py": ("tests/checkpoint/test_distcp.py",),
    "checkpoint/dtensor.py": ("tests/checkpoint/test_ranks.py",),
    "checkpoint/foreign.py": ("tests/checkpoint/test_foreign.py",),
    "checkpoint/foreign_signs.py": ("tests/checkpoint/test_foreign.py",),
    "checkpoint/hub.py": ("tests/hub",),
    "checkpoint/jsontext.py": ("tests/checkpoint/test_safetensors_reader.py", "tests/checkpoint/test_open.py"),
    "checkpoint/matrix.py": ("tests/checkpoint/test_matrix.py",),
    "checkpoint/npz.py": ("tests/checkpoint/test_npz.py",),
    "checkpoint/pickle_policy.py": ("tests/checkpoint/test_pickle_policy.py",),
    "checkpoint/protobuf_fields.py": ("tests/checkpoint/test_foreign.py",),
    "checkpoint/remote_place.py": ("tests/hub",),
    "checkpoint/safetensors.py": ("tests/checkpoint/test_safetensors_reader.py",),
    "checkpoint/saved_chunks.py": ("tests/checkpoint/test_saved_chunks.py",),
    "checkpoint/tensor_parallel.py": ("tests/checkpoint/test_tensor_parallel.py",),
    "checkpoint/torch_layout.py": _TORCH,
    "checkpoint/torch_legacy.py": _TORCH,
    "checkpoint/torch_nodes.py": _TORCH,
    "checkpoint/torch_tar.py": _TORCH,
    "checkpoint/torch_zip.py": _TORCH,
    "checkpoint/unpickler.py": _TORCH,
    "checkpoint/unwrap.py": _TORCH,
    "checkpoint/zip_directory.py": ("tests/checkpoint/test_zip_directory.py", *_TORCH),
    "merging": ("tests/merging", "tests/jobs/merge/test_merge.py"),
    "merging/grams.py": (*_STEPS, "tests/merging/test_combinations.py", "tests/merging/test_spherical.py"),
    "merging/methods/della.py": ("tests/merging/test_dropping.py", *_METHODS),
    "merging/methods/means.py": ("tests/merging/test_spherical.py", *_METHODS),
    "merging/methods/model_stock.py": ("tests/merging/test_combinations.py", *_METHODS),
    "merging/methods/sce.py": ("tests/merging/test_fusing.py", *_METHODS),
    "merging/methods/slerp.py": ("tests/merging/test_spherical.py", *_METHODS),
    "merging/recipe": ("tests/merging/recipe", "tests/merging/test_against_mergekit.py"),
    "merging/recipe/conditions.py": ("tests/merging/test_settings.py", "tests/merging/recipe"),
    "merging/select.py": (*_STEPS, "tests/merging/test_select.py", "tests/merging/test_trimming.py"),
    "merging/settings.py": ("tests/merging/test_settings.py",),
    "merging/target.py": ("tests/merging/test_target.py", "tests/jobs/merge/test_merge_targets.py"),
    "merging/trims.py": (*_STEPS, "tests/merging/test_trimming.py", "tests/merging/test_dropping.py"),
    "merging/writes.py": (*_STEPS, "tests/merging/test_combinations.py", "tests/merging/test_spherical.py"),
    "statistics": ("tests/statistics", "tests/measures"),
    "statistics/channels.py": ("tests/statistics/test_channels.py", "tests/passes/test_matrices.py"),
    "statistics/difference.py": ("tests/statistics/test_difference.py",),
    "statistics/moments.py": ("tests/statistics/test_moments.py", "tests/statistics/test_values.py"),
    "statistics/order.py": ("tests/statistics/test_order.py", "tests/statistics/test_values.py"),
    "statistics/pairs.py": ("tests/statistics/test_pair_statistics.py", "tests/measures/test_drift.py"),
    "statistics/partition.py": ("tests/statistics/test_partition.py",),
    "statistics/patterns.py": ("tests/statistics/test_patterns.py",),
    "statistics/readings.py": ("tests/statistics/test_values.py", "tests/statistics/test_channels.py"),
    "statistics/rounding_error.py": ("tests/statistics/test_rounding_error.py",),
    "statistics/spectrum.py": ("tests/statistics/test_spectrum.py", "tests/measures/test_spectral.py"),
    "statistics/tail.py": ("tests/measures/test_tail.py",),
    "statistics/values.py": ("tests/statistics/test_values.py",),
}
"""The tests of a module, the quickest first: those of the longest name here that it begins with."""

PACKAGES = ("source", "output", "run", "checkpoint", "merging", "statistics")

_COMPARISONS = (
    "Lt_LtE",
    "LtE_Lt",
    "Gt_GtE",
    "GtE_Gt",
    "Lt_Gt",
    "Gt_Lt",
    "Eq_NotEq",
    "NotEq_Eq",
    "Is_IsNot",
    "IsNot_Is",
)
_ARITHMETIC = ("Add_Sub", "Sub_Add", "Mul_FloorDiv", "FloorDiv_Mul", "Div_Mul", "Mod_FloorDiv", "Pow_Mul")
_BITS = ("LShift_RShift", "RShift_LShift", "BitAnd_BitOr", "BitOr_BitAnd", "BitXor_BitAnd")
OPERATORS = (
    *(f"ReplaceComparisonOperator_{pair}" for pair in _COMPARISONS),
    *(f"ReplaceBinaryOperator_{pair}" for pair in (*_ARITHMETIC, *_BITS)),
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "NumberReplacer", "ZeroIterationForLoop"),
)
LEAST_SECONDS = 60
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Mutant:
    """The `occurrence`-th place of `module` (below the source) where `operator` applies, in `line`."""

    module: str
    operator: str
    occurrence: int
    line: int


@dataclass(frozen=True)
class Result:
    """What became of a mutant: "killed", "timeout" or "survived"; its diff."""

    mutant: Mutant
    verdict: str
    diff: str


def tests_of(module: str) -> tuple[str, ...]:
    """The tests that cover a module, named by its path below the source."""
    return TESTS[max((name for name in TESTS if f"{module}/".startswith(f"{name}/")), key=len)]


def modules_of(package: str) -> list[str]:
    """All modules of a package, by their paths below the source."""
    return sorted(path.relative_to(SOURCE).as_posix() for path in (SOURCE / package).rglob("*.py"))


def annotated(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations stand: (line, column) of the first character, and behind the last."""
    found: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.returns)
        elif isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
    return [((n.lineno, n.col_offset), (n.end_lineno or 0, n.end_col_offset or 0)) for n in found if n is not None]


def _operators() -> dict[str, Any]:
    import parso
    from cosmic_ray.operators.operator import Operator
    from cosmic_ray.operators.provider import OperatorProvider

    class LeaveOutCall(Operator):
        """A call whose result nobody takes does not happen."""

        def mutation_positions(self, node: Any) -> Iterator[Any]:
            if node.type == "simple_stmt" and node.children[0].type == "atom_expr":
                yield node.children[0].start_pos, node.children[0].end_pos

        def mutate(self, node: Any, index: int) -> Any:  # noqa: ARG002 - cosmic-ray's signature
            call = node.children[0]
            node.children[0] = parso.parse(call.get_first_leaf().prefix + "pass")
            return node

        @classmethod
        def examples(cls) -> tuple[Any, ...]:
            return ()

    known = OperatorProvider()
    return {name: known[name]() for name in OPERATORS} | {"LeaveOutCall": LeaveOutCall()}


def mutants_of(module: str, operators: dict[str, Any]) -> Iterator[Mutant]:
    """Every mutant of a module."""
    from cosmic_ray.ast import ast_nodes, get_ast

    source = (SOURCE / module).read_text(encoding="utf-8")
    nodes, quiet = list(ast_nodes(get_ast(source))), annotated(source)
    for name, operator in operators.items():
        places = (place for node in nodes for place in operator.mutation_positions(node))
        for occurrence, (start, _) in enumerate(places):
            if not any(first <= start < last for first, last in quiet):
                yield Mutant(module, name, occurrence, start[0])


def mutated(mutant: Mutant, operators: dict[str, Any]) -> tuple[str, str]:
    """The module's source without and with the mutant."""
    from cosmic_ray.mutating import mutate_code

    source = (SOURCE / mutant.module).read_text(encoding="utf-8")
    return source, mutate_code(source, operators[mutant.operator], mutant.occurrence)


def run_tests(tests: Sequence[str], copy: Path, seconds: float) -> str:
    """ "survived" where all tests pass with the package in `copy`, else "killed" or "timeout"."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=seconds, text=True
        )
    except subprocess.TimeoutExpired:
        return "timeout"
    return "killed" if done.returncode else "survived"


def try_mutant(mutant: Mutant, operators: dict[str, Any], copy: Path, seconds: dict[tuple[str, ...], float]) -> Result:
    """Make the mutant in `copy`, run its tests, and take it back."""
    before, after = mutated(mutant, operators)
    path = copy / "netweight" / mutant.module
    state = path.stat()
    path.write_text(after, encoding="utf-8")
    # A time of its own, or the bytecode of another mutant of the same size and second would run.
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + next(_numbers) * 10**9))
    try:
        tests = tests_of(mutant.module)
        verdict = run_tests(tests, copy, seconds[tests])
    finally:
        path.write_text(before, encoding="utf-8")
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # what numba has compiled of it stays good
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), mutant.module, mutant.module, "", "", 1, "")
    return Result(mutant, verdict, "\n".join(lines))


def report(counts: dict[str, int], results: Sequence[Result], seed: int) -> str:
    """The table by package, and every survivor, in Markdown."""
    lines = ["| package | mutants | drawn | killed | survived |", "| --- | --- | --- | --- | --- |"]
    for package, total in counts.items():
        own = [result for result in results if result.mutant.module.startswith(f"{package}/")]
        lived = sum(result.verdict == "survived" for result in own)
        lines.append(f"| {package} | {total} | {len(own)} | {len(own) - lived} | {lived} |")
    lived = [result for result in results if result.verdict == "survived"]
    share = 100 * (len(results) - len(lived)) / max(1, len(results))
    lines += ["", f"{share:.1f}% of {len(results)} are killed (seed {seed})."]
    for result in lived:
        where = f"{result.mutant.module}:{result.mutant.line}"
        lines += ["", f"`{where}`, {result.mutant.operator}", "", "```diff", result.diff, "```"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Leaves with 1 where tests fail without any change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", action="append", choices=PACKAGES)
    parser.add_argument("--sample", type=int, default=20, help="mutants of each package; 0 takes all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    operators = _operators()
    drawn, counts = [], {}
    for package in options.package or PACKAGES:
        every = [mutant for module in modules_of(package) for mutant in mutants_of(module, operators)]
        counts[package] = len(every)
        size = min(options.sample, len(every)) if options.sample else len(every)
        drawn += random.Random(f"{options.seed} {package}").sample(every, size)
    with tempfile.TemporaryDirectory() as folder:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(options.jobs):
            copies.put(Path(shutil.copytree(ROOT / "src", Path(folder, str(number)))))
        seconds = {}
        for tests in sorted({tests_of(mutant.module) for mutant in drawn}):
            begun = time.monotonic()
            if run_tests(tests, Path(folder, "0"), 3600) != "survived":
                print(f"error: without any change these tests fail: {' '.join(tests)}", file=sys.stderr)
                return 1
            seconds[tests] = LEAST_SECONDS + 5 * options.jobs * (time.monotonic() - begun)
        results, lock = [], threading.Lock()

        def one(mutant: Mutant) -> None:
            copy = copies.get()
            try:
                result = try_mutant(mutant, operators, copy, seconds)
            finally:
                copies.put(copy)
            with lock:
                results.append(result)
                where = f"{mutant.module}:{mutant.line} {mutant.operator}"
                print(f"{len(results)}/{len(drawn)} {result.verdict} {where}", file=sys.stderr, flush=True)

        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(one, drawn))
    text = report(counts, sorted(results, key=lambda r: (r.mutant.module, r.mutant.line)), options.seed)
    if options.report is None:
        print(text, end="")
    else:
        options.report.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
