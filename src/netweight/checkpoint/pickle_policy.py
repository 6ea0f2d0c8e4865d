"""What a pickle may name, as rows: what is harmless, and what calls mean an attack.

Nothing that a pickle names is ever called, so everything could be an inert stub. Yet who reads a file here may load it
elsewhere: a file that asks for a command to be run is refused, and every other name that is not on the list of
harmless ones is told. Harmless are the types of data that checkpoints hold, and torch's own modules and optimizers.
Sources: torch/_weights_only_unpickler.py, and the corpora of picklescan, fickling and modelscan.
"""

from __future__ import annotations

import re
import sys

from netweight.checkpoint.pickle_nodes import Call, Global

__all__ = ["dangerous_call", "is_harmless"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _names(rows: tuple[tuple[str, str], ...]) -> frozenset[str]:
    return frozenset(
        f"{module}.{name}" for modules, names in rows for module in modules.split() for name in names.split()
    )


_HARMLESS = _names((
    ("builtins __builtin__", "list dict set frozenset tuple int long float complex bool str unicode bytes bytearray"),
    ("builtins __builtin__", "object slice range xrange type Ellipsis NotImplemented"),
    ("collections", "OrderedDict defaultdict Counter deque ChainMap"),
    ("copyreg copy_reg", "_reconstructor __newobj__ __newobj_ex__"),
    ("codecs _codecs", "encode"),
    ("datetime", "date datetime time timedelta timezone"),
    ("decimal _decimal fractions", "Decimal Fraction"),
    ("uuid", "UUID SafeUUID"),
    ("pathlib pathlib._local", "Path PurePath PosixPath PurePosixPath WindowsPath PureWindowsPath"),
    ("argparse types", "Namespace SimpleNamespace"),
    ("operator _operator", "itemgetter"),
    ("re", "_compile"),
    ("random", "Random"),
    ("logging", "Logger getLogger"),
    ("torch", "Size device Tensor dtype Generator memory_format layout strided bool"),
    ("torch.storage", "UntypedStorage TypedStorage _UntypedStorage _TypedStorage"),
    ("torch._tensor", "Tensor _rebuild_from_type _rebuild_from_type_v2"),
    ("torch.nn torch.nn.parameter", "Parameter Buffer UninitializedParameter UninitializedBuffer"),
    ("torch.autograd torch.autograd.variable", "Variable"),
    ("torch.serialization torch.nn.backends.thnn", "_get_layout _get_thnn_function_backend"),
    ("numpy", "ndarray dtype matrix bool_ float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64"),
    ("numpy.core.multiarray numpy._core.multiarray", "_reconstruct scalar"),
    ("numpy.core.numeric numpy._core.numeric", "_frombuffer"),
    ("numpy.random numpy.random.mtrand", "RandomState Generator"),
    ("numpy.random._pickle", "__randomstate_ctor __generator_ctor __bit_generator_ctor"),
))  # fmt: skip
_HARMLESS_FORMS = re.compile(
    r"torch(?:\.cuda|\.sparse|\.cuda\.sparse)?\.[A-Z][A-Za-z0-9]*(?:Storage|Tensor)"
    r"|torch\._utils\._rebuild_\w+"
    r"|torch\.(?:q?u?int|float|bfloat|complex|cfloat|cdouble|half|double|long|short|quint)[a-z0-9_]*"
    r"|torch\.nn\.(?:modules|quantized|intrinsic|parallel)\.[a-z_.]+\.[A-Z]\w*"
    r"|torch\.nn\.[A-Z]\w*"
    r"|torch\.optim\.(?:[a-z_]+\.)?[A-Z]\w*"
    r"|torch\.distributed\.(?:checkpoint|tensor|_shard|_tensor|device_mesh|_mesh_layout)(?:\.[a-z_]+)*\.[A-Z_]\w*"
    r"|numpy\.dtypes\.[A-Z]\w*DType"
    r"|numpy\.random\._[a-z0-9]+\.[A-Z]\w*"
    r"|__torch__\..+"
)

_PACKAGES = _words(
    "os posix nt ntpath posixpath genericpath nturl2path subprocess _posixsubprocess _winapi runpy sys importlib imp"
    " pkgutil zipimport shutil socket _socket socketserver pty ctypes _ctypes cffi mmap fcntl signal resource pickle"
    " _pickle cPickle pickletools marshal shelve dbm sqlite3 _sqlite3 dill cloudpickle code codeop commands popen2"
    " platform _pyrepl _aix_support _osx_support webbrowser antigravity pdb bdb cProfile profile pstats timeit trace"
    " pydoc doctest unittest test ensurepip pip venv idlelib lib2to3 asyncio concurrent multiprocessing"
    " _multiprocessing threading _thread urllib urllib2 urllib3 http httplib httpx requests aiohttp ftplib smtplib"
    " smtpd imaplib poplib nntplib telnetlib xmlrpc wsgiref cgi ssl tempfile glob fileinput linecache io _io zipfile"
    " tarfile gzip bz2 lzma compileall py_compile distutils setuptools sysconfig site operator _operator builtins"
    " __builtin__ __builtins__ winreg msvcrt"
)
_SINGLE = re.compile(
    r"torch\.(?:load|serialization\._?load|jit\.load|_C\._jit_compile|distributed\.rpc\.api\._run_function)"
    r"|torch\.(?:ops|classes)\.load_library|torch\._ops\..+|torch\.hub\..+|torch\.package\..+"
    r"|torch\.utils\.(?:cpp_extension|collect_env|bottleneck|data\.datapipes|_config_module)\..+"
    r"|torch\._(?:inductor|dynamo)\..+|torch\.jit\.unsupported_tensor_ops\..+"
    r"|numpy\.(?:load|loadtxt|genfromtxt|fromfile|memmap|save|savez|savetxt|DataSource)"
    r"|numpy\.lib\.(?:npyio|_npyio_impl|_datasource|format|_format_impl)\..+|numpy\.f2py\..+|numpy\.testing\..+"
    r"|types\.(?:CodeType|FunctionType|MethodType)|codecs\.open|uuid\._\w+|logging\.(?:config\..+|(?:handlers\.)?\w*Handler)"
    r"|joblib\.(?:load|dump|numpy_pickle\.load\w*)|pandas\.(?:read_\w+|io\..+)|functools\.reduce"
)
_NESTED = frozenset(sys.stdlib_module_names) | {"torch", "numpy"}


def is_harmless(named: Global) -> bool:
    """Whether a name is on the list of those that data and torch's own classes are made of."""
    full = named.full
    return full in _HARMLESS or bool(_HARMLESS_FORMS.fullmatch(full))


def dangerous_call(called: object) -> str:
    """The name of what a call would run, where that is how pickles attack: commands, code, files, the network, other
    pickles; empty where it is not.
    """
    if isinstance(called, Call) and called.of in {"builtins.getattr", "__builtin__.getattr"}:
        owner, *attribute = called.args
        if isinstance(owner, Global) and attribute and isinstance(attribute[0], str):
            called = Global(owner.module, f"{owner.name}.{attribute[0]}")
    elif isinstance(called, Call) and called.of == "functools.partial" and called.args:
        called = called.args[0]
    if not isinstance(called, Global) or is_harmless(called):
        return ""
    full, package = called.full, called.module.partition(".")[0]
    if package in {"builtins", "__builtin__"} and called.name == "getattr":
        return ""  # what is made of it is looked at when that is called
    # a module within a module: `pathlib.os.system` is os.system
    nested = "." in called.name and (package in _NESTED or called.name.partition(".")[0] in _PACKAGES)
    return full if package in _PACKAGES or nested or _SINGLE.fullmatch(full) else ""
