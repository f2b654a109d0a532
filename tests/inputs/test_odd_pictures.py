"""Unusual pictures: rotated, transparent, 16-bit, damaged, or with a wrong file extension."""

import struct
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

import seewhy
from seewhy import InputError
from seewhy.inputs.picture import read_picture


@pytest.fixture(scope="module")
def model():
    """A model whose preprocessing keeps pictures of 6 × 9 pixels unchanged, scaled to [0, 1]."""
    return seewhy.wrap(torch.nn.Flatten(), prepare=seewhy.Preprocessing(size=(6, 9)))


@pytest.fixture(scope="module")
def rgb():
    return np.random.default_rng(3).integers(0, 256, (6, 9, 3)).astype(np.uint8)


def random_picture(*shape):
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, shape).astype(np.uint8))


def to_pixels(x):
    return (x[0].permute(1, 2, 0).double() * 255).round().to(torch.uint8).numpy()


ORIENTED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", ORIENTED)
def test_read_picture_applies_exif_orientation(tmp_path, rgb, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    assert (np.asarray(read_picture(tmp_path / "a.png")) == ORIENTED[orientation](rgb)).all()


@pytest.mark.parametrize("kind", ["array", "float array", "PIL", "file"])
def test_prepare_blends_transparency_with_white(model, tmp_path, kind):
    rgba = np.random.default_rng(4).integers(0, 256, (6, 9, 4)).astype(np.uint8)
    rgba[0, :3] = [[255, 0, 0, 0], [255, 0, 0, 255], [0, 0, 0, 51]]
    Image.fromarray(rgba).save(tmp_path / "a.png")
    sources = {"array": rgba, "float array": rgba / 255, "PIL": Image.fromarray(rgba), "file": tmp_path / "a.png"}
    alpha = rgba[:, :, 3:] / 255
    found = to_pixels(model.prepare(sources[kind])).astype(int)
    assert np.abs(found - (rgba[:, :, :3] * alpha + 255 * (1 - alpha))).max() <= 1
    assert found[0, :3].tolist() == [[255, 255, 255], [255, 0, 0], [204, 204, 204]]


def test_prepare_palette_with_transparent_entry(model, rgb, tmp_path):
    palette_picture = Image.fromarray(rgb).quantize(8)
    palette_picture.save(tmp_path / "a.png", transparency=palette_picture.getpixel((0, 0)))
    transparent = np.asarray(palette_picture) == palette_picture.getpixel((0, 0))
    assert 0 < transparent.sum() < transparent.size
    expected = np.where(transparent[:, :, None], 255, np.asarray(palette_picture.convert("RGB")))
    assert (to_pixels(model.prepare(tmp_path / "a.png")) == expected).all()


def test_prepare_cmyk_file(model, tmp_path):
    inks = Image.new("CMYK", (9, 6), (0, 255, 255, 0))
    inks.paste((0, 0, 0, 0), (0, 0, 3, 6))
    inks.save(tmp_path / "a.tif")
    found = to_pixels(model.prepare(tmp_path / "a.tif"))
    assert (found[:, :3] == 255).all()
    assert (found[:, 3:] == [255, 0, 0]).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "F", "LA", "PA", "I;16"])
def test_prepare_accepts_pil_mode(model, mode):
    assert model.prepare(Image.new(mode, (9, 6))).shape == (1, 3, 6, 9)


@pytest.mark.row(4)
@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_prepare_resizes_with_selected_interpolation(name):
    source = random_picture(31, 22, 3)
    x = seewhy.wrap(torch.nn.Flatten(), prepare=seewhy.Preprocessing(size=(6, 9), interpolation=name)).prepare(source)
    assert (to_pixels(x) == np.asarray(source.resize((9, 6), Image.Resampling[name.upper()]))).all()


@pytest.mark.row(132)
def test_prepare_function_receives_source_unchanged(rgb):
    received = []

    def prepare(source):
        received.append(source)
        return torch.tensor(source / 127.5 - 1)[None].movedim(-1, 1)

    x = seewhy.wrap(torch.nn.Flatten(), prepare=prepare).prepare(rgb)
    assert received[0] is rgb
    assert np.abs(x[0].movedim(0, -1).numpy() - (rgb / 127.5 - 1)).max() < 1e-12


