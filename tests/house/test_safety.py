"""No file is executed: what our sources may not do, and what becomes of programs in files."""

import ast
import io
import os
import pickle
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from effort import choose
from hostile import attempt
from hostile_beton import image_of, read_beton
from hostile_targets import TARGETS

from fastft.runs.checkpoint import load_checkpoint
from pipelines.errors import DataError
from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.layout import MODE_JPG, About, Stored
from pipelines.loaders import make_loader

ROOT = Path(__file__).resolve().parents[2]
#: They make objects or programs of bytes, or follow what a document names.
IMPORTS = frozenset(
    {
        "cloudpickle",
        "code",
        "codeop",
        "dill",
        "jsonpickle",
        "joblib",
        "marshal",
        "pickle",
        "runpy",
        "ruamel",
        "shelve",
        "xml",
        "yaml",
        "_pickle",
    }
)
CALLS = frozenset(
    {
        "eval",
        "exec",
        "compile",
        "__import__",
        "os.system",
        "os.popen",
        "os.execv",
        "os.execvp",
        "subprocess.getoutput",
        "subprocess.getstatusoutput",
        "tempfile.mktemp",
        "torch.hub.load",
        "torch.jit.load",
        "torch.package.PackageImporter",
    }
)
#: Methods of archives, which `unpack` writes member by member, and of loaders: ways round.
METHODS = frozenset(
    {"add_safe_globals", "extract", "extractall", "load_library", "safe_globals", "unpack_archive"}
)
#: Call -> the argument that it has to be given, and the value.
DEMANDED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def offences(source: str) -> Iterator[str]:
    """What a module does that it may not."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from sorted(f"imports {each}" for each in whole & (CALLS | DEMANDED.keys()))
        yield from (f"imports {name}" for name in names if name.split(".")[0] in IMPORTS)
        if isinstance(node, ast.Call):
            yield from offences_of_call(node)
        if isinstance(node, ast.Assert) and not narrows(node.test) and node.msg is None:
            yield f"asserts {ast.unparse(node.test)}"


def offences_of_call(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    given = {each.arg: each.value for each in node.keywords}
    method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    if called in CALLS or method in METHODS:
        yield f"calls {called}"
    shell = given.get("shell")
    if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
        yield f"calls {called} by a shell"
    name, wanted = DEMANDED.get(called, ("", None))
    value = given.get(name)
    if name and not (isinstance(value, ast.Constant) and value.value is wanted):
        yield f"calls {called} without {name}={wanted}"


def narrows(test: ast.expr) -> bool:
    """Whether an assertion tells a type checker what it cannot know, and no user could break."""
    if isinstance(test, ast.Call):
        return ast.unparse(test.func) == "isinstance"
    return isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Is | ast.IsNot)


@pytest.mark.parametrize("package", ["fastft", "pipelines"])
def test_our_sources_run_nothing_that_was_read(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)} {what}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for what in offences(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import pickle", "imports pickle"),
        ("from pickle import loads as read", "imports pickle"),
        ("def f():\n    import yaml.reader", "imports yaml.reader"),
        ("from os import system", "imports os.system"),
        ("from torch import load", "imports torch.load"),
        ("torch.load(path)", "calls torch.load without weights_only=True"),
        ("torch.load(path, weights_only=False)", "calls torch.load without weights_only=True"),
        ("torch.load(path, weights_only=flag)", "calls torch.load without weights_only=True"),
        ("np.load(path)", "calls np.load without allow_pickle=False"),
        ("torch.serialization.add_safe_globals([X])", "calls torch.serialization.add_safe_globals"),
        ("tarfile.open(path).extractall(out)", "calls tarfile.open(path).extractall"),
        ("eval(text)", "calls eval"),
        ("os.popen(text)", "calls os.popen"),
        ("subprocess.run(text, shell=True)", "calls subprocess.run by a shell"),
        ("assert value > 0", "asserts value > 0"),
    ],
)
def test_what_they_may_not_is_noticed(source: str, said: str) -> None:
    assert list(offences(source)) == [said]


def test_what_they_may_is_let_be() -> None:
    source = """
import subprocess, torch
torch.load(path, weights_only=True)
re.compile(pattern).match(text)
model.eval()
subprocess.run(words, shell=False)
assert value is not None
assert isinstance(value, int)
assert steps == 0, "a step that nobody asked for"
"""
    assert list(offences(source)) == []


# Programs in files.


class Program:
    """What makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> Any:
        return os.makedirs, (str(self._canary),)


