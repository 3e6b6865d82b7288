"""Python programs that begin with large packages imported: each one is a fork of a process that does nothing else.

Importing torch takes a second or two, more than most programs of the documentation take for themselves. A `Preloaded`
is a process that imports such packages once, and nothing of this tree; `run` asks it for a fork, which becomes the
program: with arguments, a directory, an environment and a `sys.path` of its own, in its own memory, so that nothing
that one program does is seen by another. A program may run others in the same way. Where there is no such process
(none was started, or the system does not fork safely), `run` starts python as usual.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_WHERE = "PRELOADED_PYTHON"  #: names the socket of the process to ask, in programs as well


@contextmanager
def preloaded(*modules: str) -> Iterator[None]:
    """Programs that `run` starts inside are forks of a process with these modules, those that are installed."""
    if sys.platform != "linux":  # elsewhere what is in the libraries may not be forked
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        where = os.path.join(folder, "socket")
        # it ends with its standard input: also when this process is killed
        server = subprocess.Popen(
            [sys.executable, "-P", __file__, where, *modules], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert server.stdin and server.stdout
        try:
            assert server.stdout.readline() == b"ready\n", "the process with modules did not start"
            os.environ[_WHERE] = where
            yield
        finally:
            os.environ.pop(_WHERE, None)
            server.stdin.close()
            server.wait()
            server.stdout.close()


def run(arguments: list[str], cwd: Path, env: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """What `python *arguments` does there: -m MODULE or a file, and what follows it; -P before it is understood.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout` (seconds); it was killed.
    """
    where = os.environ.get(_WHERE)
    command = [sys.executable, *arguments]
    if where is None or (arguments[0].startswith("-") and arguments[0] not in ("-m", "-P")):
        return subprocess.run(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
            timeout=timeout, check=False,
        )  # fmt: skip
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(where)
            asked.settimeout(timeout)
            request = json.dumps({"arguments": arguments, "cwd": str(cwd), "env": {**env, _WHERE: where}})
            socket.send_fds(asked, [len(request.encode()).to_bytes(8, "big")], [out.fileno(), err.fileno()])
            asked.sendall(request.encode())
            with asked.makefile("r") as answers:
                pid = int(answers.readline())
                try:
                    code = int(answers.readline())
                except TimeoutError:
                    os.kill(pid, 9)
                    raise subprocess.TimeoutExpired(command, timeout) from None
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8"))
    return subprocess.CompletedProcess(command, code, *texts)


def _serve(where: str, modules: list[str]) -> None:
    """Forks a program for every request, until standard input ends; returns in programs only, once they are done."""
    for name in modules:
        if importlib.util.find_spec(name.partition(".")[0]):
            importlib.import_module(name)
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = [entry for entry in sys.path if entry not in given]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(where)
    listener.listen(64)
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [], 1.0)
        if sys.stdin in ready:
            _reap(os.WNOHANG)
            os._exit(0)
        if listener in ready:
            asked, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(asked, path)
                return
            asked.close()
        _reap(os.WNOHANG)


def _reap(how: int) -> None:
    """Takes note of the forks that have ended."""
    try:
        while os.waitpid(-1, how)[0]:
            pass
    except ChildProcessError:
        pass


def _answer(asked: socket.socket, path: list[str]) -> None:
    """Runs the program in a fork and tells its number and its exit code; returns in the program, once it is done."""
    size, files, _, _ = socket.recv_fds(asked, 8, 2)
    with asked.makefile("rb") as rest:
        request = json.loads(rest.read(int.from_bytes(size, "big")))
    pid = os.fork()
    if pid:
        asked.sendall(f"{pid}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        try:
            asked.sendall(f"{code}\n".encode())
        finally:
            os._exit(0)  # also where nobody waits any more
    asked.close()
    _become(request, files, path)


def _become(request: dict, files: list[int], path: list[str]) -> None:
    """From here on this process is the program."""
    for number, file in enumerate(files, 1):
        os.dup2(file, number)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    arguments = request["arguments"]
    safe = arguments[0] == "-P"
    arguments = arguments[safe:]
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    module = arguments[0] == "-m"
    first = os.getcwd() if module else os.path.dirname(os.path.abspath(arguments[0]))
    sys.path[:] = [*([] if safe else [first]), *given, *path]
    importlib.invalidate_caches()
    sys.argv = arguments[module:]
    if module:
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2:])
