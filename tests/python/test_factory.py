from __future__ import annotations

import faiss
import pytest

import faiss_qinco as fq


@pytest.mark.parametrize(
    ("description", "nlist", "M", "nbits", "preset"),
    [
        ("IVF1024,QINCo8x8_XS", 1024, 8, 8, "XS"),
        ("IVF64_HNSW16,QINCo16x8_M", 64, 16, 8, "M"),
        ("IVF64_HNSW,QINCo4x6", 64, 4, 6, "auto"),
        ("QINCo8x8", None, 8, 8, "auto"),
        ("QINCo8_L", None, 8, 8, "L"),
        ("IVF8,QINCo2x4_auto", 8, 2, 4, "auto"),
        ("qinco8_xs", None, 8, 8, "XS"),
        ("IVF8,qinco2X4_Auto", 8, 2, 4, "auto"),
    ],
)
def test_understood(description, nlist, M, nbits, preset):
    index = fq.index_factory(32, description, faiss.METRIC_INNER_PRODUCT)
    assert (index.d, index.M, index.nbits) == (32, M, nbits)
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    expected = preset if preset == "auto" else fq.index_factory(32, f"QINCo8_{preset}").config
    assert index.config == expected
    if nlist is None:
        assert type(index) is fq.IndexQINCo
    else:
        assert index.nlist == nlist
        assert isinstance(index.quantizer, faiss.IndexHNSW) == ("HNSW" in description)


@pytest.mark.parametrize(
    "description",
    ["", "IVF16", "PQ8", "QINCo", "QINCox8", "QINCo8x9", "QINCo0", "QINCo8x8_XXL", "IVF0,QINCo8",
     "IVF16,QINCo8x8,", "ivf16,qinco8", "opq4,QINCo8", "OPQ5,QINCo8", "PCA33,QINCo8", "PCA0,QINCo8",
     "PQ4,QINCo8", "IVF16,PCA16,QINCo8", ",QINCo8", "PCA16,",
     "RR9999999999,QINCo8", "Pad2000000,QINCo8", "QINCo8,PCA16"],
)  # fmt: skip
def test_not_understood(description):
    for error in (ValueError, RuntimeError):
        with pytest.raises(error):
            fq.index_factory(32, description)


@pytest.mark.parametrize(
    ("transforms", "kinds", "d"),
    [
        ("OPQ8", ["OPQMatrix"], 32),
        ("OPQ8_16", ["OPQMatrix"], 16),
        ("PCAWR16", ["PCAMatrix"], 16),
        ("L2norm, PCAR24, RR", ["NormalizationTransform", "PCAMatrix", "RandomRotationMatrix"], 24),
        ("ITQ16", ["ITQTransform"], 16),
        ("Pad48", ["RemapDimensionsTransform"], 48),
    ],
)
def test_transforms_in_front(transforms, kinds, d):
    index = fq.index_factory(32, f"{transforms},IVF64_HNSW32,qinco8x4_xs")
    assert [type(transform).__name__ for transform in index.chain] == kinds
    assert (index.d, index.index.d, index.nlist, index.M, index.nbits) == (32, d, 64, 8, 4)
    assert type(index.index) is fq.IndexIVFQINCo and index.quantizer.d == d


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("IDMap,{}", "IndexIDMap({})"),
        ("{},IDMap2", "IndexIDMap2({})"),
        ("IDMap2,PCA16,{},RFlat", "IndexIDMap2(IndexRefineFlat(IndexPreTransform({}),IndexFlat))"),
        ("PCA16, {}, Refine(SQ8)", "IndexRefine(IndexPreTransform({}),IndexScalarQuantizer)"),
        ("L2norm,PCA16,{},Refine(PQ4x4np)", "IndexRefine(IndexPreTransform({}),IndexPQ)"),
        ("{},Refine(PCA16,SQ8)", "IndexRefine({},IndexPreTransform)"),
        ("{},RFlat", "IndexRefineFlat({},IndexFlat)"),
    ],
)
@pytest.mark.parametrize("leaf", ["IVF64,QINCo8x4", "IVF64_HNSW8,QINCo8x4_XS", "qinco8_xs"])
def test_order_and_nesting_are_those_of_faiss(description, expected, leaf):
    def words(index, leaf):
        """The classes, from outside in."""
        index = faiss.downcast_index(index) if isinstance(index, faiss.Index) else index
        name = type(index).__name__
        if "IDMap" in name or (name == "IndexPreTransform"):
            return f"{name}({words(index.index, leaf)})"
        if "Refine" in name:
            ranks = type(faiss.downcast_index(index.refine_index)).__name__
            ranks = ranks.removesuffix("L2").removesuffix("IP")
            return f"{name}({words(index.base_index, leaf)},{ranks})"
        return "leaf"

    ours = fq.index_factory(32, description.format(leaf), faiss.METRIC_INNER_PRODUCT)
    theirs = faiss.index_factory(
        32, description.format("IVF64,PQ4x4").replace(" ", ""), faiss.METRIC_INNER_PRODUCT
    )
    assert words(ours, leaf) == expected.format("leaf")
    if not words(theirs, leaf).startswith("IndexRefineFlat(IndexIDMap"):  # faiss 1.9
        assert words(theirs, leaf) == words(ours, leaf)
    assert ours.d == 32 and ours.metric_type == faiss.METRIC_INNER_PRODUCT


@pytest.mark.parametrize(
    "description",
    ["IDMap,IDMap,QINCo8", "IDMap", "IDMap3,QINCo8", "QINCo8,Refine()", "QINCo8,Refine(QINCo8)",
     "QINCo8,Refine(nonsense)", "QINCo8,RFlat,RFlat", "RFlat,QINCo8", "Flat,Refine(QINCo8)",
     "IDMap,QINCo8,RFlat,IDMap2", "QINCo8,Refine(IVF4,Flat"],
)  # fmt: skip
def test_what_cannot_be_nested(description):
    with pytest.raises(fq.errors.FactoryError):
        fq.index_factory(32, description)


def test_config_in_any_case():
    assert fq.IndexQINCo(32, 8, config="xs").config == fq.IndexQINCo(32, 8, config="XS").config
    assert fq.IndexQINCo(32, 8, config="AUTO").config == "auto"
