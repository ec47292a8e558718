"""The recipe: rules between settings, union of models, every shipped recipe valid."""

from pathlib import Path

import pytest

from pipeline.config import HkaferSettings, Recipe, load_recipe
from preprocessing.config import ConfigError, validate

RECIPES = sorted((Path(__file__).parents[2] / "jobs" / "recipes").glob("*.yaml"))
DATA = {"preprocess": {"dataset": {"root": "clips"}}}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert path.stem.startswith(recipe.model.name) or path.stem.startswith("demo")


def test_model_is_chosen_by_name_and_its_faults_name_no_internal_tag() -> None:
    recipe = validate(Recipe, DATA | {"model": {"name": "hkafer", "scales": [2, 4]}})
    assert isinstance(recipe.model, HkaferSettings)
    with pytest.raises(ConfigError) as caught:
        validate(Recipe, DATA | {"model": {"name": "hdf", "dept": 3}})
    assert caught.value.faults == ["model.dept = 3: unknown key; did you mean 'depths'?"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": {"frames": 64}}, "data.frames = 64 exceeds preprocess.sampling.frames"),
        ({"optim": {"epochs": 2, "warmup_epochs": 2}}, "optim.warmup_epochs"),
        ({"optim": {"lr": 1e-6}}, "optim.min_lr"),
        ({"data": {"val_share": 0}}, "run.select_on = 'val' needs data.val_share > 0"),
        ({"model": {"name": "hkafer", "scales": [8, 4]}}, "strictly rising"),
        ({"model": {"name": "hdf", "depths": [1]}}, "must name the same stages"),
    ],
)
def test_rules_between_settings(change: dict, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Recipe, DATA | change)
    assert words in str(caught.value)


def test_recipe_survives_yaml() -> None:
    recipe = validate(Recipe, DATA | {"model": {"name": "hkafer"}})
    assert validate(Recipe, recipe.model_dump(mode="json")) == recipe
