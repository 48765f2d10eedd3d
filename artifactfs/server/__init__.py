"""The embedded service: stands in for the real one on one machine.

It answers as the service's contract says, keeps contents by their SHA-256 in a directory with an
index in SQLite, and is meant for tests, demonstrations and small teams, not for the internet.

    serving      runs it: lock, token, ports, the end          behaviour  what may be chosen
    app          which URL is whose, how errors look           answers    errors, JSON
    artifacts    list, get, post, references; expiry           records    artifacts in the index
    uploads      direct and multipart uploads                  tickets    uploads in the index
    objects      the object store: presigned PUT and GET       parts      uploads' files
    shelf        where uploads gather: here, or in a bucket     bucket     every call to S3
    bucket_shelf, bucket_store   uploads and contents in a bucket
    jobs         jobs, tasks, outputs, results                 streams    server-sent events
    playing      /_dev: what tests tell it to play             accounts   tokens and roles
    receiving, sending   bytes in, bytes out                   store      contents on disk
    ranges, filenames, signing, urls   pure                    index, workers   SQLite, threads

One event loop answers; what may block runs in threads (``workers``). ``testing`` starts it in a
process of its own.
"""

from artifactfs.server.config import ServerConfig
from artifactfs.server.runner import announce, serve

__all__ = ["ServerConfig", "announce", "serve"]
