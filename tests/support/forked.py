"""torch's launcher starts `python -m fastft` by a fork, without the seconds that imports take."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NoReturn

from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
from torch.distributed.elastic.rendezvous import dynamic_rendezvous
from torch.distributed.elastic.rendezvous.utils import _delay as real_delay

#: The program that the launcher would start in a new process.
_PROGRAM = [sys.executable, "-m", "fastft"]


def fork_ranks() -> None:
    """Let ranks be forks of this process, which launches them, from here on.

    Each leaves its number in `rank-N` of the current folder.
    """
    subprocess_handler.Popen = _Forked  # type: ignore[misc]
    # Launchers on many machines spare who has them meet by a second between their questions.
    dynamic_rendezvous._delay = lambda seconds: real_delay(0.02)  # type: ignore[attr-defined]


def be_torchrun(*options: str) -> NoReturn:
    """Be torchrun, whose ranks are forks."""
    from torch.distributed.run import main

    fork_ranks()
    main(options)
    sys.exit()


class _Forked(subprocess.Popen):  # type: ignore[type-arg]
    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:
        env = rest[5]
        program = [each for each in args if each != "-u"]  # torchrun's, which buffers nothing
        assert program[:3] == _PROGRAM, args
        self.pid = os.fork()
        self._child_created = True
        if self.pid == 0:
            _be_rank(program[3:], env)
        _lead_group(self.pid)


def _lead_group(pid: int) -> None:
    # The launcher signals it as a group. Of a session of its own nobody would know whose it is.
    os.setpgid(pid, pid)


def _be_rank(arguments: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """Forget the launcher, as a new program would, and be the command line."""
    status = 1
    try:
        gc.freeze()  # the launcher's objects end threads and close sockets that are not here
        _lead_group(os.getpid())
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                usual = signal.SIG_DFL
                signal.signal(number, signal.default_int_handler if number == 2 else usual)
        os.environ.clear()
        os.environ.update(env)
        logging.disable(logging.NOTSET)
        resource_tracker._resource_tracker.__init__()  # type: ignore[misc]  # else the launcher's
        Path(f"rank-{env['RANK']}").write_text(str(os.getpid()))
        sys.argv = ["fastft", *arguments]
        from fastft.cli.main import main

        main()
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
