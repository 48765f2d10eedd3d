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

| moved by | from → to | on the disk before it is answered |
|---|---|---|
| CREATE | (new) → writing | nothing: no close has returned |
| FLUSH | writing → writing, marked closed | the bytes, the file's name, the row |
| FLUSH of a killed writer, or after a failed write | writing → interrupted | as above |
| RELEASE of the last writer | writing → queued | nothing: a closed row is as good as a queued one |
| change of what was closed | any → writing, next generation | the row, before the bytes change |
| RENAME of what is on its way or there | → queued, next generation | the new name |
| UNLINK, or RENAME over it | (gone) | that it is gone |
| uploader | queued → hashing → uploading | nothing |
| uploader | uploading → uploaded | nothing: if it is lost, the service is asked and knows it |
| uploader | → failed (refused for good), → queued (trouble that passes) | nothing |
| user (`retry`) | failed, interrupted → queued | nothing |
| start | writing → queued if it was closed, else interrupted; others on their way → queued | all |

Everything is *written* to the journal at once, so that a crash of the driver alone loses none of
it; "on the disk" is what a crash of the machine cannot take back. What may be lost so leads back to
an earlier state, from which the same work is done again: after an unclean end each entry counts as
`tried`, that is, the service is asked whether it has it before anything is sent. So an entry
arrives once, whatever happens.

The row in the journal is the state; memory only shows it. A move is a compare-and-set on the row's
state and *generation*, a number that each writing and each renaming of what is under way raises: an
uploader that works on what has been overwritten meanwhile finds that its row is not the same any
more, and lets go. `MOVES` is the table above; the journal refuses any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EntryState(StrEnum):
    """Where an entry stands."""

    WRITING = "writing"
    QUEUED = "queued"
    HASHING = "hashing"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


IN_FLIGHT = frozenset({EntryState.HASHING, EntryState.UPLOADING})
PENDING = frozenset({EntryState.WRITING, EntryState.QUEUED, *IN_FLIGHT})

_FOLLOWING = {
    EntryState.WRITING: {EntryState.WRITING, EntryState.QUEUED, EntryState.INTERRUPTED},
    EntryState.QUEUED: {
        EntryState.WRITING,
        EntryState.HASHING,
        EntryState.UPLOADING,
        EntryState.FAILED,
    },
    EntryState.HASHING: {
        EntryState.WRITING,
        EntryState.UPLOADING,
        EntryState.QUEUED,
        EntryState.FAILED,
    },
    EntryState.UPLOADING: {
        EntryState.WRITING,
        EntryState.UPLOADED,
        EntryState.QUEUED,
        EntryState.FAILED,
    },
    EntryState.UPLOADED: {EntryState.WRITING, EntryState.QUEUED},
    EntryState.FAILED: {EntryState.WRITING, EntryState.QUEUED},
    EntryState.INTERRUPTED: {
        EntryState.WRITING,
        EntryState.QUEUED,
        EntryState.INTERRUPTED,
        EntryState.FAILED,
    },
}
MOVES = frozenset((before, after) for before, some in _FOLLOWING.items() for after in some)


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One file of the outbox, as it is now.

    `path` is relative to ``drop/``, `file` the name of its bytes in the spool. `turn` orders
    entries by their closing. `closed` says that a close of these bytes has returned, `closed_at`
    when (seconds since the epoch), `tried` that the service may have got them since. `missing` are
    the ranges that a failed change has left (``missing_ranges``). `progress` goes from 0 to 1.
    `waits_for_name` says that the name looks temporary, so that it is not
    uploaded before it is renamed.
    """

    id: int
    path: str
    state: EntryState
    size_bytes: int
    mode: int
    mtime_ns: int
    ctime_ns: int
    file: str = ""
    sha256: str | None = None
    progress: float = 0.0
    error: str | None = None
    artifact_id: str | None = None
    waits_for_name: bool = False
    generation: int = 0
    closed: bool = False
    turn: int = 0
    tried: bool = False
    closed_at: float = 0.0
    missing: str = ""

    @property
    def is_pending(self) -> bool:
        """Whether it is safe here and will be uploaded without anybody doing anything."""
        if self.waits_for_name:
            return False
        return self.closed if self.state is EntryState.WRITING else self.state in PENDING


@dataclass(frozen=True, slots=True)
class OutboxDirectory:
    """One directory of the outbox. `fresh`: made by a user and nothing has been in it yet."""

    id: int
    path: str
    mode: int
    mtime_ns: int
    ctime_ns: int
    fresh: bool = True
