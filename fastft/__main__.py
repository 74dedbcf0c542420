"""The program's very beginning: `fastft`, `python -m fastft`, and what torchrun starts."""

import signal


def main() -> None:
    """See `cli.main.main`; loads nothing before Ctrl-C ends the process without a traceback.

    It does so of the signal itself until `signals.Interruptions` hears it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from fastft.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
