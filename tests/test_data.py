import numpy as np
import pytest

from jaxann.data import DATASETS, load


@pytest.mark.parametrize("name", DATASETS)
def test_features_are_standardised_over_the_training_part_alone(name):
    data = load(name, held_out=0.3, seed=1)
    varying = data.x.std(axis=0) > 0
    np.testing.assert_allclose(data.x.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(data.x[:, varying].std(axis=0), 1, rtol=1e-10)
    assert not data.x[:, ~varying].any()
    assert np.abs(data.x_test.mean(axis=0)).max() > 1e-3
    assert len(data.x) == len(data.t)
    assert len(data.x_test) == len(data.t_test) == int(np.ceil(0.3 * (len(data.t) + len(data.t_test))))


@pytest.mark.parametrize("name", DATASETS[:-1])
def test_classes_are_apart_in_their_own_proportions(name):
    data = load(name, held_out=0.25)
    share = [np.bincount(t) / len(t) for t in (data.t, data.t_test)]
    assert len(share[0]) == len(data.classes)
    np.testing.assert_allclose(share[1], share[0], atol=1.5 / len(data.t_test))


def test_the_seed_draws_the_split():
    first, again, second = (load("iris", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.x, again.x)
    assert not np.array_equal(first.x_test, second.x_test)


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="there is no dataset mnist, only iris, wine, breast_cancer, digits, diabetes"):
        load("mnist")
