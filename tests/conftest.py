"""Shapes are checked in every run, and tests that show an acceptance row are counted."""

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

# The package imports jaxtyping only for type checkers; while it is imported here, the tests are one.
typing.TYPE_CHECKING = True
with install_import_hook(["seewhy.methods", "seewhy.maps", "seewhy.trace"], "beartype.beartype"):
    import seewhy

    for found in pkgutil.walk_packages(seewhy.__path__, "seewhy."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
typing.TYPE_CHECKING = False

from seewhy.cli.demo import pictures  # noqa: E402

mpl.use("Agg")
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
PIL.Image.init()


_connect = socket.socket.connect


def _nearby_only(self, address):
    """No test may reach another machine."""
    if self.family != socket.AF_UNIX and address[0] not in {"127.0.0.1", "::1", "localhost"}:
        raise PermissionError(f"a test asked for {address}: nothing may be downloaded")
    return _connect(self, address)


def _resolve(host, *args, _usual=socket.getaddrinfo, **more):
    if host not in {None, "", "127.0.0.1", "::1", "localhost", "0.0.0.0"}:
        raise PermissionError(f"a test asked where {host} is: nothing may be downloaded")
    return _usual(host, *args, **more)


@pytest.fixture(autouse=True, scope="session")
def offline():
    """The suite runs with the network blocked, in this process and, through its variables, in those it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _nearby_only)
        patch.setattr(socket, "getaddrinfo", _resolve)
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patch.setenv(name, "1")
        yield


def pytest_addoption(parser):
    parser.addoption("--rows", action="store_true", help="print which acceptance rows have a passing test")


def pytest_configure(config):
    config.stash[_passed] = {}


_passed = pytest.StashKey[dict]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call" and outcome.get_result().passed:
        for mark in item.iter_markers("row"):
            for number in mark.args:
                item.config.stash[_passed].setdefault(number, []).append(item.nodeid)


def pytest_terminal_summary(terminalreporter, config):
    if not config.getoption("--rows"):
        return
    shown = config.stash[_passed]
    with (Path(__file__).parent / "rows.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    terminalreporter.section("acceptance rows")
    for row in rows:
        tests = shown.get(int(row["row"]), [])
        mark = f"{len(tests)} passing" if tests else "none"
        terminalreporter.write_line(f"{row['row']:>3} {row['source']}  {mark:<11} {row['what']}")
    terminalreporter.write_line(f"{sum(int(r['row']) in shown for r in rows)} of {len(rows)} rows have a passing test")


def pytest_collection_modifyitems(items):
    for item in items:
        for mark in item.iter_markers("row"):
            if not mark.args or any(not isinstance(n, int) or not 1 <= n <= 150 for n in mark.args):
                raise pytest.UsageError(f"{item.nodeid}: rows go from 1 to 150, not {mark.args}")


@pytest.fixture(scope="session")
def lite0():
    return seewhy.load("lite0")


@pytest.fixture(scope="session")
def shipped():
    """The shipped pictures: name -> file."""
    return pictures()
