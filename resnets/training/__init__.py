"""From a recipe to a trained model in a run folder.

Read them in this order:

- `recipe`: everything that defines a training, as typed data; `recipe_file` reads it from TOML.
- `objective`: what a network is trained for: batches, loss, test, card.
- `trainer`: the step, with `schedule` (learning rate), `optimizers`, `averages` (what is tested
  instead of the last weights), `hardware` (precision, compiler, kernels) and `cuda_graph`.
- `run`: one execution of a recipe: updates, tests, checkpoints, result; `run_folder` has its files.
- `signals`: the analysis of that name in the course of a training.
"""
