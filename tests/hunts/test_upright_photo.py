"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest
from PIL import Image, ImageOps

from labs.hunts.foundations.upright_photo import _ORIENTATION, check_shrink_photo, take_photo
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import failed, marks, seen, when

LESSON = "lessons/01_foundations/02_shrink_a_picture"


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
        exif[_ORIENTATION] = photo.getexif().get(_ORIENTATION, 1)
        save_small(ImageOps.exif_transpose(photo), target, longest, exif=exif)


def forget_the_result(source, target, longest):
    with Image.open(source) as photo:
        ImageOps.exif_transpose(photo)
        save_small(photo, target, longest)


def know_three_turns(source, target, longest):
    """Turn by the tags that phones write, and forget the four mirrored ones."""
    with Image.open(source) as photo:
        degrees = {3: 180, 6: 270, 8: 90}.get(photo.getexif().get(_ORIENTATION), 0)
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


def right(source, target, longest):
    with Image.open(source) as photo:
        save_small(ImageOps.exif_transpose(photo), target, longest)


def tag_of(source):
    with Image.open(source) as photo:
        return photo.getexif().get(_ORIENTATION), photo.size


def untagged(source, target, longest):
    return source.suffix == ".jpg" and tag_of(source)[0] is None


def tag(number, square=False):
    def condition(source, target, longest):
        found, (width, height) = tag_of(source)
        return found == number and (width == height) is square

    return condition


def mirror(source, target, longest):
    with Image.open(source) as photo:
        save_small(ImageOps.mirror(photo.convert("RGB")), target, longest)


def leave(source, target, longest):
    with Image.open(source) as photo:
        save_small(photo, target, longest)


def make_small_ones_larger(source, target, longest):
    with Image.open(source) as photo:
        upright = ImageOps.exif_transpose(photo).convert("RGB")
        upright.resize([longest * s // max(upright.size) for s in upright.size]).save(target)


def grow(source, target, longest):
    return max(tag_of(source)[1]) < longest


def one_pixel_short(source, target, longest):
    right(source, target, longest - 1)


def grey_when_transparent(source, target, longest):
    with Image.open(source) as photo:
        grey = photo.mode == "RGBA"
        save_small(ImageOps.exif_transpose(photo).convert("L" if grey else "RGB"), target, longest)


def save_nothing(source, target, longest):
    with Image.open(source) as photo:
        ImageOps.exif_transpose(photo).convert("RGB").thumbnail((longest, longest))


WRONG = {
    when(untagged, mirror, right): "✗✓✓✓✓✓✓",
    **{when(tag(k), leave, right): "✓✗✓✓✓✓✓" for k in range(2, 8)},
    **{when(tag(k, square=True), leave, right): "✓✓✗✓✓✓✓" for k in range(2, 9)},
    turn_and_copy_the_tag: "✓✓✓✗✓✓✓",
    when(grow, make_small_ones_larger, right): "✓✓✓✓✗✓✓",
    one_pixel_short: "✓✓✓✓✗✓✓",
    drop_the_conversion: "✓✓✓✓✓✗✓",
    grey_when_transparent: "✓✓✓✓✓✗✓",
    turn_the_original: "✓✓✓✓✓✓✗",
    copy_the_tag: "✓✗✗✗✓✓✓",
    forget_the_result: "✓✗✗✓✓✓✓",
    know_three_turns: "✓✗✗✓✓✓✓",
    guess_from_the_shape: "✓✗✗✓✓✓✓",
    turn_when_it_is_too_late: "✓✗✗✓✓✓✓",
    give_up_the_shape: "✗✗✓✓✗✓✓",
    when(tag(8), leave, right): "✓✗✓✓✓✓✓",
    save_nothing: "✗✗✗✗✗✗✗",
}


def test_the_planted_bug_fails_only_for_turned_photos():
    verdict = check_shrink_photo(run_cell(LESSON, "hunt-bug")["shrink_photo"])
    assert failed(verdict) == [
        "all eight orientations come out upright",
        "also when the photo is square",
    ]
    assert "wrong for tag 2, 3, 4, 5, 6, 7, 8" in seen(verdict)


def test_the_solution_of_the_lesson_passes():
    verdict = check_shrink_photo(run_cell(LESSON, "hunt-solution")["shrink_upright"])
    assert verdict.passed, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_shrink_photo(fix)
    assert marks(verdict) == refused, verdict


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
