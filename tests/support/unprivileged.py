"""The command line as one runs it who may not read every file, as root may."""

import ctypes

from fastft.cli.main import main

_VERSION = 0x20080522  # of the structures that the system calls take
_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2


def drop_rights() -> None:
    """Take them from this process and from all that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the higher halves
    assert libc.capget(header, sets) == 0
    for right in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        libc.prctl(_PR_CAPBSET_DROP, right, 0, 0, 0)  # which only root may, and need
        for at in range(3):
            sets[at] &= ~(1 << right)
    assert libc.capset(header, sets) == 0


if __name__ == "__main__":
    drop_rights()
    main()
