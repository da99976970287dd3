"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest
from PIL import Image, ImageOps

from labs.hunts.workbench import ORIENTATION, check_shrink_photo, take_photo
from tests.hunts.lesson_cells import run_cell

LESSON = "lessons/00_workbench/01_set_up_the_workbench"


def save_small(picture, target, longest, **options):
    small = picture.convert("RGB")
    small.thumbnail((longest, longest))
    small.save(target, quality=90, **options)


def copy_the_tag(source, target, longest):
    """Leave the pixels, and hand the note on: a viewer shows it right, a network does not."""
    with Image.open(source) as photo:
        save_small(photo, target, longest, exif=photo.getexif())


def turn_and_copy_the_tag(source, target, longest):
    """Turn the pixels and keep the note, so that a viewer turns them twice."""
    with Image.open(source) as photo:
        exif = Image.Exif()
        exif[ORIENTATION] = photo.getexif().get(ORIENTATION, 1)
        save_small(ImageOps.exif_transpose(photo), target, longest, exif=exif)


def forget_the_result(source, target, longest):
    with Image.open(source) as photo:
        ImageOps.exif_transpose(photo)
        save_small(photo, target, longest)


def know_three_turns(source, target, longest):
    """Turn by the tags that phones write, and forget the four mirrored ones."""
    with Image.open(source) as photo:
        degrees = {3: 180, 6: 270, 8: 90}.get(photo.getexif().get(ORIENTATION), 0)
        save_small(photo.rotate(degrees, expand=True), target, longest)


def guess_from_the_shape(source, target, longest):
    with Image.open(source) as photo:
        portrait = photo.height > photo.width
        save_small(photo.rotate(270, expand=True) if portrait else photo, target, longest)


def turn_when_it_is_too_late(source, target, longest):
    with Image.open(source) as photo:
        save_small(photo, target, longest)
    with Image.open(target) as small:
        ImageOps.exif_transpose(small).save(target)


def drop_the_conversion(source, target, longest):
    with Image.open(source) as photo:
        small = ImageOps.exif_transpose(photo)
        small.thumbnail((longest, longest))
        small.save(target, "JPEG")


def give_up_the_shape(source, target, longest):
    with Image.open(source) as photo:
        ImageOps.exif_transpose(photo).convert("RGB").resize((longest, longest)).save(target)


def turn_the_original(source, target, longest):
    with Image.open(source) as photo:
        upright = ImageOps.exif_transpose(photo)
    upright.convert("RGB").save(source, "JPEG")
    save_small(upright, target, longest)


WRONG = {
    copy_the_tag: "all eight orientations come out upright",
    turn_and_copy_the_tag: "no viewer turns the small copy again",
    forget_the_result: "all eight orientations come out upright",
    know_three_turns: "all eight orientations come out upright",
    guess_from_the_shape: "also when the photo is square",
    turn_when_it_is_too_late: "all eight orientations come out upright",
    drop_the_conversion: "a PNG with transparency can be shrunk",
    give_up_the_shape: "a photo without a tag keeps its picture",
    turn_the_original: "the original file stays as it was",
}


def failed(verdict):
    return [probe.question for probe in verdict.probes if not probe.passed]


def test_the_planted_bug_fails_only_for_turned_photos():
    verdict = check_shrink_photo(run_cell(LESSON, "hunt-bug")["shrink_photo"])
    assert failed(verdict) == [
        "all eight orientations come out upright",
        "also when the photo is square",
    ]
    assert "wrong for tag 2, 3, 4, 5, 6, 7, 8" in repr(verdict)


def test_the_solution_of_the_lesson_passes():
    verdict = check_shrink_photo(run_cell(LESSON, "hunt-solution")["shrink_photo"])
    assert verdict.passed, verdict


@pytest.mark.parametrize("fix", WRONG, ids=lambda fix: fix.__name__)
def test_a_wrong_fix_is_seen_through(fix):
    verdict = check_shrink_photo(fix)
    assert not verdict.passed
    assert WRONG[fix] in failed(verdict)


@pytest.mark.parametrize("resample", ["NEAREST", "BOX", "BICUBIC", "LANCZOS"])
@pytest.mark.parametrize("quality", [50, 95])
def test_another_filter_or_quality_is_a_right_fix(resample, quality):
    def fix(source, target, longest):
        with Image.open(source) as photo:
            small = ImageOps.exif_transpose(photo).convert("RGB")
            small.thumbnail((longest, longest), Image.Resampling[resample])
            small.save(target, quality=quality)

    assert check_shrink_photo(fix).passed


@pytest.mark.parametrize("tag", range(1, 9))
def test_take_photo_stores_what_a_reader_of_tags_turns_back(tmp_path, tag):
    upright = take_photo(tmp_path / "photo.jpg", (60, 40), tag)
    with Image.open(tmp_path / "photo.jpg") as photo:
        assert (photo.size == (60, 40)) == (tag <= 4)
        seen = ImageOps.exif_transpose(photo)
    assert seen.size == upright.size == (60, 40)
    for corner in ((5, 5), (55, 5), (5, 35), (55, 35)):
        pairs = zip(seen.getpixel(corner), upright.getpixel(corner), strict=True)
        assert max(abs(a - b) for a, b in pairs) < 10
