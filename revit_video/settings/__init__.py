"""The settings of a run, with their defaults, units and limits; config.py reads them from YAML files.

`solver.base_lr` is the field `base_lr` of SolverConfig, and so on. Every class checks its values when it is
made, Config also what spans two groups, so one that exists makes sense. All are frozen; none reads files.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from revit_video.settings.augment import AugmentConfig, check_augment
from revit_video.settings.checks import check, one_of, within
from revit_video.settings.data import MISSING, DataConfig
from revit_video.settings.distributed import DistributedConfig
from revit_video.settings.logs import LogConfig
from revit_video.settings.model import ModelConfig
from revit_video.settings.routing import AssignerConfig, LabelsConfig, RouterConfig
from revit_video.settings.testing import ReportConfig, TestConfig
from revit_video.settings.training import ReViTConfig, SolverConfig
from revit_video.types import InputError

__all__ = [
    "MISSING",
    "AssignerConfig",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "DistributedConfig",
    "LabelsConfig",
    "LogConfig",
    "ModelConfig",
    "ReViTConfig",
    "ReportConfig",
    "RouterConfig",
    "SolverConfig",
    "TestConfig",
]

STAGES = ("all", "revit", "labels", "assigner", "test")
SMALLEST_PATCH = 4  # pixels a side; the longest token length may not cut a crop finer


@dataclass(frozen=True)
class Config:
    stage: str = "all"  # all | revit | labels | assigner | test
    output_dir: str = "output/run"
    seed: int = 0
    resume: bool | str = False  # go on with the run in output_dir; auto: if there is one, else start
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    dtype: str = "auto"  # auto | float32 | bfloat16 | float16
    num_threads: int = 0  # of torch on the CPU; 0: torch's default
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    revit: ReViTConfig = field(default_factory=ReViTConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    assigner: AssignerConfig = field(default_factory=AssignerConfig)
    router: RouterConfig = field(default_factory=RouterConfig)
    test: TestConfig = field(default_factory=TestConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        one_of(self, "stage", STAGES)
        check(self, "resume", self.resume in (False, True, "auto"), "true, false or auto")
        one_of(self, "dtype", ("auto", "float32", "bfloat16", "float16"))
        known = re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is not None
        check(self, "device", known, "auto, cpu, cuda or cuda:N")
        check(self, "output_dir", self.output_dir.strip(), "the name of a folder")
        within(self, 0, math.inf, "seed", "num_threads")
        longest, crop, most = self.model.token_lengths[0], self.data.crop, self.data.crop // SMALLEST_PATCH
        if longest > most:
            raise InputError(
                f"model.token_lengths starts with {longest}, but data.crop={crop} allows at most {most} "
                f"(patches of {SMALLEST_PATCH} px); give shorter lengths or a larger crop"
            )
        if self.labels.folds and self.data.leave_out:
            raise InputError(
                f"labels.folds={self.labels.folds} leaves out parts of the training list by itself; "
                f"leave data.leave_out={self.data.leave_out!r} out"
            )
        costs = self.distributed.length_costs
        if costs and len(costs) != len(self.model.token_lengths):
            raise InputError(
                f"distributed.length_costs has {len(costs)} numbers, but model.token_lengths "
                f"{len(self.model.token_lengths)}; give one for each length, longest first"
            )
        check_augment(self.augment, self.data, batch_size=self.solver.batch_size)
