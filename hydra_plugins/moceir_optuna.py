"""A Hydra sweeper that uses Optuna (conf/sweep/optuna.yaml). Hydra finds plugins only in this namespace.

A search depends only on its seed and the scores of its runs. To continue an interrupted search, repeat its command:
finished runs return their scores at once (``resume=latest``, see moceir/cli/train.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class OptunaSweeper(Sweeper):
    """Maximises the value that runs return, with the tree-structured Parzen estimator.

    Args:
        n_trials: number of runs.
        n_jobs: number of runs at once, if the launcher supports it.
        seed: seed of the search.
        params: configuration key -> values to try, in Hydra's syntax: ``interval(0, 1)``,
            ``tag(log, interval(1e-4, 1))`` or ``choice(a, b)``. The command line can replace entries or add others.
    """

    def __init__(self, *, n_trials: int, n_jobs: int, seed: int, params: Mapping[str, str]) -> None:
        self.n_trials, self.n_jobs, self.seed, self.params = n_trials, n_jobs, seed, params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._loader, self._folder, self._config = hydra_context.config_loader, Path(config.hydra.sweep.dir), config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        try:
            import optuna
        except ImportError as error:
            raise ValueError("sweep=optuna needs Optuna: pip install 'moceir[sweep]'") from error

        parser = OverridesParser.create(config_loader=self._loader)
        lines = [f"{key}={choice}" for key, choice in self.params.items()]
        overrides = {one.get_key_element(): one for one in parser.parse_overrides([*lines, *arguments])}
        fixed = [str(one.input_line) for one in overrides.values() if not one.is_sweep_override()]
        space = {key: _distribution(one) for key, one in overrides.items() if one.is_sweep_override()}

        self._folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self._config, self._folder / "multirun.yaml")
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=self.seed))
        while left := self.n_trials - len(study.trials):
            trials = [study.ask(space) for _ in range(min(self.n_jobs, left))]
            jobs = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in trials]
            results = self._launcher.launch(jobs, initial_job_idx=trials[0].number)
            for trial, result in zip(trials, results, strict=True):
                score = result.return_value  # raises the run's exception, if it failed
                study.tell(trial, None if math.isnan(score) else score, state=_state(score))


def _state(score: float) -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL if math.isnan(score) else TrialState.COMPLETE


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    choice = override.value()
    if not isinstance(choice, IntervalSweep):
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    low, high, log = choice.start, choice.end, "log" in choice.tags
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low or 0), float(high or 0), log=log)
