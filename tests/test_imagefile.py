import io
import struct
import subprocess
import sys
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageFile

from labs.data import faults
from labs.imagefile import BadImageError, Rules, check_file
from labs.imagefile.pixels import read_rgb
from labs.imagefile.read import _check_sums
from labs.imagefile.report import _grey_rows
from tests.data.trees import kinds_of, smooth_picture, write_tree, written


def report_of(path, **rules):
    return check_file(path, Rules(**rules))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"\x1f\x8b" + bytes(30), "not an image: gzip data", id="gzip"),
        pytest.param(b"\0\0\0\x18ftypheic" + bytes(9), "not an image: a heic file", id="heic"),
        pytest.param(b"  <HTML>", "not an image: an HTML page", id="html in capitals"),
        pytest.param("naïve\n".encode(), "not an image: text, 'naïve'", id="text"),
        pytest.param(b"\x01\x02\x03", "not an image: unknown content, 01 02 03", id="binary"),
        pytest.param(
            b"\xff\xd8\xff\xe0" + bytes(9), "corrupt: claims to be JPEG", id="jpeg header only"
        ),
        pytest.param(b"\x93NUMPY\x01\x00", "corrupt: ", id="numpy header only"),
        pytest.param(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "left out on purpose: EPS",
            id="postscript, which another program would have to run",
        ),
    ],
)
def test_what_is_no_image_is_named(data, reason, tmp_path):
    assert report_of(written(tmp_path / "a.jpg", data)).reason.startswith(reason)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        pytest.param(np.linspace(0, 1, 12).reshape(3, 4), "", id="sound"),
        pytest.param(np.arange(12, dtype=np.uint16).reshape(3, 4), "", id="16 bit"),
        pytest.param(np.arange(12.0).reshape(3, 4), "unknown range", id="no white"),
        pytest.param(np.arange(12).reshape(3, 4), "unknown range", id="wide integers"),
        pytest.param(np.zeros((2, 2, 5), np.uint8), "not a picture", id="five channels"),
        pytest.param(np.ones((3, 4)), "blank", id="blank"),
        pytest.param(np.array([[1.0, np.inf]]), "not finite", id="infinite"),
        pytest.param(np.zeros((0, 3)), "not a picture", id="empty"),
        pytest.param(np.array(["a"]), "not a picture", id="strings"),
        pytest.param(np.array([{}]), "needs pickle", id="objects"),
        pytest.param(np.arange(101), "too many pixels", id="large"),
    ],
)
def test_arrays_are_judged_by_their_values(array, said, tmp_path):
    np.save(tmp_path / "a.npy", array)
    report = report_of(tmp_path / "a.npy", max_pixels=25)
    assert kinds_of([report.reason, *report.warnings]) - {""} == {said} - {""}


def test_an_array_that_claims_more_than_it_holds_is_corrupt(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((100, 100)))
    held = (tmp_path / "a.npy").read_bytes()
    assert report_of(written(tmp_path / "a.npy", held[:200])).reason.startswith("corrupt: ")


def test_a_bomb_is_not_decoded(tmp_path, monkeypatch):
    faults.bomb(written(tmp_path / "a.png", b""))

    def explode(image):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", explode)
    assert report_of(tmp_path / "a.png").reason == (
        "too many pixels: claims 100000 x 100000, the limit is 100,000,000"
    )


def test_the_limits_are_the_largest_that_pass(tmp_path):
    smooth_picture(0, (20, 10)).save(tmp_path / "a.png")
    size = (tmp_path / "a.png").stat().st_size
    assert report_of(tmp_path / "a.png", max_pixels=200, max_bytes=size).ok
    assert report_of(tmp_path / "a.png", max_pixels=199).reason.startswith("too many pixels")
    assert report_of(tmp_path / "a.png", max_bytes=size - 1).reason.startswith("too many bytes")


def test_more_pixels_than_pillow_allows_are_decoded_when_you_allow_them(tmp_path, monkeypatch):
    smooth_picture(0).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert report_of(tmp_path / "a.png").ok
    assert Image.MAX_IMAGE_PIXELS == 10


def test_truncated_is_bad_even_where_pillow_is_told_to_invent_the_rest(tmp_path, monkeypatch):
    faults.truncated(write_tree(tmp_path, classes=["."], each=1)[0])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert report_of(tmp_path / "000.jpg").reason.startswith("truncated")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_the_checksums_of_a_png_are_looked_at(tmp_path):
    silent = 0
    for seed in range(60):
        smooth_picture(seed, (100, 90 + seed)).save(tmp_path / "a.png")
        faults.bit_rot(tmp_path / "a.png")
        with suppress(OSError):
            Image.open(tmp_path / "a.png").load()
            silent += 1
        assert report_of(tmp_path / "a.png").reason.startswith("corrupt: ")
    assert silent > 0  # decoding alone lets some through, with wrong colours


