"""What may be chosen of how the service behaves; the flags of ``python -m artifactfs.server``.

The defaults are the service's own. Tests shorten the times and the parts; benchmarks have downloads
redirected, or leave the disk's caches alone.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """One controller's ways.

    `redirect_downloads` answers a download by 302 to a presigned URL of the own object store.
    `download_base` answers it by 302 to ``<download_base>/<ab>/<sha256>`` instead: some other
    server's URL of the directory ``DATA/blobs``, where `ab` are the first two digits (an nginx with
    ``alias DATA/blobs/;`` that runs as the same user, because the directory is 0700).
    `objects_port` gives the object store a port, and so an origin, of its own (0: any free one).
    `public_url` is what URLs of the own begin with, where it is not what the client asked for.
    `sync` False does not wait for the disk: a power cut may then lose what was answered.
    `store` keeps contents and uploads in an S3 bucket, ``s3://BUCKET[/PREFIX]``, at `endpoint_url`
    where that is not Amazon's own. `index` keeps what is known of them in PostgreSQL,
    ``postgresql://HOST/DATABASE``, so that several controllers may share one bucket.
    """

    part_size_bytes: int = 64 << 20
    retention_s: float = 7 * 86_400.0
    url_lifetime_s: float = 3600.0
    upload_lifetime_s: float = 86_400.0
    heartbeat_s: float = 5.0
    redirect_downloads: bool = False
    download_base: str | None = None
    objects_port: int | None = None
    public_url: str | None = None
    sync: bool = True
    store: str | None = None
    endpoint_url: str | None = None
    index: str | None = None
