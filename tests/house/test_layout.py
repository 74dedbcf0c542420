"""What may import what, what starting up may load, how long a file may be."""

import ast
import subprocess
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipelines", "fastft")
MAX_LINES = 400
HEAVY = {"ffcv", "matplotlib", "numba", "nvidia", "torch", "torchvision"}

# Lowest first. A module imports only from layers below its own; an exact name beats a pattern.
LAYERS = (
    ("pipelines.memory",),
    (
        "pipelines.atomic",
        "pipelines.resident.claims",
        "pipelines.images.depth",
        "pipelines.errors",
        "pipelines.formats.layout",
        "pipelines.limits",
        "pipelines.order",
        "pipelines.workers",
    ),
    (
        "pipelines.findings",
        "pipelines.forks",
        "pipelines.formats.held_file",
        "pipelines.images.pillow",
        "pipelines.formats.shards",
        "pipelines.resident.shared_file",
        "pipelines.formats.splits",
    ),
    (
        "pipelines.formats.archive_member",
        "pipelines.formats.beton",
        "pipelines.formats.beton_writer",
        "pipelines.formats.folder",
        "pipelines.images.jpeg",
        "pipelines.kernels.compiled",
        "pipelines.kernels.normalizing",
        "pipelines.kernels.passes",
        "pipelines.kernels.vectors",
        "pipelines.plan",
        "pipelines.formats.recordio_format",
        "pipelines.transfer",
        "pipelines.images.unreadable",
        "pipelines.vision",
    ),
    ("pipelines.kernels.gpu", "pipelines.images.scans", "pipelines.images.turbojpeg"),
    ("pipelines.images.damage", "pipelines.images.turning"),
    (
        "pipelines.formats.archive",
        "pipelines.formats.encode",
        "pipelines.kernels.planes",
        "pipelines.conversion.outputs",
        "pipelines.formats.recordio",
    ),
    (
        "pipelines.conversion.journal",
        "pipelines.kernels.cpu",
        "pipelines.conversion.inputs",
        "pipelines.formats.source",
    ),
    ("pipelines.conversion.report",),
    (
        "pipelines.conversion.run",
        "pipelines.decoder",
        "pipelines.kernels",
        "pipelines.conversion.merge",
        "pipelines.reference",
    ),
    ("pipelines.resident.store",),
    ("pipelines.resident.store_memory",),
    ("pipelines.loaders.base",),
    (
        "pipelines.resident.filler",
        "pipelines.resident.in_turn",
        "pipelines.resident.placement",
        "pipelines.rendering",
        "pipelines.loaders.worker_processes",
    ),
    (
        "pipelines.loaders.dali_decode",
        "pipelines.loaders.dali_feed",
        "pipelines.resident.gpu",
    ),
    ("pipelines.loaders.*",),
    ("pipelines.loaders",),
    ("pipelines",),
    ("fastft",),  # its version
    ("fastft.*",),
    ("fastft.cli.main",),
    ("fastft.__main__",),
)
# Modules of one of these may import each other, but not in a circle.
PEERS = ("fastft.*",)
# importer -> all of ours that it may import
NOTHING_BUT: dict[str, tuple[str, ...]] = {
    "pipelines.kernels": (),
    "pipelines.kernels.*": ("pipelines.kernels.*",),
    "pipelines.transfer": ("pipelines.errors",),
}
# imported -> all that may import it
ONLY_BY = {
    "pipelines.kernels": ("pipelines.loaders.*",),
    "pipelines.kernels.*": ("pipelines.loaders.*", "pipelines.kernels.*"),
    "pipelines.transfer": ("pipelines.loaders.*",),
}

Imports = Mapping[str, set[str]]


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def layer(name: str) -> int | None:
    for i, patterns in enumerate(LAYERS):
        if name in patterns:
            return i
    return next((i for i, patterns in enumerate(LAYERS) if matches(name, patterns)), None)


def violations(imports: Imports) -> list[str]:
    found = []
    for name, targets in sorted(imports.items()):
        own = layer(name)
        if own is None:
            found.append(f"{name} is in no layer")
            continue
        for target in sorted(targets):
            below = layer(target)
            peers = any(matches(name, (p,)) and matches(target, (p,)) for p in PEERS)
            if below is None or below > own or (below == own and not peers):
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
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
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
        ({"pipelines.plan": {"fastft.config.commands"}}, "not below"),
        ({"pipelines.plan": {"pipelines.formats.folder"}}, "not below"),
        ({"pipelines.formats.beton": {"pipelines.conversion.run"}}, "not below"),
        ({"pipelines.loaders.dali_loader": {"pipelines.loaders.ffcv_loader"}}, "not below"),
        ({"fastft.train.run": {"fastft.cli.main"}}, "not below"),
        ({"fastft.train.run": {"pipelines.unknown"}}, "not below"),
        ({"pipelines.unknown": set()}, "no layer"),
        ({"pipelines.kernels.cpu": {"pipelines.errors"}}, "may import"),
        ({"pipelines.transfer": {"pipelines.plan"}}, "may import"),
        ({"pipelines.conversion.run": {"pipelines.kernels.cpu"}}, "only"),
        ({"fastft.train.run": {"pipelines.transfer"}}, "only"),
        (
            {
                "fastft.train.run": {"fastft.model.classifier"},
                "fastft.model.classifier": {"fastft.train.run"},
            },
            "circle",
        ),
    ],
)
def test_each_rule_can_fail(imports: Imports, message: str):
    assert any(message in line for line in violations(imports))


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
        "pipelines.formats.beton",
        "pipelines.errors",
        "pipelines.loaders",
        "pipelines.plan",
    }


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("import pipelines", ""),
        ("import sys; sys.argv[1:] = ['--help']; import fastft.cli.main as c; c.main()", "Usage"),
    ],
    ids=["import pipelines", "fastft --help"],
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


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_no_addresses(name: str):
    assert "://" not in (ROOT / name).read_text(encoding="utf-8")
