"""What a sweep shows while it runs: on a terminal one table, elsewhere lines."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from fcntl import ioctl

import pytest
from commands import environment
from rich.console import Console

from pipeline.sweeps.live import board
from pipeline.sweeps.live import job as job_file
from pipeline.sweeps.live.board import Board
from pipeline.sweeps.live.job import Job
from pipeline.sweeps.live.table import (
    count_jobs,
    estimate_seconds_left,
    make_table,
    read_states,
    tell_span,
)

QUICK = ("backend=numpy", "tracking.model=false", "data.n=20", "data.n_test=10")


def shown(states, *, total, now=100.0, rows=20, width=100):
    out = Console(width=width, file=io.StringIO())
    out.print(make_table(states, title="lr", total=total, now=now, rows=rows))
    return [line.rstrip() for line in out.file.getvalue().splitlines()]


def state(kind="running", **more):
    usual = {"name": "seed=0", "state": kind, "host": "h", "pid": 1, "start": 0.0, "step": 0}
    ended = None if kind in ("running", "killed") else 50.0
    return {**usual, "total": 0, "loss": None, "note": "", "end": ended, **more}


def test_a_table_says_what_runs_what_ended_and_how_long_it_takes():
    states = {
        0: state("done", total=500, name="seed=0", note="finished before"),
        1: state("failed", name="seed=1", end=10.0),
        2: state(total=1000, step=500, loss=0.12345, name="seed=2", start=40.0),
        3: state(name="seed=3", start=98.0),
    }
    head, *rest = shown(states, total=6)
    # One and a half jobs in 100 s; three and a half are left: two to come, one and a half that run.
    assert head.startswith("lr")
    assert head.endswith("1 of 6 done, 1 failed, 2 running, about 3 min 53 s left")
    rows = {line.split()[0]: line for line in rest if re.match(r" *\d", line)}
    assert list(rows) == ["2", "3", "1", "0"]  # what runs, failures, then the others
    assert "500/1000" in rows["2"]
    assert "0.1235" in rows["2"]
    assert rows["2"].endswith("1 min")
    assert "starts" in rows["3"]
    assert "failed" in rows["1"]
    assert "seed=0, finished before" in rows["0"]
    assert "done" in rows["0"]


def test_a_low_terminal_has_as_many_rows_as_it_has_room_for():
    states = {i: state("done", total=1, end=i + 1.0) for i in range(40)} | {40: state()}
    lines = shown(states, total=50, rows=5)
    rows = [line.split()[0] for line in lines if re.match(r" *\d", line)]
    assert rows == ["40", "39", "38", "37", "36"]
    assert lines[-1] == "and 36 more"
    assert len(lines) <= 5 + board._AROUND - 1
    assert all(len(line) <= 40 for line in shown(states, total=50, width=40))


def test_what_was_finished_before_or_never_trained_says_nothing_about_the_pace():
    told = {0: state("done"), 1: state("failed")}
    assert estimate_seconds_left(told, total=4, now=10.0) is None
    told[2] = state("done", total=5)
    assert estimate_seconds_left(told, total=4, now=10.0) == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min"), (80, "1 min 20 s"), (7260, "2 h 1 min")],
)
def test_a_time_in_words(seconds, text):
    assert tell_span(seconds) == text


def test_a_job_tells_how_it_goes_and_how_it_ends(tmp_path, monkeypatch):
    states = {}
    monkeypatch.setattr(job_file, "PAUSE", 0.0)
    for number, error in enumerate([None, ValueError, KeyboardInterrupt]):
        job = Job(tmp_path, number=number, name="n", lines=False)
        try:
            with job.running(), job.progress(10) as told:
                told(5, 0.25)
                read_states(tmp_path, states)
                now = states[number]
                assert (now["state"], now["step"], now["total"]) == ("running", 5, 10)
                if error:
                    raise error
        except BaseException as raised:
            assert error is type(raised)  # noqa: PT017
        read_states(tmp_path, states)
    assert [states[i]["state"] for i in range(3)] == ["done", "failed", "stopped"]
    assert all(states[i]["end"] >= states[i]["start"] for i in range(3))


def test_a_killed_job_is_known_by_its_process_and_half_a_file_says_nothing(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    job = Job(tmp_path, number=3, name="n", lines=False)
    job._tell(pid=ended.pid)
    states = {}
    read_states(tmp_path, states)
    assert states[3]["state"] == "killed"
    assert "1 killed" in count_jobs(states, total=2, now=time.time())
    job._tell(pid=os.getpid())
    read_states(tmp_path, states)
    assert states[3]["state"] == "running"
    (tmp_path / "3.json").write_text('{"name": "n", "sta')
    read_states(tmp_path, states)
    assert states[3]["name"] == "n"


def test_a_disk_without_room_stops_no_job(tmp_path):
    (tmp_path / "file").touch()
    job = Job(tmp_path / "file", number=0, name="n", lines=False)
    with job.running(), job.progress(10) as told:
        told(1, 0.5)


def test_without_a_terminal_there_is_a_line_at_each_start_and_end(tmp_path, capsys):
    board = Board(tmp_path, title="lr", total=2)
    for number in range(2):
        job = Job(tmp_path, number=number, name=f"seed={number}", lines=True)
        with job.running():
            board.look()
            with job.progress(10) as told:
                told(10, 0.5)
        board.look()
    board.close()
    assert not board.on_screen
    lines = capsys.readouterr().out.splitlines()
    took = r"in 0\.\d s"
    for line, wanted in zip(
        lines,
        [
            "job 0 started: seed=0",
            r"step 10/10  loss 0\.5",
            rf"job 0 done {took}: seed=0  \(1 of 2 done, 0 failed, about \S+ s left\)",
            "job 1 started: seed=1",
            r"step 10/10  loss 0\.5",
            rf"job 1 done {took}: seed=1  \(2 of 2 done, 0 failed\)",
        ],
        strict=True,
    ):
        assert re.fullmatch(wanted, line), line


# ---- On a terminal ---------------------------------------------------------------------------


class Terminal:
    """A command on a terminal of its own; what it shows is read all the time."""

    def __init__(self, command, cwd, columns=120, lines=30):
        ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process = subprocess.Popen(
            command, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env=environment(TERM="xterm"),
        )  # fmt: skip
        os.close(theirs)
        self.ours, self.data = ours, b""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        while True:
            try:
                got = os.read(self.ours, 65536)
            except OSError:  # nobody has it open any more
                return
            if not got:
                return
            self.data += got

    @property
    def text(self):
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.data.decode(errors="replace"))

    def until(self, pattern, seconds=90):
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.05)

    def end(self, seconds=90):
        self.process.wait(timeout=seconds)
        self.reader.join(timeout=10)
        return self.process.returncode


@pytest.fixture
def terminal(tmp_path):
    opened = []

    def start(*command):
        opened.append(Terminal(command, tmp_path))
        return opened[-1]

    yield start
    for each in opened:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
            each.process.wait()
        os.close(each.ours)


OTHERS = """
import os, subprocess, sys, time
from pathlib import Path
from pipeline.sweeps.live.board import Board
from pipeline.sweeps.live.job import Job

