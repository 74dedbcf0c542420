"""The wheel and the sdist: what is in them, what they ask for, and that the wheel starts."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fastft", "pipelines")
#: What is in packages and no module.
DATA = {
    "fastft/py.typed",
    "fastft/report/templates/page.css",
    "fastft/report/templates/page.html",
    "fastft/report/templates/page.js",
    "pipelines/py.typed",
}
#: For those who work on fastft; and extras of which some machine cannot have all at once.
NOT_IN_ALL = {"all", "bench", "dev", "dali-cu13", "ffcv"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project without what commands and builds leave in it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    leftovers = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in (*PACKAGES, "bench", "tests/house"):
        shutil.copytree(ROOT / name, source / name, ignore=leftovers)
    return source


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was built of it."""
    out = tmp_path_factory.mktemp("built")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def wheel(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked."""
    [path] = built.glob("*.whl")
    assert path.name.endswith("-py3-none-any.whl")
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    [path] = wheel.glob("*.dist-info/METADATA")
    return Parser().parsestr(path.read_text(encoding="utf-8"))


def test_wheel_holds_packages_and_nothing_else(wheel: Path, source: Path):
    files = [path.relative_to(wheel) for path in wheel.rglob("*") if path.is_file()]
    found = {str(each) for each in files if not each.parts[0].endswith(".dist-info")}
    modules = {str(path.relative_to(source)) for path in texts_of(source, "*.py")}
    assert found == modules | DATA


def texts_of(folder: Path, pattern: str) -> list[Path]:
    return [path for name in PACKAGES for path in (folder / name).rglob(pattern)]


def test_sdist_leaves_tests_and_benchmarks_out(built: Path):
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2].partition("/")[0] for name in archive.getnames()}
    assert {*PACKAGES, "pyproject.toml", "README.md", "LICENSE"} <= names
    assert names & {"tests", "bench", "build"} == set()


def test_all_is_every_extra_without_compiler(metadata: Message):
    extras = set(metadata.get_all("Provides-Extra", []))
    [line] = [each for each in metadata.get_all("Requires-Dist", []) if each.startswith("fastft[")]
    assert set(line.partition("[")[2].partition("]")[0].split(",")) == extras - NOT_IN_ALL


def test_extras_that_texts_name_exist(metadata: Message):
    texts = [*ROOT.glob("*.md"), *texts_of(ROOT, "*.py"), *texts_of(ROOT, "README.md")]
    named = {
        extra
        for path in texts
        for names in re.findall(r"fastft\[([a-z0-9,-]+)\]", path.read_text(encoding="utf-8"))
        for extra in names.split(",")
    }
    assert "dali" in named
    assert named <= set(metadata.get_all("Provides-Extra", []))


def test_classifiers_name_the_supported_pythons(metadata: Message):
    said = [each.rpartition(" :: ")[2] for each in metadata.get_all("Classifier", [])]
    assert [each for each in said if re.fullmatch(r"3\.\d+", each)] == [
        "3.10",
        "3.11",
        "3.12",
        "3.13",
    ]
    assert metadata["Requires-Python"] == "<3.14,>=3.10"


def test_commands_start_from_the_wheel(wheel: Path, tmp_path: Path):
    [points] = wheel.glob("*.dist-info/entry_points.txt")
    assert points.read_text() == "[console_scripts]\nfastft = fastft.__main__:main\n"
    code = (
        "import sys, pipelines, fastft.report.page as page; from fastft.__main__ import main;"
        "print(pipelines.__file__, page.__file__); sys.argv[1:] = ['--help']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(wheel), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count(str(wheel)) == 2
    assert "Usage: fastft" in done.stdout
