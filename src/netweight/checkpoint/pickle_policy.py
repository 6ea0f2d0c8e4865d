"""Which calls in a pickle mean an attack.

Nothing that a pickle names is ever called, so everything could be an inert stub. A file that asks for a command to be
run is refused all the same: somebody should know what they were given. Other unknown names stay stubs.
"""

from __future__ import annotations

from netweight.checkpoint.pickle_nodes import Global

__all__ = ["is_dangerous"]

_PACKAGES = frozenset({
    "os", "posix", "nt", "ntpath", "posixpath", "subprocess", "_posixsubprocess", "runpy", "sys", "importlib", "imp",
    "pkgutil", "shutil", "socket", "pty", "ctypes", "_ctypes", "pickle", "_pickle", "cPickle", "marshal", "shelve",
    "code", "codeop", "commands", "popen2", "platform", "webbrowser", "pdb", "bdb", "cProfile", "profile", "timeit",
    "trace", "pydoc", "doctest", "ensurepip", "pip", "venv", "idlelib", "asyncio", "urllib", "urllib2", "http",
    "httplib", "requests", "aiohttp", "ftplib", "smtplib", "telnetlib", "xmlrpc", "ssl", "tempfile", "glob",
    "fileinput", "linecache", "operator", "_operator", "builtins", "__builtin__", "__builtins__",
})  # fmt: skip
_HARMLESS_BUILTINS = frozenset({
    "list", "dict", "set", "frozenset", "tuple", "int", "long", "float", "complex", "bool", "str", "unicode", "bytes",
    "bytearray", "object", "slice", "range", "xrange", "type", "getattr", "Ellipsis", "NotImplemented",
})  # fmt: skip
_SINGLE = frozenset({
    "torch.load", "torch.serialization.load", "torch.serialization._load", "torch.jit.load", "torch.ops.load_library",
    "torch.classes.load_library", "torch._C._jit_compile", "numpy.load", "numpy.lib.npyio.load", "numpy.f2py.compile",
    "torch.distributed.rpc.api._run_function", "types.CodeType", "types.FunctionType",
})  # fmt: skip
_PREFIXES = ("torch.hub.", "torch.utils.cpp_extension.", "numpy.testing._private.utils.", "torch._inductor.")


def is_dangerous(called: Global) -> bool:
    """Whether calling `called` is how pickles attack: commands, code, files, the network, other pickles."""
    if called.module in {"builtins", "__builtin__"} and called.name in _HARMLESS_BUILTINS:
        return False
    if called.module in {"operator", "_operator"} and called.name == "itemgetter":
        return False
    full = called.full
    return called.module.partition(".")[0] in _PACKAGES or full in _SINGLE or full.startswith(_PREFIXES)
