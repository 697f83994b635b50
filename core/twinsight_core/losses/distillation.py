"""Losses that pull a network towards another's outputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Stands for minus infinity where a pair must not count; -inf itself makes NaN gradients.
_EXCLUDED = -1e9


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
    """Returns how far the student's similarities between pictures are from the teacher's.

    The cross-entropy between the teacher's and the student's softmax of cosine similarities to the same bank of
    pictures, less the teacher's own entropy: 0 where both agree.

    Source: Fang et al., "SEED: Self-supervised Distillation for Visual Representation", ICLR 2021, eqs. 4 and 5; the
    temperature is the same on both sides.

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


def batch_similarity_distillation(*, student: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """Returns the same with the other pictures of the batch as the bank, each side by its own embeddings of them.

    So the two may have different dimensions, and the student learns which pictures are close to each other, not where
    they are in space. The picture itself is left out: its cosine of 1 on both sides would drown the others'.

    Source: SEED's eqs. 4 and 5 as above; a bank for each side is that of Koohpayegani, Tejankar and Pirsiavash,
    "CompRess: Self-Supervised Learning by Compressing Representations", NeurIPS 2020, section 3.

    Args:
        student: [batch, dimension] float32, unit vectors.
        teacher: [batch, teacher dimension] float32, unit vectors of the same pictures.
        temperature: scale of the similarities, above 0.

    Returns:
        [batch] float32, at least 0 up to rounding; 0 in a batch of two, where there is one other to be close to.
    """
    itself = jnp.eye(len(student), dtype=bool)

    def logits(embeddings: jax.Array) -> jax.Array:
        return jnp.where(itself, _EXCLUDED, embeddings @ embeddings.T / temperature)

    return _divergence(logits(teacher), logits(student))


def _divergence(target_logits: jax.Array, logits: jax.Array) -> jax.Array:
    """Returns the Kullback-Leibler divergence of two softmaxes, [batch]."""
    target = jax.nn.log_softmax(target_logits, axis=1)
    predicted = jax.nn.log_softmax(logits, axis=1)
    return jnp.sum(jnp.exp(target) * (target - predicted), axis=1)
