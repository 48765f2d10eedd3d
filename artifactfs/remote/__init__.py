"""HTTP: the only room that knows it.

``service`` is the facade. ``session`` owns connections, token and the translation of errors,
``retry`` the one retry loop, ``wire`` every JSON shape; ``artifacts``, ``download`` and ``uploads``
are the calls; ``bodies`` is what is sent; ``external`` guards references to other people's URLs.
"""

from artifactfs.remote.bodies import Body, FileBody, Progress
from artifactfs.remote.download import Delivered, Downloader, Probe
from artifactfs.remote.service import Service
from artifactfs.remote.uploads import UploadsApi
from artifactfs.remote.wire import (
    DirectTicket,
    MultipartState,
    MultipartTicket,
    PartUrl,
    UploadedPart,
)

__all__ = [
    "Body",
    "Delivered",
    "DirectTicket",
    "Downloader",
    "FileBody",
    "MultipartState",
    "MultipartTicket",
    "PartUrl",
    "Probe",
    "Progress",
    "Service",
    "UploadedPart",
    "UploadsApi",
]
