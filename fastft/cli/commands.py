"""The command line: arguments to a config, a config to one call.

Nothing heavy is imported before a command needs it: `fastft --help` loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import getdoc
from typing import Any

import typer

from fastft.cli.bench import bench
from fastft.cli.check import check
from fastft.cli.convert import convert, merge
from fastft.cli.data import export_data, inspect, synth
from fastft.cli.doctor import doctor
from fastft.cli.evaluate import evaluate, predict
from fastft.cli.experiments import compare, sweep
from fastft.cli.export import export
from fastft.cli.fetch import fetch
from fastft.cli.parity import parity
from fastft.cli.report import report
from fastft.cli.show import show
from fastft.cli.train import train
from fastft.system.progress import tell_of_compiling
from pipelines.images.pillow import admit_large_images

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
ArgumentError: Any = typer.BadParameter.__base__
#: What typer makes of Ctrl-C.
_INTERRUPTED = 130
#: How a paragraph of a docstring begins that is an example.
_EXAMPLE = "Example: "
#: Options that say how much is in memory at once, and what to do with them if it runs out.
_SPARING = {
    "batch_size": "a smaller --batch-size",
    "size": "a smaller --size",
    "workers": "fewer --workers",
    "loader": "another --loader",
    "images": "fewer --images",
}


def help_of(command: Callable[..., Any]) -> str:
    """A command's docstring as help: paragraphs in one line each, its examples as one block."""
    paragraphs = (getdoc(command) or "").split("\n\n")
    joined = [" ".join(each.split()) for each in paragraphs]
    examples = [each.removeprefix(_EXAMPLE) for each in joined if each.startswith(_EXAMPLE)]
    text = [each for each in joined if not each.startswith(_EXAMPLE)]
    return "\n\n".join([*text, "\n".join(["Examples:", *(f"$ {each}" for each in examples)])])


for command in (
    synth,
    fetch,
    convert,
    merge,
    export_data,
    inspect,
    show,
    check,
    train,
    evaluate,
    predict,
    export,
    compare,
    sweep,
    bench,
    parity,
    report,
    doctor,
):
    app.command(help=help_of(command))(command)


def run() -> int:
    """Run what the arguments of this process ask for; gives the exit status.

    Raises:
        ArgumentError: they ask for nothing that there is.
        FastftError: what is wrong with the user's input.
    """
    admit_large_images()
    tell_of_compiling()
    try:
        status = app(prog_name="fastft", standalone_mode=False) or 0
    except typer.Abort as error:  # as typer calls the end of a file
        raise error.__cause__ or error from None
    if status == _INTERRUPTED:
        raise KeyboardInterrupt
    return int(status)


def sparing(name: str) -> Iterator[str]:
    """Options of a command that save memory, as remedies."""
    command = getattr(typer.main.get_command(app), "commands", {}).get(name)
    names = {each.name for each in command.params} if command is not None else set()
    yield from (remedy for option, remedy in _SPARING.items() if option in names)
