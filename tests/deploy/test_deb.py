#!/usr/bin/env python3
"""Builds the Debian packages, looks into them, and installs them into a fresh Debian with its own package manager.

    test_deb.py SOURCE WORK         WORK as in test_image.py

As root."""
import glob
import os
import re
import sys
import unittest

import images
from images import buildah, call

source, work = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
images.work = work


class Packages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.out = os.path.join(work, "deb")
        for old in glob.glob(os.path.join(cls.out, "*.deb")):
            os.remove(old)
        call(os.path.join(source, "deploy", "make-deb"), cls.out)

    def package(self, name):
        found = glob.glob(os.path.join(self.out, name + "_*.deb"))
        self.assertEqual(1, len(found), os.listdir(self.out))
        return found[0]

    def field(self, name, field):
        return call("dpkg-deb", "--field", self.package(name), field).stdout.strip()

    def contents(self, name):
        """{path: mode}"""
        lines = call("dpkg-deb", "--contents", self.package(name)).stdout.splitlines()
        return {line.split()[5].lstrip("."): line.split()[0] for line in lines}

    def script(self, name, which):
        return call("dpkg-deb", "--info", self.package(name), which).stdout

    def test_version(self):
        with open(os.path.join(source, "meson.build"), encoding="utf-8") as f:
            version = re.search(r"version: '([^']+)'", f.read()).group(1)
        for name in "engramd", "libengram0", "libengram-dev":
            self.assertEqual(version, self.field(name, "Version"))

    def test_engramd(self):
        c = self.contents("engramd")
        for path in ("/usr/bin/engramd", "/etc/engramd/engramd.conf", "/usr/share/man/man1/engramd.1.gz",
                     "/usr/share/bash-completion/completions/engramd", "/usr/share/engramd/models/engram-pocket/config.json"):
            self.assertIn(path, c)
        self.assertTrue(any(p.endswith("/systemd/system/engramd.service") for p in c))
        for path, mode in c.items():
            self.assertNotIn("s", mode, path)
            self.assertTrue(mode[8] != "w" or mode[0] == "l", path)
        self.assertIn("/etc/engramd/engramd.conf", self.script("engramd", "conffiles"))
        self.assertIn("engramd.service", self.script("engramd", "postinst"))
        self.assertIn("libmicrohttpd12", self.field("engramd", "Depends"))

    def test_library(self):
        c = self.contents("libengram-dev")
        self.assertIn("/usr/include/engram/engram.h", c)
        self.assertTrue(any(p.endswith("/pkgconfig/libengram.pc") for p in c))
        self.assertTrue(any(re.search(r"/libengram\.so\.0\.\S+$", p) for p in self.contents("libengram0")))

    def test_installs_into_a_fresh_system(self):
        images.make_base()
        name = buildah("from", "--pull-never", images.BASE).stdout.strip()
        self.addCleanup(buildah, "rm", name)
        buildah("copy", name, self.package("engramd"), self.package("libengram0"), self.package("libengram-dev"), "/deb/")
        chroot = ["run", "--isolation", "chroot", "--network", "host", name]
        buildah(*chroot, "sh", "-c", "apt-get -q update && DEBIAN_FRONTEND=noninteractive "
                "apt-get -q install -y --no-install-recommends /deb/*.deb")
        self.assertRegex(buildah(*chroot, "engramd", "--version").stdout, r"^engramd \d")
        said = buildah(*chroot, "engramd", "generate", "--max-tokens", "4", "The capital of France is").stdout
        self.assertIn("Paris", said)
        self.assertIn("multi-user.target.wants", buildah(*chroot, "sh", "-c", "find /etc/systemd -name engramd.service").stdout)
        buildah(*chroot, "apt-get", "-q", "purge", "-y", "engramd")
        self.assertEqual("", buildah(*chroot, "find", "/etc/engramd", "/usr/bin/engramd", check=False).stdout)


if __name__ == "__main__":
    os.makedirs(work, exist_ok=True)
    print("seed 0 (nothing here is drawn)")
    sys.stdout.flush()
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
