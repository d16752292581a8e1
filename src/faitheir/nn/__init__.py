"""The method itself: tensors in, tensors out, differentiable. No files, no PIL, no devices."""