def test_the_checksums_are_judged_as_pillow_judges_them():
    sound = stored("PNG")
    damaged = [sound[:at] for at in range(44, len(sound), 7)]
    damaged += [sound[:at] + b"\xff\xfe" + sound[at + 2 :] for at in range(44, len(sound), 7)]
    for data in (sound, *damaged):
        said = []
        for judge in (verify, _check_sums):
            try:
                judge(data)
                said.append("")
            except (OSError, SyntaxError) as error:
                said.append(f"{type(error).__name__}: {error}")
        assert said[0].startswith(said[1][:24]) or "chunk b" in said[0], said
        assert bool(said[0]) == bool(said[1])


def verify(data):
    Image.open(io.BytesIO(data), formats=["PNG"]).verify()


def test_a_later_frame_that_is_cut_off_is_found(tmp_path):
    path = faults.animated(write_tree(tmp_path, classes=["."], each=1)[0]).path
    path.write_bytes(path.read_bytes()[:-40])
    report = report_of(path)
    assert report.ok
    assert "damaged frame" in kinds_of(report.warnings)


def test_the_expected_modes_raise_no_warning(tmp_path):
    smooth_picture(0).convert("L").save(tmp_path / "a.png")
    assert report_of(tmp_path / "a.png").warnings == ("grayscale: mode L, expected RGB",)
    assert report_of(tmp_path / "a.png", modes=["RGB", "L"]).warnings == ()


@pytest.mark.parametrize("name", ["a.JPG", "a.jpeg", "a.jfif", "a.mpo"])
def test_every_name_of_a_jpeg_is_right(name, tmp_path):
    smooth_picture(0).save(tmp_path / name, format="JPEG")
    assert report_of(tmp_path / name).warnings == ()


def test_a_missing_suffix_is_a_warning(tmp_path):
    smooth_picture(0).save(tmp_path / "a", format="PNG")
    (warning,) = report_of(tmp_path / "a").warnings
    assert warning == "wrong extension: PNG content in a file without a suffix"


def test_white_below_a_picture_is_no_grey_band(tmp_path):
    page = Image.new("RGB", (64, 64), "white")
    page.paste(smooth_picture(0), (8, 0))
    page.save(tmp_path / "a.jpg")
    assert report_of(tmp_path / "a.jpg").warnings == ()


def test_grey_rows_are_counted_to_the_top():
    assert _grey_rows(Image.new("RGB", (4, 70), (128, 128, 128))) == 70
    assert _grey_rows(Image.new("L", (4, 3), 128)) == 3


@pytest.mark.parametrize(
    ("size", "warnings"),
    [((100, 10), ()), ((10, 101), ("extreme shape: 10 x 101 pixels",))],
    ids=["ten times", "longer"],
)
def test_a_side_of_more_than_ten_times_the_other_is_a_warning(size, warnings, tmp_path):
    smooth_picture(0).resize(size).save(tmp_path / "a.png")
    assert report_of(tmp_path / "a.png").warnings == warnings


def test_one_file_can_be_checked_by_itself(tmp_path):
    path = written(tmp_path / "a.jpg", b"")
    assert check_file(path, Rules()).reason == "empty: 0 bytes"


def test_a_decoding_process_need_not_import_torch():
    code = "import labs.imagefile, sys; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------- what the bytes claim to be


def stored(format, **options):
    buffer = io.BytesIO()
    smooth_picture(0).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "GIF", "TIFF", "JPEG", "WEBP", "JPEG2000", "BMP"])
def test_a_damaged_header_names_the_format_that_it_claims(format, tmp_path):
    path = written(tmp_path / "a", stored(format)[:18])
    assert report_of(path).reason.startswith(f"corrupt: claims to be {format} by its first bytes")


@pytest.mark.parametrize("format", ["TGA", "ICO", "DDS", "SGI", "PCX", "DIB", "ICNS", "EPS", "IM"])
def test_a_sound_picture_in_a_format_left_out_is_named(format, tmp_path):
    reason = report_of(written(tmp_path / "a", stored(format))).reason
    assert reason.startswith(f"left out on purpose: {format}, which")


def test_a_large_picture_in_a_format_left_out_is_named_and_not_decoded(tmp_path):
    buffer = io.BytesIO()
    Image.new("L", (4000, 3000)).save(buffer, "TGA")
    path = written(tmp_path / "a.tga", buffer.getvalue())
    assert report_of(path).reason.startswith("left out on purpose: TGA")


def test_a_warning_of_the_decoder_is_said_once(tmp_path):
    png = stored("PNG")
    two = struct.pack(">II", 0, 0)
    chunk = struct.pack(">I", 8) + b"acTL" + two + struct.pack(">I", zlib.crc32(b"acTL" + two))
    report = report_of(written(tmp_path / "a.png", png[:33] + chunk + png[33:]))
    (warning,) = [w for w in report.warnings if w.startswith("decoder")]
    assert "Invalid APNG" in warning