@pytest.mark.parametrize("side", [8_000, 12_000, 15_000])
def test_prepare_never_decodes_large_picture(model, tmp_path, monkeypatch, side):
    Image.new("1", (side, side)).save(tmp_path / "huge.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("the picture was decoded"))
    with pytest.raises(InputError, match=r"at most 50,000,000 are allowed\. Resize the picture first"):
        model.prepare(tmp_path / "huge.png")


def eps():
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


def psd():
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 6, 9, 8, 3)
    return header + struct.pack(">III", 0, 0, 0) + struct.pack(">H", 0) + bytes(3 * 6 * 9)


@pytest.mark.parametrize(("content", "kind"), [(eps, "EPS"), (psd, "PSD")])
def test_prepare_rejects_unsupported_format_with_png_extension(model, tmp_path, content, kind):
    file = tmp_path / "a.png"
    file.write_bytes(content())
    with Image.open(file) as opened:
        assert opened.format == kind, "PIL opens this format by default"
    with pytest.raises(InputError, match="not a picture in a supported format"):
        model.prepare(file)


@pytest.fixture(scope="module")
def png_with_metadata(tmp_path_factory):
    """A PNG with a palette, transparency, text chunks, EXIF data and a color profile."""
    png_info = PngInfo()
    png_info.add_text("a", "b" * 40, zip=True)
    png_info.add_itxt("c", "d" * 40, zip=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path_factory.mktemp("png_with_metadata") / "a.png"
    random_picture(12, 15, 3).quantize(16).save(
        file, pnginfo=png_info, exif=exif, transparency=3, icc_profile=b"x" * 99
    )
    return file.read_bytes()


@settings(deadline=None, max_examples=150)
@given(changes=st.lists(st.tuples(st.integers(8, 2000), st.integers(0, 255)), min_size=1, max_size=4))
def test_read_picture_of_damaged_file(tmp_path_factory, png_with_metadata, changes):
    data = bytearray(png_with_metadata)
    for place, value in changes:
        data[place % len(data)] = value
    file = tmp_path_factory.getbasetemp() / "damaged.png"
    file.write_bytes(data)
    try:
        assert read_picture(file).mode == "RGB"
    except InputError as error:
        assert str(error).startswith(str(file))


@pytest.mark.parametrize("size", [(98, 49), (49, 98), (147, 49)])
def test_prepare_crop_equals_timm_for_elongated_pictures(lite0, size):
    from timm.data import create_transform

    timms = create_transform((3, 224, 224), interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.875)
    source = random_picture(*size, 3)
    assert torch.equal(lite0.prepare(source, crop="model")[0], timms(source))


def test_prepare_crop_of_non_square_size_stays_inside_picture():
    model = seewhy.wrap(torch.nn.Flatten(), prepare=seewhy.Preprocessing(size=(64, 32), crop=0.875))
    assert model.prepare(Image.new("RGB", (100, 100), "white"), crop="model").min() == 1


def test_read_picture_with_inconsistent_metadata(tmp_path, rgb):
    """A rotated picture whose EXIF resolution is text."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0")
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)
    Image.fromarray(rgb).save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").size == (6, 9)


def test_read_picture_with_truncated_metadata(tmp_path, rgb):
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 9) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    Image.fromarray(rgb).save(tmp_path / "a.jpg", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(tmp_path / "a.jpg").mode == "RGB"


def test_prepare_rejects_damaged_open_pil_picture(model, tmp_path):
    random_picture(64, 64, 3).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with Image.open(tmp_path / "a.png") as opened, pytest.raises(InputError, match="damaged"):
        model.prepare(opened)


def test_prepare_rejects_impossible_file_name(model):
    with pytest.raises(InputError):
        model.prepare("a" * 300 + ".png")


def test_prepare_rejects_unknown_interpolation(rgb):
    with pytest.raises(seewhy.OptionError, match="area"):
        seewhy.wrap(torch.nn.Flatten(), prepare=seewhy.Preprocessing(size=(6, 9), interpolation="area")).prepare(rgb)


def test_prepare_big_endian_array(model, rgb):
    assert (to_pixels(model.prepare((rgb.astype(np.uint16) * 257).astype(">u2"))) == rgb).all()
