"""The torch backend beside the CPU's: the same counts and quantiles, sums to 1e-9, whatever the memory allows."""

from __future__ import annotations

import pickle
import subprocess
import sys
from contextlib import ExitStack

import numpy as np
import pytest
from backends import kernels_of
from task_vectors import save

torch = pytest.importorskip("torch", reason="torch is not installed")

from netweight.dtypes import DTYPES  # noqa: E402
from netweight.jobs.delta.plan import Options, prepare  # noqa: E402
from netweight.kernels.cpu import CpuKernels  # noqa: E402
from netweight.kernels.cpu import differences as cpu_differences  # noqa: E402
from netweight.kernels.faults import DeviceLost, DeviceOutOfMemory  # noqa: E402
from netweight.kernels.gpu import TorchKernels, backend, differences, lanes, pairs  # noqa: E402
from netweight.kernels.gpu.memory import LEAST  # noqa: E402
from netweight.measures.registry import find  # noqa: E402
from netweight.passes import differences as passes  # noqa: E402
from netweight.passes.differences import measure_differences, plan_tasks  # noqa: E402
from netweight.run import plan  # noqa: E402
from netweight.run.progress import Silent  # noqa: E402
from netweight.run.threads import ThreadExecutor  # noqa: E402
from netweight.statistics.difference import DifferenceStatistics  # noqa: E402
from netweight.statistics.order import finite_bins  # noqa: E402

NAMES = {"bf16": "BF16", "f16": "F16", "f32": "F32", "f64": "F64", "f8": "F8_E5M2"}


@pytest.fixture(params=["torch-cpu", "torch-cuda"])
def other(request):
    return kernels_of(request.param)


def models(tmp_path):
    """A base and two fine-tunes: tensors of all types and of two, with and without values that are not finite."""
    rng = np.random.default_rng(0)
    size = 300_001
    found = [{}, {}, {}]
    for name, dtype in NAMES.items():
        kind = DTYPES[dtype].to_numpy()
        values = rng.standard_normal(size) * 0.02
        tunes = [values, *(values * (1 + rng.standard_normal(size) * s) for s in (1e-2, 1e-4))]
        for arrays, tuned in zip(found, tunes, strict=True):
            arrays[f"{name}.weight"] = tuned.astype(kind)
            holed = tuned[:70_000].astype(kind)
            holed[rng.integers(0, 70_000, 50)] = np.nan
            holed[rng.integers(0, 70_000, 50)] = np.inf
            holed[rng.integers(0, 70_000, 50)] = -np.inf
            holed[rng.integers(0, 70_000, 500)] = 0
            arrays[f"{name}.holed"] = holed
    for k, names in enumerate((("bf16", "f32", "f16"), ("f32", "f64", "bf16"), ("f8", "bf16", "f32"))):
        for arrays, name in zip(found, names, strict=True):
            arrays[f"mixed.{k}"] = arrays[f"{name}.holed"].copy()
    return [save(tmp_path / f"m{i}", arrays) for i, arrays in enumerate(found)]


def measured(paths, kernels, workers=2):
    with ExitStack() as stack:
        prepared = prepare(paths[0], paths[1:], Options(), stack)
        parameters = prepared.alignment.parameters
        found = measure_differences(parameters, plan_tasks(parameters), ThreadExecutor(workers), kernels, Silent())
        return {aligned.name: statistics for aligned, statistics in found}


def close(a, b, scale=0.0):
    assert a == b or abs(a - b) <= 1e-9 * max(abs(b), scale) or (np.isnan(a) and np.isnan(b))


def test_differences_of_whole_models(tmp_path, other, monkeypatch):
    """From files to rows: stretches by two threads, quantiles that need further looks among them."""
    monkeypatch.setattr(plan, "STRETCH", 1 << 17)
    monkeypatch.setattr(passes, "_FEW", 0)
    monkeypatch.setattr(differences, "STORE", 1 << 14)
    paths = models(tmp_path)
    want, got = measured(paths, CpuKernels()), measured(paths, other)
    assert want.keys() == got.keys()
    assert len(want) == 2 * len(NAMES) + 3
    drift = find("drift")
    assert any(isinstance(statistics, DifferenceStatistics) for statistics in want.values())
    for name, expected in want.items():
        found = got[name]
        wide = "f64" in name or name == "mixed.1"
        close(found.base_l2(), expected.base_l2())
        norms = np.sqrt(np.diag(expected.gram()))
        assert (np.abs(found.gram() - expected.gram()) <= 1e-9 * np.outer(norms, norms)).all()
        for m in range(2):
            a, b = found.distribution(m), expected.distribution(m)
            assert (a.n, a.n_nan, a.n_inf, a.n_zero, a.quantiles) == (b.n, b.n_nan, b.n_inf, b.n_zero, b.quantiles)
            if isinstance(found, DifferenceStatistics):  # of several stretches
                finite = finite_bins(64 if wide else 32)
                assert (found.histogram(m)[finite] == expected.histogram(m)[finite]).all()
            assert (a.moments.n, a.moments.minimum, a.moments.maximum) == (
                b.moments.n, b.moments.minimum, b.moments.maximum)  # fmt: skip
            for field in ("l1", "l2", "std", "m2", "m4"):
                close(getattr(a.moments, field), getattr(b.moments, field))
            close(a.moments.average, b.moments.average, b.moments.l1 / b.moments.n)
            close(a.moments.skew, b.moments.skew, 1.0)
            close(a.moments.kurtosis_excess, b.moments.kurtosis_excess, 1.0)
            row, right = (drift.derive(x.distribution(m), x.base_l2()) for x in (found, expected))
            assert row.keys() == right.keys()
            for column, value in row.items():
                if isinstance(value, float) and isinstance(right[column], float):
                    # means and higher moments of symmetric values are near zero: rounding is of the values' own size
                    about = {"mean": b.moments.l1 / b.moments.n, "skew": 1.0, "kurtosis_excess": 1.0}.get(column, 0.0)
                    close(value, right[column], about)
                else:
                    assert value == right[column], (name, column)


