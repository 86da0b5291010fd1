"""Training on PyTorch Lightning (extra `train`): networks, data, the callback, `train`."""
