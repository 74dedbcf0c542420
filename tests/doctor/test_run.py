import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastft.cli import doctor as cli_doctor
from fastft.doctor import run as doctor
from fastft.doctor import worker as trial
from fastft.doctor.run import Diagnosis, diagnose, run_trial
from fastft.system import isolated as child
from fastft.system import machine
from fastft.system.machine import Finding
from pipelines.formats.beton import read_index
from pipelines.loaders import make_loader

Run = Callable[..., tuple[int, str, str]]
Fake = Callable[[str, str], None]

#: What the trial of torch answers here, so that it need not be asked each time.
TORCH: dict[str, Any] = {
    "torch": "2.9.0",
    "torchvision": {"version": "0.24.0"},
    "cuda": "12.8",
    "driver": None,
    "warning": "",
    "gpus": [],
}
WORKS = {"seconds": 0.41, "mean": 0.0, "most": 0}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a module in the place of a library, in the trials alone."""

    def put(name: str, text: str) -> None:
        path = tmp_path.joinpath("fakes", *name.split("."), "__init__.py")
        path.parent.mkdir(parents=True)
        path.write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fakes"))

    return put


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """The answers of trials, by the first word of each, instead of processes."""
    by_trial = {"torch": TORCH, **dict.fromkeys(doctor.LOADERS, WORKS)}
    monkeypatch.setattr(doctor, "run_trial", lambda trial, limit_s: by_trial[trial[0]])
    return by_trial


def row(diagnosis: Diagnosis, group: str, name: str) -> Finding:
    return next(f for f in diagnosis.findings if (f.group, f.name) == (group, name))


@pytest.fixture
def try_here(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A trial without the process of its own, which takes seconds to load torch."""

    def answer(*asked: str) -> dict[str, Any]:
        folder = tmp_path / "trial"
        folder.mkdir()
        trial.main([*asked, str(folder)])
        found: dict[str, Any] = json.loads((folder / child.ANSWER).read_text())
        return found

    return answer


@pytest.fixture
def fake_here(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """The same in this process."""

    def put(name: str, text: str) -> None:
        fake(name, text)
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name))  # removed in the end
        for module in [*sys.modules]:
            if module.split(".")[0] == name:
                monkeypatch.delitem(sys.modules, module)
        for loader in doctor.LOADERS:
            monkeypatch.delitem(sys.modules, f"pipelines.loaders.{loader}_loader", raising=False)
        monkeypatch.delitem(sys.modules, "pipelines.loaders.dali_graph", raising=False)
        monkeypatch.syspath_prepend(tmp_path / "fakes")

    return put


@pytest.mark.parametrize("name", doctor.LOADERS)
def test_a_loader_that_is_installed_works(
    name: str, try_here: Callable[..., dict[str, Any]]
) -> None:
    library = {"ffcv": "ffcv", "dali": "nvidia"}.get(name, "torch")
    if find_spec(library) is None or (name == "dali" and find_spec("nvidia.dali") is None):
        pytest.skip(f"{library} is not installed")
    answer = try_here(name, "cpu")
    assert answer.keys() == {"seconds", "mean", "most"}, answer
    assert (answer["most"] == 0) or name != "torchvision"


