import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from labs.data.scenes import Rendered, Scenes, collate

DATA = Scenes("train", 11, objects=(0, 3), canvas=(48, 64), size=(12, 24))


@pytest.fixture(scope="module")
def kept():
    return Rendered(DATA, keys=("boxes", "labels", "masks", "track_ids"))


def test_it_gives_out_what_it_was_made_from(kept):
    assert len(kept) == 11
    assert kept.classes == DATA.classes
    for (image, target), (again, found) in zip(DATA, kept, strict=True):
        assert torch.equal(image, again)
        assert list(found) == ["boxes", "labels", "masks", "track_ids"]
        for name, value in found.items():
            assert torch.equal(value, target[name])


def test_batches_equal_those_of_a_loader(kept):
    loader = DataLoader(kept, 4, collate_fn=collate)
    batches = kept.batches(4)
    assert len(batches) == len(loader) == 3
    for (images, truths), (others, more) in zip(batches, loader, strict=True):
        assert images.is_contiguous()
        assert torch.equal(images, others)
        assert all(torch.equal(a[k], b[k]) for a, b in zip(truths, more, strict=True) for k in a)


def test_every_pass_has_all_pictures_in_another_order_known_from_the_seed(kept):
    def passes(seed):
        batches = kept.batches(4, seed)
        return [torch.cat([images for images, _ in batches]) for _ in range(2)]

    (first, second), again, other = passes(3), passes(3), passes(4)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert not torch.equal(first, second)
    assert not torch.equal(first, other[0])
    assert first.double().sum() == pytest.approx(second.double().sum().item())
    for images, truths in kept.batches(4, seed=3):  # a truth stays with its picture
        for image, truth in zip(images, truths, strict=True):
            row = next(k for k, (drawn, _) in enumerate(kept) if torch.equal(drawn, image))
            assert torch.equal(truth["boxes"], kept.targets[row]["boxes"])


def test_what_is_taken_out_can_be_changed(kept):
    image, target = kept[0]
    image.zero_()
    target["labels"] = torch.tensor([99])
    assert torch.equal(kept[0][0], DATA[0][0])
    assert torch.equal(kept[0][1]["labels"], DATA[0][1]["labels"])


def test_bytes_are_counted():
    kept = Rendered(DATA)
    objects = sum(len(target["labels"]) for _, target in DATA)
    assert kept.nbytes == 11 * 3 * 48 * 64 + objects * (4 * 4 + 8)
    assert repr(kept) == "Rendered(11 of 'train', 3x48x64, 10 classes, 0.1 MB)"
    assert pickle.loads(pickle.dumps(kept)).nbytes == kept.nbytes


class Listed(list):
    split, classes = "train", ("thing",)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)], r"one size.* got \[3, 8, 9\] at 1 after"),
        ([torch.zeros(2, 3, 8, 8)], "frames=None"),
        ([torch.full((3, 8, 8), 0.3)], "n/255, got others at 0"),
    ],
)
def test_pictures_that_cannot_be_kept_are_refused(images, message):
    truth = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    with pytest.raises(ValueError, match=message):
        Rendered(Listed((image, truth) for image in images))


def test_other_errors(kept):
    with pytest.raises(ValueError, match=r"got none of mask; choose keys= from boxes, labels"):
        Rendered(DATA, keys=("boxes", "mask"))
    for size, seed in ((0, None), (2.5, None), (4, -1)):
        with pytest.raises(ValueError, match=rf"batches: .* got size={size}, seed={seed}"):
            kept.batches(size, seed)
