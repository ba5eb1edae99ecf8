"""`IndexPreTransform`: faiss's transforms of vectors in front of an index of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import faiss
import numpy as np

from .checks import as_matrix, check_buffer, check_matrix, filled, usable
from .codec.devices import require_torch
from .engine import BLOCK_VALUES
from .errors import ArgumentError
from .index import IndexIVFQINCo, IndexQINCo
from .selectors import given
from .tensors import takes_tensors
from .threads import get_num_threads, library_threads
from .training.data import TrainingSet
from .transform_file import check_transform, kind_of, restore_transform, transform_state
from .wrappers.of_index import OfIndex as _OfIndex
from .wrappers.of_index import stood_for

ENTRIES = 1 << 26  # of the vectors that one transform is trained on, at most
OPQ_SHARE = 0.25  # of the time of a training, for each OPQ
# Seconds of one core for an iteration of OPQ: for each subspace and k-means iteration, for each
# product there, and for d cubed; fitted on an AMD Zen 5, others at work beside it.
OPQ_SECONDS = 1e-2, 5e-11, 3e-8


class Chain(tuple[Any, ...]):
    """The transforms in the order in which vectors pass them, with faiss's `at` and `size` too."""

    __slots__ = ()

    def at(self, i: int) -> Any:
        return self[i]

    def size(self) -> int:
        return len(self)


