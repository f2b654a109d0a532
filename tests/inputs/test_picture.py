"""Pictures of every kind come in as the network wants them; everything else is refused in one sentence."""

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
from seewhy import Card, InputError
from seewhy.inputs.picture import picture

PLAIN = Card(size=(6, 9))


@pytest.fixture(scope="module")
def model():
    """Takes pictures of 6 by 9 without scaling, so that what comes out is what went in."""
    return seewhy.wrap(lambda x: x.flatten(1), prepare=PLAIN)


@pytest.fixture(scope="module")
def rgb():
    return np.random.default_rng(3).integers(0, 256, (6, 9, 3)).astype(np.uint8)


def pixels(x):
    """[1, 3, H, W] in 0..1 -> [H, W, 3] in 0..255."""
    assert x.shape[0] == 1
    return (x[0].permute(1, 2, 0).double() * 255).round().to(torch.uint8).numpy()


def grey(values):
    return np.repeat(np.asarray(values, np.uint8)[:, :, None], 3, 2)


def over_white(rgba):
    share = rgba[:, :, 3:] / 255.0
    return rgba[:, :, :3] * share + 255 * (1 - share)


@pytest.mark.row(4)
@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp"])
def test_a_file_by_path_and_by_name(model, rgb, tmp_path, ending):
    file = tmp_path / f"a.{ending}"
    Image.fromarray(rgb).save(file, **({"lossless": True} if ending == "webp" else {}))
    assert (pixels(model.prepare(file)) == rgb).all()
    assert (pixels(model.prepare(str(file))) == rgb).all()


@pytest.mark.parametrize("ending", ["jpg", "gif"])
def test_lossy_files(model, tmp_path, ending):
    Image.new("RGB", (9, 6), (200, 40, 90)).save(tmp_path / f"a.{ending}", quality=95)
    found = pixels(model.prepare(tmp_path / f"a.{ending}")).astype(int)
    assert np.abs(found - (200, 40, 90)).max() <= 4


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (lambda a: a, lambda a: a),
        (lambda a: a[:, :, 0], lambda a: grey(a[:, :, 0])),
        (lambda a: a[:, :, :1], lambda a: grey(a[:, :, 0])),
        (lambda a: a[::-1, ::-1], lambda a: a[::-1, ::-1]),
        (lambda a: a.astype(np.uint16) * 257, lambda a: a),
        (lambda a: a[:, :, 0].astype(np.uint16) * 257, lambda a: grey(a[:, :, 0])),
        (lambda a: (a / 255).astype(np.float32), lambda a: a),
        (lambda a: a[:, :, :1] / 255, lambda a: grey(a[:, :, 0])),
        (lambda a: a[:, :, 0] > 99, lambda a: grey((a[:, :, 0] > 99) * 255)),
    ],
    ids=["H W 3", "H W", "H W 1", "view", "uint16", "uint16 H W", "float32", "float64 H W 1", "bool"],
)
def test_arrays(model, rgb, given, expected):
    assert (pixels(model.prepare(given(rgb))) == expected(rgb)).all()


@pytest.mark.parametrize("kind", ["array", "float array", "PIL", "file"])
def test_transparency_is_laid_over_white(model, tmp_path, kind):
    rgba = np.random.default_rng(4).integers(0, 256, (6, 9, 4)).astype(np.uint8)
    rgba[0, :3] = [[255, 0, 0, 0], [255, 0, 0, 255], [0, 0, 0, 51]]
    Image.fromarray(rgba).save(tmp_path / "a.png")
    sources = {
        "array": rgba,
        "float array": rgba / 255,
        "PIL": Image.fromarray(rgba),
        "file": tmp_path / "a.png",
    }
    found = pixels(model.prepare(sources[kind])).astype(int)
    assert np.abs(found - over_white(rgba)).max() <= 1
    assert found[0, :3].tolist() == [[255, 255, 255], [255, 0, 0], [204, 204, 204]]


def test_palettes(model, rgb, tmp_path):
    drawn = Image.fromarray(rgb).quantize(8)
    drawn.save(tmp_path / "plain.png")
    drawn.save(tmp_path / "holes.png", transparency=drawn.getpixel((0, 0)))
    index, plain = np.asarray(drawn), np.asarray(drawn.convert("RGB"))
    assert (pixels(model.prepare(tmp_path / "plain.png")) == plain).all()
    holes = index == index[0, 0]
    assert 0 < holes.sum() < holes.size
    assert (pixels(model.prepare(tmp_path / "holes.png")) == np.where(holes[:, :, None], 255, plain)).all()


