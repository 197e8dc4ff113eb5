"""Which classifiers a demo loads, and how many of them are in memory."""

from collections.abc import Sequence
from threading import Lock

from captum_globenc.errors import LoadingError
from captum_globenc.texts.classes import VALUE, class_names, problem_of
from captum_globenc.texts.loading import Classifier, load_classifier

__all__ = ["Classifiers"]

KEPT_MODELS = 2


class Classifiers:
    """The classifiers that were used last; "" is the first that the demo was started with.

    Args:
        models: Those that the demo was started with; none are the embedded one.
        any_model: Whether any other is loaded for whoever asks for it.
    """

    def __init__(self, models: Sequence[str], any_model: bool) -> None:
        last = [model.rstrip("/").rpartition("/")[2] for model in models]
        # Where a model lies on this machine is nobody's business, if its last name tells it from others.
        names = last if len(set(last)) == len(models) else models
        self.offered = dict(zip(names, models, strict=True))
        self._any_model = any_model
        self._kept: dict[str, Classifier] = {}
        self._lock = Lock()

    def __contains__(self, name: str) -> bool:
        return not name or name in self.offered or name in self._kept

    def __call__(self, name: str) -> Classifier:
        """Return the classifier of a name, loaded anew unless it was used lately.

        Raises:
            LoadingError: It is not offered, or cannot be loaded.
        """
        refusal = self.refusal(name)
        if refusal:
            raise LoadingError(refusal)
        name = self._full(name)
        with self._lock:
            found = self._kept.pop(name, None)
            if found is None:
                while len(self._kept) >= KEPT_MODELS:  # ahead of loading, so that no more are ever there
                    del self._kept[next(iter(self._kept))]
                found = load_classifier(name or None)
            self._kept[name] = found
        return found

    def classes(self, name: str) -> list[str]:
        """Return the names of the classes of a classifier; none where it gives a value.

        Raises:
            LoadingError: As where it is called.
        """
        config = self(name).model.config
        return [] if problem_of(config) == VALUE else class_names(config)

    def refusal(self, name: str) -> str:
        """Return why a name is neither looked up nor loaded; "" where it may be."""
        if not name or name in self.offered or self._any_model:
            return ""
        known = ", ".join(self.offered) or "its own model"
        return f"this demo shows {known} only; who runs it can allow others (--any-model)"

    @property
    def first(self) -> str:
        """The name of the first that the demo was started with; "" for the embedded one."""
        return next(iter(self.offered), "")

    def _full(self, name: str) -> str:
        return self.offered.get(name or self.first, name)
