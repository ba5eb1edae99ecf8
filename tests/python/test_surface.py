"""What FAISS's indexes offer in Python: the table in the docs, and what our own goes beyond it."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.index.absent import ABSENT

from .conftest import new_index

README = Path(fq.__file__).parent / "index" / "README.md"
N = 3000  # vectors of `filled`


def of_faiss():
    classes = faiss.IndexIVFPQ, faiss.IndexIVFResidualQuantizer
    return {name for kind in classes for name in dir(kind) if not name.startswith("__")}


def test_the_table_names_all_that_faiss_has():
    row = r"^\| `(\w+)` \| (same|differs|absent) \| ?(.*?) ?\|$"
    rows = re.findall(row, README.read_text(), re.M)
    table = {name: (here, how) for name, here, how in rows}
    assert len(table) == len(rows) and set(table) == of_faiss()
    for name, (here, how) in table.items():
        assert (here == "absent") == (name in ABSENT) == (not hasattr(fq.IndexIVFQINCo, name)), name
        assert (how == "") == (here == "same"), name
        assert here != "absent" or how == ABSENT[name], name


def test_what_is_absent_says_why(filled):
    with pytest.raises(AttributeError, match=r"add_core.*raw pointers"):
        filled.add_core  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'nprobes'$"):
        filled.nprobes  # noqa: B018
    assert not hasattr(filled, "this")


# -- reconstruction and codes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "flat"),
    [(faiss.METRIC_L2, False), (faiss.METRIC_INNER_PRODUCT, False), (faiss.METRIC_L2, True)],
)
def test_what_results_decode_to(trained, learn, base, queries, metric, flat):
    """R is what `reconstruct` gives, and D the distance to it: lengths are corrected in both."""
    if flat:
        index = fq.IndexQINCo(128, 4, config=new_index().config, training=new_index().training)
        index.train(learn)
    else:
        index = fq.deserialize_index(trained[metric])
        index.nprobe = 4
    index.add(base[:500])
    D, I, R = index.search_and_reconstruct(queries[:20], 7)
    expected_D, expected_I = index.search(queries[:20], 7)
    np.testing.assert_array_equal(D, expected_D)
    np.testing.assert_array_equal(I, expected_I)
    np.testing.assert_array_equal(R, index.reconstruct_n()[I])
    exact = np.einsum("qkd,qd->qk", R, queries[:20])
    if metric == faiss.METRIC_L2:
        exact = np.square(R - queries[:20, None]).sum(2)
    np.testing.assert_allclose(D, exact, rtol=1e-4)
    if not flat:
        index.make_direct_map()
    np.testing.assert_array_equal(index.reconstruct_batch(I[0]), R[0])


def test_by_fewer_codes_whole_vectors_come_back(filled, queries):
    filled.nprobe, filled.M_search = 4, 2
    D, I, R = filled.search_and_reconstruct(queries[:5], 3)
    np.testing.assert_array_equal(I, filled.search(queries[:5], 3)[1])
    np.testing.assert_array_equal(R, filled.reconstruct_n()[I])
    assert (np.square(R - queries[:5, None]).sum(2) != D).any()


@pytest.mark.parametrize("nbits", [4, 5])
def test_codes_of_results_are_those_of_the_lists(learn, base, queries, nbits):
    index = new_index(nbits=nbits)
    index.train(learn[:2000])
    index.add(base[:300])
    index.nprobe = 16
    _, I, codes = index.search_and_return_codes(queries[:3], 310, include_listnos=True)
    stored = index.sa_encode(base[:300])
    np.testing.assert_array_equal(codes[I >= 0], stored[I[I >= 0]])
    assert (codes[I < 0] == 255).all() and (I < 0).sum() == 30
    without = index.search_and_return_codes(queries[:3], 310)[2]
    np.testing.assert_array_equal(without, codes[:, :, 1:])


def test_selectors_and_entries(filled, queries):
    params = faiss.SearchParametersIVF(nprobe=16, sel=faiss.IDSelectorBatch([7, 9]))
    _, I, R = filled.search_and_reconstruct(queries[:2], 3, params=params)
    assert np.sort(I).tolist() == [[-1, 7, 9]] * 2
    assert np.isnan(R[I < 0]).all()
    np.testing.assert_array_equal(R[I == 7], np.repeat(filled.reconstruct_n(7, 1), 2, axis=0))


def test_from_offset_and_by_hand(filled, base):
    lists = [filled.invlists.list_size(l) for l in range(16)]
    list_no = int(np.argmax(lists))
    ids, codes = filled.invlists.get_ids(list_no), filled.invlists.get_codes(list_no)
    vectors = filled.decode_vectors(codes, np.full(len(ids), list_no))
    np.testing.assert_array_equal(vectors, filled.reconstruct_n()[ids])
    np.testing.assert_array_equal(filled.reconstruct_from_offset(list_no, 5), vectors[5])
    assert filled.invlists.get_single_id(list_no, 5) == ids[5]
    np.testing.assert_array_equal(filled.invlists.get_single_code(list_no, 5), codes[5])
    again = filled.encode_vectors(base[ids], np.full(len(ids), list_no))
    np.testing.assert_array_equal(again, codes)
    for bad in ((16, 0), (-1, 0), (list_no, len(ids)), (list_no, -1)):
        with pytest.raises(ValueError):
            filled.reconstruct_from_offset(*bad)


def test_encoding_for_lists_of_ones_choice(empty, base):
    lists = np.arange(20) % 16
    codes = empty.encode_vectors(base[:20], lists, include_listnos=True)
    assert codes[:, 0].tolist() == lists.tolist()
    np.testing.assert_array_equal(empty.sa_decode(codes), empty.decode_vectors(codes[:, 1:], lists))
    for bad in (lists - 1, lists + 1):
        with pytest.raises(RuntimeError, match="list number"):
            empty.encode_vectors(base[:20], bad)
    with pytest.raises(ValueError, match="list_nos"):
        empty.encode_vectors(base[:20], lists[:3])


def test_codes_can_be_added_with_inner_product(trained, base, queries):
    index = fq.deserialize_index(trained[faiss.METRIC_INNER_PRODUCT])
    codes = index.sa_encode(base[:100])
    index.add_sa_codes(codes)
    np.testing.assert_allclose(index.reconstruct_n(), index.sa_decode(codes), rtol=2e-3, atol=0.1)
    bad = codes.copy()
    bad[3, 0] = 16
    with pytest.raises(RuntimeError, match="list number"):
        index.add_sa_codes(bad)
    assert index.ntotal == 100


# -- lists and maps -------------------------------------------------------------------------------


def test_lists_in_numbers(filled, capsys):
    control = faiss.IndexIVFFlat(faiss.IndexFlatL2(128), 128, 16)
    control.quantizer.add(filled.quantizer.reconstruct_n(0, 16))
    control.is_trained = True
    control.add(np.load(Path(fq.__file__).parent / "data/sift_demo/base.npy")[:N].astype("f4"))
    invlists = filled.invlists
    assert invlists.imbalance_factor() == pytest.approx(control.invlists.imbalance_factor())
    assert invlists.sizes().tolist() == [control.get_list_size(l) for l in range(16)]
    invlists.print_stats()
    printed = capsys.readouterr().out.splitlines()
    sizes = invlists.sizes()
    for line in printed:
        most, count = (int(word) for word in re.findall(r"\d+", line))
        assert ((sizes < most) & (sizes >= most // 2)).sum() == count
    assert "InvertedLists" in repr(invlists)


def test_a_map_is_asked_for_before_training_and_stays(base, learn, tmp_path):
    index = new_index()
    index.set_direct_map_type(faiss.DirectMap.Hashtable)
    for _ in range(2):  # the second one makes another engine
        index.train(learn[:2000])
        index.add_with_ids(base[:9], np.arange(9) * 10**12)
        assert index.reconstruct_batch([8 * 10**12]).shape == (1, 128)
        kept = index
        index = copy.copy(index)
        index.reset()
    fq.write_index(kept, tmp_path / "index")
    again = fq.read_index(tmp_path / "index")
    assert again.direct_map.type == faiss.DirectMap.Hashtable
    assert again.direct_map.get(10**12) == kept.direct_map.get(10**12)
    assert repr(again.direct_map) == "<DirectMap of type Hashtable>"
    cut = again.truncate(2)
    assert cut.direct_map.type == 2 and len(cut.reconstruct(10**12)) == 128


def test_k_means_by_an_index_of_ones_own(learn):
    index = new_index()
    index.clustering_index = faiss.IndexFlatL2(128)
    index.cp.niter = 2
    index.train(learn[:2000])
    assert index.clustering_index.ntotal == 16  # it was used
    with pytest.raises(TypeError):
        index.clustering_index = "gpu"


# -- torch ----------------------------------------------------------------------------------------


def test_tensors_in_tensors_out(filled, queries, base):
    torch = pytest.importorskip("torch")
    q = torch.from_numpy(queries[:5])
    filled.nprobe = 4
    D, I = filled.search(q, 3)
    assert torch.is_tensor(D) and I.dtype == torch.int64
    np.testing.assert_array_equal(I.numpy(), filled.search(queries[:5], 3)[1])
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert filled.search(q.to(dtype), 3)[1].shape == (5, 3)
    buffer = torch.empty((5, 3))
    D, _ = filled.search(q, 3, D=buffer, params=faiss.SearchParametersIVF(nprobe=2))
    assert D is buffer and (buffer > 0).all()
    lims, _, ids = filled.range_search(q, 1e6)
    assert lims.dtype == torch.int64 and int(lims[-1]) == len(ids)
    assert all(map(torch.is_tensor, filled.search_and_reconstruct(q, 3)))
    assert torch.is_tensor(filled.sa_encode(q)) and torch.is_tensor(
        filled.sa_decode(filled.sa_encode(q))
    )
    filled.add_with_ids(q.requires_grad_(), torch.arange(5) + 10**9)
    filled.make_direct_map()
    assert torch.is_tensor(filled.reconstruct_batch(torch.tensor([10**9])))
    assert isinstance(filled.reconstruct(10**9), np.ndarray)
    assert filled.remove_ids(torch.tensor([10**9])) == 1
    with pytest.raises(ValueError):
        filled.search(q[:, :4], 3)
    coarse = torch.full((5, 3), 7, dtype=torch.bfloat16)  # which NumPy cannot write to
    assert filled.search(q, 3, D=coarse)[0] is coarse
    assert torch.equal(coarse, filled.search(q, 3)[0].to(torch.bfloat16))
