"""The CSV of predictions: it grows, outlives its command, and is continued."""

import csv
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from runs import Command

from fastft.config.commands import PredictConfig
from fastft.evaluate import predict as prediction
from fastft.evaluate.csv_file import CsvFile, part_of
from fastft.evaluate.predict import predict, run_predict
from fastft.evaluate.predictions import Told
from pipelines.errors import DataError, UsageError

HEAD = ["path", "label"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "p.csv"


def rows_of(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))


def write(out: Path, *rows: list[str], continues: bool = False, ends: bool = True) -> set[str]:
    """Write rows by one command; returns the paths that were there."""
    with CsvFile(out, HEAD, continues=continues) as file:
        for row in rows:
            file.add([row])
        if ends:
            file.publish()
    return file.done


class Ended(BaseException):
    pass


def config_of(run: Path, photos: Path, out: Path, **options: Any) -> PredictConfig:
    return PredictConfig(run=run, images=(photos / "test",), csv=out, batch_size=2, **options)


def end_behind(batches: int, config: PredictConfig) -> None:
    """End a command behind some batches, as Ctrl-C does."""
    seen = 0

    def count(_: Sequence[Told]) -> None:
        nonlocal seen
        seen += 1
        if seen == batches:
            raise Ended

    with pytest.raises(Ended):
        run_predict(config, on_told=count)


def test_rows_are_there_before_the_end(out: Path) -> None:
    out.write_text("old")
    with CsvFile(out, HEAD) as file:
        file.add([["a", "x"], ["b", "y"]])
        assert rows_of(part_of(out)) == [HEAD, ["a", "x"], ["b", "y"]]
        assert out.read_text() == "old"
        file.publish()
    assert rows_of(out) == [HEAD, ["a", "x"], ["b", "y"]]
    assert os.listdir(out.parent) == [out.name]


def test_an_ended_command_is_continued(run: Path, photos: Path, out: Path) -> None:
    wanted = predict(config_of(run, photos, out))
    whole = out.read_text()
    out.unlink()
    end_behind(2, config_of(run, photos, out))
    assert not out.exists()
    assert part_of(out).read_text() == "".join(whole.splitlines(keepends=True)[:5])
    summary = run_predict(config_of(run, photos, out, skip_done=True))
    assert (summary.done, summary.count) == (4, len(wanted) - 4)
    assert out.read_text() == whole
    assert not part_of(out).exists()
    summary = run_predict(config_of(run, photos, out, skip_done=True))
    assert (summary.done, summary.count) == (6, 0)
    assert out.read_text() == whole


def test_new_photos_are_appended(run: Path, photos: Path, out: Path) -> None:
    shutil.copytree(photos / "test", out.parent / "test")
    first, *others = sorted((out.parent / "test").rglob("*.jpg"))
    hidden = first.rename(out.parent / "hidden.jpg")
    run_predict(config_of(run, out.parent, out))
    before = out.read_text()
    hidden.rename(first)
    run_predict(config_of(run, out.parent, out, skip_done=True))
    assert out.read_text().startswith(before)
    assert [row[0] for row in rows_of(out)[1:]] == [*map(str, others), str(first)]


def test_without_the_option_all_begins_anew(run: Path, photos: Path, out: Path) -> None:
    end_behind(1, config_of(run, photos, out))
    assert run_predict(config_of(run, photos, out)).count == 6
    assert len(rows_of(out)) == 7


def test_an_ended_replacement_goes_before_the_old(out: Path) -> None:
    write(out, ["a", "old"])
    write(out, ["b", "new"], ends=False)
    assert write(out, ["a", "new"], continues=True) == {"b"}
    assert rows_of(out) == [HEAD, ["b", "new"], ["a", "new"]]


@pytest.mark.parametrize("name", ["b", 'with "quotes"', "two\nlines", "with, comma", "\udcff"])
def test_a_half_written_row_is_cut_off(name: str, out: Path) -> None:
    whole = write(out, ["a", "x"], [name, "y"], ends=False)
    assert whole == set()
    content = part_of(out).read_bytes()
    first = content.index(b"a,x\n") + 4
    for length in range(first, len(content)):
        part_of(out).write_bytes(content[:length])
        assert write(out, continues=True, ends=False) == {"a"}
        assert part_of(out).read_bytes() == content[:first]
    part_of(out).write_bytes(content)
    shown = name.encode("utf-8", "backslashreplace").decode()
    assert write(out, continues=True) == {"a", shown}


