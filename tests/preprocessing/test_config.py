"""Settings: overrides, and every fault at once with path, value and nearest key."""

from pathlib import Path

import pytest

from preprocessing.config import ConfigError, PreprocessSettings, load


def faults(path: Path, text: str, *overrides: str) -> list[str]:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(PreprocessSettings, path, overrides)
    assert str(path) in str(caught.value)
    return caught.value.faults


def test_overrides_replace_values_and_keep_their_types(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("dataset: {root: clips}\nsampling: {frames: 8}\n")
    settings = load(PreprocessSettings, recipe, ["sampling.frames=4", "faces.min_score=1e-1", "dataset.root=a=b"])
    assert (settings.sampling.frames, settings.faces.min_score, settings.dataset.root) == (4, 0.1, "a=b")


def test_all_faults_come_together_with_path_value_and_nearest_key(tmp_path: Path) -> None:
    found = faults(tmp_path / "r.yaml", "dataset: {rot: x}\nfaces: {crop_px: 7}\nsampling: {frames: many}\n")
    assert len(found) == 4
    assert "dataset.rot = 'x': unknown key; did you mean 'root'?" in found
    assert "dataset.root: is required and not set" in found
    assert any(f.startswith("faces.crop_px = 7: ") for f in found)
    assert any(f.startswith("sampling.frames = 'many': ") for f in found)


@pytest.mark.parametrize(
    ("text", "override", "words"),
    [
        ("dataset: {root: x}", "frames", "key.subkey=value"),
        ("dataset: {root: x}", "dataset.root.deep=1", "root is a plain value"),
        ("- a\n- b", "a=1", "mapping"),
        ("a: [1", "a=1", "not valid YAML"),
    ],
)
def test_malformed_input_is_named(tmp_path: Path, text: str, override: str, words: str) -> None:
    assert words in faults(tmp_path / "r.yaml", text, override)[0]


def test_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml.*\n.*cannot be read"):
        load(PreprocessSettings, tmp_path / "nowhere.yaml")
