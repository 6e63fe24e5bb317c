# shellcheck shell=bash
# What a script needs of the machine: says what is missing and installs it with apt. Sourced by deploy/quickstart,
# tests/run and .ci/run, each of which names its needs:
#
#     need cmd:meson meson
#     need lib:libcjson libcjson-dev
#     install_missing "to build engramd"

need_probes=()   # what to look for
need_packages=() # the Debian package that brings it, same position

# need PROBE PACKAGE. PROBE: cmd:PROGRAM, lib:PKG-CONFIG-NAME, cc (a C compiler that links), venv (Python's venv),
# sanitizers:COMPILER (its run-time libraries), file:PATTERN.
need() {
    need_probes+=("$1")
    need_packages+=("$2")
}

probe() {
    case $1 in
    cmd:*) command -v "${1#cmd:}" ;;
    lib:*) pkg-config --exists "${1#lib:}" ;;
    cc) echo 'int main(void) { return 0; }' | "${CC:-cc}" -x c - -o /dev/null ;;
    venv) python3 -c 'import ensurepip, venv' ;;
    file:*) compgen -G "${1#file:}" ;;
    sanitizers:*) echo 'int main(void) { return 0; }' | "${1#sanitizers:}" -fsanitize=address -x c - -o /dev/null ;;
    esac >/dev/null 2>&1
}

# Fills `missing` with the packages whose probe fails.
find_missing() {
    local i
    missing=()
    for i in "${!need_probes[@]}"; do
        probe "${need_probes[i]}" || missing+=("${need_packages[i]}")
    done
}

# install_missing PURPOSE: returns 0 when everything is there in the end; otherwise one sentence and 1.
install_missing() {
    local log
    find_missing
    [ ${#missing[@]} -eq 0 ] && return 0
    echo "Missing $1: ${missing[*]}" >&2
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "This is no Debian system: install what these Debian packages hold, then try again." >&2
        return 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        echo "Only root can install them: run 'sudo apt-get install ${missing[*]}', then try again." >&2
        return 1
    fi
    echo "Installing them with apt-get (a minute or two) ..." >&2
    log=$(mktemp) || return 1
    apt-get -q update >"$log" 2>&1 || true # an old list may still do
    if ! DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${missing[@]}" \
        >>"$log" 2>&1 </dev/null; then
        tail -n 15 "$log" >&2
        rm -f "$log"
        echo "apt-get could not install: ${missing[*]}" >&2
        return 1
    fi
    rm -f "$log"
    find_missing
    [ ${#missing[@]} -eq 0 ] && return 0
    echo "Still missing after apt-get install: ${missing[*]}" >&2
    return 1
}

# What every build of engramd needs.
need_build() {
    need cc build-essential
    need cmd:meson meson
    need cmd:ninja ninja-build
    need cmd:pkg-config pkg-config
    need lib:libmicrohttpd libmicrohttpd-dev
    need lib:libcjson libcjson-dev
    need lib:libutf8proc libutf8proc-dev
}

# What the tests need on top.
need_tests() {
    need lib:check check
    need cmd:python3 python3
    need venv python3-venv
    need cmd:curl curl
    need cmd:nm binutils
    need cmd:valgrind valgrind
    need cmd:wrk wrk
    need lib:fuse3 libfuse3-dev
    need cmd:fusermount3 fuse3
    need cmd:setpriv util-linux
    need 'file:/usr/lib/*/faketime/libfaketimeMT.so.1' libfaketime
    need_deploy_tests
    # the page in a real browser
    need cmd:chromium chromium
    need cmd:chromedriver chromium-driver
}

# What judges units, manual pages and dashboards, and what the server is rolled out behind.
need_deploy_tests() {
    need cmd:systemd-analyze systemd
    need cmd:groff groff-base
    need cmd:nginx nginx-light
    need cmd:promtool prometheus
    need cmd:strace strace
}

# The other compiler: fuzzing, a second opinion on warnings.
need_clang() {
    need cmd:clang clang
    need sanitizers:clang libclang-rt-dev
    need cmd:llvm-symbolizer llvm
}

# What makes Debian packages.
need_packaging() {
    need cmd:dpkg-buildpackage dpkg-dev
    need cmd:dh debhelper
}

# What builds and runs an image without a daemon.
need_image() {
    need cmd:buildah buildah
    need cmd:podman podman
    need cmd:runc runc
    need cmd:debootstrap debootstrap
}

# What compiles for NVIDIA GPUs, as Python wheels: nvcc, its compiler, its headers, the runtime. Pinned: they go together.
cuda_wheels=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96)

# need_nvcc VENV: puts nvcc into PATH, from PyPI when the machine has none; VENV keeps it.
need_nvcc() {
    local bin
    [ -x /usr/local/cuda/bin/nvcc ] && PATH=$PATH:/usr/local/cuda/bin
    command -v nvcc >/dev/null && return 0
    if ! compgen -G "$1/lib/python3*/site-packages/nvidia/cu13/bin/nvcc" >/dev/null; then
        python3 -m venv "$1" && "$1/bin/pip" -q install "${cuda_wheels[@]}" || return 1
    fi
    bin=$(dirname "$(compgen -G "$1/lib/python3*/site-packages/nvidia/cu13/bin/nvcc" | head -n 1)")
    PATH=$PATH:$bin
    command -v nvcc >/dev/null
}
