"""The first question to the forge: which it is, whose token asks, and what it lacks. Asks the forge, and logs."""

import structlog

from pool.errors import NotAllowed
from tasks.engine import Engine
from tasks.forge import Forge

log = structlog.get_logger(__name__)

#: Seconds by which the clocks may differ before somebody should know.
MOST_SKEW_S = 60


def introduce(engine: Engine, forge: Forge) -> None:
    """Ask the forge what it is, and say it in the log.

    Raises ForgeUnavailable, and NotAllowed for a token of another account: we would not know our own comments, and
    write each anew; and nobody knows who may not review what.
    """
    info = forge.info()
    name = engine.settings.report_type
    kind = engine.settings.type(name)
    if info.login.lower() != kind.forge_user.lower():
        raise NotAllowed(
            f"the token in {kind.token_file} is of {info.login}, and types.{name}.forge_user is {kind.forge_user}: "
            "nothing is done with it; put the right one there"
        )
    what = f"{'Forgejo' if info.is_forgejo else 'Gitea'} {info.version}"
    log.info("forge answers", forge=what, login=info.login, page=info.max_page)
    for gap in info.missing:
        say = log.warning if gap.is_of_old else log.info
        say("forge lacks something", forge=what, lacks=gap.sentence)
    if abs(info.clock_skew_s) > MOST_SKEW_S:
        log.warning("clocks differ", by_s=round(info.clock_skew_s), remedy="set both clocks by NTP")
