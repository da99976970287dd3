import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest

import labs
from labs.data import child
from labs.data.scan import scan_images
from tests.data.trees import write_tree
from tests.waiting import HANG, alive, until


def deadly(tmp_path, body):
    """Write a decoding program in which some file names do harm, and return its command."""
    program = tmp_path / "deadly.py"
    harm = textwrap.indent(textwrap.dedent(body), "    ")
    program.write_text(
        "import os, signal, sys, time\n"
        "from labs.imagefile import __main__ as honest\n"
        "check_file = honest.check_file\n"
        f"def check(path, rules):\n{harm}\n"
        "    return check_file(path, rules)\n"
        "honest.check_file = check\n"
        "honest.main()\n"
    )
    return [sys.executable, "-P", str(program)]


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", "crash: .* killed", id="killed"),
        pytest.param("os.kill(os.getpid(), signal.SIGSEGV)", "crash: .* SIGSEGV", id="segfault"),
        pytest.param("os._exit(3)", "crash: .* exit code 3", id="exit"),
        pytest.param("time.sleep(600)", r"timeout: no answer in \S+ s", id="hangs"),
    ],
)
def test_a_file_that_ends_its_process_is_named_and_the_rest_goes_on(
    harm, reason, tmp_path, monkeypatch
):
    root = tmp_path / "root"
    paths = write_tree(root, each=20)
    body = f"if path.name in ('004.jpg', '011.png'): {harm}"
    monkeypatch.setattr(child, "_PROGRAM", deadly(tmp_path, body))
    for timeout in (0.5, 8, HANG):  # longer where a busy machine is too slow for sound files
        scan = scan_images(root, workers=2, timeout=timeout if "sleep" in harm else HANG)
        if len(scan.good) == 60 - 6:
            break
    assert [path for path, _ in scan.bad] == [p for p in paths if p.stem in ("004", "011")]
    assert pd.Series([why for _, why in scan.bad]).str.fullmatch(f"{reason}.*").all()
    assert len(scan.good) == 60 - 6


def test_a_process_that_ends_is_asked_how_before_it_is_killed(tmp_path, monkeypatch):
    """What the scan itself does to a dying process must not become the reason."""
    root = tmp_path / "root"
    write_tree(root)
    body = "if path.name == '002.jpg': raise SystemExit(7)"
    monkeypatch.setattr(child, "_PROGRAM", deadly(tmp_path, body))
    reasons = {reason for _, reason in scan_images(root, workers=1).bad}
    assert reasons == {"crash: the decoder ended with exit code 7"}


@pytest.mark.parametrize(
    ("kills", "why"),
    [([3, 3, 3, 3], "by SIGKILL, not by this scan"), ([3, 4, 5, 6], "because the")],
)
def test_the_memory_is_blamed_only_when_it_was_full(kills, why, tmp_path, monkeypatch):
    root, counts = tmp_path / "root", iter(kills)
    write_tree(root, classes=["ant"], each=1)
    body = "os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(child, "_PROGRAM", deadly(tmp_path, body))
    monkeypatch.setattr(child, "_kills_for_memory", lambda: next(counts))
    ((_, reason),) = scan_images(root, workers=1).bad
    assert reason.startswith(f"crash: the decoder was killed {why}")


def test_a_file_that_wants_all_the_memory_is_bad_and_ends_nothing(tmp_path, monkeypatch):
    root = tmp_path / "root"
    write_tree(root)
    body = "if path.name == '002.jpg': held = bytearray(16 * 2**30)"
    monkeypatch.setattr(child, "_PROGRAM", deadly(tmp_path, body))
    reasons = {reason for _, reason in scan_images(root, workers=1).bad}
    assert reasons == {"crash: the decoder ended with exit code 1"}


def test_a_bystander_of_a_full_memory_gets_a_second_chance(tmp_path, monkeypatch):
    root = tmp_path / "root"
    write_tree(root)
    body = f"""
        if path.name == '002.jpg' and not os.path.exists({str(tmp_path / "once")!r}):
            open({str(tmp_path / "once")!r}, 'w').close()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    monkeypatch.setattr(child, "_PROGRAM", deadly(tmp_path, body))
    assert len(scan_images(root, workers=1).good) == 12
    assert (tmp_path / "once").exists()


def test_a_program_that_does_not_start_says_why(tmp_path, monkeypatch):
    write_tree(tmp_path / "root")
    (tmp_path / "broken.py").write_text("raise SystemExit('no Pillow today')")
    monkeypatch.setattr(child, "_PROGRAM", [sys.executable, str(tmp_path / "broken.py")])
    with pytest.raises(RuntimeError, match=r"pass workers=0 .*\sno Pillow today"):
        scan_images(tmp_path / "root", workers=2)


def test_chatter_on_stdout_does_not_mix_with_the_answers(tmp_path, monkeypatch):
    root = tmp_path / "root"
    write_tree(root)
    monkeypatch.setattr(child, "_PROGRAM", deadly(tmp_path, "os.write(1, b'libtiff says hello')"))
    assert len(scan_images(root, workers=1).good) == 12


def script(tmp_path, text):
    (tmp_path / "script.py").write_text(textwrap.dedent(text))
    environment = os.environ | {"PYTHONPATH": str(Path(labs.__file__).parents[1])}
    command = [sys.executable, str(tmp_path / "script.py")]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_script_needs_no_main_guard(tmp_path):
    write_tree(tmp_path / "root")
    process = script(
        tmp_path,
        f"""
        from labs.data.scan import scan_images
        print(len(scan_images({str(tmp_path / "root")!r}, workers=2).good))
        """,
    )
    assert process.communicate(timeout=HANG)[0] == "12\n"


def noting_its_pid(folder, then="pass"):
    folder.mkdir()
    return f"open({str(folder)!r} + f'/{{os.getpid()}}', 'w').close()\n{then}"


def noted(folder):
    return [int(path.name) for path in folder.iterdir()]


def test_a_scan_that_ends_well_leaves_no_process(tmp_path, monkeypatch):
    write_tree(tmp_path / "root", each=30)
    program = deadly(tmp_path, noting_its_pid(tmp_path / "pids"))
    monkeypatch.setattr(child, "_PROGRAM", program)
    assert len(scan_images(tmp_path / "root", workers=2).good) == 90
    assert noted(tmp_path / "pids")
    assert not any(map(alive, noted(tmp_path / "pids")))


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_a_scan_that_is_stopped_leaves_no_process(ending, tmp_path):
    write_tree(tmp_path / "root", each=30)
    release = tmp_path / "release"  # until it is there, no file is answered for
    hold = f"while not os.path.exists({str(release)!r}): time.sleep(0.02)"
    body = noting_its_pid(tmp_path / "pids", hold)
    process = script(
        tmp_path,
        f"""
        from labs.data import decoder, scan
        decoder._PROGRAM = {deadly(tmp_path, body)!r}
        scan.scan_images({str(tmp_path / "root")!r}, workers=2, timeout={HANG})
        print("finished")
        """,
    )
    assert until(lambda: len(noted(tmp_path / "pids")) == 2)
    process.send_signal(ending)
    out, err = process.communicate(timeout=HANG)
    if ending == signal.SIGKILL:  # nobody is left to end them: they do it after their file
        release.touch()
    assert out == ""
    assert process.returncode != 0
    assert ("KeyboardInterrupt" in err) == (ending == signal.SIGINT)
    assert until(lambda: not any(map(alive, noted(tmp_path / "pids"))))
