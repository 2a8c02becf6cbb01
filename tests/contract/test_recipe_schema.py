"""The library's recipe and the job spec's recipe are one contract written twice."""

from app.core import spec
from worker.pruning import recipe
from worker.pruning.removal.recipe import Structure


def test_the_library_takes_exactly_the_recipe_of_the_job_spec() -> None:
    assert recipe.Recipe.model_json_schema() == spec.Recipe.model_json_schema()


def test_the_library_takes_exactly_the_structure_of_the_job_spec() -> None:
    assert Structure.model_json_schema() == spec.Structure.model_json_schema()
