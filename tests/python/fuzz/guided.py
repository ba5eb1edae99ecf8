"""The promise of `mutate.py`, with files that atheris makes: it keeps those that reach new code.

    pip install atheris
    python tests/python/fuzz/guided.py CORPUS -runs=100000

CORPUS: a folder that new files are put in, beside those of tests/python/golden; options are
libFuzzer's. A file that breaks the promise is written as `crash-…`, and what was wrong is printed.
Changes are of bytes, as libFuzzer does them, and those of `mutate.py`, whose checksums are right.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import atheris
import faiss  # noqa: F401  # not to be instrumented
import numpy as np

with atheris.instrument_imports(include=["faiss_qinco"]):
    import mutate

from faiss_qinco.storage.container import FileFormatError

GOLDEN = Path(__file__).parent.parent / "golden"
FILES = [
    p.read_bytes() for p in sorted(GOLDEN.glob("**/*")) if p.suffix in (".fqi", ".safetensors")
]


def changed(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's change of bytes, or one that a reader has to look into."""
    rng = np.random.default_rng(seed)
    try:
        if rng.random() < 0.75:
            change = [mutate.forged, mutate.forged, mutate.head_changed][rng.integers(3)]
            return bytes(change(rng, data))[:max_size]
    except Exception:  # it is no container any more
        data = FILES[rng.integers(len(FILES))]
    return bytes(atheris.Mutate(data, max_size))


def one(data: bytes) -> None:
    with contextlib.suppress(FileFormatError):
        mutate.use(data)


def main() -> None:
    corpus = next((Path(arg) for arg in sys.argv[1:] if not arg.startswith("-")), None)
    if corpus is not None:
        corpus.mkdir(parents=True, exist_ok=True)
        for i, data in enumerate(FILES):
            (corpus / f"golden-{i}").write_bytes(data)
    options = [f"-max_len={2 * max(map(len, FILES))}", "-len_control=0", "-timeout=60"]
    atheris.Setup([*sys.argv, *options], one, custom_mutator=changed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
