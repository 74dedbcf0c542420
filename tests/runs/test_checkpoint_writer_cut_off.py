import os
import signal
from pathlib import Path

import pytest
from cut_off import runs_full, saves, small
from effort import choose
from old_checkpoints import age
from processes import SERVER

from fastft.runs.checkpoint import load_checkpoint, load_last, save_checkpoint
from fastft.runs.checkpoint_writer import CheckpointSaver
from fastft.runs.folder import BEST, LAST, PREVIOUS
from pipelines.errors import DataError

STARTS = ["empty", "last is damaged", "killed before", "of an earlier version"]


@pytest.mark.parametrize(
    ("start", "links"),
    [
        *((start, True) for start in STARTS),
        *((start, False) for start in choose(STARTS[:1], STARTS)),
    ],
)
def test_killed_at_any_moment(start: str, links: bool, tmp_path: Path) -> None:
    # In an ordinary run every 16th moment, others from each start.
    stride = choose(16, 1)
    k, code = (STARTS.index(start) + links) % stride + 1 - stride, -signal.SIGKILL
    while code == -signal.SIGKILL:
        k += stride
        folder = tmp_path / str(k)
        folder.mkdir()
        known = 0 if start == "empty" else 1
        if known:
            save_checkpoint(folder / PREVIOUS, small(1))
        if start == "last is damaged":
            (folder / LAST).write_bytes((folder / PREVIOUS).read_bytes()[:-10])
        elif start == "killed before":  # when last.safetensors was previous.safetensors already
            os.link(folder / PREVIOUS, folder / LAST)
        elif start == "of an earlier version":
            (folder / PREVIOUS).rename(folder / LAST)
            age(folder)
        reached = SERVER.Array("i", [0, known])
        child = SERVER.Process(target=saves, args=(folder, known + 1, k, links, reached))
        child.start()
        child.join()
        assert child.exitcode is not None
        code = child.exitcode
        best_count, last_epoch = reached[:]
        if last_epoch:
            last, _, remark = load_last(folder)
            assert last.epoch == last_epoch  # never one less than what took its place
            assert last.model["a"].tolist() == [last_epoch] * 3
            assert last.progress == {"step": last_epoch} or start == "killed before"
            assert remark == "" or "last.safetensors" in remark
            if links and last_epoch > known:
                assert remark == ""  # there is always a last.safetensors
        else:
            with pytest.raises(DataError, match=r"last\.safetensors: .*previous\.safetensors: "):
                load_last(folder)
        if best_count:
            epochs = [epoch for epoch in (1, 2, 3) if epoch > known and epoch != 2]
            assert load_checkpoint(folder / BEST).epoch == epochs[best_count - 1]
        else:
            assert not (folder / BEST).exists()
        assert not [name for name in os.listdir(folder) if name.startswith(".")]
        saver = CheckpointSaver(folder)  # and the run goes on
        saver.save(small(8))
        saver.save(small(9))
        saver.close()
        assert load_last(folder)[0].epoch == 9
        assert load_checkpoint(folder / PREVIOUS).epoch == 8
        assert set(os.listdir(folder)) <= {BEST, LAST, PREVIOUS}
    assert code == 0
    assert k > 40  # it was counted at all


@pytest.mark.parametrize("limit", [0, 100, 5_000, 100_000, 200_400])
def test_a_disk_that_runs_full_leaves_what_was(limit: int, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.safetensors", small(1))
    child = SERVER.Process(target=runs_full, args=(tmp_path, limit))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert os.listdir(tmp_path) == ["last.safetensors"]
    assert load_last(tmp_path)[0].epoch == 1
