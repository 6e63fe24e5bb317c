#!/usr/bin/env python3
"""The page at / in a real browser: test_page.py ENGRAMD. With ENGRAMD_PAGE_SHOTS=DIR screenshots are kept there."""
import os
import re
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "server"))
import harness  # noqa: E402
from browser import Browser, shots_dir, skip_reason  # noqa: E402

DONE = "return document.querySelector('#status').textContent.startsWith('done')"
N_TOKENS = "return document.querySelectorAll('#answer .token').length"


def shot(browser, name):
    if shots_dir():
        browser.screenshot(os.path.join(shots_dir(), name + ".png"))


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = harness.Server()
        cls.url = "http://127.0.0.1:%d/" % cls.server.port
        cls.browser = Browser()

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()
        cls.server.stop()

    def setUp(self):
        self.browser.console()
        self.browser.requested()
        self.browser.open(self.url)
        self.browser.until("return document.querySelector('#ready').textContent === 'ready'")

    def tearDown(self):
        for url in self.browser.requested():
            self.assertTrue(url.startswith((self.url, "data:", "chrome:")), url)

    def check_console(self):
        self.assertEqual([], self.browser.console())

    def run_text(self, prompt, tokens, echo=True, seed=7):
        b = self.browser
        b.type("#prompt", prompt)
        b.type("#max-tokens", str(tokens))
        b.type("#seed", str(seed))
        if b.js("return document.querySelector('#echo').checked") != echo:
            b.click("#echo")
        b.click("#run")

    def test_load(self):
        b = self.browser
        b.until("return document.querySelector('#model').textContent.includes('4096 tokens')")
        b.until("return document.querySelectorAll('#charts figure').length >= 5")
        b.until("return [...document.querySelectorAll('#charts b')].some((e) => /running \\d/.test(e.textContent))")
        self.check_console()
        shot(b, "load")

    def test_stream_with_probabilities_and_memory(self):
        b = self.browser
        self.run_text("The capital of France is", 24)
        b.until(DONE)
        n = b.js(N_TOKENS)
        prompt = "".join(b.js("return [...document.querySelectorAll('.token.prompt .text')].map((e) => e.textContent)"))
        self.assertEqual("The capital of France is", prompt)
        self.assertGreater(n, 6)
        # every token has a line for each Engram layer, as wide open as its gate
        lines = b.js("return [...document.querySelectorAll('.token')].map((t) => t.querySelectorAll('.heat i').length)")
        self.assertEqual({len(self.layers())}, set(lines))
        heat = b.js("return [...document.querySelectorAll('.heat i')].map((i) => Number(i.style.opacity))")
        self.assertTrue(all(0 <= h <= 1 for h in heat) and max(heat) > 0.01, heat)
        b.js("document.querySelector('#answer .token:last-of-type').dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))")
        panel = b.text("#token-body")
        self.assertIn("had a probability of", panel)
        self.assertIn("Gates of layer", panel)
        self.assertIn("2 tokens", panel)
        alternatives = b.js("return document.querySelectorAll('#token-body table:first-of-type tr').length")
        self.assertGreaterEqual(alternatives, 5)
        self.assertEqual(1, b.js("return document.querySelectorAll('#token-body .chosen').length"))
        self.check_console()
        shot(b, "stream")

    def layers(self):
        a = self.server.complete({"prompt": [300, 301], "max_tokens": 1, "engram": True}).json()
        return a["choices"][0]["engram"]["layers"]

    def test_text_is_the_servers(self):
        b = self.browser
        self.run_text("Der Fluss und das Meer \u2014 na\u00efve caf\u00e9", 40, seed=11)
        b.until(DONE)
        shown = b.js("return [...document.querySelectorAll('.token')].map((t) => t.querySelector('.text').textContent).join('')")
        a = self.server.request("POST", "/v1/completions", {
            "prompt": "Der Fluss und das Meer \u2014 na\u00efve caf\u00e9", "max_tokens": 40, "temperature": 0.7, "seed": 11, "echo": True}).json()
        self.assertEqual(a["choices"][0]["text"].replace("\n", ""), shown)
        self.check_console()

    def test_stop(self):
        b = self.browser
        b.click("#ignore-eos")
        self.run_text("Once upon a time", 4000)
        b.until(N_TOKENS.replace("length", "length > 20"))
        b.click("#stop")
        b.until("return document.querySelector('#status').textContent === 'stopped'")
        n = b.js(N_TOKENS)
        self.assertLess(n, 3900)
        self.wait_idle()
        self.assertEqual(n, b.js(N_TOKENS))
        self.assertFalse(b.js("return document.querySelector('#run').disabled"))
        self.check_console()

    def wait_idle(self):
        """Nothing runs on in the server, soon."""
        for _ in range(200):
            text = self.server.request("GET", "/metrics").body.decode()
            if re.search(r"^vllm:num_requests_running\{.*\} 0$", text, re.M):
                return
            time.sleep(0.02)
        self.fail("a request runs on")

    def test_error(self):
        b = self.browser
        self.run_text("x", 99999)
        b.until("return !document.querySelector('#error').hidden")
        self.assertIn("max_tokens", b.text("#error"))
        self.assertEqual("alert", b.js("return document.querySelector('#error').getAttribute('role')"))
        self.run_text("x", 2)  # and it goes on
        b.until(DONE)
        self.assertTrue(b.js("return document.querySelector('#error').hidden"))
        self.assertTrue(all("400" in line for line in b.console()))  # the browser's own line about the status

    def test_chat(self):
        b = self.browser
        b.click("input[value=chat]")
        b.type("#max-tokens", "12")
        for i, message in enumerate(("Hello there", "And now?")):
            b.type("#prompt", message)
            b.click("#run")
            b.until(DONE)
            self.assertGreater(b.js(N_TOKENS), 0)
            turns = b.js("return [...document.querySelectorAll('.turn')].map((t) => t.textContent)")
            self.assertIn("user" + message, turns)
        b.click("#clear")
        self.assertEqual(0, b.js("return document.querySelectorAll('.turn, .token').length"))
        self.check_console()

    def test_keyboard(self):
        b = self.browser
        self.run_text("The capital of France is", 8)
        b.until(DONE)
        b.js("document.querySelector('.token').focus()")
        for key, at in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("Home", 0), ("End", -1)):
            b.js("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true}))", key)
            last = b.js(N_TOKENS) - 1
            self.assertEqual("t%d" % (last if at < 0 else at), b.js("return document.activeElement.id"))
            self.assertEqual(1, b.js("return document.querySelectorAll('.token[aria-selected=true]').length"))
            self.assertEqual(1, b.js("return document.querySelectorAll('.token[tabindex=\"0\"]').length"))
        unnamed = b.js("""return [...document.querySelectorAll('input, textarea, button')].filter((e) =>
            !(e.labels && e.labels.length) && !e.textContent.trim()).map((e) => e.id)""")
        self.assertEqual([], unnamed)
        self.check_console()

    def test_markup_in_a_prompt_is_text(self):
        b = self.browser
        self.run_text("<img src=x onerror=alert(1)><b>bold</b>", 4)
        b.until(DONE)
        self.assertEqual(0, b.js("return document.querySelectorAll('#answer img, #answer b').length"))
        self.check_console()


