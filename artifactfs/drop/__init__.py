"""The outbox: nothing that was closed in ``drop/`` is ever lost.

``outbox`` puts it together; ``states`` is the state machine, ``journal`` its rows, ``spool`` the
directory of the bytes, ``view`` what everyone sees, ``files`` what is open, ``hashing`` the hash
while writing, ``names`` paths, ``recovery`` the start after a crash; ``plan`` decides the way of an
upload (pure), ``uploader`` goes it, ``worker`` are the threads, ``rate`` the limit; ``callers``
tells a killed writer from one that closes.
"""

from artifactfs.drop.files import OpenFile
from artifactfs.drop.outbox import Outbox
from artifactfs.drop.states import Entry, Folder, State
from artifactfs.drop.uploader import Uploader

__all__ = ["Entry", "Folder", "OpenFile", "Outbox", "State", "Uploader"]
