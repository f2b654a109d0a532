"""Test session: shapes are checked at run time, network access is blocked, acceptance rows are counted."""

import csv
import importlib
import os
import pkgutil
import socket
import typing
from pathlib import Path

import beartype.door  # noqa: F401
import matplotlib as mpl
import numpy.typing  # noqa: F401
import PIL.Image
import pytest
import timm  # noqa: F401
import torch
import typer  # noqa: F401
from jaxtyping import install_import_hook

os.environ.setdefault("KERAS_BACKEND", "torch")

# The package imports jaxtyping only if TYPE_CHECKING is set, so it is set while the package is imported here.
typing.TYPE_CHECKING = True
SHAPE_CHECKED_PACKAGES = ("axes", "engine", "feature_layers", "incremental", "maps", "methods", "targets", "tracing")
with install_import_hook([f"seewhy.{name}" for name in SHAPE_CHECKED_PACKAGES], "beartype.beartype"):
    import seewhy

    for module in pkgutil.walk_packages(seewhy.__path__, "seewhy."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
typing.TYPE_CHECKING = False

from seewhy.cli.demo import pictures  # noqa: E402

mpl.use("Agg")
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
PIL.Image.init()


_connect = socket.socket.connect
_getaddrinfo = socket.getaddrinfo


def _connect_local_only(self, address):
    """Refuse connections to other machines."""
    if self.family != socket.AF_UNIX and address[0] not in {"127.0.0.1", "::1", "localhost"}:
        raise PermissionError(f"a test tried to connect to {address}: tests must not use the network")
    return _connect(self, address)


def _resolve_local_only(host, *args, **kwargs):
    """Refuse to look up the addresses of other machines."""
    if host not in {None, "", "127.0.0.1", "::1", "localhost", "0.0.0.0"}:
        raise PermissionError(f"a test tried to look up the address of {host}: tests must not use the network")
    return _getaddrinfo(host, *args, **kwargs)


@pytest.fixture(autouse=True, scope="session")
def offline():
    """Block the network in this process and, by environment variables, downloads in its child processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _connect_local_only)
        patch.setattr(socket, "getaddrinfo", _resolve_local_only)
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patch.setenv(name, "1")
        yield


def pytest_addoption(parser):
    parser.addoption("--rows", action="store_true", help="print which acceptance rows have a passing test")


def pytest_configure(config):
    config.stash[_passing_tests] = {}


_passing_tests = pytest.StashKey[dict]()  # acceptance row -> ids of its passing tests


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call" and outcome.get_result().passed:
        for mark in item.iter_markers("row"):
            for number in mark.args:
                item.config.stash[_passing_tests].setdefault(number, []).append(item.nodeid)


def pytest_terminal_summary(terminalreporter, config):
    if not config.getoption("--rows"):
        return
    passing = config.stash[_passing_tests]
    with (Path(__file__).parent / "rows.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    terminalreporter.section("acceptance rows")
    for row in rows:
        tests = passing.get(int(row["row"]), [])
        status = f"{len(tests)} passing" if tests else "none"
        terminalreporter.write_line(f"{row['row']:>3} {row['source']}  {status:<11} {row['what']}")
    covered = sum(int(row["row"]) in passing for row in rows)
    terminalreporter.write_line(f"{covered} of {len(rows)} rows have a passing test")
    without = [row["row"] for row in rows if int(row["row"]) not in passing]
    terminalreporter.write_line(f"rows without a passing test: {', '.join(without) or 'none'}")


def pytest_collection_modifyitems(items):
    for item in items:
        for mark in item.iter_markers("row"):
            if not mark.args or any(not isinstance(n, int) or not 1 <= n <= 150 for n in mark.args):
                raise pytest.UsageError(f"{item.nodeid}: row numbers must be from 1 to 150, not {mark.args}")


@pytest.fixture(scope="session")
def lite0():
    """The pretrained network that is shipped with the package."""
    return seewhy.load("lite0")


@pytest.fixture(scope="session")
def shipped():
    """The pictures that are shipped with the package: name -> file."""
    return pictures()
