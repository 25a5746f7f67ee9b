"""Pictures: what is drawn is what was given."""

import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure


@pytest.fixture
def axes():
    return Figure().subplots()


def drawn(axes):
    """Whatever is on the axes can be painted."""
    axes.figure.canvas.draw()
    return axes


def test_curves_are_logarithmic_only_where_they_can_be(axes):
    assert (
        drawn(fp.plots.curves(axes, [1, 2], {"a": [1.0, 0.0]}, log=True)).get_yscale() == "linear"
    )
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[1, 1], [2, 0]])
    with pytest.raises(ValueError, match="'b' has 3 points, and x has 2"):
        fp.plots.curves(axes, [1, 2], {"b": [1, 2, 3]})


def test_a_line_a_layer(axes):
    norms = np.array([[1e-4, 0.1], [1e-3, 0.2], [1e-2, 0.3]])
    drawn(fp.plots.delta_norms(axes, norms, ["first", "last"]))
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), norms[:, 1])
    with pytest.raises(ValueError, match="1 names were given for 2 layers"):
        fp.plots.delta_norms(axes, norms, ["one"])
    with pytest.raises(ValueError, match=r"norms is \[3\], wanted \[steps, layers\]"):
        fp.plots.delta_norms(axes, norms[:, 0])


def test_angles(axes):
    drawn(fp.plots.alignment_angles(axes, {"w": [90.0, 45.0]}))
    assert axes.get_ylim() == (0, 180)


def test_zero_is_white_in_weights(axes):
    image = drawn(fp.plots.weights(axes, np.array([[0.0, -3.0]]))).images[0]
    assert image.get_clim() == (-3, 3)
    with pytest.raises(ValueError, match=r"w is \[2\]"):
        fp.plots.weights(axes, np.zeros(2))


def test_filters_of_images(axes):
    w = np.arange(12.0).reshape(4, 3)
    sheet = np.asarray(
        drawn(fp.plots.filters(axes, w, image=(2, 2), columns=3)).images[0].get_array()
    )
    np.testing.assert_array_equal(sheet[:, 3:5], w[:, 1].reshape(2, 2))
    assert np.ma.masked_invalid(sheet).mask[:, 2].all()
    with pytest.raises(ValueError, match="in = height · width"):
        fp.plots.filters(axes, w, image=(3, 3))


def test_images_with_words(axes):
    drawn(fp.plots.images(axes, np.ones((3, 4, 4, 1)), ["a", "b", "c"]))
    assert [text.get_text() for text in axes.texts] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="with 1 words"):
        fp.plots.images(axes, np.ones((3, 4, 4)), ["a"])


def test_a_confusion_matrix_counts(axes):
    drawn(fp.plots.confusion_matrix(axes, [0, 1, 1, 2], [0, 1, 2, 2], ["x", "y", "z"]))
    np.testing.assert_array_equal(axes.images[0].get_array(), [[1, 0, 0], [0, 1, 1], [0, 0, 1]])
    with pytest.raises(ValueError, match=r"wanted \[n\] both"):
        fp.plots.confusion_matrix(axes, [0], [0, 1])
    with pytest.raises(ValueError, match="from -1, wanted classes 0, 1"):
        fp.plots.confusion_matrix(axes, [0, -1], [0, 1])
    with pytest.raises(ValueError, match="class 2 was given, and 2 labels"):
        fp.plots.confusion_matrix(axes, [0, 1], [0, 2], ["a", "b"])
    drawn(fp.plots.confusion_matrix(Figure().subplots(), [0, 1], [0, 1], ["$x_{$", "y"]))


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_boundary_is_asked_of_the_network(axes, outputs):
    asked = []

    def predict(x):
        asked.append(x.shape)
        return x[:, :1] if outputs == 1 else np.stack([x[:, 0], 1 - x[:, 0], 0 * x[:, 0]], 1)

    x = np.array([[0.0, 0.0], [1.0, 1.0]])
    drawn(fp.plots.decision_boundary(axes, predict, x, [[0], [1]], 10))
    assert asked == [(100, 2)]
    with pytest.raises(ValueError, match="in a plane"):
        fp.plots.decision_boundary(axes, predict, np.ones((2, 3)), [0, 1])


def test_single_examples(axes):
    drawn(fp.plots.per_example_norms(axes, [1.0, 9.0, 2.0], ["a", "b", "c"], marked=2))
    assert [text.get_text() for text in axes.texts] == ["c", "b"]
    with pytest.raises(ValueError, match="one norm an example"):
        fp.plots.per_example_norms(axes, np.ones((2, 2)))


def test_noise_over_the_gradient(axes):
    drawn(fp.plots.gradient_noise(axes, {"w": np.full(5, 10.0)}, {"w": np.full(5, 100.0)}, 100))
    medians = [line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1]
    assert np.isclose(medians, -1).any()  # √(100 / 100) / 10


def test_costs_and_errors_are_bars(axes):
    x = jnp.arange(6.0).reshape(3, 2)
    found = fp.measure(fp.Tanh(), (), x, seconds=0.001)
    drawn(fp.plots.costs(axes, found))
    assert axes.patches[0].get_width() == pytest.approx(1e3 * found.profiles[0].by_hand.seconds)
    with pytest.raises(ValueError, match="'speed', wanted one of time, memory, flops"):
        fp.plots.costs(axes, found, "speed")

    class Half(fp.Tanh):
        def backward(self, params, a, da):
            return 0.5 * da * (1 - a * a), ()

    second = Figure().subplots()
    drawn(fp.plots.errors(second, fp.compare(Half(), (), x)))
    assert second.patches[0].get_facecolor()[:3] == pytest.approx((0.84, 0.15, 0.16), abs=0.01)
    with pytest.raises(ValueError, match="no gradient is float16"):
        fp.plots.errors(second, fp.compare(Half(), (), x), "float16")
