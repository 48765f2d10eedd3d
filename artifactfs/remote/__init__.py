"""HTTP: the only package that knows it.

| module | what it has |
|---|---|
| `service` | the facade |
| `session`, `retry` | token, requests, translated errors; the one retry loop |
| `url`, `redirect_targets` | every URL is parsed here; where downloads were redirected to |
| `connection_pool`, `http_connection`, `request_body` | connections for downloads; what is sent |
| `header_values`, `content_encoding` | headers that never raise; bodies in a content coding |
| `wire_artifacts`, `wire_jobs` | every JSON shape |
| `artifacts_api`, `uploads_api`, `jobs_api` | the calls |
| `downloader` | ranged downloads, redirects, resuming |
| `external_guard` | references to URLs outside the service |
| `sse` | server-sent events |
"""

from artifactfs.remote.downloader import (
    Downloader,
    DownloadResult,
    ProbeResult,
)
from artifactfs.remote.jobs_api import JobsApi
from artifactfs.remote.request_body import (
    FileBody,
    Progress,
    RequestBody,
)
from artifactfs.remote.service import Service
from artifactfs.remote.sse import EventStream, TooLargeEvent
from artifactfs.remote.uploads_api import UploadsApi
from artifactfs.remote.wire_artifacts import (
    DirectTicket,
    MultipartState,
    MultipartTicket,
    PartUrl,
    UploadedPart,
)
from artifactfs.remote.wire_jobs import ResultVerdict

__all__ = [
    "DirectTicket",
    "DownloadResult",
    "Downloader",
    "EventStream",
    "FileBody",
    "JobsApi",
    "MultipartState",
    "MultipartTicket",
    "PartUrl",
    "ProbeResult",
    "Progress",
    "RequestBody",
    "ResultVerdict",
    "Service",
    "TooLargeEvent",
    "UploadedPart",
    "UploadsApi",
]
