"""Losses that draw a network towards another's answers."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def knowledge_distillation(
    *, student_logits: jax.Array, teacher_logits: jax.Array, temperature: float = 4.0
) -> jax.Array:
    """Returns how far the student's softened probabilities are from the teacher's.

    temperature^2 x KL(softmax(teacher / temperature) || softmax(student / temperature)): the cross-entropy of the
    paper less the teacher's own entropy, so 0 where both agree. The square keeps the gradient's size when the
    temperature changes.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.

    Args:
        student_logits: [batch, classes] float32.
        teacher_logits: [batch, classes] float32, of the same pictures.
        temperature: what both logits are divided by, above 0.

    Returns:
        [batch] float32, at least 0 up to rounding.
    """
    return temperature**2 * _divergence(teacher_logits / temperature, student_logits / temperature)


def similarity_distillation(
    *, student: jax.Array, teacher: jax.Array, student_bank: jax.Array, teacher_bank: jax.Array, temperature: float
) -> jax.Array:
    """Returns how far the student's view of who is close to whom is from the teacher's.

    The cross-entropy between the teacher's and the student's softmax of cosine similarities to the same bank of
    pictures, less the teacher's own entropy: 0 where both agree.

    Source: Fang et al., "SEED: Self-supervised Distillation for Visual Representation", ICLR 2021, eqs. 4 and 5, here
    with the batch's own pictures as the bank; the temperature is the same on both sides.

    Args:
        student: [batch, dimension] float32, unit vectors.
        teacher: [batch, teacher dimension] float32, unit vectors of the same pictures.
        student_bank: [size, dimension] float32, unit vectors.
        teacher_bank: [size, teacher dimension] float32, unit vectors of the same pictures.
        temperature: scale of the similarities, above 0.

    Returns:
        [batch] float32, at least 0.
    """
    return _divergence(teacher @ teacher_bank.T / temperature, student @ student_bank.T / temperature)


def _divergence(target_logits: jax.Array, logits: jax.Array) -> jax.Array:
    """Returns the Kullback-Leibler divergence of two softmaxes, [batch]."""
    target = jax.nn.log_softmax(target_logits, axis=1)
    predicted = jax.nn.log_softmax(logits, axis=1)
    return jnp.sum(jnp.exp(target) * (target - predicted), axis=1)
