"""Files appear whole or not at all, and one process at a time holds a lock."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessing.storage import BusyError, locked, remove_temporaries, staged, write_json, write_table

HOLDER = """
import sys, time
from pathlib import Path
from preprocessing.storage import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_writes_make_their_folders_and_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "facts.json"
    write_json(path, {"n": 1})
    write_json(path, {"n": 2})
    assert json.loads(path.read_text()) == {"n": 2}
    table = pa.table({"x": list(range(10))})
    write_table(tmp_path / "t.parquet", table, row_group_size=4)
    assert pq.read_table(tmp_path / "t.parquet").equals(table)
    assert pq.read_metadata(tmp_path / "t.parquet").num_row_groups == 3
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["facts.json", "t.parquet"]


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    write_json(path, {"n": 1})
    with pytest.raises(OSError, match="disk full"), staged(path) as fresh:
        fresh.write_text("half")
        raise OSError("disk full")
    assert json.loads(path.read_text()) == {"n": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_rests_of_killed_writers_are_hidden_and_can_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "parts" / "part-00000.parquet"
    with staged(path) as fresh:
        fresh.write_text("whole")
        rest = fresh.with_name(fresh.name.replace("part", "other"))
        rest.write_text("half")
    assert rest.name.startswith(".")
    remove_temporaries(tmp_path)
    assert list(path.parent.iterdir()) == [path]


def test_the_lock_is_exclusive_and_ends_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "set" / ".lock"
    root = str(Path(__file__).parents[2])
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BusyError, match="locked by another process"), locked(lock):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with locked(lock):
        pass
