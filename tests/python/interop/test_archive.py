"""Nothing that is in a file of torch's is run, and no file takes memory that its size does not
justify."""

from __future__ import annotations

import collections
import functools
import io
import operator
import os
import pickle
import random
import struct
import subprocess
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import faiss_qinco as fq
from faiss_qinco.interop.archive import Tensor, open_archive, unpickled
from faiss_qinco.storage.container import FileFormatError, MissingFileError

from . import writer
from .test_published import MODELS, published


class Calls:
    """Is pickled as the call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def archive_of(path: Path, pickled: bytes, files: dict[str, bytes] | None = None) -> Path:
    """A zip as torch writes it."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", pickled)
        for name, data in (files or {}).items():
            file.writestr(f"model/{name}", data)
    return path


def refused(path: Path, says: str = "") -> None:
    with pytest.raises(FileFormatError, match=f"{path.name}: .*({says})"):
        fq.QINCoCodec.load(path)


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_run(protocol, tmp_path):
    made = tmp_path / "made"
    command = f"touch {made}"
    counter: Any = collections.Counter
    attacks = {
        "system": Calls(os.system, command),
        "popen": Calls(subprocess.Popen, ["touch", str(made)]),
        "eval": Calls(eval, f"open({str(made)!r}, 'w')"),
        "getattr": Calls(getattr, os, "system"),
        "open": Calls(open, str(made), "w"),
        "method": Calls(operator.methodcaller("system", command), os.path),
        "partial": Calls(functools.partial(os.system, command)),
        "load": Calls(torch.load, str(made)),
        "within": Calls(counter, Calls(os.system, command)),
    }
    for name, attack in attacks.items():
        nested = {"model": {"data_mean": [attack]}, "parameters": {}}
        for thing in (attack, nested, [(attack,)]):
            try:
                pickled = pickle.dumps(thing, protocol)
            except (TypeError, pickle.PicklingError):  # a module cannot be pickled
                continue
            refused(archive_of(tmp_path / f"{name}.pt", pickled), "it asks for|its pickle")
    # Where torch saves it beside a whole model.
    if protocol == 2:
        saved = published("IVF-QINCo2")
        for entry in ("logger", "model", "parameters"):
            other = {**saved, entry: {**(saved[entry] or {}), "x": attacks["system"]}}
            refused(writer.save(other, tmp_path / "whole.pt"), "it asks for 'posix.system'")
        model = published("IVFQINCo")
        model.step0.hook = attacks["system"]
        refused(writer.save(model, tmp_path / "whole.pt"), "it asks for 'posix.system'")
    assert not made.exists()


SYSTEM = b"cposix\nsystem\n"
FLOATS = b"ctorch\nFloatStorage\n"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


def storage(key: bytes = b"0", size: bytes = b"K\4", kind: bytes = FLOATS) -> bytes:
    key = struct.pack("<I", len(key)) + key
    return b"(X\7\0\0\0storage" + kind + b"X" + key + b"X\3\0\0\0cpu" + size + b"tQ"


@pytest.mark.parametrize(
    "program",
    [
        SYSTEM + b"X\2\0\0\0id\x85R.",
        b"(S'id'\niposix\nsystem\n.",  # INST
        b"(" + SYSTEM + b"S'id'\no.",  # OBJ
        b"\x8c\5posix\x8c\6system\x93\x8c\2id\x85R.",  # STACK_GLOBAL
        b"\x82\1.",  # EXT1
        SYSTEM + b")\x81}b.",
        SYSTEM + b")}\x92.",  # NEWOBJ_EX
        SYSTEM + b"Q.",  # a function as the name of a storage
        b"Pposix system\n.",  # PERSID
        b"ctorch.nn.modules.linear\nLinear\n}b.",  # attributes of a class
        b"ctorch.nn.modules.linear\nLinear\n)\x81X\1\0\0\0a\x85b.",  # that are no dict
        b"ctorch.nn.modules.linear\nLinear\n)\x81}b}b.",  # twice
        b"ctorch.nn.modules.linear\nLinear\n)R.",  # called
        b"ctorch.nn.modules.linear\nLinear\n(K\1t\x81.",
        b"ccollections\nOrderedDict\n)\x81.",
        b"ccollections\nOrderedDict\n]\x85R.",
        b"c__builtin__\nset\n)R.",
        b"]}b.", b"K\1)R.", b"})R.", b"Nq\0h\1.", b".", b"(.", b"(t", b"NN.", b"K\1K\2s.", b"t.",
        b"](K\1K\2u.", b"}(K\1u.", b"}K\1a.", b"]K\1K\2s.", b"}]K\1s.", b"}G\0\0\0\0\0\0\0\0K\1s.",
        b"X\xff\xff\xff\xffabc.", b"\x8a\xff\1.", b"\xff.", b"",
        b"(X\7\0\0\0storageK\1tQ.",
        storage(kind=SYSTEM) + b".", storage(kind=TENSOR) + b".", storage(kind=b"N") + b".",
        storage(key=b"../0") + b".", storage(key=b"") + b".",
        storage(size=b"J\xff\xff\xff\xff") + b".",
        storage(size=b"G?\xf0\0\0\0\0\0\0") + b".", storage(size=b"\x88") + b".",
        TENSOR + b"(NK\0)))tR.", TENSOR + b")R.", TENSOR + b"]R.",
        TENSOR + b"(" + storage() + b"K\1K\4\x85K\1\x85\x89NtR.",  # beyond its end
        TENSOR + b"(" + storage() + b"K\0K\3\x85K\2\x85\x89NtR.",
        TENSOR + b"(" + storage() + b"J\xff\xff\xff\xffK\2\x85K\1\x85\x89NtR.",  # before its start
        TENSOR + b"(" + storage() + b"K\3K\4\x85J\xff\xff\xff\xff\x85\x89NtR.",  # backwards
        TENSOR + b"(" + storage() + b"K\0K\5\x85K\0\x85\x89NtR.",  # one number as five
        TENSOR + b"(" + storage() + b"K\0K\4K\1\x86K\1\x85\x89NtR.",
        TENSOR + b"(" + storage() + b"K\0N)\x89NtR.",
        TENSOR + b"(" + storage() + b"K\4))\x89NtR.",  # a scalar behind the end
    ],
)  # fmt: skip
def test_programs_that_torch_does_not_write(program):
    with pytest.raises(FileFormatError):
        unpickled(b"\x80\2" + program)


