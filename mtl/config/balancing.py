"""The balancing methods and their settings. To add a method, register it (mtl/balancing) with its settings.

    METHODS.register("mine", "my_package.mine:Mine", MineSettings)

`Mine(number of tasks, settings)` is a mtl.balancing.method.Method, MineSettings a dataclass like those below. A module
named in MOTET_PLUGINS may do so too: see mtl/spec.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from mtl.config.setting import Choices, setting


@dataclass(frozen=True)
class DWASettings:
    temperature: float = setting(2.0, "Temperature of the softmax over tasks; higher is more even.", gt=0)


@dataclass(frozen=True)
class STCHSettings:
    smoothing: float = setting(0.1, "Smoothing mu; lower is nearer to the worst loss alone.", gt=0)


@dataclass(frozen=True)
class FAMOSettings:
    rate: float = setting(0.025, "Learning rate of the method's own weights.", gt=0)


@dataclass(frozen=True)
class GradNormSettings:
    asymmetry: float = setting(1.5, "Exponent alpha; higher gives slowly learned tasks more weight.", ge=0)
    rate: float = setting(0.025, "Learning rate of the method's own weights.", gt=0)


@dataclass(frozen=True)
class CAGradSettings:
    radius: float = setting(0.5, "Distance c of the step from the mean gradient, as a share of its length.", ge=0, lt=1)


@dataclass(frozen=True)
class FairGradSettings:
    fairness: float = setting(2.0, "Fairness alpha; 1 is proportional, higher is nearer to max-min.", ge=0.1)


METHODS = Choices(
    __name__,
    "METHODS",
    title="Balancing",
    key="method",
    default="static",
    description="How the tasks' losses or gradients are combined into one step; see mtl/balancing.",
)
METHODS.register("static", "mtl.balancing.losses:static")
METHODS.register("random", "mtl.balancing.losses:random")
METHODS.register("uncertainty", "mtl.balancing.losses:uncertainty")
METHODS.register("imtl_l", "mtl.balancing.losses:imtl_l")
METHODS.register("dwa", "mtl.balancing.losses:DWA", DWASettings)
METHODS.register("geometric_mean", "mtl.balancing.losses:geometric_mean")
METHODS.register("stch", "mtl.balancing.losses:stch", STCHSettings)
METHODS.register("famo", "mtl.balancing.losses:FAMO", FAMOSettings)
METHODS.register("gradnorm", "mtl.balancing.gradients:GradNorm", GradNormSettings)
METHODS.register("mgda", "mtl.balancing.gradients:mgda")
METHODS.register("pcgrad", "mtl.balancing.gradients:pcgrad")
METHODS.register("gradvac", "mtl.balancing.gradients:GradVac")
METHODS.register("cagrad", "mtl.balancing.gradients:CAGrad", CAGradSettings)
METHODS.register("imtl_g", "mtl.balancing.gradients:imtl_g")
METHODS.register("nash_mtl", "mtl.balancing.gradients:NashMTL")
METHODS.register("aligned_mtl", "mtl.balancing.gradients:aligned_mtl")
METHODS.register("upgrad", "mtl.balancing.gradients:upgrad")
METHODS.register("fairgrad", "mtl.balancing.gradients:FairGrad", FairGradSettings)
