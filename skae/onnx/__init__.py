"""Conversion to ONNX: ``import skae.onnx``, then ``skl2onnx.to_onnx(pipeline, X[:1])``.

The import registers the estimators of skae with skl2onnx, for use in scikit-learn's Pipelines and
ColumnTransformers. It needs the extra ``onnx``.

Graphs are written layer by layer and not by ``torch.onnx``, which sees a module and no Pipeline:
scalers, options and the outlier detector have no place there. Its graphs of float64 do not run
either, because onnxruntime has convolutions and recurrences in float32 only; here they are
composed of products in float64. And a graph by hand keeps the losses in float64.

Examples
--------
>>> import numpy as np
>>> import onnxruntime
>>> import skl2onnx
>>> import skae.onnx
>>> from skae import AutoencoderTransformer
>>> X = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
>>> autoencoder = AutoencoderTransformer(2, max_iter=2, random_state=0).fit(X)
>>> model = skl2onnx.to_onnx(autoencoder, X[:1], options={"score_samples": True})
>>> session = onnxruntime.InferenceSession(model.SerializeToString())
>>> codes, scores = session.run(None, {"X": X})
>>> codes.shape, scores.shape
((200, 2), (200,))
"""

try:
    from skae.onnx._converters import register
except ImportError as error:
    if (error.name or "").partition(".")[0] not in ("onnx", "skl2onnx"):
        raise
    raise ImportError(
        f"skae.onnx needs the package {error.name}; install it with: pip install 'skae[onnx]'"
    ) from error

__all__: list[str] = []

register()
