"""A page in headless Chromium, driven over the DevTools protocol on two pipes, as a person's hands and eyes.

https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import contextlib
import json
import os
import pathlib
import shutil
import subprocess

import pytest

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
in_chromium = pytest.mark.skipif(BINARY is None, reason="no Chromium or Chrome on the PATH to open the page in")
KEYS = {"Tab": 9, "Enter": 13, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36}
KEYS |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Page(contextlib.AbstractContextManager):
    """A local file, opened; `errors` gathers what the console would show in red, the security policy's refusals too."""

    def __init__(self, path: pathlib.Path, profile: pathlib.Path, *, size=(1280, 900), dark=False):
        to_browser, self._to = os.pipe()
        self._from, from_browser = os.pipe()
        arguments = [
            BINARY, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
            f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "about:blank",
        ]  # fmt: skip
        # The browser reads commands from descriptor 3 and answers on 4.
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._browser = subprocess.Popen(
            ["bash", "-c", script, "bash", *arguments], pass_fds=(to_browser, from_browser), stderr=subprocess.DEVNULL
        )
        os.close(to_browser), os.close(from_browser)
        self._rest, self._last, self._session, self.errors, self._loaded = b"", 0, None, [], False
        target = next(t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        if dark:
            features = [{"name": "prefers-color-scheme", "value": "dark"}]
            self._call("Emulation.setEmulatedMedia", features=features)
        self.requests = []
        self._call("Performance.enable", timeDomain="threadTicks")
        self._call("Page.navigate", url=path.as_uri())
        while not self._loaded:
            self._read()

    def __exit__(self, *error):
        self._browser.terminate()
        self._browser.wait()
        os.close(self._to), os.close(self._from)

    def run(self, expression: str):
        """The value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def processor_seconds(self) -> float:
        """What the page has cost its main thread so far, however busy the machine is."""
        metrics = self._call("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    def press(self, *keys: str, shift: bool = False) -> None:
        for key in keys:
            code = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": 8 * shift}
            if key == "Enter":
                code["text"] = "\r"
            self._call("Input.dispatchKeyEvent", type="keyDown", **code)
            self._call("Input.dispatchKeyEvent", type="keyUp", **code)

    def write(self, text: str) -> None:
        self._call("Input.insertText", text=text)

    def screenshot(self, path: pathlib.Path) -> None:
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def _call(self, method: str, **parameters) -> dict:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        os.write(
            self._to, json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        )
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> dict:
        while b"\0" not in self._rest:
            part = os.read(self._from, 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        message = json.loads(message)
        method, parameters = message.get("method"), message.get("params", {})
        if (
            method == "Runtime.exceptionThrown"
            or (method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"))
            or (method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"))
        ):
            self.errors.append(parameters)
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded = True
        return message
