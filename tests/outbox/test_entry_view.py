"""What the outbox shows has a revision: another one whenever anything is shown otherwise."""

from __future__ import annotations

import os
from collections.abc import Callable

from artifactfs.outbox import EntryState, OutboxEntry
from artifactfs.outbox.entry_view import EntryView
from artifactfs.server.testing import LocalController

from .conftest import Bench, write


def test_every_change_that_is_shown_has_a_revision_of_its_own(
    bench: Bench, controller: LocalController
) -> None:
    controller.stop()
    outbox = bench.outbox()
    seen = [(outbox.revision, outbox.entries())]

    def does(act: Callable[[], object]) -> None:
        act()
        before, now = seen[-1], (outbox.revision, outbox.entries())
        assert now[1] != before[1], "nothing is shown otherwise: the step shows nothing here"
        assert now[0] != before[0]
        seen.append(now)

    file = outbox.create("a.tmp", 0o644)
    does(lambda: file.write(0, b"one"))
    does(lambda: file.write(3, b"and two"))
    does(lambda: file.truncate(4))
    does(lambda: file.flush(os.getpid()))
    does(file.release)
    does(lambda: outbox.rename("a.tmp", "b.tmp"))
    does(lambda: outbox.change("b.tmp", mode=0o600))
    does(lambda: outbox.make_folder("sub", 0o755) and write(outbox, "sub/c.tmp", b"c"))
    does(lambda: outbox.rename("sub", "other"))
    does(lambda: outbox.unlink("b.tmp"))


def test_nothing_changed_is_the_same_revision(bench: Bench, controller: LocalController) -> None:
    controller.stop()
    outbox = bench.outbox()
    write(outbox, "a.tmp", b"a")
    held = outbox.open("a.tmp", os.O_RDONLY)
    before = outbox.revision
    assert held.read(0, 10) == b"a"
    outbox.find("a.tmp"), outbox.children(""), outbox.tally(), outbox.entries()
    assert outbox.revision == before
    held.release()


def test_what_was_left_and_progress_are_changes_too() -> None:
    view = EntryView(())
    empty = view.revision
    view.load([OutboxEntry(1, "a", EntryState.UPLOADING, 10, 0o644, 0, 0)])
    assert view.revision != empty
    for progress in (0.25, 0.5, None):
        before = view.revision, view.entries()
        view.set_progress(1, progress)
        assert view.entries() != before[1]
        assert view.revision != before[0]
