"""Timing of several calls in turn, and peak memory of a call."""

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
    """Seconds of one call: the median and the quartiles."""

    median: float
    low: float
    high: float


def time_interleaved(calls: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, Timing], dict[str, Any]]:
    """Time several calls in turn (A B C A B C ...), so that other load on the machine affects all of them alike.

    Args:
        calls: name -> function; each is called once as a warm-up, and then once per round.
        rounds: number of timed calls of each function.

    Returns:
        The timing of each function, and the result of its warm-up call.
    """
    results = {name: call() for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    quartiles = {name: statistics.quantiles(s, n=4) if len(s) > 1 else s * 3 for name, s in seconds.items()}
    timings = {
        name: Timing(statistics.median(s), quartiles[name][0], quartiles[name][2]) for name, s in seconds.items()
    }
    return timings, results


def peak_memory(call: Callable[[], object]) -> float:
    """Increase of the peak resident memory during a call, in MB (on Linux; otherwise NaN)."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _process_status("VmRSS")
        call()
        return (_process_status("VmHWM") - before) / 1e3
    except OSError:
        return float("nan")


def _process_status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return float(line.split()[1])
    return float("nan")


def environment(threads: int) -> str:
    """Processor, number of threads and versions of the packages, for the first line of a results file."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    names = ("torch", "captum", "timm", "seewhy")
    return f"{model}, {threads} threads; Python {platform.python_version()}, " + ", ".join(
        f"{name} {version(name)}" for name in names
    )


def markdown_table(headers: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
