"""HTTP: the only room that knows it.

``service`` is the facade. ``session`` owns connections, token and the translation of errors,
``retry`` the one retry loop, ``wire`` and ``wire_jobs`` every JSON shape; ``artifacts``,
``download``, ``uploads`` and ``jobs`` are the calls, ``paging`` reads their lists; ``sse`` and
``events`` follow streams; ``bodies`` is what is sent; ``external`` guards references to other
people's URLs. ``url`` parses every URL, ``targets`` remembers where downloads were redirected to,
``encoding`` decodes bodies in a content coding.
"""

from artifactfs.remote.bodies import (
    Body,
    FileBody,
    Progress,
)
from artifactfs.remote.download import (
    Delivered,
    Downloader,
    Probe,
)
from artifactfs.remote.events import EventStream, TooLargeEvent
from artifactfs.remote.jobs import JobsApi
from artifactfs.remote.service import Service
from artifactfs.remote.uploads import UploadsApi
from artifactfs.remote.wire import (
    DirectTicket,
    MultipartState,
    MultipartTicket,
    PartUrl,
    UploadedPart,
)
from artifactfs.remote.wire_jobs import Verdict

__all__ = [
    "Body",
    "Delivered",
    "DirectTicket",
    "Downloader",
    "EventStream",
    "FileBody",
    "JobsApi",
    "MultipartState",
    "MultipartTicket",
    "PartUrl",
    "Probe",
    "Progress",
    "Service",
    "TooLargeEvent",
    "UploadedPart",
    "UploadsApi",
    "Verdict",
]
