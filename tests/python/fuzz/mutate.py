"""Mutates the files named, for so many rounds from a seed; prints what was against the promise.

Run as a script, in a process of its own: it limits its memory, and a crash is the caller's to see.
"""

from __future__ import annotations

import json
import resource
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

import faiss_qinco as fq
from faiss_qinco.index_file import index_from_state
from faiss_qinco.storage.container import FileFormatError, open_bytes, to_bytes

ROOM = 400 << 20  # bytes beyond those of the process: faiss may take 256 MiB for one vector
VALUES = [
    None, True, False, 0, 1, -1, 2, 3, 7, 255, 2**31 - 1, 2**31, 2**40, 2**62, 2**63, 10**400,
    2**64, 0.5, 1e-40, 1e38, 1e308, -0.0, "", "x", "XS", "auto", [], {}, [1], {"a": 1}, [[]] * 3,
]  # fmt: skip
DTYPES = ["u1", "i1", "u2", "<i4", "<i8", "<u8", "<f2", "<f4", "<f8"]
QUERIES = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)


def bytes_changed(rng, data):
    """A flip, a cut, a byte more, bytes of other places, any number in the place of eight."""
    data = bytearray(data)
    at = int(rng.integers(len(data)))
    match rng.integers(5):
        case 0:
            data[at] ^= 1 << int(rng.integers(8))
        case 1:
            del data[at:]
        case 2:
            data.insert(at, int(rng.integers(256)))
        case 3:
            other = int(rng.integers(len(data)))
            n = int(rng.integers(1, 64))
            data[at : at + n] = data[other : other + n]
        case _:
            data[at : at + 8] = int(rng.choice([2**20, 2**33, 2**63 - 1])).to_bytes(8, "little")
    return data


def entry_changed(rng, value):
    """Somewhere in a JSON object, another value, an entry more or one less."""
    while isinstance(value, (dict, list)) and len(value):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[rng.integers(len(keys))]
        if isinstance(value[key], (dict, list)) and value[key] and rng.random() < 0.8:
            value = value[key]
            continue
        if rng.random() < 0.1:
            del value[key]
        elif rng.random() < 0.1 and isinstance(value, dict):
            value["__class__"] = 1
        else:
            value[key] = VALUES[rng.integers(len(VALUES))]
        return


def tensor_changed(rng, tensors):
    name = list(tensors)[rng.integers(len(tensors))]
    tensor = np.array(tensors[name])
    match rng.integers(6):
        case 0:
            del tensors[name]
        case 1:
            tensors[name] = tensor.astype(DTYPES[rng.integers(len(DTYPES))])
        case 2:
            tensors[name] = tensor.reshape(-1)[: rng.integers(tensor.size + 1)]
        case 3:
            tensors[name] = np.repeat(tensor, 2, axis=0)
        case 4:
            tensors[name] = np.frombuffer(bytes_changed(rng, tensor.tobytes() or b"x"), np.uint8)
            if tensors[name].size == tensor.nbytes:
                tensors[name] = tensors[name].view(tensor.dtype).reshape(tensor.shape)
        case _:
            info = np.finfo if tensor.dtype.kind == "f" else np.iinfo
            pool = [0, 1, info(tensor.dtype).min, info(tensor.dtype).max]
            pool += [np.nan, np.inf] if tensor.dtype.kind == "f" else []
            tensor.reshape(-1)[rng.integers(max(tensor.size, 1)) :][:1] = pool[
                rng.integers(len(pool))
            ]
            tensors[name] = tensor


def head_changed(rng, data):
    """Another entry in the head, whose checksum is made right again."""
    end = 8 + int.from_bytes(data[:8], "little")
    head = json.loads(data[8:end])
    entry_changed(rng, head)
    metadata = head.pop("__metadata__", None)
    if isinstance(metadata, dict):
        metadata.pop("checksum", None)
        text = json.dumps([metadata, head], sort_keys=True, separators=(",", ":"))
        metadata["checksum"] = f"{zlib.crc32(text.encode()):08x}"
    text = json.dumps({"__metadata__": metadata, **head}).encode()
    return len(text).to_bytes(8, "little") + text + data[end:]


def spliced(rng, data, other):
    """The head of one file and the data of another."""
    end, begin = (8 + int.from_bytes(d[:8], "little") for d in (data, other))
    return data[:end] + other[begin:]


def forged(rng, data):
    """Other content with right checksums."""
    with open_bytes(data) as reader:
        kind, header, tensors = reader.kind, reader.header, reader.all()
    for _ in range(rng.integers(1, 3)):
        if rng.random() < 0.5:
            entry_changed(rng, header)
        else:
            tensor_changed(rng, tensors)
    try:
        return to_bytes(kind, header, tensors)
    except ValueError:  # 10^400 is no JSON
        return data


def use(data):
    """What came of the bytes does what it should, or says why not, as an error."""
    with open_bytes(data) as reader:
        kind = reader.kind
    if kind != "index":
        with open_bytes(data, "codec") as reader:
            codec = fq.QINCoCodec.from_state(reader.header, reader.all())
            codec.weights  # noqa: B018
        return
    index = fq.deserialize_index(data)
    with open_bytes(data, "index") as reader:
        search(index_from_state(reader, mapped=True))
    search(index)


def search(index):
    try:
        index.search(QUERIES, 3)
        index.range_search(QUERIES, 5.0)
        index.reconstruct_n(0, min(index.ntotal, 3))
        index.add(QUERIES)
    except (RuntimeError, ValueError):
        pass
    fq.deserialize_index(fq.serialize_index(index))


def main(seed, rounds, paths):
    files = [Path(path).read_bytes() for path in paths]
    for data in files:
        use(data)  # what is imported late counts for nothing
    with open("/proc/self/statm") as statm:
        room = int(statm.read().split()[0]) * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    rng = np.random.default_rng(seed)
    outcomes = Counter()
    for i in range(rounds):
        data, other = (files[rng.integers(len(files))] for _ in range(2))
        change = [bytes_changed, head_changed, forged, forged, spliced][rng.integers(5)]
        data = bytes(change(rng, data, other) if change is spliced else change(rng, data))
        print(f"\r{i}", file=sys.stderr)  # of the round that crashes
        try:
            use(data)
            outcome = "read"
        except FileFormatError:
            outcome = "refused"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
            print(i, change.__name__, outcome)
        outcomes[change.__name__, outcome.split(":")[0]] += 1
    print(dict(sorted(outcomes.items())), file=sys.stderr)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
