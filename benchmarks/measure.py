"""Interleaved medians and peak memory."""

import gc
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"


class Timing(NamedTuple):
    """Seconds of one call: the median, and the quartiles around it."""

    median: float
    low: float
    high: float


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, Timing], dict[str, Any]]:
    """Each call once to warm up, then A B C A B C …, so that a slow minute hits all of them; and what each gave."""
    given = {name: call() for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    quartiles = {name: statistics.quantiles(s, n=4) if len(s) > 1 else s * 3 for name, s in seconds.items()}
    timings = {
        name: Timing(statistics.median(s), quartiles[name][0], quartiles[name][2]) for name, s in seconds.items()
    }
    return timings, given


def peak(call: Callable[[], object]) -> float:
    """Megabytes that a call adds to the resident memory at its highest (Linux; else NaN)."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        call()
        return (_status("VmHWM") - before) / 1e3
    except OSError:
        return float("nan")


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return float(line.split()[1])
    return float("nan")


def setting(threads: int) -> str:
    """Where and with what a table was measured."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    names = ("torch", "captum", "timm", "seewhy")
    return f"{model}, {threads} threads; Python {platform.python_version()}, " + ", ".join(
        f"{name} {version(name)}" for name in names
    )


def table(headers: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
