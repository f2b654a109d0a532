"""`Model.prepare`: supported pictures are converted without change of appearance, all other sources are rejected."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import seewhy

PREPROCESSING = seewhy.Preprocessing(size=(5, 7))
GRAY = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
RGB = np.stack([GRAY, 255 - GRAY, GRAY // 2], 2)


@pytest.fixture
def model():
    """A model whose preprocessing keeps pictures of 4 × 6 pixels unchanged, scaled to [0, 1]."""
    return seewhy.wrap(torch.nn.Flatten(), prepare=seewhy.Preprocessing(size=(4, 6)))


def prepared_pixels(model, source):
    """The network's input as 8-bit values [H, W, 3]."""
    return (model.prepare(source)[0] * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)


@pytest.mark.row(4)
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (RGB, RGB),
        (GRAY, np.stack([GRAY] * 3, 2)),
        (GRAY[:, :, None], np.stack([GRAY] * 3, 2)),
        (np.dstack([RGB, np.full((4, 6), 255, np.uint8)]), RGB),
        (np.dstack([RGB, np.zeros((4, 6), np.uint8)]), np.full((4, 6, 3), 255)),
        (GRAY.astype(np.uint16) * 257, np.stack([GRAY] * 3, 2)),
        (RGB / 255, RGB),
        (GRAY > 100, np.stack([(GRAY > 100) * 255] * 3, 2)),
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(GRAY.astype(np.uint16) * 257), np.stack([GRAY] * 3, 2)),
        (Image.fromarray(GRAY / np.float32(255)), np.stack([GRAY] * 3, 2)),
    ],
    ids=["rgb", "gray", "gray3", "opaque", "clear", "uint16", "float", "bool", "pil", "pil16", "pilfloat"],
)
def test_prepare_arrays_and_pil_pictures(model, source, expected):
    assert (prepared_pixels(model, source) == expected).all()


@pytest.mark.row(4)
def test_prepare_files(model, tmp_path):
    picture = Image.fromarray(RGB)
    picture.save(tmp_path / "a.png")
    assert (prepared_pixels(model, tmp_path / "a.png") == RGB).all()
    assert (prepared_pixels(model, str(tmp_path / "a.png")) == RGB).all()
    Image.fromarray(GRAY.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert (prepared_pixels(model, tmp_path / "deep.png")[:, :, 0] == GRAY).all(), "16 bits are scaled, not clipped"
    picture.quantize(256).save(tmp_path / "palette.png")
    assert np.abs(prepared_pixels(model, tmp_path / "palette.png").astype(int) - RGB).max() < 30
    picture.convert("CMYK").save(tmp_path / "print.jpg", quality=100, subsampling=0)
    assert np.abs(prepared_pixels(model, tmp_path / "print.jpg").astype(int) - RGB).max() < 30
    turned = picture.transpose(Image.Transpose.ROTATE_270)
    exif = Image.Exif()
    exif[0x0112] = 8  # rotated by 90 degrees when displayed
    turned.save(tmp_path / "turned.png", exif=exif)
    assert (prepared_pixels(model, tmp_path / "turned.png") == RGB).all()


@pytest.mark.row(4, 132)
def test_prepare_normalizes_with_mean_and_std():
    model = seewhy.wrap(
        torch.nn.Flatten(), prepare=seewhy.Preprocessing((4, 6), mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.5))
    )
    x = model.prepare(RGB)
    assert torch.allclose(x[0, 0], torch.tensor(GRAY / 127.5 - 1).float(), atol=1e-6)
    assert torch.allclose(x[0, 1], torch.tensor(((255 - GRAY) / 255 - 0.5) / 0.25).float(), atol=1e-6)
    one = seewhy.wrap(torch.nn.Flatten(), prepare=seewhy.Preprocessing((4, 6), mean=(0.0,), std=(1.0,)))
    assert one.prepare(GRAY).shape == (1, 1, 4, 6)