def test_cmyk(model, tmp_path):
    inks = Image.new("CMYK", (9, 6), (0, 255, 255, 0))
    inks.paste((0, 0, 0, 0), (0, 0, 3, 6))
    inks.save(tmp_path / "a.tif")
    found = pixels(model.prepare(tmp_path / "a.tif"))
    assert (found[:, :3] == 255).all()
    assert (found[:, 3:] == [255, 0, 0]).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "F", "LA", "PA", "I;16"])
def test_every_mode_that_pil_gives(model, mode):
    assert model.prepare(Image.new(mode, (9, 6))).shape == (1, 3, 6, 9)


def test_sixteen_bits_are_scaled_not_clipped(model, tmp_path):
    deep = np.full((6, 9), 257 * 100, np.uint16)
    deep[0, :4] = [0, 300, 257 * 50, 65535]
    Image.fromarray(deep).save(tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as opened:
        assert opened.mode == "I;16"
    found = pixels(model.prepare(tmp_path / "deep.png"))
    assert found[0, :4, 0].tolist() == [0, 1, 50, 255]
    assert (found[1:] == 100).all()


TURNED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNED)
def test_the_camera_was_turned(tmp_path, rgb, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    assert (np.asarray(picture(tmp_path / "a.png")) == TURNED[orientation](rgb)).all()


def test_a_list_is_a_batch_in_its_order(model, rgb, tmp_path):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    sources = [rgb[::-1], tmp_path / "a.png", Image.new("RGB", (40, 30), "red")]
    for together in (sources, tuple(sources)):
        x = model.prepare(together)
        assert x.shape == (3, 3, 6, 9)
        assert torch.equal(x, torch.cat([model.prepare(one) for one in sources]))


@pytest.mark.row(4)
def test_the_whole_picture_is_resized():
    """Each corner of the picture is in the corner of what the network sees; the card's crop cuts them off."""
    wide = Image.new("RGB", (80, 40))
    corners = {(0, 0): "red", (60, 0): "lime", (0, 30): "blue", (60, 30): "white"}
    for (left, top), name in corners.items():
        wide.paste(name, (left, top, left + 20, top + 10))
    model = seewhy.wrap(lambda x: x, prepare=Card(size=(16, 24), crop=0.5))
    x = model.prepare(wide)
    assert x.shape == (1, 3, 16, 24)
    assert x[0, :, [0, 0, -1, -1], [0, -1, 0, -1]].round().T.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]
    expected = np.asarray(wide.resize((24, 16), Image.Resampling.BICUBIC))
    assert (pixels(x) == expected).all()
    cropped = seewhy.wrap(lambda x: x, prepare=Card(size=(16, 16), crop=0.5)).prepare(wide, crop="card")
    assert cropped.shape == (1, 3, 16, 16)
    assert cropped.max() == 0


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_interpolation_of_the_card(name):
    source = Image.fromarray(np.random.default_rng(5).integers(0, 256, (31, 22, 3)).astype(np.uint8))
    x = seewhy.wrap(lambda x: x, prepare=Card(size=(6, 9), interpolation=name)).prepare(source)
    assert (pixels(x) == np.asarray(source.resize((9, 6), Image.Resampling[name.upper()]))).all()


def timms_own():
    timm_data = pytest.importorskip("timm.data")
    return timm_data.create_transform(
        input_size=(3, 224, 224), interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.875
    )


@pytest.mark.parametrize("name", ["chelsea", "coffee", "grace_hopper"])
def test_the_cards_crop_is_timms(lite0, shipped, name):
    with Image.open(shipped[name]) as opened:
        expected = timms_own()(opened.convert("RGB"))
    assert torch.equal(lite0.prepare(shipped[name], crop="card")[0], expected)
    assert not torch.equal(lite0.prepare(shipped[name])[0], expected)


@pytest.mark.xfail(strict=True, reason="the longer side is one pixel short where 256 / shorter side is rounded down")
@pytest.mark.parametrize("size", [(98, 49), (49, 98), (147, 49)])
def test_the_cards_crop_is_timms_for_any_size(lite0, size):
    source = Image.fromarray(np.random.default_rng(6).integers(0, 256, (*size, 3)).astype(np.uint8))
    assert torch.equal(lite0.prepare(source, crop="card")[0], timms_own()(source))


@pytest.mark.xfail(strict=True, reason="the shorter side of the card decides, and the cut-out leaves the picture")
def test_the_cards_crop_stays_inside_the_picture():
    model = seewhy.wrap(lambda x: x, prepare=Card(size=(64, 32), crop=0.875))
    assert model.prepare(Image.new("RGB", (100, 100), "white"), crop="card").min() == 1


