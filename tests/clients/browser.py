"""A headless Chromium through chromedriver (the WebDriver protocol over HTTP), as small as the page's tests need it."""
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def find():
    """(chromium, chromedriver), or None where one of them is not installed."""
    pair = shutil.which("chromium"), shutil.which("chromedriver")
    return pair if all(pair) else None


class Browser:
    def __init__(self, width=1280, height=900, dark=False):
        chromium, driver = find()
        self.profile = tempfile.mkdtemp(prefix="engramd-page-")
        self.proc = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.base = "http://127.0.0.1:%d" % self._port()
        args = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--user-data-dir=" + self.profile,
                "--window-size=%d,%d" % (width, height)] + (["--force-dark-mode"] if dark else [])
        options = {"binary": chromium, "args": args}
        caps = {"browserName": "chrome", "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        self.session = "/session/" + self._call("POST", "/session", {"capabilities": {"alwaysMatch": caps}})["sessionId"]

    def _port(self):
        for line in self.proc.stdout:
            m = re.search(r"started successfully on port (\d+)", line)
            if m:
                return int(m[1])
        raise AssertionError("chromedriver does not start")

    def _call(self, method, path, body=None):
        data = None if method == "GET" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as e:
            raise AssertionError("%s %s: %s" % (method, path, e.read().decode()[:2000])) from None

    def call(self, method, path, body=None):
        return self._call(method, self.session + path, body)

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def js(self, script, *args):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(args)})

    def find(self, css):
        return self.call("POST", "/element", {"using": "css selector", "value": css})[ELEMENT]

    def click(self, css):
        self.call("POST", "/element/%s/click" % self.find(css))

    def type(self, css, text, clear=True):
        element = self.find(css)
        if clear:
            self.call("POST", "/element/%s/clear" % element)
        self.call("POST", "/element/%s/value" % element, {"text": text})

    def text(self, css):
        return self.js("return document.querySelector(arguments[0]).textContent", css)

    def until(self, script, *args, seconds=20):
        """The first true value of the script."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self.js(script, *args)
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError("never true: %s; the page says:\n%s" % (script, self.text("body")))

    def console(self):
        """Messages since the last call."""
        return [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"})]

    def requested(self):
        """URLs asked for since the last call."""
        urls = []
        for entry in self.call("POST", "/se/log", {"type": "performance"}):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                urls.append(message["params"]["request"]["url"])
        return urls

    def screenshot(self, path):
        import base64
        with open(path, "wb") as f:
            f.write(base64.b64decode(self.call("GET", "/screenshot")))

    def close(self):
        try:
            self.call("DELETE", "")
        finally:
            self.proc.terminate()
            self.proc.wait()
            self.proc.stdout.close()
            shutil.rmtree(self.profile, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def skip_reason():
    return None if find() else "chromium and chromedriver are not installed"


def shots_dir():
    """Where screenshots go for people to look at; None: nowhere."""
    path = os.environ.get("ENGRAMD_PAGE_SHOTS")
    if path:
        os.makedirs(path, exist_ok=True)
    return path