folder = Path("jobs")
board = Board(folder, title="lr", total=2)
assert board.on_screen
with Job(folder, number=0, name="seed=0", lines=False).running():
    time.sleep(1)
    code = "import sys, time; sys.stderr.write('a wor'); time.sleep(0.6); sys.stderr.write('se thing\\\\n')"
    subprocess.run([sys.executable, "-c", code])
    print("said by print")
    os.write(2, b"and the last word")
if sys.argv[1] == "close":
    board.close()
    print("after", os.isatty(1), os.isatty(2))
else:
    os.kill(os.getpid(), 9)
"""


def test_what_other_processes_write_is_whole_and_above_the_table(terminal):
    opened = terminal(sys.executable, "-c", OTHERS, "close")
    assert opened.end() == 0
    lines = opened.text.replace("\r", "\n").splitlines()
    for line in ("a worse thing", "said by print", "and the last word", "after True True"):
        assert lines.count(line) == 1, lines
    assert "lr: 1 of 2 done, 0 failed" in lines
    assert any(line.startswith("lr  ") and "1 running" in line for line in lines)
    assert opened.data.rfind(b"\x1b[?25h") > opened.data.rfind(b"\x1b[?25l")


def test_a_kill_leaves_a_terminal_that_can_be_used_and_what_was_printed(terminal, tmp_path):
    opened = terminal(sys.executable, "-c", OTHERS, "kill")
    assert opened.end() == -signal.SIGKILL
    assert "1 running" in opened.text
    log = (tmp_path / "jobs/output.log").read_text()
    assert log == "a worse thing\nsaid by print\nand the last word"
    assert opened.data.rfind(b"\x1b[?25h") > opened.data.rfind(b"\x1b[?25l")  # the cursor is there


PIPELINE = (sys.executable, "-m", "pipeline", "-m", "parity.probe=off")


@pytest.mark.long
def test_a_sweep_of_several_processes_has_one_table(terminal):
    opened = terminal(*PIPELINE, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *QUICK,
                      "train.epochs=30000,0,30001", "train.log_every=100")  # fmt: skip
    opened.until(r"train\.epochs=3000\d +\S+ +\d+/3000\d")
    assert opened.end() == 1
    lines = [line.strip() for line in opened.text.replace("\r", "\n").splitlines()]
    assert not [line for line in lines if line.startswith("step ")]
    failure = r"twingrad: job 1 \(train\.epochs=0\) failed in [0-9.]+ s: train\.epochs=0: must be greater than or equal to 1"
    assert len(re.findall(failure, "".join(lines))) == 1
    assert any("1 failed, 1 running" in line for line in lines)
    assert "linear on linear: train.epochs: 2 of 3 done, 1 failed" in lines, lines[-60:]
    (at,) = [
        i
        for i, line in enumerate(lines)
        if line == "linear on linear: train.epochs: 2 of 3 done, 1 failed"
    ]
    assert "Runs" in lines[at:]  # the comparison comes after it


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_gives_the_terminal_back(terminal, number):
    opened = terminal(*PIPELINE, "seed=0,1", *QUICK, "train.epochs=5000000", "train.log_every=100",
                      "record.trace=scalars")  # fmt: skip
    opened.until(r"seed=0 +\S+ +\d+00/5000000")
    opened.process.send_signal(number)
    assert opened.end() == 128 + number
    lines = [line.strip() for line in opened.text.replace("\r", "\n").splitlines()]
    assert "linear on linear: seed: 0 of 2 done, 0 failed, 1 stopped" in lines
    assert f"twingrad: stopped by {'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'}" in lines
    assert opened.data.rfind(b"\x1b[?25h") > opened.data.rfind(b"\x1b[?25l")
    assert not [line for line in lines if line.startswith("step ")]