class IndexPreTransform:
    """An index whose vectors and queries first pass a chain of transforms, as in
    `faiss.IndexPreTransform`: PCA for fewer dimensions, OPQ or random rotations, L2 norm 1.

    `index_factory(d, "PCAR128,IVF1024,QINCo8x8")` makes one.

    Parameters
    ----------
    transforms : a `faiss.VectorTransform`, or a sequence of them in the order in which vectors pass
        them; kept, not copied. Those that are not trained `train` will train.
    index : IndexIVFQINCo or IndexQINCo, for what comes out of the last.

    Distances and inner products, and the radius of `range_search`, are those of transformed
    vectors, as in FAISS. What is reconstructed is transformed back: for PCA the nearest that the
    components left can say, for a norm the vector of norm 1.

    Attributes
    ----------
    d : dimension before the transforms. chain : the transforms. index : the one inside.
    nprobe, min_codes, nshort, exit_margin, M_search, rerank_device, length_correction,
        additive_weight, error_weight, training, cp, quantizer, use_precomputed_table, verbose : of
        the index inside, set there.
    ntotal, next_id, metric_type, nlist, M, nbits, code_size, codec, config, lists : of the index
        inside.

    What else the index has is a call of `index`, on what `apply_chain` makes of vectors.

    Raises TypeError for other transforms or another index, ValueError (also an AssertionError)
    where the dimension that one gives is not what the next one takes, or PCA has nothing to fill
    its dimensions with.
    """

    __slots__ = ("__weakref__", "chain", "index")
    _stands_for: ClassVar[type | None] = None
    __class__ = stood_for

    nprobe, nshort, exit_margin, rerank_device = _OfIndex(), _OfIndex(), _OfIndex(), _OfIndex()
    length_correction, additive_weight, M_search = _OfIndex(), _OfIndex(), _OfIndex()
    min_codes, error_weight = _OfIndex(), _OfIndex()
    training, cp, quantizer, use_precomputed_table = _OfIndex(), _OfIndex(), _OfIndex(), _OfIndex()
    verbose, ntotal, metric_type, metric_arg = _OfIndex(), _OfIndex(), _OfIndex(), _OfIndex()
    nlist, M, nbits, code_size = _OfIndex(), _OfIndex(), _OfIndex(), _OfIndex()
    codec, config, lists, next_id = _OfIndex(), _OfIndex(), _OfIndex(), _OfIndex()
    operating_points = _OfIndex()

    def __init__(
        self,
        transforms: faiss.VectorTransform | Sequence[faiss.VectorTransform],
        index: IndexIVFQINCo | IndexQINCo,
    ) -> None:
        if not isinstance(index, (IndexIVFQINCo, IndexQINCo)):
            raise TypeError(
                f"index: expected an IndexIVFQINCo or IndexQINCo, got {type(index)}; for one of "
                "faiss's there is faiss.IndexPreTransform"
            )
        self.index, self.chain = index, Chain()
        if isinstance(transforms, faiss.VectorTransform):
            transforms = [transforms]
        for transform in reversed([*transforms]):
            self.prepend_transform(transform)

    def prepend_transform(self, ltrans: faiss.VectorTransform) -> None:
        """Put a transform in front of all others. Raises as the constructor."""
        if not isinstance(ltrans, faiss.VectorTransform):
            raise TypeError(f"transforms: expected a faiss.VectorTransform, got {type(ltrans)}")
        transform: Any = ltrans
        if type(ltrans) is faiss.VectorTransform:  # a pointer from C++
            transform = faiss.downcast_VectorTransform(ltrans)
            transform.referenced_objects = [ltrans]  # which may own it
        check_transform(transform)
        if transform.d_out != (d := self.d):
            raise ArgumentError(f"transforms: expected one to d={d}, got d_out={transform.d_out}")
        self.chain = Chain((transform, *self.chain))

    def __repr__(self) -> str:
        names = [f"{kind_of(t)} {t.d_in}->{t.d_out}" for t in self.chain]
        return f"<IndexPreTransform {', '.join([*names, repr(self.index)])}>"

    @property
    def d(self) -> int:
        """Dimension of the vectors before the transforms."""
        return int(self.chain[0].d_in) if self.chain else self.index.d

    @property
    def is_trained(self) -> bool:
        return self.index.is_trained and all(t.is_trained for t in self.chain)

    def memory_usage(self) -> dict[str, float]:
        """As of the index inside, and `transforms`."""
        usage = self.index.memory_usage()
        extra = sum(a.nbytes for t in self.chain for a in transform_state(t)[1].values())
        total = usage.pop("total") + extra
        per_vector = total / self.ntotal if self.ntotal else 0.0
        return usage | {"transforms": extra, "total": total, "per_vector": per_vector}

    # -- transforms ---------------------------------------------------------------------------

    @takes_tensors
    def apply_chain(self, x: np.ndarray) -> np.ndarray:
        """x (n, d), any real dtype -> (n, index.d) float32, what the index inside gets.

        A row with NaN or inf, or whose squares overflow float32, gives NaN. Raises RuntimeError
        for an untrained transform, ValueError (also an AssertionError) for a wrong dimension.
        """
        return _apply(self._trained_chain(), as_matrix(x, self.d))

    def tune(self, queries: np.ndarray, groundtruth: np.ndarray, **settings: Any) -> Any:
        """As of the index inside, with queries (n, d) before the transforms."""
        return self.index.tune(self.apply_chain(queries), groundtruth, **settings)

    @takes_tensors
    def reverse_chain(self, xt: np.ndarray) -> np.ndarray:
        """xt (n, index.d), any real dtype -> (n, d) float32, transformed back, as well as it goes.

        Raises as `apply_chain`, and faiss's RuntimeError for a transform that has no way back:
        whitening and ITQ.
        """
        xt = as_matrix(xt, self.index.d)
        for transform in reversed(self._trained_chain()):
            xt = _rows(transform.reverse_transform, xt, transform.d_in)
        return xt

    def _trained_chain(self) -> Chain:
        for transform in self.chain:
            if not transform.is_trained:
                raise RuntimeError(f"IndexPreTransform: its {kind_of(transform)} is not trained")
        return self.chain

    # -- build --------------------------------------------------------------------------------

    @takes_tensors
    def train(
        self, x: np.ndarray, *, numeric_type: Any = None, xq_train: np.ndarray | None = None
    ) -> None:
        """Train the transforms that are not trained yet, each on what the ones before it make of x
        (n, d), any real dtype, a mapped file too; then the index inside, on transformed vectors.

        Transforms are trained by faiss, which samples what it is given: all vectors up to 256 MB.
        `training.max_seconds` is the time of the whole; OPQ is given fewer iterations where its own
        would take more than a quarter of that. Vectors are transformed where they are read: the
        index inside needs no more memory than without transforms.

        All or nothing: on an error or Ctrl-C transforms and index are as before. Raises as the
        `train` of the index, and faiss's RuntimeError for a transform that x cannot train.
        """
        budget, data = self.index._start_training(x, self.d)
        require_torch("training")
        before = [transform_state(transform) for transform in self.chain]
        try:
            seconds = self.training.seconds(len(data))
            for i, transform in enumerate(self.chain):
                if not transform.is_trained:
                    _train(transform, self.chain[:i], data, self.training.seed, seconds)
            self.index._train(budget, data.through(self.apply_chain, self.index.d))
        except BaseException:
            for transform, (header, tensors) in zip(self.chain, before, strict=True):
                restore_transform(transform, header, tensors)
            raise

    @takes_tensors
    def add(self, x: np.ndarray, numeric_type: Any = None) -> None:
        """Transform, encode and store x (n, d), as the `add` of the index inside, block by block.

        Raises as that, and RuntimeError for an untrained transform.
        """
        self.index.add(self._view(x))

    @takes_tensors
    def add_with_ids(self, x: np.ndarray, xids: np.ndarray, numeric_type: Any = None) -> None:
        """As `add`, with ids xids (n,). Raises RuntimeError where the index inside numbers by
        itself, and as its `add_with_ids`."""
        self._ivf("add_with_ids").add_with_ids(self._view(x), xids)

    def _view(self, x: Any) -> Any:
        self._check_trained()
        check_matrix(x, self.d)
        return _Transformed(x, self)

    def reset(self) -> None:
        """Forget all vectors; the training stays."""
        self.index.reset()

    @takes_tensors
    def remove_ids(self, ids: Any) -> int:
        """Remove vectors by their ids (m,), or by a `faiss.IDSelector`: `remove_ids` of the index
        inside."""
        return self.index.remove_ids(ids)

    def check_compatible_for_merge(self, other: IndexPreTransform) -> None:
        """Raises as that of the index inside, and RuntimeError where the transforms differ."""
        if not isinstance(other, IndexPreTransform):
            raise TypeError(f"other: expected an IndexPreTransform, got {type(other)}")
        mine, theirs = (list(map(transform_state, index.chain)) for index in (self, other))
        if len(mine) != len(theirs) or not all(map(_same, mine, theirs)):
            raise RuntimeError("merge: transforms of the two indexes differ")
        inner: Any = self.index
        inner.check_compatible_for_merge(other.index)

    def merge_from(self, other: IndexPreTransform, add_id: int = 0) -> None:
        """Move all that another index with the same transforms stores into this one: `merge_from`
        of the index inside. Raises as that, and as `check_compatible_for_merge`."""
        self.check_compatible_for_merge(other)
        inner: Any = self.index
        inner.merge_from(other.index, add_id)

    # -- search -------------------------------------------------------------------------------

    @takes_tensors
    def search(
        self,
        x: np.ndarray,
        k: int,
        *,
        params: Any = None,
        D: np.ndarray | None = None,
        I: np.ndarray | None = None,
        numeric_type: Any = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest stored vectors of each query x (n, d): `search` of the index inside.

        params : what that one takes, or a `faiss.SearchParametersPreTransform` around it.

        Raises as that, and RuntimeError for an untrained transform.
        """
        return self.index.search(self._queries(x), k, params=_inner_params(params), D=D, I=I)

    @takes_tensors
    def range_search(
        self, x: np.ndarray, thresh: float, *, params: Any = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All stored vectors nearer than a threshold: `range_search` of the index inside. Raises as
        `search`."""
        return self.index.range_search(self._queries(x), thresh, params=_inner_params(params))

    @takes_tensors
    def search_and_reconstruct(
        self,
        x: np.ndarray,
        k: int,
        *,
        params: Any = None,
        D: np.ndarray | None = None,
        I: np.ndarray | None = None,
        R: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`search`, and what the results decode to, transformed back: R (n, k, d) float32, NaN
        where one is missing. Raises as `search`, and as `reverse_chain`."""
        D, I, found = self.index.search_and_reconstruct(
            self._queries(x), k, params=_inner_params(params), D=D, I=I
        )
        check_buffer("R", R, (*I.shape, self.d), np.float32)
        decoded = self.reverse_chain(found.reshape(-1, self.index.d))
        return D, I, filled(R, decoded.reshape(*I.shape, self.d))

    @takes_tensors
    def assign(self, x: np.ndarray, k: int, labels: np.ndarray | None = None) -> np.ndarray:
        """The ids (n, k) of `search`."""
        return self.search(x, k, I=labels)[1]

    # -- reconstruction, codes ----------------------------------------------------------------

    @takes_tensors
    def reconstruct(self, key: int, x: np.ndarray | None = None) -> np.ndarray:
        """The decoded vector (d,) float32 of an id, transformed back. Raises as the `reconstruct`
        of the index inside, and as `reverse_chain`."""
        check_buffer("x", x, (self.d,), np.float32)
        return filled(x, self.reverse_chain(self.index.reconstruct(key)[None])[0])

    @takes_tensors
    def reconstruct_n(self, n0: int = 0, ni: int = -1, x: np.ndarray | None = None) -> np.ndarray:
        """The decoded vectors of ids n0 .. n0+ni-1, transformed back: (ni, d) float32; ni = -1: all
        from n0. NaN where no vector has the id. Raises as `reconstruct`."""
        decoded = self.index.reconstruct_n(n0, ni)
        check_buffer("x", x, (len(decoded), self.d), np.float32)
        return filled(x, self.reverse_chain(decoded))

    @takes_tensors
    def reconstruct_batch(self, key: np.ndarray, x: np.ndarray | None = None) -> np.ndarray:
        """The decoded vectors (n, d) float32 of ids key (n,), transformed back. Raises as that of
        the index inside, and as `reverse_chain`."""
        decoded = self.index.reconstruct_batch(key)
        check_buffer("x", x, (len(decoded), self.d), np.float32)
        return filled(x, self.reverse_chain(decoded))

    def sa_code_size(self) -> int:
        """Bytes per vector of `sa_encode`."""
        return self.index.sa_code_size()

    @takes_tensors
    def sa_encode(self, x: np.ndarray, codes: np.ndarray | None = None) -> np.ndarray:
        """x (n, d) -> (n, sa_code_size()) uint8. Raises as the `sa_encode` of the index inside."""
        return self.index.sa_encode(self._queries(x), codes)

    @takes_tensors
    def sa_decode(self, codes: np.ndarray, x: np.ndarray | None = None) -> np.ndarray:
        """Codes of `sa_encode` -> (n, d) float32. Raises as the `sa_decode` of the index inside,
        and as `reverse_chain`."""
        decoded = self.index.sa_decode(codes)
        check_buffer("x", x, (len(decoded), self.d), np.float32)
        return filled(x, self.reverse_chain(decoded))

    def add_sa_codes(self, codes: np.ndarray, ids: np.ndarray | None = None) -> None:
        """Store codes of `sa_encode`. Raises as the `add_sa_codes` of the index inside, and
        RuntimeError for ids where that one numbers by itself."""
        if ids is None:
            self.index.add_sa_codes(codes)
        else:
            self._ivf("add_sa_codes with ids").add_sa_codes(codes, ids)

    def _queries(self, x: Any) -> np.ndarray:
        self._check_trained()
        return self.apply_chain(x)

    def _check_trained(self) -> None:
        self._trained_chain()
        self.index._check_trained()

    def _ivf(self, call: str) -> IndexIVFQINCo:
        if not isinstance(self.index, IndexIVFQINCo):
            raise RuntimeError(f"{call}: not of an IndexQINCo, which numbers its vectors itself")
        return self.index


class _Transformed:
    """x (n, d) as the chain makes it, where its rows are read."""

    def __init__(self, x: Any, index: IndexPreTransform) -> None:
        self._x, self._index = x, index
        self.shape = x.shape[0], index.index.d

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if not isinstance(rows, slice):
            return self._index.apply_chain(self._x[rows])
        begin, end, _ = rows.indices(self.shape[0])
        out = np.empty((max(end - begin, 0), self.shape[1]), np.float32)
        step = max(1, BLOCK_VALUES // self._index.d)  # they may be wider before
        for i in range(begin, end, step):
            part = slice(i, min(i + step, end))
            out[i - begin : part.stop - begin] = self._index.apply_chain(self._x[part])
        return out


def _rows(call: Any, x: np.ndarray, d: int) -> np.ndarray:
    """What faiss makes of x (n, d_in) float32, (n, d) float32; NaN for rows that are not usable,
    which a transform could hide: L2 norm makes zeros of too long ones, others drop dimensions."""
    if len(x) == 0:
        return np.empty((0, d), np.float32)
    good = usable(x)
    with library_threads(torch_too=False):
        out = np.asarray(call(x))
    if not good.all():
        out[~good] = np.nan
    return out


def _apply(chain: Sequence[Any], x: np.ndarray) -> np.ndarray:
    for transform in chain:
        x = _rows(transform.apply_py, x, transform.d_out)
    return x


def _same(one: tuple[Any, dict[str, np.ndarray]], two: tuple[Any, dict[str, np.ndarray]]) -> bool:
    """Whether two states are those of the same transform."""
    (header, tensors), (its, others) = one, two
    return (
        header == its
        and tensors.keys() == others.keys()
        and all(np.array_equal(tensors[name], others[name]) for name in tensors)
    )


def _inner_params(params: Any) -> Any:
    if isinstance(params, faiss.SearchParametersPreTransform):
        return given(params, "index_params")
    return params


def _train(
    transform: Any, before: Sequence[Any], data: TrainingSet, seed: int, seconds: float | None
) -> None:
    """Train one transform by faiss, on what the ones before it make of as many vectors as memory
    is for; it samples those itself, by its own numbers."""
    x = _apply(before, data.sample(max(1, ENTRIES // data.d), seed))
    if (bad := ~usable(x)).any():
        raise RuntimeError(f"x: {int(bad.sum())} vectors are no numbers once they are transformed")
    with library_threads(torch_too=False):
        if isinstance(transform, faiss.OPQMatrix):
            _train_opq(transform, x, seconds)
        else:
            transform.train(x)


def _train_opq(opq: Any, x: np.ndarray, seconds: float | None) -> None:
    settings = opq.niter, opq.niter_pq_0, opq.pq
    if opq.pq is None and opq.d_out % opq.M == 0:  # faiss's own, but without hundreds of warnings
        pq = faiss.ProductQuantizer(opq.d_out, opq.M, 8)
        pq.cp.min_points_per_centroid = 1
        opq.pq = pq
    if seconds is not None:  # by a rule, not by the clock: a checkpoint knows these vectors again
        of_call, of_product, of_cube = OPQ_SECONDS
        n = min(len(x), opq.max_train_points)
        wide = max(opq.d_in, opq.d_out)
        k_means = opq.M * of_call + n * 256 * opq.d_out * of_product
        rest = OPQ_SHARE * seconds * get_num_threads() - opq.niter_pq_0 * k_means
        one = opq.niter_pq * k_means + wide**3 * of_cube + n * wide**2 * of_product
        opq.niter = int(min(max(rest / one, 1), opq.niter))
    try:
        opq.train(x)
    finally:
        opq.niter, opq.niter_pq_0, opq.pq = settings
