"""The subcommands of the `seewhy` command. Options of methods are generated from the table of methods."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from seewhy.maps.filters import FILTERS, check_filters
from seewhy.methods import DEFAULT_METHOD, METHODS, canonical_name
from seewhy.methods.method import Option

from .sheet_files import save_sheet, writable_folder

if TYPE_CHECKING:
    from seewhy.results import Explanation

app = typer.Typer(
    name="seewhy",
    help="Show why a neural network decided what it did, and how far the picture can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Inputs = Annotated[list[str], typer.Argument(help="Picture files.", show_default=False)]
Network = Annotated[
    str,
    typer.Option(
        "--model",
        help="lite0 is embedded; timm:NAME@FILE, torchvision:NAME@FILE, "
        "hf:FOLDER, keras:FILE, onnx:FILE, pt2:FILE, ts:FILE, py:package.module:factory.",
    ),
]
Code = Annotated[bool, typer.Option("--allow-code", help="Allow --model py:..., which runs your code.")]
Download = Annotated[bool, typer.Option("--allow-download", help="Allow the download of published weights.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line instead of text.")]
Crop = Annotated[bool, typer.Option("--crop", help="Center crop, as in the network's published preprocessing.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for the figures.", show_default=True)]
Report = Annotated[Path | None, typer.Option("--report", help="Also write one HTML file with all pictures inside.")]


@app.command()
def demo(out: Out = Path("seewhy-demo")) -> None:
    """Explain three shipped pictures with the embedded network, offline."""
    from .demo import run_demo

    run_demo(out)


@app.command()
def predict(
    inputs: Inputs,
    model: Network = "lite0",
    code: Code = False,
    download: Download = False,
    top: Annotated[int | None, typer.Option(min=1, help="Number of classes (default: 3, or all if fewer).")] = None,
    crop: Crop = False,
    as_json: Json = False,
) -> None:
    """Print the best classes of each picture."""
    import seewhy
    from seewhy.visualization.tables import prediction_table

    network = seewhy.load(model, allow_code=code, allow_download=download)
    prediction = seewhy.predict(network, network.prepare(inputs, crop="model" if crop else None), top=top)
    if not as_json:
        print(prediction_table(prediction, [Path(name).name for name in inputs]))
    else:
        for name, best in zip(inputs, prediction, strict=True):
            top_rows = [dict(zip(("label", "index", "probability"), b, strict=True)) for b in best]
            print(json.dumps({"input": name, "top": top_rows}))


@app.command()
def methods(as_json: Json = False) -> None:
    """List the methods."""
    from seewhy.visualization.tables import text_table

    rows = [(name, m.summary, m.paper, ", ".join(m.options)) for name, m in METHODS.items()]
    if as_json:
        for row in rows:
            print(json.dumps(dict(zip(("method", "what", "paper", "options"), row, strict=True))))
    else:
        print(text_table(("method", "what", "paper", "options"), rows))


@app.command()
def layers(model: Network = "lite0", code: Code = False, download: Download = False, as_json: Json = False) -> None:
    """List the layers of a network in order of execution."""
    import seewhy

    table = seewhy.layers(seewhy.load(model, allow_code=code, allow_download=download))
    if not as_json:
        print(table)
    for row in table if as_json else ():
        print(json.dumps(row._asdict()))


@app.command()
def activations(
    inputs: Inputs,
    layer: Annotated[str, typer.Option(help="Name of the layer, see 'seewhy layers'.")],
    model: Network = "lite0",
    code: Code = False,
    download: Download = False,
    channels: Annotated[int, typer.Option(min=1, help="Number of channels in the montage.")] = 12,
    out: Out = Path("seewhy-out"),
    as_json: Json = False,
) -> None:
    """Show the activations of a layer: a montage of channels, and the strongest channel beside the picture."""
    import seewhy

    folder = writable_folder(out)
    network = seewhy.load(model, allow_code=code, allow_download=download)
    found = seewhy.activations(network, network.prepare(inputs), layer)
    tiles = [found.montage(channels, sample=n) for n in range(len(inputs))]
    shape = " × ".join(map(str, found.values.shape[1:]))
    for n, (name, own) in enumerate(zip(inputs, _names(inputs), strict=True)):
        files = [folder / f"{Path(own).stem}-{kind}.png" for kind in ("channels", "strongest")]
        tiles[n].save(files[0])
        one = replace(found, values=found.values[n : n + 1], input=found.input[n : n + 1])
        one.save(files[1])
        channel, value = one.strongest()[0]
        if as_json:
            print(json.dumps({"input": name, "layer": found.layer, "shape": list(found.values.shape[1:]),
                              "strongest": channel, "value": value, "files": [str(f) for f in files]}))  # fmt: skip
        else:
            print(f"{name}: output of {found.layer} is {shape}; channel {channel} has the largest value, {value:.4g}")
            print(*files, sep="\n")


@app.command()
def checks(as_json: Json = False) -> None:
    """List the tests of 'seewhy check' and the metrics of 'seewhy.measure'."""
    from seewhy.evaluation import CHECKS
    from seewhy.visualization.tables import text_table

    headers = ("check", "question", "passes", "fails", "paper")
    rows = [
        (f"{name} {c.title}", c.question, c.passes or f"{c.better} is better", c.fails, c.paper)
        for name, c in CHECKS.items()
    ]
    for row in rows if as_json else ():
        print(json.dumps(dict(zip(headers, row, strict=True))))
    if not as_json:
        print(text_table(headers, rows))


@app.command()
def check(
    inputs: Inputs,
    method: Annotated[
        list[str], typer.Option(help="Name of a method, see 'seewhy methods'; repeat the option for several.")
    ],
    model: Network = "lite0",
    code: Code = False,
    download: Download = False,
    target: Annotated[
        str | None, typer.Option(help="Class index or label (default: the best class of each picture).")
    ] = None,
    level: Annotated[
        Literal["quick", "full"], typer.Option(help="Number of inputs and draws: 16 and 4, or 64 and 8.")
    ] = "quick",
    seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0,
    out: Out = Path("seewhy-out"),
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Test whether the maps of methods depend on what the network learned; write the numbers and a figure."""
    import seewhy

    for name in method:
        canonical_name(name)
    folder = writable_folder(out)
    network = seewhy.load(model, allow_code=code, allow_download=download)
    aim = _targets([target] if target else None)
    found = seewhy.check(network, network.prepare(inputs), method, target=aim, level=level, seed=seed)
    files = [folder / "check.json", folder / "check.png"]
    for file in files:
        found.save(file)
    if report is not None:
        files.append(found.report(report))
    if as_json:
        for name, one in found.methods.items():
            print(json.dumps({"method": name, "verdict": one.verdict, "reason": one.reason,
                              "files": [str(f) for f in files]}))  # fmt: skip
    else:
        print(found)
        print(*files, sep="\n")


