"""What the displays draw: data, labels, legends and colours, not pixels."""

import inspect
import subprocess
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import skae.plotting
from skae import AutoencoderOutlierDetector, AutoencoderTransformer, VAETransformer
from skae.networks import Conv2dNetwork
from skae.plotting import (
    LatentDisplay,
    LossCurveDisplay,
    OutlierReasonDisplay,
    OutlierScoreDisplay,
    ReconstructionDisplay,
)
from skae.plotting._axes import COLORS, category_style, point_map
from skae.plotting._estimators import encoder_of, part_with


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(n_class=3, return_X_y=True)
    return X[:200], y[:200]


@pytest.fixture(scope="module")
def pipeline(digits):
    """Scaler and autoencoder, so that pixels and what the network sees differ in their units."""
    return make_pipeline(MinMaxScaler(), small(init="random")).fit(digits[0])


@pytest.fixture(scope="module")
def iris():
    return load_iris(as_frame=True).data


def small(**parameters):
    defaults = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}
    return AutoencoderTransformer(2, **(defaults | parameters))


def texts_of_legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def labels(ticks):
    return [tick.get_text() for tick in ticks]


SCORES = np.array([0.0, 1.0, 1.5, 1.0, 9.0, 4.0])
REASONS = pd.DataFrame(
    {
        "contribution": [0.5, 3.0, 1.5],
        "value": ["red", 9.7, 1],
        "expected": [None, 5.123456, 2.0],
        "as_far_out": [0.3, 0.001, 0.2],
    },
    index=["colour", "area", "count"],
)
DISPLAYS = [
    LossCurveDisplay([3.0, 2.0, 1.0], validation_loss_curve=[3.0, 2.5, 2.6], best_loss=2.5),
    ReconstructionDisplay({"original": np.eye(4), "again": np.eye(4) / 2}, image_shape=(2, 2)),
    ReconstructionDisplay({"original": np.eye(4), "again": np.eye(4) / 2}),
    LatentDisplay(np.arange(12.0).reshape(6, 2), list("aabbcc"), y_name="letter"),
    LatentDisplay(np.arange(18.0).reshape(6, 3), np.linspace(0, 1, 6)),
    LatentDisplay(
        np.zeros((3, 2)),
        grid=([0.0, 1.0], [0.0, 1.0, 2.0]),
        decoded=np.arange(24.0).reshape(3, 2, 4),
        image_shape=(2, 2),
    ),
    OutlierScoreDisplay(SCORES, threshold=3.0, y=[0, 0, 0, 0, 1, 1], row_names=list("abcdef")),
    OutlierReasonDisplay(REASONS, row_name=7, outlier_score=5.0, threshold=3.0, p_value=0.01),
]
KINDS = [{}, {}, {"kind": "heatmap"}, {}, {}, {"kind": "decoded"}, {}, {}]
each_display = pytest.mark.parametrize(
    ("display", "kind"),
    list(zip(DISPLAYS, KINDS, strict=True)),
    ids=["loss", "images", "heatmap", "scatter", "pairs", "decoded", "outliers", "reasons"],
)


# The convention


def test_exported_names_are_sorted_and_exist():
    assert skae.plotting.__all__ == sorted(skae.plotting.__all__)
    for name in skae.plotting.__all__:
        assert getattr(skae.plotting, name).__name__ == name


def test_matplotlib_is_not_imported_before_something_is_drawn():
    code = "import sys, skae, skae.plotting; print('matplotlib' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (output.stdout, output.stderr) == ("False\n", "")


