#!/bin/sh
# compile.sh LOG COMPILER ARGUMENT...: runs the compiler and keeps what it says about each kernel (registers, memory) in
# LOG; an error is shown, too.
log=$1
shift
if ! "$@" >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
fi
