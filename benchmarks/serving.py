"""How fast is a single row: `transform`, and the same model in onnxruntime?

A network 50-128-64-8 and its mirror image, float32, one thread. Behind a web service rows come one
by one, and what counts is the time of a call: in Python most of it goes into checking the input,
in onnxruntime into starting the operators.

    python benchmarks/serving.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
import skl2onnx
import torch
from _common import describe_environment, median, print_environment, run_in_turns, write_json
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skae.onnx  # noqa: F401
from skae import AutoencoderOutlierDetector, AutoencoderTransformer

CALLS_IN_A_RUN = 200


def session_of(model, X, **options):
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    graph = skl2onnx.to_onnx(model, X[:1], options={id(model): options} if options else None)
    return onnxruntime.InferenceSession(graph.SerializeToString(), settings)


def repeated(call):
    def run(_):
        for _ in range(CALLS_IN_A_RUN):
            result = call()
        return np.isfinite(result[0]).all()

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    environment = describe_environment(["torch", "numpy", "onnxruntime", "skl2onnx"])
    print_environment(environment)

    X = np.random.default_rng(0).standard_normal((2000, 50), dtype=np.float32)
    row = X[:1]
    autoencoder = AutoencoderTransformer(8, max_iter=2, device="cpu", random_state=0).fit(X)
    pipeline = make_pipeline(StandardScaler(), autoencoder).fit(X)
    detector = AutoencoderOutlierDetector(device="cpu", random_state=0).fit(X)
    pairs = {
        "codes": (
            autoencoder.transform,
            session_of(autoencoder, X),
        ),
        "codes behind a StandardScaler": (pipeline.transform, session_of(pipeline, X)),
        "scores": (
            autoencoder.score_samples,
            session_of(autoencoder, X, score_samples=True),
        ),
        "p-values of the detector": (detector.p_values, session_of(detector, X, p_values=True)),
    }
    calls = {}
    for name, (method, session) in pairs.items():
        calls[f"{name}, Python"] = repeated(lambda method=method: method(row))
        calls[f"{name}, onnxruntime"] = repeated(
            lambda session=session: session.run(None, {"X": row})
        )
    for call in calls.values():
        call(0)
    runs = run_in_turns(calls, arguments.repeats)
    results = {}
    print("\nmicroseconds a row: median, and least of all runs")
    for name, own_runs in runs.items():
        times = [1e6 * run.seconds / CALLS_IN_A_RUN for run in own_runs]
        results[name] = {"median": median(times), "least": min(times)}
        print(f"  {name:<45} {results[name]['median']:7.1f} {results[name]['least']:7.1f}")
    ratios = {
        name: results[f"{name}, Python"]["median"] / results[f"{name}, onnxruntime"]["median"]
        for name in pairs
    }
    print("\ntime of Python over that of onnxruntime (medians)")
    for name, ratio in ratios.items():
        print(f"  {name:<45} {ratio:.1f}")
    write_json(arguments.json, {"environment": environment, "results": results, "ratios": ratios})


if __name__ == "__main__":
    main()