@each_display
def test_without_matplotlib_the_error_says_so(display, kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    name = type(display).__name__
    with pytest.raises(ImportError, match=rf"{name}.plot requires matplotlib.*pip install"):
        display.plot()
    arguments = [PCA()] if name == "LossCurveDisplay" else [PCA(), np.eye(3)]
    with pytest.raises(ImportError, match=rf"{name}.from_estimator requires matplotlib"):
        type(display).from_estimator(*arguments)


@each_display
def test_constructors_only_store(display, kind):
    parameters = list(inspect.signature(type(display)).parameters)
    values = {name: object() for name in parameters}
    assert vars(type(display)(**values)) == values


@each_display
def test_plot_returns_the_display_and_makes_a_figure_of_its_own(display, kind):
    before = plt.figure()
    assert display.plot(**kind) is display
    assert display.figure_ is display.ax_.figure is not before
    first = display.ax_
    assert display.plot(**kind).ax_ is not first


@each_display
def test_plot_draws_into_given_axes_alone(display, kind):
    figure, (ax, other) = plt.subplots(1, 2)
    display.plot(ax=ax, **kind)
    assert display.ax_ is ax
    assert display.figure_ is figure
    assert plt.get_fignums() == [figure.number]
    assert not other.has_data()
    figure.canvas.draw()


@each_display
@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_everything_stands_out_from_the_background(display, kind, style):
    with plt.style.context(style):
        display.plot(**kind)
        figure = display.figure_
        figure.canvas.draw()
    assert np.mean(to_rgb(figure.get_facecolor())) == (0.0 if style == "dark_background" else 1.0)
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert texts
    for text in texts:
        assert contrast(text.get_color(), figure.get_facecolor()) > 4.5, text
    for ax in figure.axes:
        for line in ax.lines:
            assert contrast(line.get_color(), ax.get_facecolor()) > 2.0, line
        for points in ax.collections:
            if isinstance(points, PathCollection):
                for color in points.get_facecolors():
                    assert contrast(color, ax.get_facecolor()) > 2.0


# Colours


def linear(color):
    value = np.array(to_rgb(color))
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(color, other):
    """Contrast of the Web Content Accessibility Guidelines, from 1 to 21."""
    low, high = sorted(linear(c) @ [0.2126, 0.7152, 0.0722] + 0.05 for c in (color, other))
    return high / low


# Machado, Oliveira & Fernandes 2009, full severity, for linear RGB.
SIMULATIONS = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def oklab(rgb):
    """Ottosson's perceptual colour space, in which neighbours differ by about 0.02."""
    cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    axes = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.array(axes) @ np.cbrt(np.array(cones) @ rgb)


@pytest.mark.parametrize("vision", SIMULATIONS)
def test_six_colours_are_told_apart_with_any_colour_vision(vision):
    seen = [
        oklab(np.clip(np.array(SIMULATIONS[vision]) @ linear(color), 0, 1)) for color in COLORS[:6]
    ]
    distances = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(distances) > 0.07


def test_colours_have_contrast_on_white_and_on_black():
    for place, color in enumerate(COLORS):
        at_least = 3.0 if place < 4 else 2.2
        assert min(contrast(color, "white"), contrast(color, "black")) > at_least, color


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_values_of_points_have_contrast(style):
    with plt.style.context(style):
        ax = plt.subplots()[1]
    for color in point_map(ax)(np.linspace(0, 1, 11)):
        assert contrast(color, ax.get_facecolor()) > 2.0


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_empty_pixels_are_of_the_colour_of_the_background(style):
    with plt.style.context(style):
        display = ReconstructionDisplay({"original": np.eye(4)}, image_shape=(2, 2)).plot()
        image = display.artists_["original"][0]
    assert contrast(image.cmap(0.0), display.figure_.get_facecolor()) == 1.0
    assert contrast(image.cmap(1.0), display.figure_.get_facecolor()) == 21.0


def test_a_hundred_categories_look_different():
    assert len({tuple(category_style(number).values()) for number in range(100)}) == 100


# What is shown of pipelines, searches and detectors


def test_parts_are_found_from_the_inside(digits):
    X, y = (part[:60] for part in digits)
    steps = [("scale", MinMaxScaler()), ("encode", small(max_iter=1))]
    classifier = Pipeline([*steps, ("classify", LogisticRegression())])
    search = GridSearchCV(classifier, {"encode__n_components": [2]}, cv=2).fit(X, y)
    best = search.best_estimator_
    assert part_with(search, "loss_curve_") is best["encode"]
    encoder = encoder_of(search)
    assert_array_equal(encoder.transform(X), best[:-1].transform(X))
    assert encoder_of(best["encode"]) is best["encode"]
    assert part_with(search, "offset_") is None


def test_the_autoencoder_in_a_detector_is_found_behind_its_scaler(digits):
    X, _ = digits
    model = make_pipeline(MinMaxScaler(), AutoencoderOutlierDetector(small())).fit(X)
    scaler, detector = model
    assert part_with(model, "loss_curve_") is detector.estimator_
    codes = detector.estimator_.transform(scaler.transform(X))
    assert_array_equal(encoder_of(model).transform(X), codes)


def test_estimators_without_a_code_are_refused(digits):
    X, y = digits
    classifier = LogisticRegression(max_iter=1000).fit(X, y)
    for display in (LatentDisplay, ReconstructionDisplay):
        with pytest.raises(ValueError, match="LogisticRegression has no code to show"):
            display.from_estimator(classifier, X)
        with pytest.raises(NotFittedError):
            display.from_estimator(small(), X)


# LossCurveDisplay


def test_loss_curves_are_those_of_the_estimator(digits, pipeline):
    trained = pipeline[-1]
    display = LossCurveDisplay.from_estimator(pipeline)
    training, validation = display.lines_
    assert_array_equal(training.get_xdata(), [1, 2, 3])
    assert_array_equal(training.get_ydata(), trained.loss_curve_)
    assert_array_equal(validation.get_ydata(), trained.validation_loss_curve_)
    best = int(np.argmin(trained.validation_loss_curve_)) + 1
    assert_array_equal(display.best_.get_xydata(), [[best, trained.best_loss_]])
    assert texts_of_legend(display.ax_) == ["training", "validation", f"best epoch: {best}"]
    assert display.ax_.get_xlabel() == "epoch"
    assert display.ax_.get_ylabel() == "squared error per feature"


def test_the_loss_has_the_name_of_its_unit(digits):
    autoencoder = small(loss="bernoulli", early_stopping=False).fit(digits[0] / 16)
    display = LossCurveDisplay.from_estimator(autoencoder)
    assert display.ax_.get_ylabel() == "cross-entropy (nats per feature)"
    assert texts_of_legend(display.ax_) == ["training"]
    assert display.best_ is None


def test_weights_from_before_training_are_marked_as_such(digits):
    autoencoder = small(learning_rate_init=0.3, n_iter_no_change=3).fit(digits[0] / 16)
    assert autoencoder.best_loss_ not in autoencoder.validation_loss_curve_
    display = LossCurveDisplay.from_estimator(autoencoder)
    assert_array_equal(display.best_.get_ydata(), [autoencoder.best_loss_] * 2)
    assert texts_of_legend(display.ax_)[-1] == "returned: the weights before training"


def test_terms_of_a_variational_loss_are_drawn(digits):
    vae = VAETransformer(2, hidden_layer_sizes=(8,), max_iter=3, random_state=0)
    vae.fit(digits[0] / 16)
    display = LossCurveDisplay.from_estimator(vae)
    curves = [vae.loss_curve_, vae.validation_loss_curve_]
    curves += [vae.reconstruction_loss_curve_, vae.kl_curve_]
    for line, curve in zip(display.lines_, curves, strict=True):
        assert_array_equal(line.get_ydata(), curve)
    assert display.ax_.get_ylabel() == "minus the evidence lower bound (nats per row)"


def test_a_loss_of_another_package_has_no_unit(digits):
    X, y = digits
    network = MLPClassifier((4,), max_iter=2, random_state=0)
    with pytest.warns(ConvergenceWarning):
        network.fit(X, y)
    display = LossCurveDisplay.from_estimator(network)
    assert_array_equal(display.lines_[0].get_ydata(), network.loss_curve_)
    assert display.ax_.get_ylabel() == "loss"


def test_parts_are_drawn_beside_the_loss():
    parts = {"reconstruction": [1.5, 1.0], "Kullback-Leibler": [0.5, 0.5]}
    display = LossCurveDisplay([2.0, 1.5], parts=parts).plot(line_kwargs={"lw": 3})
    assert texts_of_legend(display.ax_) == ["training", *parts]
    for line, curve in zip(display.lines_[1:], parts.values(), strict=True):
        assert_array_equal(line.get_ydata(), curve)
        assert line.get_linewidth() == 3
    assert len({line.get_color() for line in display.lines_}) == 3


@pytest.mark.parametrize(
    ("curve", "scale"),
    [
        ([100.0, 1.0], "log"),
        ([2.0, 1.0], "linear"),
        ([100.0, -1.0], "linear"),
        ([9.0, 0.0], "linear"),
    ],
)
def test_the_scale_follows_the_losses(curve, scale):
    assert LossCurveDisplay(curve).plot().ax_.get_yscale() == scale
    assert LossCurveDisplay([3.0, 2.0]).plot(yscale=scale).ax_.get_yscale() == scale


def test_one_epoch_is_a_point():
    display = LossCurveDisplay([1.0]).plot()
    assert display.lines_[0].get_marker() == "o"
    display.figure_.canvas.draw()
    low, high = display.ax_.get_xlim()
    assert [tick for tick in display.ax_.get_xticks() if low <= tick <= high] == [1]


def test_loss_curves_need_epochs(digits):
    with pytest.raises(ValueError, match="PCA has no loss_curve_"):
        LossCurveDisplay.from_estimator(PCA().fit(digits[0]))
    with pytest.raises(NotFittedError):
        LossCurveDisplay.from_estimator(small())
    with pytest.raises(ValueError, match="yscale='cubic'"):
        LossCurveDisplay([1.0]).plot(yscale="cubic")


# ReconstructionDisplay


def picture_of(display):
    return np.ma.filled(display.artists_["original"][0].get_array(), np.nan)


def test_images_are_above_their_reconstructions_in_the_units_of_the_data(digits, pipeline):
    X, _ = digits
    display = ReconstructionDisplay.from_estimator(pipeline, X, image_shape=(8, 8), n_rows=3)
    picture = picture_of(display)
    gap = np.full((8, 2), np.nan)
    scaler, autoencoder = pipeline
    again = scaler.inverse_transform(autoencoder.reconstruct(scaler.transform(X[:3])))
    for top, rows in ((1, X[:3]), (11, again)):
        images = rows.reshape(3, 8, 8)
        line = np.hstack([images[0], gap, images[1], gap, images[2]])
        assert_allclose(picture[top : top + 8, 1:-1], line, rtol=1e-5, atol=1e-5)
    assert np.isnan(picture[9:11]).all()
    assert picture.shape == (20, 30)
    assert display.artists_["original"][0].get_clim() == (X[:3].min(), X[:3].max())
    assert labels(display.ax_.get_yticklabels()) == ["original", "reconstruction"]
    assert_array_equal(display.ax_.get_yticks(), [4.5, 14.5])


def test_images_continue_below(digits):
    X, _ = digits
    tables = {"original": X[:5], "half": X[:5] / 2}
    display = ReconstructionDisplay(tables, image_shape=(8, 8)).plot(n_columns=2)
    picture = picture_of(display)
    assert picture.shape == (6 * 10, 2 * 10)
    assert labels(display.ax_.get_yticklabels()) == ["original", "half"] * 3
    assert_array_equal(picture[21:29, 11:19], X[3].reshape(8, 8))
    assert_array_equal(picture[51:59, 1:9], X[4].reshape(8, 8) / 2)
    assert np.isnan(picture[40:, 10:]).all()


def test_colours_of_images():
    X = np.arange(24.0).reshape(2, 12)
    display = ReconstructionDisplay({"original": X}, image_shape=(2, 2, 3)).plot()
    picture = picture_of(display)
    assert picture.shape == (4, 8, 4)
    assert_allclose(picture[1:3, 1:3, :3], X[0].reshape(2, 2, 3) / 23)
    assert_array_equal(picture[1:3, :, 3], [[0, 1, 1, 0, 0, 1, 1, 0]] * 2)
    assert display.ax_.get_ylabel() == "original"


def test_a_network_knows_the_shape_of_its_images(digits):
    network = Conv2dNetwork((8, 8), channels=(2,))
    autoencoder = AutoencoderTransformer(2, network=network, max_iter=1, random_state=0)
    X = digits[0] / 16
    pipeline = make_pipeline(MinMaxScaler(), autoencoder).fit(X)
    assert ReconstructionDisplay.from_estimator(pipeline, X).image_shape == (8, 8)
    assert LatentDisplay.from_estimator(pipeline, X, kind="decoded").image_shape == (8, 8)


def test_noisy_images_stand_above_denoised_and_clean_ones(digits, pipeline):
    X, _ = digits
    noisy = X[:4] + 1.0
    display = ReconstructionDisplay.from_estimator(
        pipeline, noisy, X_clean=X, n_rows=4, image_shape=(8, 8)
    )
    assert labels(display.ax_.get_yticklabels()) == ["noisy", "denoised", "clean"]
    assert_array_equal(display.tables["noisy"], noisy)
    assert_array_equal(display.tables["clean"], X[:4])
    assert_allclose(
        display.tables["denoised"], pipeline.inverse_transform(pipeline.transform(noisy))
    )


def test_samples_are_led_back_through_the_pipeline(digits):
    X, _ = digits
    vae = VAETransformer(2, hidden_layer_sizes=(8,), max_iter=2, random_state=0)
    model = make_pipeline(MinMaxScaler(), vae).fit(X)
    display = ReconstructionDisplay.from_estimator(
        model, X, n_rows=3, n_samples=5, random_state=0, image_shape=(8, 8)
    )
    desired = model[0].inverse_transform(model[1].sample(5, random_state=0))
    assert_allclose(display.tables["sample"], desired)
    assert labels(display.ax_.get_yticklabels())[-1] == "sample"
    with pytest.raises(ValueError, match="n_samples=5 asks for new rows, and PCA has no method"):
        ReconstructionDisplay.from_estimator(PCA(2).fit(X), X, n_samples=5)


def test_rows_are_drawn_as_lines(iris):
    model = make_pipeline(StandardScaler(), PCA(2)).fit(iris)
    frame = iris.set_index("flower " + iris.index.astype(str))
    display = ReconstructionDisplay.from_estimator(model, frame, n_rows=6)
    assert display.axes_.shape == (2, 4)
    again = model.inverse_transform(model.transform(iris))
    for row in range(6):
        original, reconstruction = display.axes_.flat[row].lines
        assert_array_equal(original.get_ydata(), iris.iloc[row])
        assert_allclose(reconstruction.get_ydata(), again[row])
        assert display.axes_.flat[row].get_title() == f"flower {row}"
    assert texts_of_legend(display.axes_[0, 3]) == ["original", "reconstruction"]
    assert labels(display.axes_[1, 0].get_xticklabels()) == list(iris.columns)
    assert display.artists_["original"][5] is display.axes_[1, 1].lines[0]


def test_heat_maps_are_in_units_of_the_originals(iris):
    rows = iris.head(8).assign(constant=3.0)
    tables = {"original": rows, "shifted": rows + rows.std(ddof=0)}
    display = ReconstructionDisplay(tables, feature_names=list(rows.columns)).plot(kind="heatmap")
    original, shifted = (display.artists_[name][0] for name in tables)
    scaled = (rows - rows.mean()) / rows.std(ddof=0).replace(0, 1)
    assert_allclose(original.get_array(), scaled, atol=1e-12)
    moved = np.where(rows.std(ddof=0) == 0, 0.0, 1.0)
    assert_allclose(shifted.get_array(), scaled + moved, atol=1e-12)
    assert original.get_clim() == shifted.get_clim()
    assert [ax.get_title() for ax in display.axes_.flat] == list(tables)
    assert labels(display.axes_[0, 0].get_xticklabels()) == list(rows.columns)
    assert labels(display.axes_[0, 0].get_yticklabels()) == [f"row {number}" for number in range(8)]
    assert "standard deviations" in display.figure_.axes[-1].get_ylabel()


def test_sparse_rows_are_shown(digits):
    X, _ = digits
    autoencoder = small(max_iter=1).fit(X / 16)
    display = ReconstructionDisplay.from_estimator(autoencoder, sparse.csr_array(X / 16), n_rows=2)
    assert_array_equal(display.tables["original"], X[:2] / 16)
    LatentDisplay.from_estimator(autoencoder, sparse.csr_array(X / 16))


def test_set_output_changes_nothing(digits):
    X = pd.DataFrame(digits[0], columns=[f"pixel{number}" for number in range(64)])
    model = make_pipeline(MinMaxScaler(), PCA(2)).set_output(transform="pandas").fit(X)
    display = ReconstructionDisplay.from_estimator(model, X, n_rows=2)
    assert isinstance(display.tables["reconstruction"], np.ndarray)
    assert isinstance(LatentDisplay.from_estimator(model, X).codes, np.ndarray)


@pytest.mark.parametrize("shape", [(8, 7), (64,), (8, 8, 2), (2, 2, 4, 4)])
def test_image_shapes_that_do_not_fit(digits, shape):
    with pytest.raises(ValueError, match=r"image_shape=.* does not fit rows of 64 features"):
        ReconstructionDisplay({"original": digits[0][:2]}, image_shape=shape).plot()


def test_kinds_of_reconstruction_displays():
    display = ReconstructionDisplay({"original": np.eye(4)})
    with pytest.raises(ValueError, match="kind='movie' is not one of 'auto', 'images'"):
        display.plot(kind="movie")
    with pytest.raises(ValueError, match="kind='images' needs image_shape"):
        display.plot(kind="images")
    free = plt.figure().add_axes((0, 0, 1, 1))
    with pytest.raises(ValueError, match="has no place in a grid"):
        display.plot(ax=free)


# LatentDisplay


def test_codes_of_each_category_are_points_with_a_look_of_their_own(digits, pipeline):
    X, y = digits
    display = LatentDisplay.from_estimator(pipeline, X, y)
    codes = pipeline.transform(X)
    for label, points in enumerate(display.artists_):
        assert_array_equal(points.get_offsets(), codes[y == label])
        assert points.get_label() == str(label)
    looks = {
        (tuple(p.get_facecolor()[0]), p.get_paths()[0].vertices.shape) for p in display.artists_
    }
    assert len(looks) == 3
    assert texts_of_legend(display.ax_) == ["0", "1", "2"]
    assert display.ax_.get_xlabel() == "component 0"
    assert display.ax_.get_ylabel() == "component 1"


def test_values_get_a_colour_bar(iris):
    pca = PCA(2).fit(iris)
    width = iris["petal width (cm)"]
    display = LatentDisplay.from_estimator(pca, iris, width)
    (points,) = display.artists_
    assert_array_equal(points.get_array(), width)
    assert display.figure_.axes[-1].get_ylabel() == "petal width (cm)"
    assert display.ax_.get_legend() is None
    counts = np.arange(len(iris))  # many integers are values, not categories
    assert_array_equal(
        LatentDisplay.from_estimator(pca, iris, counts).artists_[0].get_array(), counts
    )


def test_without_labels_there_is_nothing_to_explain(iris):
    display = LatentDisplay.from_estimator(PCA(2).fit(iris), iris)
    assert display.ax_.get_legend() is None
    assert display.figure_.axes == [display.ax_]


def test_more_components_are_shown_in_pairs(iris):
    species = pd.Series(load_iris().target, name="species")
    pca = PCA(3).fit(iris)
    display = LatentDisplay.from_estimator(pca, iris, species)
    codes = pca.transform(iris)
    assert display.axes_.shape == (3, 3)
    assert [ax is None for ax in display.axes_.flat] == [0, 1, 1, 0, 0, 1, 0, 0, 0]
    points = display.axes_[2, 1].collections[0]
    assert_allclose(points.get_offsets(), codes[species == 0][:, [1, 2]])
    assert len(display.axes_[1, 1].patches) == 3  # a histogram for each species
    assert display.axes_[2, 1].get_xlabel() == "component 1"
    assert display.axes_[2, 0].get_ylabel() == "component 2"
    assert display.ax_.get_legend().get_title().get_text() == "species"


def test_components_can_be_chosen(iris):
    codes = PCA(4).fit_transform(iris)
    display = LatentDisplay(codes).plot(components=[3, 1])
    assert_array_equal(display.artists_[0].get_offsets(), codes[:, [3, 1]])
    assert display.ax_.get_xlabel() == "component 3"
    for components in ([4], [], [-1]):
        with pytest.raises(ValueError, match="use some of 0 to 3"):
            display.plot(components=components)
    assert LatentDisplay(np.zeros((5, 9))).plot().axes_.shape == (5, 5)


def test_one_component_is_a_histogram():
    codes = np.array([[0.0], [0.0], [1.0]])
    display = LatentDisplay(codes, ["a", "b", "b"]).plot()
    assert display.axes_.shape == (1, 1)
    heights = [outline.get_xy()[:, 1].max() for outline in display.artists_]
    assert heights == [1.0, 1.0]
    assert texts_of_legend(display.ax_) == ["a", "b"]


def test_images_stand_where_their_codes_are(digits, pipeline):
    X, _ = digits
    display = LatentDisplay.from_estimator(
        pipeline, X, kind="decoded", n_grid=4, image_shape=(8, 8)
    )
    first, second = display.grid
    low, high = np.quantile(pipeline.transform(X), [0.01, 0.99], axis=0)
    assert_allclose([first[0], second[0], first[-1], second[-1]], [*low, *high])
    (picture,) = display.artists_
    left, right, bottom, top = picture.get_extent()
    for i, x in enumerate(first):
        for j, y in enumerate(second):
            # Counted from the top, where pictures begin.
            row = round((top - y) / (top - bottom) * 4 - 0.5)
            column = round((x - left) / (right - left) * 4 - 0.5)
            assert (row, column) == (3 - j, i)
            tile = picture.get_array()[10 * row :, 10 * column :][1:9, 1:9]
            desired = pipeline.inverse_transform([[x, y]]).reshape(8, 8)
            assert_allclose(tile, desired, rtol=1e-4, atol=1e-4)
    assert picture.get_clim() == (X.min(), X.max())
    display.plot()  # the points are still there
    assert_array_equal(display.artists_[0].get_offsets(), pipeline.transform(X))


def test_what_cannot_be_decoded(digits, iris):
    pca = PCA(3).fit(iris)
    with pytest.raises(ValueError, match="codes of 2 components, and these have 3"):
        LatentDisplay.from_estimator(pca, iris, kind="decoded")
    with pytest.raises(ValueError, match="kind='decoded' needs decoded images and image_shape"):
        LatentDisplay.from_estimator(PCA(2).fit(iris), iris, kind="decoded")
    with pytest.raises(ValueError, match="kind='cube' is not one of"):
        LatentDisplay.from_estimator(pca, iris, kind="cube")
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        LatentDisplay.from_estimator(pca, iris, [0, 1])


# OutlierScoreDisplay


@pytest.fixture(scope="module")
def forest(iris):
    forest = IsolationForest(n_estimators=20, contamination=0.1, random_state=0)
    return make_pipeline(StandardScaler(), forest).fit(iris)


def heights_of(histogram):
    """Counts of a filled outline."""
    return histogram[0].get_xy()[1:-1:2, 1][:40]


def test_scores_are_counted_and_the_threshold_drawn(iris, forest):
    display = OutlierScoreDisplay.from_estimator(forest, iris)
    scores = -forest.score_samples(iris)
    threshold = -forest[-1].offset_
    assert_array_equal(display.outlier_scores, scores)
    assert_array_equal(display.threshold_.get_xdata(), [threshold] * 2)
    counts, _ = np.histogram(scores, bins=40)
    assert_array_equal(heights_of(display.histograms_["rows"]), counts)
    n_above = np.sum(forest.predict(iris) == -1)
    assert texts_of_legend(display.ax_)[-1] == f"threshold: {threshold:.4g} ({n_above} above)"
    assert display.ax_.get_xlabel() == "outlier score"


def test_the_most_outlying_rows_are_named(iris, forest):
    frame = iris.set_index("flower " + iris.index.astype(str))
    display = OutlierScoreDisplay.from_estimator(forest, frame, n_named=3)
    top = np.argsort(forest.score_samples(iris))[:3]
    assert [text.get_text() for text in display.texts_] == [f"flower {row}" for row in top]
    heights = [text.xy[1] for text in display.texts_]
    assert heights == sorted(heights, reverse=True)
    numbers = OutlierScoreDisplay(display.outlier_scores).plot(n_named=3).texts_
    assert [text.get_text() for text in numbers] == [str(row) for row in top]


def test_rows_are_split_by_their_label(iris, forest):
    y = np.where(load_iris().target == 2, "virginica", "other")
    display = OutlierScoreDisplay.from_estimator(forest, iris, y)
    assert list(display.histograms_) == ["other", "virginica"]
    edges = np.histogram_bin_edges(display.outlier_scores, bins=40)
    for name, histogram in display.histograms_.items():
        counts, _ = np.histogram(display.outlier_scores[y == name], bins=edges)
        assert_array_equal(heights_of(histogram), counts)
    assert texts_of_legend(display.ax_)[:2] == ["other", "virginica"]


def test_scores_of_several_orders_of_magnitude_are_on_a_logarithmic_scale():
    scores = np.geomspace(0.01, 100, 40)
    display = OutlierScoreDisplay(scores).plot()
    assert display.ax_.get_xscale() == "log"
    assert_array_equal(heights_of(display.histograms_["rows"]), np.ones(40))
    assert OutlierScoreDisplay(scores).plot(xscale="linear").ax_.get_xscale() == "linear"
    assert OutlierScoreDisplay(scores - 1).plot().ax_.get_xscale() == "linear"
    constant = OutlierScoreDisplay([3.0] * 5).plot(xscale="log")
    assert sum(heights_of(constant.histograms_["rows"])) == 5
    with pytest.raises(ValueError, match="xscale='log' needs positive scores.*-0.99"):
        OutlierScoreDisplay(scores - 1).plot(xscale="log")
    with pytest.raises(ValueError, match="xscale='root' is not one of"):
        OutlierScoreDisplay(scores).plot(xscale="root")


def test_a_detector_shows_its_threshold_and_what_it_wraps(digits):
    X = digits[0] / 16
    detector = AutoencoderOutlierDetector(small(), contamination=0.1).fit(X)
    display = OutlierScoreDisplay.from_estimator(detector, X)
    assert display.threshold == -detector.offset_
    n_above = np.sum(detector.predict(X) == -1)
    assert texts_of_legend(display.ax_)[-1].endswith(f"({n_above} above)")
    training = LossCurveDisplay.from_estimator(detector).lines_[0]
    assert_array_equal(training.get_ydata(), detector.estimator_.loss_curve_)
    codes = LatentDisplay.from_estimator(detector, X).codes
    assert_array_equal(codes, detector.estimator_.transform(X))


def test_scores_without_a_threshold(digits):
    X = digits[0] / 16
    autoencoder = small(max_iter=1).fit(X)
    display = OutlierScoreDisplay.from_estimator(autoencoder, X)
    assert_array_equal(display.outlier_scores, autoencoder.reconstruction_error(X))
    assert display.threshold_ is None
    assert display.ax_.get_legend() is None


def test_scores_are_needed(digits):
    X, y = digits
    with pytest.raises(ValueError, match="LogisticRegression has no score_samples"):
        OutlierScoreDisplay.from_estimator(LogisticRegression(max_iter=1000).fit(X, y), X)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        OutlierScoreDisplay(SCORES, y=[0, 1]).plot()


def test_a_style_cannot_be_given_twice():
    with pytest.raises(TypeError, match="aliases"):
        LossCurveDisplay([1.0, 2.0]).plot(line_kwargs={"lw": 1, "linewidth": 2})


def test_a_backend_without_a_display_is_used_here():
    assert mpl.get_backend().lower() == "agg"


@pytest.mark.parametrize("log", [True, False])
def test_names_of_rows_are_above_the_bars(log):
    scores = np.r_[np.random.default_rng(0).normal(size=300), 3.0, 3.1, 3.2]
    display = OutlierScoreDisplay(scores).plot(n_named=8, hist_kwargs={"log": log})
    ax = display.ax_
    display.figure_.draw_without_rendering()
    tops = [ax.transAxes.inverted().transform(patch.get_extents().max)[1] for patch in ax.patches]
    bottoms = [
        ax.transAxes.inverted().transform(text.get_window_extent().min)[1]
        for text in display.texts_
    ]
    assert max(tops) < min(bottoms)


# OutlierReasonDisplay


def test_reasons_are_in_the_order_of_their_contributions():
    display = OutlierReasonDisplay(REASONS, row_name=7, outlier_score=5.0, threshold=3.0).plot()
    assert labels(display.ax_.get_yticklabels()) == ["area", "count", "colour"]
    assert [bar.get_width() for bar in display.bars_] == [3.0, 1.5, 0.5]
    texts = [text.get_text() for text in display.texts_]
    assert texts == [
        "9.7, expected 5.123 (0.1% as far out)",
        "1, expected 2 (20.0% as far out)",
        "red (30.0% as far out)",
    ]
    assert display.ax_.get_title() == "Why row 7: score 5, threshold 3"


def test_the_strangest_row_is_explained_by_default(iris):
    X = iris.set_axis([f"flower {row}" for row in range(len(iris))])
    X.iloc[7, 2] = 60.0
    detector = AutoencoderOutlierDetector(PCA(2), random_state=0).fit(iris)
    display = OutlierReasonDisplay.from_estimator(detector, X, n_columns=2)
    assert "flower 7" in display.ax_.get_title()
    assert "p = " in display.ax_.get_title()
    assert "60" in display.texts_[0].get_text()
    other = OutlierReasonDisplay.from_estimator(detector, X, row=-1)
    assert "flower 149" in other.ax_.get_title()
    with pytest.raises(ValueError, match="row=150 is not a position"):
        OutlierReasonDisplay.from_estimator(detector, X, row=150)
    with pytest.raises(ValueError, match="no method reasons"):
        OutlierReasonDisplay.from_estimator(PCA().fit(X), X)