# ------------------------------------------------------------- deep pictures and later frames

RAMP = np.linspace(0, 65_535, 1200).astype(np.uint16).reshape(30, 40)


def deep_pictures(folder):
    """Write the same 16-bit ramp in every way, and return the paths."""
    Image.fromarray(RAMP).save(folder / "a.png")
    Image.fromarray(RAMP).save(folder / "le.tif")
    Image.fromarray(RAMP.astype(">u2")).save(folder / "be.tif")
    Image.fromarray(RAMP.astype(np.int32)).save(folder / "i.tif")
    Image.fromarray(RAMP.astype(np.float32) / 65_535).save(folder / "f.tif")
    (folder / "a.pgm").write_bytes(b"P5 40 30 65535\n" + RAMP.astype(">u2").tobytes())
    np.save(folder / "a.npy", RAMP)
    return sorted(folder.iterdir())


def test_deep_pictures_are_the_same_in_every_format(tmp_path):
    expected = np.repeat((RAMP / 65_535)[..., None], 3, axis=2)
    for path in deep_pictures(tmp_path):
        np.testing.assert_allclose(read_rgb(path), expected, atol=1e-6, err_msg=path.name)
        assert report_of(path).ok, path.name


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0, 70_000]], np.int32),
        np.array([[-1, 5]], np.int32),
        np.array([[0, 255]], np.float32),
        np.array([[0, np.nan]], np.float32),
    ],
)
def test_a_picture_without_a_known_white_is_bad_for_scan_and_reader_alike(values, tmp_path):
    Image.fromarray(values).save(tmp_path / "a.tif")
    reason = report_of(tmp_path / "a.tif").reason
    assert reason.startswith("unknown range: mode")
    with pytest.raises(BadImageError) as caught:
        read_rgb(tmp_path / "a.tif")
    assert str(caught.value) == reason


@pytest.mark.parametrize("transparency", [0, bytes(range(256))])
def test_a_palette_with_transparency_gives_its_colours_without_a_warning(
    transparency, tmp_path, recwarn
):
    image = Image.new("P", (4, 3), 7)
    image.putpalette([k for k in range(256) for _ in "rgb"])
    image.save(tmp_path / "a.png", transparency=transparency)
    assert (read_rgb(tmp_path / "a.png") == 7).all()
    assert not recwarn.list


def gif(offset, frames=3):
    """Return a GIF with a screen of 100 x 100 whose later frames are one pixel, this far out."""

    def frame(at):
        head = b"\x21\xf9\x04\x08\x00\x00\x00\x00\x2c"
        return head + struct.pack("<HHHHB", at, at, 1, 1, 0) + b"\x02\x02\x44\x01\x00"

    screen = b"GIF89a" + struct.pack("<HHBBB", 100, 100, 0x80, 0, 0) + bytes(6)
    return screen + frame(0) + frame(offset) * (frames - 1) + b";"


def test_a_later_frame_that_is_too_large_is_not_decoded(tmp_path):
    report = report_of(written(tmp_path / "a.gif", gif(20_000)), max_pixels=1_000_000)
    assert report.ok
    (warning,) = [w for w in report.warnings if w.startswith("too many pixels")]
    assert warning == (
        "too many pixels: claims 400,040,001, the limit is 1,000,000; this is not the first frame, "
        "which is the one that is used"
    )


def test_a_page_of_a_tiff_that_is_too_large_is_not_decoded(tmp_path):
    pages = [Image.new("L", size) for size in ((10, 10), (200, 100))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    warnings = report_of(tmp_path / "a.tif", max_pixels=19_999).warnings
    assert "too many pixels" in kinds_of(warnings)
    assert "several frames" in kinds_of(report_of(tmp_path / "a.tif", max_pixels=20_200).warnings)


def test_a_webp_canvas_is_refused_before_its_decoder_sees_it(tmp_path, monkeypatch):
    sides = b"\xfe\x3f\x00" * 2
    data = b"RIFF\x16\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00" + bytes(4) + sides
    monkeypatch.setattr(Image, "open", pytest.fail)
    assert report_of(written(tmp_path / "a.webp", data)).reason == (
        "too many pixels: claims 16383 x 16383, the limit is 100,000,000"
    )


def test_an_error_that_nobody_foresaw_is_a_reason(tmp_path, monkeypatch):
    smooth_picture(0).save(tmp_path / "a.png")

    def fail(image):
        raise ZeroDivisionError("no such thing")

    monkeypatch.setattr("labs.imagefile.report._about_pixels", fail)
    assert report_of(tmp_path / "a.png").reason == "corrupt: no such thing"
