"""The Celery app and its configuration; no task bodies.

A message is a doorbell: it carries a job's id, and losing or doubling it is harmless. So there is
no result backend, no ETA, no canvas and no revoke; what matters here is that no call ever hangs.
"""

from __future__ import annotations

from celery import Celery

from tasks.settings import TaskSettings

GENERATE = "pixeltoll.generate"


def make_celery(settings: TaskSettings) -> Celery:
    """Return an app on the broker of the settings; it connects when first used."""
    app = Celery("pixeltoll", broker=settings.redis_url)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        # One bell in a worker's hand at a time, put back when the worker dies.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # A job that is running may finish and be paid while the broker is away.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=True,
        # The process has said how it logs.
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=True,
        task_send_sent_event=True,
        task_publish_retry=False,
        broker_pool_acquire_timeout=5,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            # Far above any job: lost work is found by its lease, never by redelivery.
            "visibility_timeout": 6 * 3600,
            # Without these a half-open connection hangs publishers and workers for ever.
            "socket_timeout": 10,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 25,
            # Priorities live in the jobs table; every step here would be one more list to poll.
            "priority_steps": [0],
        },
    )
    return app