def fed(kernels, arrays, names, kept):
    """The partial of arrays in one block."""
    accumulator = kernels.differences(len(arrays) - 1)
    accumulator.start([DTYPES[n] for n in names], kept)
    for buffer, array in zip(accumulator.buffers, arrays, strict=True):
        buffer[: array.nbytes] = array.view(np.uint8)
    assert len(arrays[0]) <= accumulator.block
    accumulator.add(len(arrays[0]))
    return accumulator.partial()


def test_what_is_handed_over(other, monkeypatch):
    """The residual values of the bins that are asked for, and none of a model that has more than there is room for."""
    assert differences.STORE == cpu_differences.STORE
    for module, name in ((differences, "STORE"), (cpu_differences, "STORE")):
        monkeypatch.setattr(module, name, 5000)
    rng = np.random.default_rng(1)
    base = np.zeros(40_000, "f4")
    arrays = [base, rng.standard_normal(40_000).astype("f4"), base.copy()]
    arrays[2][:4998] = rng.standard_normal(4998)
    for size in (4998, 4999):
        arrays[2][size - 1] = 1.1
        kept = np.ones(65536, np.uint8)
        want, got = (fed(k, arrays, ["F32"] * 3, kept) for k in (CpuKernels(), other))
        assert want.residuals[0] is got.residuals[0] is None
        assert (want.residuals[1] is None) == (got.residuals[1] is None) == (size == 4999)
        if size == 4998:
            assert got.residuals[1].dtype == np.uint32
            assert (np.sort(want.residuals[1]) == np.sort(got.residuals[1])).all()
        assert (want.counts == got.counts).all()
        assert (want.residual_counts == got.residual_counts).all()
        assert (got.counts.dtype, got.window, got.gram.shape) == (np.uint32, want.window, (2, 2))
    kept = np.zeros(65536, np.uint8)
    kept[np.unique(arrays[1].view(np.uint32) >> 16)[::5]] = 1
    monkeypatch.setattr(differences, "STORE", 1 << 20)
    got = fed(other, arrays, ["F32"] * 3, kept).residuals[0]
    bits = arrays[1].view(np.uint32)
    assert (np.sort(got) == np.sort(bits[(kept[bits >> 16] == 1) & (bits & 0xFFFF != 0)])).all()


class Scarce:
    """Wraps a function of a tensor so that it fails for more than `most` elements, as a full device does."""

    def __init__(self, function, most, error=torch.OutOfMemoryError):
        self.function, self.most, self.error, self.failures = function, most, error, 0

    def __call__(self, tensor, *args, **settings):
        if tensor.shape[-1] > self.most:
            self.failures += 1
            raise self.error("CUDA error: out" if self.error is not torch.OutOfMemoryError else "no")
        return self.function(tensor, *args, **settings)


@pytest.fixture
def floats():
    rng = np.random.default_rng(2)
    found = rng.standard_normal((3, 250_001)).astype("f4")
    found[1, ::1000] = np.nan
    return list(found)


KEPT = np.ones(65536, np.uint8)
# where a piece fails: at its beginning, and when most of it is computed
STEPS = [(lanes, "widened"), (differences, "_sums_of"), (differences, "_finite")]


@pytest.mark.parametrize(("module", "step"), STEPS, ids=[s for _, s in STEPS])
def test_a_full_device_takes_less_at_once(monkeypatch, floats, module, step):
    other = TorchKernels("cpu")
    want = fed(other, floats, ["F32"] * 3, KEPT)
    scarce = Scarce(getattr(module, step), 4 * 70_000 if step == "widened" else 70_000)
    monkeypatch.setattr(module, step, scarce)
    got = fed(other, floats, ["F32"] * 3, KEPT)
    assert scarce.failures == 2
    assert (got.counts == want.counts).all()
    assert (got.residual_counts == want.residual_counts).all()
    assert np.allclose(got.residual_sums, want.residual_sums, rtol=1e-9)
    assert np.allclose(got.gram, want.gram, rtol=1e-9)
    assert got.base_square == pytest.approx(want.base_square, rel=1e-12)
    for a, b in zip(got.residuals, want.residuals, strict=True):
        assert (np.sort(a) == np.sort(b)).all()


