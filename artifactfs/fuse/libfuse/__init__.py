"""The portable binding: libfuse 2 through fusepy, by path.

| module | what it has |
|---|---|
| `binding` | the life of one mount |
| `callbacks` | fusepy's class with its defects mended; every exception ends here |
| `operations` | the operations by path, on the tree's nodes |
| `open_files` | handles by number, and what the paths of open files mean |
"""
