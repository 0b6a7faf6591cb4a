"""The plain twin of the keyed permutations: blake3 words, Fisher and Yates, a Feistel walk."""

import struct

from blake3 import blake3

WORD = 0xFFFFFFFFFFFFFFFF


def permutation(fingerprint: bytes, seed: int, source: int, epoch: int, tag: int, window: int, n: int) -> list[int]:
    key = struct.pack("<QIQIQ", seed, source, epoch, tag, window)
    hasher = blake3(b"picollm-order/1\0" + fingerprint + key)
    words = (struct.unpack("<Q", hasher.digest(length=8, seek=8 * place))[0] for place in range(1 << 60))
    if n < 65_536:
        table = list(range(n))
        for i in range(n - 1, 0, -1):
            word = next(word for word in words if word < 2**64 // (i + 1) * (i + 1))
            j = word % (i + 1)
            table[i], table[j] = table[j], table[i]
        return table
    keys = [next(words) for _ in range(6)]
    return [walk(i, n, keys) for i in range(n)]


def walk(value: int, n: int, keys: list[int]) -> int:
    bits = (n - 1).bit_length()
    low = bits - bits // 2
    while True:
        left, right = value >> low, value & ((1 << low) - 1)
        for number, key in enumerate(keys):
            if number % 2 == 0:
                left ^= mix((right + key) & WORD) & ((1 << (bits - low)) - 1)
            else:
                right ^= mix((left + key) & WORD) & ((1 << low) - 1)
        value = left << low | right
        if value < n:
            return value


def mix(word: int) -> int:
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        word ^= word >> 33
        word = word * factor & WORD
    return word ^ word >> 33
