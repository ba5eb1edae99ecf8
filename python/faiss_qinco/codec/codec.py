"""`QINCoCodec`, a value: it encodes, decodes, is saved. The room `training` makes one."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core
from ..checks import complaint, integer, usable
from ..errors import ArgumentError
from ..interop.archive import is_archive, open_archive
from ..interop.published import published_model
from ..progress import progress_bar
from ..storage.container import (
    FileFormatError,
    finite,
    open_tensors,
    take_number,
    write_tensors,
)
from ..threads import get_num_threads
from .config import QINCoConfig
from .devices import check_device, resolve_device, use_bf16
from .product import PQQINCoCodec, checked_rotation
from .statistics import Statistics
from .weights import pack_weights, tensor_shapes, with_prefix

if TYPE_CHECKING:
    import torch

    from .encoding import CompiledStep
    from .model import QINCo

ENCODE_BATCH = 1024
MOST_PARTS = 256  # of PQ-QINCo
FLOAT = np.finfo(np.float32)


class AdditiveTerm(NamedTuple):
    """What can count beside the error in the choice of codes: weight times the squared error of
    additive codebooks (M, K, d) on bases (nlist, d; 1, d without an IVF), all float32. Tables of
    such codebooks then lose less of what the codes know."""

    codebooks: np.ndarray
    bases: np.ndarray
    weight: float


def _packed(additive: AdditiveTerm | None) -> dict[str, Any]:
    """The term as the extension's function takes it."""
    if additive is None:
        return {}
    tables = _core.AdditiveTables(additive.codebooks)
    return {"tables": tables, "bases": additive.bases, "additive_weight": additive.weight}


@dataclass
class TrainingReport:
    """What a training run did. Errors are mean squared L2 errors of the held-out vectors, in
    the units of the input: mse with the beam of the config, those of the history with that of the
    training loop."""

    rq_mse: float
    mse: float
    history: list[tuple[float, int, float]]  # (seconds, vectors seen, validation error)
    seconds: float
    vectors_seen: int


@dataclass
class TuningReport:
    """What `finetune` did. Errors are mean squared L2 errors, in the units of the input, with the
    beam of the config, of vectors held out; those of old vectors None where there were none.

    new_mse_before, new_mse, old_mse_before, old_mse : of new and old vectors, before and after.
        Where the codec knew those kept better than unseen ones, having learnt from them, or
        because they were reconstructed: an estimate for unseen ones.
    old_codes_mse : of old vectors as the codec decodes the codes that they had before.
    blend : how far the weights went towards those of the last batch, 0.0 to 1.0: less than 1.0
        where the old vectors' error asked for it.
    seconds, vectors_seen : of the tuning; of vectors those seen again as well.
    """

    new_mse_before: float
    new_mse: float
    old_mse_before: float | None
    old_mse: float | None
    old_codes_mse: float | None
    blend: float
    seconds: float
    vectors_seen: int

    def __str__(self) -> str:
        text = f"error of new vectors {_change(self.new_mse_before, self.new_mse)}"
        if self.old_mse_before and self.old_mse is not None and self.old_codes_mse is not None:
            of_codes = _change(self.old_mse_before, self.old_codes_mse)
            text += f"; of old vectors {_change(self.old_mse_before, self.old_mse)}, "
            text += f"of their old codes {of_codes}"
        return text


def _change(before: float, after: float) -> str:
    relative = f" ({100 * (after / before - 1):+.1f} %)" if before > 0 else ""
    return f"{before:.5g} -> {after:.5g}{relative}"


