"""The audit of programs: every custom derivative inside them is found, judged alone and named."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxann import audit
from jaxann.gradcheck.jaxprs import custom_name


def scale(x, g):
    return x * jax.lax.rsqrt(jnp.mean(x * x) + 1e-6) * g


def make_norm(mistake=""):
    """Returns an RMS norm whose backward is written by hand, right or with a mistake."""

    @jax.custom_vjp
    def rms_norm(x, g):
        return scale(x, g)

    def forward(x, g):
        r = jax.lax.rsqrt(jnp.mean(x * x) + 1e-6)
        return x * r * g, (x, g, r)

    def backward(saved, dy):
        x, g, r = saved
        mean = 0 if mistake == "mean" else x * r**3 * jnp.mean(dy * g * x)
        dx = dy * g * r - mean
        return -dx if mistake == "sign" else dx, jnp.ones_like(g) if mistake == "g" else dy * x * r

    rms_norm.defvjp(forward, backward)
    return rms_norm


@jax.custom_jvp
def wrong_softplus(x):
    return jnp.logaddexp(x, 0)


wrong_softplus.defjvp(lambda primals, tangents: (wrong_softplus(*primals), jnp.tanh(primals[0]) * tangents[0]))

RIGHT, WRONG = make_norm(), make_norm("mean")
G = jnp.linspace(0.5, 2.0, 4)
X = jax.random.normal(jax.random.key(0), (5, 4))


def in_scan(norm, x, **options):
    return jax.lax.scan(lambda h, g: (jnp.tanh(norm(h, g)), h), x, jnp.stack([G, 2 * G, 3 * G]), **options)


def in_while(norm, x):
    return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, norm(c[1], G)), (0, x))[1]


PROGRAMS = {
    "plain": lambda norm, x: norm(x[0], G),
    "jit": lambda norm, x: jax.jit(norm)(x[0], G).sum(),
    "vmap": lambda norm, x: jax.vmap(norm, (0, None))(x, G),
    "scan": lambda norm, x: in_scan(norm, x[0]),
    "scan in reverse": lambda norm, x: in_scan(norm, x[0], reverse=True),
    "while": lambda norm, x: in_while(norm, x[0]),
    "cond": lambda norm, x: jax.lax.cond(x[0, 0] < 9, lambda x: norm(x, G), lambda x: x, x[0]),
    "remat": lambda norm, x: jax.checkpoint(lambda x: norm(jnp.sin(x), G))(x[0]),
    "gradient": lambda norm, x: jnp.sum(norm(x[0], G) ** 2) + jnp.sum(jax.jit(jnp.cos)(x)),
    "all": lambda norm, x: jax.jit(jax.vmap(lambda x: in_scan(norm, x)[0] + in_while(norm, x)))(x),
}


FAST = ("all",)


@pytest.mark.parametrize("program", [p if p in FAST else pytest.param(p, marks=pytest.mark.slow) for p in PROGRAMS])
def test_a_wrong_rule_is_named_wherever_it_is_called(program):
    report = audit(partial(PROGRAMS[program], WRONG), X)
    wrong = {row.owner for row in report.rows if row.path in report.wrong}
    assert {owner.split(" (")[0] for owner in wrong} == {"rms_norm"}
    assert all("(test_audit.py:" in owner for owner in wrong)
    assert all(path.endswith(".0") for path in report.wrong)
    assert audit(partial(PROGRAMS[program], RIGHT), X).ok


@pytest.mark.parametrize(("mistake", "wrong", "cause"), [("sign", "rms_norm.0", "sign"), ("g", "rms_norm.1", None)])
def test_the_input_and_the_mistake_are_named(mistake, wrong, cause):
    report = audit(make_norm(mistake), X[0], G)
    assert report.wrong == (wrong,)
    assert cause is None or report[wrong].cause == cause


def test_a_wrong_custom_jvp_is_named():
    report = audit(lambda x: wrong_softplus(x).sum() + jax.nn.relu(x).sum(), X)
    assert report.wrong == ("wrong_softplus.0",)
    assert report["relu.0"].verdict == "right"


def test_a_wrong_rule_inside_a_right_one_is_named_and_the_other_is_not():
    @jax.custom_vjp
    def outer(x):
        return jnp.sum(WRONG(x, G) ** 2)

    outer.defvjp(lambda x: (outer(x), x), lambda x, dy: (dy * jax.grad(lambda x: jnp.sum(scale(x, G) ** 2))(x),))
    report = audit(outer, X[0])
    assert report.wrong == ("rms_norm.0",)
    assert report["outer.0"].verdict == "right"


def test_the_true_cotangent_and_other_calls_of_a_loop_find_what_a_random_one_may_not():
    """The rule is wrong only for a cotangent that is 0 in its first entry, as the program's is."""

    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (2 * x, None), lambda _, dy: (jnp.where(dy[0] == 0, 1, 2) * dy,))
    assert audit(lambda x: double(x)[1:], X[0]).wrong == ("double.0",)


