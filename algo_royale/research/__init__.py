"""Research: what run-backtest computes."""

# A stage is one thread of arithmetic: workers are parallel, libraries below them must not be. To be set before a worker
# process starts, for numpy reads it when it is imported.
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "VECLIB_MAXIMUM_THREADS": "1",
}  # fmt: skip
