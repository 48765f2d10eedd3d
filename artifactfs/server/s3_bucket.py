"""An S3 bucket as the place for contents and uploads: every call to S3 stands here.

    <prefix>blobs/<first two digits>/<digest>   each content once
    <prefix>uploads/<upload>                    what is being uploaded, until it is complete
    <prefix>owner                               which index knows of them

Credentials, region and the like come from where every program of AWS has them (``AWS_…``,
``~/.aws``). All methods block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from artifactfs.errors import ConfigError

_PIECE_BYTES = 1 << 20


def open_bucket(url: str, endpoint_url: str | None, url_lifetime_s: float) -> S3Bucket:
    """The bucket of ``s3://NAME[/PREFIX]``. Raises `ConfigError`."""
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc:
        raise ConfigError(f"--store: s3://BUCKET or s3://BUCKET/PREFIX is expected, not {url}")
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise ConfigError(
            "a bucket needs boto3", remedy="pip install 'artifactfs[server,s3]'"
        ) from error
    style = {"addressing_style": "path"} if endpoint_url else {}
    client = boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        config=Config(signature_version="s3v4", s3=style, max_pool_connections=16),
    )
    prefix = parts.path.strip("/")
    bucket = S3Bucket(client, parts.netloc, f"{prefix}/" if prefix else "", url_lifetime_s)
    try:
        client.head_bucket(Bucket=parts.netloc)
    except (BotoCoreError, ClientError) as error:
        raise ConfigError(f"the bucket {parts.netloc} cannot be used: {error}") from error
    return bucket


class S3Bucket:
    """One bucket. boto3's clients may be used by many threads."""

    def __init__(self, client: Any, name: str, prefix: str, url_lifetime_s: float) -> None:
        self._client = client
        self._name = name
        self._prefix = prefix
        self.url_lifetime_s = url_lifetime_s

    def blob(self, sha256: str) -> str:
        """The key of a content."""
        return f"{self._prefix}blobs/{sha256[:2]}/{sha256}"

    def upload(self, upload_id: str) -> str:
        """The key of an upload."""
        return f"{self._prefix}uploads/{upload_id}"

    def claim(self, owner: str) -> None:
        """Have the bucket belong to one index. Raises `ConfigError` if it is another's.

        Two that do not know of each other would throw away what the other has.
        """
        key = f"{self._prefix}owner"
        try:
            found = self._client.get_object(Bucket=self._name, Key=key)["Body"].read().decode()
        except self._client.exceptions.ClientError as error:
            if not _is_missing(error):
                raise ConfigError(f"the bucket {self._name} cannot be used: {error}") from error
            self.put_bytes(key, owner.encode())
            return
        if found != owner:
            raise ConfigError(
                f"the bucket {self._name} belongs to another index",
                remedy="share it with --index, or remove the object "
                f"{key} if that index is gone for good",
            )

    # Presigned URLs

    def url_to_put(self, key: str, content_type: str) -> str:
        """Where the object is PUT, with this Content-Type."""
        return self._presigned("put_object", Key=key, ContentType=content_type)

    def url_to_put_part(self, key: str, remote_id: str, number: int) -> str:
        """Where a part is PUT."""
        return self._presigned("upload_part", Key=key, UploadId=remote_id, PartNumber=number)

    def url_to_get(self, key: str, disposition: str) -> str:
        """Where the object is read."""
        return self._presigned(
            "get_object",
            Key=key,
            ResponseContentType="application/octet-stream",
            ResponseContentDisposition=disposition,
        )

    def _presigned(self, call: str, **words: object) -> str:
        url: str = self._client.generate_presigned_url(
            call,
            Params={"Bucket": self._name, **words},
            ExpiresIn=max(1, int(self.url_lifetime_s)),
        )
        return url

    # Objects

    def size_of(self, key: str) -> int | None:
        """How large an object is; None if it is not there."""
        try:
            return int(self._client.head_object(Bucket=self._name, Key=key)["ContentLength"])
        except self._client.exceptions.ClientError as error:
            if _is_missing(error):
                return None
            raise

    def put_file(self, key: str, path: Path) -> None:
        """An object from a file; a large one in parts."""
        self._client.upload_file(str(path), self._name, key)

    def put_bytes(self, key: str, content: bytes) -> None:
        """An object from memory."""
        self._client.put_object(Bucket=self._name, Key=key, Body=content)

    def copy(self, source: str, target: str) -> None:
        """Have the bucket copy an object; a large one in parts."""
        self._client.copy({"Bucket": self._name, "Key": source}, self._name, target)

    def remove(self, key: str) -> None:
        """Let an object go, if it is there."""
        self._client.delete_object(Bucket=self._name, Key=key)

    def digest(self, key: str, check: Callable[[], None]) -> str:
        """The SHA-256 of an object, which is read for it. `check` is called now and then."""
        digest = hashlib.sha256()
        body = self._client.get_object(Bucket=self._name, Key=key)["Body"]
        try:
            for piece in body.iter_chunks(_PIECE_BYTES):
                check()
                digest.update(piece)
        finally:
            body.close()
        return digest.hexdigest()

    def names(self, below: str) -> Iterator[str]:
        """The last part of every key that begins so."""
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._name, Prefix=f"{self._prefix}{below}/"):
            for found in page.get("Contents", ()):
                yield str(found["Key"]).rpartition("/")[2]

    # Multipart uploads

    def begin(self, key: str, content_type: str) -> str:
        """Begin a multipart upload; its id in S3."""
        begun = self._client.create_multipart_upload(
            Bucket=self._name, Key=key, ContentType=content_type
        )
        return str(begun["UploadId"])

    def parts(self, key: str, remote_id: str) -> list[tuple[int, int, str]] | None:
        """Number, size and ETag of what has come; None if S3 does not know the upload."""
        found: list[tuple[int, int, str]] = []
        pages = self._client.get_paginator("list_parts")
        try:
            for page in pages.paginate(Bucket=self._name, Key=key, UploadId=remote_id):
                some = page.get("Parts", ())
                found += [(part["PartNumber"], part["Size"], part["ETag"]) for part in some]
        except self._client.exceptions.ClientError as error:
            if _is_missing(error):
                return None
            raise
        return found

    def complete(self, key: str, remote_id: str, parts: list[tuple[int, str]]) -> None:
        """Have S3 join the parts."""
        told = [{"PartNumber": number, "ETag": etag} for number, etag in parts]
        self._client.complete_multipart_upload(
            Bucket=self._name, Key=key, UploadId=remote_id, MultipartUpload={"Parts": told}
        )

    def abort(self, key: str, remote_id: str) -> None:
        """Give a multipart upload up, if S3 knows it."""
        try:
            self._client.abort_multipart_upload(Bucket=self._name, Key=key, UploadId=remote_id)
        except self._client.exceptions.ClientError as error:
            if not _is_missing(error):
                raise


def _is_missing(error: Any) -> bool:
    code = error.response.get("Error", {}).get("Code", "")
    return code in ("404", "NoSuchKey", "NoSuchUpload", "NotFound")
