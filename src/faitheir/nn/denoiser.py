"""The one-step denoiser's formula (paper eq. 6): noisy latent and network output give the clean latent."""

from typing import Literal

import torch
from torch import Tensor

from faitheir.nn.precision import without_autocast

#: The DDPM noise schedule of Stable Diffusion and SD-Turbo: "scaled linear" betas over 1000 steps.
TRAIN_TIMESTEPS, BETA_START, BETA_END = 1000, 0.00085, 0.012

PredictionType = Literal["epsilon", "v_prediction", "sample"]


def alpha_bar(timestep: int) -> float:
    """The cumulative noise coefficient of the DDPM scheduler at ``timestep`` in 0..999."""
    roots = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_TIMESTEPS, dtype=torch.float64, device="cpu")
    return float(torch.cumprod(1 - roots**2, 0)[timestep])


def one_step(z_t: Tensor, prediction: Tensor, abar: float, prediction_type: PredictionType = "epsilon") -> Tensor:
    """The clean latent z_0 from the noisy z_T and the network's prediction, in float32.

    ``"epsilon"`` is the paper's form, z_0 = (z_T - sqrt(1 - abar) eps) / sqrt(abar). ``"v_prediction"`` is
    the same identity for a network that outputs v with eps = sqrt(1 - abar) z_T + sqrt(abar) v, which leaves
    z_0 = sqrt(abar) z_T - sqrt(1 - abar) v: at the largest timestep sqrt(abar) is 0.068, and dividing by it
    would multiply every rounding error of half precision by 15. ``"sample"`` is z_0 itself.
    """
    with without_autocast(z_t):
        z_t, prediction = z_t.float(), prediction.float()
        if prediction_type == "sample":
            return prediction
        if prediction_type == "epsilon":
            z_0: Tensor = (z_t - (1 - abar) ** 0.5 * prediction) / abar**0.5
        else:
            z_0 = abar**0.5 * z_t - (1 - abar) ** 0.5 * prediction
    return z_0
