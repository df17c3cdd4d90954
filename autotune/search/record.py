"""The study's record, the one truth that resume, report and select read: how it is made, opened and locked for its one driver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from autotune.errors import StudyError
from autotune.search.lock import StudyLock
from autotune.search.reading import RECORD_FORMAT
from autotune.search.rows import FORMAT, SETTINGS, plain
from autotune.search.storage import as_url, open_storage, place, sqlite_file, translated
from autotune.search.writing import RecordWriter

DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)  # the metric, the peak of allocated bytes


class StudyRecord(RecordWriter):
    """The record of one study, in an Optuna study of two objectives (metric up, peak allocated bytes down).

    Made by :meth:`create` and :meth:`open` only. One driver writes it, held by a lock file; any number of readers may
    look at the same time. Each call is on the disk when it returns. How statuses are kept: complete is COMPLETE with
    both values, stopped is PRUNED, every other end is FAIL, with status, reason and the whole outcome as user
    attributes; a refused configuration is an attribute of the study and never a trial.
    """

    def __init__(self, storage: BaseStorage, url: str, name: str, *, lock: StudyLock | None, write: bool) -> None:
        super().__init__(storage, url, name, write=write)
        self._lock = lock

    @classmethod
    def create(
        cls,
        storage: str | Path,
        name: str,
        *,
        settings: Mapping[str, Any],
        lock_path: str | Path | None = None,
        lock: StudyLock | None = None,
    ) -> Self:
        """A new, empty record that its maker may write.

        Args:
            storage: path of a SQLite file (made where missing) or a database URL.
            settings: what the study was asked for, JSON only; :meth:`open` compares it.
            lock_path: the lock file; by default ``<file>.lock`` beside a SQLite file. A database by URL is locked only
                where this is given.
            lock: held already by whoever calls, who lets it go.

        Raises:
            StudyError: a study of this name is there already, another driver holds it, or the storage cannot be used.
        """
        url = as_url(storage)
        own = None if lock is not None else _locked(url, lock_path)
        with _unlocked_on_error(own):
            opened = open_storage(url, create=True)
            with translated(url):
                ids = {study.study_name: study._study_id for study in opened.get_all_studies()}
                if name not in ids:
                    opened.create_new_study(DIRECTIONS, name)
                elif SETTINGS in opened.get_study_user_attrs(ids[name]):
                    raise StudyError(
                        f"There is a study {name!r} at {place(url)} already. Go on with `autotune resume`, or give the "
                        f"new one another --name or --study-dir."
                    )
                # else its maker was killed before it wrote the settings: nothing is lost by going on with it
            record = cls(opened, url, name, lock=own, write=True)
            record._set_study(FORMAT, RECORD_FORMAT)
            record._set_study(SETTINGS, plain(dict(settings)))
        return record

    @classmethod
    def open(
        cls,
        storage: str | Path,
        name: str | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        write: bool = False,
        lock_path: str | Path | None = None,
        lock: StudyLock | None = None,
    ) -> Self:
        """The record that :meth:`create` made; ``write=True`` takes the driver's lock, or ``lock`` that is held; readers need none.

        ``name`` may be left out where the storage holds one study. ``settings`` are compared with those of the record.

        Raises:
            StudyError: no such study, not a study of this program, of other settings, or another driver holds it.
        """
        url = as_url(storage)
        opened = open_storage(url, create=False)
        with translated(url):
            names = sorted(study.study_name for study in opened.get_all_studies())
        if name is None and len(names) != 1:
            raise StudyError(
                f"{place(url)} holds {len(names)} studies ({', '.join(names) or 'none'}): name one of them."
            )
        name = names[0] if name is None else name
        if name not in names:
            raise StudyError(f"There is no study {name!r} at {place(url)}; it holds: {', '.join(names) or 'none'}.")
        own = _locked(url, lock_path) if write and lock is None else None
        with _unlocked_on_error(own):
            record = cls(opened, url, name, lock=own, write=write)
            record._check(settings)
            if write:
                record._settle()
        return record

    def close(self) -> None:
        """Lets the driver's lock go; from then on the record can only be read. Nothing needs to be flushed."""
        self._write = False
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _locked(url: str, lock_path: str | Path | None) -> StudyLock | None:
    file = sqlite_file(url)
    if lock_path is None and file is not None:
        lock_path = file.with_name(f"{file.name}.lock")
    return StudyLock(lock_path).acquire() if lock_path is not None else None


@contextmanager
def _unlocked_on_error(lock: StudyLock | None) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if lock is not None:
            lock.release()
        raise
