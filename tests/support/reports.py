"""A report with a field of each kind that the command line tells of."""

REPORT = {
    "report_schema": "1.0",
    "summary": {
        "parameters": {"before": 35_800, "after": 35_800},
        "nonzero": {"before": 35_800, "after": 11_000},
        "sparsity": {"masked": 0.7, "prunable": 0.7, "total": 0.69},
        "size_bytes": {
            "dense_before": 144_000,
            "artifact": 144_000,
            "compressed_before": 130_000,
            "compressed": 50_000,
        },
        "macs": {"before": 35_800, "after": 35_800, "effective": 11_000},
        "metrics": [
            {
                "name": "accuracy",
                "split": "test",
                "n": 540,
                "higher_is_better": True,
                "average": None,
                "baseline": 0.9815,
                "baseline_ci95": [0.97, 0.99],
                "pruned": 0.93,
                "final": 0.9796,
                "final_ci95": [0.96, 0.99],
                "drop": 0.0019,
                "drop_ci95": [-0.005, 0.009],
                "method": "paired bootstrap, 10000 draws",
                "p_value": 1.0,
                "flips": {"became_wrong": 6, "became_right": 5},
            }
        ],
        "worst_class": {"label": 8, "n": 52, "drop": 0.0385, "drop_ci95": [-0.02, 0.1]},
        "latency": [
            {
                "batch_size": 1,
                "device": "cpu",
                "baseline_ms": {"p50": 0.2, "p95": 0.3},
                "final_ms": {"p50": 0.2, "p95": 0.3},
                "speedup": 1.0,
                "why": "zeros are multiplied too",
            }
        ],
    },
    "classes": [
        {"label": 8, "n": 52, "baseline": 0.9615, "final": 0.9231, "drop": 0.0385, "drop_ci95": [-0.02, 0.1]}
    ],
    "controls": [],
    "warnings": ["small test split"],
}
