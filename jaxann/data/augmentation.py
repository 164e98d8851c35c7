"""Random changes of images, drawn anew for every batch of a run, so that a network rarely sees the same image twice."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxann.nn.hyperparameters import SettingError, validate_number


@dataclass(frozen=True)
class Augmentation:
    """Random crops and flips of images, as a step between the drawing of a batch and its gradient.

    Each image is mirrored with probability 1/2, and moved by up to `crop` pixels in either direction along both axes.
    What enters at its edges is 0, which is the mean of standardized images. Every image has a key of its own.

    `fit(..., augment=Augmentation((28, 28, 1), crop=2))` trains with it.

    Attributes:
        shape: The shape (height, width, channels) of an image.
        crop: The largest number of pixels by which an image is moved, less than its sides.
        flip: Whether images are mirrored, left and right.

    Raises:
        SettingError: If `shape` is not (height, width, channels), or `crop` is out of range.

    Source: He et al. 2016 (CVPR), section 4.2.
    """

    shape: tuple[int, ...]
    crop: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if len(self.shape) != 3:
            raise SettingError("shape", "to be (height, width, channels)", self.shape)
        validate_number(
            "crop", self.crop, least=0, below=min(self.shape[:2]), integer=True, note="the sides of the images"
        )

    def __call__(self, key: PRNGKeyArray, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        """Returns a batch of changed images.

        Args:
            key: The key to draw with.
            x: [B, height, width, channels] or [B, height · width · channels].

        Returns:
            The images, in the shape of x.
        """
        images = x.reshape(-1, *self.shape)
        return jax.vmap(self._change)(jax.random.split(key, len(images)), images).reshape(x.shape)

    def _change(self, key: PRNGKeyArray, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        flip_key, crop_key = jax.random.split(key)
        if self.flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        if self.crop:
            padded = jnp.pad(image, ((self.crop, self.crop), (self.crop, self.crop), (0, 0)))
            down, right = jax.random.randint(crop_key, (2,), 0, 2 * self.crop + 1)
            image = jax.lax.dynamic_slice(padded, (down, right, 0), self.shape)
        return image
