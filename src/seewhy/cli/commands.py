"""What the command can do."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from seewhy.errors import unknown
from seewhy.maps.filters import FILTERS, check_steps
from seewhy.methods import DEFAULT, METHODS
from seewhy.methods.method import Option

from .sheets import sheet, writable

if TYPE_CHECKING:
    from seewhy.types import Explanation

app = typer.Typer(
    name="seewhy",
    help="Show why a neural network decided what it did, and how far the picture can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Inputs = Annotated[list[str], typer.Argument(help="Pictures.", show_default=False)]
Network = Annotated[
    str,
    typer.Option(
        "--model",
        help="lite0 is embedded; timm:NAME@FILE, torchvision:NAME@FILE, "
        "hf:FOLDER, keras:FILE, onnx:FILE, pt2:FILE, ts:FILE, py:package.module:factory.",
    ),
]
Code = Annotated[bool, typer.Option("--allow-code", help="Allow a model py:…, which runs your code.")]
Download = Annotated[bool, typer.Option("--allow-download", help="Allow published weights to be fetched.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line instead of text.")]
Crop = Annotated[bool, typer.Option("--crop", help="Cut out the centre, as the network's card says.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for the figures.", show_default=True)]
Report = Annotated[Path | None, typer.Option("--report", help="Write one HTML file too, with all pictures inside.")]


@app.command()
def demo(out: Out = Path("seewhy-demo")) -> None:
    """Explain three shipped pictures with the embedded network, offline."""
    from .demo import run

    run(out)


@app.command()
def predict(
    inputs: Inputs,
    model: Network = "lite0",
    code: Code = False,
    download: Download = False,
    top: Annotated[int, typer.Option(min=1, help="How many classes.")] = 3,
    crop: Crop = False,
    as_json: Json = False,
) -> None:
    """Print the best classes of each picture."""
    import seewhy
    from seewhy.pictures.table import prediction

    network = seewhy.load(model, allow_code=code, allow_download=download)
    found = seewhy.predict(network, network.prepare(inputs, crop="card" if crop else None), top=top)
    if not as_json:
        print(prediction(found, [Path(name).name for name in inputs]))
    else:
        for name, best in zip(inputs, found, strict=True):
            top_rows = [dict(zip(("label", "index", "probability"), b, strict=True)) for b in best]
            print(json.dumps({"input": name, "top": top_rows}))


@app.command()
def methods(as_json: Json = False) -> None:
    """List the methods."""
    from seewhy.pictures.table import table

    rows = [(name, m.summary, m.paper, ", ".join(m.options)) for name, m in METHODS.items()]
    if as_json:
        for row in rows:
            print(json.dumps(dict(zip(("method", "what", "paper", "options"), row, strict=True))))
    else:
        print(table(("method", "what", "paper", "options"), rows))


@app.command()
def layers(model: Network = "lite0", code: Code = False, download: Download = False, as_json: Json = False) -> None:
    """List what runs inside a network, in order."""
    import seewhy

    found = seewhy.layers(seewhy.load(model, allow_code=code, allow_download=download))
    if not as_json:
        print(found)
    for row in found if as_json else ():
        print(json.dumps(row._asdict()))


@app.command()
def activations(
    inputs: Inputs,
    layer: Annotated[str, typer.Option(help="Its name, see 'seewhy layers'.")],
    model: Network = "lite0",
    code: Code = False,
    download: Download = False,
    channels: Annotated[int, typer.Option(min=1, help="How many of them the montage shows.")] = 12,
    out: Out = Path("seewhy-out"),
    as_json: Json = False,
) -> None:
    """Show what a layer gives: a montage of channels, and the strongest beside the picture."""
    import seewhy

    folder = writable(out)
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
            print(f"{name}: {found.layer} gives {shape}; channel {channel} is the strongest, {value:.4g}")
            print(*files, sep="\n")


@app.command()
def checks(as_json: Json = False) -> None:
    """List what 'seewhy check' asks of a map."""
    from seewhy.evidence import CHECKS
    from seewhy.pictures.table import table

    heads = ("check", "question", "passes", "fails", "paper")
    rows = [
        (f"{name} {c.title}", c.question, c.passes or f"{c.better} is better", c.fails, c.paper)
        for name, c in CHECKS.items()
    ]
    for row in rows if as_json else ():
        print(json.dumps(dict(zip(heads, row, strict=True))))
    if not as_json:
        print(table(heads, rows))


@app.command()
def check(
    inputs: Inputs,
    method: Annotated[list[str], typer.Option(help="Repeat it for several; see 'seewhy methods'.")],
    model: Network = "lite0",
    code: Code = False,
    download: Download = False,
    target: Annotated[str | None, typer.Option(help="Class index or label (default: the best of each).")] = None,
    level: Annotated[Literal["quick", "full"], typer.Option(help="16 inputs and 4 draws, or 64 and 8.")] = "quick",
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    out: Out = Path("seewhy-out"),
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Say whether the maps of some methods depend on what the network learnt; write the numbers and a figure."""
    import seewhy

    for name in method:
        if name not in METHODS:
            raise unknown("method", name, METHODS)
    folder = writable(out)
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
    channel: Annotated[list[int] | None, typer.Option(help="Which one, repeated for several.")] = None,
    layer: Annotated[str | None, typer.Option(
        help="Its name, see 'seewhy layers' (default: the network's output).")] = None,
    best_of: Annotated[str | None, typer.Option(
        help="Instead of --channel: the three best classes of this picture.")] = None,
    model: Network = "lite0",
    code: Code = False,
    download: Download = False,
    iterations: Annotated[int, typer.Option(min=1, help="Steps a level.")] = 10,
    levels: Annotated[int, typer.Option(min=1, help="How many sizes, coarse to fine.")] = 3,
    scale: Annotated[float, typer.Option(help="Each level is larger by this factor.")] = 1.4,
    detailed: Annotated[int | None, typer.Option(
        min=1, help="Add a second row, one level more and this many iterations; 100 takes minutes.")] = None,
    initial: Annotated[str | None, typer.Option(help="A picture to start from (default: noise).")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Pixels a side (default: as the network takes it).")] = None,
    parametrisation: Annotated[Literal["fourier", "pixels"], typer.Option(
        help="Steps spread as in photographs, or each value on its own.")] = "fourier",
    step: Annotated[float, typer.Option(help="Change of a level's first step, as a share of black to white.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    out: Out = Path("seewhy-out"),
    as_json: Json = False,
) -> None:  # fmt: skip
    """Make pictures that please channels of a layer; write each, and one sheet of all."""
    from .dreams import run

    kinds: dict[str, dict[str, Any]] = {"": {"iterations": iterations, "pyramid_levels": levels}}
    if detailed is not None:
        kinds["(High Resolution)"] = {"iterations": detailed, "pyramid_levels": levels + 1}
    fixed = {"pyramid_scale": scale, "initial": initial, "size": size, "parametrisation": parametrisation}
    for line in run(model, code, download, layer, channel, best_of, kinds, {**fixed, "step": step, "seed": seed}, out):
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
    """Explain pictures; write one sheet each, the input first."""
    import seewhy
    from seewhy.pictures.sample import sample

    for name in method:
        if name not in METHODS:
            raise unknown("method", name, METHODS)
    if filters:
        check_steps(tuple(filters))
    given = {key: _number(value) for key, value in options.items() if value is not None}
    layer = feature_layer[0] if feature_layer and len(feature_layer) == 1 else feature_layer or None
    folder = writable(out)
    network = seewhy.load(model, allow_code=code, allow_download=download)
    x = network.prepare(inputs, crop="card" if crop else None)
    found = seewhy.explain(
        network, x, method, target=_targets(target), score=score, feature_layer=layer,
        reduction_layer=reduction_layer, upsample=upsample, batch_size=batch_size or "auto", device=device, seed=seed,
        **given,
    )  # fmt: skip
    if filters:
        found = [e.filtered(*filters) for e in found]
    for n, (name, own) in enumerate(zip(inputs, _names(inputs), strict=True)):
        file = folder / own
        sheet([sample(e, n) for e in found], file)
        _tell(name, file, [sample(e, n) for e in found], as_json)
    if report is not None:
        seewhy.report(found, report, prediction=seewhy.predict(network, x), names=inputs)
        if not as_json:
            print(report)
    for reason in dict.fromkeys(e.layer_reason for e in found if e.layer_reason not in (None, "given")):
        print(f"layer: {reason}", file=sys.stderr)
    for e in found:
        if e.evaluations.forward > len(inputs):  # more than the prediction itself
            spent = f"{e.evaluations.forward} forward, {e.evaluations.backward} backward passes"
            print(f"{e.method}: {spent}", file=sys.stderr)
    for note in dict.fromkeys(note for e in found for note in e.notes):
        print(f"note: {note}", file=sys.stderr)


def _tell(name: str, file: Path, found: list[Explanation], as_json: bool) -> None:
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
            "completeness": None if e.completeness is None else e.completeness[0].tolist(), "notes": e.notes,
        }))  # fmt: skip