def pickles(canary: Path) -> list[bytes]:
    return [pickle.dumps(Program(canary), protocol) for protocol in range(6)]


def files_of_torch(canary: Path) -> list[bytes]:
    """Files by `torch.save`, of both kinds, and one whose first record is a program."""
    whole, old, forged = io.BytesIO(), io.BytesIO(), io.BytesIO()
    content = {"format": "fastft-checkpoint", "version": 1, "model": Program(canary)}
    torch.save(content, whole)
    torch.save(content, old, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(forged, "w") as archive:
        archive.writestr("archive/data.pkl", pickles(canary)[2])
        archive.writestr("archive/version", "3\n")
    return [whole.getvalue(), old.getvalue(), forged.getvalue()]


def array_of(canary: Path) -> bytes:
    target = io.BytesIO()
    np.save(target, np.array([Program(canary)], dtype=object), allow_pickle=True)
    return target.getvalue()


def texts(canary: Path) -> list[bytes]:
    """What other readers of settings would make a program of."""
    call = f"os.makedirs({str(canary)!r})"
    return [
        f'!!python/object/apply:os.makedirs ["{canary}"]\n'.encode(),
        f'{{"py/reduce": [{{"py/function": "os.makedirs"}}, ["{canary}"]]}}'.encode(),
        f'__import__("os").{call[3:]}'.encode(),
        f'lr = "$(mkdir {canary})"\nweights = "`mkdir {canary}`"\n'.encode(),
        f'{{"config": {{"weights": "| mkdir {canary}", "class_weight": "{call}"}}}}'.encode(),
    ]


def test_the_programs_would_run(tmp_path: Path) -> None:
    """Elsewhere, where they are let: or nothing would be shown by their not running here."""
    for number, content in enumerate(pickles(tmp_path / "a")):
        pickle.loads(content.replace(b"/a", b"/%d" % number))
        assert (tmp_path / str(number)).is_dir()
    for content in files_of_torch(tmp_path / "b")[:2]:
        torch.load(io.BytesIO(content), weights_only=False)
        (tmp_path / "b").rmdir()
    np.load(io.BytesIO(array_of(tmp_path / "c")), allow_pickle=True)
    assert (tmp_path / "c").is_dir()


@pytest.mark.parametrize("name", TARGETS)
def test_a_program_in_a_file_does_not_run(
    name: str, tmp_path: Path, tried: Callable[..., None]
) -> None:
    target, canary = TARGETS[name], tmp_path / "canary"
    (tmp_path / "box" / "in").mkdir(parents=True)
    hostile = [
        *pickles(canary)[:: choose(3, 1)],
        *files_of_torch(canary),
        array_of(canary),
        *texts(canary),
    ]
    program = pickles(canary)[2]
    for seed in target.seeds():
        half = len(seed) // 2
        hostile += [seed + program, program + seed, seed[:half] + program + seed[half:]]
    for content in hostile:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of what it is about to refuse
            attempt(target, content, tmp_path / "box" / "in")
        assert not canary.exists()
    tried("programs in files that did not run", len(hostile))


@pytest.mark.parametrize("number", range(3))
def test_a_checkpoint_that_is_a_program_is_refused(number: int, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    path.write_bytes(files_of_torch(tmp_path / "canary")[number])
    with pytest.raises(DataError, match=r"c\.pt: not readable as a checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "canary").exists()


# Names in files.


def test_what_a_beton_names_is_not_opened(tmp_path: Path) -> None:
    """Its samples' names are paths of files that are there."""
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(image_of("JPEG"))
    path, opened = tmp_path / "x.beton", list[str]()
    with BetonWriter(path, 3) as writer:
        for number, name in enumerate((str(secret), "../secret.jpg", "secret.jpg")):
            data = image_of("JPEG", quality=90 + number)
            writer.append(Stored(MODE_JPG, 24, 17, data), number % 2, name, zlib.crc32(data))
        writer.finish(About(classes=("a", "b")))
        writer.publish()
    listening = True

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if listening and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(hear)  # which stays, and then hears nothing
    try:
        read_beton(path)
        with make_loader("torchvision", path, size=40, batch_size=2, workers=0) as loader:
            assert sum(len(labels) for _, labels in loader) == 3
        secret.read_bytes()
    finally:
        listening = False
    assert str(path) in opened
    assert [each for each in opened if "secret" in each] == [str(secret)]  # our own
