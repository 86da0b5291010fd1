"""Torch's random functions drawn from a generator of one's own.

torchvision and Kornia draw from torch's global generators. To seed those for a call and put
them back afterwards would still be seen by every other thread meanwhile: a training loop's
dropout, another loading thread. So each call that draws is handed a generator instead, in this
thread only; the global ones are neither read nor moved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_DRAWS = {
    *("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"),
    *("bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_"),
    *("random_", "uniform_", "_standard_gamma", "_sample_dirichlet", "binomial"),
}
# These take no generator: they are drawn as what they are short for.
_ALIKE: dict[str, Callable[..., Tensor]] = {
    "rand_like": torch.rand,
    "randn_like": torch.randn,
    "randint_like": torch.randint,
}


class Seeded(TorchFunctionMode):
    """Within it, whatever this thread draws with torch comes from generators of this seed.

    Args:
        seed: 64 bits.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = int(seed) & 0xFFFFFFFFFFFFFFFF
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls `func`; gives it a generator where it draws."""
        given = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in _ALIKE and isinstance(args[0], Tensor):
            like = args[0]
            given.setdefault("dtype", like.dtype)
            given.setdefault("device", like.device)
            given.pop("memory_format", None)
            given["generator"] = self.generator(given["device"])
            return _ALIKE[name](*args[1:], size=like.shape, **given)
        if name in _DRAWS and given.get("generator") is None:
            device = given.get("device")
            if device is None:
                device = next((each.device for each in args if isinstance(each, Tensor)), "cpu")
            given["generator"] = self.generator(device)
        return func(*args, **given)

    def generator(self, device: torch.device | str) -> torch.Generator:
        """Returns this seed's generator of a device."""
        device = torch.device(device)
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]
