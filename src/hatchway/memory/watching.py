"""Pages of this process that several trackers watch at once, by asynchronous write-protection.

A mapping can belong to one userfaultfd only, and a page is marked as written once, for whoever
asks first. So all trackers of a process share one, and what one of them takes is noted for the
others that watch the same pages.
"""

from __future__ import annotations

import errno
import os
import threading

from hatchway.memory.errors import RegionError
from hatchway.memory.mappings import check_mapped, not_mapped
from hatchway.memory.pagemap import Pagemap
from hatchway.memory.ranges import Ranges, difference, intersection, union
from hatchway.memory.userfault import AsyncWriteProtection

_MOST_NOTES = 64
_NOT_WATCHED = (errno.EPERM, errno.EAGAIN)
_REFUSALS = {
    errno.EBUSY: "another userfaultfd has it: another library or a debugger tracks it",
    errno.EINVAL: "it is mapped without write access",
    errno.EPERM: "it is mapped without write access",
    errno.ENOMEM: "the process has too many mappings (vm.max_map_count); track fewer and larger "
    "regions",
}


class Watcher:
    """One tracker's share of the pages that are watched.

    Attributes:
        pages: What it watches.
        noted: What others took of that, and it has not.
    """

    def __init__(self, pages: Ranges) -> None:
        self.pages = pages
        self.noted: list[Ranges] = []

    def note(self, taken: Ranges) -> None:
        """Keep what another one took, in little room however seldom this one asks."""
        self.noted.append(taken)
        if len(self.noted) > _MOST_NOTES:
            self.noted = [union(*self.noted)]


class WatchedPages:
    """The pages that trackers of this process watch; safe in threads.

    Held from the first tracker to the last. A fork does not inherit the protection.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._watchers: list[Watcher] = []
        self._protection: AsyncWriteProtection | None = None
        self._pagemap: Pagemap | None = None

    def join(self, pages: Ranges) -> Watcher:
        """Watch pages; what is written to them from now on is taken.

        Raises:
            BackendUnavailableError: If this kernel cannot.
            RegionError: If nothing is mapped there, or somebody else watches it.
        """
        watcher = Watcher(pages)
        with self._lock:
            if self._protection is None or self._pagemap is None:
                self._open()
            self._watchers.append(watcher)
            try:
                self._register(pages)
                self._take(watcher, pages)
            except BaseException:
                self._note_all(pages)
                self._leave(watcher)
                raise
        return watcher

    def take(self, watcher: Watcher, pages: Ranges) -> Ranges:
        """What was written of some of a watcher's pages; they are watched anew.

        A page that is written to meanwhile is among them, or will be the next time.

        Raises:
            RegionError: If nothing is mapped there any more.
        """
        with self._lock:
            try:
                found = self._take(watcher, pages)
                if watcher.noted:
                    found = intersection(union(found, *watcher.noted), pages)
                    watcher.noted = []
            except BaseException:  # interrupted, say: what was found may be lost
                self._note_all(pages)
                raise
        return found

    def leave(self, watcher: Watcher) -> None:
        """Watch for it no longer; what others watch stays watched."""
        with self._lock:
            self._leave(watcher)

    def forget(self) -> None:
        """Be as new: called in a child after a fork, whose memory is not protected."""
        protection, pagemap = self._protection, self._pagemap
        self._forget()
        if protection is not None:
            protection.close()
        if pagemap is not None:
            pagemap.close()

    def _open(self) -> None:
        protection = AsyncWriteProtection()
        try:
            self._pagemap = Pagemap()
        except BaseException:
            protection.close()
            raise
        self._protection = protection

    def _register(self, pages: Ranges) -> None:
        assert self._protection is not None
        check_mapped(pages)
        for start, end in pages.tolist():
            try:
                self._protection.register(start, end)
            except OSError as error:
                reason = _REFUSALS.get(error.errno or 0, str(error))
                raise RegionError(
                    f"memory from {start:#x} to {end:#x} cannot be tracked: {reason}",
                    start=start,
                    end=end,
                ) from error

    def _take(self, watcher: Watcher, pages: Ranges) -> Ranges:
        assert self._pagemap is not None
        found, num_done, error = self._pagemap.take_written(pages)
        parts, registered = [found], 0
        while error:
            start, end = pages[num_done].tolist()
            if error == errno.ENOMEM:
                raise not_mapped(start, end)
            if error not in _NOT_WATCHED or start == registered:
                raise OSError(error, os.strerror(error))
            # Something else is mapped there now, so all of it may have changed. What was
            # protected before the scan came to it is lost from the answer.
            self._register(pages[num_done : num_done + 1])
            registered = start
            parts.append(pages[num_done : num_done + 1])
            pages = pages[num_done:]
            found, num_done, error = self._pagemap.take_written(pages)
            parts.append(found)
        if len(parts) > 1:
            found = union(*parts)
        if len(self._watchers) > 1 and len(found):
            for other in self._watchers:
                if other is not watcher and len(seen := intersection(found, other.pages)):
                    other.note(seen)
        return found

    def _note_all(self, pages: Ranges) -> None:
        """Pages of which it is not known what was written: whoever watches them is told all."""
        for each in self._watchers:
            each.note(intersection(each.pages, pages))

    def _leave(self, watcher: Watcher) -> None:
        self._watchers.remove(watcher)
        assert self._protection is not None
        assert self._pagemap is not None
        others = union(*(other.pages for other in self._watchers))
        # A process that was forked may hold the descriptor too, so closing is not enough.
        for start, end in difference(watcher.pages, others).tolist():
            try:
                self._protection.unregister(start, end)
            except OSError as error:
                if error.errno != errno.EINVAL:  # it is not mapped any more
                    raise
        if not self._watchers:
            self._protection.close()
            self._pagemap.close()
            self._protection = self._pagemap = None


# Of the process, as the kernel's rule of one userfaultfd a mapping is.
WATCHED = WatchedPages()
os.register_at_fork(after_in_child=WATCHED.forget)
