"""Lets a reader have hostile files for a while: `python tests/support/fuzz.py TARGET --seconds 60`.

With atheris, inputs that reach code not reached before are kept and changed again; without it,
valid files are changed at random. Both change files as the tests do, see `hostile`. A process of
its own does it, so that one that crashes is a finding like any other; what was found is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from random import Random

#: What is watched for new code: the readers, and the libraries that parse for them.
_WATCHED = ["pipelines", "fastft", "zipfile", "tarfile", "tomllib", "json"]
#: A reader that takes this long hangs, whatever it waits for.
_STUCK_S = 120
#: How often a process says how far it is.
_EVERY = 100


def main() -> int:
    """Fuzz one target or all in turn; gives 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", help="a reader, or `all`; `list` names them")
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**31)
    parser.add_argument("--keep", type=Path, help="where findings go; default: a new folder")
    parser.add_argument("--random", action="store_true", help="do without atheris")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    guided = find_spec("atheris") is not None and not asked.random
    if asked.child is not None:
        _work(asked.target, asked.seconds, asked.seed, asked.child, guided)
        return 0
    names = [asked.target]
    if asked.target in ("all", "list"):
        from hostile_targets import TARGETS  # torch takes seconds to load

        names = list(TARGETS)
    if asked.target == "list":
        print("\n".join(names))
        return 0
    keep = asked.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    found = sum(_fuzz(name, asked.seconds, asked.seed, keep / name, asked.random) for name in names)
    print(f"{found} findings{f' in {keep}' if found else ''}")
    if not found and asked.keep is None:
        shutil.rmtree(keep)
    return int(found > 0)


def _fuzz(name: str, seconds: float, seed: int, keep: Path, at_random: bool) -> int:
    """Run processes that fuzz one target until the time is over; gives the number of findings."""
    inputs, crashes, started = 0, 0, time.monotonic()
    keep.mkdir(parents=True, exist_ok=True)
    how = ""
    while (left_s := seconds - (time.monotonic() - started)) > 0.5:
        command = [sys.executable, "-W", "ignore", __file__, name, "--seconds", str(left_s)]
        command += ["--seed", str(seed + crashes), "--child", str(keep), *["--random"] * at_random]
        try:
            ended = subprocess.run(command, capture_output=True, timeout=left_s + _STUCK_S)
            status, said = ended.returncode, ended.stderr
        except subprocess.TimeoutExpired:
            status, said = "stuck", b""
        state = _state(keep)
        inputs, how = inputs + state["inputs"], state["how"]
        if status == 0 and state["is_done"]:
            break
        crashes += 1
        (keep / f"crash-{crashes}.txt").write_bytes(f"{status}\n".encode() + said)
        for file in (keep / "box" / "in").glob("*"):
            if file.is_file():
                shutil.copy(file, keep / f"crash-{crashes}")
        if not state["inputs"]:  # it does not even start
            break
    shutil.rmtree(keep / "box", ignore_errors=True)
    kinds = sorted(keep.glob("*.txt"))
    took_s = time.monotonic() - started
    print(f"{name}: {inputs:,} inputs in {took_s:.0f} s ({how}), {len(kinds)} findings", flush=True)
    for kind in kinds:
        print(f"    {kind.name}: {kind.read_text(errors='replace')[:200].strip()}")
    return len(kinds)


def _state(keep: Path) -> dict[str, object]:
    try:
        return json.loads((keep / "box" / "state").read_text())
    except (OSError, ValueError):
        return {"inputs": 0, "how": "", "is_done": False}


def _work(name: str, seconds: float, seed: int, keep: Path, guided: bool) -> None:
    """Fuzz one target in this process, and leave word of it in `keep`."""
    if guided:
        import atheris

        with atheris.instrument_imports(include=_WATCHED, enable_loader_override=False):
            from hostile_targets import TARGETS
    else:
        from hostile_targets import TARGETS
    from hostile import Found, attempt, edit, trace_of

    target, box, end = TARGETS[name], keep / "box", time.monotonic() + seconds
    shutil.rmtree(box, ignore_errors=True)
    (box / "in").mkdir(parents=True)
    seeds = target.seeds()
    numbers = [target.numbers(content) for content in seeds]
    inputs = 0

    def change(content: bytes, random: Random) -> bytes:
        try:
            places = target.numbers(content)
        except ValueError:  # no longer what it was
            places = random.choice(numbers)
        changed = edit(content, random, places, target.tokens, seeds)
        return target.mend(changed) if random.random() < 0.7 else changed

    def try_one(content: bytes) -> None:
        nonlocal inputs
        inputs += 1
        for left in (box / "in").iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            attempt(target, content, box / "in")
        except Found as found:
            kind = re.sub(r"[0-9][0-9,.]*", "0", str(found).split("'")[0])[:60]
            kind += f" {trace_of(found.__cause__)}" if found.__cause__ is not None else ""
            file = keep / re.sub(r"[^\w.-]+", "-", kind)
            if not file.exists():
                file.write_bytes(content)
                file.with_name(file.name + ".txt").write_text(str(found))
        is_done = time.monotonic() >= end
        if inputs % _EVERY == 1 or is_done:
            how = "guided by atheris" if guided else "at random"
            (box / "state").write_text(
                json.dumps({"inputs": inputs, "how": how, "is_done": is_done})
            )
        if is_done:
            os._exit(0)  # libFuzzer takes any other end for a crash

    if guided:
        _guide(change, try_one, seeds, box, seed)
    random = Random(seed)
    while True:
        try_one(change(random.choice(seeds), random))


def _guide(
    change: Callable[[bytes, Random], bytes],
    try_one: Callable[[bytes], None],
    seeds: list[bytes],
    box: Path,
    seed: int,
) -> None:
    """Let atheris choose what is changed: what came upon new code."""
    import atheris

    def mutate(content: bytes, most_bytes: int, chosen: int) -> bytes:
        random = Random(chosen)
        if random.random() < 0.25:
            return atheris.Mutate(content, most_bytes)
        return change(content, random)[:most_bytes]

    corpus = box / "corpus"
    corpus.mkdir()
    for number, content in enumerate(seeds):
        (corpus / str(number)).write_bytes(content)
    most = 4 * max(map(len, seeds))
    options = [f"-seed={seed % 2**31 or 1}", f"-max_len={most}", "-timeout=100", "-rss_limit_mb=0"]
    arguments = [sys.argv[0], *options, f"-artifact_prefix={box}/", "-handle_segv=0", str(corpus)]
    atheris.Setup(arguments, try_one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.exit(main())
