"""Small images, sequences and text that networks learn from in tests."""

import numpy as np

SENTENCES = ("the cat sat on the mat. ", "a dog ran to the cat. ", "we see a mat. ")


def write_images(path, count=60, side=8, channels=1, seed=0):
    """Writes an .npz file of images of three classes, each bright in another corner."""
    draw = np.random.default_rng(seed)
    x, t = draw.normal(size=(count, side, side, channels)), np.arange(count) % 3
    for label, (down, right) in enumerate(((0, 0), (0, side // 2), (side // 2, 0))):
        x[t == label, down : down + side // 2, right : right + side // 2] += 2
    np.savez(path, x=x.astype(np.float32), t=t)


def write_sequences(path, count=60, steps=12, channels=2, seed=0):
    """Writes an .npz file of sequences of two classes, which rise or fall."""
    draw = np.random.default_rng(seed)
    t = np.arange(count) % 2
    slope = np.where(t, 1, -1)[:, None, None] * np.linspace(-1, 1, steps)[:, None]
    x = slope + 0.3 * draw.normal(size=(count, steps, channels))
    np.savez(path, x=(x[..., 0] if channels == 1 else x).astype(np.float32), t=t)


def write_text(path, count=150, seed=0):
    """Writes a text of a few sentences in random order."""
    draw = np.random.default_rng(seed)
    path.write_text("".join(SENTENCES[i] for i in draw.integers(0, len(SENTENCES), count)))
