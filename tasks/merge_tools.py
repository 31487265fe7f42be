"""What a link of the chain that merges works with: the forge in the name of the account that merges, and git."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from tasks.engine import Engine
from tasks.facts import read_facts
from tasks.forges import Forges
from tasks.merge_next import MergeForge
from tasks.merge_update import MirrorUpdater, Updater
from tasks.situation import Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Access to one forge."""

    forge: MergeForge
    read: Callable[[Any, Engine, str, int], Facts]  #: as `tasks.facts.read_facts`
    updater: Updater
    sleep: Callable[[float], None] = time.sleep


#: Given the type that merges and a question whether the link is still wanted; None: the type has no token.
Open = Callable[[Engine, str, Callable[[], bool]], AbstractContextManager[Tools | None]]


@contextmanager
def open_tools(engine: Engine, type_name: str, is_unwanted: Callable[[], bool]) -> Iterator[Tools | None]:
    """Open the forge as the account of a type."""
    settings = engine.settings
    with Forges(settings, is_unwanted=is_unwanted) as forges:
        forge = forges.of(type_name)
        if forge is None:
            yield None
            return
        updater = MirrorUpdater(settings=settings, account=settings.type(type_name), is_unwanted=is_unwanted)
        yield Tools(forge=forge, read=read_facts, updater=updater)
