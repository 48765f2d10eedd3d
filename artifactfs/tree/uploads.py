"""The text of ``.artifactfs/uploads.json``: made once per change, and only what has changed.

The file says everything of every entry, so with ten thousand of them it is megabytes long, and it
has an honest size: whoever lists the directory or looks at the file asks for it, opened or not. So
the text is kept, with the outbox's *revision* it was made of; as long as that is the same, so is
the text. Of a newer one only the pieces of entries that are others now are made anew: while files
are being sent, that is a handful. Entries are immutable, so "another" is told by identity.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Hashable

from artifactfs.tree.rooms import Entry, Outbox

_BEFORE, _BETWEEN, _AFTER = '{\n  "uploads": [', ",", "\n  ]\n}\n"
NO_UPLOADS = b'{\n  "uploads": []\n}\n'
_INDENTED = "\n" + 4 * " "


class UploadsText:
    """The text, as JSON indented by two.

    `_lock` guards what is kept, and is held while it is made, so that several who ask at once have
    it made once.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._lock = threading.Lock()
        self._revision: Hashable = None
        self._pieces: dict[int, tuple[Entry, str]] = {}
        self._text = b""

    def now(self) -> bytes:
        """What it says of the outbox as it is. Asks nobody but memory."""
        with self._lock:
            revision = self._outbox.revision
            if revision != self._revision:
                entries = self._outbox.entries()
                self._pieces = {one.id: (one, self._piece(one)) for one in entries}
                pieces = _BETWEEN.join(piece for _, piece in self._pieces.values())
                text = f"{_BEFORE}{pieces}{_AFTER}".encode() if pieces else NO_UPLOADS
                self._text, self._revision = text, revision
            return self._text

    def _piece(self, entry: Entry) -> str:
        kept = self._pieces.get(entry.id)
        return kept[1] if kept is not None and kept[0] is entry else _piece_of(entry)


def _piece_of(entry: Entry) -> str:
    document = {
        "name": entry.path,
        "state": str(entry.state),
        "size": entry.size_bytes,
        "progress": entry.progress,
        "sha256": entry.sha256,
        "artifact_id": entry.artifact_id,
        "error": entry.error,
        "waits_for_name": entry.waits_for_name,
    }
    return _INDENTED + json.dumps(document, indent=2).replace("\n", _INDENTED)
