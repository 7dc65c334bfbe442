"""Methods and datasets in a user's own script, without the runner: a plain Lightning Trainer is all it takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from bench import registry, suite
from bench import trial as trial_module

README = Path(__file__).resolve().parents[1] / "README.md"


def pairs() -> list[tuple[str, str]]:
    """Each method of the suite `all` with each of its datasets, without trials that build on another one."""
    found = [
        (trial.method, trial.dataset)
        for trial in suite.trials(
            suite.load("all"), suite.Narrowing(profile="smoke", seeds=[0]), trial_module.Places()
        )
        if not trial.needs
    ]
    return list(dict.fromkeys(found))


def trainer(folder: Path, **options: object) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


@pytest.mark.parametrize(("name", "dataset"), pairs())
def test_any_method_fits_and_tests_with_a_plain_trainer(
    name: str, dataset: str, cache: Path, tmp_path: Path
) -> None:
    cls = registry.find("method", name).load()
    settings = cls.profiles["smoke"]
    data = registry.dataset(dataset)(
        cache=cache,
        batch_size=2,
        **{key.removeprefix("data."): value for key, value in settings.items() if key.startswith("data.")},
    )
    method = cls(data.spec, **cls.profile("smoke"))
    run = trainer(tmp_path, max_epochs=1, limit_train_batches=2, limit_val_batches=1, limit_test_batches=2)
    if cls.recipe.max_steps != 0:
        run.fit(method, data)
    (scores,) = run.test(method, data, verbose=False)
    assert f"test/{cls.task.primary().name}" in scores
    batch = next(iter(data.test_dataloader()))
    method.eval()
    with torch.no_grad():
        pictures = cls.task.draw(method.predict(batch), batch, data.spec)
    assert pictures
    assert all(picture.ndim == 3 and picture.shape[2] == 3 for picture in pictures)


def test_the_readme_example_runs(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = next(
        code for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "trainer.fit" in code
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datamodules.base.DEFAULT_CACHE", cache)
    shortened = example.replace("max_epochs=3", "max_epochs=1, limit_train_batches=1, limit_test_batches=1")
    assert shortened != example
    scope: dict[str, object] = {}
    exec(shortened, scope)
    method = scope["method"]
    assert isinstance(method, pl.LightningModule)
    assert "miou" in method.scores["test"]  # type: ignore[operator]
