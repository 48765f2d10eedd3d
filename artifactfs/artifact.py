"""An artifact, as the rest of the project knows it.

``remote.wire`` makes these from the service's JSON, whatever shape that had; everyone else only
reads them. An artifact never changes: a new listing brings new values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Artifact:
    """One artifact of the service.

    `id` is opaque and not a safe file name. `sha256` is 64 lowercase hex digits or None,
    `size_bytes` is exact or None: a reference to an external URL may have neither before it is
    read. `filename`
    is what the service says, unsafe and possibly with ``/``; it is the id where the service says
    nothing. Times are UTC. `metadata` holds the keys of the service's object that have no field
    here, as parsed JSON.
    """

    id: str
    filename: str
    created_at: datetime
    expires_at: datetime
    sha256: str | None = None
    size_bytes: int | None = None
    content_type: str = "application/octet-stream"
    status: str = "ready"
    external_url: str | None = None
    job_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)
