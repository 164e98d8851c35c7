"""A model and its parameters in one file: what comes back, in another process as well, and what is refused."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers
from support.cases import LAYERS

import jaxann
from jaxann.nn import Dense, Elementwise, mlp, relu, resnet, transformer
from jaxann.nn.encoding import decode, encode

KEY = jax.random.key(0)
MODEL = mlp((4, 5, 3), "relu", dropout=0.1)
PARAMS = MODEL.init(KEY)


@pytest.fixture
def path(tmp_path):
    jaxann.save(tmp_path / "a.npz", MODEL, PARAMS)
    return tmp_path / "a.npz"


def test_model_and_parameters_come_back_to_the_bit(path):
    model, params = jaxann.load(path)
    assert model == MODEL
    assert jax.tree.structure(params) == jax.tree.structure(PARAMS)
    for ours, theirs in zip(*map(jax.tree.leaves, (params, PARAMS)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    jaxann.save(path, MODEL, half)
    same = jaxann.load(str(path)).params
    assert all(
        a.dtype == jnp.bfloat16 and (a == b).all() for a, b in zip(*map(jax.tree.leaves, (same, half)), strict=True)
    )


@pytest.mark.parametrize(
    "model",
    [resnet((8, 8, 1), 3, (4,), 1), transformer(7, 5, 8, 2, 1, tied=True), *(layer for layer, *_ in LAYERS.values())],
    ids=str,
)
def test_every_layer_comes_back_equal_from_json(model):
    assert decode(json.loads(json.dumps(encode(model)))) == model


def test_another_process_reads_the_file(path):
    program = f"""if True:
        import jax
        jax.config.update("jax_enable_x64", True)
        import jaxann
        print(float(jaxann.predict(*jaxann.load({str(path)!r}), [[1.0, 2.0, 3.0, 4.0]]).sum()))"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert float(answer) == float(jaxann.predict(MODEL, PARAMS, [[1.0, 2.0, 3.0, 4.0]]).sum())


def rewrite(path, **changes):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    description = json.loads(str(arrays["jaxann"])) | changes.pop("description", {})
    arrays = {**arrays, "jaxann": np.array(json.dumps(description)), **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"description": {"format": 2}}, "expected a file of format 1, got format 2, of jaxann '"),
        ({"description": {"model": encode(mlp((4, 6, 3)))}}, r"expected params with 0.W of shape \(6, 4\), got shape"),
        ({"description": {"model": {"class": "Dens", "settings": {}}}}, "expected 'Dens' to be importable: module"),
        ({"description": {"model": {"class": "no.such:A", "settings": {}}}}, "expected 'no.such:A' to be importable"),
        (
            {"description": {"model": {"class": "os:PathLike", "settings": {}}}},
            "'os:PathLike' to be a class of layers",
        ),
        ({"description": {"model": {"class": "Dense", "settings": {"n": 0, "m": 1}}}}, "expected n of at least 1"),
        ({"description": {"model": {"class": "Dense", "settings": {"x": 0}}}}, "is damaged: expected the description"),
        ({"description": {"model": 3}}, "expected a layer, got 3"),
        ({"params/0.W": None}, r"is damaged: expected the description of a model, got KeyError\('params/0.W"),
        ({"params/9.W": np.ones(3)}, "expected the arrays of the parameters, got others as well"),
        ({"jaxann": None}, "expected a file that jaxann.save wrote, or the folder of a run, got"),
        ({"jaxann": np.array("{")}, "cannot be read: Expecting property name"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(path, changes, sentence):
    rewrite(path, **changes)
    with pytest.raises(ValueError, match=sentence):
        jaxann.load(path)


def test_a_damaged_file_and_none_are_refused(path, tmp_path):
    content = bytearray(path.read_bytes())
    content[content.index(PARAMS[0]["W"].tobytes()[:16])] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.npz is damaged or not a file of jaxann.save: Bad CRC-32"):
        jaxann.load(path)
    path.write_bytes(content[:200])
    with pytest.raises(ValueError, match=r"a.npz is damaged or not a file of jaxann.save: "):
        jaxann.load(path)
    np.save(tmp_path / "plain.npy", np.ones(3))
    with pytest.raises(
        ValueError, match=r"expected a file that jaxann.save wrote, or the folder of a run, got .*plain"
    ):
        jaxann.load(tmp_path / "plain.npy")
    with pytest.raises(ValueError, match=r"no such file or folder: .*none.npz"):
        jaxann.load(tmp_path / "none.npz")


def test_what_cannot_be_stored_is_refused_and_the_old_file_stays(path):
    before = path.read_bytes()
    own = Elementwise("own", lambda x: x, lambda x, y: y)
    for model, sentence in (
        (own, "expected function of Elementwise to be defined by name in a module that other programs can import, got"),
        (mlp((4, 6, 3)), r"expected params with 0.W of shape \(6, 4\), got shape \(5, 4\)"),
    ):
        with pytest.raises(ValueError, match=sentence):
            jaxann.save(path, model, PARAMS)
    assert path.read_bytes() == before


def test_initializers_of_jax_are_stored_with_their_settings():
    layer = Dense(4, 3, weights=initializers.he_normal(), biases=initializers.ones)
    same = decode(json.loads(json.dumps(encode(layer))))
    np.testing.assert_array_equal(same.init(KEY)["W"], layer.init(KEY)["W"])
    assert decode(encode(relu)) is relu
