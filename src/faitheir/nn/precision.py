"""Where float32 must stay float32."""

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> torch.autocast:
    """A context in which autocast does not touch what is computed on the device of ``x``."""
    # Tensors on "meta", which have shapes only and are there to be counted, know no autocast.
    return torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False)
