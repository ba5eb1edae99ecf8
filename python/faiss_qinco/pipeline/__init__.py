"""From vector files larger than memory to a searched index: stages that can be killed anywhere and
run again, in bounded memory, with files in between. A module each:

    coarse.train_coarse   vectors -> centroids                    faiss-qinco train-coarse
    (index.train)         vectors, centroids -> an empty index    faiss-qinco train
    encode.encode         vectors, index -> encoded shards        faiss-qinco encode
    build.build           shards -> an index file                 faiss-qinco build
    merge.merge_indexes   index files -> an index file            faiss-qinco merge
    estimate.estimate     what all of it will take                faiss-qinco plan
"""