@pytest.mark.parametrize(("module", "step"), STEPS, ids=[s for _, s in STEPS])
def test_a_device_that_holds_nothing(monkeypatch, floats, module, step):
    monkeypatch.setattr(module, step, Scarce(getattr(module, step), 4000))
    with pytest.raises(DeviceOutOfMemory, match="cpu: the device's memory is full: no"):
        fed(TorchKernels("cpu"), floats, ["F32"] * 3, KEPT)


@pytest.mark.parametrize(("module", "step"), STEPS, ids=[s for _, s in STEPS])
def test_a_device_that_is_lost(monkeypatch, floats, module, step):
    monkeypatch.setattr(module, step, Scarce(getattr(module, step), 4000, torch.AcceleratorError))
    with pytest.raises(DeviceLost, match="cpu: the device failed: CUDA error: out"):
        fed(TorchKernels("cpu"), floats, ["F32"] * 3, KEPT)


def test_pairs_on_a_full_device(monkeypatch, floats):
    def look():
        accumulator = TorchKernels("cpu").pairs()
        accumulator.start(DTYPES["F32"], DTYPES["F32"])
        for buffer, array in zip(accumulator.buffers, floats, strict=False):
            buffer[: array.nbytes] = array.view(np.uint8)
        accumulator.add(250_001)
        return accumulator.partial()

    want = look()
    monkeypatch.setattr(pairs, "_look", Scarce(pairs._look, 70_000))
    got = look()
    assert (got.n, got.n_nonfinite, got.n_significant, got.n_flipped) == (
        want.n, want.n_nonfinite, want.n_significant, want.n_flipped)  # fmt: skip
    assert (got.minimum, got.maximum, got.n_identical) == (want.minimum, want.maximum, want.n_identical)
    for field in ("m2_a", "m2_b", "m2_d", "absolute"):
        assert getattr(got, field) == pytest.approx(getattr(want, field), rel=1e-12)
    monkeypatch.setattr(pairs, "_look", Scarce(pairs._look, LEAST - 1))
    with pytest.raises(DeviceOutOfMemory, match="memory is full"):
        look()


def test_a_second_look_on_a_full_device(monkeypatch, floats):
    bins = np.bincount(floats[1].view(np.uint32) >> 16, minlength=65536)
    prefixes = np.sort(np.argsort(bins)[-18:]).astype(np.uint64)

    def look(kernels):
        accumulator = kernels.refine(1)
        accumulator.start([None, DTYPES["F32"]], [prefixes], 1)
        for start in range(0, 250_001, accumulator.block):
            part = floats[1][start : start + accumulator.block]
            accumulator.buffers[1][: part.nbytes] = part.view(np.uint8)
            accumulator.add(len(part))
        (counts,) = accumulator.counts()
        return counts

    want = look(CpuKernels())
    assert (want.sum(axis=1) == bins[prefixes.astype(int)]).all()
    assert want.sum() > 5000
    scarce = Scarce(lanes.widened, 4 * LEAST)
    monkeypatch.setattr(lanes, "widened", scarce)
    got = look(TorchKernels("cpu"))
    assert scarce.failures == 2
    assert (got.dtype, got.shape) == (np.uint32, (18, 65536))
    assert (got == want).all()


def test_names():
    assert TorchKernels("cpu").name == "torch cpu"
    assert TorchKernels("cuda").name == "torch cuda:0"
    assert TorchKernels("cuda:3").name == "torch cuda:3"


def test_kernels_are_a_value(other):
    again = pickle.loads(pickle.dumps(other))
    assert again.name == other.name
    assert again.working_bytes(2) == other.working_bytes(2) > 3 << 20


def test_a_device_without_float64_leaves_sums_to_the_cpu(monkeypatch):
    monkeypatch.setattr(backend, "has_float64", lambda device: False)
    found = TorchKernels("cpu")
    usual = CpuKernels()
    assert found.name == "torch cpu, sums in float64 on the cpu"
    found.prepare([(None, DTYPES["BF16"])])
    for kind in ("differences", "refine"):
        assert type(getattr(found, kind)(2)) is type(getattr(usual, kind)(2))
    for kind in ("pairs", "values", "channels"):
        assert type(getattr(found, kind)()) is type(getattr(usual, kind)())
    assert found.working_bytes(3) == usual.working_bytes(3)
    counts = np.zeros(65536, np.uint64)
    found.count_patterns(np.arange(65536, dtype=np.uint16), counts)
    assert (counts == 1).all()


def test_without_torch():
    program = "import sys; sys.modules['torch'] = None; import netweight.kernels.faults, netweight.kernels.gpu"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("ImportError: kernels for GPUs need torch: pip install 'netweight[torch]'\n")


def test_faults_load_nothing_heavy():
    program = "import sys, netweight.kernels.faults; print(*{'torch', 'numba', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
