"""Training on a data set that is not in memory, against the same one in memory.

    python tests/benchmarks/streaming.py FOLDER [--data tokens images records] [--gib 4]
        [--steps 10000] [--seconds 60] [--keep]

FOLDER gets a data set of `--gib` GiB, made of the sources of Python's standard library as tokens of
16 bits (windows of 128), or of MNIST's images (FUNCPROP_MNIST) at 64 × 64 bytes, in an .npz or as
records; it is deleted afterwards. Then, in one process and a block of steps at a time by turns, a
training step takes its batches from

    memory    arrays, of which each batch is one gather by a permutation drawn beforehand; the
              others' rates are shares of its own, round by round
    stream    fp.data.stream of the file

once with the file in the system's cache, and once after the system was told to forget it before
every block. In another process the stream alone trains for `--steps` steps, while its resident
memory is read from /proc/self/status: its own (RssAnon + RssShmem), and all of it with the mapped
file's pages (VmRSS).
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import optax

import funcprop as fp
import funcprop.data

GIB = 2**30
SPARE = 5  # GiB that stay free on the disk
VOCABULARY, LENGTH = 2048, 128
SIDE = 64
BLOCK = 40  # steps of one side, then of the next
FILES = {"tokens": "tokens.bin", "images": "images.npz", "records": "images.records"}
BATCH = {"tokens": 8, "images": 16, "records": 16}


# --- data -----------------------------------------------------------------------------------------


def words(size):
    """Pieces of uint16 tokens, `size` bytes in all: the standard library again and again, each time
    from another place on and with every twentieth token exchanged for another of the text."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    found = re.findall(r"\w+|\s+|[^\w\s]", text)
    known = [word for word, _ in Counter(found).most_common(VOCABULARY - 1)]
    number = {word: k + 1 for k, word in enumerate(known)}
    ids = np.array([number.get(word, 0) for word in found], "<u2")
    random, left = np.random.default_rng(0), size // 2
    while left:
        piece = np.roll(ids, random.integers(len(ids)))[:left]
        exchanged = random.integers(0, len(piece), len(piece) // 20)
        piece[exchanged] = random.choice(ids, len(exchanged))
        yield piece
        left -= len(piece)


def pictures(count):
    """Pieces (x, y) of `count` images of MNIST at 64 × 64, each time moved another way."""
    train = fp.data.load("mnist", os.environ["FUNCPROP_MNIST"]).train
    large = train.x.repeat(2, 1).repeat(2, 2)  # 56 × 56
    large = np.pad(large, ((0, 0), (4, 4), (4, 4), (0, 0)))
    random = np.random.default_rng(0)
    while count:
        moved = np.roll(large, random.integers(-6, 7, 2), (1, 2))[:count]
        yield moved, train.y[: len(moved)]
        count -= len(moved)


def make(kind, path, size):
    free = shutil.disk_usage(path.parent).free
    if free < size + SPARE * GIB:
        sys.exit(f"{path.parent} has {free / GIB:.1f} GiB free, wanted {size / GIB + SPARE:.1f}")
    count = size // SIDE**2
    if kind == "tokens":
        with path.open("wb") as file:
            for piece in words(size):
                piece.tofile(file)
    elif kind == "records":
        fp.data.write_records(path, pictures(count))
    else:
        labels = np.empty(count, np.int32)
        shape = {"descr": "|u1", "fortran_order": False, "shape": (count, SIDE, SIDE, 1)}
        with zipfile.ZipFile(path, "w") as archive:
            done = 0
            with archive.open("x.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_2_0(file, shape)
                for x, y in pictures(count):
                    file.write(x.tobytes())
                    labels[done : done + len(y)] = y
                    done += len(y)
            with archive.open("y.npy", "w") as file:
                np.lib.format.write_array(file, labels)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def source(kind, path):
    if kind == "tokens":
        return fp.data.open(f"tokens:{path}", dtype="uint16", length=LENGTH, vocabulary=VOCABULARY)
    return fp.data.open(f"{'npz' if kind == 'images' else kind}:{path}")


def in_memory(kind, path):
    """(x, y) of k examples, by their numbers, of arrays that are in memory as a whole."""
    if kind == "tokens":
        tokens = np.fromfile(path, "<u2")
        windows = np.lib.stride_tricks.sliding_window_view(tokens, LENGTH + 1)[::LENGTH]

        def read(i):
            rows = windows[i].astype(np.int32)
            return rows[:, :-1], rows[:, 1:]

        return read, len(windows)
    if kind == "records":
        whole = fp.data.stream(source(kind, path), 8192, epochs=1, shuffle=False, device=False)
        x, y = (np.concatenate(parts) for parts in zip(*whole, strict=True))
    else:
        x, y = np.load(path)["x"], np.load(path)["y"]
    return lambda i: (x[i], y[i]), len(x)


# --- training -------------------------------------------------------------------------------------


def training(kind, batch):
    """A step, jitted, and its state."""
    if kind == "tokens":
        model = fp.gpt(vocabulary=VOCABULARY, length=LENGTH, width=64, depth=2, heads=4)
    else:
        model = fp.convnet(10, width=8)
    optimizer = optax.adam(1e-3)
    gradient = fp.backprop(model, fp.SoftmaxCrossEntropy(), has_aux=True)
    step = jax.jit(fp.train_step(gradient, optimizer), donate_argnums=0)
    return step, fp.init_state(model, optimizer, jax.random.key(0), batch[0])


def cached(path, keep):
    """Has the system keep the file in its cache, or forget it."""
    with path.open("rb") as file:
        while keep and file.read(2**24):
            pass
        if not keep:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def shuffled(kind, path):
    """Batches of arrays in memory."""
    read, n = in_memory(kind, path)
    order = np.random.default_rng(0).permutation(n)
    size = BATCH[kind]
    while True:
        for k in range(0, n - size + 1, size):
            yield read(order[k : k + size])


def rates(kind, path, seconds, disk):
    """{side: steps a second, block by block}; the file in the cache, or from the disk."""
    sides = {
        "memory": shuffled(kind, path),
        "stream": fp.data.stream(source(kind, path), BATCH[kind]),
    }
    step, state = training(kind, next(sides["memory"]))
    for batches in sides.values():  # compiles, and fills what is read ahead
        state, metrics = step(state, next(batches))
    jax.block_until_ready(state)
    found = {side: [] for side in sides}
    cached(path, keep=not disk)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for side, batches in sides.items():
            if side == "stream" and disk:
                batches.close()
                cached(path, keep=False)
            begin = time.perf_counter()
            for _ in range(BLOCK):
                state, metrics = step(state, next(batches))
            jax.block_until_ready(state)
            found[side].append(BLOCK / (time.perf_counter() - begin))
    assert np.isfinite(metrics.loss)
    return found


def resident():
    """MiB: this process's own, and with the pages of files."""
    status = Path("/proc/self/status").read_text()
    kib = {name: int(v) for name, v in re.findall(r"(\w+):\s+(\d+) kB", status)}
    return (kib["RssAnon"] + kib["RssShmem"]) / 1024, kib["VmRSS"] / 1024


def memory(kind, path, steps):
    """[(steps done, MiB of its own, MiB in all)]."""
    batches = fp.data.stream(source(kind, path), BATCH[kind], steps=steps)
    step, state = training(kind, next(batches))
    found = []
    for count, batch in enumerate(batches, 2):
        state, _ = step(state, batch)
        if count % max(1, steps // 10) == 0 or count == 100:
            jax.block_until_ready(state)
            found.append((count, *resident()))
    return found


# --- report ---------------------------------------------------------------------------------------


def child(*arguments):
    command = [sys.executable, __file__, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def report(kind, path, steps, seconds):
    size = path.stat().st_size / GIB
    print(f"{kind}: {size:.2f} GiB, {source(kind, path)!r}, batches of {BATCH[kind]}", flush=True)
    print("\n| the file | in memory, steps a second | as a stream | share, middle half | rounds |")
    print("|---|---|---|---|---|")
    for where, name in {"in the cache": "rates", "on the disk": "rates-disk"}.items():
        found = child(path, "--data", kind, "--seconds", seconds, "--child", name)
        pairs = zip(found["stream"], found["memory"], strict=True)
        low, middle, high = statistics.quantiles([one / other for one, other in pairs], n=4)
        memory, stream = (statistics.median(found[side]) for side in ("memory", "stream"))
        share, rounds = f"{middle:.2f} ({low:.2f}–{high:.2f})", len(found["memory"])
        print(f"| {where} | {memory:.1f} | {stream:.1f} | {share} | {rounds} |", flush=True)
    found = child(path, "--data", kind, "--steps", steps, "--child", "memory")
    print("\n| steps | own MiB | with the file's pages |\n|---|---|---|")
    for count, own, total in found:
        print(f"| {count:,} | {own:.0f} | {total:.0f} |")
    print(flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", nargs="+", choices=FILES, default=["tokens", "images"])
    parser.add_argument("--gib", type=float, default=4)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument(
        "--child", choices=["rates", "rates-disk", "memory"], help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.child:
        (kind,), path = options.data, options.folder
        if options.child == "memory":
            found = memory(kind, path, options.steps)
        else:
            found = rates(kind, path, options.seconds, disk=options.child == "rates-disk")
        print(json.dumps(found))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    for kind in options.data:
        path = options.folder / FILES[kind]
        try:
            if not path.exists():
                make(kind, path, int(options.gib * GIB))
            report(kind, path, options.steps, options.seconds)
        finally:
            if not options.keep:
                path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
