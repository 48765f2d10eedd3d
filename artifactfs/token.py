"""Where the bearer token comes from, without holding on to it longer than needed.

A token expires while a mount lives, so what is kept is its *source*: a file is read again when the
service answers 401. ``config`` decides which source applies; ``remote`` reads it. A `Secret` shows
itself nowhere: not in a repr, not in a log line, not in a pickle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from artifactfs.errors import TokenMissing


class Secret:
    """A string that is only ever shown on purpose, by `reveal`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the Authorization header and nothing else."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled; its source is found again where it is unpickled")


@dataclass(frozen=True, slots=True)
class TokenSource:
    """One place a token is read from.

    `name` is for people ("ARTIFACTFS_TOKEN", "/run/credentials/artifactfs-token"). Exactly one of
    `value` and `path` is set, or neither: then there is no token.
    """

    name: str
    value: Secret | None = None
    path: Path | None = None

    def read(self) -> Secret:
        """The token as it stands in its source now.

        Raises `TokenMissing` if there is none, or if its file cannot be read, is empty, or holds
        more than one line (then it is some other file).
        """
        if self.value is not None:
            return self._checked(self.value.reveal())
        if self.path is None:
            raise TokenMissing("no token found")
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise TokenMissing(f"the token file {self.path} cannot be read: {reason}") from error
        return self._checked(text)

    def _checked(self, text: str) -> Secret:
        token = text.strip()
        if not token:
            raise TokenMissing(f"{self.name} is empty")
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise TokenMissing(f"{self.name} does not hold a token: one line of ASCII is expected")
        return Secret(token)


NO_TOKEN = TokenSource("nowhere")
