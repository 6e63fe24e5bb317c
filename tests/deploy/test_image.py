#!/usr/bin/env python3
"""Builds the image of deploy/Containerfile without a daemon and without an image registry, looks into it and runs it.

    test_image.py SOURCE WORK       WORK: a folder that keeps the base system and the layers between runs

As root. The base image is a debootstrap of this machine's release under the name that the Containerfile gives."""
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import unittest
import urllib.request

import images
from images import BASE, buildah, podman

source, work = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
images.work = work
MAX_IMAGE_BYTES = 150 << 20
IMAGE = "localhost/engramd-test"
# No more than a process without CAP_SYS_RESOURCE, systemd and cgroups of its own may ask for.
RUN = ["--cgroup-manager", "cgroupfs", "--runtime", "runc", "run", "--ulimit", "nofile=1024:4096", "--ulimit",
       "nproc=1000:1000", "--no-healthcheck", "--network", "host", "--pull", "never"]
HARD = ["--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--pids-limit", "200", "--memory", "2g"]


def build_image():
    images.make_base()
    began = time.monotonic()
    buildah("bud", "--isolation", "chroot", "--network", "host", "--format", "docker", "--pull-never", "--layers=false",
            "--timestamp", "0", "--build-arg", "BASE=" + BASE, "--build-arg", "REVISION=test", "-t", IMAGE,
            "-f", os.path.join(source, "deploy", "Containerfile"), source)
    print("image built in %.0f s" % (time.monotonic() - began))


