r"""The decoding benchmark: the extension against the same model in torch, one thread.

Random weights of each preset's size, no inverted file: M 8 is one codebook and seven networks.
The torch model is `torch.jit.trace` of the networks as they are trained (the whole network of every
vector, float32), frozen. Every SIMD level runs in a process of its own, where extension, torch and
torch's matrix product take turns, and each counts by its best time: so the ratios of a line are of
one run.

GFLOP/s: the operations that decoding needs once everything that depends on the codeword alone is
a table, and linear maps that meet are multiplied out. Its share is of the rate that torch reaches
for the product of 2048 x 128 and 128 x 256 in float32 and, where the CPU has it, in bfloat16.
Deviation: the largest difference to the torch model's vectors, relative to the standard deviation
of their entries.

    python bench/decode.py --presets S M --out decode.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
from common import (
    environment,
    fastest,
    matrix_products,
    product_flops,
    random_codec,
    say,
)

import faiss_qinco as fq
from faiss_qinco import _core
from faiss_qinco.codec.config import network_costs
from faiss_qinco.tools.evaluate import set_threads

M = 8


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--presets", nargs="+", default=["S", "M"], metavar="PRESET")
    add("--d", type=int, default=128)
    add("--n", type=int, default=4096, help="vectors, decoded as one batch (default: 4096)")
    add("--levels", nargs="+", metavar="LEVEL", help="SIMD levels (default: all of this CPU)")
    add("--repeats", type=int, default=5)
    add("--out", metavar="JSON", help="write the results")
    add("--this-level", action="store_true", help=argparse.SUPPRESS)  # what a subprocess is told
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.this_level:
        json.dump([measure(preset, args) for preset in args.presets], sys.stdout)
        return
    results = []
    for level in args.levels or fq.simd_levels():
        say(f"{level}: measuring")
        child = subprocess.run(
            [sys.executable, *sys.argv, "--this-level"],
            env={**os.environ, "FAISS_QINCO_SIMD": level},
            stdout=subprocess.PIPE,
            check=True,
        )
        results += json.loads(child.stdout)
    print(f"{results[0]['cpu']}, one thread, d {args.d}, M {M}, batch {args.n}\n")
    results.sort(key=lambda r: args.presets.index(r["preset"]))
    print(table(results))
    if args.out is not None:
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump({"arguments": vars(args), "results": results}, file, indent=2)
            file.write("\n")


def measure(preset: str, args: argparse.Namespace) -> dict[str, Any]:
    """Times of one preset at the SIMD level of this process, in seconds per vector."""
    import torch

    set_threads(1)
    rng = np.random.default_rng(0)
    codec = random_codec(preset, rng.standard_normal((1000, args.d), np.float32), M)
    codes = rng.integers(0, codec.K, (args.n, M), np.uint8)
    model, rows = torch_decoder(codec), torch.from_numpy(codes.astype(np.int64))
    decode = partial(_core.decode, codec.weights, None, codes, 1)
    products = matrix_products()
    with torch.inference_mode():
        theirs = model(rows).numpy() * codec.std + codec.mean
        seconds = fastest({"ours": decode, "torch": partial(model, rows), **products}, args.repeats)
    return {
        "preset": preset,
        "ours_s": seconds["ours"] / args.n,
        "torch_s": seconds["torch"] / args.n,
        "flops": decode_flops(codec),
        "product_flops_per_s": {name: product_flops() / seconds[name] for name in products},
        "deviation": float(np.abs(decode() - theirs).max() / theirs.std()),
        **environment(),
    }


def torch_decoder(codec: fq.QINCoCodec) -> Any:
    """codes (n, M) int64 -> normalised vectors (n, d), compiled by torch."""
    import torch

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = codec._model("cpu")

        def forward(self, codes: torch.Tensor) -> torch.Tensor:
            return self.model.decode(codes)[-1]

    with torch.no_grad():
        traced = torch.jit.trace(Decoder().eval(), torch.zeros(2, M, dtype=torch.int64))
        return torch.jit.freeze(traced)


def decode_flops(codec: fq.QINCoCodec) -> int:
    """Operations for one vector."""
    return (M - 1) * 2 * sum(network_costs(codec.config, codec.d))


def table(results: list[dict[str, Any]]) -> str:
    products = list(results[0]["product_flops_per_s"])
    head = f"{'preset':6} {'SIMD':12} {'µs/vector':>9} {'torch µs':>9} {'speed':>7} {'GFLOP/s':>8}"
    lines = [head + "".join(f"  of {name}" for name in products) + "  deviation"]
    for r in results:
        rate = r["flops"] / r["ours_s"]
        line = (
            f"{r['preset']:6} {r['simd_level']:12} {r['ours_s'] * 1e6:9.2f} "
            f"{r['torch_s'] * 1e6:9.2f} {r['torch_s'] / r['ours_s']:6.1f}x {rate / 1e9:8.1f}"
        )
        for name in products:
            theirs = r["product_flops_per_s"][name]
            share = f"{100 * rate / theirs:.0f} % of {theirs / 1e9:.0f}"
            line += f"  {share:>{len(name) + 3}}"
        lines.append(f"{line}  {r['deviation']:9.1e}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
