"""Images without a daemon: a store below one folder, and a base system from debootstrap."""
import os
import shutil
import signal
import subprocess
import tarfile

BASE = "localhost/debian:bookworm-slim"
work = None  # set by who imports this: a folder that is kept between runs


def store():
    return ["--root", os.path.join(work, "store"), "--runroot", os.path.join(work, "run"), "--storage-driver", "vfs"]


def call(*args, timeout=600, check=True):
    """Runs a command in a session of its own, so that nothing of it is left when it takes too long."""
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as p:
        try:
            out, err = p.communicate(timeout=timeout)
        except BaseException:
            os.killpg(p.pid, signal.SIGKILL)
            raise
    if check and p.returncode != 0:
        raise AssertionError("%s\n%s%s" % (" ".join(args), out[-3000:], err[-3000:]))
    return subprocess.CompletedProcess(args, p.returncode, out, err)


def buildah(*args, **more):
    return call("buildah", *store(), *args, **more)


def podman(*args, **more):
    return call("podman", *store(), *args, **more)


def make_base():
    if buildah("inspect", "--type", "image", BASE, check=False).returncode == 0:
        return
    root = os.path.join(work, "base")
    if not os.path.exists(os.path.join(root, "etc/debian_version")):
        shutil.rmtree(root, ignore_errors=True)
        call("debootstrap", "--variant=minbase", "bookworm", root)
    with tarfile.open(os.path.join(work, "base.tar"), "w") as tar:
        tar.add(root, arcname=".")
    with open(os.path.join(work, "Base"), "w", encoding="utf-8") as f:
        f.write("FROM scratch\nADD base.tar /\n")
    buildah("bud", "--isolation", "chroot", "--format", "docker", "-t", BASE, "-f", os.path.join(work, "Base"), work)
    os.remove(os.path.join(work, "base.tar"))