def test_mean_and_deviation_of_the_card(rgb):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    x = seewhy.wrap(lambda x: x, prepare=Card(size=(6, 9), mean=mean, std=std)).prepare(rgb)
    expected = (rgb / 255 - mean) / std
    assert x.dtype == torch.float32
    assert np.abs(x[0].permute(1, 2, 0).numpy() - expected).max() < 1e-6


def test_a_card_of_one_channel(rgb):
    x = seewhy.wrap(lambda x: x, prepare=Card(size=(6, 9), mean=(0.5,), std=(0.25,))).prepare([rgb, rgb[:, :, 0]])
    assert x.shape == (2, 1, 6, 9)
    luma = np.stack([np.asarray(Image.fromarray(rgb).convert("L")), rgb[:, :, 0]]) / 255
    assert np.abs(x[:, 0].numpy() - (luma - 0.5) / 0.25).max() < 1e-6


@pytest.mark.row(132)
def test_a_models_own_function_gets_the_source_as_it_is(rgb):
    seen = []

    def own(source):
        seen.append(source)
        return torch.tensor(source / 127.5 - 1)[None].movedim(-1, 1)

    x = seewhy.wrap(lambda x: x, prepare=own).prepare(rgb)
    assert seen[0] is rgb
    assert x.min() >= -1
    assert x.max() <= 1
    assert np.abs(x[0].movedim(0, -1).numpy() - (rgb / 127.5 - 1)).max() < 1e-12


def test_a_model_without_preparation():
    with pytest.raises(seewhy.ModelError, match=r"lambda> was given no preparation, so only tensors can be explained"):
        seewhy.wrap(lambda x: x).prepare("a.png")


def test_another_crop(model, rgb):
    with pytest.raises(seewhy.OptionError, match=r"crop='center' is not one of 'card'"):
        model.prepare(rgb, crop="center")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], r"an empty list holds nothing to explain: give at least one picture\."),
        (np.full((6, 9), 1.5), r"floats in a picture are read as 0\.\.1, these go from 1\.5 to 1\.5: divide them"),
        (np.linspace(-0.2, 1, 54).reshape(6, 9), r"these go from -0\.2 to 1: divide them by their range, or give uint8"),
        (np.full((6, 9), np.nan), r"the picture holds NaN or infinite values\."),
        (np.full((6, 9, 3), np.inf), r"the picture holds NaN or infinite values\."),
        (np.zeros((6, 9, 2), np.uint8), r"an array of shape \[6, 9, 2\] is no picture: give H×W, H×W×3 or H×W×4"),
        (np.zeros((1, 3, 6, 9), np.uint8), r"\[1, 3, 6, 9\] is no picture: .*prepared already must be a torch tensor"),
        (np.zeros(9, np.uint8), r"an array of shape \[9\] is no picture"),
        (np.zeros((0, 9, 3), np.uint8), r"an array of shape \[0, 9, 3\] is no picture"),
        (np.zeros((6, 9), np.int64), r"an array of int64 is no picture: give uint8, uint16, or floats in 0\.\.1"),
        (np.zeros((6, 9), complex), r"an array of complex128 is no picture"),
        (np.zeros((8000, 7000), np.uint8), r"the picture: 7000×8000 pixels; at most 50,000,000 are read\. Make it smaller"),
        (b"PNG", r"a bytes is no picture: give a path, a PIL picture or an array"),
        (None, r"a NoneType is no picture"),
        (torch.zeros(3, 6, 9), r"a Tensor is no picture: .*a torch tensor is taken as prepared already"),
    ],
)
def test_what_is_no_picture(model, source, message):
    with pytest.raises(InputError, match=message):
        model.prepare(source)


def test_one_bad_picture_of_a_list(model, rgb):
    with pytest.raises(InputError, match="no such file"):
        model.prepare([rgb, "nowhere.png"])


def refused(model, file):
    with pytest.raises(InputError) as caught:
        model.prepare(file)
    assert str(caught.value).startswith(f"{file}: ")
    return str(caught.value).removeprefix(f"{file}: ")


def test_a_file_that_is_not_there(model, tmp_path):
    assert refused(model, tmp_path / "a.png") == "no such file."
    assert refused(model, tmp_path) == "no such file."


