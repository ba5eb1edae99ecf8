"""Facts about a codec or an index, and warnings with what to do about them."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from ...codec.codec import QINCoCodec
from ...engine import Engine
from ...ranking.early_exit import LOSS
from ...training.start import FEW
from .findings import Inspection, Warning_, imbalance, promised

FULL_USE = 20  # codes for each codeword, from which on one that is not used is dead
LOW_ENTROPY = 0.9  # of nbits
LITTLE_GAIN = 1.005  # a step that divides the error by less than this
RQ_CLOSE = 0.95
TABLES_FAR = 0.9  # of the results, that the index's own nshort finds
UNBALANCED = 2.0  # FAISS's imbalance factor
HEAVY = 0.2  # of the squared error, borne by the worst 1 %
STIFF = 0.01  # squared movement with x̂, over the spread of the codewords


def about(target: Any, codec: QINCoCodec) -> dict[str, Any]:
    c = codec.config
    about: dict[str, Any] = {}
    if target is not codec:
        metric = "squared L2" if target.metric_type == faiss.METRIC_L2 else "inner product"
        about |= {"index": type(target).__name__, "metric": metric, "vectors": target.ntotal}
    about |= {"dimension d": codec.d, "inverted lists": codec.nlist or "none"}
    about["code"] = f"{codec.M} codes of {codec.nbits} bits: {codec.M * codec.nbits / 8:g} bytes"
    about["networks"] = f"L {c.L}, d_e {c.width(codec.d)}, d_h {c.d_h}"
    about["weights"] = sum(t.size for name, t in codec.tensors.items() if name != "base")
    about["encoding"] = f"A {c.A or codec.K}, B {c.B}"
    about["student"] = "yes" if codec.student is not None else "no"
    return about


def warnings_of(found: Inspection, target: Any, engine: Engine | None) -> list[Warning_]:
    warnings = [
        *_of_vectors(found),
        *_of_codes(found, target),
        *([] if engine is None else _of_index(found, target, engine)),
    ]
    return sorted(warnings, key=lambda warning: not warning.severe)


def _of_vectors(found: Inspection) -> list[Warning_]:
    said: list[Warning_] = []
    if found.n_bad:
        said.append(Warning_(
            True,
            f"{found.n_bad} of the sampled vectors cannot be encoded (NaN, inf, too large, or "
            "without a list), and are left out here.",
            "An index would take an id for each of them and never find it: clean the data.",
        ))  # fmt: skip
    steps, worst = found.steps, found.worst
    if steps is None or worst is None:
        return said
    if steps.mse[0] == 0:
        said.append(Warning_(
            True,
            "All measured vectors are at their starting point already: there is nothing to code.",
            "Give vectors that differ from one another (and from the centroids).",
        ))  # fmt: skip
        return said
    if steps.rq is not None and steps.rq[-1] > 0:
        ratio = steps.mse[-1] / steps.rq[-1]
        if ratio >= RQ_CLOSE:
            said.append(Warning_(
                bool(ratio >= 1),
                f"The error is {ratio:.2f} of that of a plain residual quantizer of the same size, "
                "trained on these vectors.",
                "Train longer or on more vectors, take a larger preset; and if the codec was "
                "trained on other data than this, train it on this.",
            ))  # fmt: skip
    if 0 < steps.n_rq < FEW * (1 << steps.nbits) and steps.rq is not None:
        said.append(Warning_(
            False,
            f"RQ had {steps.n_rq} vectors to learn from: with more it would do better.",
            f"Give {4 * FEW * (1 << steps.nbits)} vectors or more for a fair comparison.",
        ))  # fmt: skip
    little = 1 + np.flatnonzero(steps.mse[:-1] < LITTLE_GAIN * steps.mse[1:])
    if len(little):
        said.append(Warning_(
            True,
            f"Code {_numbers(little)} lowers the error by less than "
            f"{100 * (LITTLE_GAIN - 1):.1f} %: bytes that buy nothing.",
            "Use a smaller M, or train longer: late codes learn last.",
        ))  # fmt: skip
    heavy = -np.sort(-worst.errors)[: max(1, len(worst.errors) // 100)].sum()
    if len(worst.errors) >= 100 and heavy > HEAVY * worst.errors.sum():
        said.append(Warning_(
            False,
            f"The worst-coded 1 % of the vectors bear {100 * heavy / worst.errors.sum():.0f} % of "
            "the error.",
            "Look at them below: outliers, another kind of data, or vectors of another length. "
            "They are found badly, the others as well as ever.",
        ))  # fmt: skip
    return said


def _of_codes(found: Inspection, target: Any) -> list[Warning_]:
    said: list[Warning_] = []
    if (use := found.use) is not None:
        K = use.counts.shape[1]
        nbits = K.bit_length() - 1
        if use.n >= FULL_USE * K and use.unused.any():
            at = 1 + np.flatnonzero(use.unused)
            said.append(Warning_(
                bool(use.unused.max() > K // 20),
                f"{int(use.unused.sum())} codewords of code {_numbers(at)} are dead: none of "
                f"{use.n:,} codes uses them.",
                "Train on more vectors, or on vectors that are distributed as these.",
            ))  # fmt: skip
        low = 1 + np.flatnonzero(use.entropy < LOW_ENTROPY * nbits)
        if use.n >= FULL_USE * K and len(low):
            said.append(Warning_(
                False,
                f"Code {_numbers(low)} carries fewer than {LOW_ENTROPY * nbits:.1f} of its {nbits} "
                "bits.",
                "These vectors may be of another distribution than those of the training, or many "
                "of them alike.",
            ))  # fmt: skip
    if (movement := found.movement) is not None:
        moved = movement.shifted + movement.reshaped
        if found.n_measured != 1 and movement.n > 1 and moved.max() < STIFF:
            said.append(Warning_(
                False,
                "The codebooks hardly follow what is already reconstructed: the networks do next "
                "to nothing.",
                "Train longer; as it is, a residual quantizer would do as well.",
            ))  # fmt: skip
    return said


def _of_index(found: Inspection, index: Any, engine: Engine) -> list[Warning_]:
    said: list[Warning_] = []
    ntotal, n_stored = engine.core.ntotal, engine.core.n_stored
    if n_stored == 0:
        said.append(Warning_(True, "The index holds no vectors.", "Add some: build, or index.add."))
    if ntotal > n_stored:
        said.append(Warning_(
            True,
            f"{ntotal - n_stored:,} of {ntotal:,} vectors could not be stored (NaN, inf, too "
            "large, or without a list): no search finds them.",
            "Clean the data and build again.",
        ))  # fmt: skip
    if (lists := found.lists) is not None and len(lists) > 1 and n_stored:
        factor, empty = imbalance(lists), int(np.count_nonzero(lists == 0))
        if factor > UNBALANCED:
            said.append(Warning_(
                False,
                f"The lists are unbalanced: a search scans {factor:.1f} times as many vectors as "
                "with equal lists.",
                "Train the coarse quantizer on vectors distributed as those stored, or look for "
                "many near copies.",
            ))  # fmt: skip
        if empty > len(lists) // 10 and n_stored >= 10 * len(lists):
            said.append(Warning_(
                False,
                f"{empty:,} of {len(lists):,} lists are empty.",
                "The coarse quantizer was trained on other data than what is stored.",
            ))  # fmt: skip
        if n_stored < 10 * len(lists):
            said.append(Warning_(
                False,
                f"There are {n_stored / len(lists):.1f} vectors to a list.",
                "Fewer lists would make searches faster, or more vectors are still to come.",
            ))  # fmt: skip
    has_network = engine.codec.nlist is not None or engine.codec.M > 1
    margins = np.array([c.margins for c in engine.checkpoints])
    if has_network and not len(margins):
        said.append(Warning_(
            True,
            "Early exit has no checkpoints: every candidate is decoded to the end.",
            "The training ran out of time: train with a larger max_seconds.",
        ))  # fmt: skip
    elif len(margins) and not np.isfinite(margins).all():
        share = 100 * float(np.mean(~np.isfinite(margins)))
        said.append(Warning_(
            share > 50,
            f"{share:.0f} % of the margins of early exit are not calibrated: there nobody leaves "
            "early.",
            "Train with more vectors (and time): thousands are set aside for this.",
        ))  # fmt: skip
    if index.exit_margin < 1:
        said.append(Warning_(
            False,
            f"exit_margin is {index.exit_margin:g}: early exit loses more than it promises.",
            "Set it to 1.",
        ))  # fmt: skip
    if (searches := found.searches) is None:
        return said
    for k, recall in searches.own.items():
        if recall < TABLES_FAR and index.nshort != 0:
            enough = searches.nshorts[searches.recall[k] >= TABLES_FAR]
            said.append(Warning_(
                False,
                f"Of the {k} best, the shortlist of nshort "
                f"{'(default)' if index.nshort is None else index.nshort} holds "
                f"{100 * recall:.0f} %: the tables are far behind the codec.",
                f"nshort {enough[0]} holds {100 * TABLES_FAR:.0f} %."
                if len(enough)
                else "Even the longest shortlist measured here holds too few: more training "
                "vectors make better tables.",
            ))  # fmt: skip
    broken = [e for e in searches.exits if e.lost > promised(e)]
    if broken:
        worst = max(broken, key=lambda e: e.lost / max(e.n, 1))
        said.append(Warning_(
            True,
            f"Early exit loses {100 * worst.lost / worst.n:.2f} % of the {worst.k} best of "
            f"{worst.nshort} where it promises {100 * LOSS:g} %.",
            "These queries are unlike the training vectors: set exit_margin to 1.5 or 2, or to inf "
            "for no early exit at all.",
        ))  # fmt: skip
    return said


def _numbers(values: np.ndarray) -> str:
    return ", ".join(str(value) for value in values.tolist())
