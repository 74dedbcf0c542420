"""The Dockerfile: what its steps take exists, nothing is left behind, and nobody is root."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Step(NamedTuple):
    """An instruction: its stage, counted from 0, its name and the rest of it."""

    stage: int
    name: str
    text: str


def read_steps() -> list[Step]:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", "")
    steps, stage = [], -1
    for line in filter(None, text.splitlines()):
        name, rest = line.split(maxsplit=1)
        stage += name == "FROM"
        steps.append(Step(stage, name, " ".join(rest.split())))
    return steps


STEPS = read_steps()
RUNS = [step for step in STEPS if step.name == "RUN"]


def test_context_holds_what_is_copied():
    copied = {
        each
        for step in STEPS
        if step.name == "COPY" and not step.text.startswith("--from=")
        for each in step.text.split()[:-1]
    }
    assert copied == {"pyproject.toml", "README.md", "LICENSE", "fastft", "pipelines"}
    assert all((ROOT / each).exists() for each in copied)
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*"
    assert {each[1:] for each in ignored if each.startswith("!")} == copied


def test_steps_are_valid_shell():
    for step in RUNS:
        done = subprocess.run(["sh", "-n", "-c", step.text], capture_output=True, check=False)
        assert done.returncode == 0, step.text


def test_no_step_leaves_a_cache():
    calls = [call for step in RUNS for call in re.findall(r"pip (?:install|wheel).*", step.text)]
    assert len(calls) == 2  # the second stage's two are one match
    assert all(call.count("--no-cache-dir") == len(re.findall("pip ", call)) for call in calls)
    apt = [step.text for step in RUNS if "apt-get install" in step.text]
    assert [text.endswith("rm -rf /var/lib/apt/lists/*") for text in apt] == [True]


def test_the_image_runs_fastft_as_no_root():
    last = [step for step in STEPS if step.stage == max(each.stage for each in STEPS)]
    names = [step.name for step in last]
    assert dict(step[1:] for step in last)["USER"] == "fastft"
    assert dict(step[1:] for step in last)["ENTRYPOINT"] == '["fastft"]'
    assert "RUN" not in names[names.index("USER") :]


def test_default_extras_exist():
    [extras] = [
        step.text.partition("=")[2].split(",")
        for step in STEPS
        if step.name == "ARG" and step.text.startswith("EXTRAS=")
    ]
    section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    known = re.findall(r"^([\w-]+) = \[", section.partition("\n[")[0], re.MULTILINE)
    assert set(extras) <= set(known)
