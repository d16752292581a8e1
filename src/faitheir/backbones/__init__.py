"""Who supplies the VAE and the denoising network: `nano` (ours, compact) or `turbo` (SD-Turbo)."""
