"""Draws the two PNG pictures in this directory: mountains at dusk over a lake. Fixed hashes stand for chance, so the
pixels do not change. Run: python3 make_pictures.py"""

import math
import struct
import zlib


def noise(x, y, seed):
    value = (x * 374761393 + y * 668265263 + seed * 2147483647) & 0xFFFFFFFF
    value = ((value ^ (value >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((value ^ (value >> 16)) & 0xFFFF) / 65535


def smooth(x, y, seed):
    """Value noise between whole coordinates."""
    left, top = math.floor(x), math.floor(y)
    u, v = x - left, y - top
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    rows = [noise(left, row, seed) * (1 - u) + noise(left + 1, row, seed) * u for row in (top, top + 1)]
    return rows[0] * (1 - v) + rows[1] * v


def fractal(x, y, seed, octaves=5):
    return sum(smooth(x * 2**o, y * 2**o, seed + o) / 2 ** (o + 1) for o in range(octaves))


def blend(a, b, t):
    return [p * (1 - t) + q * t for p, q in zip(a, b)]


def land(x, y):
    """The colour at x, y (0 to 1) above the lake."""
    colour = blend([38, 46, 98], [250, 160, 92], min(1, y * 1.7) ** 1.5)
    cloud = max(0, fractal(x * 4, y * 11, 40) - 0.45) * 2.2
    colour = blend(colour, [255, 205, 178], min(1, cloud))
    sun = math.hypot((x - 0.68) * 1.33, y - 0.4)
    colour = blend(colour, [255, 240, 200], 1 if sun < 0.045 else max(0, 0.5 - sun * 2))
    for layer, (base, height, shade) in enumerate(
        [(0.50, 0.42, [112, 88, 122]), (0.57, 0.34, [70, 58, 92]), (0.64, 0.24, [30, 32, 52])]
    ):
        ridge = base - height * (fractal(x * (2 + 2 * layer), 0.5, 7 + 10 * layer, 7) - 0.42)
        if y > ridge:
            rock = fractal(x * 40, y * 40, 90 + layer, 3)
            snow = 1 if layer == 0 and y - ridge < 0.05 * rock else 0
            colour = blend(blend(shade, [200, 170, 160], 0.28 * rock), [240, 235, 245], 0.8 * snow)
    return colour


def pixel(x, y):
    if y < 0.66:
        return land(x, y)
    depth = (y - 0.66) / 0.34
    wave = (fractal(x * 9, depth * 60, 70, 3) - 0.45) * 0.05 * (0.2 + depth)
    return blend(land(min(1, max(0, x + wave)), max(0, 0.66 - depth * 0.6)), [20, 34, 60], 0.25 + 0.4 * depth)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def paeth(a, b, c):
    p = a + b - c
    return min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]


def draw(name, width, height):
    rows, above = bytearray(), bytes(width * 3)
    for y in range(height):
        row = bytearray()
        for x in range(width):
            grain = noise(x, y, 5) * 5 - 2
            row += bytes(min(255, max(0, int(part + grain))) for part in pixel(x / width, y / height))
        rows.append(4)
        for i, part in enumerate(row):
            left, corner = (row[i - 3], above[i - 3]) if i >= 3 else (0, 0)
            rows.append((part - paeth(left, above[i], corner)) & 255)
        above = row
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(rows), 9)) + chunk(b"IEND", b"")
    with open(name, "wb") as file:
        file.write(png)


draw("small.png", 48, 36)
draw("scene.png", 320, 240)
