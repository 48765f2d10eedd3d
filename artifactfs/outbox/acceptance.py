"""Whether an artifact that the service has already counts as the upload of a file: pure.

Each closed file becomes an artifact of its own name, created now, with full retention. The service
may answer ``exists`` to a hash that it knows, and nothing is sent then. Such an answer counts only
if its artifact is what sending the bytes would have made: an older one of the same name is not the
newest version again, and one that expires soon keeps nothing.

Times are compared by the service's clock. `service_now` is early by up to a second (the header
``Date`` has whole seconds), never late, so what was created since the request always counts. A
service whose clock is not known answers nothing that counts.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from artifactfs.model import Artifact

RETENTION = timedelta(days=7)
_ROUNDING = timedelta(milliseconds=10)
_SHORTER = timedelta(minutes=1)


def is_acceptable(
    artifact: Artifact,
    filename: str,
    *,
    since: datetime,
    now: datetime,
    service_now: datetime | None,
    retention: timedelta,
    older: Collection[str] = (),
) -> bool:
    """Whether `artifact` counts as uploaded as `filename`, and created not before `since`.

    `since` and `now` are of our clock. `retention` is what a new artifact gets. `older` are ids of
    artifacts that are known to be older.
    """
    if service_now is None or artifact.filename != filename or artifact.status != "ready":
        return False
    if artifact.external_url is not None or artifact.id in older:
        return False
    created_at = artifact.created_at
    earliest = since + (service_now - now) - _ROUNDING
    if created_at.microsecond == 0:  # perhaps it has whole seconds only
        earliest = earliest.replace(microsecond=0)
    return (
        created_at >= earliest
        and artifact.expires_at - created_at >= retention - _SHORTER
        and artifact.expires_at - service_now >= retention / 2
    )
