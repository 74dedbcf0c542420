"""The command line: arguments to a config, a config to one call, errors to one line.

Nothing heavy is imported before a command needs it: `fastft --help` loads no torch.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import typer

from fastft.cli_bench import bench
from fastft.cli_compare import compare, sweep
from fastft.cli_data import convert, inspect, merge, synth
from fastft.cli_doctor import doctor
from fastft.cli_fetch import fetch
from fastft.cli_parity import parity
from fastft.cli_report import report
from fastft.cli_show import show
from fastft.cli_train import train
from fastft.cli_use import evaluate, predict
from fastft.stopping import Stopped
from pipelines.errors import FastftError, one_line

app = typer.Typer(
    help="Fine-tune image classifiers with the input path out of the way.\n\n"
    "A folder of images becomes one .beton file, which any loader feeds to a ResNet-18:\n\n"
    "  fastft fetch hotdog\n\n"
    "  fastft convert hotdog data\n\n"
    "  fastft train --data data --out run\n\n"
    "  fastft evaluate run --data data\n\n"
    "  fastft predict run photo.jpg",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
# The class of every complaint about arguments, which typer keeps in a private module.
_ArgumentError: Any = typer.BadParameter.__base__

#: What typer makes of Ctrl-C, and shells of a process that died of it.
_INTERRUPTED = 130

for command in (
    synth, fetch, convert, merge, inspect, show, train, evaluate, predict, compare, sweep, bench,
    parity, report, doctor,
):  # fmt: skip
    app.command()(command)


def main() -> None:
    """Run the command line; ends the process with 0, 1 (data), 2 (usage) or 130 (Ctrl-C)."""
    # Pillow says it of transparent palette images, whose transparency nobody asked for here.
    warnings.filterwarnings("ignore", message="Palette images with Transparency")
    try:
        status = app(prog_name="fastft", standalone_mode=False) or 0
        if status == _INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(status)
    except FastftError as error:
        _fail(str(error), error.exit_code)
    except _ArgumentError as error:
        where = getattr(getattr(error, "ctx", None), "command_path", "fastft")
        _fail(f"{where}: {error.format_message()} See {where} --help", 2)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        _fail(f"fastft: {error} If memory ran out, take fewer --workers.", 1)
    except Stopped as error:
        if str(error):
            _fail(f"fastft: {error}", error.exit_code)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _fail("fastft: interrupted", _INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe has left; nobody is there to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a full disk, a missing permission: the machine's doing, not a bug
        _fail(f"{error.filename or 'fastft'}: {error.strerror or error}", 1)


def _fail(message: str, status: int) -> None:
    print(one_line(message), file=sys.stderr)
    sys.exit(status)
