r"""What two weights are worth, and cost: `additive_weight`, by which codes are chosen that the
tables say well, and `error_weight`, what the error of a stored vector counts in its distance.

One codec, and an index of it for each weight, trained with --learn (tables, margins) and filled
with --base; all lists are visited. MSE: of what is decoded, and of what the tables say, mean
squared L2. R@1, R@10, 10@10: as in `accuracy.py`, by the tables and with --nshort vectors
re-ranked.

    python bench/weights.py additive_weight --codec codec.safetensors --learn learn.npy \
        --base base.npy --query query.npy 0 0.1 0.2
    python bench/weights.py error_weight --codec codec.safetensors --learn learn.npy \
        --base base.npy --query query.npy --nshort 100 none 0 0.2 0.4 0.6 0.8 1

With `none` the index chooses the weight.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import faiss
import numpy as np
from common import Rows, cpu_name

import faiss_qinco as fq
from faiss_qinco.tools.evaluate import columns, overlap_at, recall_at, set_threads


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("what", choices=("additive_weight", "error_weight"))
    add("weights", nargs="+", type=lambda text: None if text == "none" else float(text))
    for name in ("codec", "learn", "base", "query"):
        add(f"--{name}", required=True, metavar="FILE")
    add("--n-base", type=int, metavar="N", help="use the first N base vectors")
    add("--nshort", type=int, default=10, help="vectors re-ranked (default: 10)")
    add("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    set_threads(args.threads)
    codec = fq.QINCoCodec.load(args.codec)
    learn = Rows([args.learn])[:]
    base = Rows([args.base])[: args.n_base].astype(np.float32)
    query = Rows([args.query])[:].astype(np.float32)
    metric = codec.metric
    groundtruth = faiss.knn(query, base, 10, metric)[1]
    print(f"{cpu_name()}, {args.threads} threads, SIMD {fq.simd_level()}; {len(base)} vectors")
    tables = ("tables R@1", "R@10", "10@10")
    both = (f"nshort {args.nshort} R@1", "R@10", "10@10")
    rows = [["weight", "add s", "MSE", "tables' MSE", *tables, *both]]
    training = fq.TrainingConfig(progress=False, max_seconds=None)
    for weight in args.weights:
        quantizer = faiss.IndexFlat(codec.d, metric)
        quantizer.add(codec.centroids())
        index: Any = fq.IndexIVFQINCo(
            quantizer, codec.d, codec.nlist, codec.M, codec.nbits, metric,
            config=codec.config, training=training,
        )  # fmt: skip
        setattr(index, args.what, weight)
        index.nprobe = codec.nlist
        index.train_from_codec(learn, codec)
        start = time.process_time()
        index.add(base)
        row = [f"{getattr(index, args.what):g}", f"{time.process_time() - start:.1f}"]
        engine = index._engine
        lists = index.lists
        list_no = np.repeat(np.arange(index.nlist), lists.sizes())
        codes = np.concatenate([lists.get_codes(l) for l in range(index.nlist)])
        ids = np.concatenate([lists.get_ids(l) for l in range(index.nlist)])
        by_tables = engine.bases[list_no]
        for m, codebook in enumerate(engine.additive):
            by_tables = by_tables + codebook[codes[:, m]]
        for x_hat in (codec.decode_lists(list_no, codes), by_tables):
            row.append(f"{np.square(x_hat - base[ids]).sum(1).mean():.5g}")
        for index.nshort in (0, args.nshort):
            I = index.search(query, 10)[1]
            found = [*recall_at(I, groundtruth, (1, 10)).values(), overlap_at(I, groundtruth)]
            row += [f"{value:.4f}" for value in found]
        rows.append(row)
    print(columns(rows))


if __name__ == "__main__":
    main()