@app.command()
def dream(
    channel: Annotated[list[int] | None, typer.Option(
        help="Channel of the layer; repeat the option for several.")] = None,
    layer: Annotated[str | None, typer.Option(
        help="Name of the layer, see 'seewhy layers' (default: the network's output).")] = None,
    best_of: Annotated[str | None, typer.Option(
        help="Instead of --channel: the three best classes of this picture.")] = None,
    model: Network = "lite0",
    code: Code = False,
    download: Download = False,
    iterations: Annotated[int, typer.Option(min=1, help="Gradient steps per pyramid level.")] = 10,
    levels: Annotated[int, typer.Option(min=1, help="Number of pyramid levels, coarse to fine.")] = 3,
    scale: Annotated[float, typer.Option(help="Size ratio of successive levels.")] = 1.4,
    detailed: Annotated[int | None, typer.Option(
        min=1, help="Add a second row with one more level and this number of iterations; 100 takes minutes.")] = None,
    initial: Annotated[str | None, typer.Option(help="Picture to start from (default: noise).")] = None,
    size: Annotated[int | None, typer.Option(
        min=1, help="Pixels per side (default: the network's input size).")] = None,
    parametrization: Annotated[Literal["fourier", "pixels"], typer.Option(
        help="Fourier: steps have the spectrum of photographs; pixels: each value by itself.")] = "fourier",
    step: Annotated[float, typer.Option(
        help="Length of a level's first step, as a fraction of the range from black to white.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    out: Out = Path("seewhy-out"),
    as_json: Json = False,
) -> None:  # fmt: skip
    """Compute pictures that maximize channels of a layer (deep dream); write each, and one sheet of all."""
    from .dream import dream_lines

    kinds: dict[str, dict[str, Any]] = {"": {"iterations": iterations, "pyramid_levels": levels}}
    if detailed is not None:
        kinds["(High Resolution)"] = {"iterations": detailed, "pyramid_levels": levels + 1}
    fixed = {"pyramid_scale": scale, "initial": initial, "size": size, "parametrization": parametrization}
    for line in dream_lines(
        model, code, download, layer, channel, best_of, kinds, {**fixed, "step": step, "seed": seed}, out
    ):
        if as_json:
            print(json.dumps(line))
        elif "channel" in line:
            print(f"{line['title']}: activation {line['start']:.4g} to {line['end']:.4g}", line["file"], sep="\n")
        else:
            print(line["sheet"])


def explain(
    inputs: list[str],
    model: str,
    code: bool,
    download: bool,
    method: list[str],
    target: list[str] | None,
    score: str,
    feature_layer: list[str] | None,
    reduction_layer: str | None,
    upsample: str,
    crop: bool,
    batch_size: int | None,
    device: str,
    seed: int,
    filters: list[str] | None,
    out: Path,
    report: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Explain pictures; write one sheet per picture, the input first."""
    import seewhy
    from seewhy.visualization.sample import select_sample

    for name in method:
        canonical_name(name)
    if filters:
        check_filters(tuple(filters))
    given = {key: _number(value) for key, value in options.items() if value is not None}
    layer = feature_layer[0] if feature_layer and len(feature_layer) == 1 else feature_layer or None
    folder = writable_folder(out)
    network = seewhy.load(model, allow_code=code, allow_download=download)
    x = network.prepare(inputs, crop="model" if crop else None)
    found: Sequence[Explanation] = seewhy.explain(
        network, x, method, target=_targets(target), score=score, feature_layer=layer,
        reduction_layer=reduction_layer, upsample=upsample, batch_size=batch_size or "auto", device=device, seed=seed,
        **given,
    )  # fmt: skip
    if filters:
        found = [e.filtered(*filters) for e in found]
    for n, (name, own) in enumerate(zip(inputs, _names(inputs), strict=True)):
        file = folder / own
        save_sheet([select_sample(e, n) for e in found], file)
        _print_result(name, file, [select_sample(e, n) for e in found], as_json)
    if report is not None:
        seewhy.report(found, report, prediction=seewhy.predict(network, x), names=inputs)
        if not as_json:
            print(report)
    for reason in dict.fromkeys(e.layer_reason for e in found if e.layer_reason not in (None, "given")):
        print(f"layer: {reason}", file=sys.stderr)
    for e in found:
        if e.evaluations.forward > len(inputs):  # more than the prediction itself
            cost = f"{e.evaluations.forward} forward, {e.evaluations.backward} backward passes"
            print(f"{e.method}: {cost}", file=sys.stderr)
    for note in dict.fromkeys(note for e in found for note in e.notes):
        print(f"note: {note}", file=sys.stderr)


def _print_result(name: str, file: Path, found: list[Explanation], as_json: bool) -> None:
    if not as_json:
        print(file)
        return
    for e in found:
        print(json.dumps({
            "input": name, "sheet": str(file), "method": e.method,
            "feature_layer": e.feature_layer, "reduction_layer": e.reduction_layer,
            "labels": e.labels and e.labels[0], "score": e.score,
            "scores": e.scores[0].tolist(), "options": {k: str(v) for k, v in e.options.items()}, "filters": e.filters,
            "evaluations": e.evaluations._asdict(),
            "convergence_delta": None if e.convergence_delta is None else e.convergence_delta[0].tolist(),
            "notes": e.notes,
        }))  # fmt: skip


def _names(inputs: list[str]) -> list[str]:
    """A distinct file name for each input's sheet."""
    taken: list[str] = []
    wanted = [Path(name).stem for name in inputs]
    for n, stem in enumerate(wanted):
        numbered = (f"{stem}-{i}" for i in count(2))
        free = (name for name in chain([stem], numbered) if name not in taken and name not in wanted[n + 1 :])
        taken.append(stem if stem not in taken else next(free))
    return [f"{name}.png" for name in taken]


def _targets(given: list[str] | None) -> Any:
    if not given:
        return None
    wanted = [int(t) if t.isdecimal() else t for t in given]
    return wanted[0] if len(wanted) == 1 else wanted


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _signature() -> inspect.Signature:
    """The common options of `explain`, then each option of the methods, once."""
    fixed: dict[str, tuple[Any, Any]] = {
        "inputs": (inspect.Parameter.empty, Inputs),
        "model": ("lite0", Network),
        "code": (False, Code),
        "download": (False, Download),
        "method": ([DEFAULT_METHOD], Annotated[list[str], typer.Option(
            help="Name of a method, see 'seewhy methods'; repeat the option for several.")]),
        "target": (None, Annotated[list[str] | None, typer.Option(
            help="Class index or label, or top3, or all; repeat the option for several (default: the best class).")]),
        "score": ("logit", Annotated[Literal["logit", "probability", "log_probability", "margin"], typer.Option(
            help="Which score of the class is explained.")]),
        "feature_layer": (None, Annotated[list[str] | None, typer.Option(
            help="Layer whose activations are used, see 'seewhy layers' (default: chosen, with the reason); "
                 "repeat the option to average the maps of several.")]),
        "reduction_layer": (None, Annotated[str | None, typer.Option(
            help="Layer whose output is explained (default: the network's output).")]),
        "upsample": ("bicubic", Annotated[Literal["bicubic", "linear", "nearest", "none"], typer.Option(
            help="How a map is resampled to the picture's size.")]),
        "crop": (False, Crop),
        "batch_size": (None, Annotated[int | None, typer.Option(
            min=1, help="Samples per forward pass (default: auto).")]),
        "device": ("auto", Annotated[str, typer.Option(help="auto, cpu, cuda (or gpu), cuda:1.")]),
        "seed": (0, Annotated[int, typer.Option(help="Seed of methods with random draws.")]),
        "filters": (None, Annotated[list[str] | None, typer.Option(
            "--filter", help=f"Filter of the maps; repeated filters apply in this order: {', '.join(FILTERS)}; "
                             "with a number: smooth=2, clip=99, top=0.1.")]),
        "out": (Path("seewhy-out"), Out),
        "report": (None, Report),
        "as_json": (False, Json),
    }  # fmt: skip
    users: dict[str, list[str]] = {}
    options: dict[str, Option] = {}
    for name, method in METHODS.items():
        for key, option in method.options.items():
            users.setdefault(key, []).append(name)
            options.setdefault(key, option)
    for key, option in options.items():
        fixed[key] = (None, _annotation(option, ", ".join(users[key])))
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [inspect.Parameter(name, kind, default=default, annotation=hint) for name, (default, hint) in fixed.items()]
    )


def _annotation(option: Option, users: str) -> Any:
    default = "" if option.default is None else f" (default: {option.default})"
    low = option.allowed_range.low if option.allowed_range.low > float("-inf") else None
    details: Any = typer.Option(
        help=option.help + default, rich_help_panel=f"Options of {users}", show_default=False, min=low
    )
    if option.choices:
        return Annotated[Literal[option.choices] | None, details]
    kind = option.kind if option.kind in (int, float, bool) else str
    return Annotated[kind | None, details]


def _command() -> Callable[..., Any]:
    explain.__signature__ = _signature()  # type: ignore[attr-defined]
    app.command()(explain)
    return typer.main.get_command(app)


command: Any = _command()