def test_prepare_rounds_floats_to_8_bits(model):
    assert prepared_pixels(model, np.full((4, 6), 0.999)).min() == 255


def test_prepare_list_of_pictures(model, shipped):
    x = model.prepare([RGB, *shipped.values()])
    assert x.shape == (4, 3, 4, 6)
    assert torch.equal(x[:1], model.prepare(RGB))


def test_prepare_uses_whole_picture():
    """A mark at the border is kept; crop="model" removes it."""
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:, :20] = 255
    model = seewhy.wrap(torch.nn.Flatten(), prepare=seewhy.Preprocessing((50, 50), crop=0.875))
    assert model.prepare(picture)[0, 0, :, 0].min() > 0.9
    assert model.prepare(picture, crop="model").max() < 0.1


@pytest.mark.parametrize("name", ["chelsea", "coffee", "grace_hopper"])
def test_prepare_crop_equals_timm(lite0, shipped, name):
    from timm.data import create_transform

    transform = create_transform(
        (3, 224, 224), interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.875
    )
    with Image.open(shipped[name]) as picture:
        expected = transform(picture.convert("RGB"))
    assert torch.equal(lite0.prepare(shipped[name], crop="model")[0], expected)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("missing.png", "missing.png: no such file"),
        (RGB * 1.0, r"floats in a picture must lie in \[0, 1\]; these range from 0 to 255"),
        (RGB / np.nan, "NaN or infinite"),
        (np.zeros((4, 6, 2), np.uint8), r"shape \[4, 6, 2\] is not a picture"),
        (np.zeros((2, 3, 4, 6)), "must be a torch tensor"),
        (np.zeros((0, 6), np.uint8), r"shape \[0, 6\]"),
        (RGB.astype(np.int64), "an array of type int64 is not a picture"),
        (None, "a NoneType is not a picture"),
        ([], "the list of pictures is empty"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_prepare_rejects_invalid_source(model, source, text):
    with pytest.raises(seewhy.InputError, match=text):
        model.prepare(source)


def test_prepare_rejects_unsupported_and_damaged_files(model, tmp_path):
    file = tmp_path / "text.png"
    file.write_text("no picture")
    with pytest.raises(seewhy.InputError, match=r"not a picture in a supported format\. Allowed: PNG, JPEG"):
        model.prepare(file)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(seewhy.InputError, match="damaged"):
        model.prepare(file)
    Image.fromarray(RGB).save(tmp_path / "page.eps")
    with pytest.raises(seewhy.InputError, match="not a picture in a supported format"):
        model.prepare(tmp_path / "page.eps")
    with pytest.raises(seewhy.InputError, match="no such file"):
        model.prepare(tmp_path)


@pytest.mark.parametrize("side", [12_000, 20_000])
def test_prepare_rejects_large_picture_before_decoding(model, tmp_path, side):
    Image.new("1", (side, side)).save(tmp_path / "huge.png")
    began = time.perf_counter()
    with pytest.raises(seewhy.InputError, match="at most 50,000,000 are allowed"):
        model.prepare(tmp_path / "huge.png")
    assert time.perf_counter() - began < 1


@settings(max_examples=60, deadline=None)
@given(
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0"]),
    rest=st.binary(max_size=300),
)
def test_prepare_rejects_random_bytes(tmp_path_factory, start, rest):
    file = tmp_path_factory.mktemp("bytes") / "x.png"
    file.write_bytes(start + rest)
    with pytest.raises(seewhy.InputError):
        seewhy.wrap(torch.nn.Flatten(), prepare=PREPROCESSING).prepare(file)


def test_prepare_without_preprocessing_and_unknown_crop():
    with pytest.raises(seewhy.ModelError, match="has no preprocessing, so only tensors can be explained"):
        seewhy.wrap(torch.nn.Flatten()).prepare("cat.png")
    with pytest.raises(seewhy.OptionError, match="crop='centre' is not one of 'model'"):
        seewhy.wrap(torch.nn.Flatten(), prepare=PREPROCESSING).prepare(RGB, crop="centre")
