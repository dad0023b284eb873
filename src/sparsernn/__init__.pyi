from sparsernn import (
    core as core,
)
from sparsernn import (
    data as data,
)
from sparsernn import (
    deploy as deploy,
)
from sparsernn import (
    gradients as gradients,
)
from sparsernn import (
    kernels as kernels,
)
from sparsernn import (
    models as models,
)
from sparsernn import (
    nn as nn,
)
from sparsernn import (
    optim as optim,
)
from sparsernn import (
    report as report,
)
from sparsernn import (
    runs as runs,
)
from sparsernn import (
    sparsity as sparsity,
)
from sparsernn import (
    structure as structure,
)
from sparsernn import (
    tasks as tasks,
)
from sparsernn.core.errors import InputError as InputError
from sparsernn.deploy import compact as compact
from sparsernn.deploy import pack as pack
from sparsernn.deploy import runtime as runtime
from sparsernn.deploy import unpack as unpack
from sparsernn.deploy.graph_export import export as export
from sparsernn.experiments import compare as compare
from sparsernn.experiments import load as load
from sparsernn.experiments import sweep as sweep
from sparsernn.experiments import train as train
from sparsernn.optim import NTASGD as NTASGD
from sparsernn.runs.recipe import Recipe as Recipe
from sparsernn.runs.recipe import list_recipes as list_recipes
from sparsernn.runs.recipe import load_recipe as load_recipe
from sparsernn.sparsity import prune as prune
from sparsernn.sparsity import sparsify as sparsify
from sparsernn.structure.gates import gate_blocks as gate_blocks

__version__: str
__all__: list[str]
