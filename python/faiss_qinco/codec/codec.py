"""`QINCoCodec`: a trained codec. Decoding runs in the extension; training and encoding in torch."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .. import _core
from ..errors import ArgumentError
from ..storage.container import FileFormatError, read_tensors, write_tensors
from ..threads import get_num_threads
from .config import QINCoConfig, TrainingConfig, resolve_config, resolve_device, student_config

if TYPE_CHECKING:
    import torch

    from .encoding import CompiledStep
    from .model import QINCo
    from .training import TrainingReport

ENCODE_BATCH = 1024

Tensor = TypeVar("Tensor")  # numpy's or torch's


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
    report : TrainingReport of `train`, else None.
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
    ) -> None:
        self.config, self.M, self.nbits, self.mean, self.std = config, M, nbits, mean, std
        self.tensors, self.student = tensors, student
        self.nlist = len(tensors["base"]) if ivf else None
        self.d, self.K = len(mean), 1 << nbits
        self.report: TrainingReport | None = None
        self._weights: _core.QincoWeights | None = None
        self._models: dict[str, QINCo] = {}
        self._compiled: dict[tuple[str, torch.dtype], list[CompiledStep]] = {}

    # -- training -----------------------------------------------------------------------------

    @classmethod
    def train(
        cls,
        x: np.ndarray,
        M: int,
        nbits: int = 8,
        config: str | QINCoConfig = "S",
        training: TrainingConfig | None = None,
        centroids: np.ndarray | None = None,
        list_no: np.ndarray | None = None,
    ) -> QINCoCodec:
        """Train on x (n, d); with an IVF, on centroids (nlist, d) and list_no (n,) int64.

        Raises RuntimeError when there are too few vectors or the error diverges.
        """
        from .training import train_model

        training = training or TrainingConfig()
        config = resolve_config(config, training.device)
        model, mean, std, report = train_model(
            x, M, 1 << nbits, config, training, centroids, list_no
        )
        tensors = {k: v.numpy().copy() for k, v in model.state_dict().items()}
        codec = cls(config, M, nbits, centroids is not None, mean, std, tensors)
        codec.report = report
        return codec

    def distill(
        self,
        codes: np.ndarray,
        config: QINCoConfig | None = None,
        training: TrainingConfig | None = None,
    ) -> QINCoCodec:
        """This codec with a new student, trained to decode as it does.

        codes (n, M), or (n, M + 1) behind an IVF: of training vectors, as `encode` gives them.
        config: the student's sizes; default: an L 1, d_h 256 of width d, at most 128. training:
        learning rates, seed, device, progress; it takes 20 epochs, and at most a tenth of
        `max_seconds`. Raises ValueError as `decode`, for too few columns or none at all.
        """
        from .distill import train_student

        if self.M == 1 and self.nlist is None:
            raise ValueError("a codec of one code without an IVF has no networks to learn from")
        list_no, codes = self._split(codes, self.M + (self.nlist is not None))
        known = codes if list_no is None else np.column_stack((list_no, codes))
        n_base = self.K if self.nlist is None else self.nlist
        if len(known) == 0 or not 0 <= int(known[:, 0].min()) <= int(known[:, 0].max()) < n_base:
            raise ArgumentError(f"codes: expected some, with first numbers in 0..{n_base - 1}")
        config, training = config or student_config(self.d), training or TrainingConfig()
        return self.with_student(train_student(self, known.astype(np.int64), config, training))

    def with_student(self, student: QINCoCodec | None) -> QINCoCodec:
        """This codec, its tensors shared, with this student or with none."""
        if student is self.student:
            return self
        codec = QINCoCodec(
            self.config, self.M, self.nbits, self.nlist is not None, self.mean, self.std,
            self.tensors, student,
        )  # fmt: skip
        codec.report, codec._weights = self.report, self._weights
        codec._models, codec._compiled = self._models, self._compiled
        return codec

    # -- encoding and decoding ----------------------------------------------------------------

    def encode(
        self,
        x: np.ndarray,
        list_no: np.ndarray | None = None,
        *,
        A: int | None = None,
        B: int | None = None,
        device: str = "auto",
        progress: bool = False,
    ) -> np.ndarray:
        """Encode by beam search (QINCo2, section 3.2): in the extension, or in torch on a GPU.

        x (n, d) finite. Behind an IVF, list_no (n,) int64 says which list each vector goes to
        (default: the nearest centroid in L2) and the result is (n, M + 1) int32, the list first;
        else (n, M) uint8. A, B: default the config's; A 0: all K codewords, the only choice without
        pre-selection codebooks. device: "auto", "cpu" (the extension) or a torch device; "cpu:0" is
        torch on CPU tensors. Raises ValueError for wrong shapes, A, B or a list that does not
        exist, RuntimeError where torch cannot use the device.
        """
        x = _rows("x", x, self.d)
        if self.nlist is not None and list_no is None:
            list_no = _core.assign(
                self.centroids(), np.ascontiguousarray(x, np.float32), 1, 1, get_num_threads()
            )[0][:, 0]
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
        encode = self._encode if device == "cpu" else partial(self._encode_torch, device=device)
        codes = np.empty((len(x), self.M), np.uint8)
        with _bar(len(x), progress) as bar:
            for i in range(0, len(x), ENCODE_BATCH):
                part = slice(i, i + ENCODE_BATCH)
                rows = np.ascontiguousarray(x[part], np.float32)
                codes[part] = encode(rows, None if list_no is None else list_no[part], A, B)
                bar.update(len(rows))
        return codes if list_no is None else np.column_stack((list_no, codes)).astype(np.int32)

    def _encode(self, x: np.ndarray, list_no: np.ndarray | None, A: int, B: int) -> np.ndarray:
        return _core.encode(self.weights, x, list_no, A, B, get_num_threads())

    def _encode_torch(
        self, x: np.ndarray, list_no: np.ndarray | None, A: int, B: int, device: str
    ) -> np.ndarray:
        import torch

        from .encoding import beam_encode
        from .training import use_bf16

        model = self._model(device)
        dtype = torch.bfloat16 if use_bf16(None, device) else torch.float32
        rows = torch.from_numpy((x - self.mean) / np.float32(self.std)).to(device)
        lists = None if list_no is None else torch.tensor(list_no, device=device)
        codes = beam_encode(model, self._steps(device, dtype), rows, lists, A, B)[0]
        return codes[:, -self.M :].to(torch.uint8).cpu().numpy()

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """codes (n, m) integers, m <= M (or M + 1 behind an IVF, the list first) -> (n, d) float32.

        Fewer columns than M give the coarser reconstruction after so many steps. Raises
        ValueError for a wrong shape or a code out of range.
        """
        list_no, codes = self._split(codes)
        return self.decode_lists(list_no, np.ascontiguousarray(codes, np.uint8))

    def _split(self, codes: np.ndarray, first: int = 1) -> tuple[np.ndarray | None, np.ndarray]:
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

    def centroids(self) -> np.ndarray:
        """The starting vectors in the input's space, (nlist or K, d) float32."""
        return np.asarray(self.tensors["base"] * np.float32(self.std) + self.mean)

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

        from .model import QINCo, check_device

        if device not in self._models:
            check_device(device)
            model = QINCo(self.d, self.M, self.K, self.config, self.nlist)
            model.load_state_dict({k: torch.tensor(v) for k, v in self.tensors.items()})
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
        }
        tensors = {"mean": self.mean, **self.tensors}
        if self.student is not None:  # its mean and base are the codec's
            header["student"] = self.student.config.to_dict()
            own = with_prefix(self.student.tensors, "steps.")
            tensors |= {f"student.steps.{k}": v for k, v in own.items()}
        return header, tensors

    @classmethod
    def from_state(cls, header: dict[str, Any], tensors: dict[str, np.ndarray]) -> QINCoCodec:
        """Inverse of `state`. Raises FileFormatError where the parts do not fit together."""
        student = None
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
            std = float(header["std"])
            expected = _shapes(config, d, M, nbits, nlist)
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"codec: bad header: {error!r}") from error
        shapes = {k: v.shape for k, v in tensors.items()}
        if shapes != expected:
            wrong = sorted(set(shapes.items()) ^ set(expected.items()))
            raise FileFormatError(f"codec: tensors do not fit the header: {wrong[:4]}")
        if any(v.dtype != np.float32 for v in tensors.values()) or not 0 < std < np.inf:
            raise FileFormatError("codec: expected float32 tensors and a positive std")
        weights = {k: v for k, v in tensors.items() if k != "mean"}
        return cls(config, M, nbits, nlist is not None, tensors["mean"], std, weights, student)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file (safetensors with a JSON header), atomically."""
        write_tensors(path, "codec", *self.state())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> QINCoCodec:
        """Read a model file. Raises RuntimeError for one missing, damaged or of another kind."""
        return cls.from_state(*read_tensors(path, "codec"))

    def __reduce__(self) -> tuple[Any, ...]:
        return QINCoCodec.from_state, self.state()


def pack_weights(
    config: QINCoConfig,
    nbits: int,
    ivf: bool,
    mean: np.ndarray,
    std: float,
    tensors: dict[str, np.ndarray],
) -> _core.QincoWeights:
    """The weights in `tensors`, as a codec names them, in the form that the extension takes."""
    packed = _core.QincoWeights(nbits, ivf, not config.qinco1, mean, std, tensors["base"])
    L, d_e, d_h = config.L, config.width(len(mean)), config.d_h
    m = 0
    while step := with_prefix(tensors, f"steps.{m}."):
        m += 1
        W = step["concat.mlp.weight"]
        if config.low_rank:
            # Without BLAS, whose threads would go on spinning beside those of the encoder.
            W = np.einsum("er,rd->ed", W, step["concat.down.weight"])
        up = [step[f"blocks.{i}.up.weight"] for i in range(L)]
        down = [step[f"blocks.{i}.down.weight"] for i in range(L)]
        packed.add_step(
            step["codebook"],
            step.get("in_proj.weight"),
            W,
            step.get("concat.mlp.bias"),
            np.stack(up) if L else np.empty((0, d_h, d_e), np.float32),
            np.stack(down) if L else np.empty((0, d_e, d_h), np.float32),
            step.get("out_proj.weight"),
            step.get("preselect"),
        )
    return packed


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name starts with the prefix, by the rest of the name."""
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _shapes(
    config: QINCoConfig, d: int, M: int, nbits: int, nlist: int | None
) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor of a codec, `mean` included."""
    for name, value, low, high in (
        ("d", d, 1, 1 << 20), ("M", M, 1, 1 << 10), ("nbits", nbits, 4, 8),
        ("nlist", 1 if nlist is None else nlist, 1, 1 << 40), ("L", config.L, 0, 1 << 10),
    ):  # fmt: skip
        if not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{name}: expected an integer in {low}..{high}, got {value!r}")
    K, d_e, d_h = 1 << nbits, config.width(d), config.d_h
    shapes: dict[str, tuple[int, ...]] = {
        "mean": (d,),
        "base": (K if nlist is None else nlist, d),
    }
    for m in range(M if nlist is not None else M - 1):
        s = f"steps.{m}."
        shapes[s + "codebook"] = (K, d)
        if config.A > 0:
            shapes[s + "preselect"] = (K, d)
        if d_e != d:
            shapes[s + "in_proj.weight"] = (d_e, d)
            shapes[s + "out_proj.weight"] = (d, d_e)
        if config.low_rank:
            shapes[s + "concat.down.weight"] = (d_h, d_e + d)
            shapes[s + "concat.mlp.weight"] = (d_e, d_h)
        else:
            shapes[s + "concat.mlp.weight"] = (d_e, d_e + d)
            shapes[s + "concat.mlp.bias"] = (d_e,)
        for i in range(config.L):
            shapes[f"{s}blocks.{i}.up.weight"] = (d_h, d_e)
            shapes[f"{s}blocks.{i}.down.weight"] = (d_e, d_h)
    return shapes


def _rows(name: str, x: np.ndarray, d: int) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim != 2 or x.shape[1] != d:
        raise ArgumentError(f"{name}: expected shape (n, {d}), got {x.shape}")
    return x


def _bar(n: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=n, desc="encoding", unit="vector", unit_scale=True, disable=not progress)
