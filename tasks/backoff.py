"""Pauses that double: the longer something has failed, the rarer it is tried again. Pure: no I/O."""


def doubled(first_s: float, times: int, *, longest_s: float) -> float:
    """Return a pause that was doubled so many times, in seconds."""
    # A float ends somewhere, and failures need not.
    return min(longest_s, first_s * 2.0 ** min(times, 64))
