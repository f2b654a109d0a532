"""Run every method on every network: `python -m tests.matrix [NETWORK or METHOD ...]`.

`python -m tests.matrix --new` runs only methods and networks without results. The results are stored in
benchmarks/results/matrix.csv; docs/generate.py writes them to docs/matrix.md.
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
    """Stored results: (network, method) -> (kind of the network, outcome, detail)."""
    if not RESULTS_FILE.exists():
        return {}
    with RESULTS_FILE.open(encoding="utf-8", newline="") as file:
        return {(r["network"], r["method"]): (r["kind"], r["word"], r["detail"]) for r in csv.DictReader(file)}


def write_results(cells):
    """Store the results in the order of `NETWORKS` and `METHODS`; rows of others are dropped."""
    with RESULTS_FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["network", "kind", "method", "word", "detail"])
        for name in NETWORKS:
            for method in seewhy.METHODS:
                if (name, method) in cells:
                    kind, outcome, detail = cells[name, method]
                    writer.writerow([name, kind, method, outcome, detail])


def main(names):
    warnings.filterwarnings("ignore")
    cells, wrong = read_results(), 0
    only_new, names = "--new" in names, [name for name in names if name != "--new"]
    unknown = set(names) - set(NETWORKS) - set(seewhy.METHODS)
    if unknown:
        raise SystemExit(f"unknown network or method: {', '.join(sorted(unknown))}. Networks: {', '.join(NETWORKS)}")
    networks = [n for n in names if n in NETWORKS] or list(NETWORKS)
    methods = [m for m in names if m in seewhy.METHODS] or list(seewhy.METHODS)
    for name in networks:
        pending = [m for m in methods if not (only_new and (name, m) in cells)]
        if not pending:
            continue
        start, model = time.perf_counter(), build(NETWORKS[name])
        warm_up(model, NETWORKS[name])
        for method in pending:
            cell = run_method(model, NETWORKS[name], method)
            cells[name, method] = (NETWORKS[name].kind, *cell)
            if cell.outcome == "wrong":
                wrong += 1
                print(f"{name}, {method}: {cell.detail}", file=sys.stderr)
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
        write_results(cells)
    write_results(cells)  # drops the rows of methods and networks that no longer exist
    return wrong


if __name__ == "__main__":
    raise SystemExit(bool(main(sys.argv[1:])))
