"""Files that survive a kill: what a reader can find after a write that failed or was cut short."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from deeplearn.errors import StorageError
from deeplearn.report import files


def test_replace_leaves_the_new_content_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    (tmp_path / "a.json.tmp").write_bytes(b"left behind by a kill, and longer than the content")
    files.replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("call", ["pwrite", "fsync", "replace"])
def test_replace_that_fails_keeps_the_old_content(tmp_path, monkeypatch, call):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(StorageError, match=r"a\.json: No space left on device"):
        files.replace(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def replace_again_and_again(barrier, path, byte, times):
    """Both processes have begun when the first writes."""
    barrier.wait(60)
    for _ in range(times):
        files.replace(path, byte * 100_000)


def test_two_processes_that_replace_a_file_spoil_nothing(tmp_path):
    """Both use the one draft."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"a" * 100_000)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    writers = [
        context.Process(target=replace_again_and_again, args=(barrier, path, byte, 100))
        for byte in (b"a", b"b")
    ]
    for writer in writers:
        writer.start()
    found = set()
    while any(writer.is_alive() for writer in writers):
        found.add(path.read_bytes())
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert {*found, path.read_bytes()} <= {b"a" * 100_000, b"b" * 100_000}
    assert os.listdir(tmp_path) == ["a.bin"]


def test_replace_writes_through_no_link_and_names_what_is_in_the_way(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "a.json.tmp").symlink_to(victim)
    (tmp_path / "b.json.tmp").mkdir()
    for name in ("a.json", "b.json", "n" * 253, "victim/c.json"):
        with pytest.raises(StorageError, match="cannot write"):
            files.replace(tmp_path / name, b"new")
    assert victim.read_bytes() == b"mine"


def test_replace_in_a_missing_directory_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        files.replace(tmp_path / "gone" / "a.json", b"new")


def test_journal_keeps_records_of_a_failed_write_and_cuts_its_torn_part(tmp_path, monkeypatch):
    path = tmp_path / "log"
    journal = files.Journal(path)
    journal.add(b"one\n")
    journal.flush()

    real, calls = os.pwrite, []

    def half_then_full_disk(descriptor, data, offset):
        calls.append(offset)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[: len(data) // 2], offset)

    monkeypatch.setattr(files.os, "pwrite", half_then_full_disk)
    journal.add(b"two\n")
    journal.flush()
    assert path.read_bytes() == b"one\ntw"
    assert journal.failures == 1 and "No space" in journal.error

    monkeypatch.undo()
    journal.add(b"three\n")
    journal.flush(sync=True)
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_journal_cuts_what_lies_behind_the_whole_records(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"one\na torn record longer than the next")
    journal = files.Journal(path, size=4)
    journal.add(b"two\n")
    journal.flush()
    assert path.read_bytes() == b"one\ntwo\n"


def test_journal_does_not_stretch_a_shortened_file(tmp_path):
    path = tmp_path / "log"
    journal = files.Journal(path)
    journal.add(b"one\n")
    journal.flush()
    path.unlink()
    journal.add(b"two\n")
    journal.flush()
    assert path.read_bytes() == b"two\n"


def test_journal_in_a_removed_directory_is_counted_and_does_not_recreate_it(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    journal = files.Journal(directory / "log")
    directory.rmdir()
    journal.add(b"one\n")
    journal.flush()
    assert journal.failures == 1
    assert not directory.exists()


def test_journal_syncs_only_when_asked(tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: (synced.append(1), real(descriptor)))
    journal = files.Journal(tmp_path / "log")
    journal.add(b"one\n")
    journal.flush()
    assert not synced
    journal.flush(sync=True)
    assert len(synced) == 2  # the file and its directory