class Shapes(unittest.TestCase):
    """From a phone to a wide screen, light and dark: nothing runs out of the window."""

    def test_widths(self):
        with harness.Server() as server:
            for name, width, dark in (("phone", 500, False), ("wide", 1800, True)):
                with Browser(width, 900, dark) as b:
                    b.open("http://127.0.0.1:%d/" % server.port)
                    b.type("#max-tokens", "30")
                    b.click("#run")
                    b.until(DONE)
                    b.js("document.querySelector('.token').click()")
                    wide = b.js("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
                    self.assertLessEqual(wide, 0, name)
                    shot(b, name)
                    self.assertEqual([], b.console())


class Keys(unittest.TestCase):
    def test_key(self):
        with tempfile.NamedTemporaryFile("w") as f:
            f.write("tester key-for-the-page\n")
            f.flush()
            with harness.Server("--api-key-file", f.name) as server, Browser() as b:
                b.open("http://127.0.0.1:%d/" % server.port)
                b.until("return document.querySelector('#model').textContent.includes('API key')")
                b.until("return document.querySelector('#live-note').textContent.includes('API key')")
                b.type("#key", "key-for-the-page")
                b.until("return document.querySelector('#model').textContent.includes('tokens')")
                b.click("#run")
                b.until(DONE)
                self.assertEqual("", b.js("return document.cookie"))
                self.assertEqual(0, b.js("return localStorage.length + sessionStorage.length"))
                self.assertTrue(all("key-for-the-page" not in url for url in b.requested()))


if __name__ == "__main__":
    if skip_reason():
        print(skip_reason())
        sys.exit(77)
    harness.main()
