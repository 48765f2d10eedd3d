"""What a user sees: directories, files and their attributes, without FUSE and without HTTP.

``node`` is the whole of what ``fuse`` needs to know; the other modules fill it with life:

* ``names`` makes any text a safe path, ``folders`` gives every artifact its name, ``inodes`` its
  number: pure, fed with what left and what came;
* ``artifacts`` and ``artifact_files`` are ``artifacts/``, ``by-id/`` and ``by-sha256/``;
* ``outbox`` is ``drop/``, ``control`` is ``.artifactfs/``;
* ``jobs`` and ``projects`` are what they are called, ``texts`` the files in them that change;
* ``xattrs`` says what extended attributes show, ``commands`` what setting one does;
* ``root`` puts it together as the `ArtifactTree`; ``rooms`` says what it needs of the others.
"""

from artifactfs.vfs.filesystem import ArtifactTree
from artifactfs.vfs.name_index import names_of

__all__ = ["ArtifactTree", "names_of"]
