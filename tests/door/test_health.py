"""The question whether the service is well."""

from tests.door.house import Door


def test_health_counts_the_instances_and_asks_for_no_token(door: Door) -> None:
    answer = door.client.get("/healthz")

    assert (answer.status_code, answer.get_json()) == (200, {"status": "ok", "instances": 4})


def test_health_does_not_depend_on_the_broker_or_on_instances(empty_door: Door) -> None:
    empty_door.bell.break_down()

    assert empty_door.client.get("/healthz").get_json() == {"status": "ok", "instances": 0}


def test_health_writes_nothing(door: Door) -> None:
    door.client.get("/healthz")

    assert door.receipts() == []


def test_a_wrong_address_or_method_is_answered_in_json(door: Door) -> None:
    lost, wrong = door.client.get("/nowhere"), door.client.get("/webhooks")

    assert (lost.status_code, wrong.status_code) == (404, 405)
    assert "not found" in lost.get_json()["error"]
    assert "method is not allowed" in wrong.get_json()["error"]
