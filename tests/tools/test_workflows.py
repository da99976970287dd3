"""The hosted workflows may run only what they should, no longer than they should, as make does."""

import importlib.util
import re
import subprocess

import pytest
import yaml

from labs.stamp import ROOT
from tools.extras import requirements

FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in FILES}
JOBS = {(flow, name): job for flow, w in WORKFLOWS.items() for name, job in w["jobs"].items()}
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z]+):.*## ", MAKEFILE, re.M))

each_workflow = pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=WORKFLOWS)
each_job = pytest.mark.parametrize("job", JOBS.values(), ids=map("/".join, JOBS))


def triggers(workflow):
    """Return what starts a workflow; YAML 1.1 reads the key ``on`` as true."""
    return workflow[True]


def commands(job):
    return [step["run"] for step in job["steps"] if "run" in step]


def uses(job, action):
    return [step for step in job["steps"] if step.get("uses", "").startswith(f"{action}@")]


def test_both_workflows_are_looked_at():
    assert set(WORKFLOWS) == {"ci", "gpu"}
    assert [name for _, name in JOBS] == ["book-and-tests", "publish", "labs-alone", "lessons"]


@each_workflow
def test_no_workflow_gives_a_stranger_s_code_more_than_reading(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in triggers(workflow)
    assert "workflow_run" not in triggers(workflow)
    assert "secrets" not in str(workflow)


@each_workflow
def test_a_step_fails_when_any_part_of_a_pipe_fails(workflow):
    assert workflow["defaults"]["run"]["shell"] == "bash"  # named, it is bash -eo pipefail
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert not [step for step in steps if {"shell", "continue-on-error"} & set(step)]


@each_job
def test_every_job_has_a_limit_and_only_publishing_may_write(job):
    assert 0 < job["timeout-minutes"] <= 180
    allowed = {"pages": "write", "id-token": "write"} if uses(job, "actions/deploy-pages") else None
    assert job.get("permissions") == allowed


@each_job
def test_no_checkout_leaves_a_token_behind(job):
    for step in uses(job, "actions/checkout"):
        assert step["with"]["persist-credentials"] is False


@each_job
def test_every_action_is_a_named_version(job):
    for step in job["steps"]:
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/x@v1")), step


@each_job
def test_every_command_exists(job):
    for command in commands(job):
        for target in re.findall(r"\bmake (?:-s )?([\w.-]+)", command):
            assert target in TARGETS, command
        for module in re.findall(r"python -m ([\w.]+)", command):
            assert importlib.util.find_spec(module), command
        for script in re.findall(r"\bbash (\S+)", command):
            assert (ROOT / script).is_file(), command
        first = command.replace("(", "").split()[0]
        assert first in ("make", "bash", "python"), f"{command}: put it into the Makefile"


@each_job
def test_what_a_job_proves_is_one_command_of_the_makefile(job):
    proof = [command for command in commands(job) if "pip install" not in command]
    assert not [command for command in proof if "pytest" in command], "put it into the Makefile"


class TestTheHostedWorkflow:
    @pytest.fixture
    def jobs(self):
        return WORKFLOWS["ci"]["jobs"]

    def test_it_runs_on_main_on_pull_requests_and_every_week(self):
        on = triggers(WORKFLOWS["ci"])
        assert set(on) == {"push", "pull_request", "schedule"}
        assert on["push"] == {"branches": ["main"]}

    def test_a_run_on_main_is_never_cancelled(self):
        cancel = WORKFLOWS["ci"]["concurrency"]["cancel-in-progress"]
        assert cancel == "${{ github.event_name == 'pull_request' }}"

    def test_the_limit_leaves_room_for_a_script_that_ends_by_itself(self, jobs):
        minutes = int(re.search(r"^minutes=(\d+)$", (ROOT / ".ci/run").read_text(), re.M)[1])
        assert minutes < 60 < jobs["book-and-tests"]["timeout-minutes"] <= 80
        assert "bash .ci/run" in commands(jobs["book-and-tests"])

    def test_the_site_and_the_executed_notebooks_are_kept(self, jobs):
        kept = uses(jobs["book-and-tests"], "actions/upload-artifact")
        paths = {step["with"]["name"]: step["with"]["path"].split() for step in kept}
        assert paths == {
            "site": ["_build/html"],
            "executed-notebooks": ["lessons/**/*.ipynb", "lessons/measured/**"],
        }
        assert all(step["if"] == "always()" for step in kept)

    def test_pages_get_the_site_that_was_proven_on_main(self, jobs):
        job = jobs["publish"]
        assert job["if"] == "github.ref == 'refs/heads/main' && github.event_name != 'pull_request'"
        assert set(job["needs"]) == {"book-and-tests", "labs-alone"}
        assert commands(job) == [], "nothing of the repository runs with the right to publish"
        assert job["environment"]["name"] == "github-pages"
        assert job["concurrency"] == {"group": "pages", "cancel-in-progress": False}
        assert [step["uses"].partition("@")[0] for step in job["steps"]] == [
            "actions/download-artifact",
            "actions/configure-pages",
            "actions/upload-pages-artifact",
            "actions/deploy-pages",
        ]
        fetched, _, given, _ = job["steps"]
        assert fetched["with"] == {"name": "site", "path": given["with"]["path"]}

    def test_labs_is_proven_alone_in_parallel_and_without_cuda(self, jobs):
        job = jobs["labs-alone"]
        assert job["timeout-minutes"] <= 30
        assert commands(job)[-1] == "make alone PY=python JOBS=auto"
        torch, extras, rest, check, _ = commands(job)
        assert "torch==${{ matrix.torch }}" in torch
        assert "torchvision==${{ matrix.torchvision }}" in torch
        assert re.search(r"--index-url \S+/cpu$", torch)
        assert extras.endswith("> extras.txt")
        assert rest == "python -m pip install -r extras.txt -e ."
        assert "torch.version.cuda is None" in check

    def test_the_matrix_holds_the_oldest_torch_and_every_python(self, jobs):
        rows = jobs["labs-alone"]["strategy"]["matrix"]["include"]
        assert {row["python"] for row in rows} == {"3.11", "3.12", "3.13"}
        needed = (ROOT / "pyproject.toml").read_text()
        for name in ("torch", "torchvision"):
            oldest = re.search(rf'"{name}>=([\d.]+)"', needed)[1]
            pinned = re.search(rf'"{name}==([\d.]+)"', needed)[1]
            assert {row[name] for row in rows} == {f"{oldest}.*", pinned}

    def test_the_extras_lose_pytorch_and_nothing_else(self, jobs):
        command = commands(jobs["labs-alone"])[1]
        pattern = re.search(r"grep -vE '(.+)'", command)[1]
        wanted = [*requirements("lessons"), *requirements("dev")]
        dropped = [line for line in wanted if re.search(pattern, line)]
        assert [line.partition("=")[0] for line in dropped] == ["torch", "torchvision"]


class TestTheGpuWorkflow:
    @pytest.fixture
    def job(self):
        return WORKFLOWS["gpu"]["jobs"]["lessons"]

    def test_a_push_to_a_labelled_pull_request_starts_nothing(self, job):
        on = triggers(WORKFLOWS["gpu"])
        assert set(on) == {"schedule", "workflow_dispatch", "pull_request"}
        assert on["pull_request"] == {"types": ["labeled"]}
        assert job["if"] == (
            "github.event_name != 'pull_request' || github.event.label.name == 'gpu'"
        )

    def test_it_runs_the_commit_that_was_labelled(self, job):
        (checkout,) = uses(job, "actions/checkout")
        assert checkout["with"]["ref"] == "${{ github.event.pull_request.head.sha || github.sha }}"

    def test_one_run_has_the_device_at_a_time(self):
        assert WORKFLOWS["gpu"]["concurrency"] == {"group": "gpu", "cancel-in-progress": False}

    def test_it_checks_then_executes_and_keeps_what_it_measured(self, job):
        assert commands(job) == [
            "make gpu",
            "make lessons FORCE=1 JOBS=1",
            'make -s times | tee timings.md >> "$GITHUB_STEP_SUMMARY"',
        ]
        (kept,) = uses(job, "actions/upload-artifact")
        assert "lessons/measured/**" in kept["with"]["path"].split()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("gpu", ["labs doctor", "-m gpu", "--nbval-cell-timeout 1800", "--junitxml nbval.xml"]),
        ("alone", ['-m "not browser"', "-n 2", "--ignore tests/test_lessons.py"]),
        ("lessons FORCE=1 JOBS=1", ["tools.execute  --force --jobs 1"]),
        ("times", ["tools.timings"]),
    ],
)
def test_make_runs_what_the_workflows_rely_on(target, expected):
    command = ["make", "-n", *target.split()]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [words for words in expected if words not in printed] == []


def test_every_target_of_the_makefile_is_declared_as_none_of_a_file():
    phony = set(re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.M)[1].split())
    assert phony == TARGETS
