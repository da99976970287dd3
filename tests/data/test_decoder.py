import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest

import labs
from labs.data import child, faults, forked
from labs.data.scan import scan_images
from labs.imagefile import check_file, serve
from tests.data.trees import smooth_picture, write_tree
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


STARTED, FORKED = "child._PROGRAM = {program!r}", "serve.check_file = hold"


@pytest.mark.parametrize("way", [STARTED, FORKED], ids=["started", "forked"])
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_a_scan_that_is_stopped_leaves_no_process(ending, way, tmp_path):
    write_tree(tmp_path / "root", each=30)
    release = tmp_path / "release"  # until it is there, no file is answered for
    hold = f"while not os.path.exists({str(release)!r}): time.sleep(0.02)"
    body = noting_its_pid(tmp_path / "pids", hold)
    process = script(
        tmp_path,
        f"""
        import os, time
        from labs.data import child, scan
        from labs.imagefile import serve
        def hold(path, rules):
            exec({body!r})
        {way.format(program=deadly(tmp_path, body))}
        scan._worth = len
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


# ------------------------------------------------------------- a fork instead of an interpreter

forks = pytest.mark.skipif(not child._can_fork(), reason="only Linux forks")


def harm_forks(monkeypatch, harm):
    """Let ``harm(path)`` happen in a fork before each file is checked."""

    def check(path, rules):
        harm(path)
        return check_file(path, rules)

    monkeypatch.setattr(serve, "check_file", check)


def do_harm(harm, name, marks):
    """Return what does this harm at the file of this name, and leaves a mark before."""

    def at(path):
        if path.name == name:
            (marks / str(os.getpid())).touch()
            exec(harm)

    marks.mkdir()
    return at


HARMS = [
    pytest.param("os.kill(os.getpid(), signal.SIGKILL)", "crash: .* killed", id="killed"),
    pytest.param("os.kill(os.getpid(), signal.SIGSEGV)", "crash: .* SIGSEGV", id="segfault"),
    pytest.param("os._exit(3)", "crash: .* exit code 3", id="exit"),
    pytest.param("raise SystemExit(7)", "crash: .* exit code 7", id="system exit"),
    pytest.param("held = bytearray(16 * 2**30)", "crash: .* exit code 1", id="memory"),
    pytest.param("time.sleep(600)", r"timeout: no answer in \S+ s", id="hangs"),
]


@forks
@pytest.mark.parametrize(("harm", "reason"), HARMS)
def test_a_file_that_ends_forks_and_interpreters_is_named(harm, reason, tmp_path, monkeypatch):
    root = tmp_path / "root"
    write_tree(root, each=2)
    harm_forks(monkeypatch, do_harm(harm, "001.png", tmp_path / "marks"))
    monkeypatch.setattr(child, "_PROGRAM", deadly(tmp_path, f"if path.name == '001.png': {harm}"))
    monkeypatch.setattr(child, "_can_fork", lambda: True)
    for timeout in (2, 20, HANG):  # longer where a busy machine is too slow for sound files
        scan = scan_images(root, workers=1, timeout=timeout if "sleep" in harm else HANG)
        if len(scan.good) == 3:
            break
    assert noted(tmp_path / "marks")
    assert [path.name for path, _ in scan.bad] == ["001.png"] * 3
    assert pd.Series([why for _, why in scan.bad]).str.fullmatch(f"{reason}.*").all()
    assert len(scan.good) == 3


@forks
@pytest.mark.parametrize(("harm", "reason"), HARMS)
def test_a_fork_alone_never_calls_a_file_bad(harm, reason, tmp_path, monkeypatch):
    """A lock that some thread held when the fork was made must not speak against a sound file."""
    root = tmp_path / "root"
    paths = write_tree(root, each=2)
    harm_forks(monkeypatch, do_harm(harm, "001.png", tmp_path / "marks"))
    for timeout in (2, 20, HANG):
        scan = scan_images(root, workers=1, timeout=timeout if "sleep" in harm else HANG)
        if not scan.bad:
            break
    assert scan.good == paths
    assert not any(map(alive, noted(tmp_path / "marks")))
    assert os.getpid() not in noted(tmp_path / "marks")


@forks
def test_a_fork_that_is_silent_from_the_start_is_replaced(tmp_path, monkeypatch):
    paths = write_tree(tmp_path / "root", each=1)
    monkeypatch.setattr(forked, "limit_memory", lambda rules: signal.pause())
    monkeypatch.setattr(child, "_FORK_TIMEOUT", 0.2)
    assert scan_images(tmp_path / "root", workers=1).good == paths


@forks
def test_a_system_that_makes_no_fork_gets_an_interpreter(tmp_path, monkeypatch):
    paths = write_tree(tmp_path / "root", each=1)
    before = os.listdir("/proc/self/fd")

    def refuse():
        raise OSError("no memory")

    monkeypatch.setattr(os, "fork", refuse)
    assert scan_images(tmp_path / "root", workers=1).good == paths
    assert os.listdir("/proc/self/fd") == before


@forks
def test_forks_leave_no_process_and_nothing_open(tmp_path, monkeypatch):
    root = tmp_path / "root"
    write_tree(root, each=30)
    (tmp_path / "pids").mkdir()
    harm_forks(monkeypatch, lambda path: (tmp_path / "pids" / str(os.getpid())).touch())
    monkeypatch.setattr("labs.data.scan._worth", len)
    before = os.listdir("/proc/self/fd")
    assert len(scan_images(root, workers=2).good) == 90
    pids = noted(tmp_path / "pids")
    assert pids
    assert os.getpid() not in pids
    assert not any(map(alive, pids))
    assert os.listdir("/proc/self/fd") == before


@forks
def test_a_fork_says_nothing_of_what_its_parent_has_not_said_yet(tmp_path):
    write_tree(tmp_path / "root")
    process = script(
        tmp_path,
        f"""
        import os
        from labs.data.scan import scan_images
        from labs.imagefile import serve
        check = serve.check_file
        def loud(path, rules):
            print("heard" * 10_000)
            return check(path, rules)
        serve.check_file = loud
        print("before")
        scan_images({str(tmp_path / "root")!r}, workers=2)
        print("after")
        """,
    )
    assert process.communicate(timeout=HANG)[0] == "before\nafter\n"


@forks
def test_a_fork_reports_as_an_interpreter_does(tmp_path, monkeypatch):
    write_tree(tmp_path, each=12)
    faults.damage(tmp_path, share=0.9)
    by_fork = scan_images(tmp_path, workers=1)
    monkeypatch.setattr(child, "_can_fork", lambda: False)
    assert scan_images(tmp_path, workers=1) == by_fork


def test_paths_longer_than_a_pipe_are_asked_for_in_parts(tmp_path):
    folder = tmp_path.joinpath(*["\u00e9" * 100] * 8)
    folder.mkdir(parents=True)
    for index in range(16):
        smooth_picture(index).save(folder / f"{index}.png")
    assert len(scan_images(tmp_path, workers=1).good) == 16
