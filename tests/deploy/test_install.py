#!/usr/bin/env python3
"""`meson install` puts everything where a distribution expects it, and what it puts there is right: the manual page, the
completion, the unit with its hardening.

    test_install.py BUILD SOURCE"""
import configparser
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

build, source = sys.argv[1:3]
MAX_EXPOSURE = 2.5


def run(*args, **more):
    return subprocess.run(args, capture_output=True, text=True, timeout=60, **more)


def needs(tool):
    return unittest.skipUnless(shutil.which(tool), "%s is not installed" % tool)


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        r = run("meson", "install", "-C", build, "--no-rebuild", "--destdir", cls.folder.name, "--quiet")
        assert r.returncode == 0, r.stdout + r.stderr
        cls.files = {}
        for where, _, names in os.walk(cls.folder.name):
            for name in names:
                path = os.path.join(where, name)
                cls.files["/" + os.path.relpath(path, cls.folder.name)] = path

    def find(self, end):
        found = [p for p in self.files if p.endswith(end)]
        self.assertEqual(1, len(found), "%s among %s" % (end, sorted(self.files)))
        return self.files[found[0]]

    def read(self, end):
        with open(self.find(end), encoding="utf-8") as f:
            return f.read()

    def commands(self):
        """Some have two words."""
        found = re.findall(r"^  ([a-z]+(?: [a-z]+)?) [A-Z[]", run(self.find("/bin/engramd"), "--help").stdout, re.M)
        self.assertLessEqual({"serve", "generate", "plan", "score", "bench", "probe"}, set(found))
        return found

    def serve_flags(self):
        return re.findall(r"^ +--([a-z-]+)", run(self.find("/bin/engramd"), "serve", "--help").stdout, re.M)


class Tree(Installed):
    def test_files(self):
        for end in ("/bin/engramd", "/man/man1/engramd.1", "/bash-completion/completions/engramd",
                    "/pkgconfig/libengram.pc", "/include/engram/engram.h", "/libengram.so.0", "/libengram.a",
                    "/systemd/system/engramd.service", "/engramd/engramd.conf", "/doc/engramd/LICENSE",
                    "/models/engram-pocket/config.json", "/doc/engramd/systemd/keys.conf"):
            self.find(end)

    def test_nothing_is_too_open(self):
        for path in self.files.values():
            mode = os.lstat(path).st_mode
            self.assertEqual(0, mode & 0o6000, path)
            if not os.path.islink(path):
                self.assertEqual(0, mode & 0o022, path)

    def test_the_installed_program_finds_its_model(self):
        r = run(self.find("/bin/engramd"), "plan", "--json", cwd="/")
        self.assertIn('"fits"', r.stdout, r.stderr)

    def test_configuration_names_options_that_exist(self):
        text = self.read("/engramd/engramd.conf")
        names = re.findall(r"^# ([a-z-]+) = ", text, re.M)
        self.assertGreater(len(names), 5)
        self.assertEqual(set(), set(names) - set(self.serve_flags()))
        self.assertEqual([], [line for line in text.splitlines() if line and not line.startswith("#")])

    def test_configuration_is_accepted(self):
        r = run(self.find("/bin/engramd"), "plan", "--config", self.find("/engramd/engramd.conf"), "--json")
        self.assertIn('"fits"', r.stdout, r.stderr)


class Manual(Installed):
    @needs("groff")
    def test_page_has_no_warning(self):
        r = run("groff", "-man", "-Tutf8", "-ww", "-z", self.find("/man1/engramd.1"))
        self.assertEqual((0, ""), (r.returncode, r.stderr))

    @needs("groff")
    def test_page_tells_every_option_and_command(self):
        r = run("groff", "-man", "-Tascii", "-P-cbou", "-rLL=120n", self.find("/man1/engramd.1"))
        flags = set()
        for command in self.commands():
            self.assertRegex(r.stdout, r"(?m)^ +engramd %s \[OPTIONS\]" % command)
            text = run(self.find("/bin/engramd"), *command.split(), "--help").stdout
            flags |= set(re.findall(r"^ +(--[a-z-]+)", text, re.M))
        self.assertGreater(len(flags), 50)
        told = set(re.findall(r"^ +(--[a-z-]+)", r.stdout, re.M))
        self.assertEqual(set(), flags - told - {"--help", "--version"})


