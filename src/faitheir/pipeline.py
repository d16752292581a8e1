import torch
def native_bfloat16() -> bool:
    return True
