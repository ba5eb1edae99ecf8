"""Fashion-MNIST as vector files: base.npy (60,000 x 784, to learn from as well), query.npy (10,000)
and groundtruth.npy (the 100 nearest, L2), from Debian's package dataset-fashion-mnist.

python bench/fashion_mnist.py FOLDER
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import faiss
import numpy as np

HEAD = 16  # bytes of an idx file of images: magic number, images, rows, columns


def images(path: Path) -> np.ndarray:
    """(n, 784) uint8 of a gzipped idx file."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=HEAD).reshape(-1, 784)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--source", type=Path, default="/usr/share/datasets/fashion-mnist")
    args = parser.parse_args()
    base = images(args.source / "train-images-idx3-ubyte.gz")
    query = images(args.source / "t10k-images-idx3-ubyte.gz")
    nearest = faiss.knn(query.astype(np.float32), base.astype(np.float32), 100)[1]
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("base", base), ("query", query), ("groundtruth", nearest)):
        np.save(args.folder / f"{name}.npy", array)


if __name__ == "__main__":
    main()