def test_text_that_is_named_a_picture(model, tmp_path):
    (tmp_path / "a.png").write_text("not a picture at all")
    message = "not a picture that can be read; allowed: PNG, JPEG, WEBP, GIF, BMP, TIFF."
    assert refused(model, tmp_path / "a.png") == message


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_that_is_cut_off(model, tmp_path, share):
    noise = np.random.default_rng(7).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: int(len(data) * share)])
    assert refused(model, tmp_path / "a.png").startswith("the picture is damaged (")


@pytest.mark.parametrize(
    ("side", "message"), [(8000, "8000×8000 pixels"), (12000, "far more pixels"), (15000, "far more pixels")]
)
def test_a_huge_picture_is_never_decoded(model, tmp_path, monkeypatch, side, message):
    Image.new("1", (side, side)).save(tmp_path / "huge.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("it was decoded"))
    found = refused(model, tmp_path / "huge.png")
    assert found == f"{message}; at most 50,000,000 are read. Make it smaller first."


def eps():
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


def psd():
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 6, 9, 8, 3)
    return header + struct.pack(">III", 0, 0, 0) + struct.pack(">H", 0) + bytes(3 * 6 * 9)


@pytest.mark.parametrize(("content", "kind"), [(eps, "EPS"), (psd, "PSD")])
def test_formats_with_a_history_are_refused(model, tmp_path, content, kind):
    """Also under a picture's name; PIL on its own would open them."""
    file = tmp_path / "a.png"
    file.write_bytes(content())
    with Image.open(file) as opened:
        assert opened.format == kind
    assert refused(model, file).startswith("not a picture that can be read")


@settings(deadline=None, database=None, max_examples=150)
@given(data=st.binary(max_size=300), signed=st.booleans())
def test_random_bytes_are_refused(tmp_path_factory, data, signed):
    file = tmp_path_factory.getbasetemp() / "random.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" * signed + data)
    with pytest.raises(InputError):
        picture(file)


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """A PNG with everything that a PNG may carry."""
    told = PngInfo()
    told.add_text("a", "b" * 40, zip=True)
    told.add_itxt("c", "d" * 40, zip=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = Image.fromarray(np.random.default_rng(8).integers(0, 256, (12, 15, 3)).astype(np.uint8))
    file = tmp_path_factory.mktemp("rich") / "a.png"
    noise.quantize(16).save(file, pnginfo=told, exif=exif, transparency=3, icc_profile=b"x" * 99)
    return file.read_bytes()


@settings(deadline=None, database=None, max_examples=150)
@given(changes=st.lists(st.tuples(st.integers(8, 2000), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_file_gives_a_picture_or_one_error(tmp_path_factory, rich, changes):
    data = bytearray(rich)
    for place, value in changes:
        data[place % len(data)] = value
    file = tmp_path_factory.getbasetemp() / "damaged.png"
    file.write_bytes(data)
    try:
        assert picture(file).mode == "RGB"
    except InputError as error:
        assert str(error).startswith(str(file))


@pytest.mark.xfail(strict=True, reason="turning the picture also writes its metadata anew, and PIL fails on that")
def test_metadata_that_lies(tmp_path, rgb):
    """A turned picture whose resolution is text: what is asked is its orientation, and that is readable."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0")
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)
    Image.fromarray(rgb).save(tmp_path / "a.jpg", exif=exif)
    assert picture(tmp_path / "a.jpg").size == (6, 9)


@pytest.mark.xfail(strict=True, reason="a warning of PIL comes through")
def test_metadata_that_is_cut_off(tmp_path, rgb):
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 9) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    Image.fromarray(rgb).save(tmp_path / "a.jpg", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert picture(tmp_path / "a.jpg").mode == "RGB"


@pytest.mark.xfail(strict=True, reason="an OSError comes through")
def test_a_damaged_picture_that_pil_has_open(model, tmp_path, rgb):
    noise = np.random.default_rng(7).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with Image.open(tmp_path / "a.png") as opened, pytest.raises(InputError, match="damaged"):
        model.prepare(opened)


@pytest.mark.xfail(strict=True, reason="an OSError comes through")
def test_a_name_that_no_file_can_have(model):
    assert refused(model, "a" * 300 + ".png") == "no such file."


@pytest.mark.xfail(strict=True, reason="a KeyError comes through")
def test_an_interpolation_that_does_not_exist(rgb):
    with pytest.raises(seewhy.OptionError, match="area"):
        seewhy.wrap(lambda x: x, prepare=Card(size=(6, 9), interpolation="area")).prepare(rgb)


@pytest.mark.xfail(strict=True, reason="only the machine's own byte order is taken for uint16")
def test_big_endian_arrays(model, rgb):
    assert (pixels(model.prepare(rgb.astype(">u2") * 257)) == rgb).all()
