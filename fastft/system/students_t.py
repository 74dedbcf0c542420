"""Student's t distribution.

By SciPy's special functions, which load in 0.13 s where all of its distributions took 0.59 s.
"""

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
