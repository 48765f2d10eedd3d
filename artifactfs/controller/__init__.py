"""The embedded service: stands in for the real one on one machine.

It answers as the service's contract says, keeps contents by their SHA-256 in a directory with an
index in SQLite, and is meant for tests, demonstrations and small teams, not for the internet.
``app`` puts the calls together; ``artifacts``, ``uploads``, ``objects`` and ``jobs`` are the calls;
``store`` keeps bytes, ``index`` everything else; ``accounts`` says who asks; ``signing`` makes the
presigned URLs; ``serving`` runs it.
"""

from artifactfs.controller.serving import Options, serve

__all__ = ["Options", "serve"]
