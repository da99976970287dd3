import pytest
import torch
from torch import nn

from labs.train import fit


def least_squares():
    """Return a line to find, y = 2x + 1, as four batches, and a model that starts at zero."""
    x = torch.linspace(-1, 1, 32)[:, None]
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model, list(zip(x.split(8), (2 * x + 1).split(8), strict=True))


def squared_error(model, batch):
    x, y = batch
    return (model(x) - y).square().mean()


def test_it_finds_the_line():
    model, batches = least_squares()
    history = fit(model, batches, torch.optim.SGD(model.parameters(), 0.3), 60, squared_error)
    torch.testing.assert_close(model.weight.item(), 2.0, atol=1e-3, rtol=0)
    assert list(history.table().columns) == ["epoch", "step", "loss", "lr"]
    assert len(history.steps) == 240
    assert repr(history).startswith("History(240 steps, loss")


def test_it_takes_the_very_steps_of_a_hand_written_loop():
    model, batches = least_squares()
    fit(model, batches, torch.optim.SGD(model.parameters(), 0.1), 3, squared_error)
    twin, _ = least_squares()
    for x, y in batches * 3:
        twin.zero_grad()
        (twin(x) - y).square().mean().backward()
        with torch.no_grad():
            for p in twin.parameters():
                p -= 0.1 * p.grad
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


def test_scheduler_score_and_watch_are_called_when_they_say():
    model, batches = least_squares()
    optimizer = torch.optim.SGD(model.parameters(), 0.4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)
    seen = []

    def watch(net, step):
        seen.append((step, net.weight.grad is not None))

    def score(net):
        assert not net.training
        assert not torch.is_grad_enabled()
        return {"weight": net.weight.item()}

    history = fit(model, batches, optimizer, 2, squared_error, scheduler, score, watch)
    assert history.table()["lr"].tolist() == [0.4] * 4 + [0.2] * 4
    assert list(history.score_table().columns) == ["epoch", "weight"]
    assert seen == [(step, True) for step in range(8)]


def test_a_frozen_batch_norm_stays_frozen():
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
    model[0].eval()
    _, batches = least_squares()
    fit(
        model,
        batches,
        torch.optim.SGD(model.parameters(), 0.1),
        loss=squared_error,
        score=lambda net: {"mode": float(net[0].training)},
    )
    assert model.training
    assert not model[0].training
    assert model[0].num_batches_tracked == 0


def test_ctrl_c_keeps_what_was_recorded():
    model, batches = least_squares()

    def interrupt(net, step):
        if step == 5:
            raise KeyboardInterrupt

    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    history = fit(model, batches, optimizer, 3, squared_error, watch=interrupt)
    assert history.interrupted
    assert len(history.steps) == 5


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_spoilt():
    model, batches = least_squares()

    def broken(net, batch):
        return squared_error(net, batch) * (float("nan") if net.weight.item() > 0.5 else 1)

    with pytest.raises(FloatingPointError, match=r"nan at step \d+.*first_bad"):
        fit(model, batches, torch.optim.SGD(model.parameters(), 0.3), 9, broken)
    assert torch.isfinite(model.weight)


@pytest.mark.parametrize(
    ("batches", "epochs", "training", "message"),
    [
        pytest.param([], 1, True, "gave no batch", id="no batches"),
        pytest.param(least_squares()[1], 0, True, "epochs=0", id="no epochs"),
        pytest.param(least_squares()[1], 1, False, r"call model\.train\(\)", id="eval mode"),
    ],
)
def test_bad_calls_are_refused(batches, epochs, training, message):
    model, _ = least_squares()
    model.train(training)
    with pytest.raises(ValueError, match=message):
        fit(model, batches, torch.optim.SGD(model.parameters(), 0.1), epochs, squared_error)


def test_a_loss_per_sample_is_refused():
    model, batches = least_squares()
    with pytest.raises(ValueError, match=r"one scalar loss, got shape \(8, 1\)"):
        fit(
            model,
            batches,
            torch.optim.SGD(model.parameters(), 0.1),
            loss=lambda net, batch: (net(batch[0]) - batch[1]).square(),
        )


class Dropping(nn.Module):
    """Keep the mask that dropout drew in each step."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(200))
        self.masks = []

    def forward(self, images):
        kept = nn.functional.dropout(self.weight, 0.5, self.training)
        self.masks.append((kept != 0).tolist())
        return kept[:2].expand(len(images), 2)


def test_every_step_draws_another_mask_and_the_run_is_the_plain_loop():
    batches = [(torch.rand(2, 1), torch.tensor([0, 1]))] * 3
    torch.manual_seed(5)
    model = Dropping()
    fit(model, batches, torch.optim.SGD(model.parameters(), 0.1), epochs=2)
    after = torch.get_rng_state()
    assert len({tuple(mask) for mask in model.masks}) == 6

    torch.manual_seed(5)
    plain = Dropping()
    optimizer = torch.optim.SGD(plain.parameters(), 0.1)
    for images, labels in batches * 2:
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(images), labels).backward()
        optimizer.step()
    assert plain.masks == model.masks
    assert torch.equal(plain.weight, model.weight)
    assert torch.equal(torch.get_rng_state(), after)  # fit draws nothing, and puts nothing back
