from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.ops import box_area
from torchvision.transforms import v2

from labs.data.augment import Augmented, Transformed, copy_paste, letterbox, mixup, mosaic
from labs.data.scenes import Rendered, Scenes, collate
from tests.data.solids import Solids, assert_honest, seen

SCENES = Scenes("train", 9, things=("digits", "photos"), objects=(0, 4))
LAYERS = {
    "mosaic": {"augment": partial(mosaic, size=(128, 128)), "partners": 3},
    "mixup": {"augment": mixup, "partners": 1, "chance": 0.5},
    "copy_paste": {"augment": copy_paste, "partners": 1},
    "torchvision": {"augment": Transformed(v2.RandomAffine(30, scale=(0.5, 1.5)))},
}
BOXES = [[(0, 0, 11, 13), (20, 10, 60, 40)], [], [(30, 30, 31, 31)]]
SOLIDS = Solids([(40, 60)] * 3, BOXES)


def assert_same(first, second):
    for (image, target), (other, found) in zip(first, second, strict=True):
        assert torch.equal(image, other)
        assert target.keys() == found.keys()
        assert all(torch.equal(target[name], found[name]) for name in target)


@pytest.mark.parametrize("name", LAYERS)
def test_seed_epoch_and_index_decide(name):
    def served(seed=1, epoch=0):
        data = Augmented(SCENES, seed=seed, **LAYERS[name])
        data.set_epoch(epoch)
        return data

    first = [*served()]
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    state = torch.get_rng_state()
    again = served()
    assert_same(first[::-1], [again[k] for k in range(8, -1, -1)])
    assert_same(first[8:], [again[-1]])
    assert torch.equal(torch.get_rng_state(), state)
    for other in (served(seed=2), served(epoch=1)):
        assert not all(torch.equal(a, b) for (a, _), (b, _) in zip(first, other, strict=True))


def test_workers_that_stay_learn_of_the_epoch():
    inner = Augmented(SCENES, seed=1, **LAYERS["copy_paste"])
    data = Augmented(inner, seed=2, **LAYERS["mosaic"])
    loader = DataLoader(data, 3, num_workers=2, persistent_workers=True, collate_fn=collate)
    epochs = []
    for epoch in range(2):
        data.set_epoch(epoch)
        there = [pair for images, truths in loader for pair in zip(images, truths, strict=True)]
        assert_same(there, [*data])
        epochs.append(torch.stack([image for image, _ in there]))
    assert not torch.equal(*epochs)


def test_chance():
    plain = Augmented(SOLIDS, mixup, partners=1, chance=0.0)
    assert_same(plain, SOLIDS)
    scenes = Augmented(Scenes("train", 1), mixup, partners=1, chance=0.0)
    assert set(scenes[0][1]) == {"boxes", "labels", "masks", "track_ids"}
    often = Augmented(Scenes("train", 200), lambda e, _: (-e[0][0], e[0][1]), chance=0.3)
    assert 0.2 < np.mean([image.sum().item() < 0 for image, _ in often]) < 0.4


def test_rendered_scenes_can_be_augmented():
    data = Augmented(Rendered(SCENES), **LAYERS["mosaic"])
    assert data.classes == SCENES.classes
    assert set(data[0][1]) == {"boxes", "labels"}
    assert repr(data).startswith("Augmented(Rendered(9 of 'train'")


# ------------------------------------------------------------------------------- torchvision


@pytest.mark.parametrize(
    "transform",
    [v2.RandomHorizontalFlip(1.0), v2.RandomVerticalFlip(1.0), v2.Pad(5), v2.CenterCrop((22, 30))],
    ids=["mirror", "turn over", "pad", "crop"],
)
def test_boxes_and_masks_follow_exactly(transform):
    for image, target in Augmented(SOLIDS, Transformed(transform)):
        assert type(image) is type(target["boxes"]) is type(target["masks"]) is torch.Tensor
        assert_honest(image, target)


def test_an_identity_changes_nothing():
    assert_same(Augmented(SOLIDS, Transformed(v2.Identity())), SOLIDS)


