"""FUSE: the only room that knows it.

``binding`` says what a way into the kernel is; ``fusepy_binding`` is the portable one (libfuse 2),
``native`` speaks ``/dev/fuse`` itself. ``replies`` turns every exception into an errno and one log
line; ``mounting`` looks after mount points, the mount table and unmounting.
"""
