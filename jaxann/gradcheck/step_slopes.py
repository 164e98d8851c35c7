"""Wrong derivatives of functions of one number, such as 1 - y for the derivative 1 - y² of tanh."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxann.gradcheck.steps import Step

# By primitive: the true derivative, and wrong ones, as functions of the operand x and the result y.
SLOPES: dict[str, tuple[str, dict[str, Callable]]] = {
    "tanh": (
        "1 - y²",
        {
            "1 - y": lambda x, y: 1 - y,
            "1 - x²": lambda x, y: 1 - x**2,
            "y": lambda x, y: y,
            "y²": lambda x, y: y**2,
            "1 + y²": lambda x, y: 1 + y**2,
            "1 - x": lambda x, y: 1 - x,
            "(1 - y)²": lambda x, y: (1 - y) ** 2,
            "y (1 - y)": lambda x, y: y * (1 - y),
        },
    ),
    "logistic": (
        "y (1 - y)",
        {
            "y": lambda x, y: y,
            "1 - y": lambda x, y: 1 - y,
            "x (1 - x)": lambda x, y: x * (1 - x),
            "y (1 + y)": lambda x, y: y * (1 + y),
            "1 - y²": lambda x, y: 1 - y**2,
            "y²": lambda x, y: y**2,
            "y (1 - y²)": lambda x, y: y * (1 - y**2),
        },
    ),
    "exp": (
        "exp(x)",
        {
            "x": lambda x, y: x,
            "x exp(x)": lambda x, y: x * y,
            "1 / exp(x)": lambda x, y: 1 / y,
            "exp(x) - 1": lambda x, y: y - 1,
        },
    ),
    "log": (
        "1 / x",
        {"x": lambda x, y: x, "log(x)": lambda x, y: y, "1 / x²": lambda x, y: 1 / x**2},
    ),
    "log1p": ("1 / (1 + x)", {"1 / x": lambda x, y: 1 / x, "1 + x": lambda x, y: 1 + x}),
    "expm1": ("exp(x)", {"exp(x) - 1": lambda x, y: y}),
    "sqrt": (
        "1 / (2 √x)",
        {
            "1 / √x": lambda x, y: 1 / y,
            "√x / 2": lambda x, y: y / 2,
            "1 / (2 x)": lambda x, y: 0.5 / x,
            "2 √x": lambda x, y: 2 * y,
            "x / 2": lambda x, y: x / 2,
        },
    ),
    "rsqrt": (
        "-1/2 x^(-3/2)",
        {
            "-x^(-3/2)": lambda x, y: -(y**3),
            "-1/2 x^(-1/2)": lambda x, y: -y / 2,
            "-1/2 x^(-1)": lambda x, y: -0.5 / x,
            "-1/2 x^(-2)": lambda x, y: -0.5 / x**2,
            "1/2 x^(-1/2)": lambda x, y: y / 2,
        },
    ),
    "sin": ("cos(x)", {"sin(x)": lambda x, y: y}),
    "cos": ("-sin(x)", {"cos(x)": lambda x, y: y}),
    "erf": (
        "2/√π exp(-x²)",
        {
            "exp(-x²)": lambda x, y: np.exp(-(x**2)),
            "2/√π exp(x²)": lambda x, y: 2 / np.sqrt(np.pi) * np.exp(x**2),
            "exp(-x²) / √π": lambda x, y: np.exp(-(x**2)) / np.sqrt(np.pi),
            "2/√π exp(-x²/2)": lambda x, y: 2 / np.sqrt(np.pi) * np.exp(-(x**2) / 2),
        },
    ),
}


def list_slopes(step: Step) -> tuple[str, dict[str, Callable]]:
    """Lists wrong derivatives of an operation with one operand.

    Args:
        step: The operation.

    Returns:
        The true derivative as text, and for the text of each wrong derivative the function of x and y that it is.
    """
    if step.name in ("integer_pow", "square", "pow"):
        return _power_slopes(step)
    return SLOPES.get(step.name, ("", {}))


def _power_slopes(step: Step) -> tuple[str, dict[str, Callable]]:
    n = 2 if step.name == "square" else step.equation.params.get("y")
    if n is None:  # its exponent is an operand
        return "n xⁿ⁻¹", {
            "xⁿ⁻¹, without the factor n,": lambda x, y: y / x,
        }
    if n == 2:
        return "2 x", {"x, without the factor 2,": lambda x, y: x, "2 x²": lambda x, y: 2 * y, "x²": lambda x, y: y}
    return f"{n} x^{n - 1}", {
        f"x^{n - 1}, without the factor {n},": lambda x, y: x ** float(n - 1),
        f"{n} x^{n}": lambda x, y: n * y,
        f"{n - 1} x^{n - 1}": lambda x, y: (n - 1) * x ** float(n - 1),
        f"x^{n}": lambda x, y: y,
    }
