"""Every option of every stage, with its default, unit and bounds: one frozen dataclass per stage.

Precedence: these defaults < ``--config FILE.yaml`` < flags (or keyword arguments in Python).
"""

from mlx_persona.config.common import DEFAULT_MODEL, MODEL_HELP
from mlx_persona.config.data import (
    AUGMENT_TASKS,
    CSV_COLUMNS,
    SOURCES,
    AugmentConfig,
    CanariesConfig,
    CleanConfig,
    PairsConfig,
    ReviewConfig,
)
from mlx_persona.config.evaluating import EvalConfig
from mlx_persona.config.experiments import SWEEP_MEASURES, SWEEP_PRESETS, SweepConfig, VerdictsConfig
from mlx_persona.config.measuring import (
    BenchConfig,
    BlocksBenchConfig,
    CleanBenchConfig,
    DataBenchConfig,
    DemoConfig,
    DoctorConfig,
    DpoBenchConfig,
    GenerateBenchConfig,
    LossBenchConfig,
    PhaseBenchConfig,
)
from mlx_persona.config.training import DpoConfig, PlanConfig, SftConfig
from mlx_persona.config.use import (
    ChartsConfig,
    CompareConfig,
    FuseConfig,
    GenerateConfig,
    ReportConfig,
    ShowConfig,
    WatchConfig,
)

__all__ = [
    "AUGMENT_TASKS",
    "CSV_COLUMNS",
    "DEFAULT_MODEL",
    "MODEL_HELP",
    "SOURCES",
    "SWEEP_MEASURES",
    "SWEEP_PRESETS",
    "AugmentConfig",
    "BenchConfig",
    "BlocksBenchConfig",
    "CanariesConfig",
    "ChartsConfig",
    "CleanBenchConfig",
    "CleanConfig",
    "CompareConfig",
    "DataBenchConfig",
    "DemoConfig",
    "DoctorConfig",
    "DpoBenchConfig",
    "DpoConfig",
    "EvalConfig",
    "FuseConfig",
    "GenerateBenchConfig",
    "GenerateConfig",
    "LossBenchConfig",
    "PairsConfig",
    "PhaseBenchConfig",
    "PlanConfig",
    "ReportConfig",
    "ReviewConfig",
    "SftConfig",
    "ShowConfig",
    "SweepConfig",
    "VerdictsConfig",
    "WatchConfig",
]
