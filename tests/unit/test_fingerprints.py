"""Fingerprints of slides: bytes count, dates and names do not."""

import os
import time

import pytest
from histomake.audit import fingerprints
from histomake.audit.fingerprints import Fingerprints, quick_fingerprint
from histomake.slide.companions import named_files
from hypothesis import given, settings
from hypothesis import strategies as st

MEGABYTE = 1 << 20


def fingerprint(slide):
    return quick_fingerprint(named_files(slide))


def test_touching_or_copying_a_slide_keeps_its_fingerprint(tmp_path):
    slide = tmp_path / "a.svs"
    slide.write_bytes(os.urandom(3 * MEGABYTE))
    before = fingerprint(slide)
    os.utime(slide, (1, 1))
    assert fingerprint(slide) == before


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3 * MEGABYTE - 1))
def test_an_edit_in_a_sampled_block_changes_the_fingerprint(tmp_path_factory, position):
    slide = tmp_path_factory.mktemp("f") / "a.svs"
    content = bytearray(3 * MEGABYTE)
    slide.write_bytes(content)
    before = fingerprint(slide)
    content[position] ^= 1
    slide.write_bytes(content)
    offsets = fingerprints._sample_offsets(len(content))
    sampled = any(o <= position < o + fingerprints.SAMPLE_BYTES for o in offsets)
    assert (fingerprint(slide) != before) == sampled


def test_head_tail_and_size_always_count(tmp_path):
    slide = tmp_path / "a.svs"
    contents = [b"x" * MEGABYTE, b"y" + b"x" * (MEGABYTE - 1), b"x" * (MEGABYTE - 1) + b"y", b"x" * (MEGABYTE + 1)]
    seen = set()
    for content in contents:
        slide.write_bytes(content)
        seen.add(fingerprint(slide))
    assert len(seen) == len(contents)


def test_a_remembered_slide_is_not_read_again_until_its_stamp_changes(tmp_path, monkeypatch):
    slide = tmp_path / "a.svs"
    slide.write_bytes(b"1" * 1000)
    memory = Fingerprints(tmp_path / "memory.json", remember=False)
    first = memory.of(str(slide))
    memory.save()
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "quick_fingerprint", lambda files: pytest.fail("read again"))
        assert Fingerprints(tmp_path / "memory.json", remember=False).of(str(slide)) == first
    time.sleep(0.01)
    slide.write_bytes(b"2" * 1000)
    os.utime(slide, (5, 5))
    assert Fingerprints(tmp_path / "memory.json", remember=False).of(str(slide)) != first


@pytest.mark.parametrize("text", ["{half", "[]", '{"a.svs": [[[1, 2]], "of version 0.1"]}'])
def test_a_memory_that_cannot_be_used_only_costs_time(tmp_path, text):
    (tmp_path / "memory.json").write_text(text)
    slide = tmp_path / "a.svs"
    slide.write_bytes(b"1")
    assert Fingerprints(tmp_path / "memory.json", remember=False).of(str(slide)) == fingerprint(slide)
