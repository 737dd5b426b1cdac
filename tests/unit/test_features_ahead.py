"""Opening the next of several things while one is worked on."""

from contextlib import contextmanager

import pytest
from histomake.base.errors import HistomakeError
from histomake.features.ahead import Ahead


@pytest.fixture
def events():
    return []


@pytest.fixture
def open_item(events):
    @contextmanager
    def opened(item):
        if item == "broken":
            raise HistomakeError("broken")
        events.append(f"open {item}")
        try:
            yield item
        finally:
            events.append(f"close {item}")

    return opened


def test_items_are_opened_in_turn_unless_the_next_is_begun(events, open_item):
    with Ahead("ab", open_item) as items:
        for item, context in items:
            with context as opened:
                assert opened == item
                events.append(f"work on {item}")
    assert events == ["open a", "work on a", "close a", "open b", "work on b", "close b"]


def test_the_next_item_is_open_before_its_turn_once_it_is_begun(events, open_item):
    with Ahead("ab", open_item) as items:
        for _, context in items:
            with context:
                items.begin()
                items.begin()
    assert events == ["open a", "open b", "close a", "close b"]


def test_an_item_that_cannot_be_opened_raises_at_its_turn(events, open_item):
    with Ahead(["a", "broken", "c"], open_item) as items:
        for item, context in items:
            if item == "broken":
                with pytest.raises(HistomakeError, match="broken"), context:
                    pass
                continue
            with context:
                items.begin()
    assert events == ["open a", "close a", "open c", "close c"]


def test_what_was_opened_and_had_no_turn_is_closed(events, open_item):
    with Ahead("ab", open_item) as items:
        for _, context in items:
            with context:
                items.begin()
            break
    assert events == ["open a", "open b", "close a", "close b"]


def test_items_are_asked_for_only_when_they_are_begun(open_item):
    asked = []
    with Ahead((asked.append(item) or item for item in "abc"), open_item) as items:
        next(iter(items))[1].__enter__()
        assert asked == ["a"]
        items.begin()
        assert asked == ["a", "b"]
