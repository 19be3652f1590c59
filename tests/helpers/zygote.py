"""A process that has imported what the command imports, and forks to run the command.

Importing the frameworks and MLflow takes seconds, and most tests of the command ask something
else. What runs here has a process, a working directory, an environment and streams of its own, as
one that is started anew; tests of what is imported, or of flags that an import reads, start one.
Not to be imported: `commands` starts it, and ends it by closing its standard input.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback

import operations

HEAVY = ("mlflow", "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store", "matplotlib.figure",
         "matplotlib.backends.backend_agg", "optuna", "torch", "tensorflow", "keras", "jinja2")  # fmt: skip


def serve(path: str) -> None:
    """Run one command for each connection, until standard input ends."""
    for name in HEAVY:
        with contextlib.suppress(ImportError):  # an extra that is not installed
            importlib.import_module(name)
    gc.freeze()  # a child that collects garbage would copy all of it
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    waiting: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listener, 0], [], [], 0.01 if waiting else None)
        if 0 in ready:
            return
        if listener in ready:
            client, _ = listener.accept()
            data, streams, _, _ = socket.recv_fds(client, 1 << 20, 2)
            pid = os.fork()
            if pid == 0:
                listener.close()
                for other in (client, *waiting.values()):
                    other.close()
                _become(json.loads(data), streams)
            for stream in streams:
                os.close(stream)
            client.sendall(b"%d\n" % pid)
            waiting[pid] = client
        for pid in [*waiting]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                client = waiting.pop(pid)
                with contextlib.suppress(OSError):  # who asked is gone
                    client.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
                client.close()


def _become(asked: dict, streams: list[int]) -> None:
    """Run the package with some arguments, and end the process as Python would."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    null = os.open(os.devnull, os.O_RDONLY)
    for number, stream in enumerate((null, *streams)):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    through = bool(os.environ.get("PYTHONUNBUFFERED"))
    for name, number in (("stdout", 1), ("stderr", 2)):
        raw = io.BufferedWriter(io.FileIO(number, "wb", closefd=False))
        text = io.TextIOWrapper(
            raw, "utf-8", write_through=through, line_buffering=number == 2,
            errors="backslashreplace" if number == 2 else "strict",
        )  # fmt: skip
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)
    if "FAIL_AT" in os.environ:
        operations.install(os.environ.pop("FAIL_AT"), os.environ.pop("OPERATIONS"))
    sys.argv = ["-m", *asked["arguments"]]
    code = 0
    try:
        runpy.run_module("pipeline", run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        code = 130
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 120
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