class QINCoCodec:
    """Implicit neural codebooks: vectors (n, d) <-> codes (n, M) (or (n, M + 1) behind an IVF).

    Attributes
    ----------
    d, M, nbits, K : dimension, codes per vector, bits per code, codewords per step (2**nbits).
    config : QINCoConfig.
    nlist : number of IVF centroids, or None. With an IVF, codes have the list number first.
    mean, std : x is normalised as (x - mean) / std; (d,) float32 and one number.
    tensors : the weights, numpy float32, by name; `base` are the starting vectors, normalised.
    student : a smaller QINCoCodec that decodes the same codes to nearly the same vectors, or None.
    metric : faiss's number of the metric by which `encode` chooses lists: 1 L2, 0 inner product.
    own_centroids : (nlist, d) float32, by which it chooses them; None: the starting vectors.
    report : TrainingReport of `train`, TuningReport of `finetune`, else None.
    statistics : what it makes of vectors like those of its training, for `index.drift`, or None.
    """

    def __init__(
        self,
        config: QINCoConfig,
        M: int,
        nbits: int,
        ivf: bool,
        mean: np.ndarray,
        std: float,
        tensors: dict[str, np.ndarray],
        student: QINCoCodec | None = None,
        metric: int = 1,
        own_centroids: np.ndarray | None = None,
    ) -> None:
        self.config, self.M, self.nbits, self.mean, self.std = config, M, nbits, mean, std
        self.tensors, self.student, self.metric = tensors, student, metric
        self.own_centroids = own_centroids
        self.nlist = len(tensors["base"]) if ivf else None
        self.d, self.K = len(mean), 1 << nbits
        self.report: TrainingReport | TuningReport | None = None
        self.statistics: Statistics | None = None
        self._weights: _core.QincoWeights | None = None
        self._models: dict[str, QINCo] = {}
        self._compiled: dict[tuple[str, torch.dtype], list[CompiledStep]] = {}

    def __repr__(self) -> str:
        lists = "" if self.nlist is None else f" nlist={self.nlist}"
        c = self.config
        sizes = f"L={c.L} d_e={c.width(self.d)} d_h={c.d_h}"
        student = "" if self.student is None else " with a student"
        return f"<QINCoCodec {self.M}x{self.nbits} d={self.d}{lists} {sizes}{student}>"

    def with_statistics(self, statistics: Statistics) -> QINCoCodec:
        """This codec, its tensors shared, with these."""
        codec = self._sharing(self.student)
        codec.statistics = statistics
        return codec

    def with_student(self, student: QINCoCodec | None) -> QINCoCodec:
        """This codec, its tensors shared, with this student or with none."""
        return self if student is self.student else self._sharing(student)

    def with_tensors(
        self, tensors: dict[str, np.ndarray], M: int, student: QINCoCodec | None = None
    ) -> QINCoCodec:
        """A codec of M codes with these weights and this student, and otherwise as this one:
        normalisation, lists, metric, sizes of the networks."""
        return QINCoCodec(
            self.config, M, self.nbits, self.nlist is not None, self.mean, self.std, tensors,
            student, self.metric, self.own_centroids,
        )  # fmt: skip

    def _sharing(self, student: QINCoCodec | None) -> QINCoCodec:
        codec = self.with_tensors(self.tensors, self.M, student)
        codec.report, codec.statistics = self.report, self.statistics
        codec._weights = self._weights
        codec._models, codec._compiled = self._models, self._compiled
        return codec

    def truncate(self, M: int) -> QINCoCodec:
        """The codec of the first M codes, its tensors shared: every step is trained on its own
        error, so the first codes of a code are a code. Without a student.

        `decode` gives what this codec's gives for so many columns. Raises TypeError for an M that
        is no integer, ValueError outside 1..M.
        """
        M = integer("M", M, 1, self.M)
        n_steps = M if self.nlist is not None else M - 1
        left_out = tuple(f"steps.{m}." for m in range(n_steps, self.M))
        tensors = {k: v for k, v in self.tensors.items() if not k.startswith(left_out)}
        return self.with_tensors(tensors, M)

    # -- encoding and decoding ----------------------------------------------------------------

    def encode(
        self,
        x: np.ndarray,
        list_no: np.ndarray | None = None,
        *,
        A: int | None = None,
        B: int | None = None,
        additive: AdditiveTerm | None = None,
        per_hypothesis: bool = False,
        device: str = "auto",
        progress: bool = False,
    ) -> np.ndarray:
        """Encode by beam search (QINCo2, section 3.2): in the extension, or in torch on a GPU.

        x (n, d), any real dtype. Behind an IVF, list_no (n,) int64 says which list each vector goes
        to (default: the nearest centroid by `metric`) and the result is (n, M + 1) int32, the list
        first; else (n, M) uint8. A, B: default the config's; A 0: all K codewords, the only choice
        without pre-selection codebooks. additive: of the last hypotheses that of the least error,
        this term included, is taken, not that of the least error alone. per_hypothesis: the
        papers' search, with A codewords for each hypothesis (max(A, B) in the first network), in
        float32 and in torch: the codes that the reference program gives for a published model, for
        more work and about the same error. device: "auto", "cpu" (the extension) or a torch
        device; "cpu:0" is torch on CPU tensors. Raises ValueError for wrong shapes, A, B, a list
        that does not exist, and, naming the row, for a vector with NaN or inf or one too long for
        squared distances in float32 (see `encodable`); RuntimeError where torch cannot use the
        device.
        """
        x = _rows("x", x, self.d)
        if list_no is not None and (self.nlist is None or list_no.shape != (len(x),)):
            raise ArgumentError(
                f"list_no: expected shape ({len(x)},) and a codec with an IVF, "
                f"got {list_no.shape} and nlist={self.nlist}"
            )
        n_base = len(self.tensors["base"])
        if list_no is not None and len(x) and not 0 <= list_no.min() <= list_no.max() < n_base:
            # Here, because a GPU would not say what is wrong, and be of no use afterwards.
            raise ArgumentError(f"list_no: expected values below nlist={self.nlist}")
        width_default, beam_default = self.config.beam(self.K)
        A = width_default if A is None else (A or self.K)
        B = beam_default if B is None else B
        # As the extension, which does not see what torch encodes.
        if not 1 <= A <= self.K:
            raise ArgumentError(f"A: expected 1 to {self.K}, got {A}")
        if B < 1:
            raise ArgumentError(f"B: expected at least 1, got {B}")
        if A < self.K and self.config.A == 0:
            raise ArgumentError(
                f"A: the model has no pre-selection codebooks, expected A = {self.K}, got {A}"
            )
        device = resolve_device(device)
        if additive is not None:
            self._check_additive(additive)
        if device == "cpu" and not per_hypothesis:
            encode = partial(self._encode, additive=_packed(additive))
        else:
            term = self._normalised(additive, device)
            encode = partial(
                self._encode_torch, additive=term, per_hypothesis=per_hypothesis, device=device
            )
        parts = [slice(i, min(i + ENCODE_BATCH, len(x))) for i in range(0, len(x), ENCODE_BATCH)]
        for part in parts:  # before the work of hours
            rows = np.ascontiguousarray(x[part], np.float32)
            bad = np.flatnonzero(~self.encodable(rows))
            if len(bad):
                row = bad[0]
                raise ArgumentError(f"x: row {part.start + row} {complaint(rows[row])}")
        codes = np.empty((len(x), self.M), np.uint8)
        lists = None if self.nlist is None else np.empty(len(x), np.int64)
        centroids = self.centroids() if lists is not None and list_no is None else None
        with progress_bar("encoding", len(x), "vector", progress) as bar:
            for part in parts:
                rows = np.ascontiguousarray(x[part], np.float32)
                chosen = None if list_no is None else np.asarray(list_no[part], np.int64)
                if centroids is not None:
                    found = _core.assign(centroids, rows, 1, self.metric, get_num_threads())
                    chosen = found[0][:, 0]
                codes[part] = encode(rows, chosen, A, B)
                if lists is not None and chosen is not None:
                    lists[part] = chosen
                bar.to(part.stop)
        return codes if lists is None else np.column_stack((lists, codes)).astype(np.int32)

    def encodable(self, x: np.ndarray) -> np.ndarray:
        """Which rows of x (n, d) float32 can be encoded: (n,) bool. Not those with NaN or inf, nor
        those so long, as they are or normalised, that squared distances overflow float32."""
        with np.errstate(over="ignore", invalid="ignore"):
            normalised = (x - self.mean) / np.float32(self.std)
        found: np.ndarray = usable(x) & usable(normalised)
        return found

    def _check_additive(self, additive: AdditiveTerm) -> None:
        codebooks, bases, weight = additive
        n_bases = 1 if self.nlist is None else self.nlist
        for name, array, shape in (
            ("codebooks", codebooks, (self.M, self.K, self.d)), ("bases", bases, (n_bases, self.d)),
        ):  # fmt: skip
            if array.shape != shape:
                raise ArgumentError(f"additive: expected {name} {shape}, got {array.shape}")
        if not 0 <= weight < math.inf:
            raise ArgumentError(f"additive: expected a weight of 0 or more, got {weight}")

    def _normalised(
        self, additive: AdditiveTerm | None, device: str
    ) -> tuple[torch.Tensor, torch.Tensor, float] | None:
        """The term as `beam_encode` takes it."""
        if additive is None:
            return None
        import torch

        codebooks, bases, weight = additive
        return (
            torch.from_numpy(codebooks / np.float32(self.std)).to(device),
            torch.from_numpy((bases - self.mean) / np.float32(self.std)).to(device),
            weight,
        )

    def _encode(
        self,
        x: np.ndarray,
        list_no: np.ndarray | None,
        A: int,
        B: int,
        *,
        additive: dict[str, Any],
    ) -> np.ndarray:
        return _core.encode(self.weights, x, list_no, A, B, get_num_threads(), **additive)

    def _encode_torch(
        self,
        x: np.ndarray,
        list_no: np.ndarray | None,
        A: int,
        B: int,
        *,
        additive: tuple[torch.Tensor, torch.Tensor, float] | None,
        per_hypothesis: bool = False,
        device: str,
    ) -> np.ndarray:
        import torch

        from .encoding import beam_encode

        model = self._model(device)
        bf16 = use_bf16(None, device) and not per_hypothesis
        steps = self._steps(device, torch.bfloat16 if bf16 else torch.float32)
        rows = torch.from_numpy((x - self.mean) / np.float32(self.std)).to(device)
        lists = None if list_no is None else torch.tensor(list_no, device=device)
        codes = beam_encode(model, steps, rows, lists, A, B, additive, per_hypothesis)[0]
        return codes[:, -self.M :].to(torch.uint8).cpu().numpy()

    def assign(self, x: np.ndarray) -> np.ndarray | None:
        """The lists (n,) int64 that `encode` chooses for x (n, d); None without an IVF."""
        if self.nlist is None:
            return None
        x = np.ascontiguousarray(x, np.float32)
        return _core.assign(self.centroids(), x, 1, self.metric, get_num_threads())[0][:, 0]

    def measure(
        self, x: np.ndarray, list_no: np.ndarray | None = None, *, device: str = "auto"
    ) -> Statistics:
        """What the codec makes of vectors x (n, d), n > 0. Raises as `encode`."""
        lists, codes = self.split(self.encode(x, list_no, device=device))
        errors = np.square(self.decode_lists(lists, codes.astype(np.uint8)) - x).sum(1)
        return Statistics.of(errors, codes, self.K, lists, self.nlist)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """codes (n, m) integers, m <= M (or M + 1 behind an IVF, the list first) -> (n, d) float32.

        Fewer columns than M give the coarser reconstruction after so many steps. Raises
        ValueError for a wrong shape or a code out of range.
        """
        list_no, codes = self.split(codes)
        return self.decode_lists(list_no, np.ascontiguousarray(codes, np.uint8))

    def split(self, codes: np.ndarray, first: int = 1) -> tuple[np.ndarray | None, np.ndarray]:
        """The checked list numbers, if any, and codes of an array with at least `first` columns."""
        codes = np.asarray(codes)
        columns = self.M if self.nlist is None else self.M + 1
        if codes.ndim != 2 or not first <= codes.shape[1] <= columns:
            raise ArgumentError(f"codes: expected shape (n, {first}..{columns}), got {codes.shape}")
        if not np.issubdtype(codes.dtype, np.integer):
            raise TypeError(f"codes: expected integers, got {codes.dtype}")
        list_no = None
        if self.nlist is not None:
            list_no = np.ascontiguousarray(codes[:, 0], np.int64)
            codes = codes[:, 1:]
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < self.K:
            raise ArgumentError(f"codes: expected values in 0..{self.K - 1}")
        return list_no, codes

    def decode_lists(self, list_no: np.ndarray | None, codes: np.ndarray) -> np.ndarray:
        """As `decode`, with list_no (n,) int64 (-1: a NaN row) apart from codes (n, m) uint8."""
        return _core.decode(self.weights, list_no, codes, get_num_threads())

    def bases(self) -> np.ndarray:
        """The starting vectors in the input's space, (nlist or K, d) float32: behind an IVF, what
        the codes of a list add to. With inner product, the mean of the list's training vectors."""
        return np.asarray(self.tensors["base"] * np.float32(self.std) + self.mean)

    @property
    def rounding(self) -> float:
        """A squared error |x̂ - x|² that float32 alone can make, of a vector as long as most."""
        square = float(np.square(self.mean, dtype=np.float64).sum()) + self.d * self.std**2
        return square * (4 * float(FLOAT.eps)) ** 2

    def centroids(self) -> np.ndarray:
        """Those of the quantizer, by which lists are chosen, (nlist, d) float32; without an IVF the
        starting vectors, (K, d)."""
        return self.bases() if self.own_centroids is None else self.own_centroids

    @property
    def weights(self) -> _core.QincoWeights:
        """The weights as the extension packs them, made once."""
        if self._weights is None:
            self._weights = pack_weights(
                self.config, self.nbits, self.nlist is not None, self.mean, self.std, self.tensors
            )
        return self._weights

    def _model(self, device: str) -> QINCo:
        import torch

        from .model import QINCo

        if device not in self._models:
            check_device(device)
            with torch.device("meta"):  # no random start, which would move torch's generator on
                model = QINCo(self.d, self.M, self.K, self.config, self.nlist)
            tensors = {k: torch.tensor(v) for k, v in self.tensors.items()}
            model.load_state_dict(tensors, assign=True)
            self._models[device] = model.to(device).eval()
        return self._models[device]

    def _steps(self, device: str, dtype: torch.dtype) -> list[CompiledStep]:
        from .encoding import compile_steps

        if (device, dtype) not in self._compiled:
            self._compiled[device, dtype] = compile_steps(self._model(device), dtype)
        return self._compiled[device, dtype]

    # -- files --------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What a file holds: a JSON header and the tensors."""
        header = {
            "config": self.config.to_dict(),
            "d": self.d,
            "M": self.M,
            "nbits": self.nbits,
            "nlist": self.nlist,
            "std": self.std,
            "metric": self.metric,
        }
        tensors = {"mean": self.mean, **self.tensors}
        if self.own_centroids is not None:
            tensors["centroids"] = self.own_centroids
        if self.student is not None:  # its mean and base are the codec's
            header["student"] = self.student.config.to_dict()
            own = with_prefix(self.student.tensors, "steps.")
            tensors |= {f"student.steps.{k}": v for k, v in own.items()}
        if self.statistics is not None:
            tensors |= {f"statistics.{k}": v for k, v in self.statistics.state().items()}
        return header, tensors

    @classmethod
    def from_state(cls, header: dict[str, Any], tensors: dict[str, np.ndarray]) -> QINCoCodec:
        """Inverse of `state`. Raises FileFormatError where the parts do not fit together, or hold
        NaN or infinity."""
        student = None
        counted = with_prefix(tensors, "statistics.")
        tensors = {k: v for k, v in tensors.items() if not k.startswith("statistics.")}
        try:
            if "student" in header:
                shared = {k: tensors[k] for k in ("mean", "base")}
                own = {k: v for k, v in header.items() if k != "student"}
                student = cls.from_state(
                    own | {"config": header["student"]}, with_prefix(tensors, "student.") | shared
                )
                tensors = {k: v for k, v in tensors.items() if not k.startswith("student.")}
            config = QINCoConfig.from_dict(header["config"])
            d, M, nbits, nlist = (header[k] for k in ("d", "M", "nbits", "nlist"))
            std = take_number(header, "std", float, float(FLOAT.tiny), float(FLOAT.max))
            metric = header.get("metric", 1)
            if metric not in (0, 1) or isinstance(metric, bool):
                raise ValueError(f"metric: expected 0 or 1, got {metric!r}")
            if config.L * (take_number(header, "M", int, 1, 1 << 10) - 1) > len(tensors):
                raise FileFormatError("there are not so many tensors as L and M say")
            take_number({"B": config.B}, "B", int, 1, 1 << 16)  # the others are sizes of tensors
            expected = tensor_shapes(config, d, M, nbits, nlist)
        except FileFormatError as error:
            raise FileFormatError(f"codec: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"codec: bad header: {error!r}") from error
        if nlist is not None and "centroids" in tensors:
            expected["centroids"] = expected["base"]
        shapes = {k: v.shape for k, v in tensors.items()}
        if shapes != expected:
            wrong = sorted(set(shapes.items()) ^ set(expected.items()))
            raise FileFormatError(f"codec: tensors do not fit the header: {wrong[:4]}")
        if any(v.dtype != np.float32 for v in tensors.values()):
            raise FileFormatError("codec: expected float32 tensors")
        width, stored = config.width(d), sum(v.size for v in tensors.values())
        if config.low_rank and M * width * (width + d) > max(1 << 26, 64 * stored):
            raise FileFormatError("codec: the low-rank products are out of proportion to the file")
        for name, tensor in tensors.items():
            finite(name, tensor)
        weights = {k: v for k, v in tensors.items() if k not in ("mean", "centroids")}
        codec = cls(
            config, M, nbits, nlist is not None, tensors["mean"], std, weights, student, metric,
            tensors.get("centroids"),
        )  # fmt: skip
        if counted:
            codec.statistics = Statistics.from_state(counted, M, codec.K, nlist)
        return codec

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file (safetensors with a JSON header), atomically."""
        write_tensors(path, "codec", *self.state())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Any:
        """Read a model file: ours, or a published one (`.pt`) of version 1 (QINCo, QINCo-LR,
        IVF-QINCo, PQ-QINCo) or 2 (QINCo2). A PQ-QINCo is a `PQQINCoCodec`, all others QINCoCodecs.

        A published file is read without torch, and nothing that is in it is run. Codes are decoded
        as its own program does; `encode(x, per_hypothesis=True)` gives the same ones.

        Raises RuntimeError (FileFormatError or MissingFileError) for a file that is missing,
        damaged, of another kind, or holds anything else than such a model.
        """
        if not isinstance(path, (str, bytes, os.PathLike)) or not is_archive(path):
            with open_tensors(path, "codec") as reader:
                return _codec(reader.header, reader.all())
        with open_archive(path) as archive:
            return _codec(*published_model(archive))

    def __reduce__(self) -> tuple[Any, ...]:
        return QINCoCodec.from_state, self.state()


def _codec(header: dict[str, Any], tensors: dict[str, np.ndarray]) -> QINCoCodec | PQQINCoCodec:
    """What a file holds. Raises as `QINCoCodec.from_state`."""
    if "parts" not in header:
        return QINCoCodec.from_state(header, tensors)
    headers = header["parts"]
    if not isinstance(headers, list) or not 0 < len(headers) <= MOST_PARTS:
        raise FileFormatError(f"parts: expected a list of 1 to {MOST_PARTS} headers")
    of_parts = [with_prefix(tensors, f"parts.{i}.") for i in range(len(headers))]
    if sum(map(len, of_parts)) + ("matrix" in tensors) != len(tensors):
        raise FileFormatError("codec: tensors do not fit the header")
    parts = [QINCoCodec.from_state(*own) for own in zip(headers, of_parts, strict=True)]
    matrix = tensors.get("matrix")
    if matrix is not None:
        matrix = checked_rotation(matrix, sum(part.d for part in parts))
    return PQQINCoCodec(parts, matrix)


def _rows(name: str, x: np.ndarray, d: int) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim != 2 or x.shape[1] != d:
        raise ArgumentError(f"{name}: expected shape (n, {d}), got {x.shape}")
    return x
