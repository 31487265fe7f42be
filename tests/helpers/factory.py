"""Values for tests that do not care about most of their fields."""

import itertools
from typing import Any

from pool.model import Kind, Request

_numbers = itertools.count(1)


def make_request(**fields: Any) -> Request:
    """Return a request about an issue that no other request of this process is about, unless a number is given."""
    return Request(**{"kind": Kind.IMPLEMENT, "repo": "acme/shop", "number": next(_numbers), **fields})
