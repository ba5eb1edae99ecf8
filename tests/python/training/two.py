"""One of two processes that train together, twice: in the second training the other one ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import faiss
import numpy as np

import faiss_qinco as fq
from faiss_qinco.training import loop
from faiss_qinco.training.processes import from_first


def trained(folder: Path, name: str) -> fq.IndexIVFQINCo:
    """Trained on the vectors of the folder; checkpoint and log there."""
    config = fq.QINCoConfig(L=1, d_e=None, d_h=16, A=4, B=2)
    training = fq.TrainingConfig(
        epochs=1, batch_size=100, max_seconds=None, noise=0.1, progress=False, n_validation=100,
        bf16=False,  # whose roundings would hide that both do the same
        checkpoint=folder / f"checkpoint{name}", log=folder / f"log{name}.csv",
    )  # fmt: skip
    index = fq.IndexIVFQINCo(faiss.IndexFlatL2(16), 16, 4, 3, 4, config=config, training=training)
    index.train(np.load(folder / "x.npy"))
    return index


def main() -> None:
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    fq.write_index(trained(folder, f"{rank}"), str(folder / f"index{rank}"))
    try:
        from_first(lambda: {}["missing"] if rank == 0 else None)
    except KeyError:
        (folder / f"raised{rank}").touch()
    batch = loop.Run.train_batch

    def ending(self: loop.Run, rows: np.ndarray, t: float) -> None:
        if self.step == 5 and rank == 1:
            os._exit(9)
        batch(self, rows, t)

    loop.Run.train_batch = ending  # type: ignore[method-assign]
    try:
        trained(folder, "ended")
    except RuntimeError as error:
        (folder / "error").write_text(str(error))
    os._exit(0)  # gloo's threads, which wait for the other process, may abort an orderly exit


if __name__ == "__main__":
    main()