def _names(inputs: list[str]) -> list[str]:
    """A file name for each input's sheet; no two are the same."""
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
    """The fixed options of `explain`, and each option of each method of the table, once."""
    fixed: dict[str, tuple[Any, Any]] = {
        "inputs": (inspect.Parameter.empty, Inputs),
        "model": ("lite0", Network),
        "code": (False, Code),
        "download": (False, Download),
        "method": ([DEFAULT], Annotated[list[str], typer.Option(help="Repeat it for several; see 'seewhy methods'.")]),
        "target": (None, Annotated[list[str] | None, typer.Option(
            help="Class index or label, repeated for several, or top3, or all (default: the best class).")]),
        "score": ("logit", Annotated[Literal["logit", "probability", "log_probability", "margin"], typer.Option(
            help="What of a class is explained.")]),
        "feature_layer": (None, Annotated[list[str] | None, typer.Option(
            help="The layer whose activations are read (default: chosen, with the reason), see 'seewhy layers'; "
                 "repeat it to average the maps of several.")]),
        "reduction_layer": (None, Annotated[str | None, typer.Option(
            help="The layer whose output is explained (default: the network's output).")]),
        "upsample": ("bicubic", Annotated[Literal["bicubic", "linear", "nearest", "none"], typer.Option(
            help="How a map is brought to the picture's size.")]),
        "crop": (False, Crop),
        "batch_size": (None, Annotated[int | None, typer.Option(min=1, help="Samples a pass (default: auto).")]),
        "device": ("auto", Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]),
        "seed": (0, Annotated[int, typer.Option(help="Of methods that draw.")]),
        "filters": (None, Annotated[list[str] | None, typer.Option(
            "--filter", help=f"What is done to the maps, repeated in this order: {', '.join(FILTERS)}; "
                             "with their numbers smooth=2, clip=99, top=0.1.")]),
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
    low = option.between.low if option.between.low > float("-inf") else None
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
