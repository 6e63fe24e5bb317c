#!/usr/bin/env python3
"""A guard of the products' speed that no busy machine disturbs: instructions per weight and token, counted by callgrind.
It knows no AVX-512, so the plain C and AVX2 tiers stand for all. A change that takes a tenth more fails; so does one
that takes a fifth less, to make its author lower the figure here.

    test_instructions.py KERNEL_COUNT"""
import re
import subprocess
import sys

WEIGHTS = 64 * 1024
# (tier, format, tokens): instructions per weight and token
EXPECTED = {
    ("c", "bf16", 1): 14.22, ("c", "bf16", 4): 7.57, ("c", "fp8", 1): 14.13, ("c", "fp8", 4): 7.55,
    ("c", "fp4", 1): 10.40, ("c", "fp4", 4): 6.62, ("avx2", "bf16", 1): 0.4725, ("avx2", "bf16", 4): 0.3514,
    ("avx2", "fp8", 1): 0.7976, ("avx2", "fp8", 4): 0.4286, ("avx2", "fp4", 1): 0.7525, ("avx2", "fp4", 4): 0.4159,
}


def instructions(program, tier, dtype, tokens, repeats):
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, tier, dtype, str(tokens),
               str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    found = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
    if done.returncode or not found:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
    return int(found.group(1))


def main():
    failed = 0
    for (tier, dtype, tokens), expected in EXPECTED.items():
        two = instructions(sys.argv[1], tier, dtype, tokens, 3) - instructions(sys.argv[1], tier, dtype, tokens, 1)
        got = two / (2 * WEIGHTS * tokens)
        fine = 0.8 * expected <= got <= 1.1 * expected
        failed += not fine
        print(f"{'ok  ' if fine else 'FAIL'} {tier:5} {dtype:5} {tokens:2} tokens: {got:.4f}, expected {expected:.4f}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
