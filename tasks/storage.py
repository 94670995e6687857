"""The object store: put, get, stream and list over any S3 endpoint.

Owns the S3 client, its patience, and the translation of its errors. Which keys mean what belongs to
the callers.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from urllib3.exceptions import HTTPError

from tasks.errors import LinkFailed, ObjectNotFound, StorageError
from tasks.settings import TaskSettings

if TYPE_CHECKING:
    from boto3.session import Session
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

_CHUNK_BYTES = 256 * 1024
_DELETE_LIMIT = 1000  # keys in one DeleteObjects request
_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
# One range from one picture is all that a browser asks for; RFC 9110 lets a server ignore any
# other.
_SINGLE_RANGE = re.compile(r"bytes=(\d+-\d*|-\d+)")


@dataclass(frozen=True)
class StoredObject:
    """An object being read. Use up or close `chunks`: it holds a connection."""

    content_type: str
    content_length: int
    chunks: Iterator[bytes]
    content_range: str | None
    etag: str


@dataclass(frozen=True)
class StoredKey:
    """An object in a listing."""

    key: str
    size_bytes: int
    last_modified: datetime


class ObjectStore:
    """One bucket. Thread-safe, as boto3's clients are.

    Every method raises `StorageError` when the store refuses, or still does not answer after the
    retries.
    """

    def __init__(self, client: S3Client, bucket: str, probe: S3Client | None = None) -> None:
        """Take a client, and optionally a less patient one for `ping`."""
        self._client = client
        self._bucket = bucket
        self._probe = probe or client

    @classmethod
    def from_settings(cls, settings: TaskSettings) -> Self:
        """Return the store that the settings describe; connects to nothing yet."""
        import boto3.session

        # A session of our own, because making clients on boto3's default one is not thread-safe.
        session = boto3.session.Session()
        return cls(
            _client(session, settings, attempts=5, read_timeout_s=10),
            settings.s3_bucket,
            # A health check that retries for half a minute tells nobody anything.
            _client(session, settings, attempts=1, read_timeout_s=3),
        )

    def put(
        self, key: str, data: bytes, content_type: str, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write an object; the same key and data again is harmless."""
        with _translated(key):
            self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=data,
                ContentType=content_type,
                Metadata=metadata or {},
            )

    def get(self, key: str) -> bytes:
        """Return an object's bytes.

        Raises:
            ObjectNotFound: There is nothing under the key.
        """
        with _translated(key):
            return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()

    def fetch(self, bucket: str, key: str, max_bytes: int, left: Callable[[], float]) -> bytes:
        """Return an object of any bucket that the credentials reach; tries once.

        `left` is asked before each part, and raises when the time is over.

        Raises:
            ObjectNotFound: There is nothing under the key.
            LinkFailed: It has more than `max_bytes`.
        """
        with _translated(key):
            answer = self._probe.get_object(Bucket=bucket, Key=key)
        if answer["ContentLength"] > max_bytes:
            answer["Body"].close()
            raise LinkFailed(f"What is there has more than {max_bytes} bytes.")
        found = bytearray()
        for chunk in _chunks(key, answer["Body"]):
            left()
            found += chunk
        return bytes(found)

    def open(self, key: str, range_header: str | None = None) -> StoredObject:
        """Return an object to be streamed.

        `range_header` is an HTTP Range; anything but one simple range is ignored.

        Raises:
            ObjectNotFound: There is nothing under the key.
        """
        with _translated(key):
            answer = self._get(key, range_header)
        return StoredObject(
            content_type=answer.get("ContentType", "application/octet-stream"),
            content_length=answer["ContentLength"],
            chunks=_chunks(key, answer["Body"]),
            content_range=answer.get("ContentRange"),
            etag=answer["ETag"],
        )

    def _get(self, key: str, range_header: str | None) -> GetObjectOutputTypeDef:
        if range_header is None or not _SINGLE_RANGE.fullmatch(range_header):
            return self._client.get_object(Bucket=self._bucket, Key=key)
        try:
            return self._client.get_object(Bucket=self._bucket, Key=key, Range=range_header)
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"InvalidRange", "416"}:
                raise
            return self._client.get_object(Bucket=self._bucket, Key=key)

    def presign(self, key: str, expires_s: int) -> str:
        """Return a URL that reads the object without credentials, for a while."""
        with _translated(key):
            return self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self._bucket, "Key": key}, ExpiresIn=expires_s
            )

    def exists(self, key: str) -> bool:
        """Tell whether there is an object under the key."""
        try:
            with _translated(key):
                self._client.head_object(Bucket=self._bucket, Key=key)
        except ObjectNotFound:
            return False
        return True

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; a key with nothing under it is no error."""
        for start in range(0, len(keys), _DELETE_LIMIT):
            some = keys[start : start + _DELETE_LIMIT]
            with _translated(some[0]):
                answer = self._client.delete_objects(
                    Bucket=self._bucket,
                    Delete={"Objects": [{"Key": key} for key in some], "Quiet": True},
                )
            # The request succeeds even where single keys do not.
            failed = [
                error for error in answer.get("Errors", []) if error.get("Code") not in _MISSING
            ]
            if failed:
                raise StorageError(
                    f"{len(failed)} objects could not be deleted, "
                    f"the first, {failed[0].get('Key')!r}, because of {failed[0].get('Code')}."
                )

    def list(self, prefix: str, older_than: datetime | None = None) -> Iterator[StoredKey]:
        """Yield the objects under a prefix in key order; `older_than` leaves out later ones."""
        yield from _listing(self._client, self._bucket, prefix, older_than)

    def ensure_bucket(self) -> None:
        """Create the bucket if it is not there."""
        with _translated(self._bucket):
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                if error.response["Error"]["Code"] not in {*_MISSING, "NoSuchBucket"}:
                    raise
                _create_bucket(self._client, self._bucket)

    def ping(self) -> None:
        """Return if the bucket can be reached with our credentials; tries once."""
        with _translated(self._bucket):
            self._probe.head_bucket(Bucket=self._bucket)

    def fetch_tree(self, url: str, folder: Path, wanted: Callable[[str], bool]) -> tuple[str, ...]:
        """Copy what is below `s3://bucket/prefix`, if its relative name is wanted, into a folder.

        Any bucket will do that the credentials reach. Returns the relative names of all objects
        there, wanted or not.
        """
        parts = urlsplit(url)
        prefix = parts.path.strip("/") + "/"
        names: list[str] = []
        for stored in _listing(self._client, parts.netloc, prefix.lstrip("/"), None):
            name = stored.key.removeprefix(prefix.lstrip("/"))
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise StorageError(f"The key {stored.key!r} would be written outside its folder.")
            names.append(name)
            if wanted(name):
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with _translated(stored.key):
                    self._client.download_file(parts.netloc, stored.key, str(target))
        return tuple(names)


def _client(
    session: Session, settings: TaskSettings, *, attempts: int, read_timeout_s: float
) -> S3Client:
    from botocore.config import Config

    return session.client(
        "s3",
        endpoint_url=settings.s3_endpoint or None,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key_id or None,
        aws_secret_access_key=settings.s3_secret_access_key.get_secret_value() or None,
        config=Config(
            connect_timeout=3,
            read_timeout=read_timeout_s,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=32,
            signature_version="s3v4",
            # Path addressing and no trailing checksums: S3-compatible servers lack wildcard names
            # and aws-chunked.
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


@contextlib.contextmanager
def _translated(key: str) -> Iterator[None]:
    """Turn what boto3 and the connection below it raise into our errors, which name the key."""
    try:
        yield
    except ClientError as error:
        code = error.response["Error"].get("Code", "unknown")
        if code in _MISSING:
            raise ObjectNotFound(f"There is no object {key!r}.") from error
        raise StorageError(f"The object store refused {key!r}: {code}.") from error
    except (BotoCoreError, HTTPClientError, HTTPError, OSError) as error:
        raise StorageError(
            f"The object store did not answer for {key!r}: {type(error).__name__}."
        ) from error


def _chunks(key: str, body: StreamingBody) -> Iterator[bytes]:
    """Yield the body and give its connection back, also when the reader leaves early."""
    with contextlib.closing(body), _translated(key):
        yield from body.iter_chunks(_CHUNK_BYTES)


def _listing(
    client: S3Client, bucket: str, prefix: str, older_than: datetime | None
) -> Iterator[StoredKey]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    with _translated(prefix):
        for page in pages:
            for row in page.get("Contents", []):
                if older_than is None or row["LastModified"] < older_than:
                    yield StoredKey(row["Key"], row["Size"], row["LastModified"])


def _create_bucket(client: S3Client, bucket: str) -> None:
    region = client.meta.region_name
    try:
        if region == "us-east-1":  # the one region that must not be named
            client.create_bucket(Bucket=bucket)
        else:
            client.create_bucket(
                Bucket=bucket,
                CreateBucketConfiguration={"LocationConstraint": region},  # type: ignore[typeddict-item]  # any region
            )
    except (client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
        # Somebody was faster. If it is not ours after all, the next request says so.
        return
