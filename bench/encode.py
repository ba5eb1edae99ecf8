r"""The encoding benchmark: the extension's beam search against the paper's in torch, one thread.

Three encoders of the same model, taking turns, each by its best time:

- ours: the extension. The network sees A·B candidates, the best of all hypotheses and codewords
  together before the network.
- paper: QINCo2's algorithm in plain torch, float32. Of EVERY hypothesis the A pre-selected
  codewords, each candidate through the whole network as it is trained; the batch is the fastest of
  several.
- compiled torch: ours in torch (`device="cuda"` takes it), what depends on the codeword alone in
  tables, float32 or, where the CPU has it, bfloat16.

Errors are mean squared L2 errors of the decoded vectors, at the same A and B. They, and the share
of vectors with the same code, say something of a trained codec only: --codec. Without it the codec
has random weights of the preset's size, and no inverted file unless --nlist is given. The last
table is the trade of error for time over several A and B.

GFLOP/s: of the operations that ours needs for A·B candidates, with what depends on the codeword
alone in tables, and what depends on the hypothesis alone once per hypothesis (all of them, whether
they have candidates or not). Shares are of the rate that torch reaches for the product of
2048 x 128 and 128 x 256 in float32 and, where the CPU has it, in bfloat16.

    python bench/encode.py --preset S --A 16 --B 32 --out encode.json
    python bench/encode.py --codec codec.safetensors --x base.npy --n 1000

--training: the training loop with the extension's encoder against the same loop with compiled
torch, same seed, same vectors, --max-seconds each. Vectors per second are counted from the first to
the last validation, so without the residual quantizer at the start. Errors are of held-out vectors,
each with its own encoder.

    python bench/encode.py --training --preset XS --threads 2 --max-seconds 600 --x learn.npy
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from common import (
    environment,
    fastest,
    kmeans,
    matrix_products,
    plain_arguments,
    product_flops,
    random_codec,
    say,
)

import faiss_qinco as fq
from faiss_qinco import _core, demo
from faiss_qinco.codec.config import network_costs
from faiss_qinco.codec.encoding import beam_encode, compile_steps
from faiss_qinco.codec.model import QINCo
from faiss_qinco.storage.vectors import read_vectors
from faiss_qinco.tools.evaluate import set_threads
from faiss_qinco.training import loop, train_codec

M = 8
BATCHES = (1, 4, 16, 64, 256)  # vectors that the paper's encoder takes at a time: the fastest
OURS, PAPER, COMPILED = "ours", "paper", "compiled torch"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--x", metavar="FILE", help="vectors (default: those of the demo)")
    add("--codec", type=Path, metavar="FILE", help="a trained codec (default: random weights)")
    add("--preset", default="S", help="size without --codec (default: S)")
    add("--nlist", type=int, help="without --codec: inverted lists (default: no inverted file)")
    add("--A", type=int, default=16, help="codewords pre-selected (default: 16)")
    add("--B", type=int, default=32, help="hypotheses (default: 32)")
    add(
        "--trade",
        nargs="*",
        type=pair,
        default=[(4, 4), (8, 8), (16, 16)],
        metavar="A,B",
        help="for the second table (default: 4,4 8,8 16,16)",
    )
    add("--n", type=int, default=256, help="vectors encoded (default: 256)")
    add("--threads", type=int, default=1, help="default: 1")
    add("--repeats", type=int, default=3)
    add("--training", action="store_true", help="compare training loops instead")
    add("--max-seconds", type=float, default=600, help="of each training (default: 600)")
    add("--out", metavar="JSON", help="write the results")
    return parser.parse_args()


def pair(text: str) -> tuple[int, int]:
    A, B = text.split(",")
    return int(A), int(B)


def main() -> None:
    args = arguments()
    set_threads(args.threads)
    results = compare_training(args) if args.training else compare_encoders(args)
    if args.out is not None:
        with open(args.out, "w", encoding="utf-8") as file:
            content = {"arguments": plain_arguments(args), **environment(), **results}
            json.dump(content, file, indent=2)
            file.write("\n")


# -- encoding ---------------------------------------------------------------------------------


def compare_encoders(args: argparse.Namespace) -> dict[str, Any]:
    x = demo.load()[1] if args.x is None else read_vectors(args.x)
    if args.codec is not None:
        codec, what = fq.QINCoCodec.load(args.codec), str(args.codec)
    else:
        rows = x[:100_000].astype(np.float32)
        centroids = None if args.nlist is None else kmeans(rows, args.nlist)
        codec, what = random_codec(args.preset, rows, M, centroids), f"{args.preset}, random"
    x = np.ascontiguousarray(x[: args.n], np.float32)
    list_no = None
    if codec.nlist is not None:
        list_no = _core.assign(codec.centroids(), x, 1, 1, args.threads)[0][:, 0]

    products = matrix_products()
    batch = fastest_batch(codec, x, list_no, args)
    results = []
    for A, B in dict.fromkeys([(args.A, args.B), *args.trade]):
        say(f"A {A}, B {B}: measuring")
        results.append(measure(codec, x, list_no, A, B, batch, args, products))

    lists = "no inverted file" if codec.nlist is None else f"{codec.nlist} lists"
    print(
        f"{environment()['cpu']}, SIMD {fq.simd_level()}, {args.threads} threads; codec {what}: "
        f"d {codec.d}, M {codec.M}, {lists};\n{len(x)} vectors, the paper's encoder by {batch}\n"
    )
    print_rates(results[0])
    print()
    print_trade(results, trained=args.codec is not None)
    return {"results": results, "batch": batch}


def measure(
    codec: fq.QINCoCodec,
    x: np.ndarray,
    list_no: np.ndarray | None,
    A: int,
    B: int,
    batch: int,
    args: argparse.Namespace,
    products: dict[str, Callable[[], Any]],
) -> dict[str, Any]:
    """Seconds per vector, errors and codes in common at one A and B."""

    def codes_on(device: str) -> np.ndarray:
        found = codec.encode(x, list_no, A=A, B=B, device=device)
        return found[:, -codec.M :].astype(np.uint8)

    encoders = {
        OURS: partial(codes_on, "cpu"),
        PAPER: partial(paper_codes, codec, x, list_no, A, B, batch),
        COMPILED: partial(codes_on, "cpu:0"),
    }
    codes = {}

    def encode(name: str) -> None:
        codes[name] = encoders[name]()

    calls = {name: partial(encode, name) for name in encoders}
    seconds = fastest({**calls, **products}, args.repeats)
    return {
        "A": A,
        "B": B,
        "seconds": {name: seconds[name] / len(x) for name in encoders},
        "mse": {
            name: float(np.square(codec.decode_lists(list_no, c) - x).sum(1).mean())
            for name, c in codes.items()
        },
        "same_codes": {
            name: float((codes[name] == codes[OURS]).all(axis=1).mean()) for name in encoders
        },
        "flops": encode_flops(codec, A, B),
        "product_flops_per_s": {name: product_flops() / seconds[name] for name in products},
    }


def fastest_batch(
    codec: fq.QINCoCodec, x: np.ndarray, list_no: np.ndarray | None, args: argparse.Namespace
) -> int:
    """Of `BATCHES`, on few vectors, by the time for one of them."""
    n = min(len(x), 64)
    batches = [batch for batch in BATCHES if batch <= max(1, n)]
    rows, lists = x[:n], None if list_no is None else list_no[:n]
    calls = {
        str(batch): partial(paper_codes, codec, rows, lists, args.A, args.B, batch)
        for batch in batches
    }
    seconds = fastest(calls, 2)
    return int(min(seconds, key=seconds.__getitem__))


def paper_codes(
    codec: fq.QINCoCodec, x: np.ndarray, list_no: np.ndarray | None, A: int, B: int, batch: int
) -> np.ndarray:
    """x (n, d) -> codes (n, M) by `paper_encode`, so many vectors at a time."""
    model = codec._model("cpu")
    normalised = torch.from_numpy((x - codec.mean) / np.float32(codec.std))
    lists = None if list_no is None else torch.from_numpy(list_no)
    codes = [
        paper_encode(
            model, normalised[i : i + batch], None if lists is None else lists[i : i + batch], A, B
        )
        for i in range(0, len(x), batch)
    ]
    return torch.cat(codes)[:, -codec.M :].to(torch.uint8).numpy()


@torch.inference_mode()
def paper_encode(
    model: QINCo, x: torch.Tensor, lists: torch.Tensor | None, A: int, B: int
) -> torch.Tensor:
    """QINCo2's beam search (arXiv 2501.03078, section 3.2), plainly.

    x (n, d) normalised; lists (n,) with an IVF, else None. Returns codes (n, 1 + n_steps) int64,
    the base first.
    """
    n, d = x.shape
    if lists is not None:
        codes = lists[:, None, None]  # (n, hypotheses, steps so far)
    else:
        distance = model.base.square().sum(1) - 2 * x @ model.base.T
        codes = distance.topk(min(B, len(model.base)), largest=False).indices[:, :, None]
    x_hat = model.base[codes[:, :, 0]]  # (n, hypotheses, d)
    for m, step in enumerate(model.steps):
        H, K = codes.shape[1], len(step.codebook)
        if A < K:
            assert step.preselect is not None
            residual = x[:, None] - x_hat
            distance = step.preselect.square().sum(1) - 2 * residual @ step.preselect.T
            k = distance.topk(A, largest=False, sorted=False).indices  # (n, hypotheses, A)
        else:
            k = torch.arange(K).expand(n, H, K)
        parent_x_hat = x_hat[:, :, None].expand(*k.shape, d)
        candidates = (parent_x_hat + step(step.codebook[k], parent_x_hat)).view(n, -1, d)
        error = (candidates - x[:, None]).square().sum(2)
        keep = 1 if m == len(model.steps) - 1 else min(B, error.shape[1])
        best = error.topk(keep, largest=False).indices
        x_hat = candidates.gather(1, best[:, :, None].expand(-1, -1, d))
        parents = codes.gather(1, (best // k.shape[2])[:, :, None].expand(-1, -1, m + 1))
        codes = torch.cat((parents, k.reshape(n, -1).gather(1, best)[:, :, None]), dim=2)
    return codes[:, 0]


def encode_flops(codec: fq.QINCoCodec, A: int, B: int) -> int:
    """Operations of ours for one vector, as if every hypothesis had candidates."""
    d, K = codec.d, codec.K
    of_hypothesis, of_candidate = (2 * cost for cost in network_costs(codec.config, d))
    hypotheses = 1 if codec.nlist is not None else min(B, K)
    total = 0 if codec.nlist is not None else 2 * d * K
    for _ in range(codec.M if codec.nlist is not None else codec.M - 1):
        width = min(A * B, hypotheses * K)
        preselection = 2 * d * K if width < hypotheses * K else 0
        total += hypotheses * (preselection + of_hypothesis) + width * of_candidate
        hypotheses = min(B, width)
    return total


def print_rates(result: dict[str, Any]) -> None:
    seconds = result["seconds"]
    print(f"A {result['A']}, B {result['B']}:")
    for name, value in seconds.items():
        print(f"{name:15} {value * 1e3:8.3f} ms/vector  ours is {value / seconds[OURS]:5.1f}x")
    rate = result["flops"] / seconds[OURS]
    shares = "; ".join(
        f"{100 * rate / theirs:.0f} % of {product} ({theirs / 1e9:.0f})"
        for product, theirs in result["product_flops_per_s"].items()
    )
    print(f"ours: {result['flops'] / 1e9:.3f} GFLOP/vector, {rate / 1e9:.1f} GFLOP/s, {shares}")


def print_trade(results: list[dict[str, Any]], trained: bool) -> None:
    names = (OURS, PAPER, COMPILED)
    head = f"{'A':>3} {'B':>3}" + "".join(f"  {name + ' ms':>17}" for name in names) + "   speed"
    if trained:
        head += "".join(f"  {name + ' MSE':>18}" for name in names)
        head += f"  same codes: {PAPER:>8} {COMPILED:>15}"
    print(head)
    for r in results:
        line = f"{r['A']:3} {r['B']:3}" + "".join(f"  {r['seconds'][n] * 1e3:17.3f}" for n in names)
        line += f"  {r['seconds'][PAPER] / r['seconds'][OURS]:5.1f}x"
        if trained:
            line += "".join(f"  {r['mse'][name]:18.6g}" for name in names)
            line += f"  {r['same_codes'][PAPER]:20.3f} {r['same_codes'][COMPILED]:15.3f}"
        print(line)
    if not trained:
        print("\nNo errors and no codes in common: the codec is not trained (--codec).")


# -- training ---------------------------------------------------------------------------------


def compare_training(args: argparse.Namespace) -> dict[str, Any]:
    x = demo.load()[0] if args.x is None else read_vectors(args.x)
    centroids = list_no = None
    if args.nlist is not None:
        rows = np.ascontiguousarray(x, np.float32)
        centroids = kmeans(rows, args.nlist)
        list_no = _core.assign(centroids, rows, 1, 1, args.threads)[0][:, 0]
    config = fq.TrainingConfig(
        epochs=1_000_000, max_seconds=args.max_seconds, device="cpu", progress=False
    )
    results = {}
    for name, encoder in ((OURS, loop.encoder), (COMPILED, torch_encoder)):
        say(f"{name}: training for {args.max_seconds:g} s")
        with mock.patch.object(loop, "encoder", encoder):
            report = train_codec(x, M, 8, args.preset, config, centroids, list_no).report
        (begin, first, _), (end, last, _) = report.history[0], report.history[-1]
        results[name] = {
            "vectors_per_s": (last - first) / (end - begin),
            "vectors_seen": last,
            "mse": report.mse,
            "rq_mse": report.rq_mse,
            "history": report.history,
        }
    lists = "no inverted file" if args.nlist is None else f"{args.nlist} lists"
    print(
        f"{environment()['cpu']}, SIMD {fq.simd_level()}, {args.threads} threads; {args.preset}, "
        f"{lists}, {len(x)} vectors, d {x.shape[1]}, M {M}, {args.max_seconds:g} s each\n"
    )
    print(
        f"{'encoder':15} {'vectors/s':>9} {'speed':>6} {'vectors seen':>13} {'MSE':>9} {'of RQ':>6}"
    )
    for name, r in results.items():
        speed = r["vectors_per_s"] / results[COMPILED]["vectors_per_s"]
        print(
            f"{name:15} {r['vectors_per_s']:9.0f} {speed:5.2f}x {r['vectors_seen']:13} "
            f"{r['mse']:9.5g} {r['mse'] / r['rq_mse']:6.3f}"
        )
    return {"results": results}


def torch_encoder(
    model: QINCo,
    config: fq.QINCoConfig,
    beam: tuple[int, int],
    device: str,
    dtype: torch.dtype,
    bf16: bool | None,
) -> Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]:
    """In place of the training loop's `encoder`: what that does on other devices than a CPU."""
    steps = compile_steps(model, dtype)
    return lambda x, lists: beam_encode(model, steps, x, lists, *beam)[0]


if __name__ == "__main__":
    main()
