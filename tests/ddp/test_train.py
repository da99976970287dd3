import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from labs.ddp import Place, launch
from labs.ddp_train import Run, Settings, build, loop, take_step, train
from labs.ddp_train.__main__ import main
from labs.models import DigitNet
from tests.ddp import training
from tests.ddp.sharing import together
from tests.ddp.training import ALONE, settings_of
from tests.waiting import HANG, until

ROOT = Path(__file__).parents[2]
LONG = Settings(epochs=2, batch_size=16, accumulate=2, limit=512, ema=0.9, amp=True)


def state(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def assert_same(a, b):
    """Compare two checkpoints to the last bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def test_the_rate_rises_and_falls_to_almost_nothing():
    rates = [loop._learning_rate(step, 100, 0.1) for step in range(100)]
    assert max(rates) == rates[30] == pytest.approx(0.1)
    assert rates == sorted(rates[:30]) + sorted(rates[30:], reverse=True)
    assert 0 < rates[-1] < 1e-4


@pytest.mark.parametrize("stop", [3, 16, 20], ids=["mid epoch", "end of epoch", "second epoch"])
def test_a_run_that_was_cut_off_ends_as_if_it_was_not(stop, tmp_path, monkeypatch):
    settings = settings_of(epochs=2, limit=256, accumulate=2, ema=0.9, amp=True)
    train(settings, ALONE, tmp_path / "whole")
    real = loop.take_step

    def cut(run: Run, rate, clip):
        if run.step == stop:
            raise KeyboardInterrupt
        real(run, rate, clip)

    monkeypatch.setattr(loop, "take_step", cut)
    with pytest.raises(KeyboardInterrupt):
        train(settings, ALONE, tmp_path / "cut", save_every=2)
    monkeypatch.setattr(loop, "take_step", real)
    assert 0 < state(tmp_path / "cut")["step"] <= stop
    train(settings, ALONE, tmp_path / "cut", resume=True)
    assert_same(state(tmp_path / "whole"), state(tmp_path / "cut"))
    assert [p.name for p in (tmp_path / "cut").iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_is_neither_overwritten_nor_mixed_up(tmp_path):
    train(settings_of(), ALONE, tmp_path)
    with pytest.raises(FileExistsError, match="pass --resume"):
        train(settings_of(), ALONE, tmp_path)
    with pytest.raises(ValueError, match=r"made with lr=0\.01: use the same"):
        train(settings_of(lr=0.5), ALONE, tmp_path, resume=True)


def test_each_option_changes_the_run(capsys):
    def weights(**changes):
        run = train(settings_of(**changes), ALONE)
        return run.best_guess.fc.weight

    plain = weights()
    torch.testing.assert_close(weights(accumulate=1), plain, atol=0, rtol=0)
    plainly = ({"amp": True}, {"ema": 0.5}, {"seed": 1}, {"lr": 0.1}, {"epochs": 2})
    for changes in (*plainly, {"steps": 1}, {"warm_up": 1.0}, {"clip": 1e-3}):
        assert not torch.equal(weights(**changes), plain), changes
    assert re.match(r"epoch 1 step 2 loss [\d.]+ accuracy [\d.]+\n", capsys.readouterr().out)


def test_a_bar_is_shown_only_when_asked_for_and_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    train(settings_of(), ALONE)
    assert capsys.readouterr().err == ""
    train(settings_of(), ALONE, progress=True)
    assert "epoch 1" in capsys.readouterr().err


def test_steps_end_a_run_within_an_epoch():
    run = train(settings_of(steps=3), ALONE)
    assert [score["step"] for score in run.scores] == [2, 3]


def test_a_step_that_the_loss_scale_skips_is_none():
    run = build(settings_of(ema=0.5), ALONE, torch.nn.Linear(1, 1))
    run.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    start = run.network.weight.detach().clone()
    for factor, batches, step in ((float("inf"), 1, 0), (1.0, 2, 1)):
        run.scaler.scale(run.network(torch.ones(1, 1)).sum() * factor).backward()
        take_step(run, 0.1)
        assert (run.batches, run.step, run.ema.n_averaged.item()) == (batches, step, step)
        assert run.scaler.get_scale() == 2.0
        assert torch.equal(run.network.weight, start) == (step == 0)


@pytest.mark.parametrize("optimizer", ["plain", "fused"])
@pytest.mark.parametrize("scale", [4.0, 1e-45, 0.0])
def test_a_skipped_step_is_none_however_small_the_scale_and_whoever_skips(optimizer, scale):
    run = build(settings_of(ema=0.5), ALONE, torch.nn.Linear(1, 1))
    if optimizer == "fused":
        run.optimizer = torch.optim.AdamW(run.network.parameters(), lr=0.01, fused=True)
    run.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    run.scaler.scale(torch.zeros(1))  # it makes its scale at first use
    run.scaler.update(scale)  # 0 is where halving a scale ends
    start = run.network.weight.detach().clone()
    run.scaler.scale(run.network(torch.ones(1, 1)).sum() * float("inf")).backward()
    take_step(run, 0.1)
    assert torch.equal(run.network.weight, start)
    assert (run.batches, run.step, run.ema.n_averaged.item()) == (1, 0, 0)
    assert not run.optimizer._optimizer_step_post_hooks


def averaged(decay, values):
    """Return what the moving average is after each of these weights."""
    run = build(settings_of(ema=decay), ALONE, torch.nn.Linear(1, 1, bias=False))
    found = []
    for value in values:
        torch.nn.init.constant_(run.network.weight, value)
        run.ema.update_parameters(run.network)
        found.append(run.ema.module.weight.item())
    return found


def test_the_moving_average_warms_up_to_its_decay():
    found = averaged(0.3, [1.0] + [0.0] * 5)  # what is left of the first weight
    expected, left = [1.0], 1.0
    for decay in (2 / 11, 3 / 12, 0.3, 0.3, 0.3):
        left *= decay
        expected.append(left)
    assert found == pytest.approx(expected)
    # Without the warm-up 0.999^300 = 74 % of a random start would be left.
    assert averaged(0.999, [1.0] + [0.0] * 300)[-1] < 1e-6
    # A slow average of what moves lags behind it by a tenth of the steps.
    assert averaged(0.999, range(100))[-1] == pytest.approx(99 - 10, abs=2)


@pytest.fixture(scope="module")
def uninterrupted_in(tmp_path_factory):
    """Name a folder for the checkpoint of two ranks that nothing disturbed."""
    return tmp_path_factory.mktemp("uninterrupted")


@pytest.fixture(scope="module")
def two_ranks(uninterrupted_in):
    """Return what each of two ranks found, by the name of the task."""
    tasks = {
        "whole_run": (training.whole_run, LONG, uninterrupted_in, 0),
        "masks": (training.masks, settings_of(epochs=2)),
        "short_run": (training.short_run, settings_of(lr=1e-3, accumulate=2)),
        "measured on 501": (training.measured, 501),
        "measured on 1": (training.measured, 1),
    }
    return launch(together, 2, (tasks,))


def test_every_micro_batch_of_every_step_drops_out_other_features(two_ranks):
    alone = training.masks(0, settings_of(epochs=2, accumulate=2))
    assert len(alone) == 8
    assert len(alone.unique(dim=0)) == 8
    assert torch.equal(alone, training.masks(0, settings_of(epochs=2, accumulate=2)))
    other = training.masks(0, settings_of(epochs=2, accumulate=2, seed=9))
    assert len(torch.cat([alone, other]).unique(dim=0)) == 16
    ranks = torch.cat([found["masks"] for found in two_ranks])
    assert len(ranks.unique(dim=0)) == 8


def test_a_resumed_run_goes_on_with_the_masks_that_it_would_have_drawn(tmp_path, monkeypatch):
    settings = settings_of(epochs=2, accumulate=2)
    whole = training.masks(0, settings)
    real = loop.take_step

    def cut(run: Run, rate, clip):
        if run.step == 1:
            raise KeyboardInterrupt
        real(run, rate, clip)

    monkeypatch.setattr(loop, "take_step", cut)
    with pytest.raises(KeyboardInterrupt):
        training.masks(0, settings, tmp_path)
    monkeypatch.setattr(loop, "take_step", real)
    torch.manual_seed(123)  # another process is in another state
    assert torch.equal(training.masks(0, settings, tmp_path, resume=True), whole[2:])


def test_ctrl_c_ends_a_run_after_the_step_and_twice_at_once(tmp_path, monkeypatch):
    real, before = loop.take_step, signal.getsignal(signal.SIGINT)

    def press(times):
        def step(run: Run, rate, clip):
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
            real(run, rate, clip)

        monkeypatch.setattr(loop, "take_step", step)
        with pytest.raises(KeyboardInterrupt):
            train(settings_of(ema=0.9), ALONE, tmp_path / str(times))
        assert signal.getsignal(signal.SIGINT) is before

    press(1)
    assert state(tmp_path / "1")["step"] == 1
    press(2)
    assert not (tmp_path / "2").exists()
    monkeypatch.setattr(loop, "take_step", real)
    train(settings_of(ema=0.9), ALONE, tmp_path / "1", resume=True)
    train(settings_of(ema=0.9), ALONE, tmp_path / "whole")
    assert_same(state(tmp_path / "1"), state(tmp_path / "whole"))


def test_two_ranks_that_accumulate_train_as_one_process_does(two_ranks):
    weights, loss = training.short_run(0, settings_of(lr=1e-3))
    assert len(two_ranks) == 2
    for found, mean in (found["short_run"] for found in two_ranks):
        torch.testing.assert_close(found, weights, atol=1e-6, rtol=0)
        assert mean == pytest.approx(loss, abs=1e-6)


def test_the_accuracy_of_the_same_weights_does_not_depend_on_the_ranks(two_ranks):
    alone = training.measured(0, 501)
    assert alone[1] == [0.0]  # the mean of rank 0
    assert [found["measured on 501"] for found in two_ranks] == [alone, alone]
    assert [found["measured on 1"] for found in two_ranks] == [training.measured(0, 1)] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--sync-bn"], "SyncBatchNorm works on CUDA only", id="sync on CPU"),
        pytest.param(["--batch-size=15", "--accumulate=2"], "1 ranks x 2 micro", id="indivisible"),
        pytest.param(["--limit=8", "--batch-size=16"], "at most 8 images", id="too few images"),
        pytest.param(["--epochs=0"], "epochs >= 1", id="no epoch"),
        pytest.param(["--steps=0"], "steps=0", id="no step"),
    ],
)
def test_a_bad_choice_ends_with_one_sentence(arguments, message, monkeypatch):
    monkeypatch.setenv("LABS_DEVICE", "cpu")
    with pytest.raises(SystemExit, match=message):
        main(["--limit", "64", *arguments])


@pytest.mark.gpu
def test_on_a_gpu_batch_norm_is_synchronised_and_the_loss_scaled():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    place = Place(0, 1, 0, torch.device("cuda", 0))
    run = build(settings_of(sync_bn=True, amp=True), place, DigitNet())
    assert isinstance(run.network.bn1, torch.nn.SyncBatchNorm)
    assert run.scaler.is_enabled()
    run = train(settings_of(amp=True, limit=256), place)
    assert run.scaler.get_scale() > 1


@pytest.fixture(scope="module")
def uninterrupted(two_ranks, uninterrupted_in):
    """Return the checkpoint of two ranks that nothing disturbed."""
    return state(uninterrupted_in)


def torchrun(folder, *options, trainer="labs.ddp_train", **others):
    """Start an agent that runs the trainer with the settings LONG."""
    run = ["--epochs=2", "--batch-size=16", "--accumulate=2", "--limit=512", "--ema=0.9"]
    run += ["--amp", f"--checkpoint={folder}", "--save-every=1", "--resume"]
    env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LABS_DEVICE": "cpu", **others}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *options, "-m", trainer, *run],
        env=os.environ | env | {"GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(pid):
    """Return the processes that this one started and that still run."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def lines_of(agent):
    try:
        out, errors = agent.communicate(timeout=HANG)
    except subprocess.TimeoutExpired:
        agent.terminate()  # it ends its ranks
        raise
    assert agent.returncode == 0, errors
    return re.findall(r"^epoch (\d) step (\d+) ", out, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_torchrun_restarts_a_killed_rank_and_nothing_is_lost(uninterrupted, tmp_path):
    ranks = ("--standalone", "--nproc-per-node=2", "--max-restarts=2")
    held = {"trainer": "tests.ddp.held", "HOLD": f"20 {tmp_path / 'release'}"}
    agent = torchrun(tmp_path, *ranks, **held)
    assert until((tmp_path / "checkpoint.pt").exists)
    os.kill(children(agent.pid)[-1], signal.SIGKILL)
    assert 0 < state(tmp_path)["step"] <= 20
    (tmp_path / "release").touch()
    assert lines_of(agent) == [("1", "32"), ("2", "64")]
    assert_same(state(tmp_path), uninterrupted)


@pytest.mark.slow
def test_two_agents_train_as_two_machines_do(uninterrupted, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meet = ("--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}")
    agents = [torchrun(tmp_path / str(i), *meet, f"--node-rank={i}") for i in range(2)]
    assert [lines_of(agent) for agent in agents] == [[("1", "32"), ("2", "64")], []]
    assert_same(state(tmp_path / "0"), uninterrupted)
    assert not (tmp_path / "1").exists()
