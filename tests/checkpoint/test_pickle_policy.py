"""What pickles name: attacks are refused, harmless names say nothing, all others are told by name."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile

import pytest

import netweight
from netweight.checkpoint.pickle_nodes import Global
from netweight.checkpoint.pickle_policy import is_harmless
from netweight.errors import UnsafeFileError


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def named(full: str, attribute: str = "") -> bytes:
    module, _, name = full.rpartition(".") if not attribute else (full, "", attribute)
    return text(module) + text(name) + b"\x93"


TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    + b"K\x04tQK\x00K\x02K\x02\x86K\x02K\x01\x86\x89ccollections\nOrderedDict\n)RtR"
)  # fmt: skip


def saved(folder, payload: bytes):
    """A torch zip with a good tensor, and `payload` beside it."""
    with zipfile.ZipFile(folder / "m.pt", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x04}(" + text("w") + TENSOR + text("x") + payload + b"u.")
        file.writestr("archive/version", "3\n")
        file.writestr("archive/data/0", struct.pack("<4f", 1, 2, 3, 4))
    return folder / "m.pt"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments or (text("x"),)) + b"tR"


ATTACKS_TEXT = """
    os.system posix.popen subprocess.Popen builtins.eval builtins.exec builtins.open builtins.__import__ runpy.run_path
    sys.exit importlib.import_module torch.load torch.serialization._load torch.jit.load torch.hub.load
    torch.utils.collect_env.run torch.utils.bottleneck.__main__.run_cprofile torch.package.PackageImporter
    torch.jit.unsupported_tensor_ops.execWrapper torch._inductor.codecache.compile_file numpy.load numpy.fromfile
    torch.utils.data.datapipes.utils.decoder.basichandlers torch.utils._config_module.ConfigModule.load_config
    numpy.f2py.crackfortran.getlincoef numpy.testing._private.utils.runstring numpy.lib._npyio_impl.load
    uuid._get_command_stdout _aix_support._read_cmd_output _osx_support._read_output _pyrepl.pager.pipe_pager
    test.support.script_helper.assert_python_ok io.FileIO io.open _io.open codecs.open logging.FileHandler
    logging.handlers.SocketHandler logging.config.fileConfig distutils.file_util.write_file imaplib.IMAP4_stream
    multiprocessing.connection.Client socketserver.TCPServer joblib.load pandas.read_pickle dill.loads cloudpickle.loads
    zipimport.zipimporter cffi.FFI urllib3.request httpx.get dbm.open sqlite3.connect multiprocessing.Process
    multiprocessing.util.spawnv_passfds signal.raise_signal antigravity.geohash compileall.compile_file types.CodeType
    pickle.loads _pickle.Unpickler marshal.loads shelve.open zipfile.ZipFile tarfile.open gzip.open mmap.mmap
    concurrent.futures.ProcessPoolExecutor threading.Thread functools.reduce types.FunctionType operator.methodcaller