def test_the_program_of_a_tensor():
    made = unpickled(b"\x80\2" + TENSOR + b"(" + storage() + b"K\1K\3\x85K\1\x85\x89NtR.")
    assert isinstance(made, Tensor) and (made.offset, made.shape, made.storage.size) == (1, (3,), 4)


def one_tensor(shape: bytes, strides: bytes, size: bytes) -> bytes:
    return b"\x80\2" + TENSOR + b"(" + storage(size=size) + b"K\0" + shape + strides + b"\x89NtR."


def test_tensors_are_what_torch_reads(tmp_path):
    x = torch.arange(24.0).reshape(4, 6)
    views = {
        "whole": x, "slice": x[1:3, 2:5], "transposed": x.T, "steps": x[::2, ::3], "one": x[2, 3],
        "empty": x[:0], "double": x.double() / 3, "half": x.half(), "bfloat16": x.bfloat16() * 1.01,
        "parameter": torch.nn.Parameter(x),
    }  # fmt: skip
    torch.save({name: view.clone() for name, view in views.items()}, tmp_path / "copies")
    for name, view in views.items():  # each with a storage that is all of the file
        torch.save(view, tmp_path / name)
        with open_archive(tmp_path / name) as archive:
            found = archive.array(name, archive.root)
        np.testing.assert_array_equal(found, view.detach().float().numpy())
        assert found.dtype == np.float32 and found.flags.c_contiguous and found.flags.writeable


def test_data_of_another_size(tmp_path):
    pickled = one_tensor(b"K\4\x85", b"K\1\x85", b"K\4")
    for data in (b"", bytes(12), bytes(20)):
        read(archive_of(tmp_path / "x", pickled, {"data/0": data}), "bytes")
    read(archive_of(tmp_path / "x", pickled), "data/0 is missing")


def read(path: Path, says: str) -> None:
    with pytest.raises(FileFormatError, match=says), open_archive(path) as archive:
        archive.array("x", archive.root)


