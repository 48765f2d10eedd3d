"""HTTP: the only room that knows it.

``service`` is the facade. ``session`` owns connections, token and the translation of errors,
``retry`` the one retry loop, ``wire`` and ``wire_jobs`` every JSON shape; ``artifacts``,
``download``, ``uploads`` and ``jobs`` are the calls, ``paging`` reads their lists; ``sse`` and
``events`` follow streams; ``bodies`` is what is sent; ``external`` guards references to other
people's URLs. ``url`` parses every URL, ``targets`` remembers where downloads were redirected to,
``encoding`` decodes bodies in a content coding.
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