class Image(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        build_image()
        cls.config = json.loads(buildah("inspect", "--type", "image", IMAGE).stdout)["Docker"]["config"]
        name = buildah("from", "--pull-never", IMAGE).stdout.strip()
        cls.addClassCleanup(buildah, "rm", name)
        cls.root = buildah("mount", name).stdout.strip()
        cls.addClassCleanup(buildah, "umount", name)
        cls.files = {}
        for where, dirs, names in os.walk(cls.root):
            for n in names + dirs:
                path = os.path.join(where, n)
                cls.files["/" + os.path.relpath(path, cls.root)] = os.lstat(path)

    def test_size(self):
        size = sum(s.st_size for s in self.files.values() if stat.S_ISREG(s.st_mode))
        model = sum(s.st_size for p, s in self.files.items() if "/models/" in p and stat.S_ISREG(s.st_mode))
        print("image: %.1f MiB, of which the bundled model %.1f MiB" % (size / 2**20, model / 2**20))
        self.assertLess(size, MAX_IMAGE_BYTES)

    def test_files(self):
        for path, s in self.files.items():
            self.assertEqual(0, s.st_mode & 0o6000, "setuid or setgid: " + path)
            if not stat.S_ISLNK(s.st_mode):
                self.assertEqual(0, s.st_mode & 0o022, "others may write: " + path)
            self.assertFalse(os.path.basename(path) in ("sh", "bash", "dash", "apt", "dpkg", "busybox"), path)
        programs = [p for p, s in self.files.items() if stat.S_ISREG(s.st_mode) and s.st_mode & 0o111 and ".so" not in p]
        self.assertEqual(["/usr/bin/engramd"], programs)
        for part in "libc6", "libmicrohttpd12":
            self.assertIn("/usr/share/doc/%s/copyright" % part, sorted(self.files))

    def test_configuration(self):
        c = self.config
        self.assertEqual("65532:65532", c["User"])
        self.assertEqual(["/usr/bin/engramd"], c["Entrypoint"])
        self.assertEqual(["CMD", "/usr/bin/engramd", "probe"], c["Healthcheck"]["Test"])
        self.assertIn("8080/tcp", c["ExposedPorts"])
        self.assertIn("/models", c["Volumes"])
        labels = {k: v for k, v in c["Labels"].items() if k.startswith("org.opencontainers.image.")}
        self.assertEqual("test", labels["org.opencontainers.image.revision"])
        with open(os.path.join(source, "meson.build"), encoding="utf-8") as f:
            version = re.search(r"version: '([^']+)'", f.read()).group(1)
        self.assertEqual(version, labels["org.opencontainers.image.version"])


class Running(unittest.TestCase):
    """Started the way docs/DEPLOYMENT.md says; where no container may be made, in a chroot as the image's user."""

    def start(self, *command, mounts=()):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        env = ["--env", "ENGRAMD_PORT=%d" % self.port]
        volumes = [x for m in mounts for x in ("--volume", m)]
        name = "engramd-test-%d" % os.getpid()
        tried = podman(*RUN, "--rm", *HARD, IMAGE, "--version", check=False)
        self.podman = tried.returncode == 0
        if self.podman:
            args = ["podman", *images.store(), *RUN, "--rm", "--name", name, *HARD, *env, *volumes, IMAGE, *command]
        else:
            print("no container may be started here, so a chroot instead: " + tried.stderr.strip()[-500:])
            container = buildah("from", "--pull-never", IMAGE).stdout.strip()
            self.addCleanup(buildah, "rm", container)
            args = ["buildah", *images.store(), "run", "--isolation", "chroot", *env, *volumes, container, "/usr/bin/engramd",
                    *(command or ["serve"])]
        self.name = name
        self.proc = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.addCleanup(self.proc.stderr.close)
        self.addCleanup(self.proc.wait)
        self.addCleanup(lambda: self.proc.poll() is None and self.proc.kill())
        self.wait_ready()

    def wait_ready(self):
        end = time.monotonic() + 60
        while time.monotonic() < end and self.proc.poll() is None:
            try:
                return self.get("/ready")
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the image does not serve: " + (self.proc.stderr.read() if self.proc.poll() is not None else ""))

    def get(self, path, body=None):
        r = urllib.request.Request("http://127.0.0.1:%d%s" % (self.port, path), body and json.dumps(body).encode())
        with urllib.request.urlopen(r, timeout=30) as f:
            return f.read().decode()

    def server_pid(self):
        """The process with the program's name among the descendants of the one started here."""
        family, found = {self.proc.pid}, None
        for pid in sorted(int(n) for n in os.listdir("/proc") if n.isdigit()):
            try:
                with open("/proc/%d/stat" % pid, encoding="utf-8") as f:
                    name, rest = f.read().split("(", 1)[1].rsplit(")", 1)
            except OSError:
                continue
            if int(rest.split()[1]) in family:
                family.add(pid)
                found = pid if name == "engramd" else found
        self.assertIsNotNone(found)
        return found

    def stop(self):
        if self.podman:
            podman("stop", "--time", "30", self.name)
        else:
            os.kill(self.server_pid(), signal.SIGTERM)  # buildah would pass a signal on twice
        self.assertEqual(0, self.proc.wait(40), self.proc.stderr.read())

    def test_life(self):
        self.start()
        body = {"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
        text = json.loads(self.get("/v1/completions", body))["choices"][0]["text"]
        self.assertIn("Paris", text)
        events = self.get("/v1/completions", {**body, "stream": True})
        self.assertTrue(events.endswith("data: [DONE]\n\n"))
        streamed = "".join(json.loads(e[6:])["choices"][0]["text"] for e in events.split("\n\n")[:-2] if e)
        self.assertEqual(text, streamed)
        if self.podman:
            podman("--runtime", "runc", "exec", self.name, "/usr/bin/engramd", "probe")
            bad = podman("--runtime", "runc", "exec", self.name, "/usr/bin/engramd", "probe", "http://127.0.0.1:1/",
                         check=False)
            self.assertEqual(1, bad.returncode)
            pid = podman("inspect", "--format", "{{.State.Pid}}", self.name).stdout.strip()
            with open("/proc/%s/status" % pid, encoding="utf-8") as f:
                status = dict(line.split(":\t", 1) for line in f.read().splitlines() if ":\t" in line)
            self.assertEqual("65532", status["Uid"].split()[0])
            self.assertEqual(0, int(status["CapEff"], 16))
            self.assertEqual("1", status["NoNewPrivs"])
        self.stop()

    def test_a_model_from_a_volume(self):
        self.start("serve", "--served-model-name", "mine", "/models/mine",
                   mounts=[os.path.join(source, "models", "engram-pocket") + ":/models/mine:ro"])
        self.assertEqual("mine", json.loads(self.get("/v1/models"))["data"][0]["id"])
        self.stop()


if __name__ == "__main__":
    os.makedirs(work, exist_ok=True)
    print("seed 0 (nothing here is drawn)")
    sys.stdout.flush()
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
