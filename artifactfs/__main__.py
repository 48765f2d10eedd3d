"""``python -m artifactfs`` is the command ``artifactfs``."""

from artifactfs.cli import main

if __name__ == "__main__":
    main()
