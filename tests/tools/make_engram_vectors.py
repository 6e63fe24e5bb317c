#!/usr/bin/env python3
"""Prints tests/unit/engram_order_vectors.h: buckets, multipliers and rows of table models whose orders begin their
buckets at different places, as the program published with the paper (arXiv 2601.07372) does. Needs NumPy; written from
the description, without a look at engram/hash.c. Row ids use Python's own integers, the generator is NumPy's.

usage: make_engram_vectors.py > tests/unit/engram_order_vectors.h
"""
import numpy

# (starts of order 2, 3, ..., heads, seed, number of classes, pad class, layers)
MODELS = [
    ([646400, 646400], 8, 0, 97812, 2, [1, 15]),     # the demo's own sizes
    ([646400, 131072], 8, 0, 97812, 2, [1, 15]),     # orders apart
    ([1000, 1040, 990], 4, 7, 99092, 5, [0, 3, 9]),  # overlapping: an order meets primes that another has taken
    ([17, 2, 17, 1], 2, 2**63, 50, 49, [2, 1000]),   # tiny, a large seed
]
N_TOKENS = 6


def is_prime(n):
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


def buckets(starts, heads, layers):
    """layer -> [order][head]"""
    seen, result = set(), {}
    for layer in layers:
        result[layer] = []
        for start in starts:
            sizes, candidate = [], start - 1
            while len(sizes) < heads:
                candidate += 1
                if is_prime(candidate) and candidate not in seen:
                    seen.add(candidate)
                    sizes.append(candidate)
            result[layer].append(sizes)
    return result


def multipliers(layer, seed, n_classes, depth):
    half = max(1, numpy.iinfo(numpy.int64).max // n_classes // 2)
    draws = numpy.random.default_rng(seed + 10007 * layer).integers(0, half, size=depth, dtype=numpy.int64)
    return [int(d) * 2 + 1 for d in draws]


def rows(ids, at, m, sizes, pad):
    result, mix, offset = [], 0, 0
    for back in range(len(sizes) + 1):
        mix ^= (ids[at - back] if at >= back else pad) * m[back]
        for size in sizes[back - 1] if back else []:
            result.append(mix % size + offset)
            offset += size
    return result


def numbers(values):
    return "{" + ", ".join(f"{v}u" if v > 2**63 - 1 else str(v) for v in values) + "}"


def main():
    print("/* Made by tests/tools/make_engram_vectors.py with NumPy " + numpy.__version__ + "; not edited by hand. */")
    print("#ifndef EM_TESTS_ENGRAM_ORDER_VECTORS_H\n#define EM_TESTS_ENGRAM_ORDER_VECTORS_H\n\n#include <stdint.h>\n")
    print("static const struct {\n    int32_t max_order, n_heads, n_classes, pad_class, n_tables, n_tokens;\n"
          "    int64_t start[7];\n    uint64_t seed;\n    int32_t class_of[6];\n    struct {\n        int32_t layer;\n"
          "        int64_t multiplier[8], prime[16], row[6][16];\n    } table[3];\n} order_vector[] = {")
    random = numpy.random.default_rng(1)
    for starts, heads, seed, n_classes, pad, layers in MODELS:
        ids = [int(v) for v in random.integers(0, n_classes, size=N_TOKENS)]
        sizes = buckets(starts, heads, layers)
        print(f"    {{{len(starts) + 1}, {heads}, {n_classes}, {pad}, {len(layers)}, {N_TOKENS}, {numbers(starts)}, "
              f"{seed}u, {numbers(ids)}, {{")
        for layer in layers:
            m = multipliers(layer, seed, n_classes, len(starts) + 1)
            flat = [p for order in sizes[layer] for p in order]
            print(f"         {{{layer}, {numbers(m)},\n          {numbers(flat)},\n          {{")
            for at in range(N_TOKENS):
                print(f"           {numbers(rows(ids, at, m, sizes[layer], pad))},")
            print("          }},")
        print("     }},")
    print("};\n\n#endif")


main()
