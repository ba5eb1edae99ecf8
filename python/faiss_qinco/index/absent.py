"""What FAISS's IVF indexes have in Python and ours do not, and why: an AttributeError says so."""

_POINTERS = "it takes raw pointers; the method without {} takes arrays"
_OBJECT = "it is an object of FAISS's C++; {}"
_PQ = "of product quantizers alone"

ABSENT: dict[str, str] = {
    **{
        f"{name}_c": _POINTERS.format("_c")
        for name in (
            "add", "add_sa_codes", "add_with_ids", "assign", "range_search",
            "range_search_preassigned", "reconstruct", "reconstruct_batch", "reconstruct_n",
            "remove_ids", "sa_decode", "sa_encode", "search", "search_and_reconstruct",
            "search_and_return_codes", "search_preassigned", "train", "update_vectors",
        )
    },
    **{
        f"{name}_ex": _POINTERS.format("_ex") for name in ("add", "add_with_ids", "search", "train")
    },
    "add_core": "it takes raw pointers; search_preassigned's counterpart is add_sa_codes",
    "add_core_o": "it takes raw pointers; add_sa_codes stores codes that are there already",
    "aq": "codes are not additive; codec is what encodes and decodes them",
    "compute_residual": "it takes raw pointers; x - index.reconstruct(key) is the residual",
    "compute_residual_n": "it takes raw pointers; x - index.reconstruct_batch(keys) are they",
    "decode_listno": "it takes raw pointers; the first coarse_code_size() bytes of a code, "
    "little-endian, are the list",
    "encode_listno": "it takes raw pointers; encode_vectors(…, include_listnos=True) writes lists",
    "decode_multiple": "it takes raw pointers; decode_vectors takes arrays",
    "encode_multiple": "it takes raw pointers; encode_vectors takes arrays",
    "encode": "it takes raw pointers; encode_vectors takes arrays",
    "get_CodePacker": _OBJECT.format("invlists.get_codes gives codes one after the other"),
    "get_InvertedListScanner": _OBJECT.format("search_preassigned searches lists of your choice"),
    "get_distance_computer": _OBJECT.format("reconstruct gives what distances are to"),
    "replace_invlists": "lists are held by the extension; read_index maps them from a file",
    "search1": "its result handler is C++",
    "search_subset": "it takes raw pointers; params=…(sel=faiss.IDSelectorBatch(ids)) does that",
    "train_encoder": "codes and lists are trained in one: train",
    "train_encoder_num_vectors": "TrainingConfig.max_points is that number",
    "train_q1": "train clusters too; train_from_codec takes a quantizer that is trained",
    "train_with_queries": "it takes raw pointers, and FAISS's IVF indexes do not use the queries",
    "this": "this is no C++ object",
    "thisown": "this is no C++ object",
    "rq": "codes are not residual quantizer's; codec is what encodes and decodes them",
    "pq": _PQ + "; codec is what encodes and decodes",
    "precomputed_table": "it is the extension's: see use_precomputed_table and precompute_table",
    "scan_table_threshold": _PQ,
    "polysemous_ht": _PQ,
    "polysemous_training": _PQ,
    "do_polysemous_training": _PQ,
    "find_duplicates": _PQ,
    "ScannerMode_OnTheFly": _PQ,
    "ScannerMode_Precomputed": _PQ,
}  # fmt: skip
