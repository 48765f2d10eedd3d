"""Tails joined to one text: what a task has printed, from glimpses of its end.

The service shows the end of what a task has printed so far. Two glimpses overlap, or the later one
begins where the earlier one had not come yet. `join` finds out which, by what is known already:

* all that is known is the beginning of the new tail: the rest is new (a task that has not printed
  much yet);
* the end of what is known is the beginning of the tail: what follows is new;
* the tail is known already: nothing is new;
* all that is known stands within the tail, which began earlier this time: what follows is new;
* none of it: something may be missing in between, a **gap**.

Texts repeat themselves, so an overlap of a few characters proves nothing. Below `SURE_CHARS` it
counts as a gap, but what overlaps is not repeated: a gap may be marked where nothing is missing,
never the other way round, and nothing ever comes twice. What cannot be told is a tail that looks
exactly as before although as much was printed as it is long: a task that prints the same line over
and over for longer than the service shows.

Pure. `Tail` is what is known of one attempt; only its last `KNOWN_CHARS` are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

SURE_CHARS = 16
SHORT_CHARS = 1024  # no service shows less: what is shorter was not cut
KNOWN_CHARS = 32 << 10
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Joined:
    """What is new, and whether something may be missing before it."""

    text: str
    gap: bool = False


@dataclass(slots=True)
class Tail:
    """The end of what is known, since the last gap. `whole`: it is also the beginning."""

    known: str = ""
    whole: bool = True

    def join(self, tail: str) -> Joined:
        """Take in another glimpse."""
        tail = tail.lstrip(_REPLACEMENT)  # a character that the cut has gone through
        joined = _joined(self.known, tail, whole=self.whole)
        if joined.gap:
            self.known, self.whole = tail, False
        elif joined.text:
            self.known += joined.text
        if len(self.known) > KNOWN_CHARS:
            self.known, self.whole = self.known[-KNOWN_CHARS:], False
        return joined


def _joined(known: str, tail: str, *, whole: bool) -> Joined:
    if not known:
        return Joined(tail)
    if known.endswith(tail) or (len(tail) >= SURE_CHARS and tail in known):
        return Joined("")
    count = overlap(known, tail)
    if count >= SURE_CHARS:
        return Joined(tail[count:])
    if whole and count == len(known):
        a_line = known.endswith("\n") and len(known) > 2
        return Joined(tail[count:], gap=len(tail) >= SHORT_CHARS and not a_line)
    if len(known) >= SURE_CHARS:
        start = tail.rfind(known)
        if start >= 0:
            return Joined(tail[start + len(known) :])
    return Joined(tail[count:], gap=True)


def overlap(known: str, tail: str) -> int:
    """How many characters of the end of `known` are the beginning of `tail`, at most."""
    most = min(len(known), len(tail))
    known = known[len(known) - most :]
    if most >= SURE_CHARS:
        anchor, start = tail[:SURE_CHARS], -1
        while (start := known.find(anchor, start + 1)) >= 0:
            if tail.startswith(known[start:]):
                return most - start
    for count in range(min(most, SURE_CHARS - 1), 0, -1):
        if known.endswith(tail[:count]):
            return count
    return 0