@pytest.mark.parametrize("masks", [True, False], ids=["masks", "boxes alone"])
@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomCrop((12, 12)),
        v2.RandomAffine(40, translate=(0.6, 0.6), scale=(0.2, 1.5)),
        v2.Compose([v2.RandomIoUCrop(), v2.RandomZoomOut(), v2.Resize((40, 40))]),
        v2.RandomPerspective(p=1.0),
    ],
    ids=["crop", "affine", "ssd", "perspective"],
)
def test_degenerate_objects_go_with_all_that_is_theirs(transform, masks):
    data = Augmented(Solids([(40, 60)] * 3, BOXES, masks), Transformed(transform))
    counts = []
    for epoch in range(20):
        data.set_epoch(epoch)
        for image, target in data:
            assert {len(rows) for rows in target.values()} == {len(target["labels"])}
            assert torch.equal(target["track_ids"], target["labels"] + 100)
            assert ((target["boxes"][:, 2:] - target["boxes"][:, :2]) >= 1).all()
            assert (target["boxes"] >= 0).all()
            assert (target["boxes"][:, 2::2] <= image.shape[2]).all()
            assert (target["boxes"][:, 3::2] <= image.shape[1]).all()
            if masks:
                assert target["masks"].any(2).any(1).all()
                assert target["masks"].shape[1:] == image.shape[1:]
            counts.append(len(target["labels"]))
    assert min(counts) == 0
    assert max(counts) == 2


def test_tight_boxes_after_a_turn():
    turn = v2.RandomRotation((45, 45))
    image, tight = Augmented(SOLIDS, Transformed(turn, tight=True))[0]
    assert seen(image) == dict(zip(tight["labels"].tolist(), tight["boxes"].tolist(), strict=True))
    round_ones = Scenes("train", 5, things=("photos",), objects=(3, 3), occlusion=0.0)
    areas = [
        torch.cat([box_area(target["boxes"]) for _, target in Augmented(round_ones, augment)])
        for augment in (Transformed(turn, tight=True), Transformed(turn))
    ]
    assert areas[0].sum() < 0.9 * areas[1].sum()


def test_least_side():
    crop = v2.CenterCrop((40, 24))  # columns 18 to 42: the second rectangle keeps 22 of 40
    for least, labels in ((22.0, [1]), (22.5, [])):
        _, target = Augmented(SOLIDS, Transformed(crop, min_side=least))[0]
        assert target["labels"].tolist() == labels


# ------------------------------------------------------------------------------------ errors


def test_errors():
    with pytest.raises(ValueError, match="partners=-1"):
        Augmented(SCENES, mixup, partners=-1)
    with pytest.raises(ValueError, match=r"chance in \[0, 1\].* chance=2"):
        Augmented(SCENES, mixup, chance=2)
    with pytest.raises(IndexError, match=r"index in \[-9, 9\), got 9"):
        Augmented(SCENES, mixup)[9]
    with pytest.raises(ValueError, match="epoch >= 0, got -1"):
        Augmented(SCENES, mixup).set_epoch(-1)
    with pytest.raises(ValueError, match="min_side > 0, got 0"):
        Transformed(v2.Identity(), min_side=0)
    sieve = v2.Compose([v2.CenterCrop(8), v2.SanitizeBoundingBoxes()])
    with pytest.raises(ValueError, match="leave SanitizeBoundingBoxes out"):
        Augmented(SOLIDS, Transformed(sieve))[0]


class Noted:
    """Hold scenes with every entry that follows, and one that does not."""

    split, classes = "train", ("a", "b", "c")

    def __len__(self):
        return 2

    def __getitem__(self, index):
        masks = torch.zeros(3, 20, 20).bool()
        masks[0, 2:9, 2:9], masks[1, :4, 15:], masks[2, 10:19, 5:15] = True, True, True
        return torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(index)), {
            "boxes": torch.tensor([[2.0, 2, 9, 9], [15, 0, 20, 4], [5, 10, 15, 19]]),
            "labels": torch.tensor([0, 1, 2]),
            "masks": masks,
            "track_ids": torch.tensor([7, 8, 9]),
            "iscrowd": torch.tensor([False, True, False]),
            "ignore": torch.tensor([True, False, False]),
            "area": torch.tensor([1.0, 2.0, 3.0]),
        }


@pytest.mark.parametrize(
    "augment",
    [
        Transformed(v2.CenterCrop(10)),
        Transformed(v2.RandomHorizontalFlip(1.0)),
        lambda examples, _: letterbox(examples[0], (40, 50)),
        lambda examples, rng: mixup([*examples, examples[0]], rng),
        lambda examples, rng: copy_paste([*examples, examples[0]], rng),
        lambda examples, rng: mosaic(4 * [examples[0]], rng, size=(32, 32)),
    ],
    ids=["crop", "mirror", "letterbox", "mixup", "copy_paste", "mosaic"],
)
def test_flags_and_tracks_stay_with_their_object(augment):
    for _, target in Augmented(Noted(), augment):
        assert set(target) == {"boxes", "labels", "masks", "track_ids", "iscrowd", "ignore"}
        assert len(target["labels"])
        assert torch.equal(target["track_ids"], target["labels"] + 7)
        assert torch.equal(target["iscrowd"], target["labels"] == 1)
        assert torch.equal(target["ignore"], target["labels"] == 0)
