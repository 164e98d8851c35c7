"""Batch normalization by hand, and what handwritten ones get wrong (public case 02).

Facts from apache/mxnet#1053, denizyuret/Knet.jl#288, Oneflow-Inc/oneflow#6149 and an exercise of the course cs231n.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxann.nn import Layer


@dataclass(frozen=True)
class BatchNorm(Layer):
    """y = γ (x - mean) / sd + β, with the mean and the sd over the rows of a batch x [N, n] (Ioffe & Szegedy 2015)."""

    n: int
    wrong: str = ""

    def init(self, key):
        gamma, beta = 1 + 0.3 * jax.random.normal(key, (2, self.n))
        return {"gamma": gamma, "beta": beta}

    def forward(self, params, x, key=None):
        centred = x - x.mean(axis=0, keepdims=True)
        sd = jnp.sqrt((centred**2).mean(axis=0, keepdims=True) + 1e-5)
        z = centred / sd
        return params["gamma"][None] * z + params["beta"][None], (centred, sd, z)

    def backward(self, params, saved, dy):
        centred, sd, z = saved
        rows = len(dy)
        dz = dy if self.wrong == "no gamma" else dy * params["gamma"][None]
        dsd = -(dz * z).sum(axis=0, keepdims=True) / sd
        dcentred = dz / sd
        if self.wrong != "no variance path":
            dcentred += dsd * centred / (rows * sd)
        dmean = -dcentred.sum(axis=0, keepdims=True)
        if self.wrong == "mean path and a share more":
            dmean += dmean / rows
        dx = dcentred if self.wrong == "no mean path" else dcentred + dmean / rows
        gamma, beta = (dy * z).sum(axis=0), dy.sum(axis=0)
        if self.wrong == "swapped":
            gamma, beta = beta, gamma
        return {"gamma": gamma, "beta": beta}, dx
