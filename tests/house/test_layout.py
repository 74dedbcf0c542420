"""Which room may import which, what starting up may load, how long a file and a room may be."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipelines", "fastft")
MAX_LINES, MAX_FILES = 400, 22
HEAVY = {"ffcv", "fsspec", "matplotlib", "numba", "nvidia", "onnx", "onnxruntime", "onnxscript"}
HEAVY |= {"mlflow", "pyarrow", "tensorboard", "timm", "torch", "torchvision", "wandb"}

#: Rooms, lowest first: a package, or a module of a top level. What a room imports of others lies in
#: lower layers; its own modules import each other, but not in a circle.
LAYERS = (
    ("pipelines.codes",),
    (
        "pipelines.atomic",
        "pipelines.errors",
        "pipelines.kernels",
        "pipelines.memory",
        "pipelines.order",
    ),
    ("pipelines.augment", "pipelines.preprocessing", "pipelines.vision"),
    ("pipelines.operations", "pipelines.sampling"),
    (
        "pipelines.findings",
        "pipelines.plan",
        "pipelines.transfer",
        "pipelines.workers",
    ),
    ("pipelines.forks", "pipelines.images"),
    ("pipelines.compiling",),
    ("pipelines.formats",),
    ("pipelines.decoder", "pipelines.reference"),
    ("pipelines.changing", "pipelines.regions"),
    ("pipelines.conversion",),
    ("pipelines.remote",),
    ("pipelines.rendering",),
    ("pipelines.resident",),
    ("pipelines.loaders",),
    ("pipelines",),  # what it offers to others
    ("fastft",),  # its version
    ("fastft.config", "fastft.results", "fastft.system"),
    ("fastft.datasets", "fastft.runs"),
    ("fastft.model",),
    ("fastft.train",),
    ("fastft.bench", "fastft.check", "fastft.evaluate", "fastft.experiments", "fastft.parity"),
    ("fastft.doctor", "fastft.export"),
    ("fastft.report",),
    ("fastft.cli",),
    ("fastft.__main__",),
)
# importer -> all of ours that it may import
NOTHING_BUT: dict[str, tuple[str, ...]] = {
    "pipelines.kernels*": ("pipelines.codes", "pipelines.kernels.*"),
    "pipelines.transfer": ("pipelines.errors",),
    "fastft.config.*": ("fastft.config.*", "pipelines.*"),
}
_RENDERS = (
    "pipelines.changing.*",
    "pipelines.loaders.*",
    "pipelines.rendering.*",
    "pipelines.resident.*",
)
# imported -> all that may import it
ONLY_BY = {
    "pipelines.kernels*": (
        *_RENDERS,
        "pipelines.conversion.entry_points",
        "pipelines.kernels.*",
        "pipelines.regions",
    ),
    "pipelines.transfer": _RENDERS,
}

Imports = Mapping[str, set[str]]


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def room(name: str) -> tuple[int, str] | None:
    """The layer and the room of a module, or None."""
    for i, rooms in enumerate(LAYERS):
        for each in rooms:
            if name == each or (each not in PACKAGES and name.startswith(f"{each}.")):
                return i, each
    return None


def violations(imports: Imports) -> list[str]:
    found = []
    for name, targets in sorted(imports.items()):
        own = room(name)
        if own is None:
            found.append(f"{name} is in no room")
            continue
        for target in sorted(targets):
            other = room(target)
            if other is None or (other[1] != own[1] and other[0] >= own[0]):
                found.append(f"{name} imports {target}, which is not below it")
            for pattern, allowed in NOTHING_BUT.items():
                if matches(name, (pattern,)) and not matches(target, allowed):
                    found.append(f"{name} imports {target}, may import {allowed}")
            for pattern, allowed in ONLY_BY.items():
                if matches(target, (pattern,)) and not matches(name, allowed):
                    found.append(f"{name} imports {target}, which only {allowed} may")
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        found.append(f"circle: {' -> '.join(error.args[1])}")
    return found


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All within a module; what expressions are made of, which are many times as many, is not."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for each in getattr(node, name, ()):
            yield each
            yield from statements(each)


def read_imports(root: Path) -> dict[str, set[str]]:
    """Imports of ours by module, those inside functions and TYPE_CHECKING included."""
    paths = {
        module_name(path, root): path
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }
    imports: dict[str, set[str]] = {}
    for name, path in paths.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        names: set[str] = set()
        for node in statements(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package.split(".")[: 1 - node.level or None] if node.level else []
                base += node.module.split(".") if node.module else []
                for alias in node.names:
                    full = ".".join([*base, alias.name])
                    names.add(full if full in paths else ".".join(base))
        imports[name] = {n for n in names if n.split(".")[0] in PACKAGES} - {name}
    return imports


def test_imports_run_one_way():
    imports = read_imports(ROOT)
    assert {"pipelines", "fastft", "fastft.cli.main"} <= set(imports)
    assert violations(imports) == []


@pytest.mark.parametrize(
    ("imports", "message"),
    [
        ({"pipelines.plan": {"fastft.config.train"}}, "not below"),
        ({"pipelines.plan": {"pipelines.formats.folder"}}, "not below"),
        ({"pipelines.formats.beton": {"pipelines.conversion.run"}}, "not below"),
        ({"pipelines.decoder": {"pipelines.reference"}}, "not below"),
        ({"fastft.train.run": {"fastft.cli.main"}}, "not below"),
        ({"fastft.bench.run": {"fastft.parity.run"}}, "not below"),
        ({"fastft.train.run": {"pipelines.unknown"}}, "not below"),
        ({"pipelines.unknown": set()}, "no room"),
        ({"fastft.unknown": set()}, "no room"),
        ({"pipelines.kernels.cpu": {"pipelines.errors"}}, "may import"),
        ({"pipelines.transfer": {"pipelines.memory"}}, "may import"),
        ({"fastft.config.train": {"fastft"}}, "may import"),
        ({"pipelines.conversion.run": {"pipelines.kernels.cpu"}}, "only"),
        ({"fastft.train.run": {"pipelines.transfer"}}, "only"),
        (
            {"fastft.train.run": {"fastft.train.loop"}, "fastft.train.loop": {"fastft.train.run"}},
            "circle",
        ),
    ],
)
def test_each_rule_can_fail(imports: Imports, message: str):
    assert any(message in line for line in violations(imports))


def test_rooms_import_their_own_modules():
    assert violations({"fastft.train.run": {"fastft.train.loop", "fastft.model.optim"}}) == []


def test_imports_are_found_in_every_form(tmp_path: Path):
    for name in ("pipelines/__init__", "pipelines/plan", "pipelines/loaders/__init__"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "pipelines/loaders/base.py").write_text(
        "import pipelines.errors\n"
        "from pipelines import plan\n"
        "from .. import thing\n"
        "def lazy():\n"
        "    from ..beton import read_index\n"
        "    from . import other\n"
    )
    assert read_imports(tmp_path)["pipelines.loaders.base"] == {
        "pipelines",
        "pipelines.beton",
        "pipelines.errors",
        "pipelines.loaders",
        "pipelines.plan",
    }


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("import pipelines, pipelines.conversion.run, pipelines.reference", ""),
        ("import sys; sys.argv[1:] = ['--help']; import fastft.cli.main as c; c.main()", "Usage"),
    ],
    ids=["pipelines", "fastft --help"],
)
def test_starting_up_loads_nothing_heavy(code: str, output: str):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert output in done.stdout
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "pipelines" in loaded or "fastft" in loaded
    assert loaded & HEAVY == set()


def test_files_are_short():
    folders = (*PACKAGES, "bench", "tests")
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def test_class_variables_say_their_type():
    """Python 3.10 cannot evaluate the annotation otherwise, which pydantic wants it to."""
    bare = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if re.search(r": ClassVar( =|$)", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert bare == []


def modules_by_folder() -> dict[Path, list[str]]:
    found: dict[Path, list[str]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            found.setdefault(path.parent, []).append(path.name)
    return found


def test_rooms_are_small():
    counts = Counter({str(folder): len(names) for folder, names in modules_by_folder().items()})
    assert {folder: n for folder, n in counts.items() if n > MAX_FILES} == {}


def test_a_rooms_readme_names_its_files():
    for folder, names in modules_by_folder().items():
        text = (folder / "README.md").read_text(encoding="utf-8")
        listed = re.findall(r"^\| `([\w/]+(?:\.py|/))` \|", text, re.MULTILINE)
        rooms = [f"{each.name}/" for each in folder.iterdir() if (each / "__init__.py").exists()]
        expected = sorted([*rooms, *(name for name in names if name != "__init__.py")])
        assert sorted(listed) == expected, f"{folder / 'README.md'}"


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_no_addresses(name: str):
    assert "://" not in (ROOT / name).read_text(encoding="utf-8")