def test_a_rule_that_is_wrong_on_purpose_is_declared_by_name():
    @jax.custom_vjp
    def ste(x):
        return jnp.round(x)

    ste.defvjp(lambda x: (jnp.round(x), None), lambda _, dy: (dy,))
    program = lambda x: ste(3 * x).sum() + ste(x).sum() + WRONG(x[0], G).sum()  # noqa: E731
    assert set(audit(program, X).wrong) == {"ste.0", "ste#2.0", "rms_norm.0"}
    assert audit(program, X, on_purpose="ste").wrong == ("rms_norm.0",)
    with pytest.raises(ValueError, match=r"^expected on_purpose to name gradients of the report \(.*\), got 'other'$"):
        audit(program, X, on_purpose="other")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:jax.interpreters")  # older versions of the libraries use what JAX deprecates
def test_models_and_losses_of_other_libraries():
    eqx, nn = pytest.importorskip("equinox"), pytest.importorskip("flax.linen")

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.gelu(nn.LayerNorm()(nn.Dense(4)(x))) + wrong_softplus(x))

    model, labels = Model(), jnp.arange(5) % 3
    params = model.init(jax.random.key(0), X)

    def loss(params, x):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), labels).mean()

    assert audit(loss, params, X).wrong == ("wrong_softplus.0",)
    mlp = eqx.nn.MLP(4, 1, 8, 2, activation=jax.nn.softplus, key=jax.random.key(1))
    arrays, rest = eqx.partition(mlp, eqx.is_array)
    report = audit(lambda arrays, x: jax.vmap(eqx.combine(arrays, rest))(x), arrays, X)
    assert report.ok
    assert len(report.rows)


def test_a_program_without_rules_has_no_rows():
    report = audit(lambda x: jnp.sin(x).sum(), X)
    assert report.rows == ()
    assert report.ok


def test_a_rule_that_nothing_can_judge_is_named():
    report = audit(lambda x: jax.scipy.special.zeta(2.5 + jnp.abs(x), 1.5), X)
    assert report.ok
    assert report.rows == ()
    note = report.notes[-1]
    assert note.startswith("zeta (special.py:")
    assert ") is not judged, because only its rule has a derivative: Differentiation rule for 'zeta'" in note


def test_what_cannot_be_entered_is_named():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("d")
    report = audit(jax.shard_map(jax.nn.relu, mesh=mesh, in_specs=spec, out_specs=spec), X)
    assert report.rows == ()
    assert report.notes == ("Functions with a custom derivative inside shard_map are not judged.",)


def test_a_program_without_a_derivative_has_random_cotangents_and_says_so():
    report = audit(lambda x: jax.scipy.special.zeta(2.5 + jnp.abs(wrong_softplus(x)), 1.5), X)
    assert report.wrong == ("wrong_softplus.0",)
    assert any(note.startswith("All cotangents are random, because the program has no der") for note in report.notes)


def test_what_is_no_function_and_what_raises():
    with pytest.raises(TypeError, match=r"^expected a function to audit, got int$"):
        audit(3, X)
    with pytest.raises(ZeroDivisionError):
        audit(lambda x: 1 / 0, X)


def test_names_and_places_are_read_in_this_version_of_jax():
    (equation,) = jax.make_jaxpr(wrong_softplus)(1.0).eqns
    name, place = custom_name(equation)
    assert name == "wrong_softplus"
    assert place.startswith("test_audit.py:")
