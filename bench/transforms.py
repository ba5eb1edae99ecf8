r"""The transform benchmark: whether a PCA or a rotation in front of an index pays.

One row for each factory string: trained on --learn within --seconds, --base added, recall of the
queries against the exact neighbours in the vectors as they are, whatever a transform makes of them,
with all lists visited: re-ranked, and by the tables alone. PCA subtracts a mean, which changes
inner products but not L2 distances: for vectors of norm 1, whose order by both is the same, try
--metric l2. Trainings that the clock stops compare only on a machine that does nothing else.

    python bench/transforms.py --learn learn.npy --base base.npy --query query.npy --metric ip \
        IVF64,QINCo8x8 PCAR192,IVF64,QINCo8x8 OPQ16,IVF64,QINCo8x8
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import faiss
import numpy as np
from common import concatenated, cpu_name, say

import faiss_qinco as fq
from faiss_qinco.tools.evaluate import columns, recall_at

METRICS = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("factory", nargs="+")
    for name in ("--learn", "--base", "--query"):
        add(name, nargs="+", required=True, metavar="FILE")
    add("--metric", choices=METRICS, default="l2")
    add("--seconds", type=float, default=60.0, help="of each training (default: 60)")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    metric = METRICS[args.metric]
    learn, base, query = (
        concatenated(files).astype(np.float32) for files in (args.learn, args.base, args.query)
    )
    groundtruth = faiss.knn(query, base, 1, metric)[1]
    rows = [["index", "train s", "add s", "search s", "R@1", "R@10", "tables R@1", "R@10"]]
    for factory in args.factory:
        training = fq.TrainingConfig(max_seconds=args.seconds, progress=False)
        index: Any = fq.index_factory(learn.shape[1], factory, metric, training)
        if hasattr(index, "nprobe"):
            index.nprobe = index.nlist
        row = [factory]
        for call, x in ((index.train, learn), (index.add, base), (index.search, query)):
            start = time.perf_counter()
            call(x, 10) if x is query else call(x)
            row.append(f"{time.perf_counter() - start:.1f}")
        for index.nshort in (None, 0):
            recall = recall_at(index.search(query, 10)[1], groundtruth, (1, 10))
            row += [f"{value:.3f}" for value in recall.values()]
        rows.append(row)
        say(columns([rows[0], row]))
    print(f"{len(base)} vectors, {len(learn)} to learn from, {args.metric}, {cpu_name()}")
    print(columns(rows))


if __name__ == "__main__":
    main()
