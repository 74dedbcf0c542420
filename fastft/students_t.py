"""Student's t distribution, of which SciPy loads a sixth of what it has for all distributions."""

from __future__ import annotations

from functools import cache

from pipelines.memory import require_blas_room


@cache
def quantile(p: float, freedom: int) -> float:
    """The t that is exceeded with probability 1 - p, at so many degrees of freedom.

    Raises:
        MemoryError: there is no room for SciPy.
    """
    require_blas_room()
    from scipy.special import stdtrit

    return float(stdtrit(freedom, p))


def tail(t: float, freedom: int) -> float:
    """The probability that t is exceeded, at so many degrees of freedom.

    Raises:
        MemoryError: there is no room for SciPy.
    """
    require_blas_room()
    from scipy.special import stdtr

    return float(stdtr(freedom, -t))
