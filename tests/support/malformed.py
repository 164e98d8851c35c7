"""Malformed files: valid files that are changed at random, and tables that are nasty by design."""

import json
import random
import struct

import numpy as np

WORDS = (
    "nan",
    "-inf",
    "1e999",
    "1_0",
    "0x1",
    "",
    " ",
    "é",
    "\x1b[31m",
    "\u202e",
    "$x",
    "=1",
    "9" * 400,
    "x" * 9000,
    "١",
)
NUMBERS = (0, -1, 1, 0.5, 10**30, 10**400, -(10**30), 1e308, float("nan"), float("inf"), True, None)


def mutate_bytes(draw, content):
    """Flips, removes, inserts, repeats or cuts off bytes or lines."""
    lines, place = content.splitlines(keepends=True), draw.randrange(len(content))
    line = draw.randrange(len(lines))
    return draw.choice(
        [
            lambda: content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :],
            lambda: content[:place] + bytes(draw.randrange(256) for _ in range(4)) + content[place + 4 :],
            lambda: content[:place],
            lambda: content[place:],
            lambda: b"".join(lines[: line + 1] + lines[line:]),
            lambda: b"".join(lines[:line] + lines[line + 1 :]),
            lambda: content[:place] + b"\0" * draw.randrange(1, 9) + content[place:],
            lambda: content + content,
        ]
    )()


def mutate_table(draw, content):
    """Changes cells, columns, quotes or the encoding of a .csv file."""
    rows = [line.split(",") for line in content.decode().splitlines()]
    row, column, other = draw.randrange(len(rows)), draw.randrange(len(rows[0])), draw.randrange(len(rows[0]))

    def join():
        return "\n".join(",".join(cells) for cells in rows) + "\n"

    def swap():
        for cells in rows:
            cells[column], cells[other] = cells[other], cells[column]
        return join().encode()

    def change():
        rows[row][column] = draw.choice(WORDS)
        return join().encode()

    return draw.choice(
        [
            *([change] * 4),
            swap,
            lambda: mutate_bytes(draw, content),
            lambda: join().encode(draw.choice(["utf-16", "utf-32", "utf-8-sig"])),
            lambda: join().replace(",", draw.choice([";", "\t", ",,", '","', ',"'])).encode(),
            lambda: b'"' + content,
            lambda: ("\n".join(",".join(cells) for cells in rows[:1]) + "\n").encode(),
            lambda: content.replace(b"\n", b"\r"),
        ]
    )()


def mutate_json(draw, content):
    """Changes a value or a key of a JSON file, or its bytes."""
    value = json.loads(content)
    if not isinstance(value, dict) or draw.random() < 0.25:
        return mutate_bytes(draw, content)
    key = draw.choice(list(value))
    choices = [*WORDS, *NUMBERS, [], {}, [1, "a"], {"a": [None]}]
    old = value[key]
    if isinstance(old, (list, dict)) and old and draw.random() < 0.5:
        inner = draw.choice(list(old) if isinstance(old, dict) else range(len(old)))
        old[inner] = draw.choice(choices)
    else:
        value[key] = draw.choice(choices)
    text = json.dumps(value)
    nested = "[" * 100_000 + "]" * 100_000
    return draw.choice(
        [
            *([lambda: text.encode()] * 6),
            lambda: json.dumps({name: item for name, item in value.items() if name != key}).encode(),
            lambda: json.dumps(value | {draw.choice(WORDS): 1}).encode(),
            lambda: (text[:-1] + f", {json.dumps(key)}: 1}}").encode(),
            lambda: text.encode("utf-16"),
            lambda: f'{{"{key}": {nested}}}'.encode(),
            lambda: json.dumps([value]).encode(),
            lambda: b"",
        ]
    )()


def mutate_arrays(draw, path):
    """Changes an array of an .npz file, or the bytes of the file."""
    with np.load(path) as file:
        arrays = dict(file)
    name = draw.choice(list(arrays))
    array = arrays[name]
    changes = [
        lambda: array.astype(draw.choice(["complex64", "S3", "U3", "O", "M8[s]", "float16", "bool", "i1", ">f8"])),
        lambda: array[:0],
        lambda: array.reshape(-1)[0],
        lambda: array[None],
        lambda: array[:-1],
        lambda: np.where(np.arange(array.size).reshape(array.shape) == 3, draw.choice([np.nan, np.inf, 1e300]), array),
        lambda: array.astype([("a", float)]),
        lambda: array * 1e300,
    ]
    if draw.random() < 0.6:
        arrays[name] = draw.choice(changes)()
        np.savez(path, **arrays)
    else:
        path.write_bytes(mutate_bytes(draw, path.read_bytes()))


def write_table(path):
    draw = random.Random(0)
    rows = [f"{draw.random():.3f},{draw.random():.3f},{'abc'[i % 3]}" for i in range(30)]
    path.write_text("\n".join(["p,q,kind", *rows]) + "\n")


def write_images(folder):
    draw = np.random.default_rng(0)
    folder.mkdir()
    for part, n in (("train", 24), ("t10k", 9)):
        images, labels = draw.integers(0, 256, (n, 2, 2), np.uint8), np.arange(n, dtype=np.uint8) % 3
        header = struct.pack(">4B3I", 0, 0, 8, 3, n, 2, 2)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, n) + labels.tobytes())


NASTY_TABLES = {
    "a directory": None,
    "empty": b"",
    "only a mark of the byte order": b"\xef\xbb\xbf",
    "only NULs": b"\0" * 1000,
    "names alone": b"a,b,kind\n",
    "one column": b"a\n1\n2\n",
    "the same name twice": b"a,a,kind\n1,2,x\n3,4,y\n",
    "one example": b"a,b,kind\n1,2,x\n",
    "one class": b"a,b,kind\n1,2,x\n1,3,x\n",
    "constant features": b"a,b,kind\n" + b"1,1,x\n1,1,y\n" * 9,
    "numbers beyond floats": b"a,b,kind\n" + b"1e308,-1e308,x\n-1e308,1e308,y\n" * 9,
    "tiny numbers": b"a,b,kind\n" + b"5e-324,0,x\n0,5e-324,y\n" * 9,
    "targets beyond float32": b"a,b,t\n" + b"1,2,1e300\n2,3,-1e300\n3,4,1.5\n" * 9,
    "constant targets": b"a,b,t\n" + b"1,2,1.5\n2,3,1.5\n" * 9,
    "an open quote": b'a,b,kind\n1,2,"x\n3,4,y\n',
    "a very long cell": b"a,b,kind\n1," + b"2" * 200_000 + b",x\n3,4,y\n",
    "very many columns": b",".join(b"c%d" % i for i in range(3000)) + b"\n" + b",".join([b"1"] * 3000) + b"\n",
    "hostile names": "\x1b[2J,\u202eb,$kind$\n1,2,$x\n3,4,\x07y\n1,2,$x\n3,4,\x07y\n".encode() * 1,
    "Latin-1": "a,b,kind\n1,2,é\n3,4,ü\n".encode("latin-1"),
}