class Completion(Installed):
    def complete(self, *words):
        """What bash offers behind the words."""
        script = '. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _engramd; printf "%s\\n" "${COMPREPLY[@]}"'
        r = run("bash", "-uc", script, "bash", self.find("/completions/engramd"), "engramd", *words)
        self.assertEqual((0, ""), (r.returncode, r.stderr))
        return r.stdout.split()

    def test_commands(self):
        self.assertEqual(["serve", "score"], self.complete("s"))
        self.assertEqual({*(c.split()[0] for c in self.commands()), "help", "--help", "--version"}, set(self.complete("")))

    def test_flags_are_those_of_the_command(self):
        self.assertEqual(set(self.serve_flags()) | {"help", "version"}, {f[2:] for f in self.complete("serve", "--")})
        self.assertIn("--host", self.complete("probe", "--h"))
        self.assertNotIn("--max-num-seqs", self.complete("probe", "--"))

    def test_choices(self):
        text = run(self.find("/bin/engramd"), "serve", "--help").stdout
        tiers = re.search(r"--engram-tier (\S+)", text).group(1).split("|")
        self.assertGreater(len(tiers), 3)
        self.assertEqual(tiers, self.complete("serve", "--engram-tier", ""))
        self.assertEqual(["json"], self.complete("serve", "--log-format", "j"))

    def test_files(self):
        with tempfile.TemporaryDirectory() as folder:
            open(os.path.join(folder, "a text"), "w").close()
            self.assertEqual([os.path.join(folder, "a"), "text"], self.complete("score", os.path.join(folder, "a")))


@needs("systemd-analyze")
class Unit(Installed):
    def unit(self, *drop_ins):
        """A copy of the unit whose program exists, with drop-ins."""
        folder = tempfile.mkdtemp(dir=self.folder.name)
        text = self.read("/system/engramd.service")
        text, n = re.subn(r"(?m)^ExecStart=\S+", "ExecStart=" + self.find("/bin/engramd"), text)
        self.assertEqual(1, n)
        path = os.path.join(folder, "engramd.service")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        os.mkdir(path + ".d")
        for name in drop_ins:
            shutil.copy(self.find("/systemd/" + name), path + ".d")
        return path

    def verify(self, path):
        r = run("systemd-analyze", "verify", "--man=no", path)
        ours = [line for line in (r.stdout + r.stderr).splitlines() if "engramd" in line]
        return r.returncode, ours

    def exposure(self, path):
        r = run("systemd-analyze", "security", "--offline=true", "--no-pager", path)
        m = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", r.stdout)
        self.assertTrue(m, r.stdout + r.stderr)
        return float(m.group(1))

    def test_verify(self):
        for drop_ins in [], ["keys.conf"], ["cuda.conf"], ["low-port.conf"]:
            self.assertEqual((0, []), self.verify(self.unit(*drop_ins)), drop_ins)

    def test_verify_can_fail(self):
        path = self.unit()
        with open(path, "a", encoding="utf-8") as f:
            f.write("\n[Service]\nProtectEverything=yes\n")
        self.assertNotEqual((0, []), self.verify(path))

    def test_exposure(self):
        self.assertLessEqual(self.exposure(self.unit()), MAX_EXPOSURE)
        for drop_in in "keys.conf", "low-port.conf", "cuda.conf":
            self.assertLessEqual(self.exposure(self.unit(drop_in)), MAX_EXPOSURE, drop_in)

    def test_times_fit_the_program(self):
        """Its own watchdog comes before the manager's."""
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str
        unit.read_string(self.read("/system/engramd.service"))
        text = run(self.find("/bin/engramd"), "serve", "--help").stdout
        own = re.search(r"--watchdog-timeout S .*\[(\d+)\]", text)
        self.assertTrue(own, text)
        self.assertGreater(int(unit["Service"]["WatchdogSec"]), int(own.group(1)))
        self.assertEqual("notify", unit["Service"]["Type"])


if __name__ == "__main__":
    print("seed 0 (nothing here is drawn)")
    sys.stdout.flush()
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
