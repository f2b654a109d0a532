"""The HTML report: self-contained, escaped, with working controls; partly tested in a browser."""

import base64
import hashlib
import io
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.networks import network_for, random_input, small_classifier
from tests.pages import HOSTILE, Page
from torch import nn

import seewhy
from seewhy.visualization.report import COLORMAP_CHOICES


def pixels(source):
    head, data = source.split(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        return np.asarray(picture)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 54, 3))
    return seewhy.wrap(net, labels=["ant", "bee", "cat"], prepare=seewhy.Preprocessing((6, 9), (0.5,) * 3, (0.25,) * 3))


@pytest.fixture(scope="module")
def x():
    return torch.rand(2, 3, 6, 9, generator=torch.Generator().manual_seed(1)) * 4 - 2


@pytest.fixture(scope="module")
def found(model, x):
    whole = seewhy.explain(model, x, ["gradient", "gradcam"], target=[0, 2])
    signed = seewhy.explain(model, x, "integrated_gradients", target=[0, 2], steps=3).filtered("channel_sum")
    return [*whole, signed, seewhy.explain(model, x, "smoothgrad", target=[0, 2], samples=4)]


@pytest.fixture(scope="module")
def text(found, model, x, tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "r.html"
    seewhy.report(found, file, prediction=seewhy.predict(model, x, top=2), names=["first.png", "second.png"])
    return file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_report_loads_nothing_from_elsewhere(text, page):
    for tag, attributes in page.elements:
        for key, value in attributes.items():
            if key in {"src", "href", "srcset", "action", "data", "poster", "background"}:
                assert value.startswith("data:image/png;base64,"), (tag, key)
    assert not re.search(r"https?:|@import|url\((?!#)|//[a-z]+\.", re.sub(r"base64,[\w+/=]+", "", text))
    assert not page.all("link")
    assert not page.all("base")


def test_content_security_policy(text, page):
    """The policy allows only the script and the style with the given hashes, and embedded pictures."""
    (meta,) = [a for a in page.all("meta") if "http-equiv" in a]
    assert meta["http-equiv"] == "Content-Security-Policy"
    policy = dict(part.strip().split(" ", 1) for part in meta["content"].split(";"))

    def digest(tag):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        return "sha256-" + base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()

    assert policy == {
        "default-src": "'none'", "img-src": "data:", "style-src": f"'{digest('style')}'",
        "script-src": f"'{digest('script')}'", "base-uri": "'none'", "form-action": "'none'",
    }  # fmt: skip
    assert not any(key.startswith("on") or key == "style" for _, a in page.elements for key in a)
    assert text.index("Content-Security-Policy") < text.index("<style>") < text.index("<script>")


def test_report_pictures_of_inputs_and_maps(found, page, x):
    stacks = page.all("img")
    inputs = [pixels(a["src"]) for a in stacks if a.get("alt") == "the input"]
    assert len(inputs) == 2
    for picture, one in zip(inputs, x, strict=True):
        expected = ((one * 0.25 + 0.5).clamp(0, 1) * 255).round().byte().movedim(0, -1).numpy()
        assert np.array_equal(picture, expected)
    drawn = page.all("img", **{"class": "map"})
    assert len(drawn) == 2 * 2 * 4
    order = [(n, k, e) for n in range(2) for k in range(2) for e in found]
    for attributes, (n, k, e) in zip(drawn, order, strict=True):
        heat = e.maps[n, k].double().numpy()
        signed = bool(e.filters)
        assert attributes["class"] == f"map {'signed' if signed else 'unsigned'}"
        end = np.percentile(abs(heat) if signed else heat, 99.5)
        low = -end if signed else heat.min()
        gray = ((heat - low) / ((end - low) or 1)).clip(0, 1) * 255
        assert np.abs(pixels(attributes["src"]) - gray).max() <= 0.5 + 1e-9
        assert e.labels[n][k] in attributes["alt"]


def test_report_texts(found, page, x, model):
    words = page.words
    best = seewhy.predict(model, x, top=2)
    for name, rows in zip(["first.png", "second.png"], best, strict=True):
        assert name in words
        for label, index, probability in rows:
            assert f"{label} {index} {probability:.5g}" in words
    for e in found:
        first_line = " ".join(e.description.split("\n\n")[0].split())
        assert first_line in words, e.method
        assert e.method in words
        for name, version in e.versions.items():
            assert f"{name} {version}" in words
    assert "rule=" in words
    assert "feature layer 1: " in words
    assert found[1].layer_reason in words
    assert f"{float(found[2].convergence_delta[0, 1]):+.3g}" in words
    error = found[3].stderr[0, 0].flatten().median() / found[3].values[0, 0].abs().max()
    assert f"standard error: {float(error):.2g} of the largest absolute value" in words
    assert "channel_sum" in words
    assert "seed 0" in words
    assert "score logit" in words
    assert "NOT CHECKED" not in words


@pytest.mark.row(90)
@pytest.mark.parametrize("name", seewhy.METHODS)
def test_report_contains_the_description_of_every_method(name, tmp_path):
    e = seewhy.explain(network_for(name), random_input(1, 3, 6, 9), name, **seewhy.METHODS[name].quick_options)
    e.save(tmp_path / "one.html")
    words = Page((tmp_path / "one.html").read_text(encoding="utf-8")).words
    assert " ".join(seewhy.METHODS[name].description.split()) in words


@pytest.fixture(scope="module")
def checked():
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    model = seewhy.wrap(small_classifier(2), labels=["ant", "bee", "cat", "dog"])
    return model, x, seewhy.check(model, x, ["gradient", "gradcam"], target=2)


def test_report_and_sheet_show_verdicts(checked, tmp_path):
    model, x, evidence = checked
    e = seewhy.explain(model, x[:1], ["gradient", "gradcam"], target=2)
    others = [
        e[0].filtered("positive"),
        seewhy.explain(model, x[:1], "gradient", target=2, score="margin"),
        seewhy.explain(model, x[:1], "occlusion", target=2),
        seewhy.explain(model, x[:1], "gradcam", target=2, feature_layer="0"),
    ]
    seewhy.report([*e, *others], tmp_path / "r.html", evidence=evidence)
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    words = page.words
    verdicts = [a["class"].removeprefix("verdict ") for a in page.all("span", **{"class": "verdict"})]
    expected = [evidence[name].verdict.lower() for name in ("gradient", "gradcam")] + ["not-checked"] * 4
    assert verdicts[:6] == expected
    assert [verdict.upper() for verdict in verdicts[6:]] == [
        one.verdict for one in [*evidence.methods.values(), *evidence.controls.values()]
    ]
    for text in (
        "the map was checked without the filters positive",
        "the method was checked with different score",
        "only gradient, gradcam were checked",
        "checked with different feature_layer",
    ):
        assert text in words
    for name in evidence.methods:
        assert evidence[name].reason in words
    assert all(note in words for note in evidence.notes)
    from seewhy.visualization import figure

    badges = [[t.get_text() for t in axis.texts] for axis in figure([*e, others[2]], evidence=evidence).axes]
    assert badges == [[], [evidence["gradient"].verdict], [evidence["gradcam"].verdict], ["NOT CHECKED"]]


def test_report_rejects_evidence_of_another_network(checked, found, tmp_path):
    _, _, evidence = checked
    with pytest.raises(seewhy.OptionError, match=r"run seewhy\.check on the network that is explained"):
        seewhy.report(found, tmp_path / "r.html", evidence=evidence)
    with pytest.raises(seewhy.OptionError, match=r"run seewhy\.check on the network that is explained"):
        found[0].show(evidence=evidence)
    assert not list(tmp_path.iterdir())


def test_records_write_reports(checked, tmp_path):
    model, x, evidence = checked
    comparison = seewhy.compare(model, x, ["gradient", "gradcam"])
    evidence.save(tmp_path / "a.html")
    assert evidence.report(tmp_path / "b.html") == tmp_path / "b.html"
    comparison.save(tmp_path / "c.HTML", evidence=evidence)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    words = Page((tmp_path / "c.HTML").read_text(encoding="utf-8")).words
    assert f"{comparison.agreement[0, 1, 0]:.3g} [" in words
    assert "Agreement between methods" in words
    assert "T1 top layer" in Page((tmp_path / "a.html").read_text(encoding="utf-8")).words


@pytest.mark.parametrize("shape", [(2, 3, 12), (1, 5), (1, 1, 7, 6, 9)])
def test_report_of_sequences_features_and_volumes(shape, tmp_path):
    torch.manual_seed(0)
    kind = {3: nn.Conv1d, 5: nn.Conv3d}.get(len(shape))
    net = nn.Linear(shape[1], 3)
    if kind:
        net = nn.Sequential(kind(shape[1], 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    x = torch.randn(*shape)
    net(x)
    methods = ["gradient", "gradcam"] if kind else ["gradient", "input_x_gradient"]
    found = seewhy.explain(net, x, methods, upsample="none" if len(shape) == 3 else "linear")
    seewhy.report(found, tmp_path / "r.html")
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    sheets = [pixels(a["src"]) for a in page.all("img", **{"class": "sheet"})]
    assert len(sheets) == shape[0]
    assert all(sheet.std() > 5 for sheet in sheets)
    assert not page.all("input")


def test_report_of_maps_of_several_sizes(x, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    found = seewhy.explain(net, x, ["gradient", "gradcam"], upsample="none")
    seewhy.report(found, tmp_path / "r.html", names=["a", "b"])
    shapes = [pixels(a["src"]).shape for a in Page((tmp_path / "r.html").read_text()).all("img", **{"class": "map"})]
    assert shapes == [(6, 9), (2, 4)] * 2


def test_report_is_reproducible(found, tmp_path):
    for name in "ab":
        seewhy.report(found, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_report_rejects_invalid_arguments(found, model, x, tmp_path):
    file = tmp_path / "r.html"
    for given, options, text in (
        ([], {}, "nothing to report"),
        (found, {"names": ["a"]}, "1 names for 2 inputs"),
        (found, {"prediction": seewhy.predict(model, x[:1])}, "a prediction for 1 inputs, but 2"),
        (found, {"percentile": 0}, "percentile=0"),
    ):
        with pytest.raises(seewhy.OptionError, match=text):
            seewhy.report(given, file, **options)
    assert not file.exists()


# --- in a browser


CHROMIUM = shutil.which("chromium")
in_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="Debian's chromium is not installed (apt-get install chromium)"
)


def browse(file, *arguments):
    folder = file.parent / "profile"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", *arguments]
    return subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout


@in_browser
def test_hostile_texts_are_escaped_in_the_report(found, tmp_path):
    """All texts that a user, a file or a network can choose."""
    hostile = HOSTILE[0] + HOSTILE[1]
    labels = ((HOSTILE[0], HOSTILE[1]), (HOSTILE[2], HOSTILE[4]))
    e = replace(
        found[1], labels=labels, title=HOSTILE[5], notes=(hostile, *HOSTILE), description=hostile + "\n\n" + HOSTILE[2],
        options={hostile: hostile}, filters=(hostile,), model=hostile, feature_layer=hostile, layer_reason=hostile,
        reduction_layer=hostile, method=hostile, score=hostile, versions={hostile: hostile}, upsample=hostile,
    )  # fmt: skip
    best = seewhy.Prediction(
        torch.tensor([[0, 1], [1, 2]]), torch.tensor([[0.6, 0.4], [0.7, 0.3]]), labels, output=None
    )
    file = seewhy.report(e, tmp_path / "r.html", prediction=best, names=[HOSTILE[6], HOSTILE[7]], title=hostile)
    page = Page(browse(file, "--dump-dom"))
    visible = " ".join("".join(page.text).split())
    for one in (*HOSTILE[:6], *HOSTILE[6].splitlines()):
        assert " ".join(one.split()) in visible, one
    assert "\\udcff.png" in visible
    assert len(page.all("script")) == 1
    assert not page.all("iframe")
    assert not page.all("b")
    assert {a["src"][:22] for a in page.all("img")} == {"data:image/png;base64,"}
    assert not any(key.startswith("on") for _, a in page.elements for key in a)
    title = page.elements.index(("title", {}))
    assert page.elements[title + 1][0] == "style"
    assert " ".join(hostile.split()) in visible  # the title is unchanged


PROBE = """
const violations = [];
window.addEventListener("securitypolicyviolation", (e) => violations.push(e.violatedDirective));
const move = (id, value, kind) => {
  const e = document.getElementById(id); e.value = value; e.dispatchEvent(new Event(kind));
};
const ones = (selector) => document.querySelector(selector).getAttribute("tableValues").split(" ")
  .filter((v) => v === "1").length;
const state = () => ({
  opacity: getComputedStyle(document.querySelector(".map")).opacity,
  unsigned: ones(".unsigned-mask"),
  signed: ones(".signed-mask"),
  red: document.querySelector("#unsigned feFuncR").getAttribute("tableValues"),
  threshold: document.getElementById("threshold-value").textContent,
});
const before = state();
move("opacity", 25, "input"); move("threshold", 75, "input"); move("colormap", "white to black", "change");
const after = state();
const late = document.createElement("script"); late.textContent = "document.title = 'late'"; document.body.append(late);
const img = new Image(); img.src = "http://127.0.0.1:9/x.png";
setTimeout(() => { document.body.dataset.probe = JSON.stringify({ before, after, violations }); }, 300);
"""


@in_browser
def test_sliders_and_content_security_policy_in_the_browser(text, tmp_path):
    """A second script, allowed by its hash, moves the sliders; what it adds to the page is blocked."""
    import html
    import json

    digest = base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()
    probed = text.replace("script-src '", f"script-src 'sha256-{digest}' '").replace(
        "</body>", f"<script>{PROBE}</script></body>"
    )
    (tmp_path / "p.html").write_text(probed, encoding="utf-8")
    dom = browse(tmp_path / "p.html", "--dump-dom", "--virtual-time-budget=2000")
    probe = json.loads(html.unescape(re.search(r'data-probe="(.*?)"', dom)[1]))
    assert probe["before"]["opacity"] == "0.6"
    assert probe["after"]["opacity"] == "0.25"
    assert probe["before"]["unsigned"] == probe["before"]["signed"] == 2
    assert probe["after"]["unsigned"] == 64  # i / 255 from 0.75 on: 192 to 255
    assert probe["after"]["signed"] == 64  # 0 to 31 and 224 to 255
    assert probe["after"]["threshold"] == "75 %"
    assert probe["before"]["red"] != probe["after"]["red"]
    assert probe["after"]["red"].startswith("1 0.996")
    assert set(probe["violations"]) == {"script-src-elem", "img-src"}
    assert "<title>Explanations</title>" in dom


def screenshot(text, folder, **replacements):
    """Pixels [H, W, 3] of the top left of the page, after replacing parts of its text."""
    folder.mkdir()
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "p.html").write_text(text, encoding="utf-8")
    browse(
        folder / "p.html", f"--screenshot={folder / 'p.png'}", "--window-size=1280,900", "--force-device-scale-factor=1"
    )
    with Image.open(folder / "p.png") as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


@in_browser
def test_colors_in_the_browser_match_the_colormap(model, tmp_path):
    """A map at full opacity, without and with a threshold, comparison with the colormap at every position."""
    torch.manual_seed(5)
    x = torch.rand(1, 3, 6, 9)
    e = seewhy.explain(model, x, "gradient", target=0)
    ramp = torch.linspace(0, 1, 54).reshape(1, 1, 6, 9)
    e = replace(e, maps=ramp, scaled=ramp)
    text = seewhy.report(e, tmp_path / "r.html", percentile=100).read_text(encoding="utf-8")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]

    def replacements(opacity, mask):
        new_style = style.replace("--opacity: 0.6", f"--opacity: {opacity}").replace(
            "figure {", "figure { outline: 5px solid #f0f;"
        )
        old, new = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in (style, new_style))
        return {style: new_style, old: new, 'class="unsigned-mask" type="discrete" tableValues="1 1"':
                f'class="unsigned-mask" type="discrete" tableValues="{mask}"'}  # fmt: skip

    def second_figure(picture):
        """The colors at the positions of the map, inside the last marked outline."""
        marked = (picture == [255, 0, 255]).all(2)
        columns = np.flatnonzero(marked.sum(0) > 100)
        starts = [c for c in columns if c - 1 not in columns]
        left, top = starts[-2] + 5, np.flatnonzero(marked[:, columns[-1]])[0] + 5
        high = 224 * 6 / 9
        return [[picture[int(top + (i + 0.5) * high / 6), int(left + (j + 0.5) * 224 / 9)] for j in range(9)]
                for i in range(6)]  # fmt: skip

    full = np.array(second_figure(screenshot(text, tmp_path / "a", **replacements(1, "1 1"))))
    expected = seewhy.visualization.apply_colormap(ramp[0, 0], COLORMAP_CHOICES["viridis"]).astype(int)
    assert np.abs(full - expected).max() <= 3
    half = np.array(second_figure(screenshot(text, tmp_path / "b", **replacements(1, "0 1"))))
    shown = ramp[0, 0].numpy() >= 0.5
    assert np.abs(half - expected)[shown].max() <= 3
    picture = ((x[0] * 0.25 + 0.5) * 255).round().movedim(0, -1).numpy()
    assert np.abs(half - picture)[~shown].max() <= 3
