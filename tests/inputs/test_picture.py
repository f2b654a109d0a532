"""Pictures come in as they look, or are refused."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import seewhy

CARD = seewhy.Card(size=(5, 7))
GREY = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
RGB = np.stack([GREY, 255 - GREY, GREY // 2], 2)


@pytest.fixture
def model():
    """Takes pictures of four by six as they are, scaled to 0..1."""
    return seewhy.wrap(torch.nn.Flatten(), prepare=seewhy.Card(size=(4, 6)))


def seen(model, source):
    """What the network would see, as 8-bit numbers [H, W, 3]."""
    return (model.prepare(source)[0] * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)


@pytest.mark.row(4)
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (RGB, RGB),
        (GREY, np.stack([GREY] * 3, 2)),
        (GREY[:, :, None], np.stack([GREY] * 3, 2)),
        (np.dstack([RGB, np.full((4, 6), 255, np.uint8)]), RGB),
        (np.dstack([RGB, np.zeros((4, 6), np.uint8)]), np.full((4, 6, 3), 255)),
        (GREY.astype(np.uint16) * 257, np.stack([GREY] * 3, 2)),
        (RGB / 255, RGB),
        (GREY > 100, np.stack([(GREY > 100) * 255] * 3, 2)),
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(GREY.astype(np.uint16) * 257), np.stack([GREY] * 3, 2)),
        (Image.fromarray(GREY / np.float32(255)), np.stack([GREY] * 3, 2)),
    ],
    ids=["rgb", "grey", "grey3", "opaque", "clear", "uint16", "float", "bool", "pil", "pil16", "pilfloat"],
)
def test_arrays_and_pil_pictures(model, source, expected):
    assert (seen(model, source) == expected).all()


@pytest.mark.row(4)
def test_files(model, tmp_path):
    picture = Image.fromarray(RGB)
    picture.save(tmp_path / "a.png")
    assert (seen(model, tmp_path / "a.png") == RGB).all()
    assert (seen(model, str(tmp_path / "a.png")) == RGB).all()
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert (seen(model, tmp_path / "deep.png")[:, :, 0] == GREY).all(), "16 bits are scaled, not clipped"
    picture.quantize(256).save(tmp_path / "palette.png")
    assert np.abs(seen(model, tmp_path / "palette.png").astype(int) - RGB).max() < 30
    picture.convert("CMYK").save(tmp_path / "print.jpg", quality=100, subsampling=0)
    assert np.abs(seen(model, tmp_path / "print.jpg").astype(int) - RGB).max() < 30
    turned = picture.transpose(Image.Transpose.ROTATE_270)
    exif = Image.Exif()
    exif[0x0112] = 8  # shown turned by 90 degrees
    turned.save(tmp_path / "turned.png", exif=exif)
    assert (seen(model, tmp_path / "turned.png") == RGB).all()


@pytest.mark.row(4, 132)
def test_units_are_those_of_the_card():
    model = seewhy.wrap(torch.nn.Flatten(), prepare=seewhy.Card((4, 6), mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.5)))
    x = model.prepare(RGB)
    assert torch.allclose(x[0, 0], torch.tensor(GREY / 127.5 - 1).float(), atol=1e-6)
    assert torch.allclose(x[0, 1], torch.tensor(((255 - GREY) / 255 - 0.5) / 0.25).float(), atol=1e-6)
    one = seewhy.wrap(torch.nn.Flatten(), prepare=seewhy.Card((4, 6), mean=(0.0,), std=(1.0,)))
    assert one.prepare(GREY).shape == (1, 1, 4, 6)


def test_floats_are_rounded(model):
    assert seen(model, np.full((4, 6), 0.999)).min() == 255


def test_a_list_is_a_batch(model, shipped):
    x = model.prepare([RGB, *shipped.values()])
    assert x.shape == (4, 3, 4, 6)
    assert torch.equal(x[:1], model.prepare(RGB))


def test_the_whole_picture_is_taken():
    """A mark in a corner survives; crop="card" cuts it off."""
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:, :20] = 255
    model = seewhy.wrap(torch.nn.Flatten(), prepare=seewhy.Card((50, 50), crop=0.875))
    assert model.prepare(picture)[0, 0, :, 0].min() > 0.9
    assert model.prepare(picture, crop="card").max() < 0.1


@pytest.mark.parametrize("name", ["chelsea", "coffee", "grace_hopper"])
def test_the_cards_crop_is_timms(lite0, shipped, name):
    from timm.data import create_transform

    transform = create_transform(
        (3, 224, 224), interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.875
    )
    with Image.open(shipped[name]) as picture:
        expected = transform(picture.convert("RGB"))
    assert torch.equal(lite0.prepare(shipped[name], crop="card")[0], expected)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("missing.png", "missing.png: no such file"),
        (RGB * 1.0, "floats in a picture are read as 0..1, these go from 0 to 255"),
        (RGB / np.nan, "NaN or infinite"),
        (np.zeros((4, 6, 2), np.uint8), r"shape \[4, 6, 2\] is no picture"),
        (np.zeros((2, 3, 4, 6)), "must be a torch tensor"),
        (np.zeros((0, 6), np.uint8), r"shape \[0, 6\]"),
        (RGB.astype(np.int64), "an array of int64 is no picture"),
        (None, "a NoneType is no picture"),
        ([], "an empty list"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_what_is_no_picture(model, source, text):
    with pytest.raises(seewhy.InputError, match=text):
        model.prepare(source)


def test_files_that_are_refused(model, tmp_path):
    file = tmp_path / "text.png"
    file.write_text("no picture")
    with pytest.raises(seewhy.InputError, match="not a picture that can be read; allowed: PNG, JPEG"):
        model.prepare(file)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(seewhy.InputError, match="damaged"):
        model.prepare(file)
    Image.fromarray(RGB).save(tmp_path / "page.eps")
    with pytest.raises(seewhy.InputError, match="not a picture that can be read"):
        model.prepare(tmp_path / "page.eps")
    with pytest.raises(seewhy.InputError, match="no such file"):
        model.prepare(tmp_path)


@pytest.mark.parametrize("side", [12_000, 20_000])
def test_a_huge_picture_is_refused_before_it_is_decoded(model, tmp_path, side):
    Image.new("1", (side, side)).save(tmp_path / "huge.png")
    began = time.perf_counter()
    with pytest.raises(seewhy.InputError, match="at most 50,000,000 are read"):
        model.prepare(tmp_path / "huge.png")
    assert time.perf_counter() - began < 1


@settings(max_examples=60, deadline=None)
@given(
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0"]),
    rest=st.binary(max_size=300),
)
def test_random_bytes_never_give_anything_but_a_refusal(tmp_path_factory, start, rest):
    file = tmp_path_factory.mktemp("bytes") / "x.png"
    file.write_bytes(start + rest)
    with pytest.raises(seewhy.InputError):
        seewhy.wrap(torch.nn.Flatten(), prepare=CARD).prepare(file)


def test_no_preparation():
    with pytest.raises(seewhy.ModelError, match="given no preparation, so only tensors can be explained"):
        seewhy.wrap(torch.nn.Flatten()).prepare("cat.png")
    with pytest.raises(seewhy.OptionError, match="crop='centre' is not one of 'card'"):
        seewhy.wrap(torch.nn.Flatten(), prepare=CARD).prepare(RGB, crop="centre")
