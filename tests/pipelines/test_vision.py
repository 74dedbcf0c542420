"""Starting without torch's compiler: it costs seconds, and is there when it is asked for."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from effort import long

from fastft.model.optim import AdamW, make_optimizer
from pipelines.errors import UsageError
from pipelines.vision import _remedy

_STARTS = """
import sys
import torch
from fastft.train.run import train
from fastft.model.optim import make_optimizer

def is_there():
    return "torch._dynamo" in sys.modules, "sympy" in sys.modules

model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
for name in ("sgd", "adamw"):
    made = make_optimizer(
        model, model[1], optimizer=name, lr=0.1, head_lr_factor=1, momentum=0.9, weight_decay=0
    )
    model(torch.ones(1, 3)).sum().backward()
    made.step()
    made.zero_grad()
    made.load_state_dict(made.state_dict())
assert is_there() == (False, False), is_there()
from torchvision.ops import roi_align
found = roi_align(torch.ones(1, 1, 4, 4), [torch.tensor([[0.0, 0.0, 2.0, 2.0]])], 2)
assert found.shape == (1, 1, 2, 2)
compiled = torch.compile(model, backend="eager")
assert torch.equal(compiled(torch.ones(1, 3)), model(torch.ones(1, 3)))
assert is_there()[0]
assert torch._dynamo.__file__
assert type(sys.modules["torch._dynamo"]) is type(sys)
"""


def test_a_training_starts_without_the_compiler() -> None:
    command = [sys.executable, "-W", "ignore", "-c", _STARTS]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert ended.returncode == 0, ended.stderr


def test_optimizers_are_still_torchs_own() -> None:
    model = torch.nn.Linear(3, 2)
    made = make_optimizer(
        model, model, optimizer="adamw", lr=0.1, head_lr_factor=1, momentum=0.9, weight_decay=0
    )
    assert isinstance(made, torch.optim.AdamW)
    assert type(made) is AdamW
    model(torch.ones(1, 3)).sum().backward()  # type: ignore[no-untyped-call]
    made.step()
    assert set(made.state) == {model.weight, model.bias}
    assert torch.is_grad_enabled()


@pytest.fixture
def alien(tmp_path: Path) -> Path:
    """A folder with a torchvision as PyPI's is, beside a torch that was built for the CPU."""
    fake = tmp_path / "torchvision"
    fake.mkdir()
    fake.joinpath("__init__.py").write_text(
        "import torch\n"
        "torch.version.cuda = None\n"
        "raise RuntimeError('operator torchvision::nms does not exist\\nmore')\n"
    )
    return tmp_path


def check_line(line: str) -> None:
    assert line.startswith(
        "torchvision: cannot be imported (operator torchvision::nms does not exist), "
        f"expected the one that was built for torch {torch.__version__}; pip install "
    )
    assert "CPU" in line


def test_a_torchvision_for_another_torch_is_refused(
    alien: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = torch.version.cuda
    for name in [*sys.modules]:
        if name.partition(".")[0] == "torchvision" or name == "pipelines.vision":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(alien)
    monkeypatch.setattr(torch.version, "cuda", cuda)  # which the module sets
    with pytest.raises(UsageError) as caught:
        importlib.import_module("pipelines.vision")
    check_line(str(caught.value))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert _remedy() == "pip install --force-reinstall torch torchvision"


@long
def test_a_command_says_so_in_one_line(alien: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "fastft", "predict", "run", "photo.jpg"],
        env={**os.environ, "PYTHONPATH": str(alien)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    check_line(line)
