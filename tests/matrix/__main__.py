"""Every network × every method: `python -m tests.matrix`; with names, only those networks or methods.

What is found is kept in benchmarks/results/matrix.csv, and shown in docs/matrix.md by docs/generate.py.
"""

import csv
import sys
import time
import warnings
from pathlib import Path

import seewhy
from tests.matrix.cells import run_method, warm_up
from tests.matrix.networks import NETWORKS, build

RESULTS_FILE = Path(__file__).parents[2] / "benchmarks" / "results" / "matrix.csv"


def read_results():
    """(network, method) -> (kind, word, detail)."""
    if not RESULTS_FILE.exists():
        return {}
    with RESULTS_FILE.open(encoding="utf-8", newline="") as file:
        return {(r["network"], r["method"]): (r["kind"], r["word"], r["detail"]) for r in csv.DictReader(file)}


def write_results(cells):
    """In the order of both tables; what is in neither any more is dropped."""
    with RESULTS_FILE.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["network", "kind", "method", "word", "detail"])
        for name in NETWORKS:
            for method in seewhy.METHODS:
                if (name, method) in cells:
                    kind, word, detail = cells[name, method]
                    rows.writerow([name, kind, method, word, detail])


def main(asked):
    warnings.filterwarnings("ignore")
    unknown = set(asked) - set(NETWORKS) - set(seewhy.METHODS)
    if unknown:
        raise SystemExit(f"no network and no method: {', '.join(sorted(unknown))}. Networks: {', '.join(NETWORKS)}")
    networks = [n for n in asked if n in NETWORKS] or list(NETWORKS)
    methods = [m for m in asked if m in seewhy.METHODS] or list(seewhy.METHODS)
    cells, wrong = read_results(), 0
    for name in networks:
        began, model = time.perf_counter(), build(NETWORKS[name])
        warm_up(model, NETWORKS[name])
        for method in methods:
            cell = run_method(model, NETWORKS[name], method)
            cells[name, method] = (NETWORKS[name].kind, *cell)
            if cell.outcome == "wrong":
                wrong += 1
                print(f"{name}, {method}: {cell.detail}", file=sys.stderr)
        print(f"{name}: {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
        write_results(cells)
    return wrong


if __name__ == "__main__":
    raise SystemExit(bool(main(sys.argv[1:])))
