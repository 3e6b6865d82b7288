"""A headless browser that tests drive over a pipe: the system's Chromium and nothing else, no driver to download."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: what systems call it; RAMPART_BROWSER names another one
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
#: seconds that an answer may take
PATIENCE = 60.0


def found() -> str | None:
    """The browser's program, where there is one."""
    given = os.environ.get("RAMPART_BROWSER")
    return given or next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser for the time of the `with`; `profile` is an empty folder for its files."""
    program = found()
    assert program is not None, "there is no browser"
    (ours_out, theirs_in), (theirs_out, ours_in) = (_high(*os.pipe()) for _ in range(2))
    ends = {3: ours_out, 4: ours_in}

    def ends_in_place() -> None:  # of the new process: it reads commands from 3, and writes answers to 4
        for number, end in ends.items():
            os.dup2(end, number)

    options = ["--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--disable-gpu",
               "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions", "--disable-background-networking",
               "about:blank"]  # fmt: skip
    if os.geteuid() == 0:
        options.insert(0, "--no-sandbox")  # which root cannot have
    process = subprocess.Popen(
        [program, *options], preexec_fn=ends_in_place, close_fds=False, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(ours_out), os.close(ours_in)
    try:
        yield Browser(theirs_out, theirs_in)
    finally:
        process.kill()
        process.wait()
        os.close(theirs_in), os.close(theirs_out)


def _high(*pipe: int) -> list[int]:
    """The same ends of a pipe, away from the numbers that the browser wants."""
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pipe]
    for end in pipe:
        os.close(end)
    return moved


class Browser:
    """One page of the browser, and what it complained about."""

    def __init__(self, answers: int, commands: int) -> None:
        self._answers, self._commands = answers, commands
        self._numbers, self._rest = itertools.count(1), b""
        self._session: str | None = None
        #: errors and warnings on the console, exceptions, and requests that left the page
        self.complaints: list[str] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol; returns its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    def open(self, path: Path, width: int = 1200, dark: bool = False) -> None:
        """Show a file in a window of this width, in pixels."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self("Page.navigate", url=path.resolve().as_uri())
        end = time.monotonic() + PATIENCE
        while self.run("document.readyState + location.href") != "complete" + path.resolve().as_uri():
            assert time.monotonic() < end, "the page does not end loading"
            time.sleep(0.02)

    def as_printed(self, width: int) -> None:
        """Lay the page that is open out as for paper of this width."""
        self("Emulation.setEmulatedMedia", media="print")
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=True)
        self.run("dispatchEvent(new Event('beforeprint'))")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def picture(self) -> bytes:
        """The whole page as PNG."""
        return base64.b64decode(self("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self("Page.printToPDF")["data"])

    def _next(self) -> dict[str, Any]:
        """The next message; what is a complaint is kept."""
        while b"\0" not in self._rest:
            assert select.select([self._answers], [], [], PATIENCE)[0], "the browser does not answer"
            more = os.read(self._answers, 1 << 16)
            assert more, "the browser has ended"
            self._rest += more
        first, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, about: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(about["exceptionDetails"]))
        elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.complaints.append(about["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(about["args"]))
        elif method == "Network.requestWillBeSent" and not about["request"]["url"].startswith(("file:", "data:")):
            self.complaints.append(f"a request to {about['request']['url']}")
