"""The command as a user calls it, in a process of its own that need not import everything anew."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

_ZYGOTE = Path(__file__).with_name("zygote.py")
_FLAGS = ("TF_", "XLA_", "MKL_", "OMP_", "KMP_", "KERAS_", "TORCH_", "CUDA_", "PYTHON",
          "LC_", "LANG")  # fmt: skip
_QUIET = ("PYTHONUNBUFFERED",)  # flags that no import reads
_servers: list[str] = []


def environment(**more):
    """This process's environment without its store, and without what MLflow would start besides."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    quiet = {"PYTHONUNBUFFERED": "1", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return {**inherited, **quiet, **more}


def call(*overrides, cwd, anew=False, **flags):
    """Run the command to its end; return its ``returncode``, ``stdout`` and ``stderr``.

    `flags` are environment variables. Where an import reads one of them, or with `anew`, the
    interpreter is started anew.
    """
    process = start(*overrides, cwd=cwd, anew=anew, **flags)
    out, err = process.communicate()
    return subprocess.CompletedProcess(overrides, process.returncode, out, err)


def start(*overrides, cwd, anew=False, **flags):
    """Start the command; return what behaves as a `subprocess.Popen` with two text pipes."""
    env = environment(**flags)
    if (
        anew
        or sys.platform != "linux"
        or any(name.startswith(_FLAGS) and name not in _QUIET for name in flags)
    ):
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *overrides], cwd=cwd, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    return Forked(overrides, cwd=cwd, env=env)


def _server() -> str:
    """Return the socket of this process's zygote, started at the first call."""
    if not _servers:
        folder = tempfile.mkdtemp(prefix="zygote-")
        path = f"{folder}/socket"
        process = subprocess.Popen(
            [sys.executable, str(_ZYGOTE), path], stdin=subprocess.PIPE, env=environment(),
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        atexit.register(_end, process, Path(path))
        while not os.path.exists(path):
            assert process.poll() is None, "the zygote ended before it served"
            time.sleep(0.05)
        _servers.append(path)
    return _servers[0]


def _end(process: subprocess.Popen, path: Path) -> None:
    process.stdin.close()
    process.wait(timeout=10)
    path.unlink(missing_ok=True)
    path.parent.rmdir()


class Forked(subprocess.Popen):
    """A command that a zygote runs; `subprocess.Popen` but for how it is started and waited for."""

    def __init__(self, arguments, *, cwd, env):
        self.args, self.returncode, self.stdin = arguments, None, None
        self.text_mode, self.encoding, self.errors = True, "utf-8", "replace"
        self._input, self._communication_started = None, False
        self._waitpid_lock = threading.Lock()
        self._sigint_wait_secs = 0.25
        self._child_created = True
        outs, errs = os.pipe(), os.pipe()
        self._answers = socket.socket(socket.AF_UNIX)
        self._answers.connect(_server())
        asked = {"arguments": list(map(str, arguments)), "cwd": str(cwd), "env": env}
        socket.send_fds(self._answers, [json.dumps(asked).encode()], [outs[1], errs[1]])
        os.close(outs[1]), os.close(errs[1])
        self.stdout = os.fdopen(outs[0], encoding="utf-8", errors="replace")
        self.stderr = os.fdopen(errs[0], encoding="utf-8", errors="replace")
        self.pid = int(self._receive_line())

    def _receive_line(self):
        """Return the next line of the zygote, and nothing of what comes after it."""
        line = b""
        while not line.endswith(b"\n"):
            byte = self._answers.recv(1)
            if not byte:
                return b"-9"  # the zygote is gone, and what it ran with it
            line += byte
        return line

    def _ended(self, timeout):
        """Wait for the exit code; whether it came."""
        self._answers.settimeout(timeout)
        try:
            self.returncode = int(self._receive_line())
        except (BlockingIOError, TimeoutError):
            return False
        return True

    def _internal_poll(self, _deadstate=None):
        if self.returncode is None:
            self._ended(0)
        return self.returncode

    def _wait(self, timeout=None):
        if self.returncode is None and not self._ended(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)