def test_trials_ignore_modules_of_the_current_folder(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("torch", "raise RuntimeError('that of the path')")
    (tmp_path / "torch.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    answer = run_trial(("torch",), 200)
    assert "that of the path" in answer["failed"], answer


def test_the_trial_of_torch_tells_versions(try_here: Callable[..., dict[str, Any]]) -> None:
    answer = try_here("torch")
    assert answer.keys() == TORCH.keys(), answer
    assert answer["torch"].startswith(version("torch"))
    assert answer["torchvision"]["version"].startswith(version("torchvision"))


def test_other_pixels_and_labels_are_found(tmp_path: Path) -> None:
    path = trial.write_beton(tmp_path)
    assert len(read_index(path)) == 2
    with make_loader("torchvision", path, size=64, batch_size=2, normalize=False) as loader:
        [(images, labels)] = list(loader)
        pixels = images.permute(0, 2, 3, 1).numpy()
        assert trial._judge(loader, pixels, labels.tolist()) == {"mean": 0.0, "most": 0}
        swapped = trial._judge(loader, pixels, labels.tolist()[::-1])
        assert "labels" in swapped["failed"]
        flipped = trial._judge(loader, pixels[:, :, ::-1], labels.tolist())
        assert "levels from the reference" in flipped["failed"]
        # Even where nothing is promised.
        loader.stated = None
        assert "failed" in trial._judge(loader, pixels[:, :, ::-1], labels.tolist())
        off_by_one = np.minimum(pixels, 254) + 1
        assert "failed" not in trial._judge(loader, off_by_one, labels.tolist())


@pytest.mark.parametrize(
    ("name", "module", "text", "remedy"),
    [
        ("ffcv", "ffcv", "raise ModuleNotFoundError('No module ffcv', name='ffcv')", "[ffcv]"),
        ("dali", "nvidia", "", "[dali]"),  # torch's own libraries are there, DALI is not
    ],
)
def test_a_missing_library_is_named_with_its_remedy(
    name: str,
    module: str,
    text: str,
    remedy: str,
    fake_here: Fake,
    try_here: Callable[..., dict[str, Any]],
) -> None:
    fake_here(module, text)
    answer = try_here(name, "cpu")
    assert answer["missing"], answer
    found = doctor._loader(name, name, answer)
    assert found.status == "note"
    assert name in found.found
    assert found.remedy.endswith(f'pip install "fastft{remedy}"')


def test_a_library_that_lacks_another_is_a_problem(
    fake_here: Fake, try_here: Callable[..., dict[str, Any]]
) -> None:
    fake_here("ffcv", "raise ImportError('libopencv_core.so.406: cannot open shared object file')")
    found = doctor._loader("ffcv", "ffcv", try_here("ffcv", "cpu"))
    assert found.status == "problem"
    assert "libopencv_core.so.406" in found.found
    assert "--force-reinstall" in found.remedy


def test_an_error_of_ours_keeps_its_remedy() -> None:
    answer = {"failed": "no space", "remedy": "free some", "missing": False}
    assert doctor._loader("resident", "resident", answer).remedy == "free some"
    assert "numba" in doctor._loader("resident", "resident", {**answer, "remedy": ""}).remedy


def test_building_ffcv_names_what_the_system_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda tool: None)
    remedy = doctor._loader_remedy("ffcv", True)
    assert remedy == (
        "apt-get install -y --no-install-recommends g++ pkg-config libopencv-dev "
        'libturbojpeg0-dev && PIP_USE_PEP517=1 pip install "fastft[ffcv]"'
    )


def test_a_crash_is_a_finding(fake: Fake) -> None:
    fake("torch", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert run_trial(("torch",), 200) == {"failed": "crashed: SIGSEGV"}


def test_an_exit_without_an_answer_is_a_finding(fake: Fake) -> None:
    fake("torch", "import os\nos.write(2, b'first\\nno driver\\n')\nos._exit(7)")
    assert run_trial(("torch",), 200) == {"failed": "ended with status 7: no driver"}


def test_a_hang_is_a_finding_and_leaves_nothing(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child.tempfile, "tempdir", str(tmp_path))
    # A process that the library has started has the pipe open until it is killed, too.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fake("torch", f"import os, signal\nfile = open({str(pipe)!r}, 'w')\nos.fork()\nsignal.pause()")
    assert run_trial(("torch",), 1) == {"failed": "took longer than 1 s and was killed"}
    os.close(os.open(pipe, os.O_WRONLY))  # so that there has been a writer in any case
    ended = select.poll()
    ended.register(reader, select.POLLHUP)
    assert ended.poll(60_000)
    os.close(reader)
    assert not list(tmp_path.glob("fastft-*"))


def test_nothing_is_tried_without_torch(answers: dict[str, dict[str, Any]]) -> None:
    answers["torch"] = {"failed": "crashed: SIGILL"}
    tried: list[str] = []
    found = diagnose(on_trial=tried.append)
    assert not found.works
    assert tried == ["torch"]
    assert row(found, "versions", "torch").found == "crashed: SIGILL"
    assert [f.name for f in found.problems] == ["torch", *doctor.LOADERS]
    assert {f.remedy for f in found.problems} == {doctor._TORCH}


def test_models_need_torchvision(answers: dict[str, dict[str, Any]]) -> None:
    failed = {"failed": "cannot be imported (no such operator)", "remedy": "pip install it"}
    answers["torch"] = {**TORCH, "torchvision": failed}
    found = diagnose()
    assert not found.works
    assert [(f.name, f.found, f.remedy) for f in found.problems] == [
        ("torchvision", failed["failed"], failed["remedy"])
    ]
    assert row(found, "versions", "torch").found == "2.9.0, built with CUDA 12.8"


@pytest.mark.usefixtures("answers")
def test_json_prints_only_the_rows(fastft: Run) -> None:
    status, out, _ = fastft("doctor", "--json")
    found = json.loads(out)
    assert (status, found["works"]) == (0, True)
    assert found.keys() == {"works", "machine", "versions", "loaders", "problems"}
    assert found["loaders"].keys() == {*doctor.LOADERS}
    assert found["loaders"]["dali"]["found"].startswith("works, 0.4 s")
    assert found["machine"].keys() >= {
        "CPU",
        "cores",
        "instructions",
        "memory",
        "/dev/shm",
        "disk, this folder",
        "disk, cache folder",
        "CUDA driver",
        "NVJPEG engines",
    }
    assert found["versions"].keys() == {
        "fastft",
        "Python",
        "torch",
        "torchvision",
        "DALI",
        "ffcv",
        "numba",
        "Pillow",
        "timm",
        "onnxruntime",
        "tensorboard",
        "wandb",
        "mlflow",
        "pyarrow",
        "s3fs",
        "libjpeg-turbo of Pillow",
        "libjpeg-turbo of the system",
        "regions of JPEGs",
    }
    assert found["versions"]["torch"]["found"] == "2.9.0, built with CUDA 12.8"


def test_a_single_loader_is_enough(answers: dict[str, dict[str, Any]], fastft: Run) -> None:
    for name in ("torchvision", "ffcv", "dali"):
        answers[name] = {"failed": "crashed: SIGSEGV"}
    status, out, _ = fastft("doctor")
    assert status == 0
    assert "fastft works here, with the loaders resident" in out
    assert "problem: dali: pip install --force-reinstall nvidia-dali-cuda1" in out


def test_status_1_where_nothing_works(answers: dict[str, dict[str, Any]], fastft: Run) -> None:
    for name in doctor.LOADERS:
        answers[name] = {"failed": "crashed: SIGSEGV"}
    status, out, _ = fastft("doctor")
    assert status == 1
    assert "fastft does not work here" in out
    status, out, _ = fastft("doctor", "--json")
    assert (status, len(json.loads(out)["problems"])) == (1, 4)


def test_gpus_and_their_loaders_are_rows(answers: dict[str, dict[str, Any]]) -> None:
    gpu = {"name": "NVIDIA H200", "bytes": 150e9}
    answers["torch"] = {**TORCH, "driver": "12.8", "gpus": [gpu]}
    answers["nvjpeg"] = {"failed": "crashed: SIGSEGV"}
    answers["decoding"] = {"failed": "took longer than 480 s and was killed"}
    found = diagnose(loaders=["dali"])
    assert row(found, "machine", "GPU 0").found == "NVIDIA H200, 150.0 GB"
    assert row(found, "machine", "NVJPEG engines").found == "unknown"
    names = [f.name for f in found.findings[-3:]]
    assert names == ["dali on cpu", "dali on cuda", "DALI's decoding"]
    answers["nvjpeg"] = {"engines": 7}
    assert row(diagnose(), "machine", "NVJPEG engines").found == "7 in GPU 0"


def test_a_gpu_needs_a_compiler(
    answers: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers["torch"] = {**TORCH, "driver": "12.8", "gpus": [{"name": "H200", "bytes": 150e9}]}
    answers["nvjpeg"] = {"engines": 7}
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(machine.shutil, "which", {"gcc": "/usr/bin/gcc"}.get)
    monkeypatch.setattr(machine.sysconfig, "get_path", {"include": str(tmp_path)}.get)
    found = row(diagnose(loaders=["ffcv"]), "machine", "C compiler")
    assert (found.status, found.remedy) == ("problem", machine.COMPILER)
    assert f"/usr/bin/gcc, but no {tmp_path}/Python.h" in found.found
    (tmp_path / "Python.h").touch()
    assert machine.find_compiler().status == "ok"
    monkeypatch.setattr(machine.shutil, "which", {}.get)
    assert machine.find_compiler().found.startswith("none")


def test_dalis_ways_to_decode_are_rows(answers: dict[str, dict[str, Any]]) -> None:
    works = {"failed": "", "img_per_s": 5000.0, "cpu_ms": 0.2, "mean": 0.21, "most": 13}
    answers["torch"] = {**TORCH, "driver": "12.8", "gpus": [{"name": "H200", "bytes": 150e9}]}
    answers["nvjpeg"] = {"engines": 7}
    answers["decoding"] = {
        "ways": {"whole, fancy": works, "region, plain": {"failed": "crashed: SIGSEGV"}},
        "takes_regions": False,
    }
    found = diagnose(loaders=["dali"])
    assert row(found, "loaders", "DALI, whole, fancy").found == (
        "5,000 images/s, 0.20 ms of CPU per image, 0.21 levels from the reference, at most 13"
    )
    # Of a way that nobody takes a crash is no problem.
    assert row(found, "loaders", "DALI, region, plain").status == "note"
    assert row(found, "loaders", "DALI decodes").found == "whole images, by these figures"
    assert found.problems == ()


def test_an_unusable_driver_is_a_problem(answers: dict[str, dict[str, Any]]) -> None:
    answers["torch"] = {**TORCH, "driver": "11.4", "warning": "The NVIDIA driver is too old\nx"}
    found = row(diagnose(), "machine", "CUDA driver")
    assert found.status == "problem"
    assert found.found.endswith("torch sees no GPU: The NVIDIA driver is too old")


def test_the_machine_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: Some CPU @ 3 GHz\nflags\t: sse avx2\n\nx: y\n")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "not" / "there"))
    rows = {f.name: f for f in machine.find_machine(tmp_path, tmp_path / "shm")}
    assert rows["CPU"].found.startswith("Some CPU @ 3 GHz, ")
    assert "AVX2 yes, AVX-512 BF16 no: --amp auto on the CPU takes float32" in (
        rows["instructions"].found
    )
    assert rows[str(tmp_path / "shm")].status == "problem"
    assert rows["disk, cache folder"].found.endswith(f"free at {tmp_path}/not/there/hub")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert "cgroup quota 1.5:" in machine._cores(tmp_path)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert "cgroup quota none:" in machine._cores(tmp_path)


def test_a_problem_has_a_remedy() -> None:
    with pytest.raises(ValueError, match="without a remedy"):
        Finding(group="loaders", name="dali", status="problem", found="crashed")


def test_help_teaches_and_loads_no_torch(fastft: Run) -> None:
    status, text, _ = fastft("doctor", "--help")
    assert (status, cli_doctor.doctor.__name__) == (0, "doctor")
    assert "$ fastft doctor" in text
    program = "import sys, fastft.cli.main, fastft.doctor.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
