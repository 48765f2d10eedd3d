"""The embedded service: stands in for the real one on one machine.

It answers as the service's contract says, keeps contents by their SHA-256 in a directory with a
database in SQLite, and is meant for tests, demonstrations and small teams, not for the internet.

| module | what it has |
|---|---|
| `runner`, `config` | lock, token, ports, the end; what may be chosen |
| `app`, `responses`, `auth` | which URL is whose; errors and JSON; tokens and roles |
| `artifact_routes`, `upload_routes`, `object_routes`, `job_routes` | the calls |
| `dev_routes` | ``/_dev``: what tests tell it to do |
| `artifact_table`, `upload_table`, `event_streams` | artifacts, uploads, events in the database |
| `database`, `postgres` | SQLite; PostgreSQL for several services |
| `blob_store`, `upload_store`, `upload_files`, `s3_bucket` | contents on disk or in a bucket |
| `request_body`, `range_response`, `urls` | bytes in, bytes out, signed URLs |
| `thread_pools`, `testing` | what may block; the service in a process of its own |

One event loop answers; what may block runs in threads.
"""

from artifactfs.server.config import ServerConfig
from artifactfs.server.runner import announce, serve

__all__ = ["ServerConfig", "announce", "serve"]
