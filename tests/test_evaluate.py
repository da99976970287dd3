import pytest
import torch
from torch import nn

from labs.data.images import ImageSet
from labs.evaluate import accuracy, evaluating, predict


@pytest.fixture
def model():
    """A network whose first batch norm was put to sleep on purpose, and whose rest is awake."""
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 2))
    net[0].eval()
    return net


def test_predictions_do_not_depend_on_the_batch_size(model):
    images = torch.rand(7, 1, 2, 2)
    torch.testing.assert_close(predict(model, images, 3), predict(model, images, 256))


def test_no_trace_is_left(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    logits = predict(model, torch.rand(5, 1, 2, 2))
    assert [module.training for module in model.modules()] == modes
    assert not logits.requires_grad
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name])


def test_modes_come_back_after_an_error(model):
    modes = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError, match="shape"):
        predict(model, torch.rand(5, 1, 9, 9))
    assert [module.training for module in model.modules()] == modes


def test_every_module_is_in_eval_mode_inside(model):
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_accuracy_counts_by_hand():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]).view(4, 2, 1, 1)
    data = ImageSet(images, torch.tensor([0, 1, 1, 0]), ("a", "b"), torch.arange(4))
    assert accuracy(nn.Flatten(), data) == 0.75


@pytest.mark.parametrize(("count", "batch_size"), [(0, 4), (4, 0)])
def test_nothing_to_predict_is_an_error(count, batch_size):
    with pytest.raises(ValueError, match="at least one image"):
        predict(nn.Flatten(), torch.rand(count, 1, 2, 2), batch_size)
