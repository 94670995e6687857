"""Publishing to an SNS topic, whose name says in which region it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from botocore.exceptions import BotoCoreError, ClientError

from tasks.errors import PublishFailed

if TYPE_CHECKING:
    from botocore.client import BaseClient

Publish: TypeAlias = Callable[[str, str, Mapping[str, str]], None]
TOPIC = re.compile(r"arn:aws[a-z-]*:sns:([a-z0-9-]+):\d{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?")


class Topics:
    """SNS, as boto3 reaches it with its own chain of credentials. Thread-safe."""

    def __init__(self, endpoint: str, timeout_s: float) -> None:
        """Take where SNS is, if not at AWS itself, and how long it may take to answer."""
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._clients: dict[str, Any] = {}

    def publish(self, topic: str, message: str, attributes: Mapping[str, str]) -> None:
        """Publish a message to a topic, with string attributes.

        Raises:
            PublishFailed: SNS does not take it; says why.
        """
        found = TOPIC.fullmatch(topic)
        if found is None:
            raise PublishFailed(f"{topic!r} is not the ARN of an SNS topic.")
        try:
            self._client(found[1]).publish(
                TopicArn=topic,
                Message=message,
                MessageAttributes={
                    name: {"DataType": "String", "StringValue": value}
                    for name, value in attributes.items()
                },
            )
        except ClientError as error:
            code = error.response["Error"].get("Code", "unknown")
            raise PublishFailed(f"SNS refuses the message: {code}.") from error
        except BotoCoreError as error:
            raise PublishFailed(f"SNS does not answer: {type(error).__name__}.") from error

    def _client(self, region: str) -> Any:  # noqa: ANN401  boto3 makes its clients as it runs
        if region not in self._clients:
            self._clients[region] = self._made(region)
        return self._clients[region]

    def _made(self, region: str) -> BaseClient:
        import boto3.session
        from botocore.config import Config

        # A session of our own, because making clients on boto3's default one is not thread-safe.
        client: BaseClient = boto3.session.Session().client(
            "sns",
            region_name=region,
            endpoint_url=self._endpoint or None,
            config=Config(
                connect_timeout=3,
                read_timeout=self._timeout_s,
                retries={"mode": "standard", "total_max_attempts": 1},
            ),
        )
        return client
