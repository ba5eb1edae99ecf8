from __future__ import annotations

import numpy as np

from faiss_qinco.ranking.additive import RIDGE, AdditiveFit


def test_equals_dense_ridge_regression():
    rng = np.random.default_rng(0)
    n, M, K, d = 3000, 3, 16, 7
    codes = rng.integers(0, K - 1, (n, M), dtype=np.uint8)  # the last codeword is never used
    x = rng.standard_normal((n, d)).astype(np.float32)
    one_hot = np.zeros((n, M * K))
    for m in range(M):
        one_hot[np.arange(n), m * K + codes[:, m]] = 1
    dense = np.linalg.solve(one_hot.T @ one_hot + RIDGE * np.eye(M * K), one_hot.T @ x)
    fit = AdditiveFit(M, K, d, [0, 1])
    for i in range(0, n, 700):  # batches of uneven size
        fit.update(codes[i : i + 700], {0: x[i : i + 700], 1: 2 * x[i : i + 700]})
    C = fit.solve()
    np.testing.assert_allclose(C, dense.reshape(M, K, d), atol=1e-5)
    assert not C[:, K - 1].any()
    rest = one_hot[:, K:]  # a fit of the codes from the second on, to other targets
    dense = np.linalg.solve(rest.T @ rest + RIDGE * np.eye((M - 1) * K), rest.T @ (2 * x))
    np.testing.assert_allclose(fit.solve(1), dense.reshape(M - 1, K, d), atol=1e-5)


def test_recovers_additive_codebooks():
    rng = np.random.default_rng(1)
    n, M, K, d = 20000, 4, 16, 8
    truth = rng.standard_normal((M, K, d))
    codes = rng.integers(0, K, (n, M), dtype=np.uint8)
    x = sum(truth[m, codes[:, m]] for m in range(M))
    fit = AdditiveFit(M, K, d)
    fit.update(codes, {0: x})
    C = fit.solve()
    approximation = sum(C[m, codes[:, m]] for m in range(M))
    assert np.square(approximation - x).sum() < 1e-4 * np.square(x).sum()