"""
ATTACKS = ATTACKS_TEXT.split()


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused(tmp_path, name):
    with pytest.raises(UnsafeFileError, match="nothing was run; do not load this file elsewhere") as caught:
        netweight.open(saved(tmp_path, call(named(name))))
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("module", "attribute"),
    [("pathlib", "os.system"), ("torch.serialization", "os.system"), ("logging", "sys.modules"),
     ("anything", "os.popen"), ("pathlib", "Path.unlink"), ("torch._ops", "_Ops.load_library"),
     ("collections", "abc.sys")],
)  # fmt: skip
def test_names_within_names(tmp_path, module, attribute):
    """`pathlib.os` is os: torch and pickle find it by its dots."""
    with pytest.raises(UnsafeFileError, match=rf"{module}\.{attribute}"):
        netweight.open(saved(tmp_path, call(named(module, attribute))))


@pytest.mark.parametrize("opcode", ["reduce", "newobj", "newobj_ex", "inst", "obj", "copyreg"])
def test_every_way_to_call(tmp_path, opcode):
    function = named("os.system")
    payload = {
        "reduce": function + text("x") + b"\x85R",
        "newobj": function + text("x") + b"\x85\x81",
        "newobj_ex": function + text("x") + b"\x85}\x92",
        "inst": b"(" + text("x") + b"ios\nsystem\n",
        "obj": b"(" + function + text("x") + b"o",
        "copyreg": named("copyreg._reconstructor") + function + b"\x85R",
    }[opcode]
    with pytest.raises(UnsafeFileError, match=r"os\.system"):
        netweight.open(saved(tmp_path, payload))


@pytest.mark.parametrize(
    "function",
    [call(named("builtins.getattr"), named("pathlib", "os"), text("system")),
     call(named("builtins.getattr"), named("os.path"), text("os")),
     call(named("functools.partial"), named("os.system"))],
    ids=["getattr", "getattr of a package", "partial"],
)  # fmt: skip
def test_what_a_call_gives_is_called(tmp_path, function):
    with pytest.raises(UnsafeFileError):
        netweight.open(saved(tmp_path, call(function)))


OUTSIDE = [
    "model.Net", "__main__.Config", "omegaconf.dictconfig.DictConfig", "transformers.training_args.TrainingArguments",
    "torch.storage._load_from_bytes", "Outer.Inner", "functools.partial", "torch.fx.graph_module.reduce_graph_module",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("called", [True, False])
def test_other_names_are_told(tmp_path, name, called):
    path = saved(tmp_path, call(named(name)) if called else named(name))
    with netweight.open(path) as checkpoint:
        assert checkpoint.outside == (name,)
        assert checkpoint["w"].read().tolist() == [[1, 2], [3, 4]]
        assert f"its pickle has a name outside the list of harmless ones ({name})" in checkpoint.notes[0]
    assert netweight.info(path).to_dict()["outside"] == [name]
    assert any(name in note for note in netweight.scan(path).notes)


def test_a_name_that_is_only_named(tmp_path):
    """os.system as a value runs nothing when it is loaded; it is told all the same."""
    with netweight.open(saved(tmp_path, named("os.system"))) as checkpoint:
        assert checkpoint.outside == ("os.system",)


def test_strict(tmp_path):
    for payload, code in ((named("model.Net"), 2), (call(named("datetime.date"), text("x")), 0)):
        path = saved(tmp_path, payload)
        args = [sys.executable, "-m", "netweight", "info", str(path), "--strict", "--format", "json"]
        done = subprocess.run(args, capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert ("--strict: its pickle names what may not be harmless: model.Net" in done.stderr) is bool(code)
        assert json.loads(done.stdout)["tensors"] == 1


HARMLESS_TEXT = """
    collections.OrderedDict builtins.set __builtin__.set argparse.Namespace datetime.datetime pathlib.PosixPath
    torch.FloatStorage torch.cuda.HalfStorage torch.BFloat16Storage torch.float8_e4m3fn torch.bfloat16 torch.Size
    torch._utils._rebuild_tensor_v2 torch._utils._rebuild_parameter torch.nn.modules.linear.Linear torch.nn.Parameter
    torch.nn.modules.container.Sequential torch.optim.adamw.AdamW torch.optim.SGD numpy.dtype numpy.ndarray
    numpy.core.multiarray._reconstruct numpy._core.multiarray.scalar numpy.dtypes.Float64DType torch.device
    numpy.random._mt19937.MT19937 torch.nn.parallel.data_parallel.DataParallel __torch__.model.Net
"""
HARMLESS = HARMLESS_TEXT.split()


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_names(name):
    module, _, attribute = name.rpartition(".")
    assert is_harmless(Global(module, attribute))


@pytest.mark.parametrize(
    "name",
    ["torch.nn.modules.linear.F.torch.load", "torch.nn.init", "torch.float.x", "numpy.dtypes.x", "torchx.FloatStorage",
     "torch._utils._rebuild_tensor.os", "torch.optim.lr_scheduler.warnings"],
)  # fmt: skip
def test_names_near_harmless_ones(name):
    module, _, attribute = name.rpartition(".")
    assert not is_harmless(Global(module, attribute))


def test_what_torch_itself_saves_is_harmless(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.LSTM(8, 4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(3, 4))[0].sum().backward()
    optimizer.step()
    for number, held in enumerate((model, model.state_dict(), {"model": model, "optimizer": optimizer.state_dict()})):
        torch.save(held, tmp_path / f"{number}.pt")
        with netweight.open(tmp_path / f"{number}.pt") as checkpoint:
            assert checkpoint.outside == ()