def test_a_half_written_head_is_begun_again(out: Path) -> None:
    for text in ("", "pa", "path,label"):
        part_of(out).write_text(text)
        write(out, ["a", "x"], continues=True)
        assert rows_of(out) == [HEAD, ["a", "x"]]
        out.unlink()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("path,labels\na,x\n", "begins with path,labels"),
        ("my notes", "begins with my notes"),
        ("path,label\na,x,y\n", "3 columns from byte 11 on"),
        ("path,label\n\xff\n", "is no CSV from byte 11 on"),
        ('path,label\na,"b"c\n', "is no CSV from byte 11 on"),
        ("path,label\n" + "a" * (1 << 23), "from byte 11 on has no end"),
    ],
)
def test_another_file_is_refused_and_unharmed(text: str, found: str, out: Path) -> None:
    for path in (out, part_of(out)):
        path.write_text(text, "latin-1")
        with pytest.raises(DataError, match=found):
            write(out, ["b", "y"], continues=True)
        assert path.read_text("latin-1") == text
        path.unlink()


def test_two_commands_do_not_share_a_file(out: Path) -> None:
    with CsvFile(out, HEAD) as file:
        file.add([["a", "x"]])
        for continues in (False, True):
            with pytest.raises(DataError, match="another command"):
                write(out, ["b", "y"], continues=continues)
        file.publish()
    assert rows_of(out) == [HEAD, ["a", "x"]]


def test_a_link_or_a_pipe_is_no_part(out: Path) -> None:
    victim = out.parent / "victim"
    victim.write_text("mine")
    part_of(out).symlink_to(victim)
    for continues in (False, True):
        with pytest.raises(DataError):
            write(out, ["a", "x"], continues=continues)
    part_of(out).unlink()
    os.mkfifo(part_of(out))
    with pytest.raises(DataError, match="is no file of this user's"):
        write(out, ["a", "x"])
    assert victim.read_text() == "mine"


def test_a_failed_write_keeps_whole_rows(
    run: Path, photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(DataError, match=r"p\.csv: no space left"):
            predict(config_of(run, photos, out))
    assert out.read_text() == "old"
    assert len(rows_of(part_of(out))) == 7
    real = os.write

    def fill(file: int, content: bytes) -> int:
        if len(content) > 40:
            return real(file, content[:20])
        return int(fail() or 0)

    part_of(out).unlink()
    with CsvFile(out, HEAD) as file:
        file.add([["a", "x"]])
        monkeypatch.setattr(os, "write", fill)
        with pytest.raises(DataError, match="no space left"):
            file.add([["b" * 30, "y" * 30]])
    assert rows_of(part_of(out)) == [HEAD, ["a", "x"]]


def test_devices_are_written_as_they_are(run: Path, photos: Path, out: Path) -> None:
    os.mkfifo(out)
    reader = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    run_predict(config_of(run, photos, out))
    assert os.read(reader, 1 << 16).count(b"\n") == 7
    os.close(reader)
    assert out.is_fifo()


def test_each_batch_is_printed_at_once(
    run: Path, photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []
    config = config_of(run, photos, Path("-"))
    run_predict(config, on_told=lambda _: seen.append(capfd.readouterr().out.count("\n")))
    assert seen == [3, 2, 2]


def test_options_that_do_not_go_together(run: Path) -> None:
    for options in ({}, {"csv": Path("-")}, {"csv": Path("p.csv"), "json": Path("p.json")}):
        with pytest.raises(UsageError, match="--skip-done: "):
            PredictConfig(run=run, images=(), skip_done=True, **options)


def test_an_interrupted_command_says_how_to_continue(
    fastft: Command, run: Path, photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = prediction.answer

    def interrupted(*arguments: Any) -> Any:
        yield next(real(*arguments))
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError

    command = ("predict", run, photos / "test", "--csv", out, "--batch-size", 2)
    with monkeypatch.context() as patch:
        patch.setattr(prediction, "answer", interrupted)
        status, text, err = fastft(*command)
    assert (status, err) == (130, "fastft: interrupted\n")
    assert (
        text == f"{part_of(out)} keeps what was done; the same command with --skip-done continues\n"
    )
    status, text, err = fastft(*command, "--skip-done")
    assert (status, err) == (0, "")
    assert f"2 were in {out} before" in text
    assert len(rows_of(out)) == 7


def test_broken_photos_are_tried_again(fastft: Command, run: Path, photos: Path, out: Path) -> None:
    shutil.copytree(photos / "test", out.parent / "test")
    broken = sorted((out.parent / "test").rglob("*.jpg"))[1]
    broken.write_text("text")
    command = ("predict", run, out.parent / "test", "--csv", out)
    assert fastft(*command)[0] == 1
    status, text, err = fastft(*command, "--skip-done")
    assert (status, err) == (1, "1 of 1 images: left out, since they cannot be read\n")
    assert f"5 were in {out} before" in text
    assert len(rows_of(out)) == 6