def peak_of(function: Any, *args: Any) -> int:
    tracemalloc.start()
    try:
        function(*args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_bombs(tmp_path):
    """Files that say more than they hold."""
    path = tmp_path / "bomb.pt"
    n = 1 << 28

    def bomb(says: str) -> None:
        assert peak_of(refused, path, says) < 8 << 20

    size = b"J" + struct.pack("<i", n // 4)
    saved = published("IVF-QINCo2")
    # Compressed zeros, in the place of a storage and of the pickle.
    writer.save(saved, path)
    with zipfile.ZipFile(path) as file:
        content = {info.filename: file.read(info) for info in file.infolist()}
    for name in ("bomb/data/2", "bomb/data.pkl"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for other, data in content.items():
                file.writestr(other, bytes(n >> 3) if other == name else data)
        bomb("compressed")
    # One number as many; a storage that is not there.
    for shape, strides, of_storage in (
        (size + b"\x85", b"K\0\x85", b"K\4"), (size + b"\x85", b"K\1\x85", size),
    ):  # fmt: skip
        pickled = one_tensor(shape, strides, of_storage)[2:-1]
        model = b"X\t\0\0\0data_mean" + pickled
        whole = b"\x80\2}(X\5\0\0\0model}" + model + b"sX\n\0\0\0parameters}u."
        archive_of(path, whole, {"data/0": bytes(16)})
        bomb("")
        with pytest.raises(FileFormatError, match=r"storage|bytes"), open_archive(path) as archive:
            archive.array("x", archive.root["model"]["data_mean"])
    # The same numbers again and again.
    big = torch.zeros(1 << 18)
    torch.save([big[i:] for i in range(64)], path)
    with open_archive(path) as archive, pytest.raises(FileFormatError, match="more than the file"):
        for tensor in archive.root:
            archive.array("x", tensor)
    # Modules in modules in modules, whose paths have them all.
    level = b"h\0)\x81}(X\x0b\0\0\0_parameters}X\x08\0\0\0_modules}X\1\0\0\0x"
    chain = b"\x80\2cmodel_qinco\nQINCo\nq\0" + 20_000 * level + b"h\0)\x81" + 20_000 * b"sub"
    archive_of(path, chain.replace(b"q\0h\0", b"q\0") + b".")
    assert peak_of(refused, path, "names of parameters") < 64 << 20
    # A place in the pickle's memory, for which pickle allocates all up to it.
    archive_of(path, b"\x80\2Nr\xff\xff\xff\x7f.")
    bomb("expected a QINCo model")
    # A pickle that is too long.
    archive_of(path, b"\x80\2" + b"}" * (1 << 22) + b".")
    bomb("at most")


def test_bombs_of_time(tmp_path):
    """Tuples of tuples: linear to read, and for ever to hash, print or walk through."""
    doubled = b"K\1\x85" + b"".join(b"q\0h\0\x86" for _ in range(200))
    lists = b"]" + b"".join(b"q\0]h\0ah\0a" for _ in range(200))
    path = tmp_path / "bomb.pt"
    start = time.monotonic()
    for part in (doubled, lists):
        for program in (
            part, b"}" + part + b"K\1s", b"}(X\5\0\0\0model" + part + b"X\n\0\0\0parameters}u",
            b"}(X\5\0\0\0model}X\n\0\0\0parameters}X\1\0\0\0K" + part + b"su",
            b"}(X\5\0\0\0model}X\1\0\0\0x" + part + b"sX\n\0\0\0parameters}u",
        ):  # fmt: skip
            refused(archive_of(path, b"\x80\2" + program + b"."))
    module = published("QINCo")
    module._modules["step1"]._modules["codebook"] = module  # round and round
    writer.save(module, path)
    refused(path, "elsewhere")
    assert time.monotonic() - start < 10


def test_damaged_archives(tmp_path):
    whole = writer.save(published("QINCoLR"), tmp_path / "whole.pt").read_bytes()
    path = tmp_path / "cut.pt"
    for end in np.linspace(0, len(whole) - 1, 60).astype(int):
        path.write_bytes(whole[:end])
        refused(path)
    rng = np.random.default_rng(1)
    n_refused = 0
    for at in rng.integers(0, len(whole), 200):
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            fq.QINCoCodec.load(path)  # some bits are of no importance
        except FileFormatError as error:
            assert str(error).startswith(str(path))
            n_refused += 1
    assert n_refused > 100
    with pytest.raises(MissingFileError):
        fq.QINCoCodec.load(tmp_path / "none.pt")
    for other in (b"PK\3\4", b"PK\5\6" + bytes(18)):
        path.write_bytes(other)
        refused(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"N.")
        file.writestr("b/data.pkl", b"N.")
    refused(path, "not one of torch.save")
    archive_of(path, b"N.", {"byteorder": b"big"})
    refused(path, "little-endian")
    os.mkfifo(tmp_path / "pipe.pt")
    refused(tmp_path / "pipe.pt", "regular")
    refused(tmp_path, "regular")


@pytest.mark.parametrize("name", ["QINCo", "IVF-QINCo2"])
def test_mutated_pickles(name, tmp_path):
    """Only the documented error, or a model that decodes."""
    path = writer.save(published(name), tmp_path / "model.pt")
    with zipfile.ZipFile(path) as file:
        files = {i.filename.partition("/")[2]: file.read(i) for i in file.infolist()}
    pickled = files.pop("data.pkl")
    rng = random.Random(MODELS[name][0])
    n_read = 0
    for _ in range(400):
        data = bytearray(pickled)
        for _ in range(rng.choice((1, 1, 3))):
            at = rng.randrange(len(data))
            if rng.random() < 0.3:
                other = rng.randrange(len(data))
                data[at : at + 8] = data[other : other + 8]
            else:
                data[at] = rng.randrange(256)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("model/data.pkl", bytes(data))
            for other_name, content in files.items():
                file.writestr(f"model/{other_name}", content)
        path.write_bytes(buffer.getvalue())
        try:
            codec = fq.QINCoCodec.load(path)
        except FileFormatError:
            continue
        n_read += 1  # a name that nobody asks for, or another number
        codes = np.zeros((1, codec.M + (codec.nlist is not None)), np.int32)
        assert codec.decode(codes).shape == (1, codec.d)
    assert 0 < n_read < 400
