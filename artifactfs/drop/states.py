"""The states of an entry of the outbox, who moves it, and what is durable when.

    ┌─────────┐  last close   ┌────────┐  uploader   ┌─────────┐  hash known  ┌───────────┐
    │ writing │ ────────────▶ │ queued │ ──────────▶ │ hashing │ ───────────▶ │ uploading │
    └─────────┘               └────────┘             └─────────┘              └───────────┘
      │  ▲ opened to write       ▲  ▲ trouble that passes: again later   │      │       │
      │  └────────────────────── │ ─┴────────────────────────────────────┴──────┘       │
      │ writer killed            │ retry                                  refused        ▼
      ▼                          │                                    ┌────────┐   ┌──────────┐
    ┌─────────────┐              ├─────────────────────────────────── │ failed │   │ uploaded │
    │ interrupted │ ─────────────┘                                    └────────┘   └──────────┘
    └─────────────┘

| moved by | from → to | durable before |
|---|---|---|
| open files | (new) → writing | the row; the bytes are not yet promised |
| open files (FLUSH) | stays writing, marked closed | bytes (fdatasync), then the row |
| open files (RELEASE) | writing → queued | as at FLUSH |
| open files (FLUSH) | writing → interrupted | as at FLUSH |
| open files | any but writing → writing, when it is written again | |
| uploader | queued → hashing → uploading | the hash, before it is used |
| uploader | uploading → uploaded | the service has it |
| uploader | → failed | the service has refused it |
| uploader | → queued | trouble that passes |
| user (`retry`) | failed, interrupted → queued | |
| start | writing → queued if it was closed, else interrupted; hashing, uploading → queued | |

The row in the journal is the state; memory only shows it. A move is a compare-and-set on the row's
state and *generation*, a number that each writing raises: an uploader that works on what has been
overwritten meanwhile finds that its row is not the same any more, and lets go.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where an entry stands."""

    WRITING = "writing"
    QUEUED = "queued"
    HASHING = "hashing"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


PENDING = frozenset({State.WRITING, State.QUEUED, State.HASHING, State.UPLOADING})


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the outbox, as it is now.

    `path` is relative to ``drop/``. `progress` goes from 0 to 1. `waits_for_name` says that its
    name looks temporary, so that it is not uploaded before it is renamed.
    """

    id: int
    path: str
    state: State
    size_bytes: int
    mode: int
    mtime_ns: int
    ctime_ns: int
    sha256: str | None = None
    progress: float = 0.0
    error: str | None = None
    artifact_id: str | None = None
    waits_for_name: bool = False
    generation: int = 0
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Folder:
    """One directory of the outbox. `fresh`: made by a user and nothing has been in it yet."""

    id: int
    path: str
    mode: int
    mtime_ns: int
    ctime_ns: int
    fresh: bool = True
