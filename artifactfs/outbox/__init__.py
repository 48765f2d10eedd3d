"""The outbox: nothing that was closed in ``drop/`` is lost.

| module | what it has |
|---|---|
| `outbox` | the outbox as a whole: builds the parts and connects them |
| `state` | the states of an entry; what is durable when |
| `entry_store`, `entry_view` | the entries: rows and files in step; what readers see of them |
| `journal`, `journal_schema` | the rows on disk, and their tables |
| `namespace`, `renames`, `directories`, `filenames` | open, close, remove, rename |
| `open_file`, `missing_ranges` | a file while it is open; the ranges that could not be written |
| `spool`, `spool_quota`, `preview` | the files; how much they may take; a full disk |
| `durability`, `file_copy` | one fsync for many waiters; reflinks before copies |
| `hashing` | SHA-256 while a file is written |
| `recovery`, `takeover` | the start after a crash; what other mounts have left |
| `upload_worker`, `upload_dispatch` | the threads that upload, and what they need of the entries |
| `upload_queue`, `transfer_limiter`, `rate_limiter` | which is next, how many, how fast |
| `uploader`, `multipart`, `transfer`, `acceptance` | the upload methods; whose answer counts |
| `upload_waits`, `linger`, `upload_log` | flush, unmount; what leaves; ``uploads.log`` |

It knows the service by ``remote``, and the cache and the catalog not at all: ``assembly`` connects
them.
"""

from artifactfs.outbox.open_file import OutboxHandle
from artifactfs.outbox.outbox import Outbox
from artifactfs.outbox.spool import count_files, service_directory
from artifactfs.outbox.state import (
    EntryState,
    OutboxDirectory,
    OutboxEntry,
)
from artifactfs.outbox.upload_log import UploadLog
from artifactfs.outbox.uploader import Uploader

__all__ = [
    "EntryState",
    "Outbox",
    "OutboxDirectory",
    "OutboxEntry",
    "OutboxHandle",
    "UploadLog",
    "Uploader",
    "count_files",
    "service_directory",
]
