import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from labs.data.batch import Batch, Epoch, WatchedLoader, collate
from labs.data.robust import RobustImageDataset
from labs.train import fit
from tests.data.trees import broken_tree, smooth_picture, write_tree


def loader_of(data, workers=0, batch_size=4, shuffle=False):
    loader = DataLoader(
        data, batch_size=batch_size, shuffle=shuffle, num_workers=workers, collate_fn=collate
    )
    return WatchedLoader(loader)


def shrink(image):
    return image[:, ::4, ::4]


def test_images_of_two_sizes_are_refused_by_name(tmp_path):
    for size, name in (((4, 4), "a.png"), ((5, 4), "b.png")):
        smooth_picture(0, size).save(tmp_path / name)
    data = RobustImageDataset(tmp_path, labels=[0, 0])
    with pytest.raises(ValueError, match=r"\[\(3, 4, 4\), \(3, 4, 5\)\]; resize them"):
        collate([data[0], data[1]])


def test_a_loop_left_early_says_so(tmp_path):
    write_tree(tmp_path)
    watched = loader_of(RobustImageDataset(tmp_path))
    for batch in watched:
        assert isinstance(batch, Batch)
        break
    (epoch,) = watched.epochs
    assert (epoch.complete, epoch.indices) == (False, (0, 1, 2, 3))
    assert repr(epoch).endswith("0 failed, left early)")


def test_another_collate_is_refused(tmp_path):
    write_tree(tmp_path)
    with pytest.raises(ValueError, match="got default_collate"):
        WatchedLoader(DataLoader(RobustImageDataset(tmp_path), 4))


def test_a_subset_keeps_the_numbers_of_the_whole(tmp_path):
    broken_tree(tmp_path)
    data = RobustImageDataset(tmp_path, on_error="skip")
    watched = loader_of(Subset(data, [3, 4, 8]))
    list(watched)
    assert watched.epochs[0].indices == (3, 8)
    assert watched.epochs[0].table()["index"].tolist() == [4]


def test_fit_trains_on_a_watched_loader(tmp_path):
    broken_tree(tmp_path)
    data = RobustImageDataset(tmp_path, transform=shrink, on_error="skip")
    watched = loader_of(data, batch_size=3)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 12, 3))
    history = fit(model, watched, torch.optim.SGD(model.parameters(), 0.1), epochs=30)
    assert history.steps[-1]["loss"] < history.steps[0]["loss"] / 2
    assert len(watched) == 4
    assert [len(epoch.failures) for epoch in watched.epochs] == [4] * 30


def test_an_epoch_without_failures_has_an_empty_table():
    table = Epoch((0,), (1,), (), complete=True).table()
    assert table.columns.tolist() == ["index", "path", "reason", "action"]
    assert table.empty


def test_pinning_pins_every_tensor_and_keeps_the_failures(tmp_path, monkeypatch):
    broken_tree(tmp_path)
    batch = collate([RobustImageDataset(tmp_path, on_error="skip")[i] for i in (0, 1)])
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    again = batch.pin_memory()
    assert [id(tensor) for tensor in pinned] == [
        id(tensor) for tensor in (batch.images, batch.labels, batch.indices)
    ]
    assert again.failures == batch.failures
    assert len(again.failures) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is pinned for a GPU")
def test_a_batch_can_be_pinned(tmp_path):
    broken_tree(tmp_path)
    data = RobustImageDataset(tmp_path, on_error="skip")
    loader = DataLoader(data, 4, collate_fn=collate, pin_memory=True, num_workers=2)
    batches = list(WatchedLoader(loader))
    assert all(batch.images.is_pinned() for batch in batches)
    assert sum(len(batch.failures) for batch in batches) == 4
