"""Work on things one after another, of which the next one is opened while one is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from histomake.base.errors import HistomakeError


class Ahead[T, R]:
    """Items in order, each with its context. `begin` opens that of the next item before its turn.

    An item that cannot be opened raises its error when its turn comes. Leaving the object closes what was opened and
    had no turn.
    """

    def __init__(self, items: Iterable[T], open_item: Callable[[T], AbstractContextManager[R]]) -> None:
        self._items, self._open_item = iter(items), open_item
        self._next: tuple[T, ExitStack, R | HistomakeError | OSError] | None = None

    def begin(self) -> None:
        """Open the next item, if there is one and it is not open."""
        if self._next is not None:
            return
        for item in self._items:
            stack = ExitStack()
            try:
                opened: R | HistomakeError | OSError = stack.enter_context(self._open_item(item))
            except (HistomakeError, OSError) as error:
                # The item that is worked on is not to blame.
                opened = error
            self._next = item, stack, opened
            return

    def __iter__(self) -> Iterator[tuple[T, AbstractContextManager[R]]]:
        """Yield each item with its context, which must be entered."""
        while True:
            self.begin()
            if self._next is None:
                return
            (item, stack, opened), self._next = self._next, None
            yield item, _turn(stack, opened)

    def __enter__(self) -> Ahead[T, R]:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._next is not None:
            self._next[1].close()


@contextmanager
def _turn[R](stack: ExitStack, opened: R | HistomakeError | OSError) -> Iterator[R]:
    with stack:
        if isinstance(opened, HistomakeError | OSError):
            raise opened
        yield opened
