"""The Celery app: no call of it may hang, and no message of it may carry more than an id."""

from __future__ import annotations

from tasks.app import make_celery
from tasks.settings import TaskSettings

CONF = make_celery(TaskSettings(redis_url="redis://127.0.0.1:1/0")).conf


def test_every_socket_has_a_time_limit() -> None:
    options = CONF.broker_transport_options
    assert 0 < options["socket_timeout"] <= 30
    assert 0 < options["socket_connect_timeout"] <= 5
    assert options["socket_keepalive"]
    assert 0 < options["health_check_interval"] <= 30
    assert 0 < CONF.broker_pool_acquire_timeout <= 30


def test_a_broker_that_is_away_is_waited_for_by_workers_and_not_by_publishers() -> None:
    assert CONF.broker_connection_max_retries is None
    assert CONF.broker_connection_retry_on_startup
    assert not CONF.task_publish_retry


def test_messages_are_json_and_nobody_keeps_results() -> None:
    assert CONF.accept_content == ["json"]
    assert CONF.task_serializer == "json"
    assert CONF.task_ignore_result
    assert not CONF.result_backend


def test_a_worker_holds_one_bell_and_gives_it_back_when_it_dies() -> None:
    assert CONF.worker_prefetch_multiplier == 1
    assert CONF.task_acks_late
    assert CONF.task_reject_on_worker_lost
    # Lost work is found by its lease; redelivery would only start it twice.
    assert CONF.broker_transport_options["visibility_timeout"] >= 3600
    assert not CONF.worker_cancel_long_running_tasks_on_connection_loss
