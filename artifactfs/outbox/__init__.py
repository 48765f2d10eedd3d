"""The outbox: nothing that was closed in ``drop/`` is ever lost.

    outbox     puts it together                states      the state machine; what is durable when
    book       journal, view, files in step    journal     the rows; schema: its tables
    desk       opening, closing, removing      files       what is open
    renames, folders, names                    view        what everyone sees
    spool      where the bytes lie             space       how much they may take
    durable    many waiters, one sync          copying     shared blocks before copies
    missing    ranges that did not get there
    hashing    SHA-256 while writing           callers     a killed writer, or one that closes
    recovery   the start after a crash         takeover    what other mounts have left
    worker     the uploading threads           turns, gate whose turn it is: pure, and fair
    dispatch   worker and book                 plan        which way a file takes: pure
    uploader   the ways                        multipart   the longest one; rate: the limit
    shipment   one file on its way             calls       what is asked of the service
    waiting    flush, fsync, unmount           sweeper     what has lingered; audit: uploads.log

It knows the service by ``remote``, and the cache and the listing not at all: those come in as
callbacks.
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
