"""Convert what other systems write, and back: a published QINCo model (.pt) to a codec file; a
faiss index of QINCo codes (.faissindex), with its model, to an index file; an index file to such a
faiss index."""

from __future__ import annotations

import argparse
from typing import Any, cast

import faiss

from ..codec.codec import QINCoCodec
from ..from_faiss import from_faiss
from ..index import IndexIVFQINCo
from ..index_file import read_index, write_index
from ..storage.container import FileFormatError, reading, replacing
from ..tools.options import add_threads, check_out, use_threads

EXAMPLE = "faiss-qinco convert bigann.faissindex bigann.fqi --codec bigann.pt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `faiss-qinco convert`."""
    parser.add_argument(
        "src", metavar="SRC", help="a .pt model, a faiss index, or an index of ours"
    )
    parser.add_argument("dst", metavar="DST", help="file to write")
    parser.add_argument(
        "--codec", metavar="MODEL", help="for a faiss index, whose codes they are: ours or a .pt"
    )
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Convert by what SRC is; what has been written goes to stdout."""
    inputs = [args.src] if args.codec is None else [args.src, args.codec]
    check_out(args.dst, inputs)
    use_threads(args)
    with reading(args.src), open(args.src, "rb") as file:
        head = file.read(200)
    kind = _kind(head)
    if (kind == "a faiss index") != (args.codec is not None):
        need = "needs" if kind == "a faiss index" else "has no use for"
        raise ValueError(f"{args.src}: as {kind} it {need} --codec")
    if kind == "a published model":
        codec = QINCoCodec.load(args.src)
        codec.save(args.dst)
        print(f"{args.dst}: {codec}")
    elif kind == "a faiss index":
        index = from_faiss(_faiss_index(args.src), QINCoCodec.load(args.codec))
        write_index(index, args.dst)
        print(f"{args.dst}: {index}")
    else:
        index = read_index(args.src, faiss.IO_FLAG_MMAP)
        if not isinstance(index, IndexIVFQINCo):
            raise ValueError(f"{args.src}: expected an IndexIVFQINCo, got {type(index).__name__}")
        made, with_all = index.to_faiss(), cast(Any, faiss)  # whose annotations lack some
        with replacing(args.dst) as out:
            faiss.write_index(made, with_all.PyCallbackIOWriter(out.write))
        size = f"RQ{index.M}x{index.nbits}_Nqint8"
        print(f"{args.dst}: faiss index IVF{index.nlist},{size} ntotal={index.ntotal}")


def _kind(head: bytes) -> str:
    if head.startswith(b"PK\3\4"):
        return "a published model"
    if head[:1] == b"I" and head[:4].isalnum():
        return "a faiss index"
    return "an index of ours"


def _faiss_index(path: str) -> faiss.Index:
    """Its lists stay in the file."""
    try:
        return faiss.read_index(path, faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise FileFormatError(f"{path}: faiss cannot read it: {error}") from error
