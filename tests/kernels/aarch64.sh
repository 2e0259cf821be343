#!/bin/sh
# The kernels as they run on Arm: built for aarch64, run under qemu-user, compared with this machine's fastest variant.
# Takes AARCH64_CC, the first of the compilers below, and python -m ziglang of $PYTHON.
set -eu
kernels=deltackpt/codec/kernels
flags="-O3 -std=c11 -Wall -Wextra -ffp-contract=off -fno-math-errno -fno-trapping-math -DNDEBUG -I$kernels"
build=build/aarch64
mkdir -p "$build"

missing() {
    echo "make aarch64 cannot run here: $1" >&2
    exit 1
}

emulator=$(command -v qemu-aarch64 || command -v qemu-aarch64-static) ||
    missing "qemu-aarch64 is missing; on Debian and Ubuntu it is in the package qemu-user"
if [ -n "${AARCH64_CC:-}" ]; then
    compiler=$AARCH64_CC
elif command -v aarch64-linux-gnu-gcc >/dev/null; then
    compiler=aarch64-linux-gnu-gcc
elif "${PYTHON:-python3}" -m ziglang version >/dev/null 2>&1; then
    compiler="${PYTHON:-python3} -m ziglang cc -target aarch64-linux-musl"
else
    missing "no compiler for aarch64; install gcc-aarch64-linux-gnu, or ziglang with pip, or name one in AARCH64_CC"
fi
echo "compiler: $compiler"

# Lists are split into words on purpose.
# shellcheck disable=SC2086
for program in vectors fuzz; do
    $compiler $flags -static $kernels/*.c tests/kernels/$program.c -o "$build/$program" -lm
done
# shellcheck disable=SC2086
${CC:-cc} $flags $kernels/*.c tests/kernels/vectors.c -o "$build/vectors-here" -lm

"$build/vectors-here" >"$build/here.txt"
"$emulator" "$build/vectors" >"$build/aarch64.txt"
if grep "THAT DO NOT COME BACK" "$build/here.txt" "$build/aarch64.txt"; then exit 1; fi
diff "$build/here.txt" "$build/aarch64.txt"
echo "$(wc -l <"$build/here.txt") vectors are the same on $(uname -m) and aarch64"
"$emulator" "$build/fuzz" "${BLOCKS:-20}"
