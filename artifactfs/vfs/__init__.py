"""What a user sees: directories, files and their attributes, without FUSE and without HTTP.

| module | what it has |
|---|---|
| `node` | all that ``fuse`` needs to know: nodes, handles, attributes |
| `filesystem` | the root, and the `ArtifactTree` that puts the parts together |
| `artifact_dirs`, `artifact_file` | ``artifacts/``, ``by-id/``, ``by-sha256/`` and their files |
| `name_index`, `filenames`, `inode_numbers` | names and numbers of all artifacts (pure) |
| `drop_dir` | ``drop/`` |
| `jobs_dir`, `projects_dir`, `text_file` | ``jobs/``, ``projects/``, and files that grow |
| `control_dir`, `metrics_text`, `orders` | ``.artifactfs/``; commands that are carried out later |
| `xattrs` | extended attributes: what they show, and which are commands |
| `interfaces` | what the tree needs of cache and outbox |
"""

from artifactfs.vfs.filesystem import ArtifactTree
from artifactfs.vfs.name_index import names_of

__all__ = ["ArtifactTree", "names_of"]
