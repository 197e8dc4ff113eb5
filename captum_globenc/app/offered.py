"""Which models a demo loads, and how many of them are in memory."""

from collections.abc import Sequence
from threading import Lock

from captum_globenc.errors import LoadingError
from captum_globenc.texts.classes import VALUE, class_names, problem_of
from captum_globenc.texts.loading import Classifier, load_model
from captum_globenc.texts.tasks import TASKS, task_name, task_of

__all__ = ["Classifiers"]

KEPT_MODELS = 2


class Classifiers:
    """Load models by name and keep the ones that were used last; "" is the first that the demo offers.

    Args:
        models: Folders or hub names of the models that the demo offers; none for the embedded classifier.
        any_model: Whether visitors may load any other model.
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
        """Return the model of a name, for the task that its files name; load it unless it is in memory.

        Raises:
            LoadingError: The model is not offered, cannot be loaded, or is for a task that is not explained.
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
                found = load_model(name or None)
                check_shown(found, name)
            self._kept[name] = found
        return found

    def classes(self, name: str) -> list[str]:
        """Return the names of a model's classes; none for a regression and for tasks without classes.

        Raises:
            LoadingError: The model is not offered, or cannot be loaded.
        """
        model = self(name).model
        if task_name(model) != TASKS[-1].name:
            return []
        config = model.config
        return [] if problem_of(config) == VALUE else class_names(config)

    def refusal(self, name: str) -> str:
        """Return why a name is neither looked up nor loaded; "" where it may be."""
        if not name or name in self.offered or self._any_model:
            return ""
        known = ", ".join(self.offered) or "its own model"
        return f"this demo shows {known} only; who runs it can allow others (--any-model)"

    def loaded(self, name: str) -> Classifier | None:
        """Return the model of a name if it is in memory; load nothing."""
        return self._kept.get(self._full(name))

    @property
    def first(self) -> str:
        """The name of the first that the demo was started with; "" for the embedded one."""
        return next(iter(self.offered), "")

    def _full(self, name: str) -> str:
        return self.offered.get(name or self.first, name)


def check_shown(found: Classifier, name: str) -> None:
    """Check that the page can show the task of a model.

    Raises:
        LoadingError: The model generates text.
    """
    if task_of(found.model).generates:
        raise LoadingError(
            f"{name} generates text, which the demo does not show: use captum-globenc explain --model {name} "
            "--html page.html"
        )
