"""FUSE: the only package that knows it.

| module | what it has |
|---|---|
| `binding`, `select` | what a binding to the kernel is, and which one is used |
| `native/` | the binding that speaks to ``/dev/fuse`` itself |
| `libfuse/` | the portable binding, over libfuse 2 and fusepy |
| `error_reply` | every exception becomes an errno and one log line |
| `mount_checks` | what is checked before a mount |
| `unmount` | the mount table; unmount, detach, abort |
| `user_namespace` | mounting without privilege, in a namespace of its own |
"""
