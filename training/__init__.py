"""Trainers. They call the same differentiable stages that the verifier uses."""

from training.robust_loss import robust_loss

__all__ = ["robust_loss"]
