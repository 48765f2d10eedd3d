"""artifactfs mounts the artifacts of a compute service as a directory.

The rooms, from the user inwards: ``cli`` (words and progress), ``assembly`` (builds and closes the
rooms), ``kernel`` (FUSE), ``tree`` (what a user sees), then the siblings ``catalog`` (what exists),
``cache`` (bytes on disk) and ``drop`` (the outbox), then ``remote`` (HTTP). ``errors``, ``config``,
``artifact``, ``token``, ``spans`` and ``clock`` are the ground that all stand on. ``controller`` is
an embedded service for one machine.
"""

__version__ = "0.1.0"
