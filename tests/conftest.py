"""Fixtures for all tests."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from hub_server import HubServer

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the real hub for anything: the fixture `hub` has one of its own

# Threads that wait for each other sleep. They would spin, on cores that the other tests need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

# Without bytecode every program that a test starts would compile netweight's source, and every run of the tests theirs.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a shell's background job, and then of all programs it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test depends on how fast the machine is, or on what else it does.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Of the tests in parallel, those of one Ray cluster come first and go to one worker: they wait more than they compute.
_TOGETHER = "tests/run/"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(_TOGETHER))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file goes to one worker, so that what is made for its tests is made once; `--dist` asks for something else."""
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _TOGETHER if nodeid.startswith(_TOGETHER) else nodeid.partition("::")[0]

    config.option.loadscopereorder = False
    return ByFile(config, log)


REALWEIGHTS = Path(__file__).parents[2] / "shared" / "realweights"


@pytest.fixture(scope="session")
def realweights() -> Path:
    """A folder of small real checkpoints beside the repository; tests that need it are skipped without it."""
    if not REALWEIGHTS.is_dir():
        pytest.skip("no folder of real checkpoints beside the repository")
    return REALWEIGHTS


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub on loopback: tests/hub/hub_server.py says how to use it. HF_HOME is in tmp_path; there is no token."""
    from hub_server import HubServer, point_here
    from huggingface_hub.utils import close_session

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    with HubServer() as server:
        point_here(server, tmp_path, monkeypatch.setenv, monkeypatch.setattr)
        yield server
        close_session()
