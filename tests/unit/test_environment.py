"""What an agent may see of the service's environment."""

import pytest

from pool.errors import BadInput
from tasks.environment import agent_environment

SERVICE = {
    "PATH": "/bin",
    "HOME": "/home/agent",
    "LC_ALL": "C.UTF-8",
    "https_proxy": "http://proxy",
    "FORGEPOOL_DATABASE_URL": "postgresql://secret",
    "CELERY_BROKER_URL": "redis://secret",
    "FLOWER_BASIC_AUTH": "secret",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "SSH_AUTH_SOCK": "/run/agent",
}


def test_an_agent_sees_only_what_every_program_needs() -> None:
    assert set(agent_environment(SERVICE)) == {"PATH", "HOME", "LC_ALL", "https_proxy"}


def test_names_and_beginnings_of_names_can_be_allowed() -> None:
    seen = agent_environment(SERVICE, allow=["SSH_AUTH_SOCK", "AWS_*"])

    assert {"SSH_AUTH_SOCK", "AWS_SECRET_ACCESS_KEY"} <= set(seen)


def test_a_name_allows_no_longer_name() -> None:
    assert "AWS_SECRET_ACCESS_KEY" not in agent_environment(SERVICE, allow=["AWS_SECRET"])


@pytest.mark.parametrize("pattern", ["FORGEPOOL_*", "FORGEPOOL_DATABASE_URL", "CELERY_*", "F*", "C*"])
def test_the_services_own_settings_cannot_be_allowed(pattern: str) -> None:
    seen = agent_environment(SERVICE, allow=[pattern])

    assert not [name for name in seen if name.startswith(("FORGEPOOL", "CELERY", "FLOWER"))]


def test_what_is_set_for_the_task_goes_before_everything() -> None:
    seen = agent_environment(SERVICE, extra={"FORGEPOOL_RESULT_FILE": "/r", "HOME": "/tmp/h"})

    assert (seen["FORGEPOOL_RESULT_FILE"], seen["HOME"]) == ("/r", "/tmp/h")


@pytest.mark.parametrize("pattern", ["*", "", "A*B", "A B", "A=B"])
def test_a_pattern_that_means_everything_or_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(BadInput, match="name one variable"):
        agent_environment(SERVICE, allow=[pattern])
