"""What an interrupted fit leaves, and how it is taken up."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from augpipe.errors import DataError, UsageError, first_sentence
from augpipe.tensors import load_tree, save_tree


class Resumable:
    """A fit whose state is kept in its folder: the same call goes on from there.

    Attributes:
        folder: Where state.safetensors is.
        about: What decides the fit, to tell another's state by.
        plain: The names of what is kept beside tensors.
    """

    folder: Path
    about: dict[str, Any]
    plain: ClassVar[tuple[str, ...]] = ()

    @property
    def parts(self) -> dict[str, Any]:
        """What has a `state_dict`, by name."""
        raise NotImplementedError

    @property
    def _kept(self) -> Path:
        return self.folder / "state.safetensors"

    def go_on(self) -> None:
        """Takes up what an interrupted fit has left.

        Raises:
            UsageError: It is of another fit.
            DataError: It is no whole state.
        """
        if not self._kept.exists():
            return
        state, _ = load_tree(self._kept)
        if state.get("about") != self.about:
            raise UsageError(
                f"{self.folder}: holds another fit: finish or remove it, or name another out"
            )
        try:
            for name, each in self.parts.items():
                each.load_state_dict(state[name])
            for name in self.plain:
                setattr(self, name, state[name])
        except (KeyError, ValueError, RuntimeError) as error:
            why = f"is not a whole state: {first_sentence(error)}; remove it to begin anew"
            raise DataError(self._kept, why) from None

    def keep(self) -> None:
        """Writes the state."""
        state = {name: each.state_dict() for name, each in self.parts.items()}
        own = {name: getattr(self, name) for name in self.plain}
        save_tree(self._kept, {"about": self.about, **state, **own})
