import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageFile

from labs.data import faults
from labs.imagefile import Rules, check_file
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
        pytest.param(b"\xff\xd8\xff\xe0" + bytes(9), "not an image", id="jpeg header only"),
        pytest.param(b"\x93NUMPY\x01\x00", "corrupt: ", id="numpy header only"),
        pytest.param(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "not an image: text",
            id="postscript, which another program would have to run",
        ),
    ],
)
def test_what_is_no_image_is_named(data, reason, tmp_path):
    assert report_of(written(tmp_path / "a.jpg", data)).reason.startswith(reason)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        pytest.param(np.arange(12.0).reshape(3, 4), "", id="sound"),
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


def test_one_file_can_be_checked_by_itself(tmp_path):
    path = written(tmp_path / "a.jpg", b"")
    assert check_file(path, Rules()).reason == "empty: 0 bytes"


def test_a_decoding_process_need_not_import_torch():
    code = "import labs.imagefile, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
